"""Autograd beneath vmap: on the tensors that a vmap over tasks holds, with their axis of tasks.

Tasks do not meet inside vmap, so the gradient of the sum of their losses is each one's gradient: torch.autograd finds it there,
where torch.func.grad sends every operation through one more layer of dispatch. It also differentiates the plain kernels, and
some of those have a wrong second derivative under vmap (see kshot.functional).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch._C._functorch as layers
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack


class Beneath:
    """The one vmap that this runs in; or none, and then everything is as it is."""

    def __init__(self) -> None:
        vmap: Any = layers.peek_interpreter_stack()
        self.level: int = 0 if vmap is None else vmap.level()
        self.tasks: int = 0 if vmap is None else layers.CVmapInterpreterPtr(vmap).batchSize()

    @staticmethod
    def reachable() -> bool:
        """Not inside of torch.func.grad, of two vmaps, or of torch.compile, which cannot follow and need not."""
        top: Any = layers.peek_interpreter_stack()
        alone = top is None or (top.level() == 1 and top.key() == layers.TransformType.Vmap)
        return alone and not torch.compiler.is_compiling()

    def below(self, t: Tensor) -> Tensor:
        """[T, …]: one for each task, also where all share it."""
        if not self.level:
            return t
        held, axis = layers._unwrap_batched(t, self.level) if layers.is_batchedtensor(t) else (t, None)
        return held.expand(self.tasks, *held.shape) if axis is None else held.movedim(axis, 0)

    def leaf(self, t: Tensor) -> Tensor:
        """The same, as something to differentiate by."""
        held = self.below(t)
        with temporarily_clear_interpreter_stack():
            return held if held.requires_grad else held.detach().requires_grad_()

    def above(self, t: Tensor) -> Tensor:
        """What one task sees of [T, …]."""
        found: Tensor = layers._add_batch_dim(t, 0, self.level) if self.level else t
        return found

    def grad(self, value: Tensor, at: Sequence[Tensor], create_graph: bool) -> list[Tensor]:
        """∂value/∂at, zero where there is none."""
        held = self.below(value)
        if not held.requires_grad:
            return [torch.zeros_like(p) for p in at]
        with temporarily_clear_interpreter_stack():
            found = torch.autograd.grad(held.sum(), at, create_graph=create_graph, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(at, found, strict=True)]
