"""What is checked before each training and evaluation, so that its number means what it says.

Each check refuses with what is wrong, or says in a sentence what was found: those stand in the evaluation and its report.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from kshot.learner import MetaLearner
from kshot.tasks.episodes import Episodes
from kshot.tasks.groups import Groups
from kshot.tasks.labelled import digests
from kshot.types import Batch, InputError, Task, TaskSource, check_task, draw, identities, seeded

ENOUGH = 600  # tasks: what papers average over
LOOKED_AT = 20  # tasks whose examples are compared
PLANNED = 400  # tasks whose classes are
ASKED = 600  # predictions that are made again in another order, or as many as there are in
AT_MOST = 64  # tasks; drawn
SHUFFLED = 8  # at a time
SWAYED = 0.01  # of the predictions, and a few where they are not many: what rounding may sway
A_FEW = 3
OWN = 0xA0D1  # apart from the tasks of any step
HALF = 0.5  # of a class's examples: more than chance duplicates in real data
DUPLICATES = 0.1  # of the query examples of a source whose rows are not known
LEAK = 0.01  # of the query examples, where they are many: what is in the data twice is a few, again and again
FEW_CLASSES = 4  # times the ways: of fewer classes an interval over tasks is too narrow
PAIRS, PLENTY = (
    50,
    1000,
)  # of tasks with a common class: fewer do not tell how it is labelled, more need not be looked for
GUESSED = 0.05  # above chance


def before_training(tasks: TaskSource, validate: TaskSource | None, learner: MetaLearner, seed: int) -> list[str]:
    """Raise InputError unless what is trained on, and what is validated on, are apart and repeatable."""
    found = _said(
        "training tasks", _repeatable(tasks, seed), _halves_apart(tasks, seed), _labels_are_drawn(tasks, seed)
    )
    if validate is not None:
        found += _said(
            "validation tasks",
            _repeatable(validate, seed),
            _halves_apart(validate, seed),
            _labels_are_drawn(validate, seed),
        )
        by_identity = overlap(identities(tasks), identities(validate))
        both = max(by_identity, _same_examples(tasks, validate), _same_examples(validate, tasks), key=len)
        if both:
            raise InputError(
                f"{_counted(both)} in both the training and the validation tasks{_such_as(both)}: split by class, for "
                "instance with Labelled.split"
            )
        refuse_seen(learner, validate)
        if identities(validate):
            found += [f"no class is in both the training and the validation tasks, {_by(validate)}"]
    return found


def before_evaluation(
    learner: MetaLearner, tasks: TaskSource, seed: int, allow_seen: bool, device: torch.device
) -> list[str]:
    """Raise InputError unless the evaluation would be of new classes, repeatable, and of nothing but learning."""
    found = [
        "classes that it was trained on are allowed" if allow_seen else refuse_seen(learner, tasks),
        _repeatable(tasks, seed),
        _halves_apart(tasks, seed),
        _labels_are_drawn(tasks, seed),
        *_each_by_itself(learner, tasks, seed, device),
        _seeds_differ(tasks, seed),
    ]
    return [sentence for sentence in found if sentence]


def after_evaluation(tasks: TaskSource, ways: int | None, episodes: int, different: int) -> list[str]:
    """What the interval is of, where that is less than it looks."""
    found, classes = [], identities(tasks)
    if different < episodes:
        found += [
            f"the {episodes:,} tasks are {different:,} different ones again and again, and the interval is over those"
        ]
    if ways is not None and 0 < len(classes) < FEW_CLASSES * ways:
        found += [
            f"all tasks are of the same {len(classes)} classes, {ways} at a time: the interval says little of other classes"
        ]
    return found


def _said(of: str, *sentences: str | None) -> list[str]:
    return [f"{of}: {sentence}" for sentence in sentences if sentence]


def refuse_seen(learner: MetaLearner, tasks: TaskSource) -> str | None:
    classes = identities(tasks)
    refuse_known(learner.seen, tasks, "the learner was trained on")
    refuse_known(learner.validated, tasks, "the learner was validated on, and its best weights chosen by")
    if not classes or not (learner.seen or any(p.requires_grad for p in learner.parameters())):
        return None
    if not learner.seen:
        return "which classes the learner was trained on is not known: fit writes them into learner.seen, your own loop may too"
    return f"none of the {len(classes):,} classes is among the {len(learner.seen):,} of training, {_by(tasks)}"


def refuse_known(known: Iterable[str], tasks: TaskSource, by: str) -> None:
    classes, both = identities(tasks), overlap(known, identities(tasks))
    if both:
        raise InputError(
            f"{len(both)} of the {len(classes)} classes to evaluate on are ones that {by}{_such_as(both)}: evaluate on other "
            "classes, or give evaluate(…, allow_seen=True) to see how it does on known ones"
        )


def check_seed(seed: object) -> None:
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise InputError(f"seed={seed!r}: an evaluation that cannot be repeated shows little, give a whole number")


def _by(tasks: TaskSource) -> str:
    """Numbers are no names."""
    if any(_name(i) for i in identities(tasks)):
        return "by name or by content"
    return "by content alone: they have no names, and one in other examples would not be known again"


def _name(identity: str) -> str:
    """Without the turn of its images: a character that was seen upright is hardly new when it is turned."""
    return re.sub(r"/rot\d+$", "", identity.rpartition("#")[0])


def overlap(some: Iterable[str], others: Iterable[str]) -> set[str]:
    """Of the others' identities, 'name#content', those that share a name or a content with some; '' is no name."""
    names, contents = set[str](), set[str]()
    for identity in some:
        names.add(_name(identity))
        contents.add(identity.rpartition("#")[2])
    parts = ((identity, _name(identity), identity.rpartition("#")[2]) for identity in others)
    return {identity for identity, name, content in parts if content in contents or (name and name in names)}


