"""reproduce: train a recipe with each of its seeds, measure each figure of its [paper] section, and keep what was found."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kshot import atomic, training
from kshot.evidence.beside import keep_figures
from kshot.evidence.kept import Figure, Kept, Seed, of_recipe, read_kept
from kshot.learner import MetaLearner
from kshot.learners import alone
from kshot.recipes import Recipe, runs
from kshot.recipes.paper import Paper, Row
from kshot.settings import build
from kshot.training.distributed import process_group
from kshot.training.progress import METRICS, read_metrics
from kshot.types import InputError

Progress = Callable[[int, int], None]  # tasks done, tasks in all
MODELS = "models"
LARGEST = 2**20  # bytes of a learner that is kept
ROUNDING = 0.1  # of the interval: how far another machine's may take a figure


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
    paper = paper_of(recipe)
    _check_rows(recipe, paper)
    with process_group() as ranks:  # one for all seeds: it cannot be joined twice
        kept: Kept = ranks.agree(_known(recipe, results, say) if ranks.first else of_recipe(recipe))
        for seed in range(paper.seeds) if seeds is None else seeds:
            known = next((s for s in kept.seeds if s.seed == seed), None)
            missing = [row for row in paper.rows if known is None or row.name not in known.figures]
            if known is not None and not missing:
                if ranks.first:
                    say(f"seed {seed}: measured on {known.date}")
                continue
            one, run = recipe.changed(f"training.seed={seed}"), folder / f"{recipe.name}-seed{seed}"
            learner = _kept_learner(known, results)
            if learner is None:
                if ranks.first:
                    say(f"seed {seed}: training into {run}, budget {paper.minutes:g} minutes on two cores")
                runs.train(one, run)
            if ranks.first:
                figures = _figures(one, missing, seed, learner or run, say)
                found = _seed(one, seed, run, results, figures) if known is None else known.with_figures(figures)
                if run.is_dir():
                    keep_figures(run, found.figures)
                with atomic.alone_in(results):
                    kept = _known(recipe, results)  # anew: another process may have measured other seeds
                    others = [s for s in kept.seeds if s.seed != seed]
                    kept = replace(kept, seeds=sorted([*others, found], key=lambda s: s.seed))
                    kept.write(results)
            kept = ranks.agree(kept)
        if ranks.first and kept.seeds:  # targets may be others though nothing was to be measured
            with atomic.alone_in(results):
                _known(recipe, results).write(results)
    return kept


def _check_rows(recipe: Recipe, paper: Paper) -> None:
    """Raise InputError for settings that are wrong, before hours of training and not after them."""
    runs.refuse_recipe(recipe, (recipe.tasks("test", row.test) for row in paper.rows))
    for row in paper.rows:
        build({**recipe.settings["learner"], **recipe.tested(row.learner)}, "learner")


def _known(recipe: Recipe, results: Path, say: Callable[[str], None] = lambda _: None) -> Kept:
    """What was measured of these settings; a figure that a row now means otherwise is an earlier one."""
    path = results / f"{recipe.name}.json"
    if not path.is_file():
        return of_recipe(recipe)
    before = read_kept(path)
    kept = before.still(recipe)
    for moved in kept.earlier[len(before.earlier) :]:
        names = dict.fromkeys(name for seed in moved.seeds for name in seed.figures)
        say(f"{path}: measured with other settings, and kept in it as earlier figures: {'; '.join(names)}")
    return kept


def _kept_learner(known: Seed | None, results: Path) -> Path | None:
    """Of a seed that only lacks a figure."""
    found = results / known.model if known is not None and known.model is not None else None
    return found if found is not None and found.is_file() else None


def _figures(
    recipe: Recipe, rows: Sequence[Row], seed: int, learner: Path, say: Callable[[str], None]
) -> dict[str, Figure]:
    found = {}
    for row in rows:
        found[row.name] = measured(recipe, row, learner)
        say(f"seed {seed}: {row.name}: {found[row.name].mean:.4g} ± {found[row.name].interval:.2g}")
    return found


def _seed(recipe: Recipe, seed: int, run: Path, results: Path, figures: dict[str, Figure]) -> Seed:
    lines = [line for line in read_metrics(run / METRICS) if "seconds" in line]
    return Seed(
        seed=seed,
        date=time.strftime("%Y-%m-%d"),
        seconds=lines[-1]["seconds"] if lines else None,
        steps=lines[-1]["step"] if lines else 0,
        parameters=sum(p.numel() for p in training.load(run).parameters()),
        model=_keep(run, results, recipe.name) if seed == 0 else None,
        figures=figures,
    )


def as_tested(recipe: Recipe, row: Row, learner: Path, **changes: Any) -> MetaLearner:
    """A learner that was saved, with the settings that the row tests it by, and over these the changes."""
    loaded = training.load(learner, **{**recipe.tested(row.learner), **changes})
    return alone(loaded) if row.alone else loaded


def measured(recipe: Recipe, row: Row, learner: Path, progress: Progress | None = None) -> Figure:
    """The row's figure, of a learner that was saved."""
    tasks = recipe.tasks("test", row.test)
    tested = as_tested(recipe, row, learner)
    return Figure.of(recipe.kind.evaluate(tested, tasks, recipe.episodes, 0, curves=False, progress=progress))


