"""Adaptation by gradient: the one inner loop, in every way to differentiate through it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import torch

from kshot.functional import Params
from kshot.hypergradients import Hypergradient, Objective, hypergradient
from kshot.rules import Rule
from kshot.types import InputError


def unroll(
    objective: Objective, params: Params, rule: Rule, steps: int, how: str | Hypergradient = "unrolled"
) -> Params:
    """The parameters after `steps` updates of `rule` on objective(params, step), differentiable in all that these depend on.

    objective: any function of the parameters; it may use other tensors, and these get their gradients too.
    how: what the gradient makes of the steps; see kshot.hypergradients.
    """
    if not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps={steps!r}: unroll takes a whole number of at least 1")
    return last(hypergradient(how).descend(objective, params, rule, steps))


def last(path: Iterable[Params]) -> Params:
    """The others go as soon as they are passed by."""
    return deque(path, maxlen=1).pop()


def unused(objective: Objective, params: Params) -> list[str]:
    """Names of parameters that the objective does not depend on: their inner gradient would be a silent zero."""
    with torch.enable_grad():
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        value = objective(leaves, 0)
        if not value.requires_grad:
            return list(leaves)
        grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return [name for name, g in zip(leaves, grads, strict=True) if g is None]
