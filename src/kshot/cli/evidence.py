"""kshot reproduce | compare: what a claim rests on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from kshot import atomic, learners, recipes, training
from kshot.audit import ENOUGH
from kshot.cli.terminal import Alone, Changes, Seed, err, evaluated, only_tasks, out, say_if_unfinished
from kshot.evaluation import Evaluation, figure
from kshot.evidence import (
    Comparison,
    Kept,
    Other,
    Standing,
    compared,
    keep_comparison,
    measure_again,
    paper_of,
    read_all,
    read_kept,
    standing,
    trained_by,
)
from kshot.evidence import reproduce as run_recipe
from kshot.recipes import Recipe
from kshot.recipes.paper import Row
from kshot.recipes.runs import recipe_of
from kshot.training import checkpoint
from kshot.training.distributed import Ranks
from kshot.types import InputError

OLDER = "  (older settings)"


def reproduce(
    recipe: Annotated[str | None, typer.Argument(help="A recipe with a \\[paper] section.", show_default=False)] = None,
    show: Annotated[
        bool, typer.Option("--list", help="Show every figure: the paper's, ours, and what it took.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Only measure the kept learners again, and compare with what is recorded.")
    ] = False,
    seed: Annotated[list[int], typer.Option(help="Only this seed. Repeatable.  \\[default: all of the recipe]")] = [],  # noqa: B006
    folder: Annotated[Path, typer.Option("--runs", help="Where runs are kept, and gone on with.")] = Path("runs"),
    results: Annotated[Path, typer.Option(help="Where the figures are kept.")] = Path("results"),
) -> None:
    """Train a recipe, measure the figures that its paper reports, and write them into results/NAME.json with all they depend on.

    A seed that was measured is not trained again; Ctrl-C saves, and the same command goes on.
    """
    if show or recipe is None:
        if given := [option for option, there in (("--again", again), ("--seed", seed)) if there]:
            raise InputError(f"{given[0]} needs a recipe, and goes without --list: kshot reproduce RECIPE {given[0]} …")
        kept = read_all(results)
        listed = {name: recipes.read(name) for name in recipes.names()}
        if recipe is not None:
            asked = recipes.read(recipe)
            paper_of(asked)  # or it has none, and the sentence says so
            listed, kept = {asked.name: asked}, {name: k for name, k in kept.items() if name == asked.name}
        out.print(_listed(listed, kept, results))
        return
    chosen = recipes.read(recipe)
    paper_of(chosen)
    if again:
        with Progress(console=err, transient=True) as bar:
            row = bar.add_task("measuring", total=chosen.episodes)
            found = measure_again(
                chosen.name, results, seeds=seed or None, progress=lambda done, _: bar.update(row, completed=done)
            )
        if not read_kept(results / f"{chosen.name}.json").is_of(chosen):
            out.print(
                "the recipe has other settings now: this is the learner of the recorded ones, on the tasks of those"
            )
        for x in found:
            note = ("as recorded", "") if x.same else (f"recorded was {x.recorded}", "bold red")
            of = f"seed {x.seed}: " * (len({y.seed for y in found}) > 1)
            out.print(Text.assemble(f"{of}{x.row:24} {x.found}   ", note))
        if not all(x.same for x in found):
            raise InputError(
                "another figure than the recorded one was measured: the code, the data or the versions changed"
            )
        return

    def say(line: str) -> None:
        out.print(line, markup=False, highlight=False, soft_wrap=True)

    done = run_recipe(chosen, folder, results, seeds=seed or None, say=say)
    if Ranks().first:
        out.print(_listed({done.name: chosen}, {done.name: done}, results))


def compare(
    run: Annotated[list[Path], typer.Argument(help="Folders of two runs or more; the first names the tasks.")],
    episodes: Annotated[int | None, typer.Option(help="Test tasks.  \\[default: the first run's recipe's]")] = None,
    seed: Seed = 0,
    change: Changes = [],  # noqa: B006
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write all numbers there.")
    ] = None,
    alone: Alone = False,
) -> None:
    """Measure runs on the very same test tasks, and say which differences are more than chance.

    Runs of one recipe that differ in their seed are trainings of one learner, where others are beside them: their mean is
    compared, over tasks and trainings. For example on other tasks: kshot compare RUN RUN --set tasks.test.shots=5
    """
    if len(run) < 2:
        raise InputError(f"{len(run)} run was given: comparing needs at least two, such as kshot compare runs/a runs/b")
    only_tasks(change)
    recipe = recipe_of(run[0], change)
    number = recipe.episodes if episodes is None else episodes
    loaded = {place: training.load(place) for place in run}  # before hours of measuring
    trainings = by_recipe(run)
    for place in loaded:
        say_if_unfinished(place)
    found: dict[Path, Evaluation] = {}
    for place, learner in loaded.items():
        try:
            tested = learners.alone(learner) if alone else learner
            found[place] = evaluated(tested, recipe, recipe.tasks("test"), number, seed, curves=False)
        except InputError as error:
            raise InputError(f"{place}, on the tasks of {run[0]}: {error}") from error
    first, *others = [(str(places[0]), [found[place] for place in places]) for places in trainings]
    comparison = compared(first[1], others, [*change, "--alone"] if alone else change)
    out.print(_compared(str(run[0]), comparison))
    keep_comparison(run[0], comparison)
    out.print(f"kept for its report: kshot report {run[0]}", highlight=False)
    if as_json is not None:
        content = [{"run": str(place), **found[place].to_dict()} for place in run]
        atomic.write(as_json, json.dumps(atomic.finite({"changes": change, "runs": content}), indent=1))
        out.print(f"numbers: [bold]{as_json}[/]")


def by_recipe(run: Sequence[Path]) -> list[list[Path]]:
    """The trainings of each recipe with several seeds, in the order of the first; each by itself where all are of one."""
    found: dict[str, list[Path]] = {}
    holds: dict[str, Path] = {}
    trained: dict[tuple[str, int], Path] = {}
    for place in run:
        if (same := holds.setdefault(checkpoint.fingerprint(place), place)) is not place:
            raise InputError(f"{same} and {place} hold the same learner: give each once")
        recipe = recipe_of(place, [])
        way = json.dumps(trained_by({**recipe.settings, "training": {**recipe.training, "seed": None}}), sort_keys=True)
        found.setdefault(way, []).append(place)
        twin = trained.setdefault((way, recipe.training.get("seed", 0)), place)
        if twin is not place and len(run) > 2:
            raise InputError(
                f"{twin} and {place} were trained by the same recipe and seed, by other code or on another machine: of several "
                "trainings give runs of different seeds"
            )
    return list(found.values()) if len(found) > 1 else [[place] for place in run]


def _compared(run: str, c: Comparison) -> Group:
    """Each run by its name, which may be long, and below it what it has."""
    blocks: list[RenderableType] = []

    def block(name: str, of: Comparison | Other, more: str = "") -> None:
        if (more_of_it := of.trainings - 1) > 0:
            name += f" and {more_of_it} more training{'s' * (more_of_it > 1)} of it"
        note = ", transductive" if of.transductive else ""
        has = f"{c.metric} {figure(c.metric, of.mean, of.interval)}{note}{more}"
        blocks.extend((Text(name, style="bold"), Padding(Text(has), (0, 0, 0, 2))))

    block(run, c)
    for other in c.others:
        d = other.difference
        gap = f"; against the first {figure(c.metric, d.mean, d.interval, signed=True)}, paired: {d.verdict}"
        block(other.run, other, gap + ", of one training" * (d.shown and d.trainings == 1))
    few = f", fewer than the {ENOUGH} of papers" if c.episodes < ENOUGH else ""
    note = f"the same {c.episodes:,} test tasks for all{few}, seed {c.seed}; 95 % intervals over {c.over}, {c.caveat}"
    return Group(*blocks, Text(note, style="dim"))


def _listed(chosen: Mapping[str, Recipe], kept: Mapping[str, Kept], results: Path) -> Group:
    """A block a recipe: its command by itself, so that it can be copied, what it took, and a line for each figure."""
    blocks: list[RenderableType] = []
    names = dict.fromkeys([*chosen, *kept])
    entries = [entry for name in names if (entry := standing(chosen.get(name), kept.get(name))) is not None]
    widest = max((len(row.name) for entry in entries for row in entry.paper.rows), default=0)
    for entry in entries:
        blocks.append(Text.assemble((entry.kept.command, "bold"), (OLDER * entry.older, "yellow")))
        blocks.append(Padding(Text(_took(entry), style="dim"), (0, 0, 0, 2)))
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
        heads = ("", "paper", "ours", "less", "target")
        for head, width in zip(heads, (widest, 12, 19, 6, 0), strict=True):
            table.add_column(head, min_width=width)
        for row in entry.paper.rows:
            table.add_row(*_row(row, entry))
        blocks.append(Padding(table, (0, 0, 1, 2)))
    legend = (
        "±: 95 % interval over test tasks, the paper's as it gives it. less: ours less the paper's. *: transductive. ‖: standard "
        "deviation of the seeds. Older settings: the recipe has others now; --again measures by "
        f"the old ones. Read from {results}/{'' if kept else ', where none of this is measured yet'}."
    )
    return Group(*blocks, Text(legend, style="dim"))


def _took(entry: Standing) -> str:
    """Source, minutes, seeds and date."""
    paper, kept = entry.paper, entry.kept
    if not kept.seeds:
        return f"{paper.source}; budget {paper.minutes:g} minutes a training, seeds: {paper.seeds}"
    over = "over its" if kept.over_budget else "of a"
    minutes = f"{kept.minutes:.0f} minutes a training, {over} budget of {paper.minutes:g}, " if kept.minutes else ""
    return f"{paper.source}; {minutes}seeds: {len(kept.seeds)} of {paper.seeds}, {kept.date}"


def _row(row: Row, entry: Standing) -> tuple[str, str, str, str, str]:
    """Figure, paper, ours, ours less the paper's, target."""
    ours, target = entry.kept.ours(row.name), entry.target(row).partition(",")[0]  # the seeds stand above
    return (
        escape(row.name),
        row.paper,
        "–" if ours is None else str(ours) + " *" * ours.transductive,
        (ours and row.less(ours.mean)) or "–",
        target.replace("✓", "[green]✓[/]").replace("✗", "[red]✗[/]") or "–",
    )
