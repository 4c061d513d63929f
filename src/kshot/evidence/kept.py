"""What was measured for a recipe's [paper] section: results/NAME.json, written whole after each seed, and read back."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from kshot import atomic
from kshot.evaluation import numbers
from kshot.evidence.figures import Figure, Ours, over_seeds, reached
from kshot.machine import machine, versions
from kshot.recipes import Recipe
from kshot.recipes.paper import Paper, Row, read_paper
from kshot.settings import changed, describe
from kshot.types import InputError


@dataclass(frozen=True)
class Seed:
    """One training: what it took, where its learner is kept (None: it is too large), and its figures by the row's name.

    learner: its fingerprint, by which its run is known; versions, machine: that it was trained with.
    """

    seed: int
    date: str
    seconds: float | None
    steps: int
    parameters: int
    model: str | None
    figures: dict[str, Figure]
    learner: str = ""
    versions: dict[str, str] = field(default_factory=versions)
    machine: dict[str, Any] = field(default_factory=machine)

    def with_figures(self, figures: Mapping[str, Figure]) -> Seed:
        """More of them; where and when it was trained is as it was."""
        return replace(self, figures={**self.figures, **figures})

    def without(self, names: Iterable[str]) -> Seed:
        return replace(self, figures={name: figure for name, figure in self.figures.items() if name not in set(names)})


@dataclass(frozen=True)
class Earlier:
    """What was measured on the test tasks by settings, of the training or of the test, that the recipe has no longer.

    None of it is dropped: who changes a recipe after such a measurement has chosen by the test tasks, and a reader is to see it.
    """

    settings: dict[str, Any]
    seeds: list[Seed]
    reproduces: dict[str, Any] = field(default_factory=dict)  # its rows; empty in files from before this was kept


@dataclass(frozen=True)
class Kept:
    """All that was measured for a recipe. settings: the recipe's, but for what it says about itself and the paper."""

    name: str
    settings: dict[str, Any]
    reproduces: dict[str, Any]  # the [paper] section
    seeds: list[Seed] = field(default_factory=list)
    command: str = ""
    learner: dict[str, Any] | None = (
        None  # with all that the recipe left to defaults; None in files from before it was kept
    )
    earlier: list[Earlier] = field(default_factory=list)

    @property
    def recipe(self) -> Recipe:
        """As it was."""
        return Recipe(self.name, {**self.settings, "paper": self.reproduces}, self.name)

    def is_of(self, recipe: Recipe) -> bool:
        """Whether the recipe would be trained so today: by its settings, and by the defaults that they leave."""
        same = trained_by(self.settings) == trained_by(recipe.settings)
        return same and (self.learner is None or not changed(self.learner, _described(recipe)))

    def still(self, recipe: Recipe) -> Kept:
        """As far as it is of the recipe, and its figures mean what the recipe's do today: another test is another figure."""
        now, same = of_recipe(recipe), set()
        if self.is_of(recipe):
            meant = {row.name: self.meaning(row) for row in self.paper.rows}
            same = {row.name for row in now.paper.rows if meant.get(row.name) == now.meaning(row)}
        gone = [seed.without(same) for seed in self.seeds if not seed.figures.keys() <= same]
        if not self.is_of(recipe):
            gone = [replace(seed, model=None) for seed in gone]  # the next training's takes its place
        earlier = [*self.earlier, *([Earlier(self.settings, gone, self.reproduces)] if gone else [])]
        seeds = [seed.without(seed.figures.keys() - same) for seed in self.seeds] if self.is_of(recipe) else []
        return replace(now, seeds=seeds, earlier=earlier)

    def meaning(self, row: Row) -> dict[str, Any]:
        """What a figure of the row depends on beside the training."""
        recipe = self.recipe
        test = {**recipe.settings["tasks"].get("test", {}), **row.test}
        return {"test": test, "learner": recipe.tested(row.learner), "alone": row.alone, "episodes": recipe.episodes}

    @property
    def paper(self) -> Paper:
        return read_paper(self.reproduces)

    def ours(self, row: str) -> Ours | None:
        return over_seeds([seed.figures[row] for seed in self.seeds if row in seed.figures])

    @property
    def minutes(self) -> float | None:
        """What a training took, on average."""
        took = [seed.seconds for seed in self.seeds if seed.seconds is not None]
        return statistics.fmean(took) / 60 if took else None

    @property
    def over_budget(self) -> bool:
        return self.minutes is not None and round(self.minutes) > self.paper.minutes

    @property
    def date(self) -> str:
        return max((seed.date for seed in self.seeds), default="")

    def write(self, results: Path) -> Path:
        path = results / f"{self.name}.json"
        text = json.dumps(atomic.finite(asdict(self)), indent=1, ensure_ascii=False, allow_nan=False)
        atomic.write(path, text + "\n")
        return path


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """What its figures depend on."""
    return {key: value for key, value in recipe.settings.items() if key not in ("about", "paper")}


