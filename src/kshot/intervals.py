"""A mean, and how far it could be off for want of tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance

import torch

# Half-widths of the 95 % interval in standard errors, Student's t with 1, 2, … degrees of freedom.
STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
NORMAL = 1.959964


def mean_interval(values: Sequence[float], groups: Sequence[int] = ()) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval.

    groups: which one each value is of, where those of one are alike: many tasks of one patient. The mean is then over groups.
    """
    if groups:
        members: dict[int, list[float]] = {}
        for group, value in zip(groups, values, strict=True):
            members.setdefault(group, []).append(value)
        values = [fmean(found) for found in members.values()]
    found = torch.tensor(values, dtype=torch.float64)  # a learner that diverges has an infinite error, not an exception
    if len(values) == 1:
        return float(found), math.nan  # one says nothing of how far it could be off
    return float(found.mean()), student(len(values) - 1) * float(found.std()) / math.sqrt(len(values))


def widened(interval: float, freedom: int, *trainings: Sequence[float]) -> float:
    """The half-width of an interval over tasks, with what other trainings would change: for each learner, the means of several.

    The variances add up; the degrees of freedom are Welch's, rounded down. What hangs on the task and on the training is in both
    parts, so that where trainings differ little the interval is rather too wide: it leaves out zero less often than it may.
    """
    parts = [((interval / student(freedom)) ** 2, freedom)]
    parts += [(variance(means) / len(means), len(means) - 1) for means in trainings]
    total = sum(part for part, _ in parts)
    if not total > 0:
        return interval  # nothing differs, or something diverges
    return student(int(total**2 / sum(part**2 / free for part, free in parts))) * math.sqrt(total)


def student(freedom: int) -> float:
    """By a table, and beyond it by an expansion in 1 / freedom (Abramowitz and Stegun 26.7.5)."""
    if freedom < 1:
        return math.nan
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z, n = NORMAL, freedom
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )
