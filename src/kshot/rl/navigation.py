"""Point navigation in the plane: the smallest family in which an agent must find out what its task is."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot.rl.family import Family
from kshot.rl.sampling import Trajectories
from kshot.types import InputError

SPEED, NEAR = 0.1, 0.01


class Navigation(Family):
    """A point starts in the middle of the unit square and is to reach a goal that it cannot see; a task is one goal.

    Finn, Abbeel, Levine 2017: goals uniform in [−0.5, 0.5]², observed is the position, an action is a velocity, each
    coordinate clipped to ±0.1; 100 steps, fewer when the goal is nearer than 0.01.
    reward: 'distance' (minus the distance to the goal, as in the authors' code and in those that follow it) or 'squared'
    (minus its square, as in the paper's text).
    """

    observations, actions = 2, 2

    def __init__(
        self,
        shots: int = 20,
        queries: int = 20,
        *,
        horizon: int = 100,
        discount: float = 0.99,
        smoothing: float = 0.97,
        reward: str = "distance",
    ) -> None:
        super().__init__(shots, queries, horizon, discount, smoothing)
        if reward not in ("distance", "squared"):
            raise InputError(f"reward={reward!r} is not known: choose 'distance' or 'squared'")
        self.reward = reward

    def with_shots(self, shots: int) -> Navigation:
        """The same tasks with another number of trajectories to learn from."""
        return Navigation(
            shots,
            self.queries,
            horizon=self.horizon,
            discount=self.discount,
            smoothing=self.smoothing,
            reward=self.reward,
        )

    def plane(self, tasks: Tensor, trajectories: Trajectories) -> tuple[Tensor, Tensor]:
        moved = trajectories.observations + trajectories.actions.clamp(-SPEED, SPEED)
        moved = moved.masked_fill(trajectories.alive.unsqueeze(-1) == 0, torch.nan)
        return torch.cat([trajectories.observations[:, :, :1], moved], 2), tasks

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Goals [T, 2]."""
        return torch.rand(n, 2, generator=generator) - 0.5

    def reset(self, tasks: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Positions [T, E, 2]."""
        return torch.zeros(len(tasks), count, 2, device=tasks.device)

    def observe(self, tasks: Tensor, state: Tensor) -> Tensor:
        return state

    def step(
        self, tasks: Tensor, state: Tensor, actions: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        state = state + actions.clamp(-SPEED, SPEED)
        distance = (state - tasks.unsqueeze(1)).norm(dim=-1)
        return state, -distance if self.reward == "distance" else -distance.square(), distance < NEAR
