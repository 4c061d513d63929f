"""The four-block convolutional network of the few-shot papers."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kshot.models.norm import Norm, normalization
from kshot.types import InputError, inside_transform


class Conv4(nn.Module):
    """Four blocks of 3×3 convolution, normalization, ReLU, halving; `head` is linear when `outputs` is given.

    Vinyals 2016, Snell 2017, Finn 2017. x [B, channels, size, size] -> [B, outputs] or the flat features [B, D].
    down: 'pool' (2×2 max) or 'stride' (2 in the convolution, cheaper; MAML's choice on Omniglot).
    norm: 'batch' (statistics of the batch at hand: transductive, no running ones), 'running' (keeps running ones too; the
    learner then needs a batch_norm policy), 'group' (8 groups), 'none'.
    halvings: how many blocks halve, from the first on. average: each map becomes its mean, D = width; MAML's choice on Omniglot.
    flat=False: the maps [B, width, h, w], for learners that compare maps.
    Initial weights: Xavier uniform for convolutions and head; biases zero; normalization scale one.
    """

    def __init__(
        self,
        outputs: int | None = None,
        *,
        width: int = 64,
        channels: int = 1,
        size: int = 28,
        down: Literal["pool", "stride"] = "pool",
        norm: Norm = "batch",
        halvings: int = 4,
        average: bool = False,
        flat: bool = True,
    ) -> None:
        super().__init__()
        if down not in ("pool", "stride"):
            raise InputError(f"down={down!r} is not known: choose 'pool' or 'stride'")
        check_sizes("Conv4", outputs=outputs, width=width, channels=channels, size=size)
        if not isinstance(halvings, int) or not 0 <= halvings <= 4:
            raise InputError(f"Conv4 has halvings={halvings!r}: it has four blocks, give a whole number from 0 to 4")
        if down == "pool" and size < 2**halvings:
            raise InputError(f"Conv4 halves {halvings} times: size={size} is too small, give at least {2**halvings}")
        if not flat and (outputs is not None or average):
            what = f"outputs={outputs}" if outputs is not None else "average=True"
            raise InputError(f"Conv4 has {what} and flat=False: that takes flat features, leave one of them out")
        self.outputs, self.width, self.channels, self.average = outputs, width, channels, average
        self.size, self.down, self.norm, self.halvings, self.flat = size, down, norm, halvings, flat
        blocks = [self._block(channels if i == 0 else width, halves=i < halvings) for i in range(4)]
        means = [nn.AdaptiveAvgPool2d(1)] if average else []
        self.body = nn.Sequential(*blocks, *means, *([nn.Flatten()] if flat else []))
        with torch.no_grad():
            self.features = self.body(torch.zeros(2, channels, size, size))[0].numel()
        self.head: nn.Module = nn.Identity() if outputs is None else nn.Linear(self.features, outputs)
        for m in self.modules():
            if isinstance(m, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)

    def _block(self, inputs: int, halves: bool) -> nn.Module:
        return nn.Sequential(
            (OneChannel if inputs == 1 else nn.Conv2d)(
                inputs, self.width, 3, padding=1, stride=2 if halves and self.down == "stride" else 1
            ),
            normalization(self.norm, self.width),
            nn.ReLU(),
            nn.MaxPool2d(2) if halves and self.down == "pool" else nn.Identity(),
        )

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.channels, self.size, "Conv4")
        out: Tensor = self.head(self.body(x))
        return out


class OneChannel(nn.Conv2d):
    """A 3×3 convolution of grey images, which a CPU does better as one product of matrices.

    The kernels for convolutions are made for many channels; and the product lays its maps out as the next ones want them.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.is_cuda:
            return super().forward(input)
        stride = int(self.stride[0])
        patches = F.pad(input[:, 0], (1, 1, 1, 1)).unfold(1, 3, stride).unfold(2, 3, stride)  # [B, h, w, 3, 3]
        examples, h, w = patches.shape[:3]
        weight = self.weight.reshape(self.out_channels, 9).t().contiguous()  # or its gradient is a slower product
        maps = F.linear(patches.reshape(-1, 9), weight.t(), self.bias)
        maps = maps.reshape(examples, h, w, self.out_channels).permute(0, 3, 1, 2)
        return maps.contiguous() if inside_transform() else maps  # where the layout may not be asked for


def check_sizes(model: str, **sizes: int | None) -> None:
    for name, value in sizes.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InputError(f"{model} has {name}={value!r}: its sizes are whole numbers, give at least 1")


def check_images(x: Tensor, channels: int, size: int, model: str) -> None:
    if x.shape[1:] != (channels, size, size):
        raise InputError(
            f"{model} was built for images of {channels} × {size} × {size} and was given a batch of shape {tuple(x.shape)}: "
            "bring the images to that shape, or build it with other channels= and size="
        )
