"""reproduce: train a recipe with each of its seeds, measure each figure of its [paper] section, and keep what was found."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kshot import atomic, training
from kshot.evidence.beside import keep_figures
from kshot.evidence.kept import Figure, Kept, Seed, of_recipe, read_kept
from kshot.recipes import Recipe, runs
from kshot.recipes.paper import Paper, Row
from kshot.training import checkpoint
from kshot.training.progress import METRICS, read_metrics
from kshot.types import InputError

Progress = Callable[[int, int], None]  # tasks done, tasks in all
MODELS = "models"
LARGEST = 2**20  # bytes of a learner that is kept
OFF = {"accuracy": 0.02, "mse": 1e-3}  # how far another machine's rounding may take a figure


def reproduce(
    recipe: Recipe,
    folder: Path = Path("runs"),
    results: Path = Path("results"),
    *,
    seeds: Sequence[int] | None = None,
    say: Callable[[str], None] = print,
) -> Kept:
    """Train with each seed (into folder/NAME-seedK, going on where that stopped), measure, write results/NAME.json.

    Seeds that are there already, of the same settings, are left as they are. The first seed's learner is kept beside them.
    """
    paper = _paper(recipe)
    kept = of_recipe(recipe)
    path = results / f"{recipe.name}.json"
    if path.is_file():
        before = read_kept(path)
        if before.settings == kept.settings:
            kept = replace(kept, seeds=before.seeds)
        elif before.seeds:
            say(f"{path} was measured with other settings: it is measured anew")
    for seed in range(paper.seeds) if seeds is None else seeds:
        rows = [row.name for row in paper.rows]
        known = next((s for s in kept.seeds if s.seed == seed), None)
        if known is not None and list(known.figures) == rows:
            say(f"seed {seed}: measured on {known.date}")
            continue
        found = _trained_and_measured(recipe.changed(f"training.seed={seed}"), paper, seed, folder, results, say)
        others = [s for s in kept.seeds if s.seed != seed]
        kept = replace(kept, seeds=sorted([*others, found], key=lambda s: s.seed))
        kept.write(results)
    return kept


def _trained_and_measured(
    recipe: Recipe, paper: Paper, seed: int, folder: Path, results: Path, say: Callable[[str], None]
) -> Seed:
    run = folder / f"{recipe.name}-seed{seed}"
    say(f"seed {seed}: training into {run}, about {paper.minutes:g} minutes on two cores")
    runs.train(recipe, run)
    found = {}
    for row in paper.rows:
        found[row.name] = measured(recipe, row, run)
        say(f"seed {seed}: {row.name}: {found[row.name].mean:.4g} ± {found[row.name].interval:.2g}")
    keep_figures(run, found)
    lines = [line for line in read_metrics(run / METRICS) if "seconds" in line]
    return Seed(
        seed=seed,
        date=time.strftime("%Y-%m-%d"),
        seconds=lines[-1]["seconds"] if lines else None,
        steps=lines[-1]["step"] if lines else 0,
        parameters=sum(p.numel() for p in training.load(run).parameters()),
        model=_keep(checkpoint.find(run), results, recipe.name) if seed == 0 else None,
        figures=found,
    )


def measured(recipe: Recipe, row: Row, learner: Path, progress: Progress | None = None) -> Figure:
    """The row's figure, of a learner that was saved."""
    loaded = training.load(learner, **row.learner)
    tasks = recipe.tasks("test", row.test)
    return Figure.of(recipe.kind.evaluate(loaded, tasks, recipe.episodes, 0, curves=False, progress=progress))


@dataclass(frozen=True)
class Again:
    """A row that was measured again: what is recorded, and what was found."""

    row: str
    recorded: Figure
    found: Figure

    @property
    def same(self) -> bool:
        """To what rounding may do."""
        return abs(self.found.mean - self.recorded.mean) <= OFF.get(self.recorded.metric, 0.0)


def measure_again(
    recipe: Recipe,
    results: Path = Path("results"),
    rows: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> list[Again]:
    """Measure the kept learner of results/models/ once more, to compare with what is recorded of it."""
    paper = _paper(recipe)
    path = results / f"{recipe.name}.json"
    if not path.is_file():
        raise InputError(f"there is no {path}: `kshot reproduce {recipe.name}` trains and writes it")
    seed = next((s for s in read_kept(path).seeds if s.model is not None), None)
    if seed is None or seed.model is None:
        raise InputError(f"{path} names no learner that was kept: only those up to a megabyte are, train it again")
    chosen = [row for row in paper.rows if rows is None or row.name in rows]
    return [
        Again(row.name, seed.figures[row.name], measured(recipe, row, results / seed.model, progress)) for row in chosen
    ]


def _keep(best: Path, results: Path, name: str) -> str | None:
    """Copy the learner, if it is small; its place in the results folder."""
    data = best.read_bytes()
    if len(data) > LARGEST:
        return None
    place = Path(MODELS) / f"{name}{best.suffix}"
    atomic.write(results / place, data)
    return place.as_posix()


def _paper(recipe: Recipe) -> Paper:
    if recipe.paper is None:
        raise InputError(
            f"recipe {recipe.name} has no [paper] section, and so no figure to reproduce: `kshot reproduce --list` shows those "
            f"that have; or `kshot train {recipe.name}` and `kshot evaluate`"
        )
    return recipe.paper
