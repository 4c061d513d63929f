"""MAML++."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from kshot.functional import BatchNormPolicy, Params, batch_statistics, run
from kshot.hypergradients import FirstOrder, Hypergradient
from kshot.learners.gradient import GradientLearner
from kshot.rules import SGD, Rule
from kshot.rules.rule import key
from kshot.types import InputError, Task

NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)
MOMENTUM = 0.1  # of running statistics, as in torch


class MAMLPlusPlus(GradientLearner):
    """MAML, trained so that it stays stable: every inner step has rates, a loss and a normalization of its own.

    Antoniou, Edwards, Storkey 2019, How to Train Your MAML. Beside a cosine schedule (fit's schedule='cosine'):
    - a learned rate for each tensor and step, the default rule: SGD(lr, learn='tensor-step'); lr is for no other;
    - a multi-step loss: at first the query counts after every step, and by `multi_step` of training after the last alone;
    - a scale and a shift of each normalization layer for each step, learned in the outer loop and not moved in the inner;
    - first-order meta-gradients for the first `first_order` of training, exact ones after that;
    - batch_norm: 'batch' normalizes by the batch at hand, at each step anew (what the authors' code does, transductive);
      'running' also tracks statistics for each step in training, and uses these in eval mode. The model must keep running ones.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 0.1,
        rule: Rule | None = None,
        multi_step: float = 0.15,
        first_order: float = 0.3,
        batch_norm: BatchNormPolicy = None,
        **choices: Any,
    ) -> None:
        for name, share in (("multi_step", multi_step), ("first_order", first_order)):
            if not isinstance(share, int | float) or not 0 <= share <= 1:
                raise InputError(f"{name}={share!r}: it is a share of the training, give a number from 0 to 1")
        if not isinstance(model, nn.Module):
            raise InputError(f"MAML++ needs an nn.Module, found {type(model).__name__}: build it first")
        model = copy.deepcopy(model)  # whose normalization layers are frozen here; the user's own stays as it is
        own = {id(p): name for name, p in model.named_parameters()}
        norms = [m for m in model.modules() if isinstance(m, NORMS)]
        affine = [own[id(p)] for m in norms for p in m.parameters()]
        for name in affine:
            model.get_parameter(name).requires_grad_(False)  # they only say where the ones for each step start
        rule = SGD(lr, learn="tensor-step") if rule is None else rule
        super().__init__(model, rule=rule, batch_norm=batch_norm, **choices)
        self.lr, self.multi_step, self.first_order = lr, multi_step, first_order
        rows = self.steps + 1
        self.per_step = nn.ParameterDict(
            {key(name): torch.stack([model.get_parameter(name).detach()] * rows) for name in affine}
        )
        self.statistics = nn.Module()
        tracking = [name for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        self._tracked = [f"{name}.{slot}" for name in tracking for slot in ("running_mean", "running_var")]
        if batch_norm == "running":
            if not self._tracked:
                raise InputError(
                    "batch_norm='running' and no batch norm of the model keeps running statistics: build it with "
                    "nn.BatchNorm2d(…), of Conv4 with norm='running', or choose batch_norm='batch'"
                )
            for name in self._tracked:
                self.statistics.register_buffer(key(name), torch.stack([model.get_buffer(name).detach()] * rows))

    def accept(self, hypergradient: str | Hypergradient) -> Hypergradient:
        way = super().accept(hypergradient)
        if not way.every_step:
            raise InputError(
                f"hypergradient={hypergradient!r} gives the last step alone a gradient, and MAML++ learns from every step: "
                "choose another, such as 'mixed-mode'"
            )
        return way

    def outer(self, task: Task) -> Tensor:
        after_every_step, exactly = self.stage
        path = list(self.descend(task.support, self.steps, self._way if exactly else FirstOrder()))
        last = self.judge(self.predict(path[-1], task.query.x), task.query)
        if not after_every_step:
            return last
        weight = (1 - self.progress / self.multi_step) / self.steps  # of each step but the last
        before = [self.judge(self.predict(fitted, task.query.x), task.query) for fitted in path[1:-1]]
        return (1 - weight * len(before)) * last + weight * sum(before, torch.zeros_like(last))

    def stage_at(self, progress: float) -> tuple[bool, bool]:
        return progress < self.multi_step, progress >= self.first_order

    def at_step(self, params: Params, step: int) -> Params:
        tables = {name.replace("/", "."): rows for name, rows in self.per_step.items()}
        if self._runs:
            tables |= {name: self.statistics.get_buffer(key(name)) for name in self._tracked}
        return params | {name: rows[min(step, len(rows) - 1)] for name, rows in tables.items()}

    def run(self, fitted: Params, *inputs: Any, method: str | None = None, **named: Any) -> Any:
        policy = "batch" if self.batch_norm == "running" and not self._runs else self.batch_norm
        return run(self.model, fitted, inputs, named, batch_norm=policy, method=method)

    @torch.no_grad()
    def track(self, tasks: Task) -> None:
        if self.batch_norm != "running":
            return
        mean = {name: torch.zeros_like(self.statistics.get_buffer(key(name))) for name in self._tracked}
        for i in range(len(tasks)):
            task = tasks[i]
            for row, fitted in enumerate(self.descend(task.support, self.steps, FirstOrder())):
                seen = batch_statistics(self.model, fitted, torch.cat([task.support.x, task.query.x]))
                for name, value in seen.items():
                    mean[name][row] += value / len(tasks)
        for name, value in mean.items():
            self.statistics.get_buffer(key(name)).lerp_(value, MOMENTUM)

    @property
    def _runs(self) -> bool:
        """Whether it normalizes by what was tracked."""
        return self.batch_norm == "running" and not self.training
