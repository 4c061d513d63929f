"""Tasks described by steps, for those who think in learn2learn's task transforms: filter, ways, shots, labels, rotations.

The steps are put together to one Episodes, which draws whole batches of tasks from the caller's generator. learn2learn's draw
from Python's `random`, which torch.manual_seed does not reach, and each of theirs is given the dataset: here it is given once.

Axes: n tasks, N ways, S support and Q query examples of a task.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch

from kshot.tasks.episodes import Count, EpisodePlan, Episodes
from kshot.tasks.files import labelled
from kshot.tasks.labelled import Labelled, Rotated
from kshot.types import InputError


class Transform:
    """A step: it cuts the data, or says how tasks are drawn. stage: steps of a lower one come first."""

    stage: ClassVar[int]

    def cut(self, data: Labelled) -> Labelled:
        return data

    def settings(self) -> dict[str, Any]:
        """Arguments of TransformedEpisodes."""
        return {}


@dataclass(frozen=True)
class FilterLabels(Transform):
    """Only these classes. labels: as the data has them; where its classes have names, their names.

    learn2learn's may also stand behind NWays, and leaves such a task with fewer classes; here the data is filtered first.
    """

    labels: Sequence[Any]
    stage: ClassVar[int] = 0

    def cut(self, data: Labelled) -> Labelled:
        values = self.labels.tolist() if hasattr(self.labels, "tolist") else self.labels
        if isinstance(values, str) or not isinstance(values, (Sequence, set, frozenset)):
            raise InputError(f"FilterLabels has labels={values!r}: several are needed, give a list of labels")
        kept = set(data.only([str(label) for label in values]).names)
        return data.only([name for name in data.names if name in kept])  # in the order of the data


@dataclass(frozen=True)
class RotationsAsClasses(Transform):
    """Four classes of each, one a quarter turn of its images, as in the Omniglot papers.

    Not in learn2learn, where people write RandomClassRotation for it: a task may hold one character in two turns here.
    """

    stage: ClassVar[int] = 0

    def cut(self, data: Labelled) -> Labelled:
        return data.rotated()


@dataclass(frozen=True)
class NWays(Transform):
    """Tasks of so many classes; (lowest, highest) draws the number anew for each batch of tasks."""

    ways: Count
    stage: ClassVar[int] = 1

    def settings(self) -> dict[str, Any]:
        return {"ways": self.ways}


@dataclass(frozen=True)
class KShots(Transform):
    """So many examples of each class to learn from, and others to be judged on.

    learn2learn's k counts both, and your training loop cuts them: its KShots(d, k=2) for one shot and one query is
    KShots(1, queries=1). No example is drawn twice: there is no replacement=True.
    """

    shots: Count
    queries: Count = 15
    stage: ClassVar[int] = 2

    def settings(self) -> dict[str, Any]:
        return {"shots": self.shots, "queries": self.queries}


@dataclass(frozen=True)
class LoadData(Transform):
    """Does nothing: examples are always loaded. It is there for lists of steps that were written for learn2learn."""

    stage: ClassVar[int] = 3


@dataclass(frozen=True)
class ConsecutiveLabels(Transform):
    """Does nothing: examples always come class by class, unless shuffle=True. There for lists written for learn2learn."""

    stage: ClassVar[int] = 3


@dataclass(frozen=True)
class RemapLabels(Transform):
    """How the classes of a task are numbered: at random, or with shuffle=False in the order of the data's classes.

    They are always numbered 0..N-1, without this step too; in learn2learn they keep the data's labels without it.
    """

    shuffle: bool = True
    stage: ClassVar[int] = 3

    def settings(self) -> dict[str, Any]:
        if not isinstance(self.shuffle, bool):
            raise InputError(
                f"RemapLabels has shuffle of type {type(self.shuffle).__name__}: whether classes are numbered at random is "
                "needed, give True or False; the data is given once, to from_transforms"
            )
        return {"ordered": not self.shuffle}


@dataclass(frozen=True)
class RandomClassRotation(Transform):
    """The images of each class of a task are turned by one of these angles, drawn for each class and task.

    Support and query of a class are turned alike. learn2learn's turns all classes of a task alike, by the angle of the last: its
    functions share one variable. degrees: counterclockwise, multiples of 90.
    """

    degrees: Sequence[int]
    stage: ClassVar[int] = 3

    def settings(self) -> dict[str, Any]:
        angles = self.degrees if isinstance(self.degrees, Sequence) else ()
        if not angles or not all(isinstance(angle, (int, float)) and angle % 90 == 0 for angle in angles):
            raise InputError(
                f"RandomClassRotation has degrees={self.degrees!r}: quarter turns are needed, others would cut corners off, give "
                "a list of multiples of 90, such as [0, 90, 180, 270]"
            )
        return {"turns": tuple(int(angle // 90) % 4 for angle in angles)}


def from_transforms(
    data: Any,
    transforms: Sequence[Transform],
    *,
    balanced: bool = True,
    small_classes: Literal["error", "skip"] = "error",
    shuffle: bool = False,
) -> Episodes:
    """A source of tasks: from_transforms(data, [FilterLabels([…]), NWays(5), KShots(1, queries=15), …]).

    data: what Episodes takes. transforms: first FilterLabels and RotationsAsClasses, in the order in which they act; NWays;
    KShots; then RemapLabels and RandomClassRotation. balanced, small_classes, shuffle: as in Episodes.
    """
    _check_steps(transforms)
    if shuffle and any(isinstance(step, ConsecutiveLabels) for step in transforms):
        raise InputError(
            "ConsecutiveLabels sorts the support by class and shuffle=True mixes it: one order is needed, leave one of them out"
        )
    data = labelled(data)
    settings: dict[str, Any] = {}
    for step in transforms:
        data = step.cut(data)
        settings |= step.settings()
    return TransformedEpisodes(data, **settings, balanced=balanced, small_classes=small_classes, shuffle=shuffle)


class TransformedEpisodes(Episodes):
    """Episodes whose classes are numbered in order, or turned; what from_transforms returns. options: those of Episodes.

    ordered: the classes of a task are numbered in the order of the data's. turns: quarter turns, one of them for each class
    of a task; empty for none. Without either, the tasks are those of Episodes.
    """

    def __init__(
        self,
        data: Any,
        ways: Count,
        shots: Count,
        queries: Count,
        *,
        ordered: bool = False,
        turns: Sequence[int] = (),
        **options: Any,
    ) -> None:
        super().__init__(data, ways, shots, queries, **options)
        self.ordered, self.turns = ordered, tuple(turns)
        self._seen = [self.data]  # and each turn of it
        if turns:
            self.data.check_square()
            _check_upright(self.data)
            self.storage = Rotated(self.data.storage)
            for turn in {*turns} - {0}:
                rows = self.data.order + turn * len(self.data.storage)
                self._seen.append(replace(self.data, storage=self.storage, order=rows))

    @property
    def identities(self) -> frozenset[str]:
        """Those of the turns that are shown, and of the upright classes: they are not new to who saw them turned."""
        return frozenset[str]().union(*(data.identities for data in self._seen))

    def with_shots(self, shots: int) -> TransformedEpisodes:
        options: dict[str, Any] = {"ordered": self.ordered, "turns": self.turns}
        return TransformedEpisodes(self.data, self.ways, shots, self.queries, **options, **self.looks)

    def choose_classes(self, n: int, ways: int, generator: torch.Generator) -> torch.Tensor:
        classes = super().choose_classes(n, ways, generator)
        return classes.sort(1).values if self.ordered else classes

    def plan(self, n: int, generator: torch.Generator) -> EpisodePlan:
        plan = super().plan(n, generator)
        if not self.turns:
            return plan
        drawn = torch.randint(len(self.turns), plan.classes.shape, generator=generator)  # [n, N]
        skipped = torch.tensor(self.turns)[drawn] * len(
            self.data.storage
        )  # row r of a Rotated's k-th turn is k · M + r
        return replace(
            plan,
            support=plan.support + skipped.gather(1, plan.y_support),
            query=plan.query + skipped.gather(1, plan.y_query),
        )


NEEDED = {NWays: ("how many classes a task has", "NWays(5)"), KShots: ("how many examples", "KShots(1, queries=15)")}
ORDER = "FilterLabels and RotationsAsClasses, then NWays, then KShots, then RemapLabels and RandomClassRotation"


def _check_steps(steps: Any) -> None:
    if not isinstance(steps, (list, tuple)):
        raise InputError(
            f"the steps are a {type(steps).__name__}: several are needed, give a list such as [NWays(5), KShots(1)]"
        )
    for step in steps:
        if not isinstance(step, Transform):
            what = f"the class {step.__name__}" if isinstance(step, type) else f"a {type(step).__name__}"
            raise InputError(
                f"one of the steps is {what}: objects of kshot.tasks.transforms are needed, give such as NWays(5)"
            )
    names = [type(step).__name__ for step in steps]
    for kind, (what, example) in NEEDED.items():
        if kind.__name__ not in names:
            raise InputError(f"the steps {names} have no {kind.__name__}: {what} is needed, add {example}")
    for before, after in pairwise(steps):
        if after.stage < before.stage:
            raise InputError(
                f"{type(after).__name__} stands after {type(before).__name__}: the order needed is {ORDER}; move "
                f"{type(after).__name__} forward"
            )
    twice = [name for name in names if names.count(name) > 1 and name != "FilterLabels"]
    if twice:
        raise InputError(
            f"{twice[0]} stands {names.count(twice[0])} times among the steps: one is needed, leave out the others"
        )


def _check_upright(data: Labelled) -> None:
    """A class that is a turn of another, turned again, would put one image into two classes of a task."""
    plain = [re.sub(r"/rot\d{3}$", "", name) for name in data.names]
    if len(set(plain)) < len(plain):
        raise InputError(
            f"the classes are turns of others already, such as {data.names[-1]!r}: RandomClassRotation needs upright ones, or "
            "one image would be in two classes of a task; leave it out, or RotationsAsClasses"
        )
