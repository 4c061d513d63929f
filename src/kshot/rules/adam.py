"""Adam, with coupled or decoupled weight decay."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kshot.functional import Params
from kshot.rules.descent import FREE, POSITIVE, SHARE, Descent, Learn, root
from kshot.types import InputError


class AdamState(NamedTuple):
    """mean, square: running averages of the gradient and of its square; left1, left2: the product of each beta so far."""

    step: int
    mean: Params
    square: Params
    left1: dict[str, Tensor | float]
    left2: dict[str, Tensor | float]


class Adam(Descent):
    """Steps of a size that does not depend on the gradient's: θ ← θ − lr · m̂ / (√v̂ + eps).

    Kingma, Ba 2015; torch.optim.Adam's update, differentiable. decoupled: weight decay acts on θ alone, as in AdamW
    (Loshchilov, Hutter 2019), and not on the gradient.
    """

    NUMBERS = {"lr": FREE, "beta1": SHARE, "beta2": SHARE, "eps": POSITIVE, "weight_decay": FREE}  # noqa: RUF012

    def __init__(
        self,
        lr: float = 0.001,
        *,
        learn: Learn = None,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        clip: float | None = None,
    ) -> None:
        if not isinstance(decoupled, bool):
            raise InputError(f"Adam has decoupled={decoupled!r}: give True or False")
        super().__init__(learn=learn, clip=clip, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)
        self.decoupled = decoupled
        self._decaying = weight_decay > 0 or "weight_decay" in self._grains

    def init(self, params: Params) -> AdamState:
        zeros = {name: torch.zeros_like(p) for name, p in params.items()}
        return AdamState(0, zeros, zeros, dict.fromkeys(params, 1.0), dict.fromkeys(params, 1.0))

    def step(self, params: Params, grads: Params, state: AdamState) -> tuple[Params, AdamState]:
        moved: Params = {}
        after = AdamState(state.step + 1, {}, {}, {}, {})
        grads = self.clipped(grads, state.step)
        for name, p in params.items():
            lr, b1, b2, eps = (self.number(n, name, state.step) for n in ("lr", "beta1", "beta2", "eps"))
            g = grads[name]
            if self._decaying:
                decay = self.number("weight_decay", name, state.step)
                if self.decoupled:
                    p = p - lr * decay * p
                else:
                    g = g + decay * p
            after.mean[name] = b1 * state.mean[name] + (1 - b1) * g
            after.square[name] = b2 * state.square[name] + (1 - b2) * g * g
            after.left1[name], after.left2[name] = b1 * state.left1[name], b2 * state.left2[name]
            spread = root(after.square[name]) / (1 - after.left2[name]) ** 0.5
            moved[name] = p - lr / (1 - after.left1[name]) * after.mean[name] / (spread + eps)
        return moved, after


def AdamW(lr: float = 0.001, *, weight_decay: float = 0.01, **choices: Any) -> Adam:
    """Adam with decoupled weight decay (Loshchilov, Hutter 2019)."""
    if "decoupled" in choices:
        raise InputError("AdamW is Adam with decoupled=True: leave decoupled= out, or take Adam and give it")
    return Adam(lr, weight_decay=weight_decay, decoupled=True, **choices)
