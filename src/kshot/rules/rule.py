"""What every inner update rule is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from kshot.functional import Params


class Rule(nn.Module, ABC):
    """A module, so that its hyperparameters can be meta-learned; init, observe and step are pure and differentiable."""

    def prepare(self, params: Params, steps: int) -> None:
        """Called once by the learner that owns the rule, before training: make what depends on the parameters' shapes."""
        return None

    @abstractmethod
    def init(self, params: Params) -> Any:
        """The state before the first step, any pytree."""

    def observe(self, state: Any, loss: Tensor) -> Any:
        """The state, now that the loss before the coming step is known; for rules that read losses."""
        return state

    @abstractmethod
    def step(self, params: Params, grads: Params, state: Any) -> tuple[Params, Any]:
        """New parameters and the new state; the arguments stay as they are."""


def key(name: str) -> str:
    """A parameter's name as a key of nn.ParameterDict, which forbids dots."""
    return name.replace(".", "/")
