"""Ridge regression as the inner learner."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kshot.functional import BatchNormPolicy
from kshot.learner import Criterion, mse_loss, named_loss
from kshot.learners.embedding import in_full_precision
from kshot.learners.linear_head import LinearHead, identity
from kshot.types import Batch, check_support


class RidgeNet(LinearHead):
    """The head is a ridge regression, in closed form: W = Xᵀ(XXᵀ + λI)⁻¹Y.

    Bertinetto, Henriques, Torr, Vedaldi 2019, Meta-learning with Differentiable Closed-form Solvers (R2D2).
    For classes Y is one-hot and the logits are scale · f(x)W; for regression (loss='mse') Y is the values, and f(x)W the
    answer. Differs: no learned shift of the logits, which softmax does not see.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        penalty: float = 1.0,
        scale: float = 10.0,
        loss: Criterion | str = cross_entropy,
        batch_norm: BatchNormPolicy = None,
    ) -> None:
        super().__init__(encoder, penalty=penalty, scale=scale, batch_norm=batch_norm)
        self.criterion = named_loss(loss)
        if self.criterion is mse_loss:
            self.log_scale.requires_grad_(False)  # values are not scaled

    def adapt(self, support: Batch) -> Tensor:
        """scale · W [D + 1, N] for classes, W [D + 1, *targets] for values."""
        if support.ways is not None or self.criterion is cross_entropy:
            return super().adapt(support)
        check_support(support)
        x = self.embed(support.x)
        with in_full_precision(x):
            solved = x.T @ self.solve(x @ x.T, support.y.reshape(len(x), -1))
        return solved.reshape(x.shape[1], *support.y.shape[1:])

    def solve(self, kernel: Tensor, targets: Tensor) -> Tensor:
        solved: Tensor = torch.linalg.solve(kernel + self.log_penalty.exp() * identity(kernel), targets)
        return solved