def _same_examples(tasks: object, others: object) -> set[str]:
    """Classes of `others` most of whose examples are among those of `tasks`, whatever the classes are called."""
    ours, theirs = _fingerprints(tasks), _fingerprints(others)
    known = {example for _, examples in ours for example in examples}
    return {f"{name}#" for name, examples in theirs if len(examples & known) > HALF * len(examples)}


def _fingerprints(tasks: object) -> list[tuple[str, frozenset[bytes]]]:
    """Of every example, class by class; nothing where a source has them not at hand."""
    found: Callable[[], list[tuple[str, frozenset[bytes]]]] | None = getattr(tasks, "fingerprints", None)
    return found() if found is not None else []


def _repeatable(tasks: TaskSource, seed: int) -> str | None:
    first, second = (draw(tasks, LOOKED_AT, seeded(seed, 0), slice(2)) for _ in range(2))
    check_task(first, axes=1)
    for a, b in ((first.support, second.support), (first.query, second.query)):
        if a.x.shape != b.x.shape or not torch.equal(a.x, b.x) or not torch.equal(a.y, b.y):
            raise InputError(
                f"the same seed gave other tasks of this {type(tasks).__name__} the second time, so that no number could be "
                "repeated: draw all that is random in its sample(n, generator) from the generator"
            )
    return f"seed {seed} gives the same tasks again"


def _seeds_differ(tasks: TaskSource, seed: int) -> str:
    """An evaluation draws its tasks from many generators: they must not give the same few again and again."""
    one, other = (draw(tasks, LOOKED_AT, seeded(seed, *key), slice(2)) for key in ((0,), (4, OWN)))
    pairs = ((one.support, other.support), (one.query, other.query))
    if all(a.x.shape == b.x.shape and torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in pairs):
        raise InputError(
            f"two generators gave the same tasks of this {type(tasks).__name__}, so that many tasks would be the same few, and "
            "their interval too narrow: draw all that is random in its sample(n, generator) from the generator"
        )
    return "another generator gives other tasks"


def _halves_apart(tasks: TaskSource, seed: int) -> str | None:
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
    many = share > LEAK and len(set(shared)) > HALF * len(shared)
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


def _labels_are_drawn(tasks: TaskSource, seed: int) -> str | None:
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


