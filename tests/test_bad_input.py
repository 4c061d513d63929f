"""Wrong uses of every kind end in a sentence: what was found, what is needed, what to do.

A row of the tables is one mistake that people make. Its three patterns must each match a part of the message of its own,
so a sentence that leaves one of the three out fails. The laws (test_laws.py) try bad tasks on every learner; here they are
tried on every way into the library.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from typer.testing import CliRunner

import kshot
from kshot import MAML, Batch, Diverged, InputError, MetaLearner, ProtoNet, Reptile, Task, recipes
from kshot.cli import app
from kshot.learner import mse_loss
from kshot.models import MLP, Conv4, ResNet12
from kshot.rules import SGD
from kshot.tasks import Episodes, Glyphs, Labelled, Omniglot, Sinusoids, from_csv, from_dataset, from_folder, from_jsonl
from kshot.tasks.download import fetch
from kshot.tasks.files import labelled
from kshot.tasks.linear import LinearRegressions
from kshot.tasks.transforms import (
    ConsecutiveLabels,
    FilterLabels,
    KShots,
    NWays,
    RandomClassRotation,
    RemapLabels,
    RotationsAsClasses,
    from_transforms,
)
from tests.conftest import classification, regression

Act = Callable[[Path], object]


@dataclass(frozen=True)
class Wrong:
    """What is done, in an empty folder; and a pattern for each part of the sentence, none inside another."""

    act: Act
    found: str
    needed: str
    do: str
    error: type[Exception] = InputError


def assert_says(message: str, wrong: Wrong) -> None:
    taken: list[tuple[int, int]] = []
    for part in (wrong.found, wrong.needed, wrong.do):
        places = [m.span() for m in re.finditer(part, message)]
        free = [(a, b) for a, b in places if b > a and all(b <= c or d <= a for c, d in taken)]
        assert free, f"nothing of its own matches {part!r} in: {message}"
        taken.append(free[0])
    assert "\n" not in message


def float32(task: Task) -> Task:
    s, q = task.support, task.query
    return Task(
        *(Batch(b.x.float(), b.y.float() if b.y.is_floating_point() else b.y, b.ways) for b in (s, q)),
    )


def classes(**changes: Any) -> Task:
    return float32(classification(2, **changes))


def values(**changes: Any) -> Task:
    return float32(regression(2, **changes))


def mlp(outputs: int | None = 3) -> MLP:
    return MLP(4, (6,), outputs)


class Same:
    """A source that gives the same batch of tasks each time."""

    def __init__(self, tasks: Any) -> None:
        self.tasks = tasks

    def sample(self, n: int, generator: torch.Generator) -> Any:
        return self.tasks


class Later(Same):
    """And another one in the second step."""

    def __init__(self, tasks: Task, then: Task) -> None:
        super().__init__(tasks)
        self.then = then

    def sample(self, n: int, generator: torch.Generator) -> Any:
        second = generator.initial_seed() == kshot.seeded(0, 1).initial_seed()
        return self.then if second else self.tasks


def fit(learner: Any, tasks: Any, **settings: Any) -> MetaLearner:
    chosen = {"steps": 1, "meta_batch": 2, "vectorize": "loop", "progress": False, **settings}
    return kshot.fit(learner, tasks, **chosen)


def evaluate(learner: Any, tasks: Any, **settings: Any) -> object:
    return kshot.evaluate(learner, tasks, **{"episodes": 2, "curves": False, **settings})


# Bad tasks, by each way in.

ROUTES: dict[str, Callable[[MetaLearner, Task], object]] = {
    "meta_loss": lambda learner, task: kshot.meta_loss(learner, task, "vmap"),
    "adapt": lambda learner, task: learner.adapt(task.support[0]),
    "evaluate": lambda learner, task: evaluate(learner, Same(task)),
    "fit": lambda learner, task: fit(learner, Same(task)),
}
NOT_SEEN_BY_ADAPT = ("meta_loss", "evaluate", "fit")


@dataclass(frozen=True)
class BadTask:
    make: Callable[[], Task]
    found: str
    needed: str
    do: str
    learner: Callable[[], MetaLearner] = lambda: MAML(mlp(), rule=SGD(0.1))
    routes: tuple[str, ...] = tuple(ROUTES)


def on_support(change: Callable[[Batch], Batch], task: Callable[[], Task] = classes) -> Callable[[], Task]:
    def make() -> Task:
        good = task()
        return replace(good, support=change(good.support))

    return make


def on_query(change: Callable[[Batch], Batch]) -> Callable[[], Task]:
    def make() -> Task:
        good = classes()
        return replace(good, query=change(good.query))

    return make


def spoilt(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x[0, 0] = value
    return x


def images(*shape: int) -> Callable[[], Task]:
    return lambda: classes(features=shape)


def regressor() -> MetaLearner:
    return MAML(MLP(1, (6,), 1), loss=mse_loss)


# fmt: off
TASKS: dict[str, BadTask] = {
    "a label too few": BadTask(
        on_support(lambda b: replace(b, y=b.y[:, :-1])),
        r"x of shape .*6, 4\) and y of shape .*5,?\)", "must agree", "one label for each example",
    ),
    "x is a list": BadTask(
        on_support(lambda b: replace(b, x=b.x.tolist())),
        "found list", "support.x must be a tensor", "use torch.as_tensor", routes=NOT_SEEN_BY_ADAPT,
    ),
    "x has no examples' axis": BadTask(
        on_support(lambda b: replace(b, x=b.x[:, 0, 0], y=b.y[:, 0])),
        r"x has shape \((2,)?\)", "needs .*an axis of examples", r"use unsqueeze\(0\)",
    ),
    "NaN": BadTask(
        on_support(lambda b: replace(b, x=spoilt(b.x, float("nan")))),
        r"support.x holds 4 of \d+ values", "NaN or infinite", "clean or drop those examples",
    ),
    "infinite in the query": BadTask(
        on_query(lambda b: replace(b, x=spoilt(b.x, float("inf")))),
        "query.x holds 4 of 48 values", "NaN or infinite", "clean or drop those examples", routes=NOT_SEEN_BY_ADAPT,
    ),
    "no support": BadTask(
        on_support(lambda b: b[:, :0]),
        r"support is empty, x has shape \(.*0, 4\)", "needs at least one example", "in each half",
    ),
    "complex numbers": BadTask(
        on_support(lambda b: replace(b, x=b.x + 0j)), "complex numbers", "real", "use torch.view_as_real"
    ),
    "float64 for a float32 model": BadTask(
        on_support(lambda b: replace(b, x=b.x.double())),
        "torch.float64", "parameters are torch.float32", r"use x.to\(torch.float32\)",
    ),
    "whole numbers for a linear layer": BadTask(
        on_support(lambda b: replace(b, x=b.x.long())),
        "torch.int64", "parameters are torch.float32", r"use x.to\(torch.float32\)",
    ),
    "class numbers from 1": BadTask(
        on_support(lambda b: replace(b, y=b.y + 1)),
        "labels run from 1 to 3", r"3-way task needs 0\.\.2", "relabel the classes of each task from 0",
    ),
    "negative class numbers": BadTask(
        on_query(lambda b: replace(b, y=b.y - 2)),
        "query labels run from -2 to 0", r"3-way task needs 0\.\.2", "relabel the classes of each task from 0",
        routes=NOT_SEEN_BY_ADAPT,
    ),
    "class numbers as floats": BadTask(
        on_support(lambda b: replace(b, y=b.y.float())),
        "dtype torch.float32", "must be torch.int64", r"use y.long\(\)",
    ),
    "one-hot labels": BadTask(
        on_support(lambda b: replace(b, y=nn.functional.one_hot(b.y))),
        r"y has shape \(.*6, 3\)", "need one label an example", "use argmax",
    ),
    "a class without example": BadTask(
        on_support(lambda b: replace(b, y=b.y.clamp(max=1))),
        "no example of class 2 of a 3-way task", "each class needs at least one", "lower ways or add examples",
    ),
    "other ways in the query": BadTask(
        on_query(lambda b: replace(b, ways=5)),
        "support has ways=3 and query has ways=5", "both halves .* share their classes", "give both the same number",
        routes=NOT_SEEN_BY_ADAPT,
    ),
    "ways forgotten": BadTask(
        on_support(lambda b: replace(b, ways=None)),
        "torch.int64 and no ways", "for classification", r"give Batch\(x, y, ways=N\)",
    ),
    "other features in the query": BadTask(
        on_query(lambda b: replace(b, x=b.x[..., :3])),
        r"support examples have shape \(4,\)", r"query examples \(3,\)", "make them alike", routes=NOT_SEEN_BY_ADAPT,
    ),
    "other number of tasks in the query": BadTask(
        on_query(lambda b: b[:1]),
        "found 2 and 1", "needs the same number of tasks", "stack both along a leading task axis",
        routes=("meta_loss",),
    ),
    "classes as a list": BadTask(
        lambda: replace(classes(), classes=[[0, 1, 2]] * 2),
        "classes is a list", "one number of a class for each way is needed", "give a tensor of int64",
        routes=NOT_SEEN_BY_ADAPT,
    ),
    "classes of a regression": BadTask(
        lambda: replace(values(), classes=torch.zeros(2, 3, dtype=torch.int64)),
        r"a regression has classes of shape \(2, 3\)", "only a task with ways has any", "leave classes out",
        learner=regressor, routes=NOT_SEEN_BY_ADAPT,
    ),
    "classes as floats": BadTask(
        lambda: replace(classes(), classes=torch.zeros(2, 3)),
        "classes has dtype torch.float32", "must be torch.int64", r"use classes.long\(\)", routes=NOT_SEEN_BY_ADAPT,
    ),
    "classes for another number of ways": BadTask(
        lambda: replace(classes(), classes=torch.zeros(2, 4, dtype=torch.int64)),
        r"classes has shape \(2, 4\)", r"a 3-way task needs \(2, 3\)", "one number .* for each way",
        routes=NOT_SEEN_BY_ADAPT,
    ),
    "classes below 0": BadTask(
        lambda: replace(classes(), classes=torch.tensor([[0, 1, 2], [3, -1, 5]])),
        "classes holds -1", "are numbered from 0", "give classes=None", routes=NOT_SEEN_BY_ADAPT,
    ),
    "NaN in targets": BadTask(
        on_support(lambda b: replace(b, y=spoilt(b.y, float("nan"))), values),
        r"support.y holds 1 of \d+ values", "NaN or infinite", "clean or drop those examples", learner=regressor,
    ),
    "whole numbers as targets": BadTask(
        on_support(lambda b: replace(b, y=b.y.long()), values),
        "torch.int64 and no ways", "for regression", "make y floating point", learner=regressor,
    ),
    "targets of another shape": BadTask(
        lambda: Task(*(Batch(b.x, b.y.squeeze(-1)) for b in (values().support, values().query))),
        r"outputs of shape \(5, 1\) for targets of shape \(5,\)", "broadcasting would hide a mistake",
        "make the two alike", learner=regressor,
    ),
    "values for prototypes": BadTask(
        values,
        "this task has none", "ProtoNet needs classes", r"give Batch\(x, y, ways=N\)",
        learner=lambda: ProtoNet(MLP(1, (6,))),
    ),
    "values for cross entropy": BadTask(
        values,
        r"outputs of shape \(5, 1\)", "cross_entropy needs .* for each class", "loss='mse' .*kshot.learner.mse_loss",
        learner=lambda: MAML(MLP(1, (6,), 1)),
    ),
    "classes for the squared error": BadTask(
        classes,
        "3-way task .* squared error", "needs values", "loss='cross_entropy'",
        learner=lambda: MAML(mlp(), loss=mse_loss),
    ),
    "too few outputs for the ways": BadTask(
        classes,
        r"outputs of shape \(6, 2\) for a 3-way task", r"needed \(6, 3\)", "build the model with outputs=3",
        learner=lambda: MAML(mlp(2)),
    ),
    "other features than the multilayer perceptron's": BadTask(
        images(7), "examples of 7 features", r"MLP\(inputs=4\)", "build it with inputs=7"
    ),
    "images of another size for Conv4": BadTask(
        images(1, 16, 16),
        r"batch of shape \(6, 1, 16, 16\)", "Conv4 was built for images of 1 × 20 × 20",
        "build it with other channels= and size=", learner=lambda: MAML(Conv4(3, width=2, size=20)),
    ),
    "colour images for a grey Conv4": BadTask(
        images(3, 16, 16),
        r"batch of shape \(6, 3, 16, 16\)", "Conv4 was built for images of 1 × 16 × 16",
        "bring the images to that shape", learner=lambda: ProtoNet(Conv4(width=2, size=16)),
    ),
    "flat images for ResNet12": BadTask(
        images(256),
        r"batch of shape \(6, 256\)", "ResNet12 was built for images of 1 × 16 × 16", "bring the images to that shape",
        learner=lambda: ProtoNet(ResNet12(widths=(2, 2, 2, 2), channels=1, size=16)),
    ),
    "what a model of one's own cannot take": BadTask(
        images(7),
        r"examples of shape \(7,\)", "6x7 and 4x3", "build the model for these", learner=lambda: MAML(nn.Linear(4, 3)),
    ),
}
# fmt: on


@pytest.mark.parametrize(("name", "route"), [(name, route) for name, bad in TASKS.items() for route in bad.routes])
def test_bad_tasks(name: str, route: str) -> None:
    bad = TASKS[name]
    with pytest.raises(InputError) as caught:
        ROUTES[route](bad.learner(), bad.make())
    assert_says(str(caught.value), Wrong(lambda _: None, bad.found, bad.needed, bad.do))


# Wrong arguments.


class BatchNormed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


class Idle(nn.Module):
    """Has a layer that its forward pass forgets."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.spare = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)  # type: ignore[no-any-return]


