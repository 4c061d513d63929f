"""Sections of the page: the result on top, training, adaptation, the tables. All text is escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kshot.evaluation import Evaluation
from kshot.learner import MetaLearner
from kshot.machine import described
from kshot.report import canvas, plots
from kshot.report.episode import Episode, count
from kshot.report.facts import (
    Facts,
    Reference,
    duration,
    finite_points,
    joined,
    metric_name,
    number,
    with_interval,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL = (4.0, 2.75)  # inches of a figure that stands beside another
BEFORE_AND_AFTER = "Before and after adapting"
EPISODE, TRAINING, ADAPTATION = "One episode", "Training", "Adaptation and calibration"


@dataclass(frozen=True)
class Report:
    """All that a page is made from.

    setting: '5-way 1-shot classification'; source: what the tasks are called; unseen: 'tasks of 100 unseen classes'.
    """

    run: Path
    title: str
    setting: str
    learner: MetaLearner
    evaluation: Evaluation
    episode: Episode
    facts: Facts
    recipe: Mapping[str, Any]
    source: str
    unseen: str
    reference: Reference

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.learner.parameters())


def figure(
    draw: Callable[[Figure], None], caption: str, name: str, size: tuple[float, float] = SMALL, css: str = ""
) -> str:
    """caption is HTML."""
    kind = f' class="{css}"' if css else ""
    return f"<figure{kind}>{canvas.svg(draw, *size, name)}<figcaption>{caption}</figcaption></figure>"


def pair(figures: Sequence[str]) -> str:
    return f'<div class="pair{" one" if len(figures) == 1 else ""}">{"".join(figures)}</div>'


def headline(r: Report) -> str:
    """What was trained on what, how well it does, and what that took."""
    e = r.evaluation
    mean, interval, unit = with_interval(e, e.metric)
    judged = "the queries of a task are predicted together" if e.transductive else "each query is predicted alone"
    independent = f"{len(set(e.groups)):,} groups" if e.groups else "tasks"
    about = f"{metric_name(e.metric)} on {e.episodes:,} {r.unseen}, {r.setting}; 95\u00a0% interval over {independent}"
    if r.episode.kind != "trajectories":
        about += f"; {'transductive' if e.transductive else 'not transductive'}: {judged}"
    shown = {
        "Parameters": f"{r.parameters:,}",
        **_training_facts(r.facts),
        "Adapting to a task": f"{number(e.adapt_ms)} ms" if math.isfinite(e.adapt_ms) else "—",
    }
    if e.calibration is not None:
        shown["Calibration error"] = _percent(e.calibration.ece)
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in shown.items())
    started = r.facts.setting("started")
    return (
        f"<header><h1>{escape(r.title)}</h1>"
        f'<p class="lead">{escape(_what(r))}{escape(f" Started {started}.") if started else ""}</p>'
        f'<div class="result"><b>{escape(mean)} <span>{escape(joined("", interval, unit))}</span></b>'
        f"<p>{escape(about)}.</p></div>"
        f'<dl class="facts">{items}</dl></header>'
    )


def _training_facts(facts: Facts) -> dict[str, str]:
    """Those that are known."""
    shown, steps, meta_batch, seconds = {}, facts.steps, facts.setting("training", "meta_batch"), facts.seconds()
    if steps is not None:
        tasks = f" × {count(meta_batch, 'task')}" if isinstance(meta_batch, int) else ""
        shown["Trained for"] = count(steps, "step") + tasks
    if seconds is not None:
        shown["Training time"] = duration(seconds)
    return shown


def learner_name(learner: MetaLearner) -> str:
    """'ProtoNet with Conv4'."""
    parts = (getattr(learner, role, None) for role in ("model", "encoder"))
    model = next((type(p).__name__ for p in parts if isinstance(p, torch.nn.Module)), None)
    return type(learner).__name__ + (f" with {model}" if model else "")


def _what(r: Report) -> str:
    done = "" if r.facts.steps is None else ", meta-trained"
    return f"{learner_name(r.learner)}{done} on {r.source} tasks."


def training(r: Report) -> str:
    figures = []
    series = r.facts.series("loss")
    if len(series) > 1:
        smooth = " (thin), and its moving average over a twentieth of the run (thick)" if len(series) >= 40 else ""
        caption = f"The meta-loss, each value a mean over the steps since the one before{smooth}."
        figures.append(figure(lambda f: plots.loss(f, series), caption, "loss"))
    metric, points = r.facts.validation()
    if len(points) > 1:
        caption = (
            f"Validation {escape(metric_name(metric))} on tasks that are not trained on, with its 95&nbsp;% interval. "
            "The ring marks the best; that learner was kept."
        )
        figures.append(figure(lambda f: plots.course(f, points, metric, "outer step", None), caption, "validation"))
    if not figures:
        return ""
    return f"<section><h2>{TRAINING}</h2>{pair(figures)}</section>"


def adaptation(r: Report) -> str:
    """The metric against steps and shots, how tasks differ, and whether the probabilities can be believed."""
    e, metric = r.evaluation, r.evaluation.metric
    curves = {"steps": finite_points(e.steps_curve), "shots": finite_points(e.shots_curve)}
    curves = {name: points for name, points in curves.items() if len(points) > 1}
    limits = dict(zip(curves, plots.shared_limits(list(curves.values()), metric, r.reference), strict=True))
    shots = "examples of a class" if r.episode.ways else "support points"
    shots = "trajectories to learn from" if r.episode.kind == "trajectories" else shots
    names = {"steps": "inner steps", "shots": f"shots, {shots}"}
    trained = r.facts.setting("learner", "steps")
    notes = {
        "steps": "against the number of adaptation steps; 0 is the meta-learned start"
        + (f". In training a task took {count(trained, 'step')}" if isinstance(trained, int) else ""),
        "shots": "against the number of examples to learn from",
    }
    over = f", over {e.curve_episodes:,} of the tasks" if e.curve_episodes else ""
    figures = [
        figure(
            partial(
                plots.adaptation,
                points=points,
                metric=metric,
                x=names[name],
                limits=limits[name],
                reference=r.reference,
            ),
            f"{escape(metric_name(metric)).capitalize()} {notes[name]}. Bands: 95&nbsp;% intervals{over}.",
            name,
        )
        for name, points in curves.items()
    ]
    values = [v for v in e.values if math.isfinite(v)]
    if len(values) > 1:
        caption = f"How the {len(values):,} test tasks differ: the interval on top is of their mean, this their spread."

        def spread(f: Figure) -> None:
            plots.spread(f.add_axes(canvas.SMALL_AXES), values, metric, e.mean)

        figures.append(figure(spread, caption, "spread"))
    calibration = e.calibration
    if calibration is not None and any(all(map(math.isfinite, b)) for b in calibration.bins):
        caption = (
            "Reliability: how often the learner is right when it is so confident; on the dotted line it would be well "
            "calibrated. Bars: the share of predictions with this confidence. "
            f"Expected calibration error <b>{_percent(calibration.ece)}</b>."
        )
        figures.append(figure(lambda f: plots.reliability(f, calibration), caption, "reliability"))
    title = ADAPTATION if calibration is not None else ADAPTATION.partition(" ")[0]
    return f"<section><h2>{title}</h2>{pair(figures)}</section>" if figures else ""


def tables(r: Report) -> str:
    settings = _table("Settings, as resolved", r.facts.settings(r.recipe))
    return (
        '<section><h2>The run in numbers</h2><div class="columns">'
        f"{f'<div>{settings}</div>' if settings else ''}"
        f"<div>{_table('Figures', _figures(r))}<br>{_table('Versions and machine', {'': _versions(r)})}</div>"
        "</div></section>"
    )


def _figures(r: Report) -> dict[str, dict[str, str]]:
    e = r.evaluation
    mean, interval, unit = with_interval(e, e.metric)
    rows = {
        metric_name(e.metric): joined(mean, interval, unit),
        "test tasks": f"{e.episodes:,}",
        "seed of the test tasks": str(e.seed),
        "transductive": "yes" if e.transductive else "no",
        "time to adapt, median": f"{number(e.adapt_ms)} ms",
        "parameters": f"{r.parameters:,}",
    }
    if e.calibration is not None:
        rows["expected calibration error"] = _percent(e.calibration.ece)
    groups = {"": rows}
    over = f", {e.curve_episodes:,} tasks" if e.curve_episodes else ""
    for name, points in (("steps", e.steps_curve), ("shots", e.shots_curve)):
        if points:
            groups[f"{metric_name(e.metric)} after {name}{over}"] = {
                f"{p.at:,}": joined(*with_interval(p, e.metric)) for p in points
            }
    return groups


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%" if math.isfinite(share) else "—"


def _versions(r: Report) -> dict[str, str]:
    rows = {
        name: r.facts.setting(name)
        for name in ("kshot", "commit", "torch", "python", "machine", "device", "ranks", "started")
    }
    if isinstance(rows["machine"], dict):  # of runs from before it was kept so, a text
        threads = rows["machine"]["threads"]
        rows["machine"] = f"{described(rows['machine'])}, {threads} thread{'s' * (threads != 1)}"
    return {"processes" if k == "ranks" else k: str(v) for k, v in rows.items() if v is not None}


def _table(caption: str, groups: Mapping[str, Mapping[str, str]]) -> str:
    body = "".join(_rows(name, rows) for name, rows in groups.items() if rows)
    return f"<table><caption>{escape(caption)}</caption><tbody>{body}</tbody></table>" if body else ""


def _rows(group: str, rows: Mapping[str, str]) -> str:
    title = f'<tr class="group"><th colspan="2" scope="rowgroup">{escape(group)}</th></tr>' if group else ""
    lines = (f'<tr><th scope="row">{escape(k)}</th><td>{escape(v.strip())}</td></tr>' for k, v in rows.items())
    return title + "".join(lines)
