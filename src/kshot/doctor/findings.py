"""What a diagnosis holds: plain numbers and sentences, which JSON takes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from kshot import atomic


@dataclass(frozen=True)
class Range:
    """Over tasks."""

    mean: float
    low: float
    high: float

    @staticmethod
    def of(values: list[float]) -> Range:
        if any(map(math.isnan, values)):
            return Range(math.nan, math.nan, math.nan)
        return Range(sum(values) / len(values), min(values), max(values))


@dataclass(frozen=True)
class Step:
    """After `step` inner updates, means over tasks. gradient: the norm of the next update's gradient."""

    step: int
    gradient: float
    support_loss: float
    query_loss: float


@dataclass(frozen=True)
class Forecast:
    """Peak memory of one task's meta-gradient at `steps` inner steps, in bytes, from measurements at a few steps.

    seen: (steps, bytes) that the forecast was made from; curve: the forecast at 1, 2, …, `steps` steps.
    """

    steps: int
    seen: list[tuple[int, int]]
    curve: list[float]
    measured: int | None = None

    @property
    def bytes(self) -> float:
        return self.curve[-1]

    @property
    def a_step(self) -> float:
        """What a further step adds: the mean over the second half of the curve."""
        half = (len(self.curve) - 1) // 2
        return (self.curve[-1] - self.curve[half]) / max(1, len(self.curve) - 1 - half)

    @property
    def deviation(self) -> float | None:
        """0.1 where it took 10 % more than forecast."""
        return None if self.measured is None else self.measured / self.bytes - 1


@dataclass(frozen=True)
class Mode:
    """One hypergradient. cosine, ratio: its meta-gradient's direction and length against the exact one's, task by task.

    seconds, memory: of one task's meta-gradient. residual: the share that the solver of an implicit one left unsolved, mean over
    tasks. why: why there is none of these, in a sentence.
    """

    hypergradient: str
    exact: bool
    cosine: Range | None = None
    ratio: Range | None = None
    seconds: float | None = None
    memory: int | None = None
    forecast: Forecast | None = None
    residual: float | None = None
    why: str | None = None


@dataclass(frozen=True)
class Silent:
    """A parameter without a gradient. reason: frozen, buffer, cut, unreached, unjudged, dead, not finite; why: a sentence."""

    name: str
    size: int
    reason: str
    why: str


@dataclass(frozen=True)
class Agreement:
    """Between the tasks' meta-gradients. cosine: the mean over pairs.

    noise_scale: the number of tasks whose mean has as much noise as signal, tr(Σ) / |G|²; infinite where the tasks at hand show
    no common direction. McCandlish, Kaplan, Amodei 2018, An Empirical Model of Large-Batch Training.
    """

    cosine: float
    noise_scale: float


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found.

    inner: [] for a learner that takes no gradient steps. modes: [] for one whose meta-gradient does not go through steps.
    free: bytes of memory that nobody has taken; infinite where it is not known.
    trained: whether it has been, and these are not its initial weights.
    modules: the norm of the mean meta-gradient by module. seconds, memory: of one task's meta-gradient, as it is trained.
    """

    learner: str
    hypergradient: str | None
    steps: int | None
    tasks: int
    seed: int
    device: str
    inner: list[Step]
    modes: list[Mode]
    modules: dict[str, float]
    silent: list[Silent]
    agreement: Agreement | None
    seconds: float | None
    memory: int | None
    free: float
    trained: bool
    recommendation: str = ""

    def mode(self, hypergradient: str) -> Mode:
        return next(m for m in self.modes if m.hypergradient == hypergradient)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with null for what is not a finite number."""
        found: dict[str, Any] = atomic.finite(asdict(self))
        for mode, kept in zip(self.modes, found["modes"], strict=True):
            if mode.forecast:
                f = mode.forecast
                kept["forecast"] |= {"bytes": f.bytes, "a_step": f.a_step, "deviation": f.deviation}
        return found
