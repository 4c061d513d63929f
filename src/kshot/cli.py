"""The command line: kshot train | evaluate | adapt | report | doctor | list | demo."""

from __future__ import annotations

import csv
import functools
import io
import json
import re
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from kshot import atomic, doctor, recipes, training
from kshot.evaluation import Evaluation, Point
from kshot.learner import MetaLearner
from kshot.learners import FAMILIES
from kshot.models import MODELS
from kshot.rl import ENVIRONMENTS
from kshot.rules import RULES
from kshot.settings import suggestion
from kshot.tasks import SOURCES, draw_glyphs, from_folder
from kshot.tasks.images import Invert, images_below, write_folder
from kshot.training import checkpoint
from kshot.training.distributed import RankLost, process_group
from kshot.types import Batch, InputError

app = typer.Typer(
    name="kshot",
    help="Train models that learn a new task from a few examples.\n\n"
    "Begin with [bold]kshot demo[/], or [bold]kshot train glyphs-5w1s-protonet[/].",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)
out = Console()
err = Console(stderr=True)
Command = TypeVar("Command", bound=Callable[..., None])
EVALUATION = "evaluation.json"
RECIPE = "recipe.toml"

Run = Annotated[Path, typer.Argument(help="The folder of a run, such as runs/glyphs-5w1s-protonet.")]
Seed = Annotated[int, typer.Option(help="Seed of the test tasks: the same seed gives every learner the same tasks.")]
Changes = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting of the recipe, such as training.steps=100. Repeatable."
    ),
]


