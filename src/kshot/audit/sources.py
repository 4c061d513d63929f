"""What a source of tasks gives is repeatable, its halves are apart, and its labels tell nothing."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Iterator
from statistics import fmean

import torch
from torch import Tensor

from kshot.tasks.episodes import Episodes
from kshot.tasks.groups import Groups
from kshot.tasks.labelled import digests
from kshot.types import Batch, InputError, Task, TaskSource, check_task, draw, seeded

LOOKED_AT = 20  # tasks whose examples are compared
PLANNED = 400  # tasks whose classes are
OWN = 0xA0D1  # apart from the tasks of any step
SAME = 0.5  # of the shared examples: as many different ones are no blank image
DUPLICATES = 0.1  # of the query examples of a source whose rows are not known
LEAK = 0.01  # of the query examples, where they are many: what is in the data twice is a few, again and again
PAIRS = 50  # of tasks with a common class: fewer do not tell how it is labelled
PLENTY = 1000  # more need not be looked for
GUESSED = 0.05  # above chance


def repeatable(tasks: TaskSource, seed: int) -> str | None:
    first, second = (draw(tasks, LOOKED_AT, seeded(seed, 0), slice(2)) for _ in range(2))
    check_task(first, axes=1)
    for a, b in ((first.support, second.support), (first.query, second.query)):
        if a.x.shape != b.x.shape or not torch.equal(a.x, b.x) or not torch.equal(a.y, b.y):
            raise InputError(
                f"the same seed gave other tasks of this {type(tasks).__name__} the second time, so that no number could be "
                "repeated: draw all that is random in its sample(n, generator) from the generator"
            )
    return f"seed {seed} gives the same tasks again"


def seeds_differ(tasks: TaskSource, seed: int) -> str:
    """An evaluation draws its tasks from many generators: they must not give the same few again and again."""
    one, other = (draw(tasks, LOOKED_AT, seeded(seed, *key), slice(2)) for key in ((0,), (4, OWN)))
    pairs = ((one.support, other.support), (one.query, other.query))
    if all(a.x.shape == b.x.shape and torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in pairs):
        raise InputError(
            f"two generators gave the same tasks of this {type(tasks).__name__}, so that many tasks would be the same few, and "
            "their interval too narrow: draw all that is random in its sample(n, generator) from the generator"
        )
    return "another generator gives other tasks"


def halves_apart(tasks: TaskSource, seed: int) -> str | None:
    """Support and query share no example: of Episodes the rows tell, and of every source the content.

    Data may hold a few examples more than once, such as blank images; many of them tell of a fault.
    A source whose tasks are meant to ask about the support too says halves_overlap = True.
    """
    if getattr(tasks, "halves_overlap", False):
        return "support and query may share examples, as the source says"
    rows = 0.0
    if (known := _rows(tasks, seed)) is not None:
        rows = fmean(float(torch.isin(q, s).float().mean()) for s, q in zip(*known, strict=True))
    drawn = draw(tasks, LOOKED_AT, seeded(seed, 1, OWN))
    shared = [digest for i in range(len(drawn)) for digest in _shared(drawn[i])]
    share = len(shared) / (len(drawn) * len(drawn[0].query))
    many = share > LEAK and len(set(shared)) > SAME * len(shared)
    # Ratings and answers are of few values, and equal rows of them no slip; of images they would be.
    alike = not isinstance(tasks, Groups) and (many or (share > DUPLICATES and known is None))
    if rows or alike:
        raise InputError(
            f"{100 * max(rows, share):.0f} % of the query examples are in the support too, which tells their labels: draw the "
            "query from other examples of the class, take out what the data holds twice, or say by halves_overlap = True of the "
            "source that this is meant"
        )
    if not shared:
        return f"support and query share no example, looked for in {len(drawn)} tasks"
    return f"{100 * share:.1f} % of the query examples look like one of the support, as duplicates in the data do"


def _rows(tasks: TaskSource, seed: int) -> tuple[Tensor, Tensor] | None:
    """Of the data, that the support and the query of some tasks are; None where a source does not tell."""
    generator = seeded(seed, 1, OWN)
    if isinstance(tasks, Groups):
        return tasks.rows(LOOKED_AT, generator)
    if not isinstance(tasks, Episodes):
        return None
    plan = tasks.plan(LOOKED_AT, generator)
    return plan.support, plan.query


def _shared(task: Task) -> list[bytes]:
    """Of the query examples that are in the support too."""
    known = set(_digests(task.support))
    return [digest for digest in _digests(task.query) if digest in known]


def _digests(batch: Batch) -> Iterator[bytes]:
    """One for each example: of its values; in regression with the target, for grids of inputs are shared by all."""
    x = batch.x.reshape(len(batch), -1)
    if batch.ways is None:
        x = torch.cat([x.double(), batch.y.reshape(len(x), -1).double()], 1)
    return digests(x)


def labels_are_drawn(tasks: TaskSource, seed: int) -> str | None:
    """A class whose label can be guessed could be remembered, and nothing would be learned from the support."""
    if getattr(tasks, "ordered", False):
        return "the classes of each task are numbered in their order, as the source was told"
    seen, labelled, chance = Counter[Hashable](), Counter[tuple[Hashable, int]](), 1.0
    pairs = same = 0.0
    for classes in _numbered(tasks, seed):
        chance = 1 / len(classes[0]) if classes else chance
        seen.update(c for row in classes for c in row)
        labelled.update((c, label) for row in classes for label, c in enumerate(row))
        pairs, same = (sum(n * (n - 1) / 2 for n in found.values()) for found in (seen, labelled))
        if pairs >= PLENTY:
            break
    if not seen:
        return None
    again = sum(n > 1 for n in seen.values())  # a blank example among other classes is one
    if pairs < PAIRS or again * chance < 1:
        return "too few tasks share a class to tell whether its label is drawn anew"
    if same / pairs > chance + max(GUESSED, 5 * (chance * (1 - chance) / pairs) ** 0.5):
        raise InputError(
            f"a class has the same label in {100 * same / pairs:.0f} % of the pairs of tasks that hold it, where chance gives "
            f"{100 * chance:.0f} %, so that a learner can remember classes where it should learn from the support: number the "
            "classes of each task anew (kshot.tasks.Episodes does)"
        )
    return "the classes of each task are numbered anew"


def _numbered(tasks: TaskSource, seed: int) -> Iterator[list[list[Hashable]]]:
    """The classes of tasks by their label; of Episodes without their examples, of others some tasks at a time."""
    if isinstance(tasks, Episodes):
        yield tasks.plan(PLANNED, seeded(seed, 2, OWN)).classes.tolist()
        return
    met = set[bytes]()
    for i in range(PLANNED // LOOKED_AT):
        drawn = draw(tasks, LOOKED_AT, seeded(seed, 2, OWN, i))
        if drawn.support.ways is None:
            return
        named = drawn.classes
        every = [_by_example(drawn[k], met) for k in range(len(drawn))] if named is None else named.tolist()
        yield [classes for classes in every if len(classes) == drawn.support.ways]


def _by_example(task: Task, met: set[bytes]) -> list[Hashable]:
    """Of a source that does not say which classes a task is of: for each label one example, the same whenever it is there.

    Nothing of a task that was met before, as from a list of tasks made once: it says nothing of how classes are numbered.
    """
    halves = [sorted(zip(half.y.tolist(), _digests(half), strict=True)) for half in (task.support, task.query)]
    whole = b"".join(digest for half in halves for _, digest in half)
    if whole in met:
        return []
    met.add(whole)
    least: dict[int, bytes] = {}
    for label, digest in itertools.chain(*halves):
        least[label] = min(digest, least.get(label, digest))
    return [least[label] for label in sorted(least)]
