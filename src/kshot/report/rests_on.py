"""The section of the page that a reader of an appendix looks for: what the number rests on, and what it stands beside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from kshot.audit import ENOUGH
from kshot.evidence.beside import Comparison, read_comparison, read_figures
from kshot.evidence.kept import Figure
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
        published = (
            "—" if row.published is None else f"{row.published:g}" + (f" ± {row.interval:g}" if row.interval else "")
        )
        gap = "—" if row.published is None else _signed(found.mean - row.published)
        target = "—" if row.target is None else f"{row.target:g}"
        rows.append(
            (row.name, published, f"{found.mean:.2f} ± {found.interval:.2f}", gap, target, f"{found.episodes:,}")
        )
    (found, *_) = figures.values()
    unit = " in %" if found.metric == "accuracy" else ""
    caption = f"Beside the paper ({paper.source}), {metric_name(found.metric)}{unit}"
    return _table(caption, ("", "paper", "this run", "difference", "our target", "test tasks"), rows)


def _beside_others(r: Report, c: Comparison) -> str:
    factor, unit = scaled(c.metric)

    def shown(mean: float, interval: float, transductive: bool) -> str:
        return f"{factor * mean:.2f} ± {factor * interval:.2f}" + (" *" if transductive else "")

    rows = [(f"{r.run} (this run)", shown(c.mean, c.interval, c.transductive), "", "")]
    for other in c.others:
        gap = f"{_signed(factor * other.difference.mean)} ± {factor * other.difference.interval:.2f}"
        verdict = "more than chance" if other.difference.shown else "no difference shown"
        rows.append((other.run, shown(other.mean, other.interval, other.transductive), gap, verdict))
    changes = f", with {', '.join(c.changes)}" if c.changes else ""
    caption = f"Other runs on the very same {c.episodes:,} tasks{changes}; {metric_name(c.metric)}{f' in {unit}' if unit else ''}"
    note = "Differences are taken task by task; 95\u00a0% intervals over tasks."
    if c.transductive or any(other.transductive for other in c.others):
        note += " * transductive."
    heads = ("", metric_name(c.metric), "less this run, paired", "")
    return _table(caption, heads, rows) + f'<p class="note">{escape(note)}</p>'


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


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
