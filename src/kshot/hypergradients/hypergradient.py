"""What the meta-gradient makes of the inner steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kshot.functional import Params, twice_differentiable
from kshot.hypergradients.beneath import Beneath
from kshot.rules import Rule

Objective = Callable[[Params, int], Tensor]  # (parameters, step) -> scalar


class Hypergradient(ABC):
    """A way to take the inner steps, which is also a way to differentiate through them.

    learns_rules: whether the rule's own parameters get a gradient.
    every_step: whether all parameters along the way carry it, and not the last alone.
    """

    learns_rules = True
    every_step = True

    @abstractmethod
    def descend(self, objective: Objective, params: Params, rule: Rule, steps: int) -> Iterator[Params]:
        """The parameters after 0, 1, …, steps updates of `rule` on `objective`."""

    def loss(self, value: Callable[[], Tensor], parameters: list[Tensor]) -> Tensor:
        """The outer loss, from a function that adapts and judges; for a way that must see all of it."""
        return value()


class StepByStep(Hypergradient):
    """Differs from others in the gradient of each inner step alone."""

    def descend(self, objective: Objective, params: Params, rule: Rule, steps: int) -> Iterator[Params]:
        state = rule.init(params)
        yield params
        for step in range(steps):
            take = self.gradient if torch.is_grad_enabled() else self.silent_gradient
            grads, value = take(objective, params, step, steps)
            params, state = rule.step(params, grads, rule.observe(state, value))
            yield params

    @abstractmethod
    def gradient(self, objective: Objective, params: Params, step: int, steps: int) -> tuple[Params, Tensor]:
        """∇objective at params, and its value."""

    def silent_gradient(self, objective: Objective, params: Params, step: int, steps: int) -> tuple[Params, Tensor]:
        """The same under torch.no_grad(), where nobody differentiates further."""
        return constant_gradient(objective, params, step)


def constant_gradient(objective: Objective, params: Params, step: int) -> tuple[Params, Tensor]:
    """∇objective and its value, as constants of the outer loop."""
    return gradient(objective, {name: p.detach() for name, p in params.items()}, step, differentiable=False)


def gradient(objective: Objective, params: Params, step: int, differentiable: bool) -> tuple[Params, Tensor]:
    """By torch.autograd wherever that goes, else by torch.func.grad, which costs more."""
    if not Beneath.reachable():
        with twice_differentiable() if differentiable else torch.no_grad():  # which silences the outer loop alone
            return torch.func.grad_and_value(objective)(params, step)
    vmap, attention = Beneath(), sdpa_kernel(SDPBackend.MATH) if differentiable else nullcontext()
    with torch.enable_grad(), attention:
        at = [vmap.leaf(p) for p in params.values()]
        value = objective(dict(zip(params, map(vmap.above, at), strict=True)), step)
        found = vmap.grad(value, at, create_graph=differentiable)
    return dict(zip(params, map(vmap.above, found), strict=True)), value if differentiable else value.detach()
