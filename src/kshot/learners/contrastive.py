"""Siamese networks: an embedding trained on pairs or triplets."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, relu

from kshot.functional import BatchNormPolicy
from kshot.learners.embedding import EmbeddingLearner, in_full_precision
from kshot.rules.descent import root
from kshot.types import Batch, InputError, Task, check_positive, one_hot


class Remembered(NamedTuple):
    """embedded: [S, D]; members: [S, N], whether an example is of a class."""

    embedded: Tensor
    members: Tensor


class ContrastiveNet(EmbeddingLearner):
    """Pull examples of one class together and push others apart; a query belongs to the class of its nearest neighbour.

    Chopra, Hadsell, LeCun 2005; Koch, Zemel, Salakhutdinov 2015, Siamese Neural Networks for One-shot Image Recognition.
    objective: 'contrastive', the mean over pairs of d² where the class is one, and of max(0, margin − d)² where there are
    two, each half of it (Hadsell, Chopra, LeCun 2006); 'triplet', the mean of max(0, d(a, p) − d(a, n) + margin) over the
    triplets where it is above 0 (Schroff, Kalenichenko, Philbin 2015). All examples of a task make pairs and triplets.
    distance: 'euclidean', divided by √D, so that `margin` means the same for any encoder, or 'cosine', 1 − cos.
    Differs: any encoder, and no layer is learned on top of the distance; triplets by the distance, not by its square, of
    vectors that are not brought to length 1. Logits are −10 d, whose order alone means something.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        objective: Literal["contrastive", "triplet"] = "contrastive",
        distance: Literal["euclidean", "cosine"] = "euclidean",
        margin: float = 1.0,
        batch_norm: BatchNormPolicy = None,
    ) -> None:
        super().__init__(encoder, batch_norm)
        for name, value, known in (
            ("objective", objective, ("contrastive", "triplet")),
            ("distance", distance, ("euclidean", "cosine")),
        ):
            if value not in known:
                raise InputError(f"{name}={value!r} is not known: choose {' or '.join(map(repr, known))}")
        check_positive("ContrastiveNet", margin=margin)
        self.objective, self.distance, self.margin = objective, distance, margin

    def adapt(self, support: Batch) -> Remembered:
        ways = self.ways(support)
        return Remembered(self.embed(support.x), one_hot(support.y, ways).bool())

    def predict(self, fitted: Remembered, x: Tensor) -> Tensor:
        apart = self.distances(self.embed(x), fitted.embedded).unsqueeze(-1)  # [Q, S, 1]
        return -10 * apart.masked_fill(~fitted.members, torch.inf).amin(1)

    def loss(self, task: Task) -> Tensor:
        y = torch.cat([task.support.y, task.query.y])
        embedded = torch.cat([self.adapt(task.support).embedded, self.embed(task.query.x)])
        apart = self.distances(embedded, embedded)  # [M, M]
        other = y.unsqueeze(1) != y
        same = ~other & ~torch.eye(len(y), dtype=torch.bool, device=y.device)
        if self.objective == "contrastive":
            return (mean(apart.square(), same) + mean(relu(self.margin - apart).square(), other)) / 2
        excess = relu(apart.unsqueeze(2) - apart.unsqueeze(1) + self.margin)  # [anchor, positive, negative]
        return mean(excess, same.unsqueeze(2) & other.unsqueeze(1) & (excess > 0))

    def distances(self, a: Tensor, b: Tensor) -> Tensor:
        """a [A, D], b [B, D] -> [A, B]."""
        if self.distance == "cosine":
            with in_full_precision(a):
                return 1 - normalize(a, dim=-1) @ normalize(b, dim=-1).T
        return root((a.unsqueeze(1) - b).square().mean(-1))


def mean(x: Tensor, where: Tensor) -> Tensor:
    """Of the entries that count; 0 where none does."""
    return (x * where).sum() / where.sum().clamp(min=1)