def sentences(command: Command) -> Command:
    """What a user can mend ends in a sentence and a non-zero exit, never in a traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (InputError, training.Diverged, RankLost) as error:
            err.print("[bold red]error:[/]", end=" ")
            err.print(str(error), markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(2) from None
        except training.Interrupted as stop:
            err.print(str(stop), markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(130) from None

    return run  # type: ignore[return-value]


@app.command()
@sentences
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (see `kshot list`), or a .toml file.")],
    change: Changes = [],  # noqa: B006 (typer's way)
    to: Annotated[Path | None, typer.Option("--out", help="The run folder.  [default: runs/RECIPE]")] = None,
    tensorboard: Annotated[bool, typer.Option(help="Also write TensorBoard files into the run folder.")] = False,
) -> None:
    """Train a learner by a recipe, into a run folder.

    Ctrl-C saves and stops; the same command goes on. Several processes: torchrun --nproc-per-node 2 -m kshot train …
    """
    chosen = recipes.read(recipe, change)
    folder = to if to is not None else Path("runs") / chosen.name
    with process_group() as ranks:
        start = time.perf_counter()
        learner, tasks, val = chosen.learner(), chosen.tasks("train"), chosen.tasks("val")
        text = recipes.to_toml(chosen.settings)
        if ranks.first and not (folder / checkpoint.LAST).is_file():
            atomic.write(folder / RECIPE, text)
        if not any(p.requires_grad for p in learner.parameters()):
            if ranks.first:
                training.save(learner, folder / checkpoint.LAST)
                out.print(f"nothing to train in advance: kept as it is in [bold]{folder}[/]")
                out.print(f"next: kshot evaluate {folder}")
            return
        settings = {"device": "auto", **chosen.training}
        chosen.kind.fit(learner, tasks, validate=val, out=folder, tensorboard=tensorboard, **settings)
        if ranks.first:
            atomic.write(folder / RECIPE, text)  # a run that was gone on with may have become longer
            out.print(f"trained in {time.perf_counter() - start:.0f} s, kept in [bold]{folder}[/]")
            out.print(f"next: kshot evaluate {folder}    kshot report {folder}")


@app.command("evaluate")
@sentences
def evaluate_run(
    run: Run,
    episodes: Annotated[
        int | None, typer.Option(help="Test tasks to average over.  [default: the recipe's, 600]")
    ] = None,
    seed: Seed = 0,
    change: Changes = [],  # noqa: B006
) -> None:
    """Measure a run's best learner on tasks of classes that it has never seen, with a 95 % interval.

    For example with more shots: kshot evaluate RUN --set tasks.test.shots=5
    """
    recipe = _recipe(run, change)
    found = _evaluate(run, training.load(run), recipe, recipe.episodes if episodes is None else episodes, seed)
    atomic.write(run / EVALUATION, json.dumps({"changes": change, **found.to_dict()}, indent=1))
    out.print(_evaluation_table(recipe, found))


@app.command()
@sentences
def adapt(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or a saved learner.")],
    support: Annotated[Path, typer.Option(help="Labelled images: one sub-folder a class, a few images in each.")],
    query: Annotated[Path, typer.Option(help="Images to classify (a folder).")],
    to: Annotated[Path, typer.Option("--out", help="Where to write the predictions.")] = Path("predictions.csv"),
) -> None:
    """Learn new classes from a folder of a few images each, and classify other images.

    Writes a CSV with a row an image: file, prediction, its probability, and the probability of each class.
    """
    learner = training.load(run)
    if learner.features is None or len(learner.features) != 3 or learner.features[1] != learner.features[2]:
        raise InputError(
            f"{run} learned from examples of shape {learner.features}, not from square images: "
            "use kshot.load, learner.adapt and learner.predict from Python"
        )
    channels, size, _ = learner.features
    invert = _inverted(run)
    classes = from_folder(support, size=size, channels=channels, invert=invert)
    files, images = images_below(query, size=size, channels=channels, invert=invert)
    most = getattr(getattr(learner, "model", None), "outputs", None)
    if isinstance(most, int) and most < len(classes):
        raise InputError(
            f"{run} tells {most} classes apart and {support} has {len(classes)}: use fewer classes, or a learner that takes any "
            "number, such as protonet"
        )
    together = len(files) if learner.transductive else 200
    with torch.no_grad():
        x = classes.storage.read(classes.order)
        y = torch.arange(len(classes)).repeat_interleave(classes.count)
        fitted = learner.adapt(Batch(x, y, len(classes)))
        logits = torch.cat(
            [learner.predict(fitted, images.read(i)) for i in torch.split(torch.arange(len(files)), together)]
        )
    chances = logits[:, : len(classes)].softmax(-1)
    atomic.write(
        to, _predictions(classes.names, [f.relative_to(query.expanduser()).as_posix() for f in files], chances)
    )
    best = chances.argmax(-1)
    out.print(
        f"{len(files)} images, {len(classes)} classes learned from {len(y)} examples: predictions in [bold]{to}[/]"
    )
    truth = [f.relative_to(query.expanduser()).parent.as_posix() for f in files]
    if all(t in classes.names for t in truth):
        right = sum(classes.names[b] == t for b, t in zip(best.tolist(), truth, strict=True))
        out.print(
            f"the query's sub-folders name the classes: {right} of {len(files)} right ({100 * right / len(files):.1f} %)"
        )
    if learner.transductive:
        out.print(
            "note: this learner normalizes over the images that it is given together, so predictions depend on the others"
        )


@app.command()
@sentences
def report(run: Run, seed: Seed = 0) -> None:
    """Write RUN/report.html: curves, the table, an episode with its predictions, the adaptation curve, in one file."""
    from kshot.report import write_report

    recipe, learner = _recipe(run, []), training.load(run)
    kept = run / EVALUATION
    found = _read_evaluation(kept, seed) or _evaluate(run, learner, recipe, recipe.episodes, seed)
    page = write_report(
        run, learner, recipe.tasks("test"), found, title=recipe.about or recipe.name, recipe=recipe.settings
    )
    out.print(f"report: [bold]{page}[/]    picture: [bold]{page.with_suffix('.png')}[/]")


@app.command("doctor")
@sentences
def examine(
    target: Annotated[str, typer.Argument(help="The folder of a run; or a recipe, for its new learner.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Inner steps.  \\[default: the learner's own]")] = None,
    tasks: Annotated[int, typer.Option(min=2, help="Training tasks to look at.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of these tasks.")] = 0,
    change: Changes = [],  # noqa: B006
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write all numbers there.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--out", help="The picture.  \\[default: RUN/doctor.png]")] = None,
) -> None:
    """Examine the inner loop and the meta-gradient: is it right, what does it cost, which hypergradient to take.

    Nothing is trained. Compares every way to take the meta-gradient, and forecasts its memory.
    """
    from kshot.report import need_matplotlib, picture_of_diagnosis

    if to is not None:
        need_matplotlib()
    recipe, learner, source = _patient(target, change)
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        row = bar.add_task("examining", total=None)
        found = doctor.diagnose(
            learner, source, count=tasks, steps=steps, seed=seed,
            progress=lambda done, total, what: bar.update(row, completed=done, total=total, description=what),
        )  # fmt: skip
    doctor.show(found, out)
    if as_json is not None:
        atomic.write(as_json, json.dumps({"target": target, "changes": change, **found.to_dict()}, indent=1))
        out.print(f"numbers: [bold]{as_json}[/]")
    if to is None and Path(target).is_dir():
        if find_spec("matplotlib") is None:
            out.print('no picture: pip install "kshot\\[report]" brings what draws it')
            return
        to = Path(target) / "doctor.png"
    if to is not None:
        atomic.write(to, picture_of_diagnosis(found, recipe.name))
        out.print(f"picture: [bold]{to}[/]")


@app.command("list")
@sentences
def list_all(
    what: Annotated[
        str | None, typer.Argument(help="Only recipes, learners, models, rules or tasks.", show_default=False)
    ] = None,
) -> None:
    """Show recipes, learners by family, models, inner rules and task sources, a line each."""
    tables: dict[str, dict[str, str]] = {"recipes": {name: recipes.read(name).about for name in recipes.names()}}
    made: dict[str, Mapping[str, Any]] = {f"learners: {family}": learners for family, learners in FAMILIES.items()}
    made |= {"models": MODELS, "rules": RULES, "tasks": SOURCES | ENVIRONMENTS}
    tables |= {kind: {name: _line(thing) for name, thing in table.items()} for kind, table in made.items()}
    kinds = list(dict.fromkeys(kind.split(":")[0] for kind in tables))
    if what is not None and what not in kinds:
        raise InputError(f"there is no list of {what!r}: {suggestion(what, kinds)}, or leave it out to see all")
    for kind, lines in tables.items():
        section = kind.split(":")[0]
        if what is None or what == section:
            role = "tasks" if section == "tasks" else section.removesuffix("s")
            use = "kshot train NAME" if section == "recipes" else f"\\[{role}] name = …"
            out.print(f"[cyan]{kind}[/]  [dim]{use}[/]")
            for name, line in lines.items():
                out.print(f"  [bold]{name:34}[/]{escape(line)}", no_wrap=True, overflow="ellipsis", highlight=False)
            out.print()


def _line(thing: Any) -> str:
    """The first sentence of its docstring, up to what follows a colon or semicolon."""
    first = (thing.__doc__ or "").strip().splitlines()[0]
    return re.split(r"[:;] ", first, maxsplit=1)[0].rstrip(".")


@app.command()
@sentences
def demo(
    to: Annotated[Path, typer.Option("--out", help="The run folder.")] = Path("runs/demo"),
) -> None:
    """From nothing to a trained few-shot learner in two minutes: train, evaluate, learn new classes from a folder, report."""

    start = time.perf_counter()
    out.rule("1  train a prototype network on generated characters")
    train("glyphs-5w1s-protonet", [], to)
    out.rule("2  evaluate it on classes that it has never seen")
    evaluate_run(to, None, 0, [])
    out.rule("3  teach it five new classes from a folder of five images each")
    support, query = to / "new-classes" / "support", to / "new-classes" / "query"
    characters = draw_glyphs(5, 15, split="test", size=105, seed=2026)  # another world of characters, drawn larger
    write_folder(characters[:, :5], support)
    write_folder(characters[:, 5:], query)
    out.print(f"kshot adapt {to} --support {support} --query {query} --out {to / 'predictions.csv'}")
    adapt(to, support, query, to / "predictions.csv")
    out.rule("4  write the report")
    report(to, 0)
    out.print(f"all of it in {time.perf_counter() - start:.0f} s")


def main() -> None:
    app()


def _inverted(run: Path) -> Invert:
    """How the run's own training images were read."""
    kept = recipes.read(run / RECIPE).settings["tasks"] if (run / RECIPE).is_file() else {}
    invert: Invert = kept.get("invert", "auto")
    return invert


