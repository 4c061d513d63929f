"""reproduce: train a recipe with each of its seeds, measure each figure of its [paper] section, and keep what was found."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kshot import atomic, training
from kshot.evidence.beside import keep_figures
from kshot.evidence.figures import Figure
from kshot.evidence.kept import Kept, Seed, of_recipe, read_kept
from kshot.learner import MetaLearner
from kshot.learners import alone
from kshot.machine import machine, versions
from kshot.recipes import FOLDER, Recipe, runs
from kshot.recipes.paper import Paper, Row
from kshot.settings import build
from kshot.training import checkpoint
from kshot.training.distributed import process_group
from kshot.training.loop import RUN
from kshot.training.progress import METRICS, read_metrics
from kshot.types import InputError

Progress = Callable[[int, int], None]  # tasks done, tasks in all
MODELS = "models"
LARGEST = 2**20  # bytes of a learner that is kept
FEW, MANY = 3, 0.05  # tasks that more or less may diverge by rounding; a share of them
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

    Seeds that are there already, of the same settings, are left as they are. Small learners are kept beside them: a row that
    the recipe gained since is measured of these, and else of another training, whose figures then take the place of the old.
    """
    paper = paper_of(recipe)
    _check_rows(recipe, paper)
    if results.exists() and not results.is_dir():
        raise InputError(f"{results} is a file: give a folder for the figures")
    with process_group() as ranks:  # one for all seeds: it cannot be joined twice
        kept: Kept = ranks.agree(_known(recipe, results, say) if ranks.first else of_recipe(recipe))
        for seed in range(paper.seeds) if seeds is None else seeds:
            known = next((s for s in kept.seeds if s.seed == seed), None)
            if known is not None and all(row.name in known.figures for row in paper.rows):
                if ranks.first:
                    say(f"seed {seed}: measured on {known.date}")
                continue
            one, run = recipe.changed(f"training.seed={seed}"), folder / f"{recipe.name}-seed{seed}"
            learner = ranks.agree(known and _learner_of(known, run, results))
            if learner is None:
                known = None
                if ranks.first:
                    say(f"seed {seed}: training into {run}, budget {paper.minutes:g} minutes on two cores")
                runs.train(one, run)
            if ranks.first:
                missing = [row for row in paper.rows if known is None or row.name not in known.figures]
                figures = _figures(one, missing, seed, learner or run, say)
                found = _seed(one, seed, run, results, figures) if known is None else known.with_figures(figures)
                with atomic.alone_in(results):
                    kept = _known(recipe, results)  # anew: another process may have measured other seeds
                    others = [s for s in kept.seeds if s.seed != seed]
                    kept = replace(kept, seeds=sorted([*others, found], key=lambda s: s.seed))
                    kept.write(results)
                if found.learner and fingerprint_of(run) == found.learner:
                    keep_figures(run, found.figures)
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


def _learner_of(seed: Seed, run: Path, results: Path) -> Path | None:
    """Of a seed that only lacks a figure: the learner that the others are of, where it still is."""
    if seed.model is not None and (results / seed.model).is_file():
        return results / seed.model
    return run if seed.learner and fingerprint_of(run) == seed.learner else None


def fingerprint_of(run: Path) -> str:
    """Empty where there is none."""
    return checkpoint.fingerprint(run) if (run / checkpoint.LAST).is_file() else ""


def _figures(
    recipe: Recipe, rows: Sequence[Row], seed: int, learner: Path, say: Callable[[str], None]
) -> dict[str, Figure]:
    found = {}
    for row in rows:
        found[row.name] = measured(recipe, row, learner)
        say(f"seed {seed}: {row.name}: {found[row.name]}")
    return found


def _seed(recipe: Recipe, seed: int, run: Path, results: Path, figures: dict[str, Figure]) -> Seed:
    """Of a training in its run folder: by the versions and on the machine that it was made with."""
    lines = [line for line in read_metrics(run / METRICS) if "seconds" in line]
    started = json.loads((run / RUN).read_text()) if (run / RUN).is_file() else {}  # there was nothing to train
    known = {name: started[name] for name in (*versions(), "commit") if name in started}
    return Seed(
        seed=seed,
        date=time.strftime("%Y-%m-%d"),
        seconds=lines[-1]["seconds"] if lines else None,
        steps=lines[-1]["step"] if lines else 0,
        parameters=sum(p.numel() for p in training.load(run).parameters()),
        model=_keep(run, results, recipe.name + f"-seed{seed}" * (seed > 0)),
        figures=figures,
        learner=fingerprint_of(run),
        versions=known or versions(),
        machine=started.get("machine") or machine(),
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

    seed: int  # of the training
    row: str
    recorded: Figure
    found: Figure

    @property
    def same(self) -> bool:
        """To what rounding may do."""
        a, b = self.found, self.recorded
        if a.diverged and b.diverged:  # how far is chance, and where most tasks diverge the median is, too
            some, most = sorted((a.diverged, b.diverged))
            if some > MANY * b.episodes or a.median is None or b.median is None:
                return True
            return most <= 2 * some + FEW and abs(a.median - b.median) <= ROUNDING * b.median
        if not (math.isfinite(a.mean) and math.isfinite(b.mean)):
            return math.isfinite(a.mean) == math.isfinite(b.mean)  # one that diverged is recorded as no number
        return abs(a.mean - b.mean) <= ROUNDING * b.interval


def measure_again(
    name: str,
    results: Path = Path("results"),
    rows: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> list[Again]:
    """Measure the kept learners of results/models/ once more, on tasks as they were, to compare with what is recorded."""
    path = results / f"{name}.json"
    if not path.is_file():
        raise InputError(f"there is no {path}: `kshot reproduce {name}` trains and writes it")
    kept = read_kept(path)
    learners = {s.seed: (s, results / s.model) for s in kept.seeds if s.model and (not seeds or s.seed in seeds)}
    if not learners or set(seeds or ()) - set(learners):
        of = f"of seed {min(set(seeds) - set(learners))} " if seeds else ""
        raise InputError(
            f"no learner {of}is kept for {path}: those of at most a megabyte are; train it again, with "
            f"`kshot reproduce {name} --results mine`"
        )
    found = []
    for seed, learner in learners.values():
        if missing := set(rows or ()) - set(seed.figures):
            raise InputError(f"{path} has no figure {min(missing)!r}: it has {', '.join(seed.figures)}")
        if not learner.is_file():
            raise InputError(f"{learner} is not there any more: `kshot reproduce {name} --results mine` trains another")
        for row in (row for row in kept.paper.rows if row.name in (rows or seed.figures)):
            again = measured(kept.recipe, row, learner, progress)
            found.append(Again(seed.seed, row.name, seed.figures[row.name], again))
    return found


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
    ours = FOLDER / f"{recipe.name}.toml"
    if ours.is_file() and recipe.origin.endswith(".toml") and Path(recipe.origin).resolve() != ours.resolve():
        raise InputError(
            f"{recipe.origin} has the name of a recipe of kshot, and its figures would be taken for that one's: rename the file"
        )
    return recipe.paper
