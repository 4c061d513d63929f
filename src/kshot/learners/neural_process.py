"""Conditional neural processes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from kshot.functional import BatchNormPolicy
from kshot.learner import mse_loss
from kshot.learners.embedding import EmbeddingLearner, width
from kshot.types import Batch, InputError, Task, check_support, check_whole, one_hot

LEAST = 0.01  # of a standard deviation, so that no point can be infinitely likely


class Context(NamedTuple):
    """keys: [S, D], where the support lies; values: [S, H], what was read there; members: [S, N] of classes, or ones [S, 1]."""

    keys: Tensor
    values: Tensor
    members: Tensor


class NeuralProcess(EmbeddingLearner):
    """A network reads the support as a set, and another predicts from what it read: learning is one forward pass.

    Garnelo et al. 2018, Conditional Neural Processes; attentive: Kim et al. 2019, Attentive Neural Processes (the
    deterministic path): a query does not read the mean of the support's values, but attends to them, in `heads` ways.
    outputs: the number of values of a regression target, each predicted with a standard deviation (`distribution`), and
    trained by the likelihood; None for classes, where each class is read apart, and scored by one shared network.
    encoder: of x; give an MLP where x are plain numbers.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        outputs: int | None = None,
        hidden: int = 128,
        attentive: bool = False,
        heads: int = 4,
        batch_norm: BatchNormPolicy = None,
    ) -> None:
        super().__init__(encoder, batch_norm, cross_entropy if outputs is None else mse_loss)
        check_whole("NeuralProcess", hidden=hidden, heads=heads, outputs=1 if outputs is None else outputs)
        if attentive and hidden % heads:
            raise InputError(f"hidden={hidden} cannot be shared by heads={heads}: choose a multiple")
        self.outputs, self.hidden, self.attentive, self.heads = outputs, hidden, attentive, heads
        d = width(encoder)
        self.reader = _network(d + (outputs or 0), hidden, hidden)
        self.writer = _network(d + hidden, hidden, 1 if outputs is None else 2 * outputs)
        if attentive:
            self.seek = nn.Linear(d, hidden)  # of queries and keys alike: near in x is near in what is sought
        self.like_encoder()

    def adapt(self, support: Batch) -> Context:
        check_support(support)
        keys = self.embed(support.x)
        if self.outputs is None:
            members = one_hot(support.y, self.ways(support)).to(keys.dtype)
            return Context(keys, self.reader(keys), members)
        found = f"a {support.ways}-way task" if support.ways else f"targets of shape {tuple(support.y.shape[1:])}"
        if support.ways is not None or support.y.shape[1:] != (self.outputs,):
            raise InputError(
                f"NeuralProcess(outputs={self.outputs}) was given {found}: make the two alike, without outputs it is for classes"
            )
        return Context(keys, self.reader(torch.cat([keys, support.y], 1)), torch.ones_like(keys[:, :1]))

    def predict(self, fitted: Context, x: Tensor) -> Tensor:
        """Logits [Q, N], or the means [Q, outputs]."""
        written = self._written(fitted, x)
        return written.squeeze(-1) if self.outputs is None else written[:, 0, : self.outputs]

    def distribution(self, fitted: Context, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [Q, outputs] of a regression."""
        if self.outputs is None:
            raise InputError(
                "this NeuralProcess predicts classes: their probabilities are predict(fitted, x).softmax(-1)"
            )
        mean, spread = self._written(fitted, x)[:, 0].chunk(2, -1)
        return mean, LEAST + softplus(spread)

    def loss(self, task: Task) -> Tensor:
        if self.outputs is None:
            return super().loss(task)
        fitted = self.adapt(task.support)
        mean, deviation = self.distribution(fitted, task.query.x)
        self.judge(mean, task.query)  # the shapes fit
        surprise = ((task.query.y - mean) / deviation).square() / 2 + deviation.log() + math.log(2 * math.pi) / 2
        return surprise.mean()

    def _written(self, fitted: Context, x: Tensor) -> Tensor:
        """[Q, N, outputs of the writer]; N is 1 for regression."""
        query = self.embed(x)
        read = self._attended(query, fitted) if self.attentive else self._averaged(query, fitted)  # [Q, N, H]
        beside = query.unsqueeze(1).expand(-1, read.shape[1], -1)
        written: Tensor = self.writer(torch.cat([beside, read], -1))
        return written

    def _averaged(self, query: Tensor, fitted: Context) -> Tensor:
        means = (fitted.members.T @ fitted.values) / fitted.members.sum(0).unsqueeze(1)  # [N, H]
        return means.expand(len(query), *means.shape)

    def _attended(self, query: Tensor, fitted: Context) -> Tensor:
        size = self.hidden // self.heads

        def split(x: Tensor) -> Tensor:
            return x.reshape(len(x), self.heads, size).transpose(0, 1)  # [heads, ·, size]

        closeness = split(self.seek(query)) @ split(self.seek(fitted.keys)).transpose(1, 2) / math.sqrt(size)
        among = closeness.unsqueeze(-1) + fitted.members.log()  # [heads, Q, S, N]: of each class its own members alone
        read = torch.einsum("hqsn,hsd->qnhd", among.softmax(2), split(fitted.values))
        return read.flatten(2)


def _network(inputs: int, hidden: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )
