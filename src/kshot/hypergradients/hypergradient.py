"""What the meta-gradient makes of the inner steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree

from kshot.functional import Params, twice_differentiable
from kshot.hypergradients.beneath import Beneath
from kshot.rules import Rule

T = TypeVar("T")
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
    """By torch.autograd wherever that goes, else by torch.func, which costs more."""
    if not Beneath.reachable():
        # no_grad silences the outer loop, not torch.func.
        with twice_differentiable() if differentiable else torch.no_grad():
            return gradient_and_value(lambda p: objective(p, step), params)
    vmap, attention = Beneath(), sdpa_kernel(SDPBackend.MATH) if differentiable else nullcontext()
    with torch.enable_grad(), attention:
        at = [vmap.leaf(p) for p in params.values()]
        value = objective(dict(zip(params, map(vmap.above, at), strict=True)), step)
        found = vmap.grad(value, at, create_graph=differentiable)
    return dict(zip(params, map(vmap.above, found), strict=True)), value if differentiable else value.detach()


def gradient_and_value(function: Callable[[T], Tensor], at: T, moving: bool = False) -> tuple[T, Tensor]:
    """torch.func.grad_and_value, which makes a graph of the gradient, and keeps all until it is done, also where nobody asks.

    Where gradients are off, this one makes no such graph, and lets go of the forward pass on its way back.
    moving: whether torch.func.jvp differentiates the gradient.
    """
    grads, (value,) = pulled_back(lambda p: [function(p)], at, [None], moving)
    return grads, value


def pulled_back(
    function: Callable[[T], Sequence[Tensor]], at: T, along: Sequence[Tensor | None], moving: bool = False
) -> tuple[T, Sequence[Tensor]]:
    """Σ along · ∂function/∂at, and the function's values; torch.func.vjp with the memory of gradient_and_value."""
    further = torch.is_grad_enabled()

    def both(at: T) -> tuple[Sequence[Tensor], T]:
        leaves, spec = _pytree.tree_flatten(at)
        ends = function(at)
        used = [(end, v) for end, v in zip(ends, along, strict=True) if end.requires_grad]
        if not used:
            return ends, _pytree.tree_map(torch.zeros_like, at)
        graph = further or (moving and any(_takes_short_cuts(end) for end, _ in used))
        settings = {"create_graph": graph, "allow_unused": True, "materialize_grads": True}
        grads = torch.autograd.grad([end for end, _ in used], leaves, [v for _, v in used], **settings)
        return ends, _pytree.tree_unflatten(grads, spec)

    found: Any = torch.func.vjp(both, at, has_aux=True)  # for its level, where autograd may work: it is not pulled back
    return found[2], found[0]


# Their derivatives have, for when no graph of the gradient is made, a kernel without a derivative of its own or, worse, a formula
# that takes what was saved for a constant.
_SHORT_CUTS = {"Silu", "Mish", "Logit", "NativeGroupNorm", "Cumprod", "LinalgDet", "LinalgSlogdet", "LinalgSolveEx"}


def _takes_short_cuts(value: Tensor) -> bool:
    passed, ahead = set(), [value.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in passed:
            continue
        passed.add(node)
        if node.name().partition("Backward")[0] in _SHORT_CUTS:
            return True
        ahead += [further for further, _ in node.next_functions]
    return False
