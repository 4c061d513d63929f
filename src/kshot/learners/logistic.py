"""Logistic regression as the inner learner."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kshot.functional import BatchNormPolicy
from kshot.learners.linear_head import LinearHead, identity
from kshot.types import one_hot

ITERATIONS = 15  # Newton's method doubles the right digits with each
STRIDES = (1.0, 0.5, 0.25, 0.1, 0.02)


class LogisticHead(LinearHead):
    """The head is a multinomial logistic regression, solved to the optimum: min_W Σ cross entropy + λ/2 ‖W‖².

    Bertinetto et al. 2019 (LR-D2, there for two classes and a fixed number of steps); Lee et al. 2019 (convex heads).
    Newton's method runs without a graph, 15 times and in float64; one more step from there, with the graph, carries the
    exact derivative of the optimum, because at the optimum a Newton step does not depend on where it starts.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        penalty: float = 0.1,
        scale: float = 1.0,
        batch_norm: BatchNormPolicy = None,
    ) -> None:
        super().__init__(encoder, penalty=penalty, scale=scale, batch_norm=batch_norm)

    def solve(self, kernel: Tensor, targets: Tensor) -> Tensor:
        wide, y, penalty = kernel.double(), targets.double(), self.log_penalty.double().exp()
        with torch.no_grad():
            best = torch.zeros_like(y)
            for _ in range(ITERATIONS):
                best = self._descended(best, _newton(best, wide, y, penalty), wide, y, penalty)
        best = best.detach()
        return (best + _newton(best, wide, y, penalty)).to(kernel.dtype)

    @staticmethod
    def _descended(a: Tensor, step: Tensor, kernel: Tensor, targets: Tensor, penalty: Tensor) -> Tensor:
        """The best of some strides along the step: far from the optimum a whole one may be too long."""
        tried = torch.stack([a + stride * step for stride in STRIDES])  # [strides, S, N]
        logits = kernel @ tried
        cost = -(logits.log_softmax(-1) * targets).sum((-1, -2)) + penalty / 2 * (tried * logits).sum((-1, -2))
        best = one_hot(cost.argmin(), len(STRIDES)).to(cost.dtype)  # an index that is data would not pass vmap
        return torch.einsum("k,ksn->sn", best, tried)


def _newton(a: Tensor, kernel: Tensor, targets: Tensor, penalty: Tensor) -> Tensor:
    """The step of A [S, N]: with logits KA and probabilities P, solve (B·K + λI) step = Y − P − λA, B = diag(p) − ppᵀ a row."""
    chances = (kernel @ a).softmax(-1)  # [S, N]
    s, n = chances.shape
    spread = torch.diag_embed(chances) - chances.unsqueeze(-1) * chances.unsqueeze(-2)  # [S, N, N]
    system = torch.einsum("snm,st->sntm", spread, kernel).reshape(s * n, s * n)
    system = system + penalty * identity(system)
    step: Tensor = torch.linalg.solve(system, (targets - chances - penalty * a).reshape(s * n))
    return step.reshape(s, n)
