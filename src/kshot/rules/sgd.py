"""Gradient descent, with and without momentum."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from kshot.functional import Params
from kshot.rules.descent import FREE, SHARE, Descent, Learn
from kshot.types import InputError


class SGDState(NamedTuple):
    step: int
    velocity: Params


class SGD(Descent):
    """Gradient descent, with numbers that can themselves be learned.

    θ ← θ − lr · v,  v ← momentum · v + ∇L + weight_decay · θ: torch.optim.SGD's update, differentiable.
    learn='parameter' is Meta-SGD (Li 2017), 'tensor-step' is MAML++'s (Antoniou 2019); learned rates may become negative.
    """

    NUMBERS = {"lr": FREE, "momentum": SHARE, "weight_decay": FREE}  # noqa: RUF012 (a constant of the class)

    def __init__(
        self,
        lr: float = 0.01,
        *,
        learn: Learn = None,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        clip: float | None = None,
    ) -> None:
        super().__init__(learn=learn, clip=clip, lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and momentum == 0:
            raise InputError("SGD has nesterov=True and momentum=0: give a momentum, such as 0.9")
        self.nesterov = nesterov
        self._moving = momentum > 0
        self._decaying = weight_decay > 0 or "weight_decay" in self._grains

    def init(self, params: Params) -> SGDState:
        return SGDState(0, {name: torch.zeros_like(p) for name, p in params.items()} if self._moving else {})

    def step(self, params: Params, grads: Params, state: SGDState) -> tuple[Params, SGDState]:
        moved, velocity = {}, {}
        grads = self.clipped(grads, state.step)
        for name, p in params.items():
            direction = grads[name]
            if self._decaying:
                direction = direction + self.number("weight_decay", name, state.step) * p
            if self._moving:
                momentum = self.number("momentum", name, state.step)
                velocity[name] = momentum * state.velocity[name] + direction
                direction = direction + momentum * velocity[name] if self.nesterov else velocity[name]
            moved[name] = p - self.number("lr", name, state.step) * direction
        return moved, SGDState(state.step + 1, velocity)


def Momentum(lr: float = 0.01, *, momentum: float = 0.9, **choices: Any) -> SGD:
    """Gradient descent with a velocity (Polyak 1964); nesterov=True looks ahead (Nesterov 1983)."""
    return SGD(lr, momentum=momentum, **choices)
