"""A recurrent network that reads how the learning goes, and says how to go on."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from kshot.functional import Params
from kshot.recurrent import LSTMCell, Memory
from kshot.rules.coordinates import flat, scaled, shaped
from kshot.rules.descent import root
from kshot.rules.rule import Rule
from kshot.types import InputError, check_positive, check_whole

REACH = 4.0  # a rate stays within e^±4 of lr


class StrategyState(NamedTuple):
    """memory: of the network, a row a tensor or a coordinate; last: the last gradients [P]; loss: before the coming step."""

    memory: Memory
    last: Tensor
    loss: Tensor


class StrategyNetwork(Rule):
    """A recurrent network reads parameters, gradients and losses step by step, and emits the rate or the update.

    emits: 'rate', θ ← θ − lr·eᵃ·∇L with one a for each tensor; 'update', θ ← θ − lr·(eᵃ·∇L + b) with a and b for each
    coordinate. All tensors, or all coordinates, share the network. It starts as gradient descent, a = b = 0.
    After Andrychowicz et al. 2016, Learning to Learn by Gradient Descent by Gradient Descent (whose network emits b alone
    and reads gradients alone), and Li, Malik 2017.
    """

    def __init__(self, lr: float = 0.1, *, emits: Literal["rate", "update"] = "rate", hidden: int = 20) -> None:
        super().__init__()
        check_positive("StrategyNetwork", lr=lr)
        if emits not in ("rate", "update"):
            raise InputError(f"StrategyNetwork has emits={emits!r}: choose 'rate' or 'update'")
        check_whole("StrategyNetwork", hidden=hidden)
        self.lr, self.emits, self.hidden = lr, emits, hidden
        self.reader = LSTMCell(8, hidden)
        self.speaker = nn.Linear(hidden, 1 if emits == "rate" else 2)
        nn.init.uniform_(self.speaker.weight, -0.01, 0.01)
        nn.init.zeros_(self.speaker.bias)

    def init(self, params: Params) -> StrategyState:
        theta = flat(params)
        rows = theta[: len(params)] if self.emits == "rate" else theta
        return StrategyState(self.reader.empty(rows), torch.zeros_like(theta), theta.new_zeros(()))

    def observe(self, state: StrategyState, loss: Tensor) -> StrategyState:
        return state._replace(loss=loss)

    def step(self, params: Params, grads: Params, state: StrategyState) -> tuple[Params, StrategyState]:
        theta, grad = flat(params), flat(grads)
        seen = [theta, grad, state.last]
        if self.emits == "rate":  # of each tensor: how large are θ and ∇L, and does ∇L still point where it did?
            sizes = [p.numel() for p in params.values()]

            def mean(x: Tensor) -> Tensor:
                return torch.stack([part.mean() for part in torch.split(x, sizes)])

            seen = [root(mean(theta * theta)), root(mean(grad * grad)), mean(grad * state.last)]
        loss = state.loss.expand_as(seen[0])
        memory = self.reader(torch.cat([scaled(x) for x in (*seen, loss)], -1), state.memory)
        words = self.speaker(memory[0])  # [rows, 1 or 2]
        rate = self.lr * (REACH * (words[:, 0] / REACH).tanh()).exp()
        if self.emits == "rate":
            moved = {name: p - rate[i] * grads[name] for i, (name, p) in enumerate(params.items())}
        else:
            moved = shaped(theta - rate * grad - self.lr * words[:, 1], params)
        return moved, StrategyState(memory, grad, state.loss)
