"""A recipe's run folder: trained into it, and read from it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kshot import atomic, training
from kshot.audit import refuse_known
from kshot.recipes import Recipe, read, to_toml
from kshot.training import checkpoint
from kshot.training.distributed import process_group
from kshot.types import InputError, TaskSource, identities

RECIPE = "recipe.toml"


@dataclass(frozen=True)
class Done:
    """seconds: None where there was nothing to train. first: whether this process is the one that tells."""

    seconds: float | None
    first: bool


def train(recipe: Recipe, folder: Path, *, tensorboard: bool = False) -> Done:
    """Train the recipe's learner into the folder, or go on there. Several processes call it alike; the first one writes."""
    with process_group() as ranks:
        start = time.perf_counter()
        learner, tasks, val = recipe.learner(), recipe.tasks("train"), recipe.validation()
        text = to_toml(recipe.settings)
        refuse_recipe(recipe, [recipe.tasks("test")])  # now, and not after hours
        if ranks.first and not (folder / checkpoint.LAST).is_file():
            atomic.write(folder / RECIPE, text)
        if not any(p.requires_grad for p in learner.parameters()):
            if ranks.first:
                training.save(learner, folder / checkpoint.LAST)
            return Done(None, ranks.first)
        settings = {"device": "auto", **recipe.training}
        recipe.kind.fit(learner, tasks, validate=val, out=folder, tensorboard=tensorboard, **settings)
        if ranks.first:
            atomic.write(folder / RECIPE, text)  # a run that was gone on with may have become longer
        return Done(time.perf_counter() - start, ranks.first)


def refuse_recipe(recipe: Recipe, tests: Iterable[TaskSource]) -> None:
    """Raise InputError if its learner would be measured on classes that it was trained on, or chosen by."""
    trained, chosen = recipe.tasks("train"), recipe.validation()
    for tasks in tests:
        refuse_known(identities(trained), tasks, "the recipe trains on", trained)
        refuse_known(identities(chosen), tasks, "the recipe validates on, and chooses its best weights by", chosen)


def recipe_of(run: Path, changes: list[str]) -> Recipe:
    """The recipe that a run was trained by, under the run's name."""
    if run.is_file():
        raise InputError(
            f"{run} is a saved learner, which does not say what to test it on: give the folder of its run, or from Python "
            "kshot.evaluate(kshot.load(path), tasks)"
        )
    if not (run / RECIPE).is_file():
        raise InputError(
            f"{run} is not the folder of a run, it has no {RECIPE}: make one with `kshot train … --out {run}`"
        )
    return Recipe(run.name, read(run / RECIPE, changes, few=True).settings)  # who measures a run says how many tasks
