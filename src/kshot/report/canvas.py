"""How every figure looks, and how it becomes bytes: matplotlib without pyplot, without global state, without a clock.

An SVG for the page carries CSS variables in place of colours, so it follows the page
into the dark; a PNG is always light.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kshot.types import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One accent, the rest is ink in three strengths. Every kind of colour vision tells the blue from the greys.
INK, MUTED, RULE, ACCENT, PAPER = "#1d2129", "#6b7280", "#d9dce1", "#0b62a8", "#fefefe"
VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", ACCENT: "--accent", PAPER: "--paper"}
DARK = {INK: "#e6e8eb", MUTED: "#9aa3af", RULE: "#363b43", ACCENT: "#6cb2f0", PAPER: "#16181d"}

SMALL_AXES = (0.125, 0.165, 0.845, 0.70)  # where the axes of a small figure lie: in all of them at the same place

_FAMILIES = ("Inter", "Helvetica Neue", "Helvetica", "Arial", "Liberation Sans")
_NAMED = re.compile(r' id="[\w.]+_\d+"')  # axes_1, patch_2: twice on a page of many figures


def need_matplotlib() -> None:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise InputError('a report needs matplotlib to draw its figures: pip install "kshot[report]"') from error


def svg(draw: Callable[[Figure], None], width: float, height: float, name: str) -> str:
    """The figure as an <svg> element. width, height: inches. name: unlike any other figure's on the page."""
    text = _render(draw, width, height, name, "svg").decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
    text = _NAMED.sub("", text).replace("xlink:href", "href")
    text = re.sub(r"(font: *[\d.]+px) [^;\"]*", r"\1 var(--sans)", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", text)
    for colour, variable in VARIABLES.items():
        text = re.sub(colour, f"var({variable})", text, flags=re.IGNORECASE)
    return text


def png(draw: Callable[[Figure], None], width: float, height: float) -> bytes:
    return _render(draw, width, height, "png", "png")


def _render(draw: Callable[[Figure], None], width: float, height: float, name: str, form: str) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    content = io.BytesIO()
    with matplotlib.rc_context():  # restores the caller's settings
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams
        settings.update(_style(name, form))
        figure = Figure(figsize=(width, height), facecolor=PAPER if form == "png" else "none")
        FigureCanvasAgg(figure)
        draw(figure)
        stamp: dict[str, Any] = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
        figure.savefig(content, format=form, dpi=240 if form == "png" else 72, metadata=stamp)
    return content.getvalue()


def _style(name: str, form: str) -> dict[str, Any]:
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return {
        "font.family": [*[f for f in _FAMILIES if f in installed][:1], "DejaVu Sans"],
        "font.size": 8.5,
        "text.color": INK,
        "axes.edgecolor": RULE,
        "axes.linewidth": 0.8,
        "axes.labelcolor": MUTED,
        "axes.labelsize": 8.5,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": RULE,
        "ytick.color": RULE,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "xtick.major.size": 3,
        "ytick.major.size": 0,
        "lines.solid_capstyle": "round",
        "savefig.facecolor": PAPER if form == "png" else "none",
        "svg.fonttype": "none",
        "svg.hashsalt": name,
    }


def frame(figure: Figure, x: str, y: str, *, rect: tuple[float, float, float, float] = SMALL_AXES) -> Axes:
    """Axes at the same place in every small figure; the vertical axis is named above it, to be read upright."""
    ax = figure.add_axes(rect)
    name_axes(ax, x, y)
    return ax


def name_axes(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x, labelpad=5)
    ax.set_title(y, loc="left", fontsize=8.5, color=MUTED, pad=9, x=0)
    ax.grid(axis="y", color=RULE, linewidth=0.5, alpha=0.6)
    ax.set_axisbelow(True)
