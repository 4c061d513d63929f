"""What every inner update rule is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from kshot.functional import Params
from kshot.types import InputError


class Rule(nn.Module, ABC):
    """A module, so that its hyperparameters can be meta-learned; init, observe and step are pure and differentiable."""

    def prepare(self, params: Params, steps: int) -> None:
        """Called by the learner that owns the rule, before training: make what depends on the parameters."""
        self.to(next(iter(params.values())))  # their kind of number, and their device

    @abstractmethod
    def init(self, params: Params) -> Any:
        """The state before the first step, any pytree."""

    def observe(self, state: Any, loss: Tensor) -> Any:
        """The state, now that the loss before the coming step is known; for rules that read losses."""
        return state

    @abstractmethod
    def step(self, params: Params, grads: Params, state: Any) -> tuple[Params, Any]:
        """New parameters and the new state; the arguments stay as they are."""


def kept(rule: Rule, before: nn.ParameterDict | None, made: dict[str, Tensor]) -> nn.ParameterDict:
    """What was made for the parameters, or, where the rule was prepared before, what it has learned for the same ones."""
    if not before:
        return nn.ParameterDict(made)
    if {n: p.shape for n, p in before.items()} != {n: p.shape for n, p in made.items()}:
        raise InputError(
            f"this {type(rule).__name__} already learns numbers for the parameters of another learner, and these have others: "
            "give each learner a rule of its own"
        )
    return before


def key(name: str) -> str:
    """A parameter's name as a key of nn.ParameterDict, which forbids dots."""
    return name.replace(".", "/")
