"""Families of one-dimensional functions: the classic few-shot regression problem and its mixtures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kshot.types import Batch, InputError, Task

# Each takes x, amplitude and phase [T, K, 1] or [T, 1, 1], and gives y like x.
FAMILIES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sine": lambda x, a, p: a * torch.sin(x - p),
    "sawtooth": lambda x, a, p: a * (2 * ((x - p) / (2 * math.pi)).remainder(1.0) - 1),
    "step": lambda x, a, p: a * torch.sign(torch.sin(x - p)),
    "line": lambda x, a, p: a * (x / 5 * torch.cos(2 * p) + torch.sin(2 * p)),
}


class Sinusoids:
    """y = a · sin(x − p): amplitude a, phase p and the inputs x are uniform; a task is one (a, p).

    Finn, Abbeel, Levine 2017: amplitude 0.1–5, phase 0–π, x in −5..5, 10 shots. x and y are [T, K, 1].
    families: any of 'sine', 'sawtooth', 'step', 'line'; each task is of one, drawn at random.
    noise: standard deviation of what is added to y of the support; the query stays clean.
    """

    def __init__(
        self,
        shots: int = 10,
        queries: int = 10,
        *,
        families: Sequence[str] = ("sine",),
        noise: float = 0.0,
        amplitude: tuple[float, float] = (0.1, 5.0),
        phase: tuple[float, float] = (0.0, math.pi),
        x_range: tuple[float, float] = (-5.0, 5.0),
    ) -> None:
        if not all(isinstance(k, int) and k >= 1 for k in (shots, queries)):
            raise InputError(
                f"shots={shots!r} and queries={queries!r}: a task needs at least one of each, give whole numbers"
            )
        unknown = [f for f in families if f not in FAMILIES]
        if unknown or not families:
            raise InputError(f"families={list(families)}: choose one or more of {', '.join(FAMILIES)}")
        if not 0 <= noise < math.inf:
            raise InputError(f"noise={noise}: give a standard deviation of at least 0")
        for name, ends in (("amplitude", amplitude), ("phase", phase), ("x_range", x_range)):
            if not isinstance(ends, (tuple, list)) or len(ends) != 2 or not ends[0] <= ends[1]:
                raise InputError(f"{name}={ends!r}: two numbers are needed, give (lowest, highest)")
        self.shots, self.queries, self.families, self.noise = shots, queries, list(families), noise
        self.amplitude, self.phase, self.x_range = amplitude, phase, x_range

    def with_shots(self, shots: int) -> Sinusoids:
        """The same tasks with another number of examples to learn from."""
        return Sinusoids(
            shots,
            self.queries,
            families=self.families,
            noise=self.noise,
            amplitude=self.amplitude,
            phase=self.phase,
            x_range=self.x_range,
        )

    def sample(self, n: int, generator: torch.Generator) -> Task:
        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(n, *shape, generator=generator)

        x = uniform(*self.x_range, self.shots + self.queries, 1)
        a, p = uniform(*self.amplitude, 1, 1), uniform(*self.phase, 1, 1)
        kind = torch.randint(len(self.families), (n, 1, 1), generator=generator)
        y = torch.zeros_like(x)
        for i, family in enumerate(self.families):
            y = torch.where(kind == i, FAMILIES[family](x, a, p), y)
        noisy = y[:, : self.shots] + self.noise * torch.randn(n, self.shots, 1, generator=generator)
        return Task(Batch(x[:, : self.shots], noisy), Batch(x[:, self.shots :], y[:, self.shots :]))
