"""A figure: a row of a paper measured with one seed or several, how it is written, and whether it reaches its target."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kshot.audit import ENOUGH
from kshot.evaluation import HIGHER_IS_BETTER, Evaluation, rounded, shown_in, written
from kshot.machine import versions
from kshot.recipes.paper import Row

ASTRAY = 1e3  # times the median: an error beyond it is of a learner that diverges on this task
SMALL = 0.0095  # below it three decimals say too little


@dataclass(frozen=True)
class Figure:
    """One row of the paper, measured with one seed. Accuracies in percent; the interval is over test tasks.

    median, diverged: of errors, and how many tasks have one that is a thousand times that.
    measured: the day, and the commit of kshot.
    """

    metric: str
    mean: float
    interval: float
    episodes: int
    seed: int  # of the test tasks
    transductive: bool
    adapt_ms: float
    audit: list[str]
    median: float | None = None
    diverged: int = 0
    measured: str = ""

    @staticmethod
    def of(found: Evaluation) -> Figure:
        error = found.metric not in HIGHER_IS_BETTER
        scale, _ = shown_in(found.metric)
        median = statistics.median(found.values) if error else None
        astray = ASTRAY * median if median else math.inf  # where most tasks have no error, any other is no divergence
        return Figure(
            found.metric, scale * found.mean, scale * found.interval, found.episodes, found.seed, found.transductive,
            round(found.adapt_ms, 3), found.audit, median,
            sum(not (math.isfinite(x) and x <= astray) for x in found.values) if error else 0,
            f"{time.strftime('%Y-%m-%d')}, {versions().get('commit', 'no commit')}",
        )  # fmt: skip

    def __str__(self) -> str:
        return written(self.metric, self.mean, self.interval) + _few(self.episodes)


@dataclass(frozen=True)
class Ours:
    """A row's figure over all seeds. interval: over test tasks, the mean of the seeds'; spread: standard deviation of seeds.

    astray: of those that diverge on some task, which makes a mean that says nothing; steady: the same figure over the others.
    """

    metric: str
    mean: float
    interval: float
    spread: float | None
    seeds: int
    transductive: bool
    episodes: int  # of one seed
    astray: Astray | None = None
    steady: Ours | None = None

    def __str__(self) -> str:
        """'99.02 ± 0.14', and of several seeds their standard deviation."""
        if self.astray is not None:
            a = self.astray
            who = f"{a.seeds} of {self.seeds} seeds " if self.seeds > 1 else ""
            diverges = f"{who}diverge{'s' * (a.seeds == 1)} on {a.tasks:,} of {a.seeds * self.episodes:,} tasks"
            diverges += f", median error {shown(self.metric, a.median)}"
            without = "" if self.steady is None else f"; without {'it' if a.seeds == 1 else 'them'} {self.steady}"
            of_all = f"{replace(self, astray=None)}; " if self.mean < ASTRAY * a.median else ""
            return f"{of_all}{diverges}{without}"
        spread = f" ‖ {rounded(self.metric, self.spread, self.spread)[0]}" if self.spread is not None else ""
        return written(self.metric, self.mean, self.interval) + spread + _few(self.episodes)


@dataclass(frozen=True)
class Astray:
    """Seeds that diverge on some task, on how many tasks together, and the median of their errors."""

    seeds: int
    tasks: int
    median: float


def over_seeds(found: Sequence[Figure]) -> Ours | None:
    if not found:
        return None
    means = [figure.mean for figure in found]
    finite = all(map(math.isfinite, means))  # a learner that diverges has an error that is none
    spread = statistics.stdev(means) if finite and len(means) > 1 else None
    interval = statistics.fmean(figure.interval for figure in found)
    strays = [figure for figure in found if figure.diverged]
    medians = [figure.median for figure in strays if figure.median is not None]
    astray = (
        Astray(len(strays), sum(figure.diverged for figure in strays), statistics.fmean(medians)) if medians else None
    )
    steady = over_seeds([figure for figure in found if not figure.diverged]) if astray else None
    return Ours(
        found[0].metric, statistics.fmean(means), interval, spread, len(found), found[0].transductive, found[0].episodes,
        astray, steady,
    )  # fmt: skip


def reached(row: Row, ours: Ours | Figure | None) -> bool | None:
    """Whether the row's target was; None where nothing is known."""
    if ours is None or row.target is None:
        return None
    return ours.mean >= row.target if ours.metric in HIGHER_IS_BETTER else ours.mean <= row.target


def shown(metric: str, value: float) -> str:
    """An accuracy is in percent, and says enough with two decimals; an error may be small, or huge."""
    if metric == "accuracy":
        return f"{value:.2f}"
    if 0 < abs(value) < SMALL:
        return f"{value:.2g}"
    return f"{value:.3f}" if abs(value) < 1e4 else f"{value:.0e}"


def _few(episodes: int) -> str:
    return f" ({episodes} tasks)" if episodes < ENOUGH else ""
