"""The twelve-layer residual network of the later few-shot papers."""

from __future__ import annotations

from torch import Tensor, nn

from kshot.models.conv4 import check_images, check_sizes
from kshot.models.norm import Norm, normalization
from kshot.types import InputError


class ResNet12(nn.Module):
    """Four residual blocks of three 3×3 convolutions, each halved by max-pooling, then the mean over places.

    Lee, Maji, Ravichandran, Soatto 2019 (MetaOptNet). x [B, channels, size, size] -> [B, outputs] or [B, widths[3]].
    Initial weights: He normal (fan out, leaky ReLU 0.1) for convolutions; head as nn.Linear; normalization scale one.
    Differs: no DropBlock.
    """

    def __init__(
        self,
        outputs: int | None = None,
        *,
        widths: tuple[int, int, int, int] = (64, 160, 320, 640),
        channels: int = 3,
        size: int = 84,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        if len(widths) != 4:
            raise InputError(f"ResNet12 has four blocks and widths={widths} names {len(widths)}: give four widths")
        check_sizes("ResNet12", outputs=outputs, width=min(widths), channels=channels, size=size)
        if size < 16:
            raise InputError(f"ResNet12 halves four times: size={size} is too small, give at least 16")
        self.outputs, self.widths, self.channels, self.size, self.norm = outputs, tuple(widths), channels, size, norm
        inputs = (channels, *widths[:3])
        self.body = nn.Sequential(
            *(_Block(i, o, norm) for i, o in zip(inputs, widths, strict=True)), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.features = widths[3]
        self.head: nn.Module = nn.Identity() if outputs is None else nn.Linear(self.features, outputs)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, a=0.1, mode="fan_out", nonlinearity="leaky_relu")

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.channels, self.size, "ResNet12")
        out: Tensor = self.head(self.body(x))
        return out


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [
                nn.Conv2d(inputs if i == 0 else outputs, outputs, 3, padding=1, bias=False),
                normalization(norm, outputs),
                nn.LeakyReLU(0.1),
            ]
        self.path = nn.Sequential(*layers[:-1])
        self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), normalization(norm, outputs))
        self.end = nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.end(self.path(x) + self.skip(x))
        return out
