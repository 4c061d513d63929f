"""Adaptation by gradient: the one inner loop, in every way to differentiate through it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from kshot.functional import Params
from kshot.hypergradients import Hypergradient, Objective
from kshot.hypergradients import hypergradient as named
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
    return last(named(how).descend(objective, params, rule, steps))


def hypergradient(
    inner: Objective,
    outer: Callable[[Params], Tensor],
    params: Params,
    rule: Rule,
    steps: int,
    how: str | Hypergradient = "unrolled",
    *,
    of: Sequence[Tensor] = (),
) -> tuple[Tensor, Params, list[Tensor]]:
    """(outer(fitted), its gradient in params, and in each of the tensors `of`), where fitted is unroll(inner, params, …).

    of: what else the inner or the outer objective uses, such as the strength of a regularizer; zero where it does not.
    Unlike torch.autograd.grad of what `unroll` gives, this also serves 'evolution', which asks for the outer value itself.
    """
    way = named(how)
    at = {name: p if p.requires_grad else p.detach().requires_grad_() for name, p in params.items()}
    for t in of:
        if not t.requires_grad:
            raise InputError(
                f"a tensor of shape {tuple(t.shape)} in `of` has no gradient: give it requires_grad_() first"
            )
    wanted = [*at.values(), *of]
    value = way.loss(lambda: outer(unroll(inner, at, rule, steps, way)), wanted)
    if not value.requires_grad:
        raise InputError("the outer objective depends on none of these parameters: let it use what it is given")
    found = torch.autograd.grad(value, wanted, allow_unused=True)
    grads = [torch.zeros_like(t) if g is None else g for t, g in zip(wanted, found, strict=True)]
    return value.detach(), dict(zip(at, grads, strict=False)), grads[len(at) :]


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
