"""The derivative through the steps as they were taken, all of them, none of them, or the last few."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kshot.functional import Params
from kshot.hypergradients.hypergradient import Objective, StepByStep, constant_gradient, gradient
from kshot.types import InputError


@dataclass(frozen=True)
class Unrolled(StepByStep):
    """Exact: the graph of every step is kept. Finn, Abbeel, Levine 2017."""

    def gradient(self, objective: Objective, params: Params, step: int, steps: int) -> tuple[Params, Tensor]:
        return gradient(objective, params, step, differentiable=True)


@dataclass(frozen=True)
class FirstOrder(StepByStep):
    """Inner gradients count as constants, so that ∂φ/∂θ = I for plain SGD; learned rules still get their gradient."""

    def gradient(self, objective: Objective, params: Params, step: int, steps: int) -> tuple[Params, Tensor]:
        return constant_gradient(objective, params, step)


@dataclass(frozen=True)
class Truncated(StepByStep):
    """Exact through the last `last` steps, first-order before them. Shaban, Cheng, Hatch, Boots 2019."""

    last: int

    def __post_init__(self) -> None:
        if not isinstance(self.last, int) or self.last < 0:
            raise InputError(
                f"truncated:{self.last} needs a whole number, of the last steps to go through: give 'truncated:5'"
            )

    def gradient(self, objective: Objective, params: Params, step: int, steps: int) -> tuple[Params, Tensor]:
        way = Unrolled() if step >= steps - self.last else FirstOrder()
        return way.gradient(objective, params, step, steps)