OUTER = {"steps": 3, "meta_batch": 2}

# fmt: off
LEARNERS: dict[str, Wrong] = {
    "no inner steps": Wrong(
        lambda _: MAML(mlp(), steps=0), "steps=0", "MAML has", "whole number of at least 1"
    ),
    "inner steps as text": Wrong(
        lambda _: MAML(mlp(), steps="three"),
        "steps='three'", "MAML has",
        "whole number of at least 1",  # type: ignore[arg-type]
    ),
    "no inner steps at test": Wrong(
        lambda _: MAML(mlp(), eval_steps=0), "eval_steps=0", "MAML has", "whole number of at least 1"
    ),
    "unknown hypergradient": Wrong(
        lambda _: MAML(mlp(), hypergradient="second-order"),  # type: ignore[arg-type]
        "hypergradient='second-order'", "is not known", "choose one of unrolled, mixed-mode",
    ),
    "adapted matches nothing": Wrong(
        lambda _: MAML(mlp(), adapted="haed.*"),
        r"adapted=\['haed.\*'\]", r"trainable parameters \(body.0.weight, .*head.bias\)", "give patterns such as",
    ),
    "a frozen model": Wrong(
        lambda _: MAML(mlp().requires_grad_(False)), "it has none", "trainable parameters", "give patterns such as"
    ),
    "a model class in place of a model": Wrong(
        lambda _: MAML(MLP),
        "found the class MLP", "needs an nn.Module",
        r"build it first, MLP\(…\)",  # type: ignore[arg-type]
    ),
    "a function in place of an encoder": Wrong(
        lambda _: ProtoNet(torch.relu),
        "found a builtin_function_or_method", "needs an nn.Module",
        "wrap it in one",  # type: ignore[arg-type]
    ),
    "a number in place of a rule": Wrong(
        lambda _: MAML(mlp(), rule=0.1),
        "rule=0.1", "an inner rule",
        r"kshot.rules.SGD\(lr=",  # type: ignore[arg-type]
    ),
    "a torch optimizer in place of a rule": Wrong(
        lambda _: MAML(mlp(), rule=torch.optim.SGD),
        "torch.optim", "an inner rule",
        r"kshot.rules.SGD\(lr=",  # type: ignore[arg-type]
    ),
    "a loss unknown by name": Wrong(
        lambda _: MAML(mlp(), loss="mae"),
        "loss 'mae'", "is not known", "choose one of cross_entropy, mse, squared_scores, or give a function",
    ),
    "a number in place of a loss": Wrong(
        lambda _: MAML(mlp(), loss=5),  # type: ignore[arg-type]
        "loss 5", "is not known", "choose one of cross_entropy, mse, squared_scores, or give a function",
    ),
    "negative inner rate": Wrong(lambda _: SGD(-0.1), "lr=-0.1", "finite number", "at least 0"),
    "inner rate as text": Wrong(lambda _: SGD("0.1"), "lr='0.1'", "finite number", "at least 0"),  # type: ignore[arg-type]
    "inner rate as a tensor": Wrong(
        lambda _: SGD(torch.tensor(0.1)),  # type: ignore[arg-type]
        r"lr=tensor\(0\.1", "finite number", "at least 0",
    ),
    "momentum is NaN": Wrong(lambda _: SGD(momentum=float("nan")), "momentum=nan", "it must be", "at least 0 and below 1"),
    "nesterov without momentum": Wrong(
        lambda _: SGD(nesterov=True), "nesterov=True and momentum=0", "give a momentum", "such as 0.9"
    ),
    "unknown learn": Wrong(
        lambda _: SGD(learn="layer"),
        "learn='layer'", "is not known",
        "choose 'one', 'tensor', 'parameter'",  # type: ignore[arg-type]
    ),
    "a rule that has not met its parameters": Wrong(
        lambda _: SGD(learn="one").step({"w": torch.ones(1)}, {"w": torch.ones(1)}, SGD().init({})),
        r"SGD\(learn='one'\)", "does not know the parameters", r"call rule.prepare\(params, steps\) first",
    ),
    "batch norm without a policy": Wrong(
        lambda _: MAML(BatchNormed()),
        "batch norm '1' keeps running statistics", "choose batch_norm='batch'", "or use group or layer norm",
    ),
    "unknown batch norm policy": Wrong(
        lambda _: MAML(BatchNormed(), batch_norm="eval"),  # type: ignore[arg-type]
        "batch_norm='eval'", "is no policy of this learner", "choose 'batch' or 'running'",
    ),
    "an unused layer": Wrong(
        lambda _: MAML(Idle()).adapt(classes().support[0]),
        "does not depend on 'spare.weight', 'spare.bias'", r"leave them out with adapted=\[…\]",
        "pass allow_unused=True",
    ),
    "Reptile with learned rates": Wrong(
        lambda _: Reptile(mlp(), rule=SGD(learn="one")),
        "Reptile has no meta-gradient", "cannot train the rule's own parameters", "use a rule with learn=None",
    ),
    "Reptile without minibatches": Wrong(
        lambda _: Reptile(mlp(), minibatches=0), "minibatches=0", "Reptile has", "whole number of at least 1"
    ),
    "unknown distance": Wrong(
        lambda _: ProtoNet(mlp(None), distance="manhattan"),  # type: ignore[arg-type]
        "distance='manhattan'", "is not known", "choose euclidean or cosine",
    ),
    "temperature zero": Wrong(
        lambda _: ProtoNet(mlp(None), temperature=0), "temperature=0", "divides the distances", "give a positive number"
    ),
    "unknown down": Wrong(
        lambda _: Conv4(down="half"),
        "down='half'", "is not known",
        "choose 'pool' or 'stride'",  # type: ignore[arg-type]
    ),
    "unknown norm": Wrong(
        lambda _: Conv4(norm="layer"),
        "norm='layer'", "is not known",
        "choose 'batch', 'running', 'group' or 'none'",  # type: ignore[arg-type]
    ),
    "images too small for Conv4": Wrong(
        lambda _: Conv4(size=8), "size=8 is too small", "halves 4 times", "give at least 16"
    ),
    "images too small for ResNet12": Wrong(
        lambda _: ResNet12(size=8), "size=8 is too small", "halves four times", "give at least 16"
    ),
    "three widths for four blocks": Wrong(
        lambda _: ResNet12(widths=(2, 2, 2)),
        "names 3", "four blocks",
        "give four widths",  # type: ignore[arg-type]
    ),
    "Conv4 without width": Wrong(lambda _: Conv4(5, width=0), "width=0", "whole numbers", "at least 1"),
    "MLP without units": Wrong(
        lambda _: MLP(4, (0,), 3), r"sizes \[4, 0\] -> 3", "every layer needs", "at least one unit"
    ),
    "MLP with text for outputs": Wrong(
        lambda _: MLP(4, (6,), "x"),
        r"sizes \[4, 6\] -> 'x'", "every layer needs",
        "at least one unit",  # type: ignore[arg-type]
    ),
    "meta_loss of no task": Wrong(
        lambda _: kshot.meta_loss(MAML(mlp()), (torch.ones(2), torch.ones(2))),  # type: ignore[arg-type]
        "found tuple", r"a Task\(support, query\) is needed", "build one from two Batches",
    ),
    "a task of tuples": Wrong(
        lambda _: kshot.meta_loss(MAML(mlp()), Task((torch.ones(2),), (torch.ones(2),))),  # type: ignore[arg-type]
        "support is a tuple", r"a Batch\(x, y, ways\) is needed", "build one",
    ),
    "adapt to a tuple": Wrong(
        lambda _: MAML(mlp()).adapt((torch.ones(2, 4), torch.zeros(2))),  # type: ignore[arg-type]
        "support is a tuple", r"a Batch\(x, y, ways\) is needed", "build one",
    ),
    "unknown vectorize": Wrong(
        lambda _: kshot.meta_loss(MAML(mlp()), classes(), "pmap"),  # type: ignore[arg-type]
        "vectorize='pmap'", "is not known", "choose 'auto', 'vmap', 'loop' or a chunk size",
    ),
    "chunks of no task": Wrong(
        lambda _: kshot.meta_loss(MAML(mlp()), classes(), 0), "vectorize=0", "is not known", "choose .* a chunk size"
    ),
}
# fmt: on

