"""Normalization layers by name."""

from __future__ import annotations

from typing import Literal

from torch import nn

from kshot.types import InputError

Norm = Literal["batch", "running", "group", "none"]


def normalization(norm: Norm, channels: int) -> nn.Module:
    """'batch' uses the statistics of the batch at hand; 'running' keeps running ones too; 'group' looks at one example alone."""
    if norm in ("batch", "running"):
        return nn.BatchNorm2d(channels, track_running_stats=norm == "running")
    if norm == "group":
        groups = next(g for g in (8, 4, 2, 1) if channels % g == 0)
        return nn.GroupNorm(groups, channels)
    if norm == "none":
        return nn.Identity()
    raise InputError(f"norm={norm!r} is not known: choose 'batch', 'running', 'group' or 'none'")
