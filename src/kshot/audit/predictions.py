"""Predictions are of the examples, and not of their order or their neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kshot.audit.sources import LOOKED_AT, OWN
from kshot.learner import MetaLearner
from kshot.types import Batch, InputError, Task, TaskSource, draw, seeded
from kshot.vectorize import Way, choose, pieces

ASKED = 600  # predictions that are made again in another order, or as many as there are in
AT_MOST = 64  # tasks; drawn
SHUFFLED = 8  # at a time
SWAYED = 0.01  # of the predictions, and a few where they are not many: what rounding may sway
A_FEW = 3


def each_by_itself(learner: MetaLearner, tasks: TaskSource, seed: int, device: torch.device) -> list[str]:
    """Predictions survive shuffling: they are not read off the places of the examples. Nor off the other queries, unless the
    learner says that it is transductive."""
    generator = seeded(seed, 3, OWN)

    def answers(task: Task) -> Tensor:
        torch.manual_seed(seed)  # what a learner draws is the same each time
        return learner.predict(learner.adapt(task.support), task.query.x)

    def predicted(support: Batch, query: Batch, way: Way) -> Tensor:
        return torch.cat(list(pieces(answers, Task(support, query), way)))

    changed: list[Tensor] = []
    unsteady: list[Tensor] = []
    first: list[tuple[Batch, Batch, Tensor, Way]] = []
    batches = list(_asked(tasks, seed, device))
    asked, ways = sum(batch.query.x.shape[:2].numel() for batch in batches), batches[0].query.ways
    for batch in batches:
        support, query = batch.support, batch.query
        # Few tasks of many queries are done before it is known which way is the quickest.
        way = "loop" if len(batches) == 1 else choose(learner, Task(support, query), function=answers)
        s, q = _order(support, generator), _order(query, generator)
        before = predicted(support, query, way)
        after = predicted(support[s] if learner.order_free else support, query[q], way)
        changed.append(_differ(before[q], after, ways))
        unsteady.append(_differ(before, predicted(_rounded(support, generator), query, way), ways))
        first.append((support, query[:, :1], before[:, :1], way))
    share, swayed = float(torch.cat(changed).mean()), 2 * float(torch.cat(unsteady).mean())
    few = A_FEW if ways is not None else 0
    if share > SWAYED + few / asked + swayed:
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
        apart = torch.cat([_differ(before, predicted(s, q, way), ways) for s, q, before, way in first])
    except Exception as error:  # as batch norm over one value
        return [*said, f"a query that comes alone cannot be predicted ({error})"]
    if float(apart.mean()) > SWAYED + few / len(apart) + swayed:
        raise InputError(
            f"{type(learner).__name__} says that it is not transductive, and {100 * float(apart.mean()):.0f} % of the first "
            "queries of a task are predicted otherwise when they come alone: make predict treat each query by itself, or say "
            "by transductive = True that the others help it"
        )
    return [*said, "a query is predicted alike when it comes alone"]


def _asked(tasks: TaskSource, seed: int, device: torch.device) -> Iterator[Task]:
    """Tasks of enough queries for a share of the predictions to mean something."""
    asked = 0
    for i in range(AT_MOST // SHUFFLED):
        drawn = draw(tasks, LOOKED_AT, seeded(seed, 5, OWN, i), slice(SHUFFLED)).to(device)
        yield drawn
        asked += len(drawn) * len(drawn[0].query)
        if asked >= ASKED:
            return


def _order(half: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Another order of the examples of each task, as an index of its batch of tasks."""
    order = torch.rand(half.x.shape[:2], generator=generator).argsort(1).to(half.x.device)
    return torch.arange(len(order), device=order.device)[:, None], order


def _rounded(support: Batch, generator: torch.Generator) -> Batch:
    """As another order of summation might leave it: many steps of learning make much of that."""
    if not support.x.is_floating_point():
        return support
    noise = torch.randn(support.x.shape, generator=generator).to(support.x)
    return Batch(support.x * (1 + 8 * torch.finfo(support.x.dtype).eps * noise), support.y, support.ways)


def _differ(a: Tensor, b: Tensor, ways: int | None) -> Tensor:
    """Of each task [T, Q, …] the share of predictions that are others; of values, how far they are off."""
    if ways is not None:
        return (a[..., :ways].argmax(-1) != b[..., :ways].argmax(-1)).double().mean(1)
    size = a.double().square().flatten(1).mean(1).sqrt() + 1e-12
    off = (a - b).double().square().flatten(1).mean(1).sqrt() / size
    return off.where(off > 1e-3, 0.0)
