"""An LSTM whose cell state is the parameters."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kshot.functional import Params
from kshot.recurrent import LSTMCell, Memory
from kshot.rules.coordinates import flat, scaled, shaped
from kshot.rules.rule import Rule
from kshot.types import InputError, check_whole


class LSTMState(NamedTuple):
    """memory: of the lower LSTM, [P, H] each; forget, enter: the last gates [P]; loss: before the coming step."""

    memory: Memory
    forget: Tensor
    enter: Tensor
    loss: Tensor


class LSTMRule(Rule):
    """An LSTM whose cell state is the parameters: θ ← f ⊙ θ − i ⊙ ∇L, with the gates f and i learned.

    Ravi, Larochelle 2017, Optimization as a Model for Few-Shot Learning. A lower LSTM reads gradient and loss of each
    coordinate, scaled as in the paper; the gates read it, θ and their own last value; all coordinates share all weights.
    It starts near gradient descent: i ≈ lr, f ≈ keep. The paper takes gradients and losses as constants, which is
    hypergradient='first-order'; 'unrolled' differentiates through them too.
    """

    def __init__(self, lr: float = 0.1, *, keep: float = 0.9999, hidden: int = 20) -> None:
        super().__init__()
        for name, value in (("lr", lr), ("keep", keep)):
            if not isinstance(value, int | float) or not 0 < value < 1:
                raise InputError(f"LSTMRule has {name}={value!r}: a gate lies between 0 and 1, give such a number")
        check_whole("LSTMRule", hidden=hidden)
        self.lr, self.keep, self.hidden = lr, keep, hidden
        self.reader = LSTMCell(4, hidden)
        self.forget = _gate(hidden, math.log(keep / (1 - keep)))
        self.enter = _gate(hidden, math.log(lr / (1 - lr)))

    def init(self, params: Params) -> LSTMState:
        theta = flat(params)
        zero = torch.zeros_like(theta)
        return LSTMState(self.reader.empty(theta), zero, zero, theta.new_zeros(()))

    def observe(self, state: LSTMState, loss: Tensor) -> LSTMState:
        return state._replace(loss=loss)

    def step(self, params: Params, grads: Params, state: LSTMState) -> tuple[Params, LSTMState]:
        theta, grad = flat(params), flat(grads)
        memory = self.reader(torch.cat([scaled(grad), scaled(state.loss.expand_as(grad))], -1), state.memory)

        def gate(weights: nn.Linear, before: Tensor) -> Tensor:
            seen = torch.cat([memory[0], theta.unsqueeze(-1), before.unsqueeze(-1)], -1)  # [P, H + 2]
            opened: Tensor = weights(seen).squeeze(-1).sigmoid()
            return opened

        forget, enter = gate(self.forget, state.forget), gate(self.enter, state.enter)
        return shaped(forget * theta - enter * grad, params), LSTMState(memory, forget, enter, state.loss)


def _gate(hidden: int, bias: float) -> nn.Linear:
    """Almost its bias at first, whatever it reads."""
    gate = nn.Linear(hidden + 2, 1)
    nn.init.uniform_(gate.weight, -0.01, 0.01)
    nn.init.constant_(gate.bias, bias)
    return gate
