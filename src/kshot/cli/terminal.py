"""What the commands share: where they print, the arguments that several take, and how a mistake ends."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import Progress

from kshot import training
from kshot.evaluation import Evaluation
from kshot.learner import MetaLearner
from kshot.recipes import Recipe
from kshot.training import checkpoint
from kshot.training.distributed import RankLost
from kshot.types import InputError

out = Console()
err = Console(stderr=True)
Command = TypeVar("Command", bound=Callable[..., None])

Run = Annotated[Path, typer.Argument(help="The folder of a run, such as runs/glyphs-5w1s-protonet.")]
Seed = Annotated[int, typer.Option(help="Seed of the test tasks: the same seed gives every learner the same tasks.")]
Alone = Annotated[
    bool, typer.Option("--alone", help="Predict each query beside the support alone, not all of a task together.")
]
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


def only_tasks(changes: list[str]) -> None:
    """Raise InputError for changes of a run that is only measured: its learner is as it was trained."""
    for change in changes:
        if "=" not in change:
            raise InputError(f"--set {change!r} is no setting: give KEY=VALUE, such as tasks.test.shots=5")
        if re.match(r"\s*tasks\.(train|val)\b", change):
            raise InputError(
                f"--set {change!r} would change what the run was trained on, and it is only measured: set tasks.test.…, such as "
                "tasks.test.shots=5"
            )
        if change.strip().split(".")[0] not in ("tasks", "evaluation"):
            raise InputError(
                f"--set {change!r} would change how the run was trained, and it is only measured: change tasks, such as "
                "tasks.test.shots=5, or train a recipe"
            )


def say_if_unfinished(run: Path) -> None:
    """That its training was not done to the end."""
    last = run / checkpoint.LAST
    state = checkpoint.read(last)[0]["state"] if last.is_file() else None
    if state is None:  # there was nothing to train
        return
    done, wanted = state["step"], state["settings"]["training"]["steps"]
    if done < wanted:
        line = f"{run} was trained for {done:,} of {wanted:,} steps so far"
        err.print(line, markup=False, highlight=False, soft_wrap=True)


def evaluated(learner: MetaLearner, recipe: Recipe, tasks: Any, episodes: int, seed: int, **options: Any) -> Evaluation:
    """With a bar."""
    with Progress(console=err, transient=True) as bar:
        row = bar.add_task("evaluating", total=episodes)
        return recipe.kind.evaluate(
            learner, tasks, episodes, seed,
            progress=lambda done, total: bar.update(row, completed=done, total=total), **options,
        )  # fmt: skip
