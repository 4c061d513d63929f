"""RMSprop."""

from __future__ import annotations

from typing import NamedTuple

import torch

from kshot.functional import Params
from kshot.rules.descent import FREE, POSITIVE, SHARE, Descent, Learn, root


class RMSpropState(NamedTuple):
    """square: a running average of the gradient's square."""

    step: int
    square: Params
    velocity: Params


class RMSprop(Descent):
    """The gradient over a running average of its size: θ ← θ − lr · g / (√v + eps).

    Hinton 2012 (lecture 6e); torch.optim.RMSprop's update, differentiable, with its momentum.
    """

    NUMBERS = {"lr": FREE, "alpha": SHARE, "eps": POSITIVE, "momentum": SHARE, "weight_decay": FREE}  # noqa: RUF012

    def __init__(
        self,
        lr: float = 0.01,
        *,
        learn: Learn = None,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        clip: float | None = None,
    ) -> None:
        super().__init__(
            learn=learn, clip=clip, lr=lr, alpha=alpha, eps=eps, momentum=momentum, weight_decay=weight_decay
        )
        self._moving = momentum > 0
        self._decaying = weight_decay > 0 or "weight_decay" in self._grains

    def init(self, params: Params) -> RMSpropState:
        zeros = {name: torch.zeros_like(p) for name, p in params.items()}
        return RMSpropState(0, zeros, zeros if self._moving else {})

    def step(self, params: Params, grads: Params, state: RMSpropState) -> tuple[Params, RMSpropState]:
        moved: Params = {}
        after = RMSpropState(state.step + 1, {}, {})
        grads = self.clipped(grads, state.step)
        for name, p in params.items():
            lr, alpha, eps = (self.number(n, name, state.step) for n in ("lr", "alpha", "eps"))
            g = grads[name]
            if self._decaying:
                g = g + self.number("weight_decay", name, state.step) * p
            after.square[name] = alpha * state.square[name] + (1 - alpha) * g * g
            direction = g / (root(after.square[name]) + eps)
            if self._moving:
                after.velocity[name] = self.number("momentum", name, state.step) * state.velocity[name] + direction
                direction = after.velocity[name]
            moved[name] = p - lr * direction
        return moved, after
