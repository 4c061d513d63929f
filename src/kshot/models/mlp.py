"""The multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from kshot.types import InputError


class MLP(nn.Module):
    """Linear layers with ReLU between: `body`, then `head` when `outputs` is given, else an encoder.

    x [B, *features] -> [B, outputs] or [B, hidden[-1]]; inputs: the number of features, all axes but the first flattened.
    Initial weights: those of nn.Linear, uniform in ±1/√inputs, biases too.
    """

    def __init__(self, inputs: int, hidden: Sequence[int] = (40, 40), outputs: int | None = None) -> None:
        super().__init__()
        self.inputs, self.hidden, self.outputs = inputs, list(hidden), outputs
        sizes = [inputs, *hidden]
        if not all(isinstance(size, int) and size >= 1 for size in [*sizes, 1 if outputs is None else outputs]):
            raise InputError(f"MLP has sizes {sizes} -> {outputs!r}: every layer needs at least one unit")
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.features = sizes[-1]
        self.head: nn.Module = nn.Identity() if outputs is None else nn.Linear(sizes[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if x.shape[1] != self.inputs:
            raise InputError(
                f"MLP(inputs={self.inputs}) was given examples of {x.shape[1]} features: build it with inputs={x.shape[1]}"
            )
        out: Tensor = self.head(self.body(x))
        return out
