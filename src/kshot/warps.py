"""Small random affine warps of images: other drawings of the same class, for training.

Axes: B images, C channels, s their side.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# What strength 1 reaches, in both directions.
TURN = math.radians(10)
SHEAR = 0.1
SCALE = 0.1  # of log size
SHIFT = 0.1  # of the image's side


def draw_warps(count: tuple[int, ...], strength: float, generator: torch.Generator) -> Tensor:
    """[*count, 2, 3]: from places in the warped image to places in the image, both in -1..1."""
    turn, shear, wide, tall, right, down = strength * (2 * torch.rand(6, *count, generator=generator) - 1)
    cos, sin = torch.cos(TURN * turn), torch.sin(TURN * turn)
    x, y = torch.exp(SCALE * wide), torch.exp(SCALE * tall)
    rows = torch.stack([x * cos, y * (SHEAR * shear - sin), 2 * SHIFT * right, x * sin, y * cos, 2 * SHIFT * down], -1)
    return rows.reshape(*count, 2, 3)


def draw_class_warps(count: tuple[int, ...], strength: float, generator: torch.Generator) -> Tensor:
    """[*count, 2, 3]: warps without a shift, every second one mirrored, that make a class another class."""
    warps = draw_warps(count, strength, generator)
    warps[..., 2] = 0
    mirrored = torch.rand(count, generator=generator) < 0.5
    warps[..., 0] *= 1 - 2 * mirrored.unsqueeze(-1).to(warps.dtype)
    return warps


def one_after_another(first: Tensor, then: Tensor) -> Tensor:
    """The one warp [*, 2, 3] that does to an image what `first` does, and to the outcome what `then` does."""
    turned, shifted = first[..., :2] @ then[..., :2], first[..., :2] @ then[..., 2:] + first[..., 2:]
    return torch.cat([turned, shifted], -1)


def warp(images: Tensor, warps: Tensor) -> Tensor:
    """images [*, C, s, s], warps [*, 2, 3] -> images; what comes in from outside is 0."""
    flat = images.flatten(0, -4)
    places = F.affine_grid(warps.flatten(0, -3).to(flat), list(flat.shape), align_corners=False)
    return F.grid_sample(flat, places, align_corners=False).reshape(images.shape)
