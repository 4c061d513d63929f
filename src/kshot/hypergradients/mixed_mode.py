"""Each step's gradient without its graph; what the outer loop needs of its derivative is taken where it is asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kshot.functional import Params, twice_differentiable
from kshot.hypergradients.captured import Captured, replaced, together
from kshot.hypergradients.checkpoint import by_segments
from kshot.hypergradients.hypergradient import Objective, StepByStep, gradient_and_value
from kshot.rules import Rule
from kshot.types import InputError, first_line

Gradient = Any  # (tensors of the parameters, other tensors) -> (value, gradients in all of them)


class _ByParts(StepByStep):
    """The backward pass of a step needs ∂(vᵀ∇L), for one v: `second` gives it from the gradient function alone."""

    def gradient(self, objective: Objective, params: Params, step: int, steps: int) -> tuple[Params, Tensor]:
        seen, names = Captured(), list(params)

        def watched(tensors: tuple[Tensor, ...]) -> Tensor:
            return seen.run(lambda *own: objective(dict(zip(names, own, strict=True)), step), *tensors)

        with torch.no_grad():
            grads, value = gradient_and_value(watched, tuple(params.values()))
        others, again = seen.tensors, seen.again(objective)

        def pure(own: tuple[Tensor, ...], rest: tuple[Tensor, ...]) -> Tensor:
            return replaced(again, others, rest)(dict(zip(names, own, strict=True)), step)

        known = together([value, *grads])
        value, *found = _Step.apply(self, pure, len(names), *known, *params.values(), *others)  # type: ignore[no-untyped-call]
        return dict(zip(names, found, strict=True)), value

    @abstractmethod
    def second(self, gradients: Any, own: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> Any:
        """The derivative of gradients(own), any pytree, when `own` moves along `along`."""


class _Step(torch.autograd.Function):
    """A step's gradients and value, which are known already, as functions of the parameters and of all else they depend on."""

    generate_vmap_rule = True

    @staticmethod
    def forward(way: _ByParts, pure: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.clone() for t in tensors[: 1 + count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.way, ctx.pure, ctx.count = inputs[:3]
        ctx.save_for_backward(*inputs[4 + ctx.count :])

    @staticmethod
    def backward(ctx: Any, by_value: Tensor, *along: Tensor) -> tuple[Tensor | None, ...]:
        start = 4 + ctx.count
        own, rest = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        wanted = [i for i in range(len(own) + len(rest)) if ctx.needs_input_grad[start + i]]

        def gradients(own: tuple[Tensor, ...]) -> list[Tensor]:
            tensors = [*own, *rest]

            def value(chosen: list[Tensor]) -> Tensor:
                full = list(tensors)
                for i, t in zip(wanted, chosen, strict=True):
                    full[i] = t
                found: Tensor = ctx.pure(tuple(full[: ctx.count]), tuple(full[ctx.count :]))
                return found

            return gradient_and_value(value, [tensors[i] for i in wanted], moving=True)[0]

        with twice_differentiable():
            first, second = ctx.way.second(gradients, own, along)
        found: list[Tensor | None] = [None] * (start + len(own) + len(rest))
        for i, one, two in zip(wanted, first, second, strict=True):
            found[start + i] = two + by_value * one
        return tuple(found)


@dataclass(frozen=True)
class MixedMode(_ByParts):
    """Exact, forward over reverse: a step keeps its parameters and no graph.

    Kemaev, Calian, Zintgraf, Farquhar, van Hasselt 2025, Scalable Meta-Learning via Mixed-Mode Differentiation.
    every: keep the parameters of every so many steps alone, and take the steps between again on the way back.
    """

    every: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.every, int) or self.every < 1:
            raise InputError(f"mixed-mode:{self.every} needs a whole number of steps: give 'mixed-mode:5'")

    def descend(self, objective: Objective, params: Params, rule: Rule, steps: int) -> Iterator[Params]:
        if self.every == 1:
            return super().descend(objective, params, rule, steps)
        return by_segments(self, self.every, objective, params, rule, steps)

    def second(self, gradients: Any, own: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> Any:
        try:
            return torch.func.jvp(gradients, (own,), (along,))
        except RuntimeError as error:
            if "forward AD" not in str(error) and "derivative for" not in str(error):
                raise
            raise InputError(
                f"hypergradient='mixed-mode' needs derivatives forward over reverse, and torch has none for a part of this loss "
                f"({first_line(error)}): take 'checkpoint:1', which is as exact and as small"
            ) from error


@dataclass(frozen=True)
class FiniteDifference(_ByParts):
    """Each second derivative from two gradients, `size` apart. Liu, Simonyan, Yang 2019 (DARTS); Choe et al. 2023 (SAMA).

    size: how long the perturbation is, in all parameters together; the error falls with its square, until rounding.
    """

    size: float = 0.01

    def __post_init__(self) -> None:
        if not isinstance(self.size, int | float) or not self.size > 0:
            raise InputError(f"size={self.size!r}: the perturbation needs a length above 0, give a number such as 0.01")

    def second(self, gradients: Any, own: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> Any:
        norm = torch.stack([v.square().sum() for v in along]).sum().sqrt()
        eps = self.size / norm.clamp(min=torch.finfo(norm.dtype).tiny)
        up = gradients(tuple(p + eps * v for p, v in zip(own, along, strict=True)))
        down = gradients(tuple(p - eps * v for p, v in zip(own, along, strict=True)))
        first = [(a + b) / 2 for a, b in zip(up, down, strict=True)]
        return first, [(a - b) / (2 * eps) for a, b in zip(up, down, strict=True)]
