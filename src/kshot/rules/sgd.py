"""Gradient descent, with a learning rate that can itself be learned."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from kshot.functional import Params
from kshot.rules.rule import Rule
from kshot.types import InputError

Learn = Literal["one", "tensor", "parameter", "step", "tensor-step"] | None


class SGDState(NamedTuple):
    step: int
    velocity: Params


class SGD(Rule):
    """Gradient descent, with a learning rate that can itself be learned.

    θ ← θ − lr · v,  v ← momentum · v + ∇L + weight_decay · θ: torch.optim.SGD's update, differentiable.
    learn: what the meta-gradient also trains, starting from `lr`:
      None         nothing, lr is a constant
      'one'        one learning rate
      'tensor'     one for each tensor
      'parameter'  one for each single weight (Meta-SGD, Li 2017)
      'step'       one for each inner step; steps past the last use the last
      'tensor-step' one for each tensor and step (MAML++, Antoniou 2019)
    """

    def __init__(
        self,
        lr: float = 0.01,
        *,
        learn: Learn = None,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__()
        if learn not in (None, "one", "tensor", "parameter", "step", "tensor-step"):
            raise InputError(
                f"learn={learn!r} is not known: choose 'one', 'tensor', 'parameter', 'step', 'tensor-step' or None"
            )
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise InputError(f"SGD has {name}={value!r}: it must be a finite number of at least 0")
        if nesterov and momentum == 0:
            raise InputError("SGD has nesterov=True and momentum=0: give a momentum, such as 0.9")
        self.lr, self.learn = lr, learn
        self.momentum, self.weight_decay, self.nesterov = momentum, weight_decay, nesterov
        self.rates = nn.ParameterDict()

    def prepare(self, params: Params, steps: int) -> None:
        def rate(*shape: int, like: Tensor) -> nn.Parameter:
            return nn.Parameter(torch.full(shape, self.lr, dtype=like.dtype, device=like.device))

        some = next(iter(params.values()))
        if self.learn == "one":
            self.rates["all"] = rate(like=some)
        elif self.learn == "step":
            self.rates["all"] = rate(steps, like=some)
        elif self.learn == "tensor":
            self.rates = nn.ParameterDict({_key(name): rate(like=p) for name, p in params.items()})
        elif self.learn == "parameter":
            self.rates = nn.ParameterDict({_key(name): rate(*p.shape, like=p) for name, p in params.items()})
        elif self.learn == "tensor-step":
            self.rates = nn.ParameterDict({_key(name): rate(steps, like=p) for name, p in params.items()})

    def init(self, params: Params) -> SGDState:
        velocity = {name: torch.zeros_like(p) for name, p in params.items()} if self.momentum else {}
        return SGDState(0, velocity)

    def step(self, params: Params, grads: Params, state: SGDState) -> tuple[Params, SGDState]:
        moved, velocity = {}, {}
        for name, p in params.items():
            direction = grads[name]
            if self.weight_decay:
                direction = direction + self.weight_decay * p
            if self.momentum:
                velocity[name] = self.momentum * state.velocity[name] + direction
                direction = direction + self.momentum * velocity[name] if self.nesterov else velocity[name]
            moved[name] = p - self._rate(name, state.step) * direction
        return moved, SGDState(state.step + 1, velocity)

    def _rate(self, name: str, step: int) -> Tensor | float:
        if self.learn is None:
            return self.lr
        if not self.rates:
            raise InputError(
                f"SGD(learn={self.learn!r}) does not know the parameters yet: call rule.prepare(params, steps) first, "
                "as every learner does"
            )
        rate: Tensor = self.rates["all" if self.learn in ("one", "step") else _key(name)]
        return rate[min(step, len(rate) - 1)] if self.learn in ("step", "tensor-step") else rate


def _key(name: str) -> str:
    """A parameter's name as a key of nn.ParameterDict, which forbids dots."""
    return name.replace(".", "/")
