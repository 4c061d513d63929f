"""kshot reproduce | compare: what a claim rests on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from kshot import atomic, recipes, training
from kshot.audit import ENOUGH
from kshot.cli.terminal import Changes, Seed, err, evaluated, only_tasks, out
from kshot.evaluation import HIGHER_IS_BETTER, Evaluation
from kshot.evidence import Comparison, Kept, compared, keep_comparison, measure_again, reached, read_all
from kshot.evidence import reproduce as run_recipe
from kshot.evidence.kept import settings_of
from kshot.recipes.paper import Paper, Row
from kshot.recipes.runs import recipe_of
from kshot.training.distributed import Ranks
from kshot.types import InputError


def reproduce(
    recipe: Annotated[str | None, typer.Argument(help="A recipe with a \\[paper] section.", show_default=False)] = None,
    show: Annotated[
        bool, typer.Option("--list", help="Show every figure: the paper's, ours, and what it took.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Only measure the kept learner again, and compare with what is recorded.")
    ] = False,
    seed: Annotated[list[int], typer.Option(help="Only this seed. Repeatable.  \\[default: all of the recipe]")] = [],  # noqa: B006
    folder: Annotated[Path, typer.Option("--runs", help="Where runs are kept, and gone on with.")] = Path("runs"),
    results: Annotated[Path, typer.Option(help="Where the figures are kept.")] = Path("results"),
) -> None:
    """Train as a paper did, measure its figures, and write them with all that they depend on into results/NAME.json.

    A seed that was measured is not trained again; Ctrl-C saves, and the same command goes on.
    """
    if show or recipe is None:
        out.print(_listed(recipes.names(), read_all(results), results))
        return
    chosen = recipes.read(recipe)
    if again:
        with Progress(console=err, transient=True) as bar:
            row = bar.add_task("measuring", total=chosen.episodes)
            found = measure_again(chosen, results, progress=lambda done, _: bar.update(row, completed=done))
        for x in found:
            note = "as recorded" if x.same else f"[bold red]recorded was {x.recorded.mean:.4g}[/]"
            out.print(f"{x.row:24} {x.found.mean:.2f} ± {x.found.interval:.2f}   {note}", highlight=False)
        if not all(x.same for x in found):
            raise InputError(
                "another figure than the recorded one was measured: the code, the data or the versions changed"
            )
        return
    kept = run_recipe(
        chosen, folder, results, seeds=seed or None, say=lambda line: out.print(line, highlight=False, soft_wrap=True)
    )
    if Ranks().first:
        out.print(_listed([kept.name], {kept.name: kept}, results))


def compare(
    run: Annotated[list[Path], typer.Argument(help="Folders of two runs or more; the first names the tasks.")],
    episodes: Annotated[int | None, typer.Option(help="Test tasks.  \\[default: the first run's recipe's]")] = None,
    seed: Seed = 0,
    change: Changes = [],  # noqa: B006
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write all numbers there.")
    ] = None,
) -> None:
    """Measure runs on the very same test tasks, and say which differences are more than chance.

    For example on other tasks: kshot compare RUN RUN --set tasks.test.shots=5
    """
    if len(run) < 2:
        raise InputError(f"{len(run)} run was given: comparing needs at least two, such as kshot compare runs/a runs/b")
    only_tasks(change)
    recipe = recipe_of(run[0], change)
    number = recipe.episodes if episodes is None else episodes
    found: list[tuple[str, Evaluation]] = []
    for place in run:
        tasks = recipe.tasks("test")
        found.append((str(place), evaluated(training.load(place), recipe, tasks, number, seed, curves=False)))
    (_, first), *others = found
    comparison = compared(first, others, change)
    keep_comparison(run[0], comparison)
    out.print(_compared(str(run[0]), comparison))
    out.print(f"kept for its report: kshot report {run[0]}", highlight=False)
    if as_json is not None:
        content = [{"run": name, **e.to_dict()} for name, e in found]
        atomic.write(as_json, json.dumps({"changes": change, "runs": content}, indent=1))
        out.print(f"numbers: [bold]{as_json}[/]")


def _compared(run: str, c: Comparison) -> Table:
    scale, unit = (100, " %") if c.metric == "accuracy" else (1, "")
    better = 1 if c.metric in HIGHER_IS_BETTER else -1

    def shown(mean: float, interval: float, transductive: bool) -> str:
        return f"{scale * mean:.4g} ± {scale * interval:.2g}{unit}" + ("  (transductive)" if transductive else "")

    table = Table(box=None, pad_edge=False)
    for column in ("run", c.metric, "against the first, paired", ""):
        table.add_column(column)
    table.add_row(run, shown(c.mean, c.interval, c.transductive))
    for other in c.others:
        d = other.difference
        gap = f"{scale * d.mean:+.3g} ± {scale * d.interval:.2g}{unit}"
        verdict = ("better" if d.mean * better > 0 else "worse") if d.shown else "no difference shown"
        table.add_row(other.run, shown(other.mean, other.interval, other.transductive), gap, verdict)
    few = f", fewer than the {ENOUGH} of papers" if c.episodes < ENOUGH else ""
    table.caption = f"the same {c.episodes:,} test tasks for all{few}, seed {c.seed}; 95 % intervals over tasks"
    return table


def _listed(names: Sequence[str], kept: dict[str, Kept], results: Path) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("name", "figure", "paper", "ours", "target", "seeds", "minutes", "date"):
        table.add_column(column, overflow="fold")
    for name in dict.fromkeys([*names, *kept]):
        paper = kept[name].paper if name in kept else recipes.read(name).paper
        old = name in kept and name in recipes.names() and kept[name].settings != settings_of(recipes.read(name))
        shown_name = f"{name} [yellow](older settings)[/]" if old else name
        for i, row in enumerate(paper.rows if paper is not None else ()):
            assert paper is not None
            table.add_row(shown_name if i == 0 else "", *_row(paper, row, kept.get(name), first=i == 0))
    table.caption = f"kshot reproduce NAME; T: transductive; in brackets: not measured, as planned; from {results}/"
    return table


def _row(paper: Paper, row: Row, kept: Kept | None, first: bool) -> list[str]:
    """Figure, paper, ours, target, seeds, minutes, date."""
    ours = kept.ours(row.name) if kept is not None else None
    shown = str(ours) + (" T" if ours.transductive else "") if ours is not None else "–"
    met = reached(row, ours)
    mark = "" if met is None else " [green]✓[/]" if met else " [red]✗[/]"
    published = (
        "–" if row.published is None else f"{row.published:g}" + (f" ± {row.interval:g}" if row.interval else "")
    )
    minutes = f"{kept.minutes:.0f}" if kept is not None and kept.minutes else f"({paper.minutes:g})"
    return [
        row.name,
        published,
        shown,
        ("–" if row.target is None else f"{row.target:g}") + mark,
        f"{ours.seeds if ours is not None else 0} of {paper.seeds}" if first else "",
        minutes if first else "",
        kept.date if kept is not None and first else "",
    ]
