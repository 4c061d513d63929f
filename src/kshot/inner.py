"""Adaptation by gradient, and the ways to differentiate through it.

`descend` is the one inner loop. What the meta-gradient makes of it is its `hypergradient`:

  unrolled     the exact derivative through every step, second order included
  first-order  inner gradients count as constants (∂φ/∂θ = I for plain SGD); learned rules still get their gradient
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor

from kshot.functional import Params, twice_differentiable
from kshot.rules import Rule
from kshot.types import InputError, inside_transform

Hypergradient = Literal["unrolled", "first-order"]
Objective = Callable[[Params, int], Tensor]  # (parameters, step) -> scalar


def descend(objective: Objective, params: Params, rule: Rule, steps: int, hypergradient: Hypergradient) -> list[Params]:
    """The parameters after 0, 1, …, steps updates of `rule` on `objective`."""
    gradient = _GRADIENTS[hypergradient]
    state = rule.init(params)
    path = [params]
    for step in range(steps):
        grads, value = gradient(objective, params, step)
        params, state = rule.step(params, grads, rule.observe(state, value))
        path.append(params)
    return path


def check_hypergradient(name: str) -> None:
    if name not in _GRADIENTS:
        raise InputError(f"hypergradient={name!r} is not known: choose one of {', '.join(get_args(Hypergradient))}")


def unused(objective: Objective, params: Params) -> list[str]:
    """Names of parameters that the objective does not depend on: their inner gradient would be a silent zero."""
    with torch.enable_grad():
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        value = objective(leaves, 0)
        if not value.requires_grad:
            return list(leaves)
        grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return [name for name, g in zip(leaves, grads, strict=True) if g is None]


def _unrolled(objective: Objective, params: Params, step: int) -> tuple[Params, Tensor]:
    if not torch.is_grad_enabled():
        return _first_order(objective, params, step)
    with twice_differentiable():
        return _gradient(objective, params, step, differentiable=True)


def _first_order(objective: Objective, params: Params, step: int) -> tuple[Params, Tensor]:
    constant = {name: p.detach() for name, p in params.items()}
    return _gradient(objective, constant, step, differentiable=False)


def _gradient(objective: Objective, params: Params, step: int, differentiable: bool) -> tuple[Params, Tensor]:
    """∇objective at params, and its value. Inside vmap only torch.func.grad will do; outside, plain autograd costs half."""
    if inside_transform():
        with nullcontext() if differentiable else torch.no_grad():  # which silences the outer loop, not torch.func.grad
            found: tuple[Params, Tensor] = torch.func.grad_and_value(objective)(params, step)
        return found
    with torch.enable_grad():
        start = {name: p if p.requires_grad else p.detach().requires_grad_() for name, p in params.items()}
        value = objective(start, step)
        grads = torch.autograd.grad(value, list(start.values()), create_graph=differentiable, allow_unused=True)
    found_or_zero = (torch.zeros_like(p) if g is None else g for p, g in zip(params.values(), grads, strict=True))
    return dict(zip(params, found_or_zero, strict=True)), value if differentiable else value.detach()


_GRADIENTS: dict[str, Callable[[Objective, Params, int], tuple[Params, Tensor]]] = {
    "unrolled": _unrolled,
    "first-order": _first_order,
}
