"""kshot train | evaluate | report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from kshot import learners, recipes, training
from kshot.audit import ENOUGH
from kshot.cli.terminal import Alone, Changes, Run, Seed, evaluated, only_tasks, out, say_if_unfinished
from kshot.evaluation import Evaluation, Point, figure, shown_in
from kshot.evidence import keep_evaluation, read_evaluation
from kshot.evidence.figures import shown
from kshot.recipes.runs import recipe_of
from kshot.recipes.runs import train as train_into


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (see `kshot list`), or a .toml file.")],
    change: Changes = [],  # noqa: B006 (typer's way)
    to: Annotated[Path | None, typer.Option("--out", help="The run folder.  \\[default: runs/RECIPE]")] = None,
    tensorboard: Annotated[bool, typer.Option(help="Also write TensorBoard files into the run folder.")] = False,
) -> None:
    """Train a learner by a recipe, into a run folder.

    Ctrl-C saves and stops; the same command goes on. Several processes: torchrun --nproc-per-node 2 -m kshot train …
    """
    chosen = recipes.read(recipe, change)
    folder = to if to is not None else Path("runs") / chosen.name
    done = train_into(chosen, folder, tensorboard=tensorboard)
    if not done.first:
        return
    if done.seconds is None:
        out.print(f"nothing to train in advance: kept as it is in [bold]{folder}[/]")
        out.print(f"next: kshot evaluate {folder}")
    else:
        out.print(f"trained in {done.seconds:.0f} s, kept in [bold]{folder}[/]")
        out.print(f"next: kshot evaluate {folder}    kshot report {folder}")


def evaluate_run(
    run: Run,
    episodes: Annotated[
        int | None, typer.Option(help="Test tasks to average over.  \\[default: the recipe's, 600]")
    ] = None,
    seed: Seed = 0,
    change: Changes = [],  # noqa: B006
    alone: Alone = False,
) -> None:
    """Measure a run's best learner on tasks of classes that it has never seen, with a 95 % interval.

    For example with more shots: kshot evaluate RUN --set tasks.test.shots=5
    """
    only_tasks(change)
    recipe = recipe_of(run, change)
    number = recipe.episodes if episodes is None else episodes
    learner = training.load(run)
    say_if_unfinished(run)
    learner = learners.alone(learner) if alone else learner
    found = evaluated(learner, recipe, recipe.tasks("test"), number, seed)
    out.print(_evaluation_table(recipe, found))
    keep_evaluation(run, found, [*change, "--alone"] if alone else change)


def report(run: Run, seed: Seed = 0) -> None:
    """Write RUN/report.html: curves, the table, an episode with its predictions, the adaptation curve, in one file."""
    from kshot.report import write_report

    recipe, learner = recipe_of(run, []), training.load(run)
    found = read_evaluation(run, seed) or evaluated(learner, recipe, recipe.tasks("test"), recipe.episodes, seed)
    page = write_report(
        run, learner, recipe.tasks("test"), found, title=recipe.about or recipe.name, recipe=recipe.settings
    )
    out.print(f"report: [bold]{page}[/]    picture: [bold]{page.with_suffix('.png')}[/]")


def _evaluation_table(recipe: recipes.Recipe, found: Evaluation) -> Table:
    scale, unit = shown_in(found.metric)

    def curve(points: list[Point]) -> str:
        widest = short(max(p.interval for p in points))
        return "   ".join(f"{p.at}: {short(p.mean)}" for p in points) + f"{unit}   (each ± {widest} or less)"

    def short(value: float) -> str:
        return f"{scale * value:.1f}" if scale == 100 else shown(found.metric, value)

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row(
        f"[bold]{found.metric}[/]", f"[bold]{figure(found.metric, found.mean, found.interval)}[/]  (95 % interval)"
    )
    table.add_row("tasks", f"{found.episodes:,} of unseen {recipe.settings['tasks']['name']}, seed {found.seed}")
    if found.few:
        table.add_row("", f"a quick look: papers average over {ENOUGH} or more")
    if found.calibration:
        table.add_row("calibration error", f"{100 * found.calibration.ece:.1f} %")
    for name, points in (("steps", found.steps_curve), ("shots", found.shots_curve)):
        if points:
            table.add_row(f"after {name} ({found.curve_episodes:,} tasks)", curve(points))
    table.add_row("time to adapt", f"{found.adapt_ms:.1f} ms")
    if found.transductive:
        table.add_row(
            "note", "transductive: each prediction also depends on the other query examples (--alone: it does not)"
        )
    return table
