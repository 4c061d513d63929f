"""Gradients of the outer and of the inner loop, task by task, and how they compare."""

from __future__ import annotations

import time
from itertools import combinations

import torch
from torch import Tensor

from kshot.doctor.findings import Agreement, Step
from kshot.learner import MetaLearner
from kshot.learners.gradient import GradientLearner
from kshot.types import Task

Gradient = dict[str, Tensor | None]  # of the parameters that are trained, by name; None where the loss does not reach


def gradient(learner: MetaLearner, task: Task, seed: int = 0) -> Gradient:
    """The meta-gradient of one task. seed: of dropout, so that two ways of taking it drop the same units."""
    trained = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        loss = learner.loss(task)
        if not loss.requires_grad:
            return dict.fromkeys(trained)
        return dict(zip(trained, torch.autograd.grad(loss, list(trained.values()), allow_unused=True), strict=True))


def gradients(learner: MetaLearner, tasks: Task) -> tuple[list[Gradient], float]:
    """Of each task, and the seconds that one took: the least, which other programs on the machine disturb least."""
    found, seconds = [], []
    for i in range(len(tasks)):
        start = time.perf_counter()
        found.append(gradient(learner, tasks[i], seed=i))
        if tasks.support.x.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return found, min(seconds)


def flat(learner: MetaLearner, found: Gradient) -> Tensor:
    """One vector, 0 where the loss does not reach."""
    parts = [
        (torch.zeros_like(p) if found[n] is None else found[n]) for n, p in learner.named_parameters() if n in found
    ]
    return torch.cat([g.detach().double().flatten().cpu() for g in parts if g is not None])


def cosine(a: Tensor, b: Tensor) -> float:
    """1 for two zeros, which agree."""
    lengths = float(a.norm() * b.norm())
    return float(a @ b) / lengths if lengths else float(not a.any() and not b.any())


def ratio(a: Tensor, b: Tensor) -> float:
    return float(a.norm() / b.norm()) if b.any() else (1.0 if not a.any() else float("inf"))


def agreement(vectors: list[Tensor]) -> Agreement:
    """Of the tasks' meta-gradients."""
    pairs = [cosine(a, b) for a, b in combinations(vectors, 2)]
    stacked = torch.stack(vectors)
    noise = float(stacked.var(0).sum())
    signal = float(stacked.mean(0).square().sum()) - noise / len(vectors)  # the mean's own noise makes it longer
    return Agreement(sum(pairs) / len(pairs), noise / signal if signal > 0 else float("inf"))


def by_module(learner: MetaLearner, found: list[Gradient]) -> dict[str, float]:
    """The norm of the mean over tasks, of the parameters of each module together."""
    squares: dict[str, float] = {}
    for name in found[0]:
        parts = [g[name] for g in found if g[name] is not None]
        total = sum((p.detach().double() for p in parts if p is not None), torch.zeros((), dtype=torch.float64))
        module = name.rpartition(".")[0] or name
        squares[module] = squares.get(module, 0.0) + float((total / len(found)).square().sum())
    return {module: square**0.5 for module, square in squares.items()}


def inner_steps(learner: GradientLearner, tasks: Task, steps: int) -> list[Step]:
    """The support's loss, its gradient's norm, and the query's loss, along the way."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # dropout's
        paths = torch.tensor([_path(learner, tasks[i], steps) for i in range(len(tasks))])  # [T, steps + 1, 3]
    return [Step(step, *row) for step, row in enumerate(paths.double().mean(0).tolist())]


def _path(learner: GradientLearner, task: Task, steps: int) -> list[list[float]]:
    rows = []
    with torch.no_grad():
        path = learner.trajectory(task.support, steps)
    for fitted in path:
        moving = {name: fitted[name].detach().requires_grad_() for name in learner.start(task.support)}
        with torch.enable_grad():
            loss = learner.judge(learner.predict({**fitted, **moving}, task.support.x), task.support)
        grads = (
            torch.autograd.grad(loss, list(moving.values()), allow_unused=True)
            if loss.requires_grad
            else [torch.full((1,), float("nan"))]
        )
        norm = sum(float(g.double().square().sum()) for g in grads if g is not None) ** 0.5
        with torch.no_grad():
            query = learner.judge(learner.predict(fitted, task.query.x), task.query)
        rows.append([norm, float(loss.detach()), float(query)])
    return rows
