"""The episode on the page: images as tiles in HTML, a function as a figure, anything else as a small table."""

from __future__ import annotations

import base64
import io
import math
from html import escape
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from kshot.report import canvas, plots
from kshot.report.episode import Episode, class_name
from kshot.report.facts import number
from kshot.report.sections import BEFORE_AND_AFTER, EPISODE, Report, figure
from kshot.report.trajectories import tasks_in_the_plane

CLASSES, SUPPORT, QUERIES, ROWS = 10, 10, 10, 12  # the most that is shown
THUMBNAIL = 128  # pixels: twice the size on the page


def episode_section(r: Report) -> str:
    shown = {"images": _images, "function": _function, "trajectories": _trajectories}.get(r.episode.kind, _other)
    content = shown(r.episode)
    title = BEFORE_AND_AFTER if r.episode.kind == "trajectories" else EPISODE
    return f"<section><h2>{title}</h2>{content}</section>" if content else ""


def _images(e: Episode) -> str:
    rows = "".join(_class(e, c) for c in range(min(e.ways, CLASSES)))
    head = '<div class="class over"><h3>A</h3><span class="support">support</span><span>query</span></div>'
    most = max(len(e.of_class(c, "support")) for c in range(e.ways)) > SUPPORT
    parts = [f"the first {CLASSES} of {e.ways} classes"] if e.ways > CLASSES else []
    parts += [f"the first {SUPPORT} of the support examples of a class"] if most else []
    if max(len(e.of_class(c, "query")) for c in range(e.ways)) > QUERIES:
        parts += [f"the first {QUERIES} of the queries of a class"]
    shown = f" Shown are {', '.join(parts)}, as they were drawn." if parts else ""
    caption = (
        "A row a class: the examples to learn from, then queries, each with the predicted class and its probability. "
        f"A heavy frame and a × mark the wrong ones. {_share(e)}{shown}"
    )
    columns = min(3, max(len(e.of_class(c, "support")) for c in range(e.ways)))
    grid = f'<div class="episode" style="--columns: {columns}">{head}{rows}</div>'
    return f"<figure>{grid}<figcaption>{caption}</figcaption></figure>"


def _class(e: Episode, c: int) -> str:
    name = class_name(c, e.ways)
    text = f"support example of class {name}"
    support = "".join(f"<li>{_tile(e, 'support', i, text)}</li>" for i in e.of_class(c, "support")[:SUPPORT])
    queries = "".join(_query(e, i) for i in e.of_class(c, "query")[:QUERIES])
    return (
        f'<div class="class"><h3>{name}</h3><ul class="tiles support">{support}</ul>'
        f'<ul class="tiles query">{queries}</ul></div>'
    )


def _query(e: Episode, i: int) -> str:
    true, said = class_name(int(e.task.query.y[i]), e.ways), class_name(e.predicted[i], e.ways)
    right, sure = e.right[i], _percent(e.probability[i])
    verdict = "right" if right else "wrong"
    text = f"query of class {true}, predicted {said} with {sure}, {verdict}"
    mark = "" if right else "× "
    return f'<li class="{verdict}">{_tile(e, "query", i, text)}<span class="said">{mark}{said} {sure}</span></li>'


def _tile(e: Episode, half: Literal["support", "query"], i: int, text: str) -> str:
    image = Image.fromarray(e.picture(half, i))
    size = ' class="large"' if max(image.size) > THUMBNAIL // 2 else ""  # small ones show their pixels
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img{size} src="data:image/png;base64,{data}" alt="{escape(text)}" title="{escape(text)}">'


def _function(e: Episode) -> str:
    caption = (
        "The function of one task before and after the learner saw the support points. The open points are the true "
        f"values that it is judged on; mean squared error there, after adapting, <b>{number(e.error)}</b>."
    )
    draw = lambda f: plots.regression(canvas.frame(f, "x", "y", rect=(0.09, 0.145, 0.90, 0.735)), e)  # noqa: E731
    return figure(draw, caption, "episode", (5.0, 3.1), "wide")


def _trajectories(e: Episode) -> str:
    """Nothing for a family that cannot be drawn in the plane."""
    paths = e.paths
    if paths is None:
        return ""
    caption = (
        f"{len(paths.goals)} tasks. {paths.after.shape[1]} trajectories of the agent before it adapted to the task and as many "
        "after: some of them (thin), and the mean of all (thick). It starts at the dot, and is not told where the ring is."
    )
    return figure(lambda f: tasks_in_the_plane(f, paths, (0.0, 0.0, 1.0, 0.93)), caption, "episode", (6.5, 4.6), "wide")


def _other(e: Episode) -> str:
    def draw(f: Any) -> None:
        ax = canvas.frame(f, "predicted" if e.ways else "true value", "true class" if e.ways else "predicted value")
        plots.outcome(ax, e)

    caption = (
        f"The queries of one task: true class against predicted class. {_share(e)}"
        if e.ways
        else f"The queries of one task; on the dotted line they are exact. Mean squared error <b>{number(e.error)}</b>."
    )
    head = ("query", "input", "true", "predicted", *(("probability", "") if e.ways else ("difference",)))
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in _record(e, i))}</tr>"
        for i in range(min(len(e.task.query), ROWS))
    )
    titles = "".join(f'<th scope="col">{name}</th>' for name in head)
    table = f'<table class="records"><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="columns"><div>{figure(draw, caption, "episode")}</div><div class="scroll">{table}</div></div>'


def _record(e: Episode, i: int) -> tuple[str, ...]:
    x, y = _brief(e.task.query.x[i]), e.task.query.y[i]
    if e.ways:
        names = class_name(int(y), e.ways), class_name(e.predicted[i], e.ways)
        return str(i + 1), x, *names, _percent(e.probability[i]), "" if e.right[i] else "× wrong"
    return str(i + 1), x, _brief(y), _brief(e.outputs[i]), _brief(e.outputs[i] - y)


def _brief(values: Tensor) -> str:
    """'0.12, −1.3, …'."""
    flat = values.flatten()
    return ", ".join(number(float(v)) for v in flat[:2]) + (", …" if len(flat) > 2 else "")


def _share(e: Episode) -> str:
    right, n = sum(e.right), len(e.right)
    return f"Of all tasks this is the nearest to the mean: <b>{right} of {n}</b> queries are right ({100 * right / n:.1f} %)."


def _percent(p: float) -> str:
    return f"{100 * p:.0f} %" if math.isfinite(p) else "—"
