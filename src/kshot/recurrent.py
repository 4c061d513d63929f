"""A recurrent cell made of linear maps: torch's own has no batching rule, so learners that read sequences use this one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

Memory = tuple[Tensor, Tensor]  # hidden and cell, [B, H] each


class LSTMCell(nn.Module):
    """torch.nn.LSTMCell: the same names, shapes and initial weights; x [B, D] and the memory give the next memory."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        bound = 1 / math.sqrt(hidden)

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))

        self.weight_ih, self.weight_hh = uniform(4 * hidden, inputs), uniform(4 * hidden, hidden)
        self.bias_ih, self.bias_hh = uniform(4 * hidden), uniform(4 * hidden)

    def empty(self, x: Tensor) -> Memory:
        """Of a batch like x [B, ...], before anything was read."""
        zero = torch.zeros(len(x), self.hidden, dtype=x.dtype, device=x.device)
        return zero, zero

    def forward(self, x: Tensor, memory: Memory) -> Memory:
        hidden, cell = memory
        gates = linear(x, self.weight_ih, self.bias_ih) + linear(hidden, self.weight_hh, self.bias_hh)
        enter, forget, new, leave = gates.chunk(4, -1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        return leave.sigmoid() * cell.tanh(), cell


def read(cell: LSTMCell, sequence: Tensor, *, backwards: bool = False) -> Tensor:
    """The hidden state after each element of the sequence: [S, D] -> [S, H]."""
    memory, rows = cell.empty(sequence[:1]), torch.tensor_split(sequence, len(sequence))
    found = []
    for x in reversed(rows) if backwards else rows:
        memory = cell(x, memory)
        found.append(memory[0])
    return torch.cat(found[::-1] if backwards else found)
