"""The average of the weights over the last steps, which often learns new tasks better than the last weights do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class Average:
    """An exponential average (after Polyak, Juditsky 1992) of parameters, and of what is tracked beside them."""

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.parameters = [p.detach() for p in parameters]
        self.decay = decay
        self.weights: list[Tensor] = [p.clone() for p in self.parameters]

    def follow(self, step: int) -> None:
        """Take in the weights after `step` steps. Early on fewer are averaged, so that the first soon count for nothing."""
        decay = min(self.decay, step / (10 + step))
        torch._foreach_lerp_(self.weights, self.parameters, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it, the parameters are the average."""
        last = [p.clone() for p in self.parameters]
        torch._foreach_copy_(self.parameters, self.weights)
        try:
            yield
        finally:
            torch._foreach_copy_(self.parameters, last)
