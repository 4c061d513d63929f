"""Model-agnostic meta-learning and its thin relatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from kshot.learners.gradient import GradientLearner


class MAML(GradientLearner):
    """Learn initial parameters from which a few gradient steps on a task's support do well on its query.

    Finn, Abbeel, Levine 2017, Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks.
    Algorithm: for each task φ = θ − α∇L_support(θ), repeated `steps` times; θ ← θ − β∇_θ Σ L_query(φ).
    Differs: the inner rule, the parameters that move and the meta-gradient are arguments; batch statistics are not
    shared between support and query.
    """


def FOMAML(model: nn.Module, **choices: Any) -> MAML:
    """First-order MAML: the meta-gradient is ∇L_query at φ, as if φ − θ were a constant.

    Finn, Abbeel, Levine 2017 (section 5.2); analysed by Nichol, Achiam, Schulman 2018.
    """
    return MAML(model, hypergradient="first-order", **choices)


def ANIL(model: nn.Module, *, adapted: str | Sequence[str] = "head.*", **choices: Any) -> MAML:
    """Almost no inner loop: only the head moves in the inner loop, the body is learned in the outer one alone.

    Raghu, Raghu, Bengio, Vinyals 2020, Rapid Learning or Feature Reuse?
    """
    return MAML(model, adapted=adapted, **choices)
