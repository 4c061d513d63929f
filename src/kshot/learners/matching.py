"""Matching networks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from kshot.functional import BatchNormPolicy
from kshot.learners.embedding import EmbeddingLearner, in_full_precision, width
from kshot.recurrent import LSTMCell, read
from kshot.types import Batch, InputError, check_positive, check_whole, one_hot


class Matched(NamedTuple):
    """embedded: [S, D]; members: [S, N], 1 where an example is of a class."""

    embedded: Tensor
    members: Tensor


class MatchingNet(EmbeddingLearner):
    """A query attends to the support examples, by cosine, and takes over their labels: p(y|x) = Σ_i a(x, x_i) y_i.

    Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016, Matching Networks for One Shot Learning. Logits are log p.
    full_context: embed each example in the light of the others: the support by an LSTM in both directions, a query by an
    LSTM that attends to the support `reads` times. The order of the support then matters.
    temperature: of the attention; the paper's is 1, with which no answer can be sure.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        full_context: bool = False,
        reads: int = 5,
        temperature: float = 0.03,
        batch_norm: BatchNormPolicy = None,
    ) -> None:
        super().__init__(encoder, batch_norm)
        check_positive("MatchingNet", temperature=temperature)
        check_whole("MatchingNet", reads=reads)
        if not isinstance(full_context, bool):
            raise InputError(f"MatchingNet has full_context={full_context!r}: give True or False")
        self.full_context, self.reads, self.temperature = full_context, reads, temperature
        if full_context:
            d = width(encoder)
            self.onward, self.back, self.attend = LSTMCell(d, d), LSTMCell(d, d), LSTMCell(2 * d, d)
            self.like_encoder()

    def adapt(self, support: Batch) -> Matched:
        ways = self.ways(support)
        embedded = self.embed(support.x)
        if self.full_context:
            embedded = embedded + read(self.onward, embedded) + read(self.back, embedded, backwards=True)
        return Matched(embedded, one_hot(support.y, ways).to(embedded.dtype))

    def predict(self, fitted: Matched, x: Tensor) -> Tensor:
        query = self.embed(x)
        if self.full_context:
            query = self.in_context(query, fitted.embedded)
        with in_full_precision(x):
            cosine = normalize(query, dim=-1) @ normalize(fitted.embedded, dim=-1).T  # [Q, S]
        attention = (cosine / self.temperature).log_softmax(-1)
        return (attention.unsqueeze(-1) + fitted.members.log()).logsumexp(1)  # [Q, N], log(0) leaves an example out

    def in_context(self, query: Tensor, support: Tensor) -> Tensor:
        """query [Q, D], support [S, D] -> [Q, D]."""
        hidden, cell = query, torch.zeros_like(query)
        for _ in range(self.reads):
            seen = (hidden @ support.T).softmax(-1) @ support
            hidden, cell = self.attend(torch.cat([query, seen], -1), (hidden, cell))
            hidden = hidden + query
        return hidden

    @property
    def order_free(self) -> bool:
        return not self.full_context
