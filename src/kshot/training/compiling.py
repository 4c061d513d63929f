"""Whether a run's steps are compiled: as it is told, or where the steps to come pay for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, Literal

import torch

from kshot.compiled import Compiled, NotCompiled, forecast, or_not_compiled, record, wait
from kshot.learner import MetaLearner
from kshot.types import InputError, Task
from kshot.vectorize import Vectorize, Way, compiled, losses_by, shapes, tasks_at_once, to_compile

Compile = bool | Literal["auto"]
TIMED = 5  # eager steps before the choice; the first warms up
CLEARLY = 0.9  # of the time: a forecast is no better than that
KINDS = 4  # shapes of tasks to compile for; those after them are run eagerly


class Compiling:
    """chosen: None until it is, after a few steps; kinds: the shapes that are compiled for, way: how.

    All are part of the run's state, for every way rounds differently.
    say: what a sentence for the user is given to. agree: rank 0's value, for all ranks.
    """

    def __init__(
        self, wanted: Compile, say: Callable[[str], None], agree: Callable[[bool], bool] = lambda chosen: chosen
    ) -> None:
        self.wanted, self.say, self.agree = wanted, say, agree
        self.chosen: bool | None = None if wanted == "auto" else bool(wanted)
        self.kinds: list[str] = []
        self.way: Way | None = None
        self._takes: dict[Any, bool] = {}
        self._seconds: list[float] = []

    def step(
        self, learner: MetaLearner, tasks: Task, eager: Way, left: int, vectorize: Vectorize = "auto"
    ) -> Compiled | None:
        """The compiled step for these tasks, or None to take an eager one; `left` steps are to come."""
        if self.chosen is False or (self.chosen is None and len(self._seconds) < TIMED):
            return None
        if self.way is None:
            self.way = to_compile(learner, tasks, eager, vectorize)
        way = self.way
        try:
            if self.chosen is None:
                with torch.random.fork_rng():  # the trials may not shift the run's random numbers
                    pays = self._pays(learner, tasks, way, left)
                self.chosen = self.agree(pays)
            return self._compiled(learner, tasks, way) if self.chosen else None
        except NotCompiled as reason:
            if self.wanted is True:
                raise InputError(
                    f"compile=True: this meta-step cannot be compiled ({reason}): leave it out"
                ) from reason
            self.chosen = self._not_compiled(reason)
            return None

    def took(self, since: float, tasks: Task) -> None:
        """The step on these tasks, which began then."""
        if self.chosen is None:
            wait(tasks.support.x)
            self._seconds.append(time.perf_counter() - since)

    def _pays(self, learner: MetaLearner, tasks: Task, way: Way, left: int) -> bool:
        eager = median(self._seconds[1:])
        if left * eager < 60:  # no compilation is that quick
            return False
        try:
            return self._saves(learner, tasks, way, eager, left)
        except NotCompiled as reason:
            return self._not_compiled(reason)

    def _not_compiled(self, reason: NotCompiled) -> bool:
        self.say(f"the steps are not compiled: {reason}")
        return False

    def _saves(self, learner: MetaLearner, tasks: Task, way: Way, eager: float, left: int) -> bool:
        """By the forecast, and then by what was compiled; an eager step takes `eager` seconds."""
        size = tasks_at_once(tasks, way)
        with or_not_compiled():
            recorded = record(learner, losses_by(learner, way), tasks[:size])
            cost, then = forecast(recorded, learner, tasks, size)
        gain = left * (eager - then)
        if gain < 2 * cost or then > CLEARLY * eager:
            return False
        self.say(f"compiling the steps, about {cost:.0f} s, to save about {gain:.0f} s of {left * eager:.0f} s")
        start = time.perf_counter()
        step = compiled(learner, tasks, way)
        made, times = time.perf_counter() - start, []
        for _ in range(3):
            start = time.perf_counter()
            wait(step(learner, tasks)[0])
            times.append(time.perf_counter() - start)
        faster = min(times) < 0.95 * eager
        found = f"compiled in {made:.0f} s: {1000 * min(times):.3g} ms a step, {1000 * eager:.3g} ms before"
        self.say(found if faster else f"{found}; goes on without")
        return faster

    def _compiled(self, learner: MetaLearner, tasks: Task, way: Way) -> Compiled | None:
        kind = shapes(tasks)
        if kind not in self._takes:
            name = str(kind)
            if name not in self.kinds and len(self.kinds) < KINDS:
                self.kinds.append(name)
            if name not in self.kinds and all(self._takes.values()):
                self.say(f"tasks of more than {KINDS} shapes: the steps are compiled for the first of them")
            self._takes[kind] = name in self.kinds
        return compiled(learner, tasks, way) if self._takes[kind] else None
