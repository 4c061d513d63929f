"""What the learners that adapt by gradient share: which parameters move, by which rule, how often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kshot.functional import (
    BatchNormPolicy,
    Params,
    check_batch_norm,
    parameters,
    run,
    select,
    uses_batch_statistics,
)
from kshot.hypergradients import Hypergradient, Objective
from kshot.hypergradients import hypergradient as named_hypergradient
from kshot.inner import last, unused
from kshot.learner import Criterion, MetaLearner, named_loss
from kshot.learners.clone import Clone
from kshot.rules import SGD, Rule
from kshot.types import Batch, InputError, Task, check_support, check_whole, is_concrete


class GradientLearner(MetaLearner):
    """Starts from the model's own parameters and moves the adapted ones by `rule` on the support's loss.

    model: any nn.Module, unmodified.
    loss: (outputs, y) -> scalar, or the name of one: 'cross_entropy', 'mse'.
    rule: how one step moves parameters; default SGD(lr=0.01).
    steps, eval_steps: inner steps in training, and in eval mode (default: the same).
    adapted: name patterns of the parameters that move: '*', 'head.*', '!body.*', or a list of them.
    hypergradient: what the outer gradient makes of the inner steps, a name or an object of kshot.hypergradients.
    batch_norm: 'batch' or 'running' statistics for batch norms that keep running ones.
    allow_unused: accept adapted parameters that the support's loss does not depend on (they then stay put).
    through_steps: whether the gradient of `loss` goes through the inner steps, so that the hypergradient matters.
    """

    through_steps = True

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: Criterion | str = cross_entropy,
        rule: Rule | None = None,
        steps: int = 1,
        eval_steps: int | None = None,
        adapted: str | Sequence[str] = "*",
        hypergradient: str | Hypergradient = "unrolled",
        batch_norm: BatchNormPolicy = None,
        allow_unused: bool = False,
    ) -> None:
        super().__init__()
        self._way = named_hypergradient(hypergradient)
        check_batch_norm(model, batch_norm)
        check_whole(type(self).__name__, steps=steps, eval_steps=steps if eval_steps is None else eval_steps)
        if rule is not None and not isinstance(rule, Rule):
            raise InputError(f"rule={rule!r} is not an inner rule: give one, such as kshot.rules.SGD(lr=0.1)")
        self.criterion = named_loss(loss)
        self.model, self.rule = model, rule if rule is not None else SGD(lr=0.01)
        self.steps, self.eval_steps = steps, eval_steps
        self.adapted = adapted if isinstance(adapted, str) else list(adapted)
        self.hypergradient, self.batch_norm, self.allow_unused = hypergradient, batch_norm, allow_unused
        self._all_used = allow_unused
        if not all(p.requires_grad for p in model.parameters()):
            self.adapted = list(self.start())  # by name, so that a saved learner still knows which ones were frozen
        self.rule.prepare(self.start(), steps)
        self.accept(hypergradient)

    def accept(self, hypergradient: str | Hypergradient) -> Hypergradient:
        """The hypergradient of this name, or InputError where this learner cannot be trained by it."""
        way = named_hypergradient(hypergradient)
        if not way.learns_rules and any(p.requires_grad for p in self.rule.parameters()):
            raise InputError(
                f"hypergradient={hypergradient!r} gives the rule's own parameters no gradient, and this rule learns: use a rule "
                "with learn=None, or another hypergradient, such as 'mixed-mode'"
            )
        return way

    @contextmanager
    def trying(self, hypergradient: str | Hypergradient | None = None, steps: int | None = None) -> Iterator[None]:
        """Inside, with another hypergradient or number of training steps, to compare; afterwards as it was."""
        before = self.hypergradient, self._way, self.steps
        chosen = self.hypergradient if hypergradient is None else hypergradient
        way, count = self.accept(chosen), self.steps if steps is None else steps
        check_whole(type(self).__name__, steps=count)
        self.hypergradient, self._way, self.steps = chosen, way, count
        try:
            yield
        finally:
            self.hypergradient, self._way, self.steps = before

    def start(self, support: Batch | None = None) -> Params:
        """The adapted parameters before the first step; frozen ones (requires_grad=False) never move."""
        params = parameters(self.model)
        return {name: params[name] for name in select((n for n, p in params.items() if p.requires_grad), self.adapted)}

    def adapt(self, support: Batch) -> Params:
        steps = self.steps if self.training or self.eval_steps is None else self.eval_steps
        return last(self.walk(support, steps))

    def trajectory(self, support: Batch, steps: int) -> list[Params]:
        return list(self.walk(support, steps))

    def walk(self, support: Batch, steps: int) -> Iterator[Params]:
        """What was fitted after 0, 1, …, steps updates."""
        check_support(support)
        if torch.is_inference_mode_enabled():  # which enable_grad does not lift, as it does no_grad
            raise InputError(
                f"{type(self).__name__} was to adapt under torch.inference_mode(), where there is no gradient to step along: "
                "adapt under torch.no_grad(), and predict under either"
            )
        return self.descend(support, steps, self._way)

    def descend(self, support: Batch, steps: int, way: Hypergradient, minibatches: int = 1) -> Iterator[Params]:
        """What was fitted after 0, 1, …, steps updates; each step sees the next of `minibatches` interleaved parts."""

        def objective(params: Params, step: int) -> Tensor:
            part = support[step % minibatches :: minibatches]
            return self.judge(self.predict(self.at_step(params, step), part.x), part)

        if minibatches > len(support):
            raise InputError(f"minibatches={minibatches} of {len(support)} examples: some would be empty, lower it")
        start = self.start(support)
        if not self._all_used and is_concrete(support):
            self._check_all_used(objective, start)
        path = way.descend(objective, start, self.rule, steps)
        return (self.at_step(params, step) for step, params in enumerate(path))

    def loss(self, task: Task) -> Tensor:
        return self._way.loss(lambda: self.outer(task), [p for p in self.parameters() if p.requires_grad])

    def outer(self, task: Task) -> Tensor:
        """How good what was fitted is; `loss` differentiates it as the hypergradient says."""
        return super().loss(task)

    def at_step(self, params: Params, step: int) -> Params:
        """The moved parameters, and what else depends on the step that they are at."""
        return params

    def predict(self, fitted: Params, x: Tensor) -> Tensor:
        outputs: Tensor = self.run(fitted, x)
        return outputs

    def run(self, fitted: Params, *inputs: Any, method: str | None = None, **named: Any) -> Any:
        """The model, or one of its methods, on fitted parameters."""
        return run(self.model, fitted, inputs, named, batch_norm=self.batch_norm, method=method)

    def clone(self, support: Batch | None = None) -> Clone:
        """For a loop of your own: a clone computes, adapts to any loss of what it computed, and computes again."""
        return Clone(self, self.start(support))

    def refuse_learned_rule(self) -> None:
        if any(True for _ in self.rule.parameters()):
            raise InputError(
                f"{type(self).__name__} has no meta-gradient, so it cannot train the rule's own parameters: use a rule with "
                "learn=None, or MAML"
            )

    @property
    def class_symmetric(self) -> bool:
        return False  # the head has initial weights of its own for each class

    def _check_all_used(self, objective: Objective, start: Params) -> None:
        with torch.random.fork_rng():  # dropout in this one extra pass must not shift the run's random numbers
            idle = unused(objective, start)
        if idle:
            raise InputError(
                f"the support's loss does not depend on {', '.join(map(repr, idle))}: leave them out with adapted=[…], "
                "freeze them with requires_grad_(False), or pass allow_unused=True to let them stay put"
            )
        self._all_used = True

    @property
    def transductive(self) -> bool:
        return uses_batch_statistics(self.model, self.batch_norm)
