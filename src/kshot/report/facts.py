"""What a run folder says about itself, ready to be shown: finite numbers, rows of settings, formatted figures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kshot.evaluation import Evaluation, Point, rounded, shown_in
from kshot.settings import flat
from kshot.training.loop import RUN
from kshot.training.progress import METRICS, read_metrics
from kshot.types import InputError

Reference = tuple[str, float] | None  # what to compare with: ('chance', 0.2)
METRIC_NAMES = {"mse": "mean squared error"}


@dataclass(frozen=True)
class Facts:
    """origin: what run.json holds; metrics: the lines of metrics.jsonl. Either is empty where there is no such file."""

    origin: Mapping[str, Any]
    metrics: list[dict[str, Any]]

    def series(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of the logged numbers that are numbers."""
        return [(line["step"], line[name]) for line in self.metrics if _has_step(line) and _finite(line.get(name))]

    def validation(self) -> tuple[str, list[Point]]:
        """The metric measured in training, and its course."""
        for line in self.metrics:
            for key in line:
                if key.startswith("val_") and key != "val_interval":
                    return key.removeprefix("val_"), self._points(key)
        return "", []

    def _points(self, key: str) -> list[Point]:
        points = []
        for line in self.metrics:
            if _has_step(line) and _finite(line.get(key)):
                interval = line["val_interval"] if _finite(line.get("val_interval")) else 0.0
                points.append(Point(line["step"], line[key], interval))
        return points

    @property
    def steps(self) -> int | None:
        """Outer steps done."""
        done = [line["step"] for line in self.metrics if _has_step(line)]
        return max(done) if done else None

    def setting(self, *keys: str) -> Any:
        """A setting of run.json, or None."""
        value: Any = self.origin
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def seconds(self) -> float | None:
        """How long the run took, validation and compilation too."""
        logged = self.series("seconds")
        return logged[-1][1] if logged else None

    def settings(self, recipe: Mapping[str, Any] | None) -> dict[str, dict[str, str]]:
        """Group -> setting -> value: the recipe's, and over them those that the run resolved."""
        resolved = {key: self.origin[key] for key in ("learner", "training") if key in self.origin}
        groups: dict[str, dict[str, str]] = {}
        for name, value in {**flat(recipe or {}), **flat(resolved)}.items():
            group, _, key = name.partition(".")
            if not key:
                group, key = "recipe", name
            if name != "about" and group != "paper":  # which have places of their own
                groups.setdefault(group, {})[key] = _shown(value)
        return {group: _together(rows) for group, rows in groups.items()}


def read_facts(run: Path) -> Facts:
    if not run.is_dir():
        raise InputError(f"{run} is not the folder of a run: give one that `kshot train` or fit(out=…) wrote")
    origin: Any = {}
    if (run / RUN).is_file():
        try:
            origin = json.loads((run / RUN).read_text())
        except ValueError as error:
            raise InputError(f"{run / RUN} is damaged ({error}): delete it to report on the run without it") from error
    lines = read_metrics(run / METRICS)
    return Facts(origin if isinstance(origin, dict) else {}, [line for line in lines if isinstance(line, dict)])


def finite_points(points: list[Point] | None) -> list[Point]:
    """Those that can be drawn."""
    kept = [p for p in points or [] if math.isfinite(p.mean)]
    return [p if math.isfinite(p.interval) else Point(p.at, p.mean, 0.0) for p in kept]


def metric_name(metric: str) -> str:
    return METRIC_NAMES.get(metric, metric)


def scaled(metric: str) -> tuple[float, str]:
    """Factor and unit, without its space."""
    factor, unit = shown_in(metric)
    return factor, unit.strip()


def with_interval(found: Evaluation | Point, metric: str) -> tuple[str, str, str]:
    """('98.31', '0.20', '%')."""
    factor, unit = scaled(metric)
    return *rounded(metric, factor * found.mean, factor * found.interval), unit if math.isfinite(found.mean) else ""


def joined(mean: str, interval: str, unit: str) -> str:
    """'98.31 ± 0.20 %'."""
    return " ".join(part for part in (mean, f"± {interval}" if interval else "", unit) if part)


def duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return "—"
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def number(value: float, digits: int = 3) -> str:
    return f"{value:,.{digits}g}".replace("-", "−") if math.isfinite(value) else "—"


def _together(rows: dict[str, str]) -> dict[str, str]:
    """Plain settings first, then those of each part (model.width, model.size) side by side."""
    parts = list(dict.fromkeys(key.rpartition(".")[0] for key in rows))
    return {key: rows[key] for part in sorted(parts) for key in rows if key.rpartition(".")[0] == part}


def _has_step(line: Mapping[str, Any]) -> bool:
    return isinstance(line.get("step"), int)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "—", True: "yes", False: "no"}[value]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 120 else f"{text[:119]}…"
