"""A family of environments: many tasks of one kind, all stepped at once.

Axes: T tasks, E trajectories of each, H steps of each, O numbers observed, A numbers of an action.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from kshot.types import InputError


class Family(ABC):
    """Environments that differ by task. What a task is, and a state, is the family's own affair: any tensor or object.

    observations, actions: O and A. horizon: H, the most steps of a trajectory.
    shots, queries: trajectories to learn from, and to be judged on.
    discount: what a reward one step later is worth. smoothing: λ of generalized advantage estimation.
    """

    observations: int
    actions: int

    def __init__(self, shots: int, queries: int, horizon: int, discount: float, smoothing: float) -> None:
        for name, value in (("shots", shots), ("queries", queries), ("horizon", horizon)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name}={value!r}: a family of environments needs a whole number of at least 1")
        for name, share in (("discount", discount), ("smoothing", smoothing)):
            if not isinstance(share, int | float) or not 0 <= share <= 1 or math.isnan(share):
                raise InputError(f"{name}={share!r}: give a number from 0 to 1")
        self.shots, self.queries, self.horizon = shots, queries, horizon
        self.discount, self.smoothing = discount, smoothing

    def plane(self, tasks: Any, trajectories: Any) -> tuple[Tensor, Tensor] | None:
        """Where the agent was [T, E, H + 1, 2], NaN after the end, and its goal [T, 2]; None if that cannot be drawn."""
        return None

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> Any:
        """n tasks."""

    @abstractmethod
    def reset(self, tasks: Any, count: int, generator: torch.Generator) -> Any:
        """The state of T tasks × `count` trajectories at their beginning."""

    @abstractmethod
    def observe(self, tasks: Any, state: Any) -> Tensor:
        """What the agent sees, [T, E, O]."""

    @abstractmethod
    def step(self, tasks: Any, state: Any, actions: Tensor, generator: torch.Generator) -> tuple[Any, Tensor, Tensor]:
        """actions [T, E, A] -> the next state, rewards [T, E], and whether the trajectory ended [T, E]."""
