"""A gradient from values alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from kshot.functional import Params
from kshot.hypergradients.captured import replaced, together
from kshot.hypergradients.hypergradient import Objective, StepByStep, constant_gradient
from kshot.types import InputError


@dataclass(frozen=True)
class Evolution(StepByStep):
    """The gradient of the loss smoothed by a normal of deviation `sigma`, from `pairs` of values at θ ± σε.

    Salimans, Ho, Chen, Sidor, Sutskever 2017; for MAML Song et al. 2020 (ES-MAML). The loss needs no gradient, and where
    inner='evolution' the inner steps do not need one either.
    """

    sigma: float = 0.05
    pairs: int = 16
    inner: Literal["gradient", "evolution"] = "gradient"

    def __post_init__(self) -> None:
        if not isinstance(self.sigma, int | float) or not self.sigma > 0:
            raise InputError(f"sigma={self.sigma!r}: the perturbation needs a deviation above 0, such as 0.05")
        if not isinstance(self.pairs, int) or self.pairs < 1:
            raise InputError(f"pairs={self.pairs!r}: give a whole number of at least 1")
        if self.inner not in ("gradient", "evolution"):
            raise InputError(f"inner={self.inner!r} is not known: choose 'gradient' or 'evolution'")

    def gradient(self, objective: Objective, params: Params, step: int, steps: int) -> tuple[Params, Tensor]:
        if self.inner == "gradient":
            return constant_gradient(objective, params, step)
        names, own = list(params), [p.detach() for p in params.values()]

        def value(tensors: list[Tensor]) -> Tensor:
            return objective(dict(zip(names, tensors, strict=True)), step)

        with torch.no_grad():
            return dict(zip(names, self.estimate(value, own), strict=True)), value(own)

    silent_gradient = gradient

    def loss(self, value: Callable[[], Tensor], parameters: list[Tensor]) -> Tensor:
        def at(moved: list[Tensor]) -> Tensor:
            return replaced(value, parameters, moved)()

        with torch.no_grad():
            here, slope = value(), self.estimate(at, parameters)
        found: Tensor = _Slope.apply(here, len(slope), *together(slope), *parameters)  # type: ignore[no-untyped-call]
        return found

    def estimate(self, value: Callable[[list[Tensor]], Tensor], at: list[Tensor]) -> list[Tensor]:
        found = [torch.zeros_like(p) for p in at]
        for _ in range(self.pairs):
            noise = [torch.randn_like(p) for p in at]
            up, down = (value([p + s * self.sigma * e for p, e in zip(at, noise, strict=True)]) for s in (1, -1))
            found = [g + (up - down) / (2 * self.sigma * self.pairs) * e for g, e in zip(found, noise, strict=True)]
        return found


class _Slope(torch.autograd.Function):
    """A value whose gradient is known."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, count: int, *tensors: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[2 : 2 + inputs[1]])

    @staticmethod
    def backward(ctx: Any, by: Tensor) -> tuple[Tensor | None, ...]:
        slope = ctx.saved_tensors
        return (None, None, *[None] * len(slope), *[by * g for g in slope])
