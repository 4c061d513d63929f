"""The section of the page that a reader of an appendix looks for: what the number rests on, and what it stands beside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from kshot.audit import ENOUGH
from kshot.evaluation import written
from kshot.evidence.beside import Comparison, read_comparison, read_figures
from kshot.evidence.figures import Figure, reached
from kshot.recipes.paper import Paper, read_paper
from kshot.report.facts import metric_name, scaled
from kshot.report.sections import Report

TITLE = "What the number rests on"


def rests_on(r: Report) -> str:
    """What was checked, the paper's figures, and other runs on the same tasks; those that there are."""
    section = r.recipe.get("paper")
    paper, figures, comparison = section and read_paper(section), read_figures(r.run), read_comparison(r.run)
    parts = [
        _checked(r),
        _beside_paper(paper, figures) if paper and figures else "",
        _beside_others(r, comparison) if comparison is not None else "",
    ]
    return f"<section><h2>{TITLE}</h2>{''.join(parts)}</section>" if any(parts) else ""


def _checked(r: Report) -> str:
    e, trained = r.evaluation, r.facts.setting("audit")
    few = f'<li class="less">{e.episodes:,} tasks: fewer than the {ENOUGH} of papers.</li>' if e.few else ""
    lists = _list("Before this evaluation", e.audit, few)
    lists += _list("Before the training", trained if isinstance(trained, list) else [])
    return f'<div class="columns checked">{lists}</div>' if lists else ""


def _list(name: str, lines: Sequence[str], more: str = "") -> str:
    items = "".join(f"<li>{escape(line[:1].upper() + line[1:])}.</li>" for line in lines) + more
    return f"<div><h3>{name}</h3><ul>{items}</ul></div>" if items else ""


def _beside_paper(paper: Paper, figures: dict[str, Figure]) -> str:
    rows = []
    for row in paper.rows:
        if (found := figures.get(row.name)) is None:
            continue
        met = reached(row, found)
        target = "–" if row.target is None else f"{row.target:g} {'✓' if met else '✗'}"
        ours = str(found) + " *" * found.transductive
        rows.append((row.name, row.paper, ours, row.less(found.mean) or "–", target, f"{found.episodes:,}"))
    (found, *_) = figures.values()
    unit = " in %" if found.metric == "accuracy" else ""
    caption = f"Beside the paper ({paper.source}), {metric_name(found.metric)}{unit}"
    note = f"Measured {found.measured}. This run is one seed{f' of {paper.seeds}' * (paper.seeds > 1)}; "
    note += f"its training may take {paper.minutes:g} minutes on two cores."
    note = f'<p class="note">{escape(note)}</p>' + _transductive(
        any(figure.transductive for figure in figures.values())
    )
    return _table(caption, ("", "paper", "this run", "difference", "our target", "test tasks"), rows) + note


def _beside_others(r: Report, c: Comparison) -> str:
    factor, unit = scaled(c.metric)

    def of(mean: float, interval: float, signed: bool = False) -> str:
        return written(c.metric, factor * mean, factor * interval, signed)

    def name(run: str, trainings: int) -> str:
        return run + (f", {trainings} trainings" if trainings > 1 else "")

    rows = [(name(f"{r.run} (this run)", c.trainings), of(c.mean, c.interval) + " *" * c.transductive, "", "")]
    for other in c.others:
        d = other.difference
        gap = of(d.mean, d.interval, signed=True)
        rows.append(
            (
                name(other.run, other.trainings),
                of(other.mean, other.interval) + " *" * other.transductive,
                gap,
                d.verdict + ", of one training" * (d.shown and d.trainings == 1),
            )
        )
    changes = f", with {', '.join(c.changes)}" if c.changes else ""
    caption = f"Other runs on the very same {c.episodes:,} tasks{changes}; {metric_name(c.metric)}{f' in {unit}' if unit else ''}"
    note = f"Differences are taken task by task; 95\u00a0% intervals over {c.over}, {c.caveat}."
    heads = ("", metric_name(c.metric), "less this run, paired", "")
    stars = _transductive(c.transductive or any(other.transductive for other in c.others))
    return _table(caption, heads, rows) + f'<p class="note">{escape(note)}</p>' + stars


def _transductive(some: bool) -> str:
    return '<p class="note">* transductive: the queries of a task are predicted together.</p>' if some else ""


def _table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    return (
        f'<div class="scroll"><table class="beside"><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
