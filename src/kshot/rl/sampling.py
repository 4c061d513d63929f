"""From environments to Batches: trajectories of a policy, and what each of their actions was worth.

Axes: T tasks, E trajectories of each, H steps of each, O numbers observed, A numbers of an action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from kshot.rl.advantages import advantages
from kshot.rl.family import Family
from kshot.types import Batch, InputError, Task
from kshot.vectorize import each_task


@runtime_checkable
class Actor(Protocol):
    """What a MetaLearner is besides, to act in environments: see PolicyMAML."""

    def unadapted(self) -> Any:
        """What is fitted before anything was seen."""
        ...

    def further(self, fitted: Any, support: Batch) -> Any:
        """One step from what was fitted, on trajectories that it made."""
        ...

    def act(self, outputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What `predict` gave [..., P] -> actions [..., A], and their log-probabilities [...]."""
        ...


@dataclass(frozen=True)
class Trajectories:
    """observations [T, E, H, O], actions [T, E, H, A], log_probabilities, rewards, alive [T, E, H].

    alive: 1 for the steps that were taken, 0 for those after the end; rewards are 0 there.
    """

    observations: Tensor
    actions: Tensor
    log_probabilities: Tensor
    rewards: Tensor
    alive: Tensor

    @property
    def returns(self) -> Tensor:
        """The sum of the rewards of each trajectory, not discounted [T, E]."""
        return self.rewards.sum(-1)

    def batch(self, discount: float, smoothing: float) -> Batch:
        """What a policy learns from: x [T, E · H, O], y [T, E · H, A + 2]; see learners/policy.py."""
        worth = advantages(self.observations, self.rewards, self.alive, discount, smoothing)
        y = torch.cat([self.actions, worth.unsqueeze(-1), self.log_probabilities.unsqueeze(-1)], -1)
        return Batch(self.observations.flatten(1, 2), y.flatten(1, 2))


@torch.no_grad()
def rollout(
    learner: Any, fitted: Any, family: Family, tasks: Any, count: int, generator: torch.Generator
) -> Trajectories:
    """`count` trajectories in each of T tasks. fitted: what the learner fitted to each, with a leading axis T."""
    state, steps = family.reset(tasks, count, generator), []
    alive: Tensor | None = None
    for _ in range(family.horizon):
        observed = family.observe(tasks, state)
        actions, log_probabilities = learner.act(each_task(learner.predict, fitted, observed), generator)
        state, rewards, ended = family.step(tasks, state, actions, generator)
        alive = torch.ones_like(rewards) if alive is None else alive
        steps.append((observed, actions, log_probabilities, rewards * alive, alive))
        alive = alive * ~ended
    return Trajectories(*(torch.stack(column, 2) for column in zip(*steps, strict=True)))


def draw(family: Family, n: int, generator: torch.Generator, device: torch.device) -> Any:
    """n tasks, their tensors on the device."""
    return _pytree.tree_map(lambda t: t.to(device) if isinstance(t, Tensor) else t, family.draw(n, generator))


def device_of(learner: nn.Module) -> torch.device:
    return next((p.device for p in learner.parameters()), torch.device("cpu"))


def collect(learner: Any, family: Family, tasks: Any, generator: torch.Generator) -> Task:
    """Trajectories of the policy before it has adapted to each task, and after."""
    before = rollout(learner, learner.unadapted(), family, tasks, family.shots, generator)
    support = before.batch(family.discount, family.smoothing)
    with torch.no_grad():
        fitted = each_task(learner.adapt, support)
    after = rollout(learner, fitted, family, tasks, family.queries, generator)
    return Task(support, after.batch(family.discount, family.smoothing))


def check_actor(learner: object, family: object) -> None:
    """Raise InputError unless the two belong together."""
    if not isinstance(family, Family):
        raise InputError(
            f"a family of environments is needed, found {type(family).__name__}: give one, such as kshot.rl.Navigation(), "
            "or use kshot.fit and kshot.evaluate, which take sources of tasks"
        )
    if not isinstance(learner, Actor):
        raise InputError(
            f"{type(family).__name__} is a family of environments and needs a learner that acts, found a "
            f"{type(learner).__name__}: give one, such as kshot.PolicyMAML (in a recipe policy-maml)"
        )
