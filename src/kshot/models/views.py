"""Averaging over small warps of an image when it is embedded: test-time augmentation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kshot.models.conv4 import check_sizes
from kshot.types import InputError, seeded
from kshot.warps import draw_warps, warp


class Views(nn.Module):
    """In eval mode the mean of what `encoder` makes of an image and of `views - 1` warps of it; in training, `encoder` itself.

    The warps are the same for every image, those of `Episodes(warp=strength)`. Costs `views` times the encoder, at test only.
    x [B, channels, size, size] -> as the encoder.
    """

    warps: Tensor

    def __init__(self, encoder: nn.Module, *, views: int = 8, strength: float = 0.5) -> None:
        super().__init__()
        check_sizes("Views", views=views)
        if not isinstance(encoder, nn.Module):
            raise InputError(f"Views needs an nn.Module, found {type(encoder).__name__}: build the encoder first")
        if not isinstance(strength, int | float) or not strength > 0:
            raise InputError(f"Views has strength={strength!r}: give a positive number, such as 0.5")
        self.encoder, self.views, self.strength = encoder, views, strength
        drawn = draw_warps((views,), strength, seeded(0))
        drawn[0] = torch.eye(2, 3)  # the image itself
        self.register_buffer("warps", drawn, persistent=False)
        if isinstance(features := getattr(encoder, "features", None), int):
            self.features = features

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            found: Tensor = self.encoder(x)
            return found
        seen = warp(x.expand(self.views, *x.shape), self.warps[:, None].expand(-1, len(x), -1, -1))
        every: Tensor = self.encoder(seen.flatten(0, 1))
        return every.reshape(self.views, len(x), *every.shape[1:]).mean(0)
