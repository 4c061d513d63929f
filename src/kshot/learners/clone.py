"""The loop that people know: clone the learner, adapt the clone to a loss, use it, backward."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kshot.functional import Params, twice_differentiable
from kshot.hypergradients import FirstOrder, Hypergradient, Unrolled, hypergradient
from kshot.types import InputError

if TYPE_CHECKING:
    from kshot.learners.gradient import GradientLearner


class Clone:
    """A learner in the middle of one task. It moves by the learner's own rule, on any loss of what it computed.

    params: the adapted parameters as they are now; steps: how often it was adapted. Gradients flow through them to the
    learner, as its hypergradient says. The learner itself never changes.
    """

    def __init__(self, learner: GradientLearner, params: Params, state: Any = None, steps: int = 0) -> None:
        self.learner, self.steps = learner, steps
        # Tensors of its own, equal to the learner's, so that what was computed from which is seen in the graph. Where a
        # start is no parameter, such as CAVIA's context of zeros, it begins to ask for gradients here.
        with torch.enable_grad():
            leaves = {name: p if p.requires_grad else p.detach().requires_grad_() for name, p in params.items()}
            self.params = {name: p.view_as(p) for name, p in leaves.items()}
        self.state = learner.rule.init(self.params) if state is None else state
        self._past: set[Any] = set()  # the graph's nodes of the parameters of earlier steps

    def __call__(self, *inputs: Any, method: str | None = None, **named: Any) -> Any:
        """The model, or one of its methods, on the parameters as they are now."""
        with twice_differentiable() if torch.is_grad_enabled() else nullcontext():
            return self.learner.run(self.fitted, *inputs, method=method, **named)

    @property
    def fitted(self) -> Params:
        """What learner.predict takes."""
        return self.learner.at_step(self.params, self.steps)

    def adapt(self, loss: Tensor, *, first_order: bool | None = None, allow_unused: bool | None = None) -> None:
        """One step of the rule down `loss`, a scalar of what this clone computed since it last moved.

        first_order: take its gradient as a constant; the default is the learner's hypergradient.
        allow_unused: accept adapted parameters that the loss does not depend on; the default is the learner's.
        """
        self._check(loss)
        if first_order is None:
            first_order = isinstance(self._way(), FirstOrder)
        grads = torch.autograd.grad(
            loss, list(self.params.values()), create_graph=not first_order, retain_graph=True, allow_unused=True
        )
        idle = [name for name, g in zip(self.params, grads, strict=True) if g is None]
        if idle and not (self.learner.allow_unused if allow_unused is None else allow_unused):
            raise InputError(
                f"the loss does not depend on {', '.join(map(repr, idle))}: leave them out with adapted=[…], freeze them with "
                "requires_grad_(False), or pass allow_unused=True, here or to the learner, to let them stay put"
            )
        found = {
            name: torch.zeros_like(p) if g is None else g
            for (name, p), g in zip(self.params.items(), grads, strict=True)
        }
        self._past |= self._nodes()
        state = self.learner.rule.observe(self.state, loss.detach() if first_order else loss)
        self.params, self.state = self.learner.rule.step(self.params, found, state)
        self.steps += 1

    def _way(self) -> Hypergradient:
        """The learner's hypergradient; a loop of one's own has a graph of each step, or none."""
        way = hypergradient(self.learner.hypergradient)
        if not isinstance(way, Unrolled | FirstOrder):
            raise InputError(
                f"hypergradient={self.learner.hypergradient!r} is of a whole inner loop, and a clone takes one step at a time: "
                "build the learner with 'unrolled' or 'first-order', give first_order=, or take kshot.unroll"
            )
        return way

    def clone(self) -> Clone:
        """Another that goes on from here on its own; gradients flow through it to this one."""
        return Clone(self.learner, self.params, self.state, self.steps)

    def parameters(self) -> list[Tensor]:
        """The adapted parameters as they are now."""
        return list(self.params.values())

    def _nodes(self) -> set[Any]:
        return {p.grad_fn for p in self.params.values() if p.grad_fn is not None}

    def _check(self, loss: object) -> None:
        """Raise InputError for a loss that cannot move the parameters; warn of a part of it that is of an earlier step."""
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise InputError(f"adapt takes the loss, a scalar tensor, and was given {found}: reduce it, as by .mean()")
        if not torch.is_grad_enabled():
            raise InputError(
                "adapt was called under torch.no_grad(), where there is no gradient to step along: call it outside. To evaluate "
                "without the cost of a second derivative, adapt with first_order=True and detach() what comes out"
            )
        if loss.grad_fn is None:
            raise InputError(
                "the loss has no gradient: compute it from what the clone returns, outside torch.no_grad() and without detach()"
            )
        now, past = self._reached(loss.grad_fn)
        if not now and past:
            raise InputError(
                f"the loss was computed before the last adapt, from the parameters of an earlier step than step {self.steps}: "
                "compute it anew from what the clone returns now"
            )
        if not now:
            raise InputError(
                "the loss does not depend on this clone's parameters: compute it from what this clone returns, not from "
                "the model or from another clone"
            )
        if past:
            warnings.warn(
                f"a part of the loss was computed before the last adapt: it does not count in step {self.steps + 1}. Compute "
                "it anew from what the clone returns now, or detach() it if it is meant as a constant",
                stacklevel=3,
            )

    def _reached(self, end: Any) -> tuple[bool, bool]:
        """Whether the graph leads to the parameters as they are now, and, passing those by, to those of an earlier step."""
        current, seen, todo = self._nodes(), {end}, [end]
        now = past = False
        while todo:
            node = todo.pop()
            if node in current:
                now = True
                continue
            if node in self._past:
                past = True
                continue
            for following, _ in node.next_functions:
                if following is not None and following not in seen:
                    seen.add(following)
                    todo.append(following)
        return now, past
