"""Agents in the plane: trajectories before and after adapting, a panel a task.

Axes: T tasks, E trajectories of each, H steps of each, O numbers observed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from kshot.report.canvas import ACCENT, INK, MUTED, PAPER
from kshot.report.episode import Episode, Paths
from kshot.rl import Family, collect, rollout
from kshot.rl.sampling import device_of, draw
from kshot.types import seeded
from kshot.vectorize import each_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS, COLUMNS = 2, 3  # panels
TRIED, SHOWN = 30, 4  # trajectories in each, before and after: averaged, and drawn one by one


def draw_trajectories(learner: Any, family: Family) -> Episode:
    """Of the first tasks of seeded(0), as many as there are panels."""
    training = learner.training
    learner.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            tasks = draw(family, ROWS * COLUMNS, seeded(0), device_of(learner))
            task = collect(learner, family, tasks, seeded(0, 1))
            fitted = each_task(learner.adapt, task.support)
            outputs = learner.predict(learner.adapt(task[0].support), task[0].query.x).cpu()
            tried = rollout(learner, learner.unadapted(), family, tasks, TRIED, seeded(0, 2))
            adapted = rollout(learner, fitted, family, tasks, TRIED, seeded(0, 3))
    finally:
        learner.train(training)
    before, after = family.plane(tasks, tried), family.plane(tasks, adapted)
    paths = None
    if before is not None and after is not None:
        paths = Paths(before[0].cpu(), after[0].cpu(), after[1].cpu())
    return Episode("trajectories", task[0].to("cpu"), outputs, paths=paths)


def tasks_in_the_plane(figure: Figure, paths: Paths, rect: tuple[float, float, float, float]) -> None:
    """A panel a task: some trajectories, and the mean of all. rect: the part of the figure; the legend stands above it."""
    left, bottom, width, height = rect
    reach, gap = _reach(paths), 0.03
    wide, high = (width + gap * width) / COLUMNS, (height + gap * height) / ROWS
    for i in range(len(paths.goals)):
        row, column = divmod(i, COLUMNS)
        corner = (left + column * wide, bottom + (ROWS - 1 - row) * high)
        ax = figure.add_axes((*corner, wide - gap * width, high - gap * height))
        _panel(ax, paths, i)
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=(), yticks=())
        ax.spines[:].set_visible(True)
    _legend(figure, left, bottom + height)


def _panel(ax: Axes, paths: Paths, i: int) -> None:
    for where, colour, alpha in ((paths.before[i], MUTED, 0.4), (paths.after[i], ACCENT, 0.35)):
        for path in where[:SHOWN].numpy():
            ax.plot(path[:, 0], path[:, 1], color=colour, linewidth=0.7, alpha=alpha)
    for where, colour in ((paths.before[i], MUTED), (paths.after[i], ACCENT)):
        mean = where.nanmean(0).numpy()
        ax.plot(mean[:, 0], mean[:, 1], color=PAPER, linewidth=4.2)
        ax.plot(mean[:, 0], mean[:, 1], color=colour, linewidth=2.4)
    x, y = paths.goals[i].tolist()
    ax.plot(*paths.before[i, 0, 0].tolist(), "o", color=INK, markersize=4.5, zorder=5)
    ax.plot(x, y, "o", color=PAPER, markeredgecolor=INK, markeredgewidth=1.8, markersize=10, zorder=6)
    ax.plot(x, y, "o", color=INK, markersize=2.5, zorder=7)


def _legend(figure: Figure, left: float, top: float) -> None:
    from matplotlib.lines import Line2D

    def mark(**look: Any) -> Line2D:
        return Line2D([], [], linestyle="none", marker="o", **look)

    handles = {
        "before adapting": Line2D([], [], color=MUTED, linewidth=2.4),
        f"after: {SHOWN} trajectories, mean of {TRIED}": Line2D([], [], color=ACCENT, linewidth=2.4),
        "start": mark(color=INK, markersize=4.5),
        "hidden goal": mark(color=PAPER, markeredgecolor=INK, markeredgewidth=1.6, markersize=8),
    }
    figure.legend(
        handles.values(), handles.keys(), loc="lower left", bbox_to_anchor=(left, top + 0.002), ncols=4,
        frameon=False, fontsize=8.5, labelcolor=INK, handlelength=1.5, columnspacing=1.4, handletextpad=0.5,
        borderpad=0.1,
    )  # fmt: skip


def _reach(paths: Paths) -> float:
    """What one window must show: the goals, and nearly all of the adapted paths."""
    adapted = paths.after[~paths.after.isnan()].abs()
    return 1.12 * max(float(paths.goals.abs().max()), float(adapted.quantile(0.99)))
