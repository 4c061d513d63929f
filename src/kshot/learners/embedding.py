"""What the learners that compare embedded examples share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kshot.functional import BatchNormPolicy, call, check_batch_norm, uses_batch_statistics
from kshot.learner import Criterion, MetaLearner, named_loss
from kshot.types import Batch, InputError, check_support


class EmbeddingLearner(MetaLearner):
    """Runs `encoder`, any nn.Module, unmodified; None compares the inputs themselves.

    batch_norm: 'batch' or 'running' statistics for batch norms that keep running ones.
    """

    def __init__(
        self, encoder: nn.Module | None, batch_norm: BatchNormPolicy, loss: Criterion | str = cross_entropy
    ) -> None:
        super().__init__()
        if encoder is not None:
            check_batch_norm(encoder, batch_norm)
        self.encoder, self.batch_norm, self.criterion = encoder, batch_norm, named_loss(loss)

    def encode(self, x: Tensor) -> Tensor:
        """x [S, *features] -> what the encoder makes of it."""
        return x if self.encoder is None else call(self.encoder, {}, x, self.batch_norm)

    def embed(self, x: Tensor) -> Tensor:
        """x [S, *features] -> [S, D]."""
        return self.encode(x).flatten(1)

    def ways(self, support: Batch) -> int:
        """The number of classes, after the support was checked."""
        check_support(support)
        if support.ways is None:
            raise InputError(
                f"{type(self).__name__} needs classes and this task has none: give Batch(x, y, ways=N) with class numbers"
            )
        return support.ways

    def like_encoder(self) -> None:
        """The layers that a learner adds, as its encoder's are: their kind of number, and their device."""
        if (like := next(self.encoder.parameters(), None) if self.encoder is not None else None) is not None:
            self.to(like)

    @property
    def transductive(self) -> bool:
        return self.encoder is not None and uses_batch_statistics(self.encoder, self.batch_norm)


def width(encoder: nn.Module) -> int:
    """D, the number of features that an encoder gives; for learners that build a network on top of it."""
    features = getattr(encoder, "features", None)
    if isinstance(features, int):
        return features
    layers = [m for m in encoder.modules() if isinstance(m, nn.Linear)] if isinstance(encoder, nn.Module) else []
    if layers:
        return layers[-1].out_features
    raise InputError(
        f"how many features the encoder {type(encoder).__name__} gives is not known: set encoder.features to that number"
    )
