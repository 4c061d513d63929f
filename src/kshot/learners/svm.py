"""A support vector machine as the inner learner."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from kshot.functional import BatchNormPolicy
from kshot.learners.linear_head import LinearHead, identity

ITERATIONS = 40
SHRINK = 0.1  # of the distance from complementarity, each iteration
NEARLY = 0.99  # of the way to the nearest bound
CLOSE = 1e-9  # where it stops to shrink, as a share of what is maximized


class SVMHead(LinearHead):
    """The head is a multi-class support vector machine (Crammer, Singer 2001), solved to the optimum.

    Lee, Maji, Ravichandran, Soatto 2019, Meta-Learning with Differentiable Convex Optimization (MetaOptNet).
    Dual: min_A ½ tr(AᵀKA) − tr(AᵀY), A ≤ CY, the rows of A sum to 0, with C = 1 / penalty. An interior-point method runs
    without a graph; one more Newton step from where it ends, with the graph, carries the exact derivative of the optimum,
    as in LogisticHead. No solver of quadratic programs is needed. It works in float64, whatever the encoder does, and gets
    there while C times a squared norm of features is below about 1e8.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        penalty: float = 1.0,
        scale: float = 5.0,
        batch_norm: BatchNormPolicy = None,
    ) -> None:
        super().__init__(encoder, penalty=penalty, scale=scale, batch_norm=batch_norm)

    def solve(self, kernel: Tensor, targets: Tensor) -> Tensor:
        wide, y = kernel.double(), targets.double()
        c = 1 / self.log_penalty.double().exp()
        with torch.no_grad():
            at = _Point(c / y.shape[1] * torch.ones_like(y), torch.zeros_like(y[:, :1]), torch.ones_like(y))
            for _ in range(ITERATIONS):
                goal = torch.maximum(SHRINK * (at.price * at.slack).mean(), CLOSE * ((c * y - at.slack) * y).mean())
                at = _moved(at, _newton(at, wide, y, c, goal))
            goal = (at.price * at.slack).mean()
        return (c * y - at.slack - _newton(at, wide, y, c, goal).slack).to(kernel.dtype)


class _Point(NamedTuple):
    """slack: CY − A [S, N]; level: multipliers of the sums [S, 1]; price: of the bounds [S, N], above 0 like the slack.

    The slack is kept, and not A: near a bound the difference of two numbers of the size of C would be mostly rounding.
    """

    slack: Tensor
    level: Tensor
    price: Tensor


def _newton(at: _Point, kernel: Tensor, y: Tensor, c: Tensor, goal: Tensor) -> _Point:
    """The step towards KA − Y + price = level, rows of A sum to 0, price ⊙ slack = goal."""
    s, n = y.shape
    a = c * y - at.slack
    eye_n, eye_s = identity(y.new_zeros(n, n)), identity(kernel)
    block = torch.einsum("st,nm->sntm", kernel, eye_n).reshape(s * n, s * n) + torch.diag(
        (at.price / at.slack).reshape(-1)
    )
    sums = torch.einsum("st,n->snt", eye_s, y.new_ones(n)).reshape(s * n, s)
    system = torch.cat([torch.cat([block, sums], 1), torch.cat([sums.T, torch.zeros_like(kernel)], 1)])
    wanted = kernel @ a - y + goal / at.slack - at.level
    found = torch.linalg.solve(system, torch.cat([wanted.reshape(-1), a.sum(1)]))
    slack = found[: s * n].reshape(s, n)
    return _Point(slack, found[s * n :].unsqueeze(1), (goal - at.price * slack) / at.slack - at.price)


def _moved(at: _Point, step: _Point) -> _Point:
    """As far along the step as slack and prices stay above 0."""
    ends = [torch.where(move < 0, -x / move, torch.inf).amin() for x, move in zip(at[::2], step[::2], strict=True)]
    stride = (NEARLY * torch.minimum(*ends)).clamp(max=1.0)
    return _Point(*(before + stride * change for before, change in zip(at, step, strict=True)))
