"""The network that relation networks compare maps with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from kshot.models.conv4 import check_sizes
from kshot.models.norm import Norm, normalization
from kshot.types import InputError


class ConvRelation(nn.Module):
    """Two blocks of 3×3 convolution, normalization, ReLU, halving, then two linear maps to one score.

    Sung et al. 2018. x [B, 2 · channels, size, size], two maps side by side -> [B, 1]; channels: of one of them.
    """

    def __init__(
        self, *, channels: int = 64, size: int = 7, width: int = 64, hidden: int = 8, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        check_sizes("ConvRelation", channels=channels, size=size, width=width, hidden=hidden)
        if size < 4:
            raise InputError(f"ConvRelation halves twice: size={size} is too small, give at least 4")
        self.channels, self.size, self.width, self.hidden, self.norm = channels, size, width, hidden, norm
        self.body = nn.Sequential(*(self._block(2 * channels if i == 0 else width) for i in range(2)), nn.Flatten())
        places = (size // 2 // 2) ** 2
        self.head = nn.Sequential(nn.Linear(width * places, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def _block(self, inputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, self.width, 3, padding=1),
            normalization(self.norm, self.width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        self._check(2 * self.channels, x)
        out: Tensor = self.head(self.body(x))
        return out

    def of_all_pairs(self, firsts: Tensor, seconds: Tensor) -> Tensor:
        """firsts [N, C, h, w], seconds [M, C, h, w] -> [M · N, 1]: forward of each pair, for a fraction of the work.

        The first convolution, by far the largest, is a sum of what it makes of one map and of the other: once for each.
        """
        for maps in (firsts, seconds):
            self._check(self.channels, maps)
        first, *blocks = self.body.children()
        convolve, *rest = first.children()
        assert isinstance(convolve, nn.Conv2d)
        left, right = torch.chunk(convolve.weight, 2, dim=1)
        one = conv2d(firsts, left, padding=1)
        other = conv2d(seconds, right, convolve.bias, padding=1)
        x: Tensor = (one + other.unsqueeze(1)).flatten(0, 1)
        for layer in (*rest, *blocks, self.head):
            x = layer(x)
        return x

    def _check(self, channels: int, x: Tensor) -> None:
        wanted = (channels, self.size, self.size)
        if x.shape[1:] != wanted:
            what = "pairs of maps" if channels > self.channels else "maps"
            raise InputError(
                f"ConvRelation was built for {what} {wanted} and was given {tuple(x.shape[1:])}: build it with the channels= and "
                "size= of the encoder's maps, and the encoder with flat=False"
            )