# fmt: off
TRAINING: dict[str, Wrong] = {
    "nothing to train": Wrong(
        lambda _: fit(kshot.NearestCentroid(), Same(classes())),
        "NearestCentroid", "no parameters to train", "evaluate it as it is",
    ),
    "a plain model": Wrong(
        lambda _: fit(mlp(), Same(classes())), "a MLP", "a MetaLearner is needed", r"such as kshot.MAML\(model\)"
    ),
    "a plain model evaluated": Wrong(
        lambda _: evaluate(mlp(), Same(classes())), "a MLP", "a MetaLearner is needed", r"such as kshot.MAML\(model\)"
    ),
    "data in place of tasks": Wrong(
        lambda _: fit(MAML(mlp()), [1, 2]),
        "found list", r"\.sample\(n, generator\) is needed", r"kshot.tasks.Episodes\(data",
    ),
    "a source that gives pairs": Wrong(
        lambda _: fit(MAML(mlp()), Same((torch.ones(2), torch.ones(2)))),
        "found tuple", r"a Task\(support, query\) is needed", "build one from two Batches",
    ),
    "a bad task in a later step": Wrong(
        lambda _: fit(MAML(mlp()), Later(classes(), classes(ways=4)), steps=2),
        r"outputs of shape \(8, 3\) for a 4-way task", r"needed \(8, 4\)", "outputs=4",
    ),
    "labels out of range in a later step": Wrong(
        lambda _: fit(MAML(mlp()), Later(classes(), on_query(lambda b: replace(b, y=b.y + 7))()), steps=2),
        "labels run from 7 to 9", r"3-way task needs 0\.\.2", "relabel the classes",
    ),
    "a setting misspelt": Wrong(
        lambda _: fit(MAML(mlp()), Same(classes()), meta_bach=4),
        "no setting 'meta_bach'", "did you mean", "'meta_batch'",
    ),
    "no steps": Wrong(lambda _: fit(MAML(mlp()), Same(classes()), steps=0), "steps=0", "training needs", "at least 1"),
    "steps as text": Wrong(
        lambda _: fit(MAML(mlp()), Same(classes()), steps="many"), "steps='many'", "whole number", "at least 1"
    ),
    "a seed as text": Wrong(
        lambda _: fit(MAML(mlp()), Same(classes()), seed="now"), "seed='now'", "whole number", "at least 0"
    ),
    "negative rate": Wrong(lambda _: fit(MAML(mlp()), Same(classes()), lr=-1.0), r"lr=-1\.0", "positive", "give a"),
    "clip zero": Wrong(lambda _: fit(MAML(mlp()), Same(classes()), clip=0), "clip=0", "positive", "give a"),
    "negative weight decay": Wrong(
        lambda _: fit(MAML(mlp()), Same(classes()), weight_decay=-0.1), r"weight_decay=-0\.1", "at least 0", "give a"
    ),
    "unknown optimizer": Wrong(
        lambda _: fit(MAML(mlp()), Same(classes()), optimizer="adamm"),
        "optimizer 'adamm'", "did you mean", "'adamw'|'adam'",
    ),
    "a number in place of an optimizer": Wrong(
        lambda _: fit(MAML(mlp()), Same(classes()), optimizer=5),
        "optimizer=5", "a name or a function", "such as 'adam'",
    ),
    "unknown schedule": Wrong(
        lambda _: fit(MAML(mlp()), Same(classes()), schedule="step"),
        "schedule 'step'", "not known", "choose one of constant, cosine, linear",
    ),
    "unknown precision": Wrong(
        lambda _: fit(MAML(mlp()), Same(classes()), precision="fp16"),
        "precision 'fp16'", "not known", "choose one of fp32, bf16-mixed",
    ),
    "warmup past the end": Wrong(
        lambda _: fit(MAML(mlp()), Same(classes()), steps=5, warmup=5),
        "warmup=5 of steps=5", "must end before", "training does",
    ),
    "unknown vectorize in fit": Wrong(
        lambda _: fit(MAML(mlp()), Same(classes()), vectorize="pmap"),
        "vectorize='pmap'", "not known", "choose 'auto', 'vmap', 'loop' or a chunk size",
    ),
    "validation on classes of training": Wrong(
        lambda _: fit(ProtoNet(mlp(None)), points(6), validate=points(6)),
        "6 classes are in both", "split by class", "Labelled.split",
    ),
    "evaluation on classes of training": Wrong(
        lambda _: evaluate(fit(ProtoNet(mlp(None)), points(6)), points(6)),
        "6 of the 6 classes to evaluate on .* trained on", "evaluate on other classes", "allow_seen=True",
    ),
    "evaluation on one task": Wrong(
        lambda _: evaluate(MAML(mlp()), Same(classes()), episodes=1),
        "episodes=1", "at least 2 tasks", "use 600 or more",
    ),
    "it diverges": Wrong(
        lambda _: fit(MAML(MLP(1, (6,), 1), loss=mse_loss, rule=SGD(1e30), steps=4), Sinusoids(), seed=3),
        "meta-loss is (nan|inf) .* at step 0", r"replay it with learner.loss\(tasks.sample\(2, kshot.seeded\(3, 0\)",
        "a smaller inner or outer learning rate", Diverged,
    ),
    "another setting on going on": Wrong(
        lambda here: [fit(MAML(mlp()), Same(classes()), out=here, seed=seed) for seed in (0, 1)],
        "seed was 0, now 1", "give the same settings", "choose another folder",
    ),
    "another learner on going on": Wrong(
        lambda here: [fit(MAML(mlp(), steps=steps), Same(classes()), out=here) for steps in (1, 2)],
        "learner.steps was 1, now 2", "give the same settings", "choose another folder",
    ),
    "a learner's file in place of a run's state": Wrong(
        lambda here: [
            kshot.save(MAML(mlp()), here / "last.safetensors"),
            fit(MAML(mlp()), Same(classes()), out=here),
        ],
        r"last.safetensors holds a learner", "no state of a training", "choose another folder",
    ),
    "a run folder below a file": Wrong(
        lambda here: fit(MAML(mlp()), Same(classes()), out=file(here / "a", "") / "run"),
        "run.json could not be written", "a part of its folder's path is a file", "choose another folder",
    ),
    "a run folder that is a file": Wrong(
        lambda here: fit(MAML(mlp()), Same(classes()), out=file(here / "run", "")),
        "run.json could not be written", "a part of its folder's path is a file", "choose another folder",
    ),
    "a read-only disk": Wrong(
        lambda here: failing("os.replace", errno.EROFS, lambda: kshot.save(MAML(mlp()), here / "learner")),
        "learner could not be written", "read-only for you", "choose another folder, or change its rights",
    ),
    "a read-only folder": Wrong(
        lambda here: failing("tempfile.mkstemp", errno.EACCES, lambda: fit(MAML(mlp()), Same(classes()), out=here)),
        "run.json could not be written", "read-only for you", "choose another folder, or change its rights",
    ),
    "a full disk": Wrong(
        lambda here: failing("os.fsync", errno.ENOSPC, lambda: fit(MAML(mlp()), Same(classes()), out=here)),
        "run.json could not be written", r"the disk is full, [\d,]+ bytes are needed",
        "free some, or choose another folder",
    ),
    "a disk that fills while metrics are written": Wrong(
        lambda here: fit(MAML(mlp()), Same(classes()), out=full_metrics(here)),
        "metrics.jsonl could not be written", "the disk is full", "free some, or choose another folder",
    ),
    "metrics.jsonl is a folder": Wrong(
        lambda here: fit(MAML(mlp()), Same(classes()), out=(here / "metrics.jsonl").mkdir() or here),
        "metrics.jsonl could not be written", "[Ii]s a directory", "choose another folder",
    ),
}
# fmt: on


