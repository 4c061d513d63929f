"""Without meta-learning: what every comparison needs beside it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from kshot.functional import BatchNormPolicy, Params, parameters, select
from kshot.hypergradients import Hypergradient
from kshot.learner import Criterion
from kshot.learners.clone import Clone
from kshot.learners.embedding import width
from kshot.learners.gradient import GradientLearner
from kshot.rules import Rule
from kshot.types import Batch, InputError, Task, check_whole, is_concrete


class MultiTask(GradientLearner):
    """One model for all tasks: pre-trained on the examples of all of them together, then tuned on a task's support.

    The baseline 'pretrained' of Finn, Abbeel, Levine 2017. Its labels are those of the tasks, so it is for regression, or for
    classes that keep their numbers over tasks; else take Finetune.
    """

    through_steps = False

    def __init__(self, model: nn.Module, **choices: Any) -> None:
        super().__init__(model, **{"hypergradient": "first-order", **choices})
        self.refuse_learned_rule()

    def loss(self, task: Task) -> Tensor:
        examples = task.examples
        return self.judge(self.predict(self.start(), examples.x), examples)


class _Classifier(nn.Module):
    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width(encoder), classes)
        if (like := next(encoder.parameters(), None)) is not None:
            self.head.to(like)

    def embed(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.encoder(x)
        return embedded.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(x))
        return logits


class Finetune(GradientLearner):
    """Pre-train to tell all classes apart, in the ordinary way; for a task, tune a new head on the support.

    Chen, Liu, Kira, Wang, Huang 2019, A Closer Look at Few-shot Classification (Baseline); strong, says Tian et al. 2020.
    encoder: any; a linear head on top of it tells the `classes` of the training tasks apart, which must say which these are
    (Task.classes, as Episodes does). adapt replaces it by one for the task's classes, at zero, and moves what `adapted`
    names: 'head.*', or '*' for the encoder too.
    """

    through_steps = False

    def __init__(
        self,
        encoder: nn.Module,
        *,
        classes: int,
        loss: Criterion | str = cross_entropy,
        rule: Rule | None = None,
        steps: int = 50,
        eval_steps: int | None = None,
        adapted: str | Sequence[str] = "head.*",
        hypergradient: str | Hypergradient = "first-order",
        batch_norm: BatchNormPolicy = None,
    ) -> None:
        check_whole("Finetune", classes=classes)
        self.classes = classes
        model = _Classifier(encoder, classes)
        super().__init__(
            model,
            loss=loss,
            rule=rule,
            steps=steps,
            eval_steps=eval_steps,
            adapted=adapted,
            hypergradient=hypergradient,
            batch_norm=batch_norm,
        )
        self.refuse_learned_rule()
        heads = {name for name in parameters(model) if name.startswith("head.")}
        if not heads <= super().start().keys():
            raise InputError(
                f"adapted={adapted!r} leaves a part of the head where it is, and Finetune makes a new one for every task: give "
                "'head.*', '*', or a list with 'head.*' in it"
            )

    @property
    def encoder(self) -> nn.Module:
        return self.model.get_submodule("encoder")

    def start(self, support: Batch | None = None) -> Params:
        params = super().start()
        if support is None:
            return params
        ways = support.ways
        if ways is None:
            raise InputError(
                "Finetune needs classes and this task has none: give Batch(x, y, ways=N), or take MultiTask"
            )
        return {name: p.new_zeros(ways, *p.shape[1:]) if name.startswith("head.") else p for name, p in params.items()}

    def descend(self, support: Batch, steps: int, way: Hypergradient, minibatches: int = 1) -> Iterator[Params]:
        if minibatches > 1 or not all(name.startswith("head.") for name in super().start()):
            return super().descend(support, steps, way, minibatches)
        x = self.run({}, support.x, method="embed")  # once, because the encoder stays

        def objective(params: Params, step: int) -> Tensor:
            return self.judge(linear(x, params["head.weight"], params["head.bias"]), support)

        return way.descend(objective, self.start(support), self.rule, steps)

    def check(self, tasks: Task) -> None:
        if tasks.classes is None:
            raise InputError(
                "the task does not say which of all classes it is of, and Finetune is trained to tell all apart: give "
                "Task(support, query, classes), as Episodes does"
            )
        if int(tasks.classes.max()) >= self.classes:
            raise InputError(
                f"the task is of class {int(tasks.classes.max())} and Finetune was built with classes={self.classes}: give the "
                "number of classes of the training tasks, which count from 0"
            )

    def loss(self, task: Task) -> Tensor:
        if is_concrete(task.support):
            self.check(task)
        assert task.classes is not None
        examples = task.examples
        logits = self.predict({}, examples.x)
        return self.criterion(logits, task.classes[examples.y])

    def clone(self, support: Batch | None = None) -> Clone:
        if support is None:
            raise InputError("Finetune makes a new head for a task's classes: give its support, clone(support)")
        return super().clone(support)

    def compact(self) -> Finetune:
        """Without the head of the training classes, which adapt replaces."""
        other = copy.deepcopy(self)
        other.classes, other.model = 1, _Classifier(other.encoder, 1).train(self.training)
        return other

    @property
    def class_symmetric(self) -> bool:
        return True


class Scratch(GradientLearner):
    """Training from scratch: the same random initial parameters for each task, and nothing was learned before.

    There is nothing to train in advance. steps: as many as training takes; the rule: such as kshot.rules.Adam(lr=0.01).
    """

    through_steps = False

    def __init__(self, model: nn.Module, *, steps: int = 100, **choices: Any) -> None:
        # A copy: it is frozen, and the user's own may be trained otherwise.
        super().__init__(copy.deepcopy(model), steps=steps, **{"hypergradient": "first-order", **choices})
        self.refuse_learned_rule()
        self.adapted = list(super().start())  # by name, because none of them is trained
        self.model.requires_grad_(False)

    def start(self, support: Batch | None = None) -> Params:
        params = parameters(self.model)
        return {name: params[name].detach() for name in select(params, self.adapted)}
