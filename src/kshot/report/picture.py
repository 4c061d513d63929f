"""report.png: the one picture of a run, an episode with its predictions beside a curve, for a README."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

from kshot.evaluation import Evaluation
from kshot.report import canvas, plots
from kshot.report.canvas import ACCENT, INK, MUTED, PAPER, RULE
from kshot.report.episode import Episode, class_name
from kshot.report.facts import Facts, Reference, finite_points, joined, metric_name, with_interval
from kshot.report.trajectories import tasks_in_the_plane

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 10.0, 5.0
ROWS, COLUMNS = 5, 10
PITCH = 1.16  # of tiles that are 1 wide


def picture(
    facts: Facts, episode: Episode, evaluation: Evaluation, title: str, setting: str, reference: Reference
) -> bytes:
    """The PNG. setting: '5-way 1-shot classification'."""

    def draw(figure: Figure) -> None:
        mean, interval, unit = with_interval(evaluation, evaluation.metric)
        size = 15 if len(title) <= 54 else 11.5
        figure.text(0.04, 0.925, _short(title, 78), fontsize=size, fontweight="bold", va="baseline", parse_math=False)
        note = ", transductive" if evaluation.transductive else ""
        figure.text(
            0.04,
            0.868,
            f"{setting}; {evaluation.episodes:,} test tasks{note}",
            fontsize=9.5,
            color=MUTED,
            va="baseline",
        )
        figure.text(0.965, 0.925, joined(mean, interval, unit), fontsize=15, color=ACCENT, ha="right", va="baseline")
        figure.text(
            0.965, 0.868, f"{metric_name(evaluation.metric)}, 95 % interval", fontsize=9.5, color=MUTED, ha="right",
            va="baseline",
        )  # fmt: skip
        figure.add_artist(_hairline(figure, 0.835))
        drawn = {"images": _tiles, "function": _function, "trajectories": _trajectories}.get(episode.kind, _outcome)
        drawn(figure, episode)
        _curve(figure, facts, evaluation, reference)

    return canvas.png(draw, WIDTH, HEIGHT)


def _hairline(figure: Figure, y: float) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([0.04, 0.965], [y, y], color=RULE, linewidth=0.8, transform=figure.transFigure)


def _function(figure: Figure, episode: Episode) -> None:
    ax = canvas.frame(figure, "x", "y", rect=(0.07, 0.125, 0.535, 0.64))
    plots.regression(ax, episode)


def _trajectories(figure: Figure, episode: Episode) -> None:
    if episode.paths is not None:
        tasks_in_the_plane(figure, episode.paths, (0.035, 0.03, 0.60, 0.735))


def _outcome(figure: Figure, episode: Episode) -> None:
    ax = canvas.frame(figure, "", "", rect=(0.075, 0.125, 0.50, 0.62))
    plots.outcome(ax, episode)
    ax.set_xlabel("predicted" if episode.ways else "true value")
    ax.set_title("true class" if episode.ways else "predicted value", loc="left", fontsize=8.5, color=MUTED, pad=6)


def _tiles(figure: Figure, episode: Episode) -> None:
    """A row a class: the examples to learn from, then queries as they were drawn, each with its prediction."""
    ways = min(episode.ways, ROWS)
    support = [episode.of_class(c, "support")[:4] for c in range(ways)]
    shown = max(map(len, support))
    queries = [episode.of_class(c, "query")[: COLUMNS - shown] for c in range(ways)]
    ax = figure.add_axes((0.035, 0.03, 0.60, 0.795))
    gap, left = 0.5, 0.45
    right = left + shown * PITCH + gap + max(map(len, queries)) * PITCH
    ax.set(xlim=(0, max(right, 11.9)), ylim=(max(ways, 3) * 1.5 + 0.62, 0), aspect="equal", anchor="NW")
    ax.axis("off")
    all_shown = shown == max(len(episode.of_class(c, "support")) for c in range(ways))
    ax.text(left, 0.36, "support" if all_shown else f"support, {shown} of {episode.shots}", fontsize=8.5, color=MUTED)
    ax.text(
        left + shown * PITCH + gap,
        0.36,
        "query of a typical task, with the predicted class and its probability",
        fontsize=8.5,
        color=MUTED,
    )
    predicted, probability, good = episode.predicted, episode.probability, episode.right
    for c in range(ways):
        y = 0.55 + 1.5 * c
        ax.text(0.02, y + 0.5, class_name(c, episode.ways), fontsize=11, fontweight="bold", va="center")
        for k, i in enumerate(support[c]):
            _tile(ax, episode.picture("support", i), left + PITCH * k, y, RULE, 0.8)
        for k, i in enumerate(queries[c]):
            x = left + shown * PITCH + gap + PITCH * k
            _tile(ax, episode.picture("query", i), x, y, RULE if good[i] else INK, 0.8 if good[i] else 1.5)
            text = f"{class_name(predicted[i], episode.ways)} {_percent(probability[i])}"
            _verdict(ax, x + 0.5, y + 1.2, text if good[i] else f"× {text}", good[i])


def _tile(ax: Axes, pixels: Any, x: float, y: float, edge: str, width: float) -> None:
    from matplotlib.patches import Rectangle

    ax.imshow(
        pixels, extent=(x, x + 1, y + 1, y), cmap="gray", vmin=0, vmax=255, interpolation="antialiased", aspect="equal"
    )
    out = 0.0 if width < 1 else 0.045  # a heavy frame stands off: images may be as dark as it is
    ax.add_patch(Rectangle((x - out, y - out), 1 + 2 * out, 1 + 2 * out, fill=False, edgecolor=edge, linewidth=width))


def _verdict(ax: Axes, x: float, y: float, text: str, right: bool) -> None:
    box = None if right else {"boxstyle": "round,pad=0.18,rounding_size=0.2", "facecolor": INK, "linewidth": 0}
    ax.text(x, y, text, fontsize=7, ha="center", va="center", color=INK if right else PAPER, bbox=box)


def _curve(figure: Figure, facts: Facts, evaluation: Evaluation, reference: Reference) -> None:
    """Against inner steps, else shots, else outer steps; else how tasks differ."""
    rect = (0.70, 0.125, 0.265, 0.64)
    metric = evaluation.metric
    steps, shots = finite_points(evaluation.steps_curve), finite_points(evaluation.shots_curve)
    trained_on, validation = facts.validation()
    if len(steps) > 1 or len(shots) > 1:
        points, x = (steps, "inner steps") if len(steps) > 1 else (shots, f"shots{' per class' if reference else ''}")
    elif len(validation) > 1:
        points, x, metric = validation, "outer step", trained_on
    else:
        values = [v for v in evaluation.values if math.isfinite(v)]
        if values:
            plots.spread(figure.add_axes(rect), values, metric, evaluation.mean)
        return
    ax = canvas.frame(figure, x, plots.axis_label(metric), rect=rect)
    if x.startswith("shots") and len(points) > 2:
        ax.set_xscale("log")
    plots.curve(ax, points, metric, reference=reference)
    plots.whole_ticks(ax, [p.at for p in points])
    ax.set_ylim(*plots.limits([points], metric, reference))


def _percent(p: float) -> str:
    return f"{100 * p:.0f} %" if p == p else "—"


def _short(text: str, most: int) -> str:
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    clause = max(line.rfind("; ", 0, most), line.rfind(": ", 0, most))
    return line[:clause] if clause > 0 else textwrap.shorten(line, most, placeholder=" …") or line[:most]
