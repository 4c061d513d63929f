"""Normalization layers by name."""

from __future__ import annotations

from typing import Literal

from torch import nn

from kshot.types import InputError

Norm = Literal["batch", "group", "none"]


def normalization(norm: Norm, channels: int) -> nn.Module:
    """'batch' uses the statistics of the batch at hand and keeps no running ones; 'group' looks at one example alone."""
    if norm == "batch":
        return nn.BatchNorm2d(channels, track_running_stats=False)
    if norm == "group":
        groups = next(g for g in (8, 4, 2, 1) if channels % g == 0)
        return nn.GroupNorm(groups, channels)
    if norm == "none":
        return nn.Identity()
    raise InputError(f"norm={norm!r} is not known: choose 'batch', 'group' or 'none'")