@dataclass(frozen=True)
class Again:
    """A row that was measured again: what is recorded, and what was found."""

    row: str
    recorded: Figure
    found: Figure

    @property
    def same(self) -> bool:
        """To what rounding may do."""
        if self.found.diverged and self.recorded.diverged:  # how far is chance
            return True
        a, b = self.found.mean, self.recorded.mean
        if not (math.isfinite(a) and math.isfinite(b)):
            return math.isfinite(a) == math.isfinite(b)  # one that diverged is recorded as no number
        return abs(a - b) <= ROUNDING * self.recorded.interval


def measure_again(
    name: str,
    results: Path = Path("results"),
    rows: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> list[Again]:
    """Measure the kept learner of results/models/ once more, on tasks as they were, to compare with what is recorded of it."""
    path = results / f"{name}.json"
    if not path.is_file():
        raise InputError(f"there is no {path}: `kshot reproduce {name}` trains and writes it")
    kept = read_kept(path)
    seed = next((s for s in kept.seeds if s.model is not None), None)
    if seed is None or seed.model is None:
        raise InputError(
            f"no learner is kept for {path}: that of seed 0 is where it has at most a megabyte; train it again, with "
            f"`kshot reproduce {name} --results mine`"
        )
    if missing := set(rows or ()) - set(seed.figures):
        raise InputError(f"{path} has no figure {min(missing)!r}: it has {', '.join(seed.figures)}")
    chosen = [row for row in kept.paper.rows if row.name in (rows or seed.figures)]
    learner = results / seed.model
    if not learner.is_file():
        raise InputError(f"{learner} is not there any more: `kshot reproduce {name} --results mine` trains another")
    return [Again(row.name, seed.figures[row.name], measured(kept.recipe, row, learner, progress)) for row in chosen]


def _keep(run: Path, results: Path, name: str) -> str | None:
    """The learner by itself, if it is small; its place in the results folder."""
    learner, place = training.load(run).compact(), Path(MODELS) / f"{name}.safetensors"
    if sum(t.numel() * t.element_size() for t in learner.state_dict().values()) > LARGEST:
        return None
    training.save(learner, results / place)
    return place.as_posix()


def paper_of(recipe: Recipe) -> Paper:
    if recipe.paper is None:
        raise InputError(
            f"recipe {recipe.name} has no [paper] section, and so no figure to reproduce: `kshot reproduce --list` shows those "
            f"that have; or `kshot train {recipe.name}` and `kshot evaluate`"
        )
    return recipe.paper
