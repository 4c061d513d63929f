"""Episodes: N-way k-shot tasks from any labelled data, a whole batch of tasks in one vectorized draw."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kshot.tasks.files import labelled
from kshot.tasks.labelled import Embedded, Labelled, Storage
from kshot.types import Batch, InputError, Task
from kshot.warps import draw_class_warps, draw_warps, one_after_another, warp

Count = int | Sequence[int]  # a number, or (lowest, highest)


@dataclass(frozen=True)
class EpisodePlan:
    """Which rows make n tasks: support and y_support [n, S], query and y_query [n, Q], and which classes: [n, N]."""

    support: Tensor
    query: Tensor
    y_support: Tensor
    y_query: Tensor
    classes: Tensor
    warps: Tensor | None = None  # of the support and then the query, [n, S + Q, 2, 3]

    @property
    def ways(self) -> int:
        return self.classes.shape[1]

    def __getitem__(self, part: slice) -> EpisodePlan:
        warps = None if self.warps is None else self.warps[part]
        rest = {f.name: getattr(self, f.name)[part] for f in fields(self) if f.name != "warps"}
        return EpisodePlan(**rest, warps=warps)


class Episodes:
    """N classes, k examples of each to learn from, some others to be judged on.

    A task's `classes` are numbers of `data.names`, once small classes were left out.

    data: (x, y) arrays or tensors; a Labelled; a torch or Hugging Face dataset; a folder with a sub-folder a class; a
    .csv or .jsonl file. How to read them in another way: kshot.tasks.{from_folder, from_csv, from_jsonl, from_dataset}.
    ways, shots, queries: a number, or (lowest, highest) drawn anew for each batch of tasks; shots and queries are for
    one class.
    balanced: with a range of shots, False draws each class its own number.
    small_classes: 'error', or 'skip' to leave out the classes that have too few examples.
    alike: the share of tasks whose classes are all of one group of `data`, such as one alphabet, and so harder to tell apart.
    shuffle: whether the support examples of each task come in an order of their own, for learners that read them as a
    sequence; else class by class.
    warp: how strongly each image is turned, sheared, scaled and shifted at random, for training: 1 is a little, 0 not at all.
    What comes in from outside of an image is 0, black.
    warp_classes: how strongly each class of a task is warped and, every second one, mirrored, all its images alike. It is another
    class then, so training knows no end of classes; for classes that are more than their names, such as drawn characters.
    """

    def __init__(
        self,
        data: Any,
        ways: Count = 5,
        shots: Count = 1,
        queries: Count = 15,
        *,
        balanced: bool = True,
        small_classes: Literal["error", "skip"] = "error",
        alike: float = 0.0,
        shuffle: bool = False,
        warp: float = 0.0,
        warp_classes: float = 0.0,
    ) -> None:
        if not isinstance(shuffle, bool):
            raise InputError(
                f"shuffle={shuffle!r}: whether the support is in random order is needed, give True or False"
            )
        for name, strength in (("warp", warp), ("warp_classes", warp_classes)):
            if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= 10:
                raise InputError(
                    f"{name}={strength!r}: how strongly images are warped is needed, give a number from 0 to 10, such as 1"
                )
        self.data: Labelled = labelled(data)
        if warp or warp_classes:
            self.data.check_square("warped")
            some = self.data.storage.read(self.data.order[:1])
            if some.ndim != 4 or not some.is_floating_point():
                raise InputError(
                    f"examples of shape {tuple(some.shape[1:])} and {some.dtype} cannot be warped: images [C, s, s] are needed, "
                    "of bytes or floating point"
                )
        self.ways, self.shots, self.queries = ways, shots, queries
        self.balanced, self.small_classes, self.shuffle = balanced, small_classes, shuffle
        self.warp, self.warp_classes = warp, warp_classes
        self._ways, self._shots, self._queries = (
            _range(name, value) for name, value in (("ways", ways), ("shots", shots), ("queries", queries))
        )
        if not balanced and self._shots[0] == self._shots[1]:
            raise InputError(
                f"balanced=False needs a range of shots to draw from, found shots={shots}: such as (1, 10)"
            )
        self.alike = _share(alike)
        self._drop_small_classes()
        self._groups = self._find_groups() if alike else None
        self.storage: Storage = self.data.storage
        if self._ways[1] > len(self.data):
            raise InputError(
                f"{self._ways[1]}-way tasks need as many classes and the data has {len(self.data)}: lower ways, or add "
                "classes"
            )

    @property
    def identities(self) -> frozenset[str]:
        return self.data.identities

    def fingerprints(self) -> list[tuple[str, frozenset[bytes]]]:
        return self.data.fingerprints()

    def examples(self) -> Tensor:
        """All examples of all its classes, [M, *features]."""
        return self.data.storage.read(torch.cat([self.data.rows(c) for c in range(len(self.data))]))

    @property
    def varies(self) -> bool:
        """Whether batches of tasks differ in ways, shots or queries: tasks of one batch are then no independent draws."""
        return any(low != high for low, high in (self._ways, self._shots, self._queries))

    def with_shots(self, shots: int) -> Episodes:
        """The same tasks with another number of examples to learn from, as many for each class.

        An error where a class has too few, also where small ones were left out: with fewer classes it would be another
        problem, and a curve over shots would compare the two.
        """
        return Episodes(self.data, self.ways, shots, self.queries, alike=self.alike, **self.looks)

    def embedded(self, function: Callable[[Tensor], Tensor]) -> Episodes:
        """The same tasks of what the function makes of each example: of 1,000 tasks most examples are in several."""
        twin = copy.copy(self)
        twin.storage = Embedded(self.storage, function)
        twin.data = replace(self.data, storage=twin.storage)
        return twin

    @property
    def looks(self) -> dict[str, Any]:
        """The options that choose no examples."""
        return {"shuffle": self.shuffle, "warp": self.warp, "warp_classes": self.warp_classes}

    def sample(self, n: int, generator: torch.Generator) -> Task:
        return self.read(self.plan(n, generator))

    def plan(self, n: int, generator: torch.Generator) -> EpisodePlan:
        if n < 1:
            raise InputError(f"{n} tasks were asked for: at least one is needed, give n=1 or more")
        ways, queries = _draw(self._ways, generator), _draw(self._queries, generator)
        shots = [_draw(self._shots, generator)] * ways
        if not self.balanced:
            shots = [_draw(self._shots, generator) for _ in range(ways)]
        most = max(shots)

        classes = self.choose_classes(n, ways, generator)
        within = distinct(self.data.count[classes], most + queries, generator)  # [n, N, most + queries]
        rows = self.data.order[self.data.start[classes].unsqueeze(-1) + within]
        support = rows[:, :, :most].flatten(1)
        if not self.balanced:
            support = torch.cat([rows[:, c, :k] for c, k in enumerate(shots)], dim=1)
        y_support = torch.tensor([c for c, k in enumerate(shots) for _ in range(k)]).expand(n, -1)
        y_query = torch.arange(ways).repeat_interleave(queries).expand(n, -1)
        if self.shuffle:  # drawn last, so that the examples are those of the same tasks in order
            order = distinct(torch.tensor(support.shape[1]).expand(n), support.shape[1], generator)  # [n, S]
            support, y_support = support.gather(1, order), y_support.gather(1, order)
        query = rows[:, :, most:].flatten(1)
        warps = self._draw_warps(torch.cat([y_support, y_query], 1), ways, generator)
        return EpisodePlan(support, query, y_support, y_query, classes, warps)

    def _draw_warps(self, y: Tensor, ways: int, generator: torch.Generator) -> Tensor | None:
        """For examples of these classes [n, S + Q] of n tasks."""
        if not (self.warp or self.warp_classes):
            return None
        warps = draw_warps(tuple(y.shape), self.warp, generator)
        if not self.warp_classes:
            return warps
        of_classes = draw_class_warps((len(y), ways), self.warp_classes, generator)
        return one_after_another(of_classes[torch.arange(len(y)).unsqueeze(1), y], warps)

    def choose_classes(self, n: int, ways: int, generator: torch.Generator) -> Tensor:
        """[n, N] different classes a task, in random order: the one at place c gets the number c."""
        classes = distinct(torch.tensor(len(self.data)).expand(n), ways, generator)
        if self._groups is None:
            return classes
        members, sizes = self._groups
        large = torch.where(sizes >= ways, sizes, 0)
        group = large.double().multinomial(n, replacement=True, generator=generator)  # as often as it has classes
        together = members[group].gather(1, distinct(sizes[group], ways, generator))
        alike = torch.rand(n, generator=generator) < self.alike
        return torch.where(alike.unsqueeze(1), together, classes)

    def _find_groups(self) -> tuple[Tensor, Tensor]:
        """The classes of each group, [groups, largest], and how many they are."""
        if self.data.groups is None:
            raise InputError(
                f"alike={self.alike} needs to know which classes belong together, and this data does not say: give "
                "Labelled.of(x, y, groups=[...]), or leave alike out"
            )
        groups: dict[str, list[int]] = {}
        for c, group in enumerate(self.data.groups):
            groups.setdefault(group, []).append(c)
        sizes = torch.tensor([len(classes) for classes in groups.values()])
        if sizes.max() < self._ways[1]:
            raise InputError(
                f"alike={self.alike} needs a group of {self._ways[1]} classes for {self._ways[1]}-way tasks and the largest "
                f"has {int(sizes.max())}: lower ways, or leave alike out"
            )
        members = pad_sequence([torch.tensor(classes) for classes in groups.values()], batch_first=True)
        return members, sizes

    def read(self, plan: EpisodePlan) -> Task:
        supports = plan.support.shape[1]

        def batch(rows: Tensor, y: Tensor, which: slice) -> Batch:
            x = self.storage.read(rows)
            if plan.warps is not None:
                x = warp(x, plan.warps[:, which])
            return Batch(x, y.contiguous(), plan.ways)

        support = batch(plan.support, plan.y_support, slice(supports))
        return Task(support, batch(plan.query, plan.y_query, slice(supports, None)), plan.classes)

    def _drop_small_classes(self) -> None:
        if self.small_classes not in ("error", "skip"):
            raise InputError(f"small_classes={self.small_classes!r} is not known: choose 'error' or 'skip'")
        needed = self._shots[1] + self._queries[1]
        large = (self.data.count >= needed).nonzero().flatten().tolist()
        if len(large) < len(self.data):
            c = int((self.data.count < needed).nonzero()[0])
            message = (
                f"class {self.data.names[c]!r} has {int(self.data.count[c])} examples; {self._shots[1]} shots + "
                f"{self._queries[1]} queries need {needed}: lower one, or leave the class out (small_classes='skip')"
            )
            if self.small_classes == "error" or not large:
                raise InputError(message)
            self.data = self.data.only(large)


def distinct(sizes: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """For each size m in sizes [*], k different numbers of 0..m-1: [*, k]. Every ordered choice is equally likely."""
    flat = sizes.reshape(-1)
    chosen = torch.empty(len(flat), k, dtype=torch.int64)
    dense = k * k > 2 * flat
    if dense.any():  # the k smallest of m random keys; m is below k² / 2, however large other classes are
        m = flat[dense].unsqueeze(1)
        keys = torch.rand(len(m), int(m.max()), generator=generator)
        chosen[dense] = keys.masked_fill_(torch.arange(keys.shape[1]) >= m, 2.0).argsort(1)[:, :k]
    again = (~dense).nonzero().flatten()
    while len(again):  # sparse: draw freely, and draw the rows with a repetition anew
        drawn = (torch.rand(len(again), k, generator=generator, dtype=torch.float64) * flat[again].unsqueeze(1)).long()
        chosen[again] = drawn
        ordered = drawn.sort(1).values
        again = again[(ordered[:, 1:] == ordered[:, :-1]).any(1)]
    return chosen.reshape(*sizes.shape, k)


def _share(alike: float) -> float:
    if isinstance(alike, bool) or not isinstance(alike, int | float) or not 0 <= alike <= 1:
        raise InputError(f"alike={alike!r}: the share of tasks of like classes is needed, give a number from 0 to 1")
    return alike


def _range(name: str, value: Count) -> tuple[int, int]:
    ends = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(ends) != 2 or not all(isinstance(e, int) for e in ends) or not 1 <= ends[0] <= ends[1]:
        raise InputError(f"{name}={value!r}: give a whole number of at least 1, or (lowest, highest)")
    if name == "ways" and ends[0] < 2:
        raise InputError(f"ways={value!r}: a task needs at least 2 classes to tell apart")
    return ends[0], ends[1]


def _draw(ends: tuple[int, int], generator: torch.Generator) -> int:
    low, high = ends
    return low if low == high else int(torch.randint(low, high + 1, (), generator=generator))
