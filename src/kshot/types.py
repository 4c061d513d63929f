"""The nouns that every other file speaks in: Batch, Task, TaskSource, and the error that tells a user what to mend.

Axes: T tasks, S support examples, Q query examples, N ways (classes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils import _pytree


def first_line(error: Exception) -> str:
    """What an error says, short enough for a sentence of ours."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".:")


class InputError(ValueError):
    """Wrong input: says what was found, what is needed and what to do."""


@dataclass(frozen=True)
class Batch:
    """Examples of one task, or, with a leading axis T, of many tasks.

    x: [S, *features]; y: [S] class numbers 0..ways-1, or [S, *targets] values when ways is None.
    `ways` is static: it does not change under vmap and has no gradient.
    """

    x: Tensor
    y: Tensor
    ways: int | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Batch:
        return Batch(self.x[index], self.y[index], self.ways)

    def to(self, device: torch.device | str) -> Batch:
        return Batch(self.x.to(device), self.y.to(device), self.ways)


@dataclass(frozen=True)
class Task:
    """Two Batches: learn from `support`, be judged on `query`.

    With a leading axis T it is a batch of tasks: `len(tasks)` counts them, `tasks[i]` is one, `tasks[a:b]` are some.
    classes: [N] int64, which of the source's classes each class number of this task stands for; None in regression, or where
    it is not known. No learner needs it to learn the task: it is for what looks at many tasks together.
    """

    support: Batch
    query: Batch
    classes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.support)

    def __getitem__(self, index: Any) -> Task:
        classes = self.classes if self.classes is None else self.classes[index]
        return Task(self.support[index], self.query[index], classes)

    @property
    def examples(self) -> Batch:
        """All of one task's, for who makes no difference between support and query."""
        s, q = self.support, self.query
        return Batch(torch.cat([s.x, q.x]), torch.cat([s.y, q.y]), s.ways)

    def to(self, device: torch.device | str) -> Task:
        classes = self.classes if self.classes is None else self.classes.to(device)
        return Task(self.support.to(device), self.query.to(device), classes)


def _batch(children: Any, ways: Any) -> Batch:
    x, y = children
    return Batch(x, y, ways)


def _parts(task: Task) -> tuple[list[Any], None]:
    """`classes` is a child only where it is there: vmap refuses None as a leaf."""
    return [task.support, task.query, *([] if task.classes is None else [task.classes])], None


_pytree.register_pytree_node(Batch, lambda b: ([b.x, b.y], b.ways), _batch)
_pytree.register_pytree_node(Task, _parts, lambda parts, _: Task(*parts))


class TaskSource(Protocol):
    """Where tasks come from. All randomness comes from `generator`, so the same generator gives the same tasks.

    A source whose classes must not be met again in evaluation also has `identities`: a frozenset, one string a class.
    """

    def sample(self, n: int, generator: torch.Generator) -> Task:
        """n tasks along a leading axis."""
        ...


@runtime_checkable
class PlannedSource(Protocol):
    """A source that decides which examples make a task (cheap) before it reads them (maybe not cheap)."""

    def plan(self, n: int, generator: torch.Generator) -> Any: ...

    def read(self, plan: Any) -> Task: ...


def draw(source: TaskSource, n: int, generator: torch.Generator, part: slice = slice(None)) -> Task:
    """The `part` of n tasks. The tasks do not depend on the part, and a PlannedSource reads no more than its part."""
    if isinstance(source, PlannedSource):
        return source.read(source.plan(n, generator)[part])
    if not hasattr(source, "sample"):
        raise InputError(
            f"a source of tasks with .sample(n, generator) is needed, found {type(source).__name__}: make one of labelled "
            "data by kshot.tasks.Episodes(data, ways, shots, queries); for environments there are kshot.rl.fit and .evaluate"
        )
    tasks = source.sample(n, generator)
    _check_kind(tasks)
    return tasks[part]


def identities(source: object) -> frozenset[str]:
    """One string for each class that the source can show; empty where classes do not exist."""
    return getattr(source, "identities", frozenset())


