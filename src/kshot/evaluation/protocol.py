"""Which tasks an evaluation is of: they depend on its seed alone, and are the same for every learner."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from kshot.learner import MetaLearner
from kshot.types import Task, TaskSource, draw, seeded

TESTED = 0x7E57
TASKS_AT_ONCE = 20  # drawn from a generator of their own
SHOTS = (1, 2, 3, 5, 10, 20)  # of a curve


def first_task(learner: MetaLearner, tasks: TaskSource, seed: int) -> Task:
    """On the learner's device."""
    return draw(tasks, 1, stream(seed, 0), slice(0, 1)).to(device_of(learner))[0]


def at_once(tasks: TaskSource) -> int:
    """How many are drawn from one generator: an interval needs independent tasks."""
    return 1 if getattr(tasks, "varies", False) else TASKS_AT_ONCE


def nth_task(tasks: TaskSource, seed: int, n: int) -> Task:
    """Of those that an evaluation is over."""
    batch, place = divmod(n, at_once(tasks))
    return draw(tasks, at_once(tasks), stream(seed, batch), slice(place, place + 1))[0]


def stream(seed: int, i: int) -> torch.Generator:
    """Of the i-th batch of tasks: none that a training of any seed meets, where there are no classes to keep apart."""
    return seeded(seed, i, TESTED)


def fingerprint(*parts: object) -> str:
    """Of tensors, by their values, and of anything else, by how it is written."""
    found = hashlib.blake2b(digest_size=12)
    for part in parts:
        found.update(str((part.shape, part.dtype) if isinstance(part, Tensor) else part).encode())
        if isinstance(part, Tensor):
            found.update(part.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def fingerprint_of(tasks: TaskSource, seed: int) -> str:
    """Of the first tasks of an evaluation: two with another one were not measured on the same."""
    first = draw(tasks, TASKS_AT_ONCE, stream(seed, 0))
    s, q = first.support, first.query
    return fingerprint(s.x, s.y, q.x, q.y, s.ways)


def device_of(learner: MetaLearner) -> torch.device:
    return next((p.device for p in learner.parameters()), torch.device("cpu"))