def _recipe(run: Path, changes: list[str]) -> recipes.Recipe:
    if not (run / RECIPE).is_file():
        raise InputError(
            f"{run} is not the folder of a run, it has no {RECIPE}: make one with `kshot train … --out {run}`"
        )
    recipe = recipes.read(run / RECIPE, changes)
    return recipes.Recipe(run.name, recipe.settings)


def _patient(target: str, changes: list[str]) -> tuple[recipes.Recipe, MetaLearner, Any]:
    """The learner of a run, or a new one of a recipe, and the tasks that it is trained on."""
    if Path(target).is_dir():
        recipe = _recipe(Path(target), changes)
        if any(c.strip().startswith("learner") for c in changes):
            raise InputError(
                f"{target} is a run, whose learner is as it was trained, and --set would change it: leave it out, or name the "
                "recipe, for a new learner"
            )
        return recipe, training.load(target), recipe.tasks("train")
    if "/" in target and not target.endswith(".toml"):
        raise InputError(f"there is no folder {target}: give that of a run, or a recipe that `kshot list` shows")
    recipe = recipes.read(target, changes)
    learner, tasks = recipe.learner(), recipe.tasks("train")
    learner.meet(tasks)
    return recipe, learner, tasks


def _evaluate(run: Path, learner: MetaLearner, recipe: recipes.Recipe, episodes: int, seed: int) -> Evaluation:
    with Progress(console=err, transient=True) as bar:
        row = bar.add_task("evaluating", total=episodes)
        return recipe.kind.evaluate(
            learner, recipe.tasks("test"), episodes, seed, progress=lambda done, _: bar.update(row, completed=done)
        )


