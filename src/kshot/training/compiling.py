"""Whether a run's steps are compiled: as it is told, or where the steps to come pay for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, Literal

from kshot.compiled import Compiled, NotCompiled, forecast, inputs, record
from kshot.learner import MetaLearner
from kshot.types import InputError, Task
from kshot.vectorize import Way, compiled, losses_by, tasks_at_once

Compile = bool | Literal["auto"]
TIMED = 5  # eager steps before the choice; the first warms up
KINDS = 4  # shapes of tasks to compile for; those after them are run eagerly


class Compiling:
    """chosen: None until it is, after a few steps; part of the run's state, for the two ways round differently.

    say: what a sentence for the user is given to. agree: rank 0's value, for all ranks.
    """

    def __init__(
        self, wanted: Compile, say: Callable[[str], None], agree: Callable[[bool], bool] = lambda chosen: chosen
    ) -> None:
        self.wanted, self.say, self.agree = wanted, say, agree
        self.chosen: bool | None = None if wanted == "auto" else bool(wanted)
        self._seconds: list[float] = []
        self._made: list[Compiled] = []

    def step(self, learner: MetaLearner, tasks: Task, way: Way, left: int) -> Compiled | None:
        """The compiled step for these tasks, or None to take an eager one; `left` steps are to come."""
        try:
            if self.chosen is None and len(self._seconds) == TIMED:
                self.chosen = self.agree(self._pays(learner, tasks, way, left))
            return self._compiled(learner, tasks, way) if self.chosen else None
        except NotCompiled as reason:
            if self.wanted is True:
                raise InputError(
                    f"compile=True: this meta-step cannot be compiled ({reason}): leave it out"
                ) from reason
            self.say(f"the steps are not compiled: {reason}")
            self.chosen = False
            return None

    def took(self, seconds: float) -> None:
        if self.chosen is None:
            self._seconds.append(seconds)

    def _pays(self, learner: MetaLearner, tasks: Task, way: Way, left: int) -> bool:
        eager = median(self._seconds[1:])
        if left * eager < 60:  # no compilation is that quick
            return False
        try:
            return self._saves(learner, tasks, way, eager, left)
        except NotCompiled as reason:
            self.say(f"the steps are not compiled: {reason}")
            return False

    def _saves(self, learner: MetaLearner, tasks: Task, way: Way, eager: float, left: int) -> bool:
        """By the forecast, and then by what was compiled; an eager step takes `eager` seconds."""
        size = tasks_at_once(tasks, way)
        recorded = record(learner, losses_by(learner, way), tasks[:size])
        cost, then = forecast(recorded, *inputs(learner, tasks[:size]))
        gain = left * (eager - then * len(tasks) / size)
        if gain < 2 * cost:
            return False
        self.say(f"compiling the steps, about {cost:.0f} s, to save about {gain:.0f} s of {left * eager:.0f} s")
        start = time.perf_counter()
        step = self._compiled(learner, tasks, way)
        made, times = time.perf_counter() - start, []
        for _ in range(3):
            start = time.perf_counter()
            step(learner, tasks)
            times.append(time.perf_counter() - start)
        faster = min(times) < 0.95 * eager
        found = f"compiled in {made:.0f} s: {1000 * min(times):.3g} ms a step, {1000 * eager:.3g} ms before"
        self.say(found if faster else f"{found}; goes on without")
        return faster

    def _compiled(self, learner: MetaLearner, tasks: Task, way: Way) -> Any:
        step = compiled(learner, tasks, way, make=len(self._made) < KINDS)
        if step is not None and step not in self._made:
            self._made.append(step)
        return step
