"""What memory a meta-gradient will take at many inner steps, from what it takes at a few.

The memory of all ways is a straight line in something: of checkpoint:K and mixed-mode:K in the number of segments, of all
others in the number of steps. truncated:K is truncated:1 with K − 1 steps more of unrolled. The first steps are no place to
begin: there the peak may be that of the query, or of a single step, and not yet that of what is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

from kshot.doctor.findings import Forecast
from kshot.doctor.gradients import gradient
from kshot.hypergradients import Hypergradient, Truncated, Unrolled
from kshot.learners.gradient import GradientLearner
from kshot.memory import peak_memory
from kshot.types import Task

FEW = (4, 6)  # steps that a line is drawn through
Line = Callable[[float], float]


class Memory:
    """Of one task's meta-gradient, by way and number of steps; each is measured once."""

    def __init__(self, learner: GradientLearner, task: Task) -> None:
        self.learner, self.task = learner, task
        self.peak = cache(self._peak)

    def _peak(self, way: Hypergradient, steps: int) -> int:
        with self.learner.trying(way, steps):
            return peak_memory(lambda: gradient(self.learner, self.task), self.task.support.x.device)

    def forecast(self, way: Hypergradient, steps: int) -> Forecast:
        """Without having measured at more than a few steps."""
        seen, at = self._line(way, steps)
        return Forecast(steps, seen, [at(s) for s in range(1, steps + 1)])

    def _line(self, way: Hypergradient, steps: int) -> tuple[list[tuple[int, int]], Line]:
        if isinstance(way, Truncated) and way.last > 1:
            (seen, short), (_, whole) = self._line(Truncated(1), steps), self._line(Unrolled(), steps)
            last = way.last
            return seen, lambda s: whole(s) if s <= last else short(s) + whole(last) - whole(1)
        every, few = getattr(way, "every", 1), FEW
        if not 1 < every < steps:
            every = 1
        else:
            few = (2 * every, 3 * every) if 3 * every <= steps else (every, 2 * every)
        (a, low), (b, high) = seen = [(s, self.peak(way, s)) for s in few]
        slope = (high - low) * every / (b - a)
        return seen, lambda s: low + slope * (math.ceil(s / every) - a / every)
