"""The examination, from a learner and tasks to findings."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kshot.doctor import gradients as g
from kshot.doctor.advice import recommend
from kshot.doctor.findings import Diagnosis, Mode, Range
from kshot.doctor.forecast import Memory
from kshot.doctor.silent import silent
from kshot.hypergradients import (
    HYPERGRADIENTS,
    Checkpoint,
    Hypergradient,
    MixedMode,
    Unrolled,
    hypergradient,
    residuals,
)
from kshot.learner import MetaLearner, check_learner
from kshot.learners.gradient import GradientLearner
from kshot.memory import available_memory, in_bytes, peak_memory
from kshot.rl.family import Family
from kshot.rl.sampling import check_actor, collect, device_of
from kshot.rl.sampling import draw as draw_environments
from kshot.types import InputError, Task, TaskSource, check_task, draw, first_line, seeded

FAR = 16  # steps that memory is forecast to, where the learner takes fewer
EXACT = (Unrolled, MixedMode, Checkpoint)
Progress = Callable[[int, int, str], None]


def diagnose(
    learner: MetaLearner,
    tasks: TaskSource | Family | Task,
    *,
    count: int = 8,
    steps: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Diagnosis:
    """How a learner's inner loop and its meta-gradient do on some tasks. Nothing is trained.

    tasks: a source, a family of environments, or a batch of tasks. count: how many to look at. seed: of which ones.
    steps: inner steps, instead of the learner's own in training.
    progress: called with (examinations done, in all, the name of the next).
    """
    check_learner(learner)
    for name, value, least in (("count", count, 2), ("steps", steps, 1)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise InputError(f"{name}={value!r}: the doctor needs a whole number of at least {least}")
    by_gradient = isinstance(learner, GradientLearner)
    if steps is not None and not by_gradient:
        raise InputError(f"steps={steps}: {type(learner).__name__} takes no inner steps, leave it out")
    modes = [(module, module.training) for module in learner.modules()]
    learner.train()
    try:
        with learner.trying(steps=steps) if isinstance(learner, GradientLearner) else nullcontext():
            batch = _tasks(learner, tasks, count, seed)
            return _diagnose(learner, batch, seed, progress or (lambda *_: None))
    finally:
        for module, training in modes:
            module.training = training


def _tasks(learner: MetaLearner, tasks: Any, count: int, seed: int) -> Task:
    if isinstance(tasks, Family):
        check_actor(learner, tasks)
        generator = seeded(seed)
        return collect(learner, tasks, draw_environments(tasks, count, generator, device_of(learner)), generator)
    batch = tasks[:count] if isinstance(tasks, Task) else draw(tasks, count, seeded(seed))
    batch = batch.to(device_of(learner))
    check_task(batch, axes=1)
    if len(batch) < 2:
        raise InputError("one task: to compare tasks the doctor needs at least 2, along a leading axis")
    learner.check(batch)
    return batch


def _diagnose(learner: MetaLearner, tasks: Task, seed: int, progress: Progress) -> Diagnosis:
    steps = learner.steps if isinstance(learner, GradientLearner) else None
    trained = any(p.requires_grad for p in learner.parameters())
    if steps is None and not trained:
        raise InputError(
            f"{type(learner).__name__} has neither parameters to train nor inner steps: there is nothing to examine"
        )
    inner = g.inner_steps(learner, tasks, learner.steps) if isinstance(learner, GradientLearner) else []
    modes: list[Mode] = []
    own: list[g.Gradient] = []
    exact: list[g.Gradient] | None = None
    named, seconds, memory = None, None, None
    if trained and isinstance(learner, GradientLearner) and learner.through_steps:
        ways = _ways(learner)
        named = next(name for name, way in ways.items() if way == learner.accept(learner.hypergradient))
        modes, own, exact = _modes(learner, tasks, ways, named, progress)
        mine = next(m for m in modes if m.hypergradient == named)
        seconds, memory = mine.seconds, mine.memory
    elif trained:
        own, seconds = g.gradients(learner, tasks)
        memory = peak_memory(lambda: g.gradient(learner, tasks[0]), tasks.support.x.device)
    found = Diagnosis(
        learner=type(learner).__name__,
        hypergradient=named,
        steps=steps,
        tasks=len(tasks),
        seed=seed,
        device=str(tasks.support.x.device),
        inner=inner,
        modes=modes,
        modules=g.by_module(learner, own) if own else {},
        silent=silent(learner, tasks[0], own, exact, named),
        agreement=g.agreement([g.flat(learner, x) for x in own]) if own else None,
        seconds=seconds,
        memory=memory,
        free=available_memory(tasks.support.x.device),
        trained=learner.features is not None,
    )
    return replace(found, recommendation=recommend(found))


def _ways(learner: GradientLearner) -> dict[str, Hypergradient]:
    """To be compared, the exact ones first; with the learner's own."""
    far = max(learner.steps, FAR)
    names = ["unrolled", "mixed-mode", f"checkpoint:{round(math.sqrt(far))}", "first-order"]
    names += [f"truncated:{k}" for k in dict.fromkeys((1, learner.steps // 2)) if 0 < k < learner.steps]
    found = {name: hypergradient(name) for name in (*names, "implicit:cg")}
    own = learner.accept(learner.hypergradient)
    if own not in found.values():
        name = next((n for n, made in HYPERGRADIENTS.items() if made is type(own)), type(own).__name__)
        found[learner.hypergradient if isinstance(learner.hypergradient, str) else f"{name} (own)"] = own
    return found


def _modes(
    learner: GradientLearner, tasks: Task, ways: dict[str, Hypergradient], own: str, progress: Progress
) -> tuple[list[Mode], list[g.Gradient], list[g.Gradient]]:
    """A row for each way, the meta-gradients as the learner takes them, or else could, and exact ones."""
    memory, rows = Memory(learner, tasks[0]), []
    mine: list[g.Gradient] = []
    exact: list[g.Gradient] = []
    vectors: list[Tensor] = []
    for done, (name, way) in enumerate(ways.items()):
        progress(done, len(ways), name)
        row = Mode(name, isinstance(way, EXACT))
        try:
            if name != own:
                learner.accept(name)
            row, found = _mode(learner, tasks, way, row, memory)
        except (InputError, RuntimeError) as error:
            rows.append(replace(row, why=_reason(error)))
            continue
        found_vectors = [g.flat(learner, x) for x in found]
        if row.exact and not exact:
            exact, vectors = found, found_vectors
        if name == own:
            mine = found
        if vectors:
            pairs = list(zip(found_vectors, vectors, strict=True))
            row = replace(
                row, cosine=Range.of([g.cosine(*p) for p in pairs]), ratio=Range.of([g.ratio(*p) for p in pairs])
            )
        rows.append(row)
    progress(len(ways), len(ways), "done")
    if not exact:
        raise InputError(
            f"no exact meta-gradient could be taken, so that there is nothing to compare with: {rows[0].why}"
        )
    return rows, mine or exact, exact


def _mode(
    learner: GradientLearner, tasks: Task, way: Hypergradient, row: Mode, memory: Memory
) -> tuple[Mode, list[g.Gradient]]:
    steps, device = learner.steps, tasks.support.x.device
    with learner.trying(way, min(steps, 2)):
        g.gradient(learner, tasks[0])  # what is allocated, looked at and compiled once and for all
    forecast = memory.forecast(way, max(steps, FAR))
    if forecast.curve[steps - 1] > available_memory(device):
        need, have = in_bytes(forecast.curve[steps - 1]), in_bytes(available_memory(device))
        raise InputError(f"it would take {need} for one task at {steps} steps and {have} are free")
    with learner.trying(way), residuals() as left:
        found, seconds = g.gradients(learner, tasks)
    if forecast.bytes <= available_memory(device):
        forecast = replace(forecast, measured=memory.peak(way, forecast.steps))
    residual = float(torch.stack(left).mean()) if left else None
    row = replace(row, seconds=seconds, memory=memory.peak(way, steps), forecast=forecast, residual=residual)
    return row, found


def _reason(error: Exception) -> str:
    """A sentence up to what to do about it, for who only wanted to compare."""
    line = first_line(error)
    return line.partition(": ")[0] if isinstance(error, InputError) else line
