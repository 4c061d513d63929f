"""Reptile: meta-learning without a meta-gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kshot.inner import last
from kshot.learners.gradient import GradientLearner
from kshot.types import Task, check_whole


class Reptile(GradientLearner):
    """Move the initial parameters towards where a few gradient steps on a task lead.

    Nichol, Achiam, Schulman 2018, On First-Order Meta-Learning Algorithms.
    Algorithm: φ = `steps` updates from θ on the task's examples; θ ← θ + ε(φ − θ).
    Its loss is ½‖θ − φ‖² with φ held constant, whose gradient is θ − φ: plain SGD with lr ε as outer optimizer is the paper's.
    Training needs no query, so it learns from support and query together, in `minibatches` parts by turns, as the paper
    does; adapt uses the whole support at each step. Differs: each part has its share of every class, as a support has.
    """

    through_steps = False

    def __init__(self, model: nn.Module, *, minibatches: int = 1, **choices: Any) -> None:
        super().__init__(model, **{"hypergradient": "first-order", **choices})
        check_whole("Reptile", minibatches=minibatches)
        self.refuse_learned_rule()
        self.minibatches = minibatches

    def loss(self, task: Task) -> Tensor:
        examples = task.examples
        if examples.ways is not None:  # sorted, since the parts are interleaved
            examples = examples[examples.y.argsort(stable=True)]
        with torch.no_grad():
            target = last(self.descend(examples, self.steps, self._way, self.minibatches))
        return torch.stack([(p - target[name]).square().sum() for name, p in self.start().items()]).sum() / 2
