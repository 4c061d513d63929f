"""What is checked before each training and evaluation, so that its number means what it says.

Each check refuses with what is wrong, or says in a sentence what was found: those stand in the evaluation and its report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from kshot.learner import MetaLearner
from kshot.tasks.episodes import Episodes
from kshot.tasks.labelled import digests
from kshot.types import Batch, InputError, Task, TaskSource, check_task, draw, identities, seeded

ENOUGH = 600  # tasks: what papers average over
LOOKED_AT = 20  # tasks whose examples are compared
SHUFFLED = 4  # tasks that are predicted again in another order
OWN = 0xA0D1  # apart from the tasks of any step
HALF = 0.5  # of a class's examples, or of the tasks: more than chance duplicates in real data


def before_training(tasks: TaskSource, validate: TaskSource | None, learner: MetaLearner, seed: int) -> list[str]:
    """Raise InputError unless what is trained on, and what is validated on, are apart and repeatable."""
    found = _said(
        "training tasks", _repeatable(tasks, seed), _halves_apart(tasks, seed), _labels_are_drawn(tasks, seed)
    )
    if validate is not None:
        found += _said("validation tasks", _repeatable(validate, seed), _halves_apart(validate, seed))
        both = overlap(identities(tasks), identities(validate)) or _same_examples(tasks, validate)
        if both:
            raise InputError(
                f"{_counted(both)} in both the training and the validation tasks{_such_as(both)}: split by class, for "
                "instance with Labelled.split"
            )
        refuse_seen(learner, validate)
        if identities(validate):
            found += ["no class is in both the training and the validation tasks, by name or by content"]
    return found


def before_evaluation(
    learner: MetaLearner, tasks: TaskSource, seed: int, allow_seen: bool, device: torch.device
) -> list[str]:
    """Raise InputError unless the evaluation would be of new classes, repeatable, and of nothing but learning."""
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise InputError(f"seed={seed!r}: an evaluation that cannot be repeated shows little, give a whole number")
    found = [
        "classes that it was trained on are allowed" if allow_seen else refuse_seen(learner, tasks),
        _repeatable(tasks, seed),
        _halves_apart(tasks, seed),
        _order_does_not_tell(learner, draw(tasks, LOOKED_AT, seeded(seed, 0), slice(SHUFFLED)).to(device), seed),
    ]
    return [sentence for sentence in found if sentence]


def _said(of: str, *sentences: str | None) -> list[str]:
    return [f"{of}: {sentence}" for sentence in sentences if sentence]


def refuse_seen(learner: MetaLearner, tasks: TaskSource) -> str | None:
    classes, both = identities(tasks), overlap(learner.seen, identities(tasks))
    if both:
        raise InputError(
            f"{len(both)} of the {len(classes)} classes to evaluate on are ones that the learner was trained on"
            f"{_such_as(both)}: evaluate on other classes, or pass allow_seen=True to measure how it does on known ones"
        )
    if not classes or not learner.seen:
        return None
    return f"none of the {len(classes):,} classes is among the {len(learner.seen):,} of training, by name or by content"


def overlap(some: Iterable[str], others: Iterable[str]) -> set[str]:
    """Of the others' identities, 'name#content', those that share a name or a content with some; '' is no name."""
    names, contents = set[str](), set[str]()
    for identity in some:
        name, _, content = identity.rpartition("#")
        names.add(name)
        contents.add(content)
    parts = ((identity, *identity.rpartition("#")) for identity in others)
    return {identity for identity, name, _, content in parts if content in contents or (name and name in names)}


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


def _halves_apart(tasks: TaskSource, seed: int) -> str | None:
    """Support and query share no example. Of Episodes the rows tell; of other sources only the content does."""
    if isinstance(tasks, Episodes):
        plan = tasks.plan(LOOKED_AT, seeded(seed, 1, OWN))
        shared = [_share_rows(s, q) for s, q in zip(plan.support, plan.query, strict=True)]
        few = 0
    else:
        drawn = draw(tasks, LOOKED_AT, seeded(seed, 1, OWN))
        shared = [bool(set(_digests(drawn[i].support)) & set(_digests(drawn[i].query))) for i in range(len(drawn))]
        few = int(HALF * len(shared))
    if sum(shared) > few:
        raise InputError(
            f"in {sum(shared)} of {len(shared)} tasks an example is in both the support and the query, which tells its label: "
            "draw the query from other examples of the class"
        )
    return f"support and query share no example, looked for in {len(shared)} tasks" if not any(shared) else None


def _share_rows(support: Tensor, query: Tensor) -> bool:
    return bool(torch.isin(support, query).any())


def _digests(batch: Batch) -> Iterator[bytes]:
    """One for each example: of its values; in regression with the target, for grids of inputs are shared by all."""
    x = batch.x.flatten(1)
    if batch.ways is None:
        x = torch.cat([x.double(), batch.y.reshape(len(x), -1).double()], 1)
    return digests(x)


def _labels_are_drawn(tasks: TaskSource, seed: int) -> str | None:
    """A class that gets one label in every task could be remembered, and nothing would be learned from the support."""
    if not isinstance(tasks, Episodes):
        return None
    classes: Tensor = tasks.plan(200, seeded(seed, 2, OWN)).classes
    labels: dict[int, set[int]] = {}
    again = 0
    for row in classes.tolist():
        for label, c in enumerate(row):
            again += c in labels
            labels.setdefault(c, set()).add(label)
    if again < 100:  # too seldom to tell
        return None
    if all(len(found) == 1 for found in labels.values()):
        raise InputError(
            "every class has the same label in all tasks, so that a learner can remember classes where it should learn from the "
            "support: number the classes of each task anew (kshot.tasks.Episodes does)"
        )
    return "the classes of each task are numbered anew"


def _order_does_not_tell(learner: MetaLearner, tasks: Task, seed: int) -> str | None:
    """Predictions survive shuffling: they are not read off the places of the examples."""
    generator = seeded(seed, 3, OWN)

    def predicted(support: Batch, x: Tensor) -> Tensor:
        torch.manual_seed(seed)
        return learner.predict(learner.adapt(support), x)

    changed, unsteady = [], []
    for i in range(len(tasks)):
        support, x = tasks[i].support, tasks[i].query.x
        s, q = (torch.randperm(len(examples), generator=generator).to(x.device) for examples in (support, x))
        before = predicted(support, x)
        changed.append(
            _differs(before[q], predicted(support[s] if learner.order_free else support, x[q]), support.ways)
        )
        unsteady.append(_differs(before, predicted(_rounded(support, generator), x), support.ways))
    share = fmean(changed)
    if share > 0.1 + 2 * fmean(unsteady):
        raise InputError(
            f"{100 * share:.0f} % of the predictions of {type(learner).__name__} change when examples are shuffled, so "
            "the order of the classes may tell it the labels: make predict treat each query by itself and adapt all examples "
            "alike, or say by order_free = False that the support is read in order"
        )
    what = "support and query are" if learner.order_free else "query (the support is read in order) is"
    same = "all" if share == 0 else f"{100 * (1 - share):.0f} % of the"
    return f"{same} predictions stay the same when {what} shuffled"


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