def _read_evaluation(path: Path, seed: int) -> Evaluation | None:
    """The run's evaluation, if it was one of its own recipe with this seed."""
    if not path.is_file():
        return None
    try:
        kept = json.loads(path.read_text())
        return Evaluation.from_dict(kept) if not kept.pop("changes") and kept["seed"] == seed else None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): remove it, or run `kshot evaluate {path.parent}` again"
        ) from error


def _evaluation_table(recipe: recipes.Recipe, found: Evaluation) -> Table:
    scale, unit = (100, " %") if found.metric == "accuracy" else (1, "")

    def shown(mean: float, interval: float) -> str:
        return f"{scale * mean:.2f} ± {scale * interval:.2f}{unit}" if scale == 100 else f"{mean:.3f} ± {interval:.3f}"

    def curve(points: list[Point]) -> str:
        return "   ".join(f"{p.at}: {scale * p.mean:.1f}" if scale == 100 else f"{p.at}: {p.mean:.3f}" for p in points)

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row(f"[bold]{found.metric}[/]", f"[bold]{shown(found.mean, found.interval)}[/]  (95 % interval)")
    table.add_row("tasks", f"{found.episodes:,} of unseen {recipe.settings['tasks']['name']}, seed {found.seed}")
    if found.calibration:
        table.add_row("calibration error", f"{100 * found.calibration.ece:.1f} %")
    for name, points in (("steps", found.steps_curve), ("shots", found.shots_curve)):
        if points:
            table.add_row(f"{found.metric} after {name}", curve(points) + unit)
    table.add_row("time to adapt", f"{found.adapt_ms:.1f} ms")
    if found.transductive:
        table.add_row("note", "transductive: each prediction also depends on the other query examples")
    return table


def _predictions(classes: tuple[str, ...], files: list[str], chances: torch.Tensor) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["file", "prediction", "probability", *(f"p({name})" for name in classes)])
    for file, row in zip(files, chances.tolist(), strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        rows.writerow([file, classes[best], f"{row[best]:.4f}", *(f"{p:.4f}" for p in row)])
    return text.getvalue()
