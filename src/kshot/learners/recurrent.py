"""A recurrent network as the whole learner."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from kshot.functional import BatchNormPolicy
from kshot.learner import mse_loss
from kshot.learners.embedding import EmbeddingLearner, check_whole, width
from kshot.recurrent import LSTMCell, Memory
from kshot.types import Batch, InputError, Task, check_support


class Read(NamedTuple):
    """memory: after all of the support but its last label; label: that one [1, outputs]; said: what it answered on the way."""

    memory: Memory
    label: Tensor
    said: Tensor


class RecurrentLearner(EmbeddingLearner):
    """An LSTM reads the support as a sequence, each example with the label of the one before; its memory is what it learned.

    Hochreiter, Younger, Conwell 2001, Learning to Learn Using Gradient Descent; Santoro et al. 2016. The label comes a step
    late, so that the network must answer before it is told: training counts its answers on the support too, in `aside` of
    the loss, as the papers do. A query is read after the support, each on its own.
    outputs: the largest number of classes, or with regression=True of target values. The order of the support matters:
    train on tasks that shuffle it (Episodes(…, shuffle=True)).
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        outputs: int,
        regression: bool = False,
        hidden: int = 128,
        aside: float = 0.1,
        batch_norm: BatchNormPolicy = None,
    ) -> None:
        super().__init__(encoder, batch_norm, mse_loss if regression else cross_entropy)
        check_whole("RecurrentLearner", outputs=outputs, hidden=hidden)
        if not isinstance(aside, int | float) or not 0 <= aside < 1:
            raise InputError(f"aside={aside!r}: it is a share of the loss, give a number from 0 to below 1")
        self.outputs, self.regression, self.hidden, self.aside = outputs, regression, hidden, aside
        self.cell = LSTMCell(width(encoder) + outputs, hidden)
        self.head = nn.Linear(hidden, outputs)

    def adapt(self, support: Batch) -> Read:
        labels = self._labels(support)  # [S, outputs]
        late = torch.cat([torch.zeros_like(labels[:1]), labels[:-1]])
        memory, said = self.cell.empty(labels[:1]), []
        for x in torch.split(torch.cat([self.embed(support.x), late], 1), 1):
            memory = self.cell(x, memory)
            said.append(self.head(memory[0]))
        return Read(memory, labels[-1:], torch.cat(said))

    def predict(self, fitted: Read, x: Tensor) -> Tensor:
        seen = torch.cat([self.embed(x), fitted.label.expand(len(x), -1)], 1)
        outputs: Tensor = self.head(
            self.cell(seen, (fitted.memory[0].expand(len(x), -1), fitted.memory[1].expand(len(x), -1)))[0]
        )
        return outputs

    def loss(self, task: Task) -> Tensor:
        fitted = self.adapt(task.support)
        answered = self.judge(self.predict(fitted, task.query.x), task.query)
        return (1 - self.aside) * answered + self.aside * self.judge(fitted.said, task.support)

    @property
    def class_symmetric(self) -> bool:
        return False

    @property
    def order_free(self) -> bool:
        return False

    def _labels(self, support: Batch) -> Tensor:
        check_support(support)
        if self.regression:
            if support.ways is not None or support.y.shape[1:] != (self.outputs,):
                raise InputError(
                    f"RecurrentLearner(outputs={self.outputs}, regression=True) was given "
                    f"{'classes' if support.ways else f'targets of shape {tuple(support.y.shape[1:])}'}: make the two alike"
                )
            return support.y
        ways = self.ways(support)
        if ways > self.outputs:
            raise InputError(
                f"RecurrentLearner(outputs={self.outputs}) was given a {ways}-way task: build it with more outputs"
            )
        return one_hot(support.y, self.outputs).to(self.head.weight.dtype)
