"""What is kept beside a run for its report: the paper's figures as this run has them, and other runs on the same tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kshot import atomic
from kshot.evaluation import Difference, Evaluation, compare
from kshot.evidence.kept import Figure, numbers, restored
from kshot.types import InputError

FIGURES = "figures.json"
COMPARISON = "comparison.json"


@dataclass(frozen=True)
class Other:
    """A run measured on the same tasks. difference: it, less the run that it stands beside."""

    run: str
    mean: float
    interval: float
    transductive: bool
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """changes: of the run's recipe, as given by --set."""

    metric: str
    mean: float
    interval: float
    transductive: bool
    episodes: int
    seed: int
    changes: list[str]
    others: list[Other]


def compared(this: Evaluation, others: Sequence[tuple[str, Evaluation]], changes: Sequence[str] = ()) -> Comparison:
    rows = [Other(name, e.mean, e.interval, e.transductive, compare(e, this)) for name, e in others]
    return Comparison(
        this.metric, this.mean, this.interval, this.transductive, this.episodes, this.seed, list(changes), rows
    )


def keep_comparison(run: Path, found: Comparison) -> None:
    atomic.write(run / COMPARISON, json.dumps(atomic.finite(asdict(found)), indent=1, ensure_ascii=False))


def read_comparison(run: Path) -> Comparison | None:
    kept = _read(run / COMPARISON)
    try:
        rows = [{**o, "difference": Difference(**numbers(o["difference"]))} for o in kept.pop("others", [])]
        others = [Other(**numbers(row)) for row in rows]
        return Comparison(**numbers(kept), others=others) if others else None
    except (KeyError, TypeError) as error:
        raise _damaged(run / COMPARISON, error) from error


def keep_figures(run: Path, found: Mapping[str, Figure]) -> None:
    atomic.write(run / FIGURES, json.dumps(atomic.finite({n: asdict(f) for n, f in found.items()}), indent=1))


def read_figures(run: Path) -> dict[str, Figure]:
    """By the name of the paper's row; empty where nothing was measured."""
    try:
        return {name: restored(figure) for name, figure in _read(run / FIGURES).items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise _damaged(run / FIGURES, error) from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    except ValueError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is damaged ({error}): delete it to report on the run without it")
