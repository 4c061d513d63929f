"""Linear regressions: a family whose tasks have an exact answer, and each a curvature of its own."""

from __future__ import annotations

import math

import torch

from kshot.types import Batch, InputError, Task


class LinearRegressions:
    """y = wᵀx + b: weights w and bias b are normal; a task is one (w, b), and one scale for each feature.

    x is [T, K, d], normal times the scale of its feature, which is log-uniform in scale=(lowest, highest); y is [T, K, 1].
    The curvature of a squared error goes with the square of the scale, so no one learning rate suits all tasks.
    inputs: d. noise: standard deviation of what is added to y of the support; the query stays clean.
    """

    def __init__(
        self,
        shots: int = 10,
        queries: int = 10,
        *,
        inputs: int = 5,
        noise: float = 0.0,
        scale: tuple[float, float] = (0.3, 3.0),
    ) -> None:
        if not all(isinstance(k, int) and k >= 1 for k in (shots, queries, inputs)):
            raise InputError(
                f"shots={shots!r}, queries={queries!r} and inputs={inputs!r}: a task needs at least one of each, give whole "
                "numbers"
            )
        if not 0 <= noise < math.inf:
            raise InputError(f"noise={noise}: give a standard deviation of at least 0")
        pair = isinstance(scale, (tuple, list)) and len(scale) == 2 and all(isinstance(e, (int, float)) for e in scale)
        if not pair or not 0 < scale[0] <= scale[1] < math.inf:
            raise InputError(f"scale={scale!r}: two numbers above 0 are needed, give (lowest, highest)")
        self.shots, self.queries, self.inputs, self.noise, self.scale = shots, queries, inputs, noise, scale

    def with_shots(self, shots: int) -> LinearRegressions:
        """The same tasks with another number of examples to learn from."""
        return LinearRegressions(shots, self.queries, inputs=self.inputs, noise=self.noise, scale=self.scale)

    def sample(self, n: int, generator: torch.Generator) -> Task:
        low, high = (math.log(end) for end in self.scale)
        scale = (low + (high - low) * torch.rand(n, 1, self.inputs, generator=generator)).exp()  # [T, 1, d]
        w = torch.randn(n, self.inputs, 1, generator=generator)
        b = torch.randn(n, 1, 1, generator=generator)
        x = scale * torch.randn(n, self.shots + self.queries, self.inputs, generator=generator)
        y = x @ w + b
        noisy = y[:, : self.shots] + self.noise * torch.randn(n, self.shots, 1, generator=generator)
        return Task(Batch(x[:, : self.shots], noisy), Batch(x[:, self.shots :], y[:, self.shots :]))
