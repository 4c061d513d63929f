"""MetaLearner: what learns to learn. A learner writes adapt and predict for ONE task; vectorize.py adds the task axis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from kshot.types import Batch, InputError, Task, one_hot

Criterion = Callable[[Tensor, Tensor], Tensor]


def mse_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean squared error, written so that every order and mode of differentiation passes (F.mse_loss does not)."""
    return (outputs - y).square().mean()


def squared_scores(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean over queries and classes of (σ(score) − [right])²: what relation networks are trained by."""
    return (outputs.sigmoid() - one_hot(y, outputs.shape[1]).to(outputs.dtype)).square().mean()


# The losses that a recipe can name and a saved learner can carry; any callable serves from Python.
LOSSES: dict[str, Criterion] = {"cross_entropy": F.cross_entropy, "mse": mse_loss, "squared_scores": squared_scores}


def named_loss(loss: Criterion | str) -> Criterion:
    """The loss of a name; a function stays what it is, but for F.mse_loss, which not every mode can differentiate."""
    if callable(loss):
        return mse_loss if loss is F.mse_loss else loss
    name = loss
    if name not in LOSSES:
        raise InputError(
            f"loss {name!r} is not known: choose one of {', '.join(LOSSES)}, or give a function (outputs, y)"
        )
    return LOSSES[name]


class MetaLearner(nn.Module, ABC):
    """Its parameters are the meta-parameters. adapt, predict and loss are pure: they change neither module nor data.

    criterion: (outputs, y) -> scalar.
    seen, validated: the identities of the classes that it was trained on, and of those that its best weights were chosen by;
    evaluation refuses to meet them again.
    features: the shape of one example of its training, such as (1, 28, 28).
    progress: the share of its training that is done; `fit` says so before each outer step, for losses that change with it.
    These compute with it, for a compiled step has it as a tensor, and decide by `stage` alone.
    """

    criterion: Criterion
    seen: frozenset[str] = frozenset()
    validated: frozenset[str] = frozenset()
    features: tuple[int, ...] | None = None
    _share = 1.0
    _recorded_share: Tensor | None = None

    @property
    def progress(self) -> float | Tensor:
        return self._share if self._recorded_share is None else self._recorded_share

    @progress.setter
    def progress(self, share: float) -> None:
        self._share = share

    @property
    def stage(self) -> Any:
        return self.stage_at(self._share)

    def stage_at(self, progress: float) -> Hashable:
        """What the loss decides by its progress, such as that it is early; a step is compiled for each stage."""
        return None

    @abstractmethod
    def adapt(self, support: Batch) -> Any:
        """What this learner makes of a few examples: fast weights, prototypes, a context… any pytree."""

    @abstractmethod
    def predict(self, fitted: Any, x: Tensor) -> Tensor:
        """Logits [Q, N] or values [Q, *targets] for new inputs x [Q, *features]."""

    def loss(self, task: Task) -> Tensor:
        """The scalar whose gradient is the meta-gradient of this task."""
        return self.judge(self.predict(self.adapt(task.support), task.query.x), task.query)

    def forward(self, support: Batch, x: Tensor) -> Tensor:
        """Learn from the support, predict x."""
        return self.predict(self.adapt(support), x)

    def trajectory(self, support: Batch, steps: int) -> list[Any]:
        """What was fitted after 0, 1, … steps; a learner that does not learn in steps has one entry."""
        return [self.adapt(support)]

    def check(self, tasks: Task) -> None:
        """Before an outer step, with its tasks: raise InputError where this learner cannot be trained on them, for what
        `loss` cannot see under vmap."""
        return None

    def meet(self, tasks: object) -> None:
        """Before the first step of its first training `fit` calls this: parts that have a `meet` see all training examples."""
        parts = [part for part in self.modules() if part is not self and hasattr(part, "meet")]
        examples = getattr(tasks, "examples", None)
        if parts and examples is not None:
            every: Tensor = examples()
            for part in parts:
                cast(Any, part).meet(every)

    def compact(self) -> MetaLearner:
        """What adapting needs: itself, or of a learner with parts that training alone uses, a copy without them."""
        return self

    def track(self, tasks: Task) -> None:
        """After an outer step `fit` shows its tasks: here, and nowhere else, may a learner's buffers move."""
        return None

    @property
    def transductive(self) -> bool:
        """Whether the prediction for one query example depends on the others."""
        return False

    @property
    def class_symmetric(self) -> bool:
        """Whether renumbering the classes of a task renumbers its predictions and changes nothing else."""
        return True

    @property
    def order_free(self) -> bool:
        """Whether the order of the support examples does not matter."""
        return True

    def judge(self, outputs: Tensor, batch: Batch) -> Tensor:
        """criterion(outputs, y), after the shapes (known even under vmap) were found to fit."""
        if batch.ways is not None and (outputs.ndim != 2 or outputs.shape[1] < batch.ways):
            raise InputError(
                f"the model gives outputs of shape {tuple(outputs.shape)} for a {batch.ways}-way task of "
                f"{len(batch)} examples, needed ({len(batch)}, {batch.ways}): build the model with outputs={batch.ways}"
            )
        if batch.ways is not None and self.criterion in (mse_loss, F.mse_loss):
            raise InputError(
                f"a {batch.ways}-way task is judged by the squared error, which needs values: give loss='cross_entropy' "
                "(from Python torch.nn.functional.cross_entropy)"
            )
        if batch.ways is None and self.criterion is F.cross_entropy and (outputs.ndim < 2 or outputs.shape[1] < 2):
            raise InputError(
                f"the model gives outputs of shape {tuple(outputs.shape)} for a task of values, and cross_entropy needs "
                "logits for each class: give loss='mse' (from Python kshot.learner.mse_loss)"
            )
        if batch.ways is None and outputs.shape != batch.y.shape:
            raise InputError(
                f"the model gives outputs of shape {tuple(outputs.shape)} for targets of shape {tuple(batch.y.shape)}: "
                "make the two alike, broadcasting would hide a mistake"
            )
        return self.criterion(outputs, batch.y)


def check_learner(learner: object) -> None:
    """Raise InputError for what cannot adapt, such as a plain model."""
    if not hasattr(learner, "adapt"):
        raise InputError(
            f"a MetaLearner is needed, found a {type(learner).__name__}: give one, such as kshot.MAML(model)"
        )
