"""All parameters as one long list of numbers, for rules that are networks shared by every coordinate.

P: numbers in all tensors together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kshot.functional import Params


def flat(params: Params) -> Tensor:
    """[P], in the order of the names."""
    return torch.cat([p.reshape(-1) for p in params.values()])


def shaped(numbers: Tensor, like: Params) -> Params:
    """The inverse of flat."""
    parts = torch.split(numbers, [p.numel() for p in like.values()])
    return {name: part.reshape(p.shape) for (name, p), part in zip(like.items(), parts, strict=True)}


def scaled(x: Tensor, p: float = 10.0) -> Tensor:
    """[*] -> [*, 2]: size and sign of numbers of any magnitude (Andrychowicz et al. 2016, appendix A).

    (log|x| / p, sign x) where |x| ≥ e⁻ᵖ, and (−1, eᵖx) for what is smaller.
    """
    large = x.abs() >= math.exp(-p)
    size = torch.where(large, torch.where(large, x.abs(), 1.0).log() / p, -1.0)
    return torch.stack([size, torch.where(large, x.sign(), math.exp(p) * x)], -1)
