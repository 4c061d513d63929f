"""A learned, Kronecker-factored linear map of the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kshot.functional import Params
from kshot.rules.rule import Rule, kept, key
from kshot.rules.sgd import SGD
from kshot.types import InputError, check_whole


class Curvature(Rule):
    """Multiply the gradient along each of its axes by a learned matrix, then step by another rule.

    Meta-Curvature (Park, Oliva 2019): a convolution's gradient [O, I, H, W] is multiplied along O, I and H·W, a linear map's
    along both axes; Meta-KFO (Arnold, Iqbal, Sha 2021) with linear factors does the same for the head alone. All matrices
    start as the identity, which is `rule` alone. Differs: biases have their matrix too; axes longer than `largest` keep
    the identity (a matrix has the square of their length).
    """

    def __init__(self, rule: Rule | None = None, *, largest: int = 1024) -> None:
        super().__init__()
        if rule is not None and not isinstance(rule, Rule):
            raise InputError(f"Curvature has rule={rule!r}: give an inner rule, such as kshot.rules.SGD(lr=0.1)")
        check_whole("Curvature", largest=largest)
        self.rule, self.largest = rule if rule is not None else SGD(lr=0.01), largest
        self.matrices = nn.ParameterDict()

    def prepare(self, params: Params, steps: int) -> None:
        self.rule.prepare(params, steps)
        matrices = {
            f"{key(name)}/{axis}": torch.eye(length, dtype=p.dtype, device=p.device)
            for name, p in params.items()
            for axis, length in enumerate(_as_axes(p).shape)
            if length <= self.largest
        }
        self.matrices = kept(self, self.matrices, matrices)

    def init(self, params: Params) -> Any:
        return self.rule.init(params)

    def observe(self, state: Any, loss: Tensor) -> Any:
        return self.rule.observe(state, loss)

    def step(self, params: Params, grads: Params, state: Any) -> tuple[Params, Any]:
        return self.rule.step(params, {name: self._bent(name, g) for name, g in grads.items()}, state)

    def _bent(self, name: str, grad: Tensor) -> Tensor:
        bent = _as_axes(grad)
        for axis in range(bent.ndim):
            if (at := f"{key(name)}/{axis}") in self.matrices:
                bent = torch.tensordot(self.matrices[at], bent, dims=([1], [axis])).movedim(0, axis)
        return bent.reshape(grad.shape)


def _as_axes(p: Tensor) -> Tensor:
    """[O, I, H, W] as [O, I, H·W]; a single number as [1]."""
    return p.flatten(2) if p.ndim > 3 else p.reshape(1) if p.ndim == 0 else p
