"""Recipes: a whole training in one TOML file, checked before it starts; and what turns one into objects.

[learner] name and settings, with [learner.model] or [learner.encoder] and [learner.rule]; [tasks] name and settings, with
what differs for one split in [tasks.train], [tasks.val], [tasks.test]; [training] the settings of kshot.fit, or for agents of
kshot.rl.fit; [evaluation] episodes, and `few = true` where they are fewer than papers average over; [paper] the figures that
it reproduces.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kshot import evaluation, rl, training
from kshot.audit import ENOUGH
from kshot.learner import MetaLearner
from kshot.recipes.paper import Paper, read_paper
from kshot.settings import arguments, build, construct, suggestion
from kshot.tasks import SOURCES
from kshot.training.options import Training
from kshot.types import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent
SPLITS = ("train", "val", "test")
_SECTIONS = {
    "about": (),
    "learner": None,  # None: checked by building it
    "tasks": None,
    "training": None,  # the settings of its kind
    "evaluation": ("episodes", "few"),
    "paper": None,
}


@dataclass(frozen=True)
class Kind:
    """What follows from where a recipe's tasks come from: who trains and measures a learner on them, with what settings."""

    tasks: Mapping[str, Callable[..., Any]]
    training: type[Training]
    fit: Callable[..., MetaLearner]
    evaluate: Callable[..., evaluation.Evaluation]


KINDS = (
    Kind(SOURCES, Training, training.fit, evaluation.evaluate),
    Kind(rl.ENVIRONMENTS, rl.PolicyTraining, rl.fit, rl.evaluate),
)

_NO_SECTION = "must be a section with settings below it, such as a line `seed = 0`"


