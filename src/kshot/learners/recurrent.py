"""A recurrent network as the whole learner."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from kshot.functional import BatchNormPolicy
from kshot.learner import mse_loss
from kshot.learners.embedding import EmbeddingLearner, width
from kshot.recurrent import LSTMCell, Memory
from kshot.types import Batch, InputError, Task, check_support, check_whole, one_hot

SHARPNESS = 10.0  # of recalling: one over the temperature of the attention


class Read(NamedTuple):
    """memory: after the support; keys, values: [S, H], what each example was recalled by, and what it then turned out to be;
    said: [S, outputs], the answers on the way."""

    memory: Memory
    keys: Tensor
    values: Tensor
    said: Tensor


class RecurrentLearner(EmbeddingLearner):
    """An LSTM reads the support as a sequence, each example with the label of the one before; its memory is what it learned.

    Hochreiter, Younger, Conwell 2001, Learning to Learn Using Gradient Descent; Santoro, Bartunov, Botvinick, Wierstra,
    Lillicrap 2016, Meta-Learning with Memory-Augmented Neural Networks. The label comes a step late, so the network must
    answer before it is told; training counts its answers on the support too, as `aside` of the loss. A query is read after
    the support, each on its own.
    recall: beside its own state the network keeps a row of memory for each example, and reads it by content (cosine), as in
    the second paper; without, the state alone must hold everything, which takes far longer to train.
    outputs: the largest number of classes, or with regression=True the number of target values. The order of the support
    matters: train on tasks that shuffle it (Episodes(…, shuffle=True)).
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        outputs: int,
        regression: bool = False,
        hidden: int = 128,
        recall: bool = True,
        aside: float = 0.1,
        batch_norm: BatchNormPolicy = None,
    ) -> None:
        super().__init__(encoder, batch_norm, mse_loss if regression else cross_entropy)
        check_whole("RecurrentLearner", outputs=outputs, hidden=hidden)
        if not isinstance(aside, int | float) or not 0 <= aside < 1:
            raise InputError(f"aside={aside!r}: it is a share of the loss, give a number from 0 to below 1")
        self.outputs, self.regression, self.hidden = outputs, regression, hidden
        self.recall, self.aside = recall, aside
        self.cell = LSTMCell(width(encoder) + outputs, hidden)
        self.head = nn.Linear(2 * hidden if recall else hidden, outputs)
        if recall:
            self.seek = nn.Linear(hidden, hidden)
        self.like_encoder()

    def adapt(self, support: Batch) -> Read:
        labels, x = self._labels(support), self.embed(support.x)
        none = torch.zeros_like(labels[:1])
        late = torch.cat([none, labels])  # [S + 1, outputs]
        x = torch.cat([x, torch.zeros_like(x[:1])])  # the last label comes with nothing
        memory, states = self.cell.empty(none), []
        for seen in torch.split(torch.cat([x, late], 1), 1):
            memory = self.cell(seen, memory)
            states.append(memory[0])
        before, after = torch.cat(states[:-1]), torch.cat(states[1:])  # [S, H] each: label unknown, and known
        keys = self._key(before)
        earlier = torch.ones(len(keys), len(keys), dtype=torch.bool, device=keys.device).tril(-1)
        return Read(memory, keys, after, self._answer(before, keys, after, earlier))

    def predict(self, fitted: Read, x: Tensor) -> Tensor:
        embedded = self.embed(x)
        seen = torch.cat([embedded, embedded.new_zeros(len(x), self.outputs)], 1)
        state, _ = self.cell(seen, (fitted.memory[0].expand(len(x), -1), fitted.memory[1].expand(len(x), -1)))
        return self._answer(state, fitted.keys, fitted.values)

    def loss(self, task: Task) -> Tensor:
        fitted = self.adapt(task.support)
        answered = self.judge(self.predict(fitted, task.query.x), task.query)
        return (1 - self.aside) * answered + self.aside * self.judge(fitted.said, task.support)

    def _key(self, state: Tensor) -> Tensor:
        return normalize(self.seek(state), dim=-1) if self.recall else state

    def _answer(self, state: Tensor, keys: Tensor, values: Tensor, known: Tensor | None = None) -> Tensor:
        """state [B, H] -> [B, outputs]; known [B, S]: the rows that may be recalled, all by default."""
        if self.recall:
            closeness = SHARPNESS * self._key(state) @ keys.T
            attention = closeness.softmax(-1)
            if known is not None:  # the first example finds no row at all: then it recalls nothing
                attention = torch.where(known, closeness, -1e9).softmax(-1) * known
            state = torch.cat([state, attention @ values], 1)
        outputs: Tensor = self.head(state)
        return outputs

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
