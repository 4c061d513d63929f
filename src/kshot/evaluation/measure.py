"""Measuring a learner: accuracy or error with a 95 % interval, calibration, adaptation curves, time to adapt."""

from __future__ import annotations

import math
import operator
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from kshot.audit import after_evaluation, before_evaluation, check_seed
from kshot.evaluation.found import Calibration, Evaluation, Point
from kshot.evaluation.once import embedding_once
from kshot.evaluation.protocol import (
    SHOTS,
    TASKS_AT_ONCE,
    at_once,
    device_of,
    fingerprint,
    fingerprint_of,
    first_task,
    stream,
)
from kshot.intervals import mean_interval
from kshot.learner import MetaLearner, check_learner
from kshot.types import Batch, InputError, Task, TaskSource, check_task, draw
from kshot.vectorize import Way, choose, pieces

MOSTLY_NEW = 0.9  # of the tasks: two may be alike by chance where there is little data


def evaluate(
    learner: MetaLearner,
    tasks: TaskSource,
    episodes: int = 600,
    seed: int = 0,
    *,
    curves: bool = True,
    curve_steps: int | None = None,
    curve_episodes: int = 100,
    allow_seen: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure on fresh tasks. Nothing is trained, and the same seed gives the same tasks to any learner.

    What would make the number mean less is refused first (kshot.audit): classes that the learner was trained on, examples in
    both halves of a task, tasks that do not repeat, predictions that hang on the order of the examples.

    curves: also the metric after 0…curve_steps steps (for learners that learn in steps; 10, or all that it takes) and
    against shots (for sources that can be asked for them), each over `curve_episodes` tasks.
    allow_seen: permit classes that the learner was trained on.
    progress: called with (tasks done, tasks in all).
    """
    check_learner(learner)
    seed = check_seed(seed)
    _check_episodes(episodes)
    episodes = operator.index(episodes)
    with _measuring(learner, seed):
        audit = before_evaluation(learner, tasks, seed, allow_seen, device_of(learner))
    drawn_from = set(_groups(tasks, episodes, seed))
    if len(drawn_from) == 1:
        raise InputError(f"all {episodes} test tasks are of one group: an interval needs at least 2, give others too")
    found = measure(
        learner, tasks, episodes, seed,
        curves=curves, curve_steps=curve_steps, curve_episodes=curve_episodes, progress=progress,
    )  # fmt: skip
    different = len(set(found.groups)) if found.groups and not drawn_from else episodes
    if different == 1:
        raise InputError(f"all {episodes} test tasks are the same one: draw them from the generator")
    ways = None if found.metric == "mse" else first_task(learner, tasks, seed).support.ways
    return replace(found, audit=audit + after_evaluation(tasks, ways, episodes, different))


def _check_episodes(episodes: int) -> None:
    if not hasattr(episodes, "__index__") or episodes < 2:
        raise InputError(f"episodes={episodes}: an interval needs at least 2 tasks, papers use 600 or more")


def measure(
    learner: MetaLearner,
    tasks: TaskSource,
    episodes: int,
    seed: int,
    *,
    curves: bool,
    curve_steps: int | None = None,
    curve_episodes: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """evaluate, of tasks that the auditor has seen, as those that a training is validated on."""
    _check_episodes(episodes)
    steps = max(10, _steps_taken(learner)) if curve_steps is None else curve_steps
    with _measuring(learner, seed):
        found = _evaluate(learner, tasks, episodes, seed, curves, steps, min(curve_episodes, episodes), progress)
        return replace(found, tasks=fingerprint_of(tasks, seed))


@contextmanager
def _measuring(learner: MetaLearner, seed: int) -> Iterator[None]:
    """Nothing is trained, and nobody's random numbers are shifted."""
    was_training = learner.training
    learner.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        learner.train(was_training)


def _evaluate(
    learner: MetaLearner,
    tasks: TaskSource,
    episodes: int,
    seed: int,
    curves: bool,
    curve_steps: int,
    curve_episodes: int,
    progress: Callable[[int, int], None] | None,
) -> Evaluation:
    transductive, adapt_ms = learner.transductive, _adapt_ms(learner, first_task(learner, tasks, seed).support)
    learner, tasks = embedding_once(learner, tasks, seed)  # the same outputs, sooner

    def outputs(task: Task) -> Tensor:
        return learner.predict(learner.adapt(task.support), task.query.x)

    def path(task: Task) -> Tensor:
        return torch.stack([learner.predict(f, task.query.x) for f in learner.trajectory(task.support, curve_steps)])

    # Settled once, for the curves too: measuring costs more than a few tasks in the slower way.
    way = choose(learner, draw(tasks, TASKS_AT_ONCE, stream(seed, 0)).to(device_of(learner)), function=outputs)
    by_steps = curves and len(learner.trajectory(first_task(learner, tasks, seed).support, 1)) > 1
    by_shots = _at_shots(tasks) if curves else []
    groups = _groups(tasks, episodes, seed)
    done, total = 0, episodes + curve_episodes * (by_steps + len(by_shots))

    def outcomes(source: TaskSource, function: Callable[[Task], Tensor], number: int) -> Iterator[tuple[Task, Tensor]]:
        nonlocal done
        for batch, out in _outputs(learner, source, function, number, seed, way):
            yield batch, out
            done += len(batch)
            if progress:
                progress(done, total)

    values: list[float] = []
    tasks_met: list[str] = []
    confidence: list[tuple[Tensor, Tensor]] = []
    ways = None
    for batch, out in outcomes(tasks, outputs, episodes):
        values += score(out, batch.query).tolist()
        tasks_met += [_fingerprint(batch[i]) for i in range(len(batch))]
        ways = batch.query.ways
        if ways is not None:
            top = out[..., :ways].float().softmax(-1).max(-1)
            confidence.append((top.values.flatten().cpu(), (top.indices == batch.query.y).flatten().cpu()))

    groups = groups or _repeated(tasks_met)

    def scores(source: TaskSource, function: Callable[[Task], Tensor]) -> Tensor:
        return torch.cat([score(out, b.query) for b, out in outcomes(source, function, curve_episodes)])

    def point(at: int, column: Tensor) -> Point:
        return Point(at, *mean_interval(column.tolist(), groups[:curve_episodes]))

    along = scores(tasks, path).T if by_steps else ()  # [steps + 1, T]
    steps_curve = [point(at, column) for at, column in enumerate(along)] or None
    shots_curve = [point(shots, scores(source, outputs)) for shots, source in by_shots] or None

    mean, interval = mean_interval(values, groups)
    return Evaluation(
        metric="mse" if ways is None else "accuracy",
        mean=mean,
        interval=interval,
        values=values,
        episodes=episodes,
        seed=seed,
        transductive=transductive,
        adapt_ms=adapt_ms,
        calibration=None if ways is None else _calibration(confidence),
        steps_curve=steps_curve,
        shots_curve=shots_curve,
        curve_episodes=curve_episodes if curves else 0,
        groups=groups,
    )


def _outputs(
    learner: MetaLearner, tasks: TaskSource, function: Callable[[Task], Tensor], episodes: int, seed: int, way: Way
) -> Iterator[tuple[Task, Tensor]]:
    """Batches of tasks, and the function of each task stacked."""
    device = device_of(learner)
    together = at_once(tasks)
    for i, start in enumerate(range(0, episodes, together)):
        part = slice(0, min(together, episodes - start))
        batch = draw(tasks, together, stream(seed, i), part).to(device)
        check_task(batch, axes=1)
        yield batch, torch.cat(list(pieces(function, batch, way)))


def score(outputs: Tensor, query: Batch) -> Tensor:
    """outputs [T, …, Q, N] or [T, …, Q, *targets] -> accuracy or mean squared error of each task [T, …]."""
    extra = outputs.ndim - query.y.ndim - (query.ways is not None)
    y = query.y.reshape(len(query.y), *[1] * extra, *query.y.shape[1:])
    if query.ways is not None:
        return (outputs[..., : query.ways].argmax(-1) == y).double().mean(-1)
    return (outputs - y).double().square().flatten(1 + extra).mean(-1)


def _groups(tasks: TaskSource, episodes: int, seed: int) -> list[int]:
    """Which group each task is of, where a source draws many tasks from each of a few, as patients; else empty."""
    drawn: Callable[[int, torch.Generator], Tensor] | None = getattr(tasks, "drawn", None)
    if drawn is None:
        return []
    found = [drawn(TASKS_AT_ONCE, stream(seed, i)) for i in range(math.ceil(episodes / TASKS_AT_ONCE))]
    groups: list[int] = torch.cat(found)[:episodes].tolist()
    return groups


def _fingerprint(task: Task) -> str:
    return fingerprint(task.support.x, task.support.y, task.query.x[:1], task.query.y)


def _repeated(tasks: list[str]) -> list[int]:
    """Which of the different ones each is, where many come again; else empty."""
    number = {task: i for i, task in enumerate(dict.fromkeys(tasks))}
    return [number[task] for task in tasks] if len(number) < MOSTLY_NEW * len(tasks) else []


def _at_shots(tasks: TaskSource) -> list[tuple[int, TaskSource]]:
    """The source with as many shots as it has examples for; nothing if it cannot be asked."""
    with_shots: Callable[[int], TaskSource] | None = getattr(tasks, "with_shots", None)
    found: list[tuple[int, TaskSource]] = []
    if with_shots is None:
        return found
    for shots in SHOTS:
        try:
            found.append((shots, with_shots(shots)))
        except InputError:  # too few examples a class for so many shots
            break
    return found


def _adapt_ms(learner: MetaLearner, support: Batch) -> float:
    """Median wall-clock of adapting to one task."""
    times = []
    for _ in range(11):
        start = time.perf_counter()
        learner.adapt(support)
        if support.x.is_cuda:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def _calibration(answers: list[tuple[Tensor, Tensor]], bins: int = 10) -> Calibration:
    confidence, right = torch.cat([a for a, _ in answers]), torch.cat([b for _, b in answers])
    which = (confidence * bins).long().clamp_(max=bins - 1)
    rows = []
    for b in range(bins):
        here = which == b
        if bool(here.any()):
            rows.append(
                (float(confidence[here].mean()), float(right[here].double().mean()), float(here.double().mean()))
            )
    return Calibration(sum(share * abs(sure - true) for sure, true, share in rows), rows)


def _steps_taken(learner: MetaLearner) -> int:
    """In eval mode; 0 for a learner that does not learn in steps."""
    found = (getattr(learner, name, None) for name in ("eval_steps", "steps"))
    return next((steps for steps in found if isinstance(steps, int)), 0)
