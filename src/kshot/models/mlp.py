"""The multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kshot.types import InputError


class MLP(nn.Module):
    """Linear layers with ReLU between: `body`, then `head` when `outputs` is given, else an encoder.

    x [B, *features] -> [B, outputs] or [B, hidden[-1]]; inputs: the number of features, all axes but the first flattened.
    Initial weights: He normal for the layers before a ReLU, Xavier uniform for the head; biases zero.
    """

    def __init__(self, inputs: int, hidden: Sequence[int] = (40, 40), outputs: int | None = None) -> None:
        super().__init__()
        self.inputs, self.hidden, self.outputs = inputs, list(hidden), outputs
        sizes = [inputs, *hidden]
        if min([*sizes, outputs or 1]) < 1:
            raise InputError(f"MLP has sizes {sizes} -> {outputs}: every layer needs at least one unit")
        layers: list[nn.Module] = []
        for before, after in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
            nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(layers[-2].bias)  # type: ignore[arg-type]
        self.body = nn.Sequential(*layers)
        self.head: nn.Module = nn.Identity()
        if outputs is not None:
            self.head = nn.Linear(sizes[-1], outputs)
            nn.init.xavier_uniform_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if x.shape[1] != self.inputs:
            raise InputError(
                f"MLP(inputs={self.inputs}) was given examples of {x.shape[1]} features: build it with inputs={x.shape[1]}"
            )
        out: Tensor = self.head(self.body(x))
        return out
