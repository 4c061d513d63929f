"""kshot doctor: is the inner loop right, and what does it cost."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from kshot import atomic, doctor, recipes, training
from kshot.cli.terminal import Changes, err, out
from kshot.learner import MetaLearner
from kshot.recipes.runs import recipe_of
from kshot.types import InputError


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


def _patient(target: str, changes: list[str]) -> tuple[recipes.Recipe, MetaLearner, Any]:
    """The learner of a run, or a new one of a recipe, and the tasks that it is trained on."""
    if Path(target).is_dir():
        recipe = recipe_of(Path(target), changes)
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
