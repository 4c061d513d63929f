"""Parameters that got no gradient, and why."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kshot.doctor.findings import Silent
from kshot.doctor.gradients import Gradient
from kshot.learner import MetaLearner
from kshot.learners.gradient import GradientLearner
from kshot.types import Task


def silent(
    learner: MetaLearner, task: Task, found: list[Gradient], exact: list[Gradient] | None, hypergradient: str | None
) -> list[Silent]:
    """found: the meta-gradients as the learner takes them; exact: those that are exact, where the two can differ."""
    rows = [
        Silent(name, p.numel(), "frozen", "requires_grad is False, so that neither loop moves it")
        for name, p in learner.named_parameters()
        if not p.requires_grad
    ]
    by_support = _support_reaches(learner, task)
    off: str | None = None
    for name in found[0] if found else ():
        own = [g[name] for g in found]
        size = learner.get_parameter(name).numel()
        if any(g is not None and not g.isfinite().all() for g in own):
            bad = sum(g is not None and not bool(g.isfinite().all()) for g in own)
            rows.append(Silent(name, size, "not finite", f"NaN or infinite on {bad} of {len(own)} tasks"))
        elif not any(_moves(g) for g in own):
            if exact is not None and any(_moves(g[name]) for g in exact):
                why = f"it counts through the inner steps alone, and {hypergradient} takes those as constants"
                rows.append(Silent(name, size, "cut", why))
            elif any(g is not None for g in own):
                off = _first_off(learner, task) if off is None else off
                rows.append(Silent(name, size, "dead", f"its gradient is exactly 0 on every task{off}"))
            elif name in by_support:
                why = "the support's loss depends on it, and nothing that the query judges does"
                rows.append(Silent(name, size, "unjudged", why))
            else:
                why = "no loss depends on it: its layer is not called, or what it gives is detached or left out"
                rows.append(Silent(name, size, "unreached", why))
    why = "a buffer: no gradient moves it"
    return rows + [Silent(name, b.numel(), "buffer", why) for name, b in learner.named_buffers()]


def _moves(g: Tensor | None) -> bool:
    return g is not None and bool(g.any())


def _support_reaches(learner: MetaLearner, task: Task) -> set[str]:
    """Names of what the support's loss depends on before the first step."""
    if not isinstance(learner, GradientLearner):
        return set()
    trained = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    with torch.enable_grad():
        start = next(learner.walk(task.support, 0))
        loss = learner.judge(learner.predict(start, task.support.x), task.support)
    if not loss.requires_grad:
        return set()
    grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return {name for name, g in zip(trained, grads, strict=True) if g is not None}


def _first_off(learner: MetaLearner, task: Task) -> str:
    """Words on the first module that gives nothing but 0 for the query, such as a ReLU whose inputs are all negative."""
    zero: list[str] = []
    with torch.no_grad():
        fitted = learner.adapt(task.support)

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def look(module: nn.Module, _: object, outputs: object) -> None:
            if isinstance(outputs, Tensor) and outputs.is_floating_point() and not outputs.any():
                zero.append(f": {name} ({type(module).__name__}) gives 0 for every query")

        return look

    handles = [m.register_forward_hook(watch(n)) for n, m in learner.named_modules() if n and not any(m.children())]
    try:
        with torch.no_grad():
            learner.predict(fitted, task.query.x)
    finally:
        for handle in handles:
            handle.remove()
    return zero[0] if zero else ": it is multiplied by 0 on its way to the loss, or ends in a flat part of it"