@dataclass(frozen=True)
class Recipe:
    """origin: what it was read from, a name or a path."""

    name: str
    settings: dict[str, Any]
    origin: str = ""

    @property
    def about(self) -> str:
        return str(self.settings.get("about", ""))

    @property
    def training(self) -> dict[str, Any]:
        return dict(self.settings.get("training", {}))

    @property
    def episodes(self) -> int:
        return int(self.settings.get("evaluation", {}).get("episodes", ENOUGH))

    @property
    def paper(self) -> Paper | None:
        return read_paper(self.settings["paper"]) if "paper" in self.settings else None

    @property
    def kind(self) -> Kind:
        """That of the training tasks' name."""
        name = self._tasks("train").get("name")
        found = next((kind for kind in KINDS if name in kind.tasks), None)
        if found is None and isinstance(name, str):
            raise InputError(
                f"tasks {name!r} is not known: {suggestion(name, [n for kind in KINDS for n in kind.tasks])}"
            )
        return found or KINDS[0]  # without a name, building the tasks says that one is needed

    def learner(self) -> MetaLearner:
        """A new learner; its initial weights depend on the training seed alone."""
        with torch.random.fork_rng():
            torch.manual_seed(self.training.get("seed", 0))
            learner: MetaLearner = build(self.settings["learner"], "learner")
        return learner

    def tested(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of the learner that a figure changes; of a section, `encoder = { views = 1 }`, only what it names."""
        return {key: _over(self.settings["learner"].get(key), value) for key, value in changes.items()}

    def tasks(self, split: str, changes: Mapping[str, Any] | None = None) -> Any:
        """The tasks of one of SPLITS: the settings in [tasks], over them those in [tasks.<split>], and over all the changes."""
        table, chosen = self.kind.tasks, {**self._tasks(split), **(changes or {})}
        if chosen.get("name") in table and "split" in arguments(table[chosen["name"]]):
            chosen = {"split": split, **chosen}
        return construct(table, chosen, "tasks")

    def validation(self) -> Any:
        """The tasks to choose the best learner by; None where [tasks] says val = false, for those who train on those too."""
        return None if self.settings["tasks"].get("val") is False else self.tasks("val")

    def _tasks(self, split: str) -> dict[str, Any]:
        section = self.settings["tasks"]
        if not isinstance(section.get(split, {}), Mapping):
            raise InputError(f"[tasks.{split}] {_NO_SECTION}, found {section[split]!r}")
        chosen: dict[str, Any] = {k: v for k, v in section.items() if k not in SPLITS} | section.get(split, {})
        return chosen

    def changed(self, *changes: str, few: bool = False) -> Recipe:
        """With other settings, 'training.seed=1'. few: as in read."""
        settings = copy.deepcopy(self.settings)
        for change in changes:
            _change(settings, change)
        return Recipe(self.name, settings, self.origin).checked(few)

    def checked(self, few: bool = False) -> Recipe:
        """Raise InputError for what is misspelt or missing; building learner and tasks checks the rest."""
        _check_keys(self.settings, _SECTIONS, "the recipe")
        for section in ("learner", "tasks"):
            if not isinstance(self.settings.get(section), Mapping):
                raise InputError(f"recipe {self.name} has no [{section}] section: add one with a name and its settings")
        for section, keys in _SECTIONS.items():
            if keys:
                _check_keys(self.settings.get(section, {}), keys, f"[{section}]")
        _check_keys(self.settings.get("training", {}), tuple(self.kind.training.__dataclass_fields__), "[training]")
        self.kind.training(**self.training)
        evaluation = self.settings.get("evaluation", {})
        episodes, few = evaluation.get("episodes", ENOUGH), few or evaluation.get("few", False)
        if not isinstance(episodes, int) or episodes < 2:
            raise InputError(f"[evaluation] has episodes={episodes!r}: give a whole number of at least 2")
        if episodes < ENOUGH and few is not True:
            raise InputError(
                f"[evaluation] has episodes={episodes}, and papers average over {ENOUGH} or more: give as many, or say that it "
                "is a quick look with few = true (--set evaluation.few=true)"
            )
        _ = self.paper  # read, and so checked
        return self


def _over(below: Any, above: Any) -> Any:
    """A section over a section of the same name, key by key; anything else in place of what was there."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    if above.get("name", below.get("name")) != below.get("name"):
        return above
    return {**below, **{key: _over(below.get(key), value) for key, value in above.items()}}


def names() -> list[str]:
    """The recipes in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(name: str | Path, changes: Sequence[str] = (), *, few: bool = False) -> Recipe:
    """A recipe of the package by name, or a .toml file; changes are 'training.steps=100'.

    few: allow fewer test tasks than papers average over, also where the recipe does not say so.
    """
    path = Path(name) if str(name).endswith(".toml") else FOLDER / f"{name}.toml"
    if str(name).endswith(".toml") and not path.is_file():
        raise InputError(f"there is no recipe file {path}: check the path, or name a recipe that `kshot list` shows")
    if not path.is_file():
        raise InputError(
            f"no recipe is called {str(name)!r}: {suggestion(str(name), names())} (`kshot list` shows all), or give a .toml file"
        )
    try:
        settings = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}; mend that line, texts stand in quotes") from error
    try:
        return Recipe(path.stem, settings, str(name)).changed(*changes, few=few)
    except InputError as error:
        if changes:  # it may be of these
            raise
        raise InputError(f"{path}: {error}") from error


def to_toml(settings: Mapping[str, Any]) -> str:
    """TOML of nested settings (strings, numbers, booleans, lists)."""
    return "\n".join(_lines(settings, ())) + "\n"


def _lines(section: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    plain = [f"{key} = {_plain(value)}" for key, value in section.items() if not isinstance(value, Mapping)]
    lines = ["", f"[{'.'.join(path)}]"] if path and plain else []
    lines += plain
    for key, value in section.items():
        if isinstance(value, Mapping):
            lines += _lines(value, (*path, key))
    return lines


def _plain(value: Any) -> str:
    """A value of TOML; tables in lists stand in a line each."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_plain(v)}" for key, v in value.items()) + " }" if value else "{}"
    if isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
        return "[\n" + "".join(f"    {_plain(v)},\n" for v in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _change(settings: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise InputError(f"--set {change!r} cannot be read: write section.key=value, such as training.steps=100")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string
    section = settings
    for part in path[:-1]:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise InputError(
                f"--set {change!r}: {part} is a value, not a section; write section.key=value, such as training.steps=100"
            )
    section[path[-1]] = value


def _check_keys(section: Mapping[str, Any], known: Mapping[str, Any] | Sequence[str], where: str) -> None:
    if not isinstance(section, Mapping):
        raise InputError(f"{where} {_NO_SECTION}, found {section!r}")
    for key in section:
        if key not in known:
            raise InputError(f"{where} has no setting {key!r}: {suggestion(key, known)}")
