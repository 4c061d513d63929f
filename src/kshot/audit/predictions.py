"""Predictions are of the examples, and not of their order or their neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

import torch
from torch import Tensor

from kshot.audit.sources import LOOKED_AT, OWN
from kshot.learner import MetaLearner
from kshot.types import Batch, InputError, Task, TaskSource, draw, seeded

ASKED = 600  # predictions that are made again in another order, or as many as there are in
AT_MOST = 64  # tasks; drawn
SHUFFLED = 8  # at a time
SWAYED = 0.01  # of the predictions, and a few where they are not many: what rounding may sway
A_FEW = 3


def each_by_itself(learner: MetaLearner, tasks: TaskSource, seed: int, device: torch.device) -> list[str]:
    """Predictions survive shuffling: they are not read off the places of the examples. Nor off the other queries, unless the
    learner says that it is transductive."""
    generator = seeded(seed, 3, OWN)

    def predicted(support: Batch, x: Tensor) -> Tensor:
        torch.manual_seed(seed)
        return learner.predict(learner.adapt(support), x)

    changed, unsteady, first, asked, ways = [], [], [], 0, None
    for task in _asked(tasks, seed, device):
        support, x, ways, asked = task.support, task.query.x, task.support.ways, asked + len(task.query)
        s, q = (torch.randperm(len(examples), generator=generator).to(x.device) for examples in (support, x))
        before = predicted(support, x)
        changed.append(
            _differs(before[q], predicted(support[s] if learner.order_free else support, x[q]), support.ways)
        )
        unsteady.append(_differs(before, predicted(_rounded(support, generator), x), support.ways))
        first.append((support, x[:1], before[:1]))
    share = fmean(changed)
    few = A_FEW / asked if ways is not None else 0.0
    if share > SWAYED + few + 2 * fmean(unsteady):
        raise InputError(
            f"{100 * share:.0f} % of the predictions of {type(learner).__name__} change when examples are shuffled, so "
            "the order of the classes may tell it the labels: make predict treat each query by itself and adapt all examples "
            "alike, or say by order_free = False that the support is read in order"
        )
    what = "support and query are" if learner.order_free else "query (the support is read in order) is"
    same = (
        "all predictions stay the same" if share == 0 else f"{100 * (1 - share):.0f} % of the predictions stay the same"
    )
    if ways is None and share > 0:
        same = f"predictions change by {100 * share:.1g} % of their size"
    said = [f"{same} when {what} shuffled"]
    if learner.transductive:
        return said
    try:
        apart = [_differs(before, predicted(support, x), support.ways) for support, x, before in first]
    except Exception as error:  # as batch norm over one value
        return [*said, f"a query that comes alone cannot be predicted ({error})"]
    if fmean(apart) > SWAYED + (A_FEW / len(first) if ways is not None else 0.0) + 2 * fmean(unsteady):
        raise InputError(
            f"{type(learner).__name__} says that it is not transductive, and {100 * fmean(apart):.0f} % of the first queries of "
            "a task are predicted otherwise when they come alone: make predict treat each query by itself, or say by "
            "transductive = True that the others help it"
        )
    return [*said, "a query is predicted alike when it comes alone"]


def _asked(tasks: TaskSource, seed: int, device: torch.device) -> Iterator[Task]:
    """Tasks of enough queries for a share of the predictions to mean something."""
    asked = 0
    for i in range(AT_MOST // SHUFFLED):
        drawn = draw(tasks, LOOKED_AT, seeded(seed, 5, OWN, i), slice(SHUFFLED)).to(device)
        yield from (drawn[k] for k in range(len(drawn)))
        asked += len(drawn) * len(drawn[0].query)
        if asked >= ASKED:
            return


def _rounded(support: Batch, generator: torch.Generator) -> Batch:
    """As another order of summation might leave it: many steps of learning make much of that."""
    if not support.x.is_floating_point():
        return support
    noise = torch.randn(support.x.shape, generator=generator).to(support.x)
    return Batch(support.x * (1 + 8 * torch.finfo(support.x.dtype).eps * noise), support.y, support.ways)


def _differs(a: Tensor, b: Tensor, ways: int | None) -> float:
    """The share of predictions that are others; of values, how far they are off."""
    if ways is not None:
        return float((a[:, :ways].argmax(1) != b[:, :ways].argmax(1)).float().mean())
    size = a.double().square().mean().sqrt() + 1e-12
    off = float((a - b).double().square().mean().sqrt() / size)
    return off if off > 1e-3 else 0.0
