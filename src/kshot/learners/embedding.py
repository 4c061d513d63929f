"""What the learners that compare embedded examples share."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kshot.functional import BatchNormPolicy, batch_statistics, call, check_batch_norm, uses_batch_statistics
from kshot.learner import Criterion, MetaLearner, named_loss
from kshot.types import Batch, InputError, Task, check_support

TRACKED = 64  # examples of a task whose statistics are tracked
MOMENTUM = 0.05


class EmbeddingLearner(MetaLearner):
    """Runs `encoder`, any nn.Module, unmodified; None compares the inputs themselves.

    batch_norm, for batch norms that keep running statistics: 'batch' uses those of the batch at hand, 'running' the stored
    ones, and 'tracked' those of the batch in training and afterwards their average, so that queries are predicted alone.
    """

    def __init__(
        self, encoder: nn.Module | None, batch_norm: BatchNormPolicy, loss: Criterion | str = cross_entropy
    ) -> None:
        super().__init__()
        if encoder is not None:
            check_batch_norm(encoder, batch_norm, tracks=True)
        self.encoder, self.batch_norm, self.criterion = encoder, batch_norm, named_loss(loss)

    def encode(self, x: Tensor) -> Tensor:
        """x [S, *features] -> what the encoder makes of it."""
        return x if self.encoder is None else call(self.encoder, {}, x, self.statistics)

    @property
    def statistics(self) -> BatchNormPolicy:
        """Which ones batch norms use now."""
        if self.batch_norm == "tracked":
            return "batch" if self.training else "running"
        return self.batch_norm

    def track(self, tasks: Task) -> None:
        """The mean over the tasks, whichever ranks hold them. Some examples of each tell enough, for little."""
        if self.batch_norm != "tracked" or self.encoder is None:
            return
        with torch.no_grad():
            seen: dict[str, Tensor] = {}
            for i in range(len(tasks)):
                x = torch.cat([tasks[i].support.x, tasks[i].query.x])
                for name, statistic in batch_statistics(self.encoder, {}, x[:: max(1, len(x) // TRACKED)]).items():
                    seen[name] = seen.get(name, 0) + statistic / len(tasks)
            for name, statistic in seen.items():
                steps = self.encoder.get_buffer(name.rpartition(".")[0] + ".num_batches_tracked")
                share = max(MOMENTUM, 1 / (int(steps) + 1))  # at first the mean of what there was
                self.encoder.get_buffer(name).lerp_(statistic, share)
            for module in {name.rpartition(".")[0] for name in seen}:
                self.encoder.get_buffer(module + ".num_batches_tracked").add_(1)

    def embed(self, x: Tensor) -> Tensor:
        """x [S, *features] -> [S, D], of single precision at least: under autocast the encoder's are not."""
        features = self.encode(x).flatten(1)
        return features.to(torch.promote_types(features.dtype, torch.float32))

    def of_embedded(self) -> EmbeddingLearner:
        """This learner, for examples that its encoder has been through."""
        twin = copy.copy(self)
        twin._modules = {**self._modules, "encoder": nn.Identity()}
        return twin

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
        return self.encoder is not None and uses_batch_statistics(self.encoder, self.statistics)


def in_full_precision(like: Tensor) -> torch.autocast:
    """No autocast within: what embedded examples are compared by, or a head solved from, needs more than three digits."""
    return torch.autocast(like.device.type, enabled=False)


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
