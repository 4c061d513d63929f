"""What is checked before each training and evaluation, so that its number means what it says.

Each check refuses with what is wrong, or says in a sentence what was found: those stand in the evaluation and its report.
"""

from __future__ import annotations

import operator
from typing import Any

import torch

from kshot.audit.predictions import each_by_itself
from kshot.audit.sources import halves_apart, labels_are_drawn, repeatable, seeds_differ
from kshot.audit.splits import by, overlap, refuse_both, refuse_known, refuse_seen
from kshot.learner import MetaLearner
from kshot.types import InputError, TaskSource, identities

ENOUGH = 600  # tasks: what papers average over
MOST = 2**63  # of a seed, and one less: what torch takes
FEW_CLASSES = 4  # times the ways: of fewer classes an interval over tasks is too narrow

__all__ = [
    "ENOUGH",
    "after_evaluation",
    "before_evaluation",
    "before_training",
    "check_seed",
    "overlap",
    "refuse_known",
]


def before_training(tasks: TaskSource, validate: TaskSource | None, learner: MetaLearner, seed: int) -> list[str]:
    """Raise InputError unless what is trained on, and what is validated on, are apart and repeatable."""
    found = _of("training tasks", tasks, seed)
    if validate is not None:
        found += _of("validation tasks", validate, seed)
        refuse_both(tasks, validate)
        refuse_seen(learner, validate)
        if identities(validate):
            found += [f"no class is in both the training and the validation tasks, {by(validate)}"]
    return found


def before_evaluation(
    learner: MetaLearner, tasks: TaskSource, seed: int, allow_seen: bool, device: torch.device
) -> list[str]:
    """Raise InputError unless the evaluation would be of new classes, repeatable, and of nothing but learning."""
    found = [
        "classes that it was trained on are allowed" if allow_seen else refuse_seen(learner, tasks),
        repeatable(tasks, seed),
        halves_apart(tasks, seed),
        labels_are_drawn(tasks, seed),
        *each_by_itself(learner, tasks, seed, device),
        seeds_differ(tasks, seed),
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


def _of(name: str, tasks: TaskSource, seed: int) -> list[str]:
    checks = (repeatable, halves_apart, labels_are_drawn)
    return [f"{name}: {sentence}" for sentence in (check(tasks, seed) for check in checks) if sentence]


def check_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise InputError(f"seed={seed!r}: an evaluation that cannot be repeated shows little, give a whole number")
    if not -MOST <= (number := operator.index(seed)) < MOST:
        raise InputError(f"seed={seed}: give a whole number of at most {MOST - 1:,}")
    return number
