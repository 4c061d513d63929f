"""Context adaptation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kshot.functional import Params, run
from kshot.learners.gradient import GradientLearner
from kshot.types import Batch, InputError, check_whole


class CAVIA(GradientLearner):
    """A few context numbers move, from zero, in the inner loop; the network that reads them is shared by all tasks.

    Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson 2019, Fast Context Adaptation via Meta-Learning.
    Algorithm: φ ← 0; φ ← φ − α∇_φ L_support(θ, φ), `steps` times; θ ← θ − β∇_θ Σ L_query(θ, φ).
    at: the submodule whose output the context scales and shifts, channel by channel, by a learned linear map (FiLM, the
    paper's choice for images), such as 'body.2'; None adds the context to the model's inputs, as the paper does for
    vectors: the model then takes `context` more features (or, for images, channels). Differs: FiLM's scale is about 1.
    """

    def __init__(self, model: nn.Module, *, context: int = 5, at: str | None = None, **choices: Any) -> None:
        check_whole("CAVIA", context=context)
        if isinstance(model, nn.Module) and not any(True for _ in model.parameters()):
            raise InputError(
                f"CAVIA's model {type(model).__name__} has no parameters, and the outer loop is to train them: give a model that "
                "has, such as kshot.models.MLP"
            )
        if choices.get("adapted", "*") != "*":
            raise InputError(
                f"adapted={choices['adapted']!r}: in CAVIA the context moves and nothing else, leave it out"
            )
        self.context, self.at = context, at  # plain values, set first because the base class asks start()
        super().__init__(model, **choices)
        if at is not None:
            self.film = nn.Linear(context, 2 * _channels(model, at)).to(next(model.parameters()))

    def start(self, support: Batch | None = None) -> Params:
        like = next(self.model.parameters())
        return {"context": torch.zeros(self.context, dtype=like.dtype, device=like.device)}

    def run(self, fitted: Params, *inputs: Any, method: str | None = None, **named: Any) -> Any:
        context = fitted["context"]
        if self.at is None:
            return run(
                self.model,
                {},
                (_beside(inputs[0], context), *inputs[1:]),
                named,
                batch_norm=self.batch_norm,
                method=method,
            )
        scale, shift = self.film(context).chunk(2)  # [C] each
        with _modulated(self.model.get_submodule(self.at), 1 + scale, shift):
            return run(self.model, {}, inputs, named, batch_norm=self.batch_norm, method=method)


def _beside(x: Tensor, context: Tensor) -> Tensor:
    """x [B, F, ...] with the context as further features [B, F + C, ...]."""
    places = x.shape[2:]
    return torch.cat([x, context.reshape(1, -1, *[1] * len(places)).expand(len(x), -1, *places)], 1)


def _channels(model: nn.Module, at: str) -> int:
    """Of the outputs of a submodule: those of its last layer with parameters."""
    known = dict(model.named_modules())
    if at not in known:
        raise InputError(
            f"the model has no submodule {at!r} for the context: choose one of {', '.join(filter(None, known))}"
        )
    found = list(known[at].parameters())
    if not found:
        raise InputError(
            f"the submodule {at!r} has no parameters, so its channels are not known: choose the one before it"
        )
    return len(found[-1])


@contextmanager
def _modulated(module: nn.Module, scale: Tensor, shift: Tensor) -> Iterator[None]:
    """Inside, the outputs [B, C, ...] of the module are scaled and shifted by channel."""

    def film(_: nn.Module, __: Any, outputs: Tensor) -> Tensor:
        if outputs.ndim < 2 or outputs.shape[1] != len(scale):
            raise InputError(
                f"the context modulates {len(scale)} channels, and the submodule gives outputs of shape {tuple(outputs.shape)}: "
                "choose one, with at=, that ends in the layer whose channels are to be modulated, such as a block"
            )
        places = [1] * (outputs.ndim - 2)
        return outputs * scale.reshape(1, -1, *places) + shift.reshape(1, -1, *places)

    handle = module.register_forward_hook(film)
    try:
        yield
    finally:
        handle.remove()
