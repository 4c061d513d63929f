"""What the learners share that fit a linear head on the support by solving for it."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from kshot.functional import BatchNormPolicy
from kshot.learners.embedding import EmbeddingLearner, in_full_precision
from kshot.types import Batch, check_positive, one_hot


class LinearHead(EmbeddingLearner):
    """Fits W [D + 1, N] by `solve`, exactly; logits are scale · f(x)W. The encoder learns from the derivative of the solution.

    W is a combination of the support's features, W = XᵀA, so only A [S, N] is solved for: the cost grows with the support
    and not with D. Features are divided by √D, so that `penalty` means the same for any encoder, and a constant is added.
    penalty, scale: where they start; both are learned.
    """

    def __init__(self, encoder: nn.Module, *, penalty: float, scale: float, batch_norm: BatchNormPolicy) -> None:
        super().__init__(encoder, batch_norm)
        check_positive(type(self).__name__, penalty=penalty, scale=scale)
        self.penalty, self.scale = penalty, scale
        self.log_penalty = nn.Parameter(torch.tensor(math.log(penalty)))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    @abstractmethod
    def solve(self, kernel: Tensor, targets: Tensor) -> Tensor:
        """kernel [S, S] of inner products, targets [S, N], for classes 1 for the own one and 0 elsewhere -> A [S, N]."""

    def adapt(self, support: Batch) -> Tensor:
        """scale · W [D + 1, N]."""
        ways = self.ways(support)
        x = self.embed(support.x)
        with in_full_precision(x):
            return self.log_scale.exp() * (x.T @ self.solve(x @ x.T, one_hot(support.y, ways).to(x.dtype)))

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        x = self.embed(x)
        with in_full_precision(x):
            outputs: Tensor = torch.tensordot(x, fitted, 1)
        return outputs

    def embed(self, x: Tensor) -> Tensor:
        """x [S, *features] -> [S, D + 1]."""
        features = super().embed(x)
        return torch.cat([features / math.sqrt(features.shape[1]), torch.ones_like(features[:, :1])], 1)


def identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