def _each_by_itself(learner: MetaLearner, tasks: TaskSource, seed: int, device: torch.device) -> list[str]:
    """Predictions survive shuffling: they are not read off the places of the examples. Nor off the other queries, unless the
    learner says that it is transductive."""
    generator = seeded(seed, 3, OWN)

    def predicted(support: Batch, x: Tensor) -> Tensor:
        torch.manual_seed(seed)
        return learner.predict(learner.adapt(support), x)

    changed, unsteady, first, asked, ways = [], [], [], 0, None
    for task in _asked(tasks, seed, device):
        support, x, ways, asked = task.support, task.query.x, task.support.ways, asked + len(task.query)
        s, q = (torch.randperm(len(examples), generator=generator).to(x.device) for examples in (support, x))
        before = predicted(support, x)
        changed.append(
            _differs(before[q], predicted(support[s] if learner.order_free else support, x[q]), support.ways)
        )
        unsteady.append(_differs(before, predicted(_rounded(support, generator), x), support.ways))
        first.append((support, x[:1], before[:1]))
    share = fmean(changed)
    few = A_FEW / asked if ways is not None else 0.0
    if share > SWAYED + few + 2 * fmean(unsteady):
        raise InputError(
            f"{100 * share:.0f} % of the predictions of {type(learner).__name__} change when examples are shuffled, so "
            "the order of the classes may tell it the labels: make predict treat each query by itself and adapt all examples "
            "alike, or say by order_free = False that the support is read in order"
        )
    what = "support and query are" if learner.order_free else "query (the support is read in order) is"
    same = (
        "all predictions stay the same" if share == 0 else f"{100 * (1 - share):.0f} % of the predictions stay the same"
    )
    if ways is None and share > 0:
        same = f"predictions change by {100 * share:.1g} % of their size"
    said = [f"{same} when {what} shuffled"]
    if learner.transductive:
        return said
    try:
        apart = [_differs(before, predicted(support, x), support.ways) for support, x, before in first]
    except Exception as error:  # as batch norm over one value
        return [*said, f"a query that comes alone cannot be predicted ({error})"]
    if fmean(apart) > SWAYED + (A_FEW / len(first) if ways is not None else 0.0) + 2 * fmean(unsteady):
        raise InputError(
            f"{type(learner).__name__} says that it is not transductive, and {100 * fmean(apart):.0f} % of the first queries of "
            "a task are predicted otherwise when they come alone: make predict treat each query by itself, or say by "
            "transductive = True that the others help it"
        )
    return [*said, "a query is predicted alike when it comes alone"]


def _asked(tasks: TaskSource, seed: int, device: torch.device) -> Iterator[Task]:
    """Tasks of enough queries for a share of the predictions to mean something."""
    asked = 0
    for i in range(AT_MOST // SHUFFLED):
        drawn = draw(tasks, LOOKED_AT, seeded(seed, 5, OWN, i), slice(SHUFFLED)).to(device)
        yield from (drawn[k] for k in range(len(drawn)))
        asked += len(drawn) * len(drawn[0].query)
        if asked >= ASKED:
            return


def _rounded(support: Batch, generator: torch.Generator) -> Batch:
    """As another order of summation might leave it: many steps of learning make much of that."""
    if not support.x.is_floating_point():
        return support
    noise = torch.randn(support.x.shape, generator=generator).to(support.x)
    return Batch(support.x * (1 + 8 * torch.finfo(support.x.dtype).eps * noise), support.y, support.ways)


def _differs(a: Tensor, b: Tensor, ways: int | None) -> float:
    """The share of predictions that are others; of values, how far they are off."""
    if ways is not None:
        return float((a[:, :ways].argmax(1) != b[:, :ways].argmax(1)).float().mean())
    size = a.double().square().mean().sqrt() + 1e-12
    off = float((a - b).double().square().mean().sqrt() / size)
    return off if off > 1e-3 else 0.0


def _counted(both: set[str]) -> str:
    return f"{len(both)} classes are" if len(both) > 1 else "1 class is"


def _such_as(both: Iterable[Any]) -> str:
    names = sorted(str(identity).rpartition("#")[0] for identity in both)
    named = [name for name in names if name]
    return f" (such as {named[0]})" if named else ""