def points(classes: int = 6, examples: int = 10) -> Episodes:
    x = torch.randn(classes * examples, 4, generator=torch.Generator().manual_seed(1))
    return Episodes((x, torch.arange(classes).repeat_interleave(examples)), ways=3, shots=1, queries=2)


def file(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def failing(function: str, number: int, act: Callable[[], object]) -> object:
    """act(), while a function of the system raises this error."""

    def fail(*args: object, **kwargs: object) -> object:
        raise OSError(number, os.strerror(number))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(function, fail)
        return act()


def full_metrics(folder: Path) -> Path:
    """The run folder's metrics go to a device that is always full."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (folder / "metrics.jsonl").symlink_to("/dev/full")
    return folder


# Data.


def picture(path: Path, size: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((size, size), 80).save(path)
    return path


def folder_of(here: Path, *classes: str, images: int = 3) -> Path:
    for name in classes:
        for i in range(images):
            picture(here / name / f"{i}.png")
    return here


def sampled(data: Labelled, shots: int = 1, queries: int = 1) -> Task:
    return Episodes(data, 2, shots, queries).sample(4, kshot.seeded(0))


def cut(path: Path) -> Path:
    return file(path, path.read_bytes()[: path.stat().st_size // 2])


def zipped(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images_background/Greek/character01/0001_01.png", b"\x89PNG" + bytes(5000))
    return path


def steps(*given: Any, shape: tuple[int, ...] = (1, 4, 4), **options: Any) -> object:
    return from_transforms((torch.rand(12, *shape), torch.arange(4).repeat(3)), list(given), **options)


TWO_WAYS = (NWays(2), KShots(1, queries=1))


def grouped(*counts: int) -> tuple[Tensor, list[str]]:
    return torch.randn(sum(counts), 4), [f"class {c}" for c, n in enumerate(counts) for _ in range(n)]


# fmt: off
DATA: dict[str, Wrong] = {
    "one way": Wrong(lambda _: Episodes(grouped(9, 9), 1, 1, 1), "ways=1", "at least 2 classes", "to tell apart"),
    "more ways than classes": Wrong(
        lambda _: Episodes(grouped(9, 9), 5, 1, 1),
        "the data has 2", "5-way tasks need as many classes", "lower ways",
    ),
    "a class too small": Wrong(
        lambda _: Episodes(grouped(9, 4), 2, 2, 3),
        "class 'class 1' has 4 examples", "2 shots [+] 3 queries need 5", "lower one, or leave the class out",
    ),
    "every class too small": Wrong(
        lambda _: Episodes(grouped(2, 2), 2, 2, 3, small_classes="skip"),
        "class 'class 0' has 2 examples", "2 shots [+] 3 queries need 5", "lower one",
    ),
    "no shots": Wrong(lambda _: Episodes(grouped(9, 9), 2, 0, 1), "shots=0", "whole number of at least 1", "give a"),
    "a range backwards": Wrong(
        lambda _: Episodes(grouped(9, 9), 2, (3, 1), 1), r"shots=\(3, 1\)", "whole number", r"or \(lowest, highest\)"
    ),
    "ways as text": Wrong(
        lambda _: Episodes(grouped(9, 9), "five", 1, 1),
        "ways='five'", "whole number",
        r"or \(lowest, highest\)",  # type: ignore[arg-type]
    ),
    "unbalanced without a range": Wrong(
        lambda _: Episodes(grouped(9, 9), 2, 1, 1, balanced=False),
        "found shots=1", "needs a range", r"such as \(1, 10\)",
    ),
    "unknown small_classes": Wrong(
        lambda _: Episodes(grouped(9, 9), 2, 1, 1, small_classes="drop"),  # type: ignore[arg-type]
        "small_classes='drop'", "not known", "choose 'error' or 'skip'",
    ),
    "shuffle as a number": Wrong(
        lambda _: Episodes(grouped(9, 9), 2, 1, 1, shuffle=7),  # type: ignore[arg-type]
        "shuffle=7", "whether the support is in random order", "give True or False",
    ),
    "steps without ways": Wrong(
        lambda _: steps(KShots(1)), r"steps \['KShots'\] have no NWays", "how many classes .* is needed", r"add NWays\(5\)"
    ),
    "steps without shots": Wrong(
        lambda _: steps(NWays(2)),
        "have no KShots", "how many examples is needed", r"add KShots\(1, queries=15\)",
    ),
    "steps in a wrong order": Wrong(
        lambda _: steps(*TWO_WAYS, FilterLabels([0, 1])),
        "FilterLabels stands after KShots", "the order needed is", "move FilterLabels forward",
    ),
    "a step twice": Wrong(
        lambda _: steps(NWays(3), *TWO_WAYS), "NWays stands 2 times", "one is needed", "leave out the others"
    ),
    "a step that is a class": Wrong(
        lambda _: steps(NWays, KShots(1)), "is the class NWays", "objects of .* are needed", r"give such as NWays\(5\)"
    ),
    "one step that is no list": Wrong(
        lambda _: from_transforms((torch.ones(4, 2), [0, 1] * 2), NWays(2)),  # type: ignore[arg-type]
        "the steps are a NWays", "several are needed", "give a list such as",
    ),
    "one label to filter by": Wrong(
        lambda _: steps(FilterLabels("0"), *TWO_WAYS), "labels='0'", "several are needed", "give a list of labels"
    ),
    "a label to filter by that is not there": Wrong(
        lambda _: steps(FilterLabels([0, 7]), *TWO_WAYS), "no class is called '7'", "the data has 4", "such as 0, 1, 2"
    ),
    "the data given to a step": Wrong(
        lambda _: steps(*TWO_WAYS, RemapLabels(torch.ones(2))),  # type: ignore[arg-type]
        "shuffle of type Tensor", "is needed, give True or False", "the data is given once",
    ),
    "a rotation by an eighth": Wrong(
        lambda _: steps(*TWO_WAYS, RandomClassRotation([0, 45])),
        r"degrees=\[0, 45\]", "quarter turns are needed", "give a list of multiples of 90",
    ),
    "a rotation of what is not square": Wrong(
        lambda _: steps(*TWO_WAYS, RandomClassRotation([0, 90]), shape=(1, 4, 5)),
        r"shape \(1, 4, 5\) cannot be rotated", "square images .* are needed", "bring them to one size",
    ),
    "a rotation of rotations": Wrong(
        lambda _: steps(RotationsAsClasses(), *TWO_WAYS, RandomClassRotation([0, 90])),
        "turns of others already, such as '3/rot270'", "needs upright ones", "leave it out",
    ),
    "two orders of the support": Wrong(
        lambda _: steps(*TWO_WAYS, ConsecutiveLabels(), shuffle=True),
        "sorts the support by class and shuffle=True mixes it", "one order is needed", "leave one of them out",
    ),
    "no task asked for": Wrong(
        lambda _: Episodes(grouped(9, 9), 2, 1, 1).sample(0, kshot.seeded(0)),
        "0 tasks", "at least one is needed", "n=1",
    ),
    "something that is no data": Wrong(
        lambda _: Episodes(torch.ones(3, 4)),
        r"a Tensor of shape \(3, 4\) with no labels", "is no labelled data", r"give \(x, y\)",
    ),
    "a label too few in the data": Wrong(
        lambda _: Labelled.of(torch.ones(3, 4), [0, 1]), "3 examples came with 2 labels", "one label an example", "give"
    ),
    "no example": Wrong(
        lambda _: Labelled.of(torch.ones(0, 4), []), "holds no example", "at least a few for each", "give"
    ),
    "labels of several kinds": Wrong(
        lambda _: Labelled.of(torch.ones(2, 4), [0, "a"]),
        "labels of type int", "cannot be told apart and ordered", "use numbers or strings",
    ),
    "a single label": Wrong(
        lambda _: Labelled.of(torch.ones(2, 4), 5), "labels are one int", "one label a row", "give a list or an array"
    ),
    "one-hot labels in the data": Wrong(
        lambda _: Labelled.of(torch.ones(2, 4), torch.eye(2)),
        "labels of type list", "cannot be told apart", "one a row",
    ),
    "a NaN row": Wrong(
        lambda _: Labelled.of(spoilt(torch.ones(3, 4), float("nan")), [0, 1, 1]),
        "first: row 0", "1 of 3 examples hold NaN or infinite", "clean or drop those rows",
    ),
    "a NaN label": Wrong(
        lambda _: Labelled.of(torch.ones(3, 4), torch.tensor([0.0, float("nan"), 1.0])),
        "some labels are NaN", "give each row its class", "leave those rows out",
    ),
    "ragged arrays": Wrong(
        lambda _: Labelled.of([[1.0, 2.0], [3.0]], [0, 1]),
        "examples of type list", "cannot become a tensor", "give one array",
    ),
    "flat examples": Wrong(
        lambda _: Labelled.of(torch.ones(3), [0, 1, 1]), r"shape \(3,\)", "at least", r"\[examples, features\]"
    ),
    "a class that is not there": Wrong(
        lambda _: Labelled.of(*grouped(2, 2)).only(["class 7"]),
        "'class 7'", "the data has 2", "such as class 0, class 1",
    ),
    "shares that exceed the whole": Wrong(
        lambda _: Labelled.of(*grouped(2, 2)).split(0.8, 0.4),
        r"shares \(0.8, 0.4\)", "positive numbers", "sum to at most 1",
    ),
    "shares too small for a class": Wrong(
        lambda _: Labelled.of(*grouped(2, 2)).split(0.9, 0.1),
        r"2 classes .*shares \(0.9, 0.1\)", "a part would be empty", "larger shares",
    ),
    "a folder that is missing": Wrong(
        lambda here: from_folder(here / "nowhere"), "there is no folder .*nowhere", "looked up from", "check the path"
    ),
    "a file in place of a folder": Wrong(
        lambda here: from_folder(picture(here / "a.png")),
        "a.png is a file", "give the folder", "sub-folder of images for each class",
    ),
    "a folder without class folders": Wrong(
        from_folder, "holds 0 class folders", "at least 2", "put the images of each class in a sub-folder"
    ),
    "images outside of class folders": Wrong(
        lambda here: from_folder(picture(here / "a.png").parent),
        "the image a.png", "outside of any class folder", "put the images of each class in a sub-folder",
    ),
    "one class folder": Wrong(
        lambda here: from_folder(folder_of(here, "cats")),
        "holds 1 class folders", "at least 2", "put the images of each class in a sub-folder",
    ),
    "an empty class folder": Wrong(
        lambda here: [(here / "dogs").mkdir(), from_folder(folder_of(here, "cats", "birds"))],
        "class folder 'dogs'", "holds no image", "put some in, or remove the folder",
    ),
    "a truncated image": Wrong(
        lambda here: [cut(folder_of(here, "dogs", "cats", images=2) / "cats/0.png"), sampled(from_folder(here))],
        r"cats/0\.png", "cannot be read as an image", "replace it",
    ),
    "bytes with the name of an image": Wrong(
        lambda here: [
            file(folder_of(here, "dogs", "cats", images=2) / "cats/1.png", "text"),
            sampled(from_folder(here)),
        ],
        r"cats/1\.png", "cannot be read as an image", "replace it",
    ),
    "unknown channels": Wrong(
        lambda here: from_folder(folder_of(here, "dogs", "cats"), channels=2),
        "channels=2", "channels 1 .grey. or 3", "size is at least 1",
    ),
    "a table that is missing": Wrong(
        lambda here: from_csv(here / "t.csv"), "t.csv cannot be read", "No such file", "check the path"
    ),
    "a table without labels": Wrong(
        lambda here: from_csv(file(here / "t.csv", "a,b\n1,2\n")),
        "0 columns called 'label'", "its header is a, b", "name columns by label=",
    ),
    "a word among numbers": Wrong(
        lambda here: from_csv(file(here / "t.csv", "a,label\n1,x\nred,y\n")),
        r"t\.csv, line 3 has 'red' in column 'a'", "finite number is needed", "mend the line",
    ),
    "a line too long": Wrong(
        lambda here: from_csv(file(here / "t.csv", "a,label\n1,x\n2,y,3\n")),
        r"t\.csv, line 3 has 3 cells", "the header 2", "mend or remove the line",
    ),
    "a table with no rows": Wrong(
        lambda here: from_csv(file(here / "t.csv", "a,label\n")),
        r"t\.csv holds no example", "a header or nothing", "add rows",
    ),
    "a table of one class": Wrong(
        lambda here: from_csv(file(here / "t.csv", "a,label\n1,x\n2,x\n")),
        "one class only, 'x'", "at least 2", "add rows of other classes",
    ),
    "a table that is no text": Wrong(
        lambda here: from_csv(file(here / "t.csv", b"a,label\n\xff\xfe,1\n")),
        r"t\.csv is no text in UTF-8", "0xff", "save it as such",
    ),
    "a broken line of JSON": Wrong(
        lambda here: from_jsonl(file(here / "t.jsonl", '{"x": [1], "label": 0}\n{"x": [1], "lab\n')),
        r"t\.jsonl, line 2", "is not JSON", "write one object a line",
    ),
    "ragged features": Wrong(
        lambda here: from_jsonl(file(here / "t.jsonl", '{"x": [1], "label": 0}\n{"x": [1, 2], "label": 1}\n')),
        r"line 2 has x of shape \(2,\) and the first line \(1,\)", "need the same shape", "pad or cut",
    ),
    "text without an encoder": Wrong(
        lambda here: from_jsonl(file(here / "t.jsonl", '{"x": "hello", "label": 0}\n')),
        "line 1 has text in 'x'", "makes a tensor of a list of texts", "give encode=",
    ),
    "another kind of file": Wrong(
        lambda here: labelled(file(here / "t.xlsx", "")), r"t\.xlsx", r"no \.csv, \.tsv or \.jsonl", "convert it"
    ),
    "a stream of data": Wrong(
        lambda _: from_dataset(iter([1])),
        "a list_iterator", "has no length or items by number", "give a map-style dataset",
    ),
    "Omniglot without a folder": Wrong(
        lambda _: omniglot_nowhere(), "is not known", "give root='a folder'", "set the environment variable KSHOT_DATA"
    ),
    "Omniglot in an empty folder": Wrong(
        lambda here: Omniglot(root=here),
        r"there is no \S+/images_background\.zip", "put the file from https://.*images_background.zip there",
        "download=True",
    ),
    "Omniglot in a file that is no zip": Wrong(
        lambda here: Omniglot(root=file(here / "images_background.zip", bytes(1000)).parent),
        r"images_background\.zip is no whole zip", "File is not a zip file", "remove it and download it again",
    ),
    "Omniglot in half a zip": Wrong(
        lambda here: Omniglot(root=cut(zipped(here / "images_background.zip")).parent),
        r"images_background\.zip is no whole zip", "File is not a zip file", "remove it and download it again",
    ),
    "Omniglot in another zip": Wrong(
        lambda here: Omniglot(root=zipped(here / "images_background.zip").parent),
        "holds 1 characters", "964 with 20 drawings", "remove it and download it again",
    ),
    "unknown split of Omniglot": Wrong(
        lambda here: Omniglot("valid", root=here),
        "no split 'valid'", "choose one of",
        "train, val, trainval, test",  # type: ignore[arg-type]
    ),
    "unknown split of Glyphs": Wrong(
        lambda _: Glyphs("valid"), "split 'valid'", "the splits are train, val, test", "choose one of them"
    ),
    "glyphs too small": Wrong(lambda _: Glyphs("val", size=4), "size=4", "whole number from 8 up", "pass such a one"),
    "unknown family": Wrong(
        lambda _: Sinusoids(families=("sine", "cosine")),
        r"families=\['sine', 'cosine'\]", "one or more of", "sine, sawtooth, step, line",
    ),
    "no shots of sinusoids": Wrong(
        lambda _: Sinusoids(shots=0),
        "shots=0 and queries=10", "a task needs", "whole number of at least 1|at least one of each",
    ),
    "sinusoids with text for shots": Wrong(
        lambda _: Sinusoids("ten"),
        "shots='ten' and queries=10", "a task needs",
        "at least one of each",  # type: ignore[arg-type]
    ),
    "no features of a linear regression": Wrong(
        lambda _: LinearRegressions(inputs=0), "inputs=0", "at least one of each", "give whole numbers"
    ),
    "a scale of 0": Wrong(
        lambda _: LinearRegressions(scale=(0.0, 1.0)),
        r"scale=\(0\.0, 1\.0\)", "two numbers above 0", r"give \(lowest, highest\)",
    ),
    "negative noise": Wrong(lambda _: Sinusoids(noise=-1.0), r"noise=-1\.0", "standard deviation", "at least 0"),
    "an amplitude alone": Wrong(
        lambda _: Sinusoids(amplitude=3.0),
        r"amplitude=3\.0", "two numbers",
        r"give \(lowest, highest\)",  # type: ignore[arg-type]
    ),
    "a download without a checksum": Wrong(
        lambda here: fetch("https://example.org/x.zip", here / "x.zip"),
        r"checksum for https://example.org/x\.zip", "not checked is not used", "md5= or sha256=",
    ),
}
# fmt: on


def omniglot_nowhere() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KSHOT_DATA", raising=False)
        return Omniglot()


# Saved learners.


class Own(MetaLearner):
    """A learner that kshot has no name for."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.criterion = mlp(), nn.functional.cross_entropy

    def adapt(self, support: Batch) -> None:
        return None

    def predict(self, fitted: None, x: Tensor) -> Tensor:
        return self.model(x)  # type: ignore[no-any-return]


def saved(here: Path, learner: MetaLearner | None = None) -> Path:
    kshot.save(learner if learner is not None else MAML(mlp()), here / "learner.safetensors")
    return here / "learner.safetensors"


def with_header(here: Path, **changes: Any) -> Path:
    path = saved(here)
    with safe_open(path, "pt") as opened:
        header = {**json.loads(opened.metadata()["kshot"]), **changes}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    safetensors.torch.save_file(tensors, path, {"kshot": json.dumps({k: v for k, v in header.items() if v != "gone"})})
    return path


def foreign(here: Path) -> Path:
    safetensors.torch.save_file({"w": torch.ones(2)}, here / "theirs.safetensors")
    return here / "theirs.safetensors"


def pickled(here: Path) -> Path:
    torch.save({"w": torch.ones(2)}, here / "theirs.pt")
    return here / "theirs.pt"


# fmt: off
SAVED: dict[str, Wrong] = {
    "no such learner": Wrong(
        lambda here: kshot.load(here / "learner"),
        "learner does not exist", "give a saved learner", "or the folder of a run",
    ),
    "a folder without a learner": Wrong(
        kshot.load, "holds no trained learner", "best.safetensors or last.safetensors", "train one with `kshot train"
    ),
    "half a learner": Wrong(
        lambda here: kshot.load(cut(saved(here))),
        "learner.safetensors is damaged", "not a safetensors file",
        "use another checkpoint of the run, or train again",
    ),
    "an empty file": Wrong(
        lambda here: kshot.load(file(here / "learner.safetensors", "")),
        "learner.safetensors is damaged", "not a safetensors file",
        "use another checkpoint of the run, or train again",
    ),
    "somebody else's weights": Wrong(
        lambda here: kshot.load(foreign(here)),
        "theirs.safetensors", "is not a learner saved by kshot", "use another checkpoint",
    ),
    "a pickle": Wrong(
        lambda here: kshot.load(pickled(here)),
        r"theirs\.pt is damaged", "not a safetensors file", "use another checkpoint",
    ),
    "a plain pickle": Wrong(
        lambda here: kshot.load(file(here / "p.pkl", pickle.dumps([1]))),
        r"p\.pkl is damaged", "not a safetensors file", "use another checkpoint",
    ),
    "a header with pieces missing": Wrong(
        lambda here: kshot.load(with_header(here, learner="gone")),
        "learner.safetensors is not a learner saved by kshot", "its header has no 'learner'", "use another checkpoint",
    ),
    "a learner of the future": Wrong(
        lambda here: kshot.load(with_header(here, format=99)), "format 99", "a newer kshot", "pip install -U kshot"
    ),
    "a learner unknown by name": Wrong(
        lambda here: kshot.load(with_header(here, learner={"name": "protonett"})),
        "learner 'protonett'", "did you mean", "'protonet'",
    ),
    "weights for another architecture": Wrong(
        lambda here: kshot.load_weights(MAML(MLP(4, (7,), 3)), saved(here)),
        "has in another shape model.body.0", "does not fit this learner",
        "build the learner with the settings of training",
    ),
    "weights for a deeper model": Wrong(
        lambda here: kshot.load_weights(MAML(MLP(4, (6, 6), 3)), saved(here)),
        "it lacks model.body.2", "does not fit this learner", "build the learner with the settings of training",
    ),
    "a learner of one's own class": Wrong(
        lambda here: kshot.load(saved(here, Own())),
        "learner of your own class 'Own'", "cannot rebuild", r"use kshot.load_weights\(learner, path\)",
    ),
    "a model of one's own, not passed": Wrong(
        lambda here: kshot.load(saved(here, MAML(nn.Linear(4, 3)))),
        "model is a Linear", "cannot rebuild", r"load\(path, model=…\)",
    ),
    "a loss of one's own, not passed": Wrong(
        lambda here: kshot.load(saved(here, MAML(mlp(), loss=nn.functional.nll_loss))),
        "loss is a nll_loss", "cannot rebuild", r"load\(path, loss=…\)",
    ),
    "an argument that the learner has not": Wrong(
        lambda here: kshot.load(saved(here), modle=mlp()), "no setting 'modle'", "did you mean", "'model'"
    ),
    "settings that are no JSON": Wrong(
        lambda here: saved(here, ProtoNet(mlp(None), temperature=np.float32(2))),  # type: ignore[arg-type]
        "float32 is not JSON serializable", "settings cannot be written as JSON", "use plain numbers and strings",
    ),
}
# fmt: on


# Recipes.

MAML_RECIPE = (
    'learner.name = "maml"\nlearner.model = {name = "mlp", inputs = 4, outputs = 3}\ntasks.name = "sinusoids"\n'
)


def recipe(here: Path, text: str) -> recipes.Recipe:
    return recipes.read(file(here / "mine.toml", text))


def changed(name: str, *changes: str, build: Callable[[recipes.Recipe], object] = lambda r: r.learner()) -> Act:
    return lambda _: build(recipes.read(name, changes))


def of_test(recipe: recipes.Recipe) -> object:
    return recipe.tasks("test")


# fmt: off
RECIPES: dict[str, Wrong] = {
    "a recipe misspelt": Wrong(
        changed("glyphs-5w1s-mamll"), "'glyphs-5w1s-mamll'", "did you mean", "'glyphs-5w1s-maml'"
    ),
    "a recipe file that is missing": Wrong(
        lambda here: recipes.read(here / "mine.toml"),
        r"there is no .*mine\.toml", "a recipe", "check the path|kshot list",
    ),
    "an unknown section": Wrong(
        lambda here: recipe(here, MAML_RECIPE + "[trainning]\nsteps = 1\n"),
        "no setting 'trainning'", "did you mean", "'training'",
    ),
    "an unknown setting": Wrong(
        changed("sinusoid-maml", "training.stepz=1"), r"\[training\] has no setting 'stepz'", "did you mean", "'steps'"
    ),
    "a setting the learner has not": Wrong(
        changed("sinusoid-maml", "learner.step=1"), "learner 'maml' has no setting 'step'", "did you mean", "'steps'"
    ),
    "a setting the tasks have not": Wrong(
        changed("sinusoid-maml", "tasks.shot=1", build=of_test),
        "'sinusoids' has no setting 'shot'", "did you mean", "'shots'",
    ),
    "no tasks": Wrong(
        lambda here: recipe(here, '[learner]\nname = "maml"\n'),
        r"no \[tasks\] section", "add one", "with a name and its settings",
    ),
    "a section that is a value": Wrong(
        changed("sinusoid-maml", "training=5"), "found 5", r"\[training\] must be a section", "such as"
    ),
    "a split that is a value": Wrong(
        changed("sinusoid-maml", "tasks.test=5", build=of_test),
        "found 5", r"\[tasks.test\] must be a section", "such as",
    ),
    "invalid TOML": Wrong(
        lambda here: recipe(here, "learner = = 3\n"), r"mine\.toml is not valid TOML", "line 1", "mend"
    ),
    "a change without a value": Wrong(
        changed("sinusoid-maml", "training.steps"),
        "--set 'training.steps' cannot be read", "write section.key=value", "such as training.steps=100",
    ),
    "a change inside a value": Wrong(
        changed("sinusoid-maml", "training.steps.more=1"),
        "steps is a value", "not a section", "such as training.steps=100",
    ),
    "a learner unknown": Wrong(
        changed("sinusoid-maml", "learner.name=mamel"), "learner 'mamel'", "did you mean", "'maml'"
    ),
    "a learner's name that is no name": Wrong(
        changed("sinusoid-maml", 'learner.name=["maml"]'),
        r"found \{.*'name': \['maml'\]", "learner needs a name", "one of maml, ",
    ),
    "tasks unknown": Wrong(
        changed("sinusoid-maml", "tasks.name=sinusoid", build=of_test),
        "tasks 'sinusoid'", "did you mean", "'sinusoids'",
    ),
    "a loss unknown": Wrong(
        changed("sinusoid-maml", "learner.loss=mae"),
        "loss 'mae'", "not known", "'mse'|choose one of cross_entropy, mse",
    ),
    "a number for a model": Wrong(
        changed("sinusoid-maml", "learner.model=5"), "found 5", "model needs a name", "one of mlp, conv4"
    ),
    "no model": Wrong(
        lambda here: recipe(here, '[learner]\nname = "maml"\n[tasks]\nname = "sinusoids"\n').learner(),
        "found {'name': 'maml'}", "needs the setting 'model'", r"add it",
    ),
    "inner steps as a word": Wrong(
        changed("sinusoid-maml", "learner.steps=three"),
        "'maml' has steps='three'", "a whole number is needed", "such as 5",
    ),
    "training steps as a word": Wrong(
        changed("sinusoid-maml", "training.steps=many"), "steps='many'", "whole number", "at least 1"
    ),
    "outputs as a word": Wrong(
        changed("sinusoid-maml", "learner.model.outputs=x"),
        "'mlp' has outputs='x'", "a whole number is needed", "such as 5",
    ),
    "a number for a list": Wrong(
        changed("sinusoid-maml", "learner.model.hidden=40"),
        "'mlp' has hidden=40", "a list of whole numbers is needed", r"such as \[40, 40\]",
    ),
    "a rate as a word": Wrong(
        changed("sinusoid-maml", "learner.rule.lr=high"), "'sgd' has lr='high'", "a number is needed", r"such as 0\.1"
    ),
    "yes for true": Wrong(
        changed("sinusoid-maml", "learner.allow_unused=yes"),
        "'maml' has allow_unused='yes'", "true or false is needed", "such as true",
    ),
    "a number for a text": Wrong(
        lambda here: recipe(here, MAML_RECIPE.replace("sinusoids", "own") + "tasks.path = 3\n").tasks("test"),
        "'own' has path=3", "a text is needed", 'such as "',
    ),
    "ways as a word": Wrong(
        changed("glyphs-5w1s-maml", "tasks.ways=five", "tasks.classes=20", "tasks.examples=20", build=of_test),
        "ways='five'", "whole number", r"or \(lowest, highest\)",
    ),
    "shots as a word": Wrong(
        changed("sinusoid-maml", "tasks.shots=ten", build=of_test),
        "'sinusoids' has shots='ten'", "a whole number is needed", "such as 5",
    ),
    "test tasks as a word": Wrong(
        changed("sinusoid-maml", "evaluation.episodes=many"),
        r"\[evaluation\] has episodes='many'", "whole number", "at least 2",
    ),
    "one's own data nowhere": Wrong(
        lambda here: recipe(here, MAML_RECIPE.replace("sinusoids", "own") + f'tasks.path = "{here}/x"\n').tasks("test"),
        "there is no folder .*/x", "looked up from", "check the path",
    ),
    "one's own data read with a wrong setting": Wrong(
        lambda here: recipe(
            here,
            MAML_RECIPE.replace("sinusoids", "own")
            + f'tasks.path = "{folder_of(here / "x", "a", "b")}"\ntasks.sise = 9\n',
        ).tasks("test"),
        r"'sise'", "did you mean", "'size'",
    ),
}
# fmt: on


# Packages that are not there.


def without(package: str, act: Callable[[], object]) -> object:
    """act(), where the package is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            patch.delitem(sys.modules, name)
        patch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
        patch.setitem(sys.modules, package, None)
        return act()


def report(here: Path) -> object:
    from kshot.report import write_report

    run, learner = recipes.read("sinusoid-maml"), regressor()
    found = kshot.evaluate(learner, Sinusoids(), 2, curves=False)
    return write_report(here, learner, Sinusoids(), found, title="x", recipe=run.settings)


# fmt: off
PACKAGES: dict[str, Wrong] = {
    "tensorboard": Wrong(
        lambda here: without("tensorboard", lambda: fit(MAML(mlp()), Same(classes()), out=here, tensorboard=True)),
        "tensorboard=True", "needs TensorBoard", r'pip install "kshot\[tensorboard\]"',
    ),
    "matplotlib": Wrong(
        lambda here: without("matplotlib", lambda: report(here)),
        "a report", "needs matplotlib", r'pip install "kshot\[report\]"',
    ),
    "datasets": Wrong(
        lambda here: without("datasets", lambda: labelled(file(here / "dataset_info.json", "{}").parent)),
        "which is not installed", "needs the package datasets", r'pip install "kshot\[huggingface\]"',
    ),
}
# fmt: on

TABLES: Mapping[str, Mapping[str, Wrong]] = {
    "learners": LEARNERS,
    "training": TRAINING,
    "data": DATA,
    "saved": SAVED,
    "recipes": RECIPES,
    "packages": PACKAGES,
}


@pytest.mark.parametrize(("table", "name"), [(table, name) for table, rows in TABLES.items() for name in rows])
def test_wrong_uses(table: str, name: str, tmp_path: Path) -> None:
    wrong = TABLES[table][name]
    with pytest.raises((InputError, Diverged)) as caught:
        wrong.act(tmp_path)
    assert type(caught.value) is wrong.error
    assert_says(str(caught.value), wrong)


# The command line.


@dataclass(frozen=True)
class Command:
    """Its arguments: {run}, {values} and {few} are trained runs, {here} an empty folder, {images} has two classes."""

    arguments: str
    found: str
    needed: str
    do: str


GLYPHS = "training.steps=2 training.meta_batch=2 training.vectorize=loop training.validate_episodes=2 "
GLYPHS += "tasks.val.queries=2 tasks.train.ways=2 tasks.classes=6 tasks.examples=17 learner.{}.width=2"
TRAIN = "train sinusoid-maml --out {here}/run"

# fmt: off
COMMANDS: dict[str, Command] = {
    "train a recipe misspelt": Command(
        "train sinusoid-mamll", "'sinusoid-mamll'", "did you mean 'sinusoid-maml'", "`kshot list` shows all"
    ),
    "train with a setting misspelt": Command(
        f"{TRAIN} --set trainig.steps=5", "no setting 'trainig'", "did you mean", "'training'"
    ),
    "train below a file": Command(
        "train sinusoid-maml --out {images}/cats/0.png/run",
        "recipe.toml could not be written", "a part of its folder's path is a file", "choose another folder",
    ),
    "train on with other settings": Command(
        "train sinusoid-maml --out {values} --set training.steps=2 --set training.lr=0.5",
        r"lr was 0\.001, now 0\.5", "give the same settings", "choose another folder",
    ),
    "train on Omniglot that is not there": Command(
        "train omniglot-5w1s-maml --out {here}/run --set tasks.root={here}",
        r"there is no \S+/images_background\.zip", r"put the file from https://\S+ there", "download=True",
    ),
    "evaluate what is no run": Command(
        "evaluate {here}", "is not the folder of a run", "it has no recipe.toml", "make one with `kshot train"
    ),
    "evaluate what was never trained": Command(
        "evaluate {untrained}",
        "untrained holds no trained learner", "best.safetensors or last.safetensors", "train one with `kshot train",
    ),
    "evaluate on no tasks": Command(
        "evaluate {run} --episodes 0", "episodes=0", "at least 2 tasks", "papers use 600 or more"
    ),
    "evaluate with more ways than classes": Command(
        "evaluate {run} --set tasks.test.ways=50", "the data has 6", "50-way tasks need as many classes", "lower ways"
    ),
    "evaluate with more ways than outputs": Command(
        "evaluate {few} --set tasks.test.ways=6 --episodes 2",
        r"outputs of shape \(6, 5\) for a 6-way task", r"needed \(6, 6\)", "build the model with outputs=6",
    ),
    "report of what is no run": Command(
        "report {here}", "is not the folder of a run", "it has no recipe.toml", "make one with `kshot train"
    ),
    "report of a damaged evaluation": Command(
        "report {damaged}", "evaluation.json is damaged", "Expecting value", "delete it, and measure again"
    ),
    "adapt what is not there": Command(
        "adapt {here}/nothing --support {images} --query {images}",
        "nothing does not exist", "give a saved learner", "or the folder of a run",
    ),
    "adapt a regression": Command(
        "adapt {values} --support {images} --query {images}",
        r"learned from examples of shape \(1,\)", "not from square images",
        "use kshot.load, learner.adapt and learner.predict",
    ),
    "adapt to a folder that is missing": Command(
        "adapt {run} --support {here}/support --query {images}",
        "there is no folder .*/support", "looked up from", "check the path",
    ),
    "adapt to one class": Command(
        "adapt {run} --support {one} --query {images}",
        "holds 1 class folders", "at least 2", "put the images of each class in a sub-folder",
    ),
    "classify a folder that is missing": Command(
        "adapt {run} --support {images} --query {here}/query",
        "query is not a folder", "give the folder", "with the images to classify",
    ),
    "classify a folder without images": Command(
        "adapt {run} --support {images} --query {here}",
        "holds no image", r"such as \.png or \.jpg", "give the folder with the images to classify",
    ),
    "write predictions below a file": Command(
        "adapt {run} --support {images} --query {images} --out {images}/cats/0.png/p.csv",
        "p.csv could not be written", "a part of its folder's path is a file", "choose another folder",
    ),
}
# fmt: on


def trained(recipe: str, folder: Path, changes: str) -> Path:
    result = CliRunner().invoke(app, ["train", recipe, "--out", str(folder), *settings(changes)])
    assert result.exit_code == 0, result.output
    return folder


def settings(changes: str) -> list[str]:
    return [word for change in changes.split() for word in ("--set", change)]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    here = tmp_path_factory.mktemp("places")
    found = {
        "run": trained("glyphs-5w1s-protonet", here / "run", GLYPHS.format("encoder")),
        "few": trained("glyphs-5w1s-maml", here / "few", GLYPHS.format("model") + " tasks.train.queries=2"),
        "values": trained("sinusoid-maml", here / "values", "training.steps=2"),
        "images": folder_of(here / "images", "cats", "dogs"),
        "one": folder_of(here / "one", "cats"),
    }
    for name in ("untrained", "damaged"):
        found[name] = shutil.copytree(found["values"], here / name)
    for weights in found["untrained"].glob("*.safetensors"):
        weights.unlink()
    file(found["damaged"] / "evaluation.json", "")
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_commands(name: str, places: dict[str, Path], tmp_path: Path) -> None:
    command = COMMANDS[name]
    arguments = [word.format(here=tmp_path, **places) for word in command.arguments.split()]
    result = CliRunner().invoke(app, arguments)
    assert_ends_in_a_sentence(result.exit_code, result.stderr, command)


@pytest.mark.parametrize(
    "name", ["train a recipe misspelt", "evaluate what is no run", "adapt to a folder that is missing"]
)
def test_wrong_commands_in_a_process_of_their_own(name: str, places: dict[str, Path], tmp_path: Path) -> None:
    command = COMMANDS[name]
    arguments = [word.format(here=tmp_path, **places) for word in command.arguments.split()]
    result = subprocess.run([sys.executable, "-m", "kshot", *arguments], capture_output=True, text=True)
    assert_ends_in_a_sentence(result.returncode, result.stderr, command)


def assert_ends_in_a_sentence(exit_code: int, stderr: str, command: Command) -> None:
    assert exit_code == 2, stderr
    assert "Traceback" not in stderr
    before, error, message = stderr.partition("error: ")
    assert error, stderr
    assert not before.strip(), "the sentence is all that is said"
    assert_says(message.strip(), Wrong(lambda _: None, command.found, command.needed, command.do))


# A disk that is full, and one that is read-only, in earnest.


@contextmanager
def disk(place: Path, size: str) -> Iterator[Path]:
    """A small disk in memory."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    possible = sys.platform == "linux" and shutil.which("mount") is not None
    if not possible or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk in memory needs Linux and root")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def large() -> MetaLearner:
    return MAML(MLP(1, (200, 200), 1), loss=mse_loss)  # 160 kB


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "64k") as place:
        with pytest.raises(InputError) as caught:
            fit(large(), Sinusoids(), out=place / "run")
        needed = r"the disk is full, \d{3},\d{3} bytes are needed"
        assert_says(
            str(caught.value), Wrong(lambda _: None, "last.safetensors could not be written", needed, "free some")
        )
        assert sorted(f.name for f in (place / "run").iterdir()) == ["metrics.jsonl", "run.json"]  # no half file


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "256k") as place:
        learner = kshot.save(large(), place / "a") or large()
        with pytest.raises(InputError, match="the disk is full"):
            kshot.save(learner, place / "a")  # there is no room for the new one beside the old one
        assert kshot.load(place / "a").state_dict().keys() == learner.state_dict().keys()
        assert [f.name for f in place.iterdir()] == ["a"]


def test_a_disk_that_is_really_read_only(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "64k") as place:
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        result = subprocess.run(
            [sys.executable, "-m", "kshot", "train", "sinusoid-maml", "--out", str(place / "run")],
            capture_output=True,
            text=True,
        )
        assert_ends_in_a_sentence(
            result.returncode,
            result.stderr,
            Command("", "recipe.toml could not be written", "is read-only for you", "choose another folder"),
        )


def test_there_are_many_different_mistakes() -> None:
    """No row repeats another: each has a sentence pattern of its own, or is another way to the same one."""
    rows = [*TASKS.values(), *COMMANDS.values(), *(row for table in TABLES.values() for row in table.values())]
    assert len(rows) >= 200
    patterns = [(row.found, row.needed, row.do) for row in rows]
    assert len(set(patterns)) > 0.9 * len(patterns)
