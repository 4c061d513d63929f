"""Batching over tasks: the choice is measured once, remembered, and changes no number."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils import _pytree

import kshot
from kshot import meta_loss, vectorize
from kshot.models import MLP
from kshot.rules import SGD
from kshot.types import check_task
from kshot.vectorize import choose, meta_backward, pieces
from tests.conftest import classification


def maml() -> kshot.MAML:
    return kshot.MAML(MLP(4, (8,), 3), rule=SGD(0.1)).double()


def test_auto_measures_once_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    measure = vectorize._measure
    monkeypatch.setattr(vectorize, "_measure", lambda *a: measured.append(1) or measure(*a))
    learner = maml()
    for tasks in (classification(), classification(seed=1), classification(tasks=5), classification()):
        meta_loss(learner, tasks)
    assert len(measured) == 2
    meta_loss(maml(), classification())
    assert len(measured) == 3  # another learner, another choice


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        ({"loop": 1.0, "vmap": 0.2, 4: 0.5}, "vmap"),
        ({"loop": 1.0, "vmap": 1.0, 4: 1.8}, "loop"),  # so slow in fours that all at once is not tried
        ({"loop": 1.0, "vmap": 0.9, 4: 0.7, 8: 0.8}, 4),
        ({"loop": 1.0, "vmap": 1.5, 4: 1.2, 8: 0.9}, 8),
        ({"loop": 1.0, "vmap": 0.9, 4: 1.4, 8: 0.1}, "vmap"),  # eights would be between: they are not tried
        ({"loop": 1.0, "vmap": 1.3, 4: 1.25, 8: 1.12}, "loop"),  # not clearly better
        ({"loop": 1.0, "vmap": 1.1, 4: 1.3}, "vmap"),  # for all tasks the loop does not do as well
    ],
)
def test_auto_takes_the_fastest_a_task(
    seconds: dict[object, float], wanted: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(learner: object, function: object, tasks: kshot.Task, way: object, hopeless: float = 0.0) -> float:
        return seconds[len(tasks) if way == "vmap" and len(tasks) < 16 else way] * len(tasks)

    monkeypatch.setattr(vectorize, "_seconds", fake)
    assert choose(maml(), classification(tasks=32)) == wanted


@pytest.mark.parametrize("way", ["loop", "vmap", 2])
def test_backward_piece_by_piece_is_the_backward_of_the_mean(way: vectorize.Way) -> None:
    learner, tasks = maml(), classification(tasks=5)
    value = meta_loss(learner, tasks, way)
    value.backward()
    wanted = [p.grad.clone() for p in learner.parameters() if p.grad is not None]
    learner.zero_grad()
    assert float(meta_backward(learner, tasks, way)) == pytest.approx(float(value.detach()), rel=1e-12)
    for p, g in zip(learner.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-12, atol=1e-12)


def test_measuring_does_not_shift_the_random_numbers() -> None:
    learner = kshot.MAML(
        torch.nn.Sequential(MLP(4, (8,)), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)), rule=SGD(0.1)
    ).double()
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    choose(learner, classification())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_tasks_are_counted_cut_and_moved() -> None:
    tasks = classification(tasks=5)
    assert len(tasks) == 5
    assert len(tasks[1:3]) == 2
    assert tasks[0].support.x.shape == tasks.support.x.shape[1:]
    moved = tasks.to("meta")
    assert moved.query.y.device.type == "meta"
    assert moved.support.ways == 3
    assert moved.classes is tasks[0].classes is None


def test_which_classes_a_task_is_of_goes_along() -> None:
    tasks = dataclasses.replace(classification(tasks=5), classes=torch.arange(15).reshape(5, 3))
    assert torch.equal(tasks[1:3].classes, tasks.classes[1:3])
    assert torch.equal(tasks[4].classes, tasks.classes[4])
    assert tasks.to("meta").classes.device.type == "meta"
    leaves, tree = _pytree.tree_flatten(tasks)
    assert leaves[-1] is tasks.classes
    assert torch.equal(_pytree.tree_unflatten(leaves, tree).classes, tasks.classes)

    for way in ("loop", "vmap", 2):
        found = torch.cat(list(pieces(lambda task: task.classes[task.query.y], tasks, way)))
        assert torch.equal(found, tasks.classes.gather(1, tasks.query.y))
    learner = maml()
    assert torch.equal(meta_loss(learner, tasks, "vmap"), meta_loss(learner, classification(tasks=5), "vmap"))
    assert torch.vmap(learner.loss, randomness="different")(tasks).shape == (5,)
    check_task(tasks, axes=1)
    check_task(tasks[0])
