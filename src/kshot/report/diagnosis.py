"""doctor.png: the inner loop, the meta-gradient's direction in each mode, and memory against steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kshot.doctor import Diagnosis, Mode
from kshot.report import canvas
from kshot.report.canvas import ACCENT, INK, MUTED, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT = 3.7
PANEL = 3.6  # inches of width
NAMES = 0.55  # more, for those at the ends of lines
LOOKS = tuple((colour, dash) for dash in ("-", (0, (5, 2)), (0, (1, 1.5))) for colour in (ACCENT, INK, MUTED))


def picture(d: Diagnosis, title: str) -> bytes:
    """The PNG, with as many panels as there is to show."""
    able = [m for m in d.modes if m.why is None]
    panels = [*([_steps] if d.inner else []), *([_cosines, _memory] if able else [_modules] if d.modules else [])]
    total = max(2, len(panels)) * PANEL + (NAMES if able else 0)

    def draw(figure: Figure) -> None:
        top = 1 - 0.42 / HEIGHT
        figure.text(0.28 / total, top, title, fontsize=13, fontweight="bold", parse_math=False)
        where = "trained" if d.trained else "at its initial weights"
        words = f"{d.learner}, {where}; {d.tasks} tasks"
        figure.text(0.28 / total, top - 0.26 / HEIGHT, words, fontsize=9, color=MUTED)
        wide = PANEL if len(panels) > 1 else 2 * PANEL
        for i, panel in enumerate(panels):
            room = (0.62 + i * PANEL) / total, 0.56 / HEIGHT, (wide - 0.95) / total, (HEIGHT - 1.7) / HEIGHT
            panel(figure.add_axes(room), d)

    return canvas.png(draw, total, HEIGHT)


def _steps(ax: Axes, d: Diagnosis) -> None:
    canvas.name_axes(ax, "inner step", "gradient norm")
    shown = [(s.step, s.gradient) for s in d.inner if math.isfinite(s.gradient)]
    if not shown:
        ax.text(0.5, 0.5, "not finite", transform=ax.transAxes, ha="center", color=MUTED)
        return
    ax.plot(*zip(*shown, strict=True), "-o", color=ACCENT, linewidth=1.6, markersize=4 if len(shown) <= 25 else 0)
    values = [v for _, v in shown]
    if min(values) > 0 and max(values) > 30 * min(values):
        ax.set_yscale("log")
    else:
        ax.set_ylim(0, 1.1 * max(values) or 1.0)
    _whole(ax)


def _cosines(ax: Axes, d: Diagnosis) -> None:
    """A row a mode: the mean over tasks, and a line from the lowest to the highest."""
    rows = [m for m in d.modes if m.cosine is not None]
    for y, m in enumerate(rows):
        if m.cosine is not None:
            ax.plot([m.cosine.low, m.cosine.high], [y, y], color=MUTED, linewidth=1.4)
            ax.plot(m.cosine.mean, y, "o", color=ACCENT if m.exact else INK, markersize=5)
    low = min([m.cosine.low for m in rows if m.cosine and math.isfinite(m.cosine.low)] or [0.0])
    canvas.name_axes(ax, "", "cosine with the exact meta-gradient")
    ax.grid(axis="y", visible=False)
    ax.axvline(1, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2.5)))
    room = 0.06 * (1 - low) or 0.1
    ax.set(xlim=(low - room, 1 + room), ylim=(len(rows) - 0.5, -0.5))
    ax.set_yticks(range(len(rows)), [m.hypergradient for m in rows])
    ax.tick_params(axis="y", length=0, pad=4)
    x0, y0, w, h = ax.get_position().bounds
    names = 0.62 / ax.figure.get_figwidth()  # type: ignore[union-attr]
    ax.set_position((x0 + names, y0, w - names, h))


def _memory(ax: Axes, d: Diagnosis) -> None:
    """Lines are forecast from the small dots; the large ones were measured afterwards."""
    rows = [m for m in d.modes if m.forecast is not None]
    far = max(m.forecast.steps for m in rows if m.forecast)
    top = max(max(m.forecast.curve[-1], m.forecast.measured or 0) for m in rows if m.forecast)
    unit, name = next((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")) if top >= u or u == 1.0)
    canvas.name_axes(ax, "inner steps (line: forecast, ○: measured)", f"memory of one task ({name})")
    looks = dict(zip([m.hypergradient for m in rows], LOOKS * 2, strict=False))
    for m in rows:
        f = m.forecast
        if f is None:
            continue
        colour, dash = looks[m.hypergradient]
        start = f.seen[0][0]
        ax.plot(
            range(start, f.steps + 1),
            [b / unit for b in f.curve[start - 1 :]],
            color=colour,
            linestyle=dash,
            linewidth=1.4,
        )
        ax.plot(*zip(*((s, b / unit) for s, b in f.seen), strict=True), "o", color=colour, markersize=2.6)
        if f.measured is not None:
            ax.plot(f.steps, f.measured / unit, "o", color=PAPER, markeredgecolor=colour, markersize=5.5, zorder=5)
    ax.set(xlim=(0, 1.04 * far), ylim=(0, 1.12 * top / unit))
    _whole(ax)
    _labels(ax, rows, looks, unit)


def _labels(ax: Axes, rows: list[Mode], looks: Mapping[str, tuple[str, object]], unit: float) -> None:
    """Names at the ends of the lines, moved apart where they would meet."""
    low, high = ax.get_ylim()
    ends = sorted((m.forecast.curve[-1] / unit, m.hypergradient) for m in rows if m.forecast)
    apart, places = 0.085 * (high - low), [low]
    for value, _ in ends:
        places.append(max(value, places[-1] + apart))
    for i in range(len(places) - 1, 0, -1):  # and down again, where they stand above the top
        places[i] = min(places[i], high - (len(places) - 1 - i) * apart)
    for (_, name), at in zip(ends, places[1:], strict=True):
        colour = looks[name][0]
        ax.annotate(name, (1.04, at), xycoords=ax.get_yaxis_transform(), fontsize=7.5, va="center", color=colour)


def _modules(ax: Axes, d: Diagnosis) -> None:
    rows = sorted(d.modules.items(), key=lambda row: -row[1])[:12]
    canvas.name_axes(ax, "", "norm of the meta-gradient, by module")
    ax.grid(axis="y", visible=False)
    ax.barh(range(len(rows)), [v for _, v in rows], color=ACCENT, alpha=0.75, height=0.6)
    ax.set_yticks(range(len(rows)), [n for n, _ in rows])
    ax.invert_yaxis()
    x0, y0, w, h = ax.get_position().bounds
    names = 0.9 / ax.figure.get_figwidth()  # type: ignore[union-attr]
    ax.set_position((x0 + names, y0, w - names, h))


def _whole(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
