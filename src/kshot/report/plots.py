"""The charts: each function draws one into a figure or axes that it is given. Bands are 95 % intervals of the mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kshot.evaluation import HIGHER_IS_BETTER, Calibration, Point
from kshot.report.canvas import ACCENT, INK, MUTED, PAPER, frame, name_axes
from kshot.report.episode import Episode, class_name
from kshot.report.facts import Reference, metric_name, scaled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = 30.0  # a range of positive values beyond this factor is read on a logarithmic axis
BAND = 0.18


def loss(figure: Figure, series: Sequence[tuple[int, float]]) -> None:
    """The meta-loss as logged, and, if that is many values, a moving average over a twentieth of the run."""
    steps, values = np.array([s for s, _ in series]), np.array([v for _, v in series])
    ax = frame(figure, "outer step", "meta-loss")
    window = len(values) // 20
    smooth = window >= 2
    if smooth:
        ax.plot(steps, values, color=MUTED, linewidth=0.8, alpha=0.5)
    ax.plot(steps, _moving_average(values, window) if smooth else values, color=ACCENT, linewidth=1.6)
    _wide_axis(ax, values)
    _steps_axis(ax, float(steps.max()))


def course(figure: Figure, points: Sequence[Point], metric: str, x: str, reference: Reference) -> None:
    """A metric against outer steps; the best validation is the learner that was kept."""
    best = (max if metric in HIGHER_IS_BETTER else min)(points, key=lambda p: p.mean)
    ax = frame(figure, x, axis_label(metric))
    curve(ax, points, metric, reference=reference)
    ax.plot(
        best.at,
        scaled(metric)[0] * best.mean,
        "o",
        markersize=7,
        color=PAPER,
        markeredgecolor=ACCENT,
        markeredgewidth=1.6,
    )
    _steps_axis(ax, float(max(p.at for p in points)))


def adaptation(
    figure: Figure,
    points: Sequence[Point],
    metric: str,
    x: str,
    limits: tuple[float, float],
    reference: Reference,
) -> None:
    """A metric against what the learner was given: inner steps, or shots."""
    ax = frame(figure, x, axis_label(metric))
    if x.startswith("shots") and len(points) > 2:
        ax.set_xscale("log")
    curve(ax, points, metric, reference=reference)
    whole_ticks(ax, [p.at for p in points])
    ax.set_ylim(*limits)


def curve(ax: Axes, points: Sequence[Point], metric: str, *, reference: Reference = None) -> None:
    factor = scaled(metric)[0]
    at = np.array([p.at for p in points], dtype=float)
    mean, half = factor * np.array([p.mean for p in points]), factor * np.array([p.interval for p in points])
    low = np.maximum(mean - half, 0) if metric in ("accuracy", "mse") else mean - half
    high = np.minimum(mean + half, 100) if metric == "accuracy" else mean + half
    ax.fill_between(at, low, high, color=ACCENT, alpha=BAND, linewidth=0)
    ax.plot(at, mean, "-o", color=ACCENT, linewidth=1.6, markersize=4 if len(at) <= 25 else 0)
    if reference is not None:
        name, value = reference
        ax.axhline(factor * value, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2.5)))
        ax.annotate(
            name, (1, factor * value), (0, 3), xycoords=ax.get_yaxis_transform(), textcoords="offset points",
            ha="right", va="bottom", fontsize=8, color=MUTED,
        )  # fmt: skip


def shared_limits(curves: Sequence[Sequence[Point]], metric: str, reference: Reference) -> list[tuple[float, float]]:
    """A vertical range for each curve: one for all, so that they compare, unless it would flatten one of them."""
    own = [limits([points], metric, reference) for points in curves]
    every = limits(curves, metric, reference)
    flat = any(every[1] - every[0] > 2.5 * (high - low) for low, high in own)
    return own if flat else [every] * len(curves)


def limits(curves: Sequence[Sequence[Point]], metric: str, reference: Reference) -> tuple[float, float]:
    """One vertical range for several curves."""
    factor = scaled(metric)[0]
    ends = [factor * (p.mean + sign * p.interval) for points in curves for p in points for sign in (-1, 1)]
    ends += [factor * reference[1]] if reference is not None else []
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    if metric == "accuracy":
        low, high = max(low, 0), min(high, 100)
    room = 0.06 * (high - low) or 1.0
    if metric == "mse":
        return 0.0, high + room
    return low - room, high + room


def regression(ax: Axes, episode: Episode) -> None:
    """The points to learn from, the points to be judged on, and the function before and after adapting."""
    looks = {
        "before": (MUTED, 1.2, (0, (5, 3))),
        "further": (INK, 1.1, (0, (1, 1.6))),
        "adapted": (ACCENT, 2.2, "-"),
    }
    x = episode.grid.numpy()
    for c in episode.curves:
        colour, width, dash = looks[c.role]
        ax.plot(x, c.values.numpy(), color=colour, linewidth=width, linestyle=dash, label=c.label)
    query, support = episode.task.query, episode.task.support
    ax.plot(
        query.x.flatten(),
        query.y.flatten(),
        "o",
        color="none",
        markeredgecolor=MUTED,
        markersize=4,
        label="true values",
    )
    ax.plot(
        support.x.flatten(), support.y.flatten(), "o", color=INK, label="support", zorder=5,
        markeredgecolor=PAPER, markersize=7.5, markeredgewidth=1,
    )  # fmt: skip
    ax.margins(x=0.015, y=0.08)
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(
        handles[::-1], labels[::-1], loc="lower right", bbox_to_anchor=(1.005, 1.0), ncols=len(labels), frameon=False,
        fontsize=8, labelcolor=INK, handlelength=1.8, columnspacing=1.3, handletextpad=0.5, borderpad=0.1,
    )  # fmt: skip


def outcome(ax: Axes, episode: Episode) -> None:
    """An episode of any other data: classes that were confused, or predicted against true values."""
    ax.grid(False)
    if episode.ways:
        _confusion(ax, episode)
        return
    true, found = episode.task.query.y.double().flatten().numpy(), episode.outputs.double().flatten().numpy()
    kept = np.isfinite(true) & np.isfinite(found)
    ends = [*true[kept], *found[kept]] or [0.0, 1.0]
    low, high = min(ends), max(ends)
    room = 0.05 * (high - low) or 1.0
    ax.plot([low - room, high + room], [low - room, high + room], color=MUTED, linewidth=0.9, linestyle=(0, (1, 2.5)))
    ax.plot(true[kept], found[kept], "o", color=ACCENT, markersize=4.5, alpha=0.75, markeredgewidth=0)
    ax.set(xlim=(low - room, high + room), ylim=(low - room, high + room))


def _confusion(ax: Axes, episode: Episode) -> None:
    ways = episode.ways
    counts = np.zeros((ways, ways), dtype=int)
    np.add.at(counts, (episode.task.query.y.numpy(), np.array(episode.predicted)), 1)
    most = counts.max()
    for true, found in np.ndindex(ways, ways):
        share = counts[true, found] / most
        ax.fill(
            found + np.array([-0.47, 0.47, 0.47, -0.47]), true + np.array([-0.47, -0.47, 0.47, 0.47]),
            color=ACCENT if true == found else INK, alpha=float(0.06 + 0.8 * share), linewidth=0,
        )  # fmt: skip
        if counts[true, found] and ways <= 12:
            light = share > 0.55
            ax.text(found, true, str(counts[true, found]), ha="center", va="center", color=PAPER if light else INK)
    names = [class_name(c, ways) for c in range(ways)]
    every = 1 if ways <= 26 else math.ceil(ways / 20)
    ax.set_xticks(range(0, ways, every), names[::every])
    ax.set_yticks(range(0, ways, every), names[::every])
    ax.set(xlim=(-0.5, ways - 0.5), ylim=(ways - 0.5, -0.5), aspect="equal")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def reliability(figure: Figure, calibration: Calibration) -> None:
    """Confidence against accuracy, and below it how often each confidence was given."""
    bins = [b for b in calibration.bins if all(map(math.isfinite, b))]
    ax = frame(figure, "", "accuracy (%)", rect=(0.125, 0.33, 0.845, 0.535))
    sure, right, share = (100 * np.array(column) for column in zip(*bins, strict=True))
    ax.plot([0, 100], [0, 100], color=MUTED, linewidth=0.9, linestyle=(0, (1, 2.5)))
    ax.plot(sure, right, "-o", color=ACCENT, linewidth=1.6, markersize=4)
    ax.set(xlim=(0, 100), ylim=(-3, 103), yticks=(0, 50, 100), xticks=range(0, 101, 20), xticklabels=[])
    below = figure.add_axes((0.125, 0.165, 0.845, 0.125))
    below.bar(sure, share, width=5, color=MUTED, linewidth=0)
    below.set(xlim=(0, 100), ylim=(0, max(float(share.max()), 1.0)), yticks=(), xticks=range(0, 101, 20))
    below.spines["left"].set_visible(False)
    below.set_xlabel("confidence (%)", labelpad=5)


def spread(ax: Axes, values: Sequence[float], metric: str, mean: float) -> None:
    """How the metric differs from task to task."""
    factor = scaled(metric)[0]
    name_axes(ax, f"{axis_label(metric)} of a task", "tasks")
    shown = factor * np.array(values)
    bins: int | list[float] = min(30, max(8, len(shown) // 8))
    different = np.unique(shown.round(9))
    if len(different) > 1:
        width = np.diff(different).min()
        bars = round((different[-1] - different[0]) / width) + 1
        if bars <= 60:  # accuracies over few queries: a bar a value
            bins = [different[0] + (i - 0.5) * width for i in range(bars + 1)]
    ax.hist(shown, bins=bins, color=ACCENT, alpha=0.55, rwidth=0.86, linewidth=0)
    ax.axvline(factor * mean, color=INK, linewidth=1.1)
    ax.set_ylim(0, 1.14 * ax.dataLim.ymax)  # room for the word
    left = factor * mean > sum(ax.get_xlim()) / 2
    ax.annotate(
        "mean", (factor * mean, 1), (-4 if left else 4, 0), xycoords=ax.get_xaxis_transform(),
        textcoords="offset points", ha="right" if left else "left", va="top", fontsize=8, color=INK,
    )  # fmt: skip


def axis_label(metric: str) -> str:
    unit = scaled(metric)[1]
    return f"{metric_name(metric)} ({unit})" if unit else metric_name(metric)


def whole_ticks(ax: Axes, at: Sequence[int]) -> None:
    """Ticks at the places that were measured, thinned where there are many."""
    from matplotlib.ticker import NullLocator

    every = math.ceil(len(at) / 11)
    ax.set_xticks(at[::every], [f"{a:,}" for a in at[::every]])
    ax.xaxis.set_minor_locator(NullLocator())


def _steps_axis(ax: Axes, last: float) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.set_xlim(0, 1.03 * last)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _wide_axis(ax: Axes, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if values.min() > 0 and values.max() > WIDE * values.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if values.max() < 1000 * values.min() else (1.0,)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.tick_params(which="minor", length=0)


def _moving_average(
    values: np.ndarray[tuple[int], np.dtype[np.float64]], window: int
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Centred; at the ends over what there is."""
    ones = np.ones(2 * (window // 2) + 1)
    mean: np.ndarray[tuple[int], np.dtype[np.float64]] = np.convolve(values, ones, "same") / np.convolve(
        np.ones_like(values), ones, "same"
    )
    return mean
