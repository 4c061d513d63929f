"""What a recipe reproduces: the [paper] section, a row for each figure, with ours to reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from kshot.settings import suggestion
from kshot.types import InputError


@dataclass(frozen=True)
class Row:
    """One figure. Accuracies are in percent, other metrics as they are.

    test: settings over those in [tasks.test]; learner: over those of the trained learner, such as eval_steps,
    section by section.
    alone: each query is predicted with the support alone, by a learner that would predict those of a task together.
    published, interval: the paper's figure and its 95 % interval; target: what this project set itself.
    """

    name: str
    test: Mapping[str, Any] = field(default_factory=dict)
    learner: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False
    published: float | None = None
    interval: float | None = None
    target: float | None = None

    @property
    def paper(self) -> str:
        """Its figure, with as many places as the recipe writes."""
        if self.published is None:
            return "–"
        return str(self.published) + (f" ± {self.interval}" if self.interval else "")

    def less(self, mean: float) -> str:
        """How far a figure is above the paper's, below with a minus; nothing where the paper has none."""
        if self.published is None:
            return ""
        gap = f"{mean - self.published:+.{4 if 0 < abs(self.published) < 0.1 else 2}f}"
        return "0.00" if float(gap) == 0 else gap.replace("-", "−")


@dataclass(frozen=True)
class Paper:
    """source: where the figures were published. minutes: what a training may take on two CPU cores. seeds: how many."""

    source: str
    minutes: float
    rows: tuple[Row, ...]
    seeds: int = 1


def read_paper(section: Mapping[str, Any]) -> Paper:
    """The [paper] section, checked."""
    values = dict(_checked(section, Paper, "[paper]"))
    rows = values["rows"]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
        raise InputError(
            f'[paper] has rows={rows!r}: figures are needed, such as rows = [{{ name = "5-way 1-shot", published = 98.7 }}]'
        )
    values["rows"] = tuple(Row(**_checked(row, Row, f"row {i + 1} of [paper]")) for i, row in enumerate(rows))
    paper = Paper(**values)
    names = [row.name for row in paper.rows]
    if len(set(names)) < len(names):
        raise InputError(f"[paper] has rows of the same name, {names}: give each its own")
    if not isinstance(paper.seeds, int) or isinstance(paper.seeds, bool) or paper.seeds < 1:
        raise InputError(f"[paper] has seeds={paper.seeds!r}: give a whole number of at least 1")
    return paper


EXAMPLES = {
    "source": 'source = "Finn 2017"',
    "minutes": "minutes = 30",
    "rows": 'rows = [{ name = "5-way 1-shot" }]',
    "name": 'name = "5-way 1-shot"',
}
_NUMBERS = ("published", "interval", "target", "minutes")
_SECTIONS = ("test", "learner")


def _checked(section: Mapping[str, Any], kind: type, where: str) -> Mapping[str, Any]:
    if not isinstance(section, Mapping):
        raise InputError(f"{where} must be a section with settings below it, found {section!r}")
    known = [f.name for f in fields(kind)]
    needed = {"Paper": ("source", "minutes", "rows"), "Row": ("name",)}[kind.__name__]
    for key, value in section.items():
        if key not in known:
            raise InputError(f"{where} has no setting {key!r}: {suggestion(key, known)}")
        if key in _NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f"{where} has {key}={value!r}: a number is needed")
        if key in _SECTIONS and not isinstance(value, Mapping):
            raise InputError(f"{where} has {key}={value!r}: settings are needed, such as {key} = {{ shots = 5 }}")
        if key == "alone" and not isinstance(value, bool):
            raise InputError(f"{where} has alone={value!r}: true or false is needed")
        if key in ("name", "source") and not isinstance(value, str):
            raise InputError(f"{where} has {key}={value!r}: a text is needed")
    if missing := [key for key in needed if key not in section]:
        given = f", beside {', '.join(section)}" if section else ""
        raise InputError(f"{where} lacks {missing[0]}{given}: add it, such as {EXAMPLES[missing[0]]}")
    return section
