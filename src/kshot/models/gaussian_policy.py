"""A policy for continuous actions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from kshot.types import InputError


class GaussianPolicy(nn.Module):
    """Linear layers with tanh between, for the means of the actions; one learned log-deviation an action, whatever is observed.

    x [B, observations] -> [B, 2 · actions]: means, then logarithms of the standard deviations. Parameters: `body`, `head`,
    `log_std`. std: the first standard deviation of every action.
    """

    def __init__(self, observations: int, actions: int, hidden: Sequence[int] = (64, 64), *, std: float = 1.0) -> None:
        super().__init__()
        self.observations, self.actions, self.hidden, self.std = observations, actions, list(hidden), std
        sizes = [observations, *hidden, actions]
        if not all(isinstance(size, int) and size >= 1 for size in sizes):
            raise InputError(f"GaussianPolicy has sizes {sizes}: every layer needs at least one unit")
        if not isinstance(std, int | float) or not 0 < std < math.inf:
            raise InputError(f"GaussianPolicy has std={std!r}: give a positive standard deviation, such as 1.0")
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes[:-1]):
            layers += [nn.Linear(before, after), nn.Tanh()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(sizes[-2], actions)
        with (
            torch.no_grad()
        ):  # so that at first the agent prefers nothing: a preferred direction leads it astray at once
            self.head.weight.mul_(0.01)
            self.head.bias.zero_()
        self.log_std = nn.Parameter(torch.full((actions,), math.log(std)))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != (self.observations,):
            raise InputError(
                f"GaussianPolicy(observations={self.observations}) was given observations of shape {tuple(x.shape[1:])}: "
                f"build it with observations={x.shape[-1]}"
            )
        mean = self.head(self.body(x))
        return torch.cat([mean, self.log_std.expand_as(mean)], -1)
