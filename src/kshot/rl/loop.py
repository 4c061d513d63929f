"""fit for agents: collect trajectories → a few epochs of (loss → backward → clip → step) on them → log → validate → save."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kshot.evaluation import Evaluation
from kshot.learner import MetaLearner
from kshot.rl.evaluate import evaluate
from kshot.rl.family import Family
from kshot.rl.sampling import check_actor, collect, draw
from kshot.training.distributed import process_group
from kshot.training.loop import VALIDATION, Diverged, Run, alone_in, begin
from kshot.training.options import Training
from kshot.types import InputError, Task, seeded
from kshot.vectorize import Way


@dataclass(frozen=True, kw_only=True)
class PolicyTraining(Training):
    """The settings of a run; see fit."""

    meta_batch: int = 20
    epochs: int = 3
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.epochs, int) or isinstance(self.epochs, bool) or self.epochs < 1:
            raise InputError(f"epochs={self.epochs!r}: training needs a whole number of at least 1")


def fit(
    learner: MetaLearner,
    tasks: Family,
    *,
    validate: Family | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    tensorboard: bool = False,
    **settings: Any,
) -> MetaLearner:
    """Train the learner in place on a family of environments, and return it.

    steps (1000), meta_batch (20): outer steps, and tasks in each, whose trajectories are collected anew.
    epochs (3): times that each step goes along the meta-gradient of its trajectories.
    clip (1.0): the largest norm of the meta-gradient.
    Everything else is as in kshot.fit: run folder, resuming, validation (the best mean return is kept), settings.
    Under torchrun every rank collects the trajectories of all tasks, and learns from its share.
    """
    for family in (tasks, validate or tasks):
        check_actor(learner, family)
    training, trained = begin(learner, PolicyTraining, settings)
    folder = Path(out) if out is not None else None
    with process_group() as ranks, torch.random.fork_rng(), alone_in(folder, ranks):
        run = PolicyRun(learner, trained, tasks, validate, training, folder, ranks)
        run.train(progress, tensorboard)
    return learner


class PolicyRun(Run):
    """A training whose data the learner makes itself: so the next batch waits for the step before it."""

    t: PolicyTraining

    @property
    def updates(self) -> int:  # type: ignore[override]
        return self.t.epochs

    def batches(self) -> Iterator[Task]:
        while self.step < self.t.steps:
            generator = seeded(self.t.seed, self.step)
            tasks = draw(self.tasks, self.t.meta_batch, generator, self.device)
            found = collect(self.learner, self.tasks, tasks, generator)
            if not (found.support.x.isfinite().all() and found.query.x.isfinite().all()):
                raise Diverged(
                    f"the agent of step {self.step} observed what is not a number, so far did it go: a smaller inner or outer "
                    "learning rate, or a smaller first deviation, often helps"
                )
            yield found[self.share]

    def update(self, batch: Task, way: Way, stop: threading.Event) -> tuple[float, float, bool]:
        """Loss and norm of the last epoch: at the first the loss is 0, as advantages are."""
        found = [super(PolicyRun, self).update(batch, way, stop) for _ in range(self.t.epochs)]
        return found[-1][0], found[-1][1], any(stopped for _, _, stopped in found)

    def measure(self) -> Evaluation:
        return evaluate(self.learner, self.validate, self.t.validate_episodes, self.t.seed + VALIDATION, curves=False)

    def diagnosis(self, batch: Task, loss: float, norm: float) -> str:
        return (
            f"the meta-loss is {loss} and the norm of its gradient {norm} at step {self.step}, on tasks of "
            f"seed {self.t.seed}; a smaller inner or outer learning rate, or clip=, often helps"
        )
