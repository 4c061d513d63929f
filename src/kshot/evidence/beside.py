"""What is kept beside a run for its report: its evaluation, the paper's figures as it has them, other runs on the same tasks.

Each says of which learner it is: that of a run that went on since is another, and what was measured of it is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from kshot import atomic
from kshot.evaluation import Difference, Evaluation, compare, numbers
from kshot.evidence.figures import Figure
from kshot.evidence.kept import restored
from kshot.training.checkpoint import fingerprint
from kshot.types import InputError

EVALUATION = "evaluation.json"
FIGURES = "figures.json"
COMPARISON = "comparison.json"


@dataclass(frozen=True)
class Other:
    """A run measured on the same tasks. difference: it, less the run that it stands beside.

    trainings: of its recipe, by several seeds; the mean is theirs.
    """

    run: str
    mean: float
    interval: float
    transductive: bool
    difference: Difference
    trainings: int = 1


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
    trainings: int = 1

    @property
    def caveat(self) -> str:
        if all(other.difference.trainings > 1 for other in self.others):
            return "those of differences over trainings, too"
        return "of one training: with another seed each may come out otherwise"

    @property
    def over(self) -> str:
        """What the intervals are over."""
        groups = max((other.difference.groups for other in self.others), default=0)
        return f"{groups:,} groups of tasks" if groups else "tasks"


def compared(
    this: Sequence[Evaluation], others: Sequence[tuple[str, Sequence[Evaluation]]], changes: Sequence[str] = ()
) -> Comparison:
    """Of each run its evaluation, and those of further trainings of its recipe."""
    rows = [Other(name, *_over(found), compare(found, this), len(found)) for name, found in others]
    return Comparison(
        this[0].metric, *_over(this), this[0].episodes, this[0].seed, list(changes), rows, len(this)
    )  # fmt: skip


def _over(found: Sequence[Evaluation]) -> tuple[float, float, bool]:
    """Mean, interval over tasks, and whether it is transductive."""
    return fmean(e.mean for e in found), fmean(e.interval for e in found), found[0].transductive


def keep_evaluation(run: Path, found: Evaluation, changes: Sequence[str] = ()) -> None:
    """changes: of the run's recipe, or of how it says to measure."""
    _keep(run / EVALUATION, {"changes": list(changes), **found.to_dict()})


def read_evaluation(run: Path, seed: int) -> Evaluation | None:
    """If there is one by the run's own recipe, with this seed."""
    kept = _read(run / EVALUATION)
    try:
        return Evaluation.from_dict(kept) if kept and not kept.pop("changes") and kept["seed"] == seed else None
    except (AttributeError, KeyError, TypeError) as error:
        raise _damaged(run / EVALUATION, error) from error


def keep_comparison(run: Path, found: Comparison) -> None:
    _keep(run / COMPARISON, asdict(found))


def read_comparison(run: Path) -> Comparison | None:
    kept = _read(run / COMPARISON)
    try:
        rows = [{**o, "difference": Difference(**numbers(o["difference"]))} for o in kept.pop("others", [])]
        others = [Other(**numbers(row)) for row in rows]
        return Comparison(**numbers(kept), others=others) if others else None
    except (KeyError, TypeError) as error:
        raise _damaged(run / COMPARISON, error) from error


def keep_figures(run: Path, found: Mapping[str, Figure]) -> None:
    _keep(run / FIGURES, {name: asdict(figure) for name, figure in found.items()})


def read_figures(run: Path) -> dict[str, Figure]:
    """By the name of the paper's row; empty where nothing was measured."""
    try:
        return {name: restored(figure) for name, figure in _read(run / FIGURES).items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise _damaged(run / FIGURES, error) from error


def _keep(path: Path, found: Mapping[str, Any]) -> None:
    kept = {"learner": fingerprint(path.parent), **found}
    atomic.write(path, json.dumps(atomic.finite(kept), indent=1, ensure_ascii=False))


def _read(path: Path) -> dict[str, Any]:
    """Empty where there is nothing, or nothing of the learner that the run has now."""
    if not path.is_file():
        return {}
    try:
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept if kept.pop("learner", None) == fingerprint(path.parent) else {}
    except (AttributeError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is damaged ({error}): delete it, and measure again what the report shall show")
