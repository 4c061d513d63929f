"""Segments of steps that are taken again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from kshot.functional import Params, twice_differentiable
from kshot.hypergradients.captured import Captured, replaced, together
from kshot.hypergradients.hypergradient import Hypergradient, Objective, StepByStep, gradient_and_value, pulled_back
from kshot.hypergradients.unrolled import FirstOrder, Unrolled
from kshot.rules import Rule
from kshot.types import InputError


@dataclass(frozen=True)
class Checkpoint(Hypergradient):
    """Exact, and keeps the parameters between segments of `every` steps; going back takes a segment's steps again.

    Chen, Xu, Zhang, Guestrin 2016, Training Deep Nets with Sublinear Memory Cost. About √steps is the least memory.
    """

    every: int

    def __post_init__(self) -> None:
        if not isinstance(self.every, int) or self.every < 1:
            raise InputError(
                f"checkpoint:{self.every} needs a whole number, of the steps of a segment: give 'checkpoint:5'"
            )

    def descend(self, objective: Objective, params: Params, rule: Rule, steps: int) -> Iterator[Params]:
        return by_segments(Unrolled(), self.every, objective, params, rule, steps)


def by_segments(
    way: StepByStep, every: int, objective: Objective, params: Params, rule: Rule, steps: int
) -> Iterator[Params]:
    """The steps of `way`; it keeps what stands between segments of `every` steps, and what is inside one at a time."""
    if not torch.is_grad_enabled():
        yield from FirstOrder().descend(objective, params, rule, steps)
        return
    yield params
    state = rule.init(params)
    for start in range(0, steps, every):
        taken = range(start, min(start + every, steps))
        path, state = _segment(way, objective, params, state, rule, taken)
        params = path[-1]
        yield from path


def _segment(
    way: StepByStep, objective: Objective, params: Params, state: Any, rule: Rule, taken: range
) -> tuple[list[Params], Any]:
    own, begin = _tensors((params, state))

    def walk(own: list[Tensor], gradient: Any, update: Any) -> tuple[list[Tensor], Any]:
        params, state = begin(own)
        path = []
        for step in taken:
            grads, value = gradient(params, step)
            params, state = update(params, grads, value, state)
            path.append(params)
        return _tensors((path, state))

    def update(params: Params, grads: Params, value: Tensor, state: Any) -> tuple[Params, Any]:
        return rule.step(params, grads, rule.observe(state, value))

    seen = Captured()

    def first(params: Params, step: int) -> tuple[Params, Tensor]:
        def watched(p: Params) -> Tensor:
            with twice_differentiable():  # as when it is taken again: other roundings would lead to other parameters
                return seen.run(objective, p, step)

        return gradient_and_value(watched, params)

    with torch.no_grad():
        ends, finish = walk(own, first, lambda *args: seen.run(update, *args))
    others, kept, again = seen.tensors, len(own), seen.again(walk)

    def pure(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        of = replaced(objective, others, tensors[kept:])
        gradient = lambda params, step: way.gradient(of, params, step, 0)  # noqa: E731
        return tuple(again(list(tensors[:kept]), gradient, replaced(update, others, tensors[kept:]))[0])

    found: tuple[list[Params], Any] = finish(_Segment.apply(pure, len(ends), *together(ends), *own, *others))  # type: ignore[no-untyped-call]
    return found


def _tensors(tree: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]]:
    """The tensors of a pytree, and how to put others in their places; the rest of it, such as counts, stays."""
    leaves, spec = _pytree.tree_flatten(tree)
    at = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def put(tensors: Sequence[Tensor]) -> Any:
        new = list(leaves)
        for i, t in zip(at, tensors, strict=True):
            new[i] = t
        return _pytree.tree_unflatten(new, spec)

    return [leaves[i] for i in at], put


class _Segment(torch.autograd.Function):
    """The ends of a segment, which are known already, as functions of its start and of all else they depend on."""

    generate_vmap_rule = True

    @staticmethod
    def forward(pure: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.clone() for t in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.pure, ctx.count = inputs[:2]
        ctx.save_for_backward(*inputs[2 + ctx.count :])

    @staticmethod
    def backward(ctx: Any, *along: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        wanted = [i for i in range(len(tensors)) if ctx.needs_input_grad[2 + ctx.count + i]]

        def ends(chosen: list[Tensor]) -> tuple[Tensor, ...]:
            full = list(tensors)
            for i, t in zip(wanted, chosen, strict=True):
                full[i] = t
            found: tuple[Tensor, ...] = ctx.pure(tuple(full))
            return found

        with twice_differentiable():
            grads, _ = pulled_back(ends, [tensors[i] for i in wanted], along)
        found: list[Tensor | None] = [None] * (2 + ctx.count + len(tensors))
        for i, g in zip(wanted, grads, strict=True):
            found[2 + ctx.count + i] = g
        return tuple(found)