def seeded(*key: int) -> torch.Generator:
    """A CPU generator for a place in a run, such as (seed, step): resuming needs no stored generator state."""
    state = 0x9E3779B97F4A7C15
    for word in key:  # splitmix64, so that neighbouring keys give unrelated streams
        state = (state + (word & 0xFFFFFFFFFFFFFFFF) * 0xBF58476D1CE4E5B9 + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return torch.Generator().manual_seed(state & 0x7FFFFFFFFFFFFFFF)


# Checks. Data-dependent ones need real values, so they are passed over inside vmap, grad and compile:
# whoever enters those (vectorize.py) checks the whole batch of tasks first.


def check_support(support: Batch) -> None:
    """Raise InputError unless a learner can learn from these examples."""
    _check_half(support, "support")
    if is_concrete(support):
        _check_batch(support, "support", axes=0)
        _check_every_class_present(support)


def check_task(task: Task, *, axes: int = 0) -> None:
    """Raise InputError unless the task is well formed; axes=1 for a batch of tasks."""
    _check_kind(task)
    if not is_concrete(task.support):
        return
    _check_batch(task.support, "support", axes)
    _check_batch(task.query, "query", axes)
    if axes and len(task.support) != len(task.query):
        raise InputError(
            f"a batch of tasks needs the same number of tasks in support and query, found {len(task.support)} and "
            f"{len(task.query)}: stack both along a leading task axis"
        )
    if task.support.ways != task.query.ways:
        raise InputError(
            f"support has ways={task.support.ways} and query has ways={task.query.ways}: both halves of a task share "
            "their classes, give both the same number"
        )
    features, asked = task.support.x.shape[1 + axes :], task.query.x.shape[1 + axes :]
    if features != asked:
        raise InputError(
            f"support examples have shape {_shape(features)} and query examples {_shape(asked)}: make them alike"
        )
    _check_every_class_present(task.support)
    if task.classes is not None:
        _check_classes(task.classes, task.support, axes)


def inside_transform() -> bool:
    """Whether this runs inside vmap or torch.func.grad."""
    return torch._C._functorch.maybe_current_level() is not None


def inside_vmap() -> bool:
    stack = torch._C._functorch.get_interpreter_stack()
    return stack is not None and any(level.key() == torch._C._functorch.TransformType.Vmap for level in stack)


def is_concrete(batch: Batch) -> bool:
    """Whether the values can be looked at: not inside vmap, grad, or what traces operations to compile them."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    traced = torch.compiler.is_compiling() or get_proxy_mode() is not None
    return not traced and not any(wrapped(t) for t in (batch.x, batch.y))


def one_hot(y: Tensor, ways: int) -> Tensor:
    """[…] class numbers -> […, N] of 0 and 1, as torch's, but without a look at the values, which what traces cannot do."""
    return (y.unsqueeze(-1) == torch.arange(ways, device=y.device)).to(y.dtype)


def _check_kind(task: object) -> None:
    if not isinstance(task, Task):
        raise InputError(f"a Task(support, query) is needed, found {type(task).__name__}: build one from two Batches")
    _check_half(task.support, "support")
    _check_half(task.query, "query")
    if not (task.classes is None or isinstance(task.classes, Tensor)):
        raise InputError(
            f"classes is a {type(task.classes).__name__}: one number of a class for each way is needed, give a tensor of "
            "int64, or None"
        )


def _check_half(batch: object, role: str) -> None:
    if not isinstance(batch, Batch):
        raise InputError(
            f"{role} is a {type(batch).__name__}: a Batch(x, y, ways) is needed, build one of the examples and their labels"
        )
    for name, value in (("x", batch.x), ("y", batch.y)):
        if not isinstance(value, Tensor):
            raise InputError(f"{role}.{name} must be a tensor, found {type(value).__name__}: use torch.as_tensor")


def _check_batch(batch: Batch, role: str, axes: int) -> None:
    x, y, ways = batch.x, batch.y, batch.ways
    for name, value in (("x", x), ("y", y)):
        if value.ndim <= axes:
            raise InputError(
                f"{role}.{name} has shape {_shape(value.shape)} but needs {'a task axis and ' if axes else ''}"
                "an axis of examples: use unsqueeze(0) for a single one"
            )
    if x.shape[: 1 + axes] != y.shape[: 1 + axes]:
        raise InputError(
            f"{role} has x of shape {_shape(x.shape)} and y of shape {_shape(y.shape)}: "
            f"the first {'two axes' if axes else 'axis'} must agree, one label for each example"
        )
    if x.numel() == 0 or y.numel() == 0:
        raise InputError(
            f"{role} is empty, x has shape {_shape(x.shape)}: a task needs at least one example in each half"
        )
    if x.is_complex() or y.is_complex():
        raise InputError(f"{role} holds complex numbers, real ones are needed: use torch.view_as_real")
    if x.is_floating_point() and not _finite(x):
        raise InputError(f"{role}.x holds {_bad(x)} values that are NaN or infinite: clean or drop those examples")
    if ways is None:
        _check_values(y, role)
    else:
        _check_labels(y, ways, role, axes)


def _finite(t: Tensor) -> bool:
    """One pass over the data is enough where the sum is finite."""
    return bool(torch.isfinite(t.sum())) or bool(torch.isfinite(t).all())


def _check_values(y: Tensor, role: str) -> None:
    if not y.is_floating_point():
        raise InputError(
            f"{role}.y has dtype {y.dtype} and no ways: for classification give Batch(x, y, ways=N), "
            "for regression make y floating point"
        )
    if not _finite(y):
        raise InputError(f"{role}.y holds {_bad(y)} values that are NaN or infinite: clean or drop those examples")


def _check_labels(y: Tensor, ways: int, role: str, axes: int) -> None:
    if y.dtype != torch.int64:
        raise InputError(f"{role}.y has dtype {y.dtype}: class numbers must be torch.int64, use y.long()")
    if y.ndim != 1 + axes:
        raise InputError(
            f"{role}.y has shape {_shape(y.shape)}: class numbers need one label an example, use argmax on one-hot rows"
        )
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= ways:
        raise InputError(
            f"{role} labels run from {low} to {high}, a {ways}-way task needs 0..{ways - 1}: "
            "relabel the classes of each task from 0 (kshot.tasks.Episodes does)"
        )


def _check_classes(classes: Tensor, support: Batch, axes: int) -> None:
    if support.ways is None:
        raise InputError(
            f"a regression has classes of shape {_shape(classes.shape)}: only a task with ways has any, leave classes out, "
            "or give Batch(x, y, ways=N)"
        )
    if classes.dtype != torch.int64:
        raise InputError(
            f"classes has dtype {classes.dtype}: numbers of classes must be torch.int64, use classes.long()"
        )
    needed = torch.Size([*support.y.shape[:axes], support.ways])
    if classes.shape != needed:
        raise InputError(
            f"classes has shape {_shape(classes.shape)} and a {support.ways}-way task needs {_shape(needed)}: give one "
            "number of the source's classes for each way"
        )
    if int(classes.min()) < 0:
        raise InputError(
            f"classes holds {int(classes.min())}: the source's classes are numbered from 0, and where they are not known give "
            "classes=None"
        )


def _check_every_class_present(support: Batch) -> None:
    if support.ways is None:
        return
    y = support.y.reshape(-1, support.y.shape[-1])  # [T, S]
    counts = torch.zeros(len(y), support.ways, device=y.device).scatter_add_(1, y, torch.ones(y.shape, device=y.device))
    if bool((counts == 0).any()):
        missing = (counts == 0).nonzero()[0, 1].item()
        raise InputError(
            f"support has no example of class {missing} of a {support.ways}-way task: "
            "each class needs at least one, lower ways or add examples"
        )


def _bad(x: Tensor) -> str:
    return f"{int((~torch.isfinite(x)).sum()):,} of {x.numel():,}"


def _shape(shape: torch.Size) -> str:
    return str(tuple(shape))


def check_positive(of: str, **numbers: float) -> None:
    for name, value in numbers.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise InputError(f"{of} has {name}={value!r}: give a positive number")


def check_whole(of: str, *, least: int = 1, **numbers: int) -> None:
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f"{of} has {name}={value!r}: give a whole number of at least {least}")
