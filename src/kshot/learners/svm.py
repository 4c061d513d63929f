"""A support vector machine as the inner learner."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kshot.functional import BatchNormPolicy
from kshot.learners.linear_head import LinearHead, identity

APPROACH = 200  # accelerated projected gradient steps, which find about which constraints hold
ACTIVE_SETS = 12  # exact solves, each for the constraints that the one before it shows to hold
JITTER = 1e-6  # of the kernel's mean diagonal: makes the solution unique where examples outnumber features


class SVMHead(LinearHead):
    """The head is a multi-class support vector machine (Crammer, Singer 2001), solved to the optimum.

    Lee, Maji, Ravichandran, Soatto 2019, Meta-Learning with Differentiable Convex Optimization (MetaOptNet).
    Dual: min_A ½ tr(AᵀKA) − tr(AᵀY), A ≤ CY, the rows of A sum to 0, with C = 1 / penalty. Which bounds hold with equality
    is found without a graph; given these, the optimum is the solution of one linear system, and its derivative that of the
    optimum. No solver of quadratic programs is needed.
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
        kernel = kernel + JITTER * kernel.diagonal().mean() * identity(kernel)
        bound = targets / self.log_penalty.exp()  # CY
        with torch.no_grad():
            a, level = _approached(kernel, targets, bound)
            for _ in range(ACTIVE_SETS):
                free = _free(a, level, kernel, targets, bound)
                a, level = _solved(free, kernel, targets, bound)
            free = _free(a, level, kernel, targets, bound)
        return _solved(free, kernel, targets, bound)[0]


def _approached(kernel: Tensor, targets: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """A near the optimum, and the level ν [S, 1] of the gradient among a row's free entries."""
    stride = 1 / kernel.square().sum().sqrt()  # one over a bound of the largest eigenvalue
    a = before = torch.zeros_like(targets)
    for i in range(APPROACH):
        ahead = a + i / (i + 3) * (a - before)
        before, a = (
            a,
            bound - _on_simplex(bound - ahead + stride * (kernel @ ahead - targets), bound.sum(1, keepdim=True)),
        )
    gradient = kernel @ a - targets
    inside = (bound - a > 1e-6 * bound.amax()).to(a.dtype)
    return a, (gradient * inside).sum(1, keepdim=True) / inside.sum(1, keepdim=True).clamp(min=1)


def _on_simplex(x: Tensor, total: Tensor) -> Tensor:
    """The nearest rows to x [S, N] that are at least 0 and sum to `total` [S, 1]."""
    ordered = x.sort(1, descending=True).values
    count = torch.arange(1, x.shape[1] + 1, dtype=x.dtype, device=x.device)
    shift = (ordered.cumsum(1) - total) / count  # [S, N]: what to subtract, were the first k entries the positive ones
    shift = torch.where(ordered > shift, shift, -torch.inf).amax(1, keepdim=True)
    return (x - shift).clamp(min=0)


def _free(a: Tensor, level: Tensor, kernel: Tensor, targets: Tensor, bound: Tensor) -> Tensor:
    """Where A is below its bound: [S, N], at least one a row, because a row of bound − A sums to C."""
    slack, price = bound - a, level - (kernel @ a - targets)
    excess = slack - price
    return (excess > 0) | (excess == excess.amax(1, keepdim=True))


def _solved(free: Tensor, kernel: Tensor, targets: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """A and ν of: (KA − Y) = ν where free, A = bound elsewhere, rows of A sum to 0."""
    s, n = targets.shape
    move = free.to(kernel.dtype)
    eye_n, eye_s = identity(targets), identity(kernel)
    rows = torch.einsum("sn,st,nm->sntm", move, kernel, eye_n) + torch.einsum("sn,st,nm->sntm", 1 - move, eye_s, eye_n)
    levels = -torch.einsum("sn,st->snt", move, eye_s)
    sums = eye_s.unsqueeze(-1).expand(s, s, n)
    system = torch.cat(
        [
            torch.cat([rows.reshape(s * n, s * n), levels.reshape(s * n, s)], 1),
            torch.cat([sums.reshape(s, s * n), torch.zeros_like(kernel)], 1),
        ]
    )
    wanted = torch.cat([(move * targets + (1 - move) * bound).reshape(s * n), torch.zeros_like(kernel[0])])
    solution = torch.linalg.solve(system, wanted)
    return solution[: s * n].reshape(s, n), solution[s * n :].unsqueeze(1)
