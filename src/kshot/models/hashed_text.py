"""A small text encoder over hashed n-grams: nothing is downloaded, and it starts as good as counting them."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kshot.models.conv4 import check_sizes
from kshot.types import InputError

PACE = 2.0  # embeddings are small and learn fast: larger ones at the start are noise, slower ones learn little in a few steps


class HashedText(nn.Module):
    """Which n-grams a text has, each by a learned weight, beside what a learned embedding makes of them.

    x [B, L] rows of kshot.tasks.hash_texts, 0 where a row is padded -> [B, outputs] or features [B, lexical + width].
    The lexical half is the bag of n-grams itself, weighted, folded into `lexical` places by a fixed random place and sign for
    each (Weinberger et al. 2009, Feature Hashing) and of length one. It knows words that training never showed: untrained, with
    cosine distance, this is the nearest centroid of n-gram counts. The learned half is the weighted mean of embeddings
    and a residual MLP; it starts near zero, and an n-gram that training never showed adds next to nothing to it.
    buckets: n-grams share this many weights and embeddings, by their hash. dropout: of whole n-grams, in training.
    Initial weights: every n-gram weighs 1, and where training begins as much more as it is rare in the training sentences
    (`meet`, which fit calls); embeddings normal, 0.01; the MLP's last layer zero.
    """

    def __init__(
        self,
        outputs: int | None = None,
        *,
        buckets: int = 32768,
        lexical: int = 16384,
        width: int = 32,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        check_sizes("HashedText", outputs=outputs, buckets=buckets, lexical=lexical, width=width)
        if not 0 <= dropout < 1:
            raise InputError(
                f"dropout={dropout}: it is the share of n-grams that training leaves out, give 0 to below 1"
            )
        self.outputs, self.buckets, self.lexical, self.width, self.dropout = outputs, buckets, lexical, width, dropout
        self.log_weight = nn.Parameter(torch.zeros(buckets))
        self.embedding = nn.Parameter(0.01 * torch.randn(buckets, width))
        last = nn.Linear(4 * width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.body = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), last)
        self.features = lexical + width
        self.head: nn.Module = nn.Identity() if outputs is None else nn.Linear(self.features, outputs)

    @torch.no_grad()
    def meet(self, x: Tensor) -> None:
        """Sentences [M, L] of the training classes: an n-gram's first weight is its inverse document frequency."""
        documents = torch.zeros(self.buckets)
        for row in x:
            documents[(row[row != 0] % self.buckets).unique()] += 1
        rarity = ((1 + len(x)) / (1 + documents)).log() + 1
        self.log_weight.copy_(rarity.log())

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.dtype != torch.int64:
            raise InputError(
                f"HashedText was given {x.dtype} of shape {tuple(x.shape)}: rows of n-gram numbers are needed, int64 [B, L], "
                "make them by kshot.tasks.hash_texts(texts)"
            )
        bucket = x % self.buckets
        weight = F.dropout(self.log_weight[bucket].exp() * (x != 0), self.dropout, self.training)  # [B, L]
        out: Tensor = self.head(torch.cat([self._lexical(x, weight), self._learned(bucket, weight)], 1))
        return out

    def _lexical(self, x: Tensor, weight: Tensor) -> Tensor:
        """[B, lexical] of length one. Place and sign come from other digits of the hash than the bucket."""
        rest = x // self.buckets
        sign = 1 - 2 * (rest // self.lexical % 2)
        bag = torch.zeros(len(x), self.lexical, dtype=weight.dtype, device=x.device)
        bag = bag.scatter_add(1, rest % self.lexical, weight * sign)
        return bag / _length(bag)

    def _learned(self, bucket: Tensor, weight: Tensor) -> Tensor:
        """[B, width]. embedding_bag has no second derivative; this has."""
        bag = (weight.unsqueeze(1) @ F.embedding(bucket, self.embedding)).squeeze(1)
        bag = PACE * bag / _length(weight)
        return bag + cast(Tensor, self.body(bag))


def _length(x: Tensor) -> Tensor:
    """[B, D] -> [B, 1]. Clamped before the root: of a text without n-grams every derivative is zero, and not NaN."""
    return x.square().sum(1, keepdim=True).clamp_min(1e-12).sqrt()
