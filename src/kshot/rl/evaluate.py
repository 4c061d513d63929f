"""How well an agent learns: its return after adapting, with a 95 % interval over tasks, and after 0, 1, … steps."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from kshot.audit import check_seed
from kshot.evaluation import SHOTS, TASKS_AT_ONCE, Evaluation, Point, fingerprint, stream
from kshot.intervals import mean_interval
from kshot.learner import MetaLearner
from kshot.rl.family import Family
from kshot.rl.sampling import check_actor, device_of, draw, rollout
from kshot.types import Batch, InputError, seeded
from kshot.vectorize import each_task


def evaluate(
    learner: MetaLearner,
    tasks: Family,
    episodes: int = 600,
    seed: int = 0,
    *,
    curves: bool = True,
    curve_steps: int = 3,
    curve_episodes: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure on fresh tasks: the mean return of `tasks.queries` trajectories after adapting to `tasks.shots` of them.

    episodes: tasks to average over. curves, curve_steps, curve_episodes, progress: as in kshot.evaluate; a steps curve costs
    trajectories for each of its points. The same seed gives the same tasks and the same luck to any learner.
    """
    check_actor(learner, tasks)
    if not isinstance(episodes, int) or episodes < 2:
        raise InputError(f"episodes={episodes}: an interval needs at least 2 tasks")
    seed = check_seed(seed)
    was_training = learner.training
    learner.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            values = _after_adapting(learner, tasks, episodes, seed, progress)
            few = min(curve_episodes, episodes)
            mean, interval = mean_interval(values)
            return Evaluation(
                metric="return",
                mean=mean,
                interval=interval,
                values=values,
                episodes=episodes,
                seed=seed,
                transductive=learner.transductive,
                tasks=fingerprint(
                    type(tasks).__name__,
                    sorted(vars(tasks).items()),
                    draw(tasks, TASKS_AT_ONCE, stream(seed, 0), torch.device("cpu")),
                ),
                adapt_ms=_adapt_ms(learner, tasks, seed),
                steps_curve=_steps_curve(learner, tasks, few, seed, curve_steps) if curves else None,
                shots_curve=_shots_curve(learner, tasks, few, seed) if curves else None,
            )
    finally:
        learner.train(was_training)


def returns_by_step(learner: Any, family: Family, tasks: Any, steps: int, *place: int) -> list[Tensor]:
    """The mean return [T] of the policy before it learns, and after 1, 2, …, `steps` steps, each from fresh trajectories.

    place: the seeds. Judged with the same luck at every step, so that differences are due to what was learned.
    """
    fitted, found = learner.unadapted(), []
    for at in range(steps + 1):
        judged = rollout(learner, fitted, family, tasks, family.queries, seeded(*place, 1))
        found.append(judged.returns.mean(1))
        if at < steps:
            fitted = each_task(learner.further, fitted, _tried(learner, fitted, family, tasks, *place, 2, at))
    return found


def _after_adapting(
    learner: Any, family: Family, episodes: int, seed: int, progress: Callable[[int, int], None] | None = None
) -> list[float]:
    """The mean return of each task."""
    found: list[float] = []
    for i, tasks in _batches(learner, family, episodes, seed):
        fitted = each_task(learner.adapt, _tried(learner, learner.unadapted(), family, tasks, seed, i, 2, 0))
        judged = rollout(learner, fitted, family, tasks, family.queries, seeded(seed, i, 1))
        found += judged.returns.mean(1).tolist()
        if progress:
            progress(min(len(found), episodes), episodes)
    return found[:episodes]


def _steps_curve(learner: Any, family: Family, episodes: int, seed: int, steps: int) -> list[Point]:
    found = [
        torch.stack(returns_by_step(learner, family, tasks, steps, seed, i), 1)
        for i, tasks in _batches(learner, family, episodes, seed)
    ]
    return [Point(at, *mean_interval(column.tolist())) for at, column in enumerate(torch.cat(found)[:episodes].T)]


def _shots_curve(learner: Any, family: Family, episodes: int, seed: int) -> list[Point] | None:
    """Against trajectories to learn from; None if the family cannot be asked for other numbers."""
    with_shots = getattr(family, "with_shots", None)
    if with_shots is None:
        return None
    found = [(shots, _after_adapting(learner, with_shots(shots), episodes, seed)) for shots in SHOTS]
    return [Point(shots, *mean_interval(values)) for shots, values in found]


def _batches(learner: Any, family: Family, episodes: int, seed: int) -> Iterator[tuple[int, Any]]:
    """(number, tasks) of batches that are always full: a task's luck does not depend on how many there are."""
    for i in range(math.ceil(episodes / TASKS_AT_ONCE)):
        yield i, draw(family, TASKS_AT_ONCE, stream(seed, i), device_of(learner))


def _tried(learner: Any, fitted: Any, family: Family, tasks: Any, *place: int) -> Batch:
    """Trajectories to learn from."""
    tried = rollout(learner, fitted, family, tasks, family.shots, seeded(*place))
    return tried.batch(family.discount, family.smoothing)


def _adapt_ms(learner: Any, family: Family, seed: int) -> float:
    """Median wall-clock of adapting to one task's trajectories, without that of collecting them."""
    tasks = draw(family, 1, stream(seed, 0), device_of(learner))
    support, times = _tried(learner, learner.unadapted(), family, tasks, seed, 0)[0], []
    for _ in range(11):
        start = time.perf_counter()
        learner.adapt(support)
        if support.x.is_cuda:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])
