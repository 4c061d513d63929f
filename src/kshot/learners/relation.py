"""Relation networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kshot.functional import BatchNormPolicy, call, check_batch_norm, run, uses_batch_statistics
from kshot.learner import Criterion
from kshot.learners.embedding import EmbeddingLearner, width
from kshot.learners.prototypes import class_means
from kshot.types import Batch, InputError, check_whole


class RelationNet(EmbeddingLearner):
    """A network compares a query with each class, and is itself learned: the metric is not chosen.

    Sung, Yang, Zhang, Xiang, Torr, Hospedales 2018, Learning to Compare: Relation Network for Few-Shot Learning.
    relation: a module that gives a score [B, 1] for pairs of embeddings, side by side [B, 2D], or, where the encoder gives
    maps [S, C, H, W], as [B, 2C, H, W] (the paper's way; kshot.models.ConvRelation). Default: a layer of `hidden` units. One
    with a method of_all_pairs(classes, queries) is asked for all scores at once.
    Differs: trained by the cross entropy of the scores; the paper's squared error of the scores, squeezed to 0..1, against 1
    for the right class and 0 for the others is loss='squared_scores', and for a long time predicts the same for every
    query. A class is the mean of its examples; the paper takes their sum.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        relation: nn.Module | None = None,
        hidden: int = 128,
        loss: Criterion | str = cross_entropy,
        batch_norm: BatchNormPolicy = None,
    ) -> None:
        super().__init__(encoder, batch_norm, loss)
        check_whole("RelationNet", hidden=hidden)
        self._default = relation is None
        if relation is None:
            relation = nn.Sequential(nn.Linear(2 * width(encoder), hidden), nn.ReLU(), nn.Linear(hidden, 1))
        check_batch_norm(relation, None if batch_norm == "tracked" else batch_norm)  # only the encoder's are tracked
        self.compare, self.hidden = relation, hidden
        if self._default:
            self.like_encoder()

    @property
    def relation(self) -> nn.Module | None:
        """The argument."""
        return None if self._default else self.compare

    def adapt(self, support: Batch) -> Tensor:
        """Class means [N, D] or [N, C, H, W]."""
        ways = self.ways(support)
        encoded = self.encode(support.x)
        return class_means(encoded.flatten(1), support.y, ways).reshape(ways, *encoded.shape[1:])

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        query, ways = self.encode(x), len(fitted)
        pairs = len(query) * ways
        if hasattr(self.compare, "of_all_pairs"):
            scores: Tensor = run(self.compare, {}, (fitted, query), batch_norm=self.statistics, method="of_all_pairs")
        else:
            side_by_side = [fitted.repeat(len(query), *[1] * (fitted.ndim - 1)), query.repeat_interleave(ways, 0)]
            scores = call(self.compare, {}, torch.cat(side_by_side, 1), self.statistics)
        if scores.shape != (pairs, 1):
            raise InputError(
                f"relation gives scores of shape {tuple(scores.shape)} for {pairs} pairs, needed ({pairs}, 1): "
                "end it with one output"
            )
        return scores.reshape(len(query), ways)

    @property
    def transductive(self) -> bool:
        return super().transductive or uses_batch_statistics(self.compare, self.statistics)