def trained_by(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a training depends on."""
    tasks = {key: value for key, value in settings["tasks"].items() if key != "test"}
    return {"learner": settings["learner"], "tasks": tasks, "training": settings.get("training", {})}


def of_recipe(recipe: Recipe) -> Kept:
    """Nothing measured yet."""
    command = f"kshot reproduce {recipe.origin}"
    return Kept(recipe.name, settings_of(recipe), recipe.settings["paper"], command=command, learner=_described(recipe))


def _described(recipe: Recipe) -> dict[str, Any]:
    """The learner with every argument, as JSON gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(describe(recipe.learner())))
    return plain


def read_kept(path: Path) -> Kept:
    try:
        return _of_json(json.loads(_text(path)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(_unreadable(path, error)) from error


def read_all(results: Path) -> dict[str, Kept]:
    """By name, of all files in the folder that `reproduce` wrote; benchmarks write others beside them."""
    return {path.stem: read_kept(path) for path in sorted(results.glob("*.json")) if '"reproduces"' in _text(path)}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(_unreadable(path, error)) from error


def _unreadable(path: Path, error: Exception) -> str:
    return (
        f"{path} cannot be read ({error}): mend it, or bring back an older one, such as by `git checkout`; removed, its figures "
        f"are gone, earlier ones too, and `kshot reproduce {path.stem}` trains again"
    )


@dataclass(frozen=True)
class Standing:
    """The rows of a recipe, what was measured of them, and whether that was of other settings than it has now."""

    paper: Paper
    kept: Kept
    older: bool = False

    @property
    def measured(self) -> bool:
        return any(seed.figures for seed in self.kept.seeds)

    def seeds(self, row: Row) -> str:
        """', 1 of 3 seeds' where its figure is of fewer than were to be trained."""
        ours = self.kept.ours(row.name)
        return f", {ours.seeds} of {self.paper.seeds} seeds" if ours and ours.seeds < self.paper.seeds else ""

    def target(self, row: Row) -> str:
        """'99 ✓', and how many of its seeds reached it, if not all were trained."""
        made = reached(row, self.kept.ours(row.name))
        mark = "" if made is None else f" {'✓' if made else '✗'}{self.seeds(row)}"
        return "" if row.target is None else f"{row.target:g}{mark}"


def standing(recipe: Recipe | None, kept: Kept | None) -> Standing | None:
    """None where there is nothing to reproduce. Figures of older settings stand with the rows that they were measured for."""
    paper = None if recipe is None else recipe.paper
    if recipe is None or paper is None:
        return None if kept is None else Standing(kept.paper, kept)
    now = of_recipe(recipe) if kept is None else kept.still(recipe)
    if kept is None or kept.is_of(recipe) or not kept.seeds:
        return Standing(paper, now)
    return Standing(kept.paper, kept, older=True)


def _of_json(kept: Mapping[str, Any]) -> Kept:
    known = {f.name for f in fields(Kept)}
    plain = {key: value for key, value in kept.items() if key in known}
    earlier = [Earlier(**{**before, "seeds": _seeds(before["seeds"])}) for before in kept.get("earlier", [])]
    return Kept(**{**plain, "seeds": _seeds(kept["seeds"]), "earlier": earlier})


def _seeds(kept: list[dict[str, Any]]) -> list[Seed]:
    return [
        Seed(**{**seed, "figures": {name: restored(figure) for name, figure in seed["figures"].items()}})
        for seed in kept
    ]


def restored(kept: Mapping[str, Any]) -> Figure:
    """The inverse of asdict, after a trip through JSON."""
    return Figure(**numbers(kept))
