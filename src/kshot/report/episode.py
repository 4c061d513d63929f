"""One task, drawn with what the learner makes of it.

Axes: S support examples, Q query examples, N ways, G points of a grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kshot.evaluation import Evaluation, nth_task
from kshot.learner import MetaLearner
from kshot.types import Task, TaskSource

GRID = 201


@dataclass(frozen=True)
class Curve:
    """Predicted values on the grid. role: before adapting, as the learner adapts, or after further steps."""

    label: str
    role: Literal["before", "adapted", "further"]
    values: Tensor


@dataclass(frozen=True)
class Paths:
    """Of an agent in the plane: before it adapted and after [T, E, H + 1, 2], NaN after the end; goals [T, 2]."""

    before: Tensor
    after: Tensor
    goals: Tensor


@dataclass(frozen=True)
class Episode:
    """kind: 'images' and 'classes' are classification, 'function' is x [S, 1] to y [S, 1], 'values' other regression.

    outputs: [Q, N] or [Q, *targets], on the CPU. grid [G] and curves: of a 'function'. paths: of 'trajectories'.
    """

    kind: Literal["images", "classes", "function", "values", "trajectories"]
    task: Task
    outputs: Tensor
    grid: Tensor = field(default_factory=lambda: torch.zeros(0))
    curves: tuple[Curve, ...] = ()
    paths: Paths | None = None

    @property
    def ways(self) -> int:
        return self.task.query.ways or 0

    @property
    def predicted(self) -> list[int]:
        return [int(c) for c in self.outputs[:, : self.ways].argmax(-1)]

    @property
    def probability(self) -> list[float]:
        """Of the predicted class."""
        return [float(p) for p in self.outputs.double().softmax(-1)[:, : self.ways].max(-1).values]

    @property
    def right(self) -> list[bool]:
        return [c == int(y) for c, y in zip(self.predicted, self.task.query.y, strict=True)]

    @property
    def shots(self) -> str:
        """'5', or '1–5' where classes differ; of a regression the number of support examples."""
        if not self.ways:
            return str(len(self.task.support))
        counts = torch.bincount(self.task.support.y, minlength=self.ways)
        low, high = int(counts.min()), int(counts.max())
        return str(low) if low == high else f"{low}–{high}"

    @property
    def error(self) -> float:
        """Mean squared error over the query."""
        return float((self.outputs - self.task.query.y).double().square().mean())

    def of_class(self, c: int, half: Literal["support", "query"]) -> list[int]:
        """Which examples are of class c."""
        return [int(i) for i in (getattr(self.task, half).y == c).nonzero().flatten()]

    def picture(self, half: Literal["support", "query"], i: int) -> np.ndarray[Any, Any]:
        """An example as bytes [H, W] or [H, W, 3]; data outside 0..1 is scaled by the range of the whole episode."""
        low, high = self._range()
        x = getattr(self.task, half).x[i].float()
        pixels = ((x - low) / (high - low)).nan_to_num(0).clamp(0, 1).mul(255).round().byte().numpy()
        return pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)

    def _range(self) -> tuple[float, float]:
        both = torch.cat([self.task.support.x.flatten(), self.task.query.x.flatten()]).float()
        both = both[both.isfinite()]
        low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)
        if low >= 0 and high <= 1:
            return 0.0, 1.0
        return low, high if high > low else low + 1


def class_name(c: int, ways: int) -> str:
    """A task's classes have numbers only: letters tell them from the probabilities beside them."""
    return chr(ord("A") + c) if ways <= 26 else str(c)


def draw_episode(learner: MetaLearner, tasks: TaskSource, steps: int, found: Evaluation) -> Episode:
    """Of the tasks that were measured a typical one, and its predictions.

    steps: how far to follow a learner that adapts in steps.
    """
    device = next((p.device for p in learner.parameters()), torch.device("cpu"))
    task = nth_task(tasks, found.seed, typical(found)).to(device)
    training = learner.training
    learner.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            fitted = learner.adapt(task.support)
            outputs = learner.predict(fitted, task.query.x).cpu()
            kind = _kind(task)
            if kind != "function":
                return Episode(kind, task.to("cpu"), outputs)
            grid = _grid(task)
            return Episode(
                kind, task.to("cpu"), outputs, grid.cpu().flatten(), _curves(learner, fitted, task, grid, steps)
            )
    finally:
        learner.train(training)


def typical(found: Evaluation) -> int:
    """The place of the task that is nearest to the mean, which is what the page says; where that is no number, the first."""
    return min(range(len(found.values)), key=lambda i: _far(found.values[i] - found.mean))


def _far(distance: float) -> float:
    return abs(distance) if math.isfinite(distance) else math.inf


def _kind(task: Task) -> Literal["images", "classes", "function", "values"]:
    x, y = task.query.x, task.query.y
    if task.query.ways is not None:
        return "images" if x.ndim == 4 and x.shape[1] in (1, 3) and min(x.shape[2:]) > 3 else "classes"
    return "function" if x.shape[1:] == (1,) and y.shape[1:] == (1,) else "values"


def _grid(task: Task) -> Tensor:
    x = torch.cat([task.support.x, task.query.x])
    return torch.linspace(float(x.min()), float(x.max()), GRID, device=x.device, dtype=x.dtype).unsqueeze(1)


def _curves(learner: MetaLearner, fitted: Any, task: Task, grid: Tensor, steps: int) -> tuple[Curve, ...]:
    def values(state: Any) -> Tensor:
        return learner.predict(state, grid).float().cpu().flatten()

    adapted = values(fitted)
    path = [values(state) for state in learner.trajectory(task.support, steps)]
    if len(path) == 1:
        return (Curve("adapted", "adapted", adapted),)
    own = next((i for i, v in enumerate(path) if i and torch.allclose(v, adapted, equal_nan=True)), None)
    curves = [Curve("before", "before", path[0])]
    if own != len(path) - 1:
        curves.append(Curve(f"after {len(path) - 1} steps", "further", path[-1]))
    curves.append(Curve("adapted" if own is None else f"after {count(own, 'step')}", "adapted", adapted))
    return tuple(curves)


def count(n: int, noun: str, many: str = "") -> str:
    """'1 step', '2 steps', '1,000 steps'. many: where an s is not enough."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {many or noun + 's'}"
