"""No class is on both sides of a split, by its name or by its examples."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from kshot.learner import MetaLearner
from kshot.types import InputError, TaskSource, identities

Fingerprints = list[tuple[str, frozenset[bytes]]]  # of each class: its name, and its examples
HALF = 0.5  # of a class's examples: more than chance duplicates in real data


def refuse_both(tasks: TaskSource, validate: TaskSource) -> None:
    """Classes that are in the training and in the validation tasks."""
    by_identity = overlap(identities(tasks), identities(validate))
    both = max(by_identity, _same_examples(tasks, validate), key=len)
    if both:
        raise InputError(
            f"{_counted(both)} in both the training and the validation tasks{_such_as(both)}: split by class, for "
            "instance with Labelled.split"
        )


def refuse_seen(learner: MetaLearner, tasks: TaskSource) -> str | None:
    classes = identities(tasks)
    refuse_known(learner.seen, tasks, "the learner was trained on")
    refuse_known(learner.validated, tasks, "the learner was validated on, and its best weights chosen by")
    if not classes or not (learner.seen or any(p.requires_grad for p in learner.parameters())):
        return None
    if not learner.seen:
        return "which classes the learner was trained on is not known: fit writes them into learner.seen, your own loop may too"
    return f"none of the {len(classes):,} classes is among the {len(learner.seen):,} of training, {by(tasks)}"


def refuse_known(known: Iterable[str], tasks: TaskSource, by: str, source: TaskSource | None = None) -> None:
    """source: that of the known classes, where it is at hand: then all examples are compared."""
    classes, both = identities(tasks), overlap(known, identities(tasks))
    if both := max(both, _same_examples(source, tasks), key=len):
        raise InputError(
            f"{len(both)} of the {len(classes)} classes to evaluate on are ones that {by}{_such_as(both)}: evaluate on other "
            "classes, or give evaluate(…, allow_seen=True) to see how it does on known ones"
        )


def by(tasks: TaskSource) -> str:
    """Numbers are no names."""
    if any(_name(i) for i in identities(tasks)):
        return "by name, or by three of its examples"
    return "by three of its examples: they have no names, and one in other examples would not be known again"


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
    """Classes of one (of the others, if of both) most of whose examples are among those of the other, by whatever name."""
    ours, theirs = _fingerprints(tasks), _fingerprints(others)
    return max(_within(theirs, ours), _within(ours, theirs), key=len)


def _within(some: Fingerprints, others: Fingerprints) -> set[str]:
    known = {example for _, examples in others for example in examples}
    return {f"{name}#" for name, examples in some if len(examples & known) > HALF * len(examples)}


def _fingerprints(tasks: object) -> Fingerprints:
    """Of every example, class by class; nothing where a source has them not at hand."""
    found: Callable[[], Fingerprints] | None = getattr(tasks, "fingerprints", None)
    return found() if found is not None else []


def _counted(both: set[str]) -> str:
    return f"{len(both)} classes are" if len(both) > 1 else "1 class is"


def _such_as(both: Iterable[Any]) -> str:
    names = sorted(str(identity).rpartition("#")[0] for identity in both)
    named = [name for name in names if name]
    return f" (such as {named[0]})" if named else ""
