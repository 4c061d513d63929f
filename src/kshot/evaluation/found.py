"""What an evaluation found, and the difference between two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from kshot.audit import ENOUGH
from kshot.intervals import mean_interval, widened
from kshot.types import InputError

HIGHER_IS_BETTER = ("accuracy", "return")  # of the metrics; of others lower is
HUGE = 1e6  # an error from which on its size is all that it says


def shown_in(metric: str) -> tuple[float, str]:
    """Factor and unit for whom a figure is shown: an accuracy is a share, and is read in percent."""
    return (100.0, " %") if metric == "accuracy" else (1.0, "")


def figure(metric: str, mean: float, interval: float, signed: bool = False) -> str:
    """'98.31 ± 0.21 %', of a share 0.9831."""
    scale, unit = shown_in(metric)
    return written(metric, scale * mean, scale * interval, signed) + unit * math.isfinite(mean)


def written(metric: str, mean: float, interval: float, signed: bool = False) -> str:
    """'98.31 ± 0.21', of an accuracy in percent."""
    shown, off = rounded(metric, mean, interval)
    return "+" * (signed and mean >= 0) + shown + (f" ± {off}" if off else "")


def rounded(metric: str, mean: float, interval: float) -> tuple[str, str]:
    """An accuracy in percent has two decimals, others as many as the interval bears out; nothing for what is no number."""
    if not math.isfinite(mean):
        return "not a number", ""
    known = math.isfinite(interval)
    if abs(mean) >= HUGE:
        return f"{mean:.1e}".replace("-", "−"), f"{interval:.1e}" if known else ""
    places = 2
    if metric != "accuracy" and known and interval > 0:
        places = min(max(1 - math.floor(math.log10(interval)), 0), 6)
    return f"{mean:,.{places}f}".replace("-", "−"), f"{interval:,.{places}f}" if known else ""


@dataclass(frozen=True)
class Point:
    """One place on a curve: at `at` steps or shots, the metric and the half-width of its 95 % interval."""

    at: int
    mean: float
    interval: float


@dataclass(frozen=True)
class Calibration:
    """Of a classifier's confidence. ece: expected calibration error; bins: (mean confidence, accuracy, share of queries)."""

    ece: float
    bins: list[tuple[float, float, float]]


@dataclass(frozen=True)
class Evaluation:
    """metric: 'accuracy' (share of the queries that are right), 'mse', or 'return'; mean ± interval over tasks, 95 %."""

    metric: str
    mean: float
    interval: float
    values: list[float]
    episodes: int
    seed: int
    transductive: bool
    adapt_ms: float
    calibration: Calibration | None = None
    steps_curve: list[Point] | None = None
    shots_curve: list[Point] | None = None
    audit: list[str] = field(default_factory=list)  # what was checked before, in sentences
    tasks: str = ""  # a fingerprint of the first of them
    curve_episodes: int = 0  # tasks of the curves, the first of those of the mean; 0 without curves
    # Of each task, where those of one group are alike: what the interval is over.
    groups: list[int] = field(default_factory=list)

    @property
    def over(self) -> str:
        """What the interval is over, in words."""
        return over(self.episodes, len(set(self.groups)))

    @property
    def few(self) -> bool:
        """Whether papers average over more tasks."""
        return self.episodes < ENOUGH

    def __str__(self) -> str:
        note = (", fewer than papers use" if self.few else "") + (", transductive" if self.transductive else "")
        return f"{self.metric} {figure(self.metric, self.mean, self.interval)} (95 % interval over {self.over}{note})"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(kept: dict[str, Any]) -> Evaluation:
        """The inverse of to_dict, also after a trip through JSON, which has no number for what diverged."""
        kept = {**kept, "values": [math.nan if value is None else value for value in kept["values"]]}
        curves = {
            name: kept[name] and [Point(**numbers(p)) for p in kept[name]] for name in ("steps_curve", "shots_curve")
        }
        if (c := kept["calibration"]) is not None:
            kept["calibration"] = Calibration(**numbers({**c, "bins": [(b[0], b[1], b[2]) for b in c["bins"]]}))
        return Evaluation(**numbers({**kept, **curves}))


def numbers(kept: Mapping[str, Any]) -> dict[str, Any]:
    """With the mean, the interval and the rest that JSON had no number for."""
    return {
        name: math.nan if value is None and name in ("mean", "interval", "ece") else value
        for name, value in kept.items()
    }


@dataclass(frozen=True)
class Difference:
    """Of two learners on the very same tasks: the mean of the differences, with the 95 % interval of that mean."""

    metric: str
    mean: float
    interval: float
    episodes: int
    groups: int = 0  # that the tasks are of, where those of one group are alike
    trainings: int = 1  # of each learner, at least; from two on the interval is over these, too

    @property
    def shown(self) -> bool:
        """Whether there is one: the interval leaves out zero."""
        return abs(self.mean) > self.interval

    @property
    def verdict(self) -> str:
        """In words."""
        if not math.isfinite(self.mean):
            return "one of the two diverges"
        if not self.shown:
            return "no difference shown"
        return "better" if (self.mean > 0) == (self.metric in HIGHER_IS_BETTER) else "worse"

    def __str__(self) -> str:
        paired = f"paired over {over(self.episodes, self.groups)}"
        paired += f", and over {self.trainings} trainings" * (self.trainings > 1)
        return f"{figure(self.metric, self.mean, self.interval, signed=True)} ({paired}): {self.verdict}"


def over(episodes: int, groups: int) -> str:
    """What an interval is over, in words."""
    return f"{groups:,} groups, {episodes:,} tasks of them" if groups else f"{episodes:,} tasks"


def compare(one: Evaluation | Sequence[Evaluation], other: Evaluation | Sequence[Evaluation]) -> Difference:
    """one − other, task by task: 'A beats B' means that this is better than its interval is wide.

    The interval is over test tasks. That other trainings would come out alike is for several of each to show, such as of other
    seeds: given as lists, the difference is that of their means, and its interval over tasks and over trainings.
    """
    ours, theirs = ([e] if isinstance(e, Evaluation) else list(e) for e in (one, other))
    if not ours or not theirs:
        raise InputError("there is nothing to compare: give an evaluation, or a list of one for each training")
    first = ours[0]
    for e in [*ours, *theirs]:
        _check_same_tasks(first, e)
    gaps = [a - b for a, b in zip(_by_task(ours), _by_task(theirs), strict=True)]
    mean, interval = mean_interval(gaps, first.groups)
    trainings, groups = min(len(ours), len(theirs)), len(set(first.groups))
    if trainings > 1:
        interval = widened(interval, (groups or len(gaps)) - 1, *([e.mean for e in found] for found in (ours, theirs)))
    return Difference(first.metric, mean, interval, first.episodes, groups, trainings)


def _by_task(found: Sequence[Evaluation]) -> list[float]:
    """The mean over trainings."""
    return [fmean(values) for values in zip(*(e.values for e in found), strict=True)]


def _check_same_tasks(one: Evaluation, other: Evaluation) -> None:
    for name in ("metric", "episodes", "seed", "tasks"):
        a, b = getattr(one, name), getattr(other, name)
        if a != b or a == "":
            what = "the tasks are others" if name == "tasks" else f"{name} is {a!r} and {b!r}"
            raise InputError(
                f"these evaluations cannot be paired, {what}: evaluate both on the same tasks, with the same seed"
            )
