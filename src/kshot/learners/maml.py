"""Model-agnostic meta-learning and its thin relatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from kshot.functional import select
from kshot.learners.gradient import GradientLearner
from kshot.rules import SGD, Curvature, LSTMRule, Rule
from kshot.types import InputError


class MAML(GradientLearner):
    """Learn initial parameters from which a few gradient steps on a task's support do well on its query.

    Finn, Abbeel, Levine 2017, Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks.
    Algorithm: for each task φ = θ − α∇L_support(θ), repeated `steps` times; θ ← θ − β∇_θ Σ L_query(φ).
    Differs: the inner rule, the parameters that move and the meta-gradient are arguments; batch statistics are not
    shared between support and query.
    """


def _named(name: str, model: nn.Module, choices: dict[str, Any], **fixed: Any) -> MAML:
    """MAML with what makes it the paper's."""
    if both := choices.keys() & fixed.keys():
        raise InputError(
            f"{name} is MAML with a {min(both)} of its own: leave {min(both)}= out, or take MAML and give it"
        )
    return MAML(model, **fixed, **choices)


def FOMAML(model: nn.Module, **choices: Any) -> MAML:
    """First-order MAML: the meta-gradient is ∇L_query at φ, as if φ − θ were a constant.

    Finn, Abbeel, Levine 2017 (section 5.2); analysed by Nichol, Achiam, Schulman 2018.
    """
    return _named("FOMAML", model, choices, hypergradient="first-order")


def ANIL(model: nn.Module, *, adapted: str | Sequence[str] = "head.*", **choices: Any) -> MAML:
    """Almost no inner loop: only the head moves in the inner loop, the body is learned in the outer one alone.

    Raghu, Raghu, Bengio, Vinyals 2020, Rapid Learning or Feature Reuse?
    """
    return MAML(model, adapted=adapted, **choices)


def BOIL(model: nn.Module, *, adapted: str | Sequence[str] = "!head.*", **choices: Any) -> MAML:
    """Body only in the inner loop: the features move, the head stays, so that features must learn to change.

    Oh, Yoo, Kim, Yun 2021, BOIL: Towards Representation Change for Few-shot Learning.
    """
    names = dict(model.named_parameters()) if isinstance(model, nn.Module) else {}
    if names and len(select(names, adapted)) == len(names):
        raise InputError(
            f"adapted={adapted!r} leaves no parameter of the model out, and BOIL needs a head that stays: name its last layer, "
            "such as adapted='!fc.*'"
        )
    return MAML(model, adapted=adapted, **choices)


def MetaSGD(model: nn.Module, *, lr: float = 0.01, **choices: Any) -> MAML:
    """Learn a step size and direction for each weight, along with where it starts.

    Li, Zhou, Chen, Li 2017, Meta-SGD: Learning to Learn Quickly for Few-Shot Learning.
    Differs: the rates all start at lr; the paper draws them at random.
    """
    return _named("MetaSGD", model, choices, rule=SGD(lr, learn="parameter"))


def MetaCurvature(model: nn.Module, *, rule: Rule | None = None, **choices: Any) -> MAML:
    """Learn to bend gradients: a learned matrix along each axis of each gradient, before `rule` takes the step.

    Park, Oliva 2019, Meta-Curvature. See kshot.rules.Curvature.
    """
    return MAML(model, rule=Curvature(rule), **choices)


def MetaKFO(
    model: nn.Module, *, rule: Rule | None = None, adapted: str | Sequence[str] = "head.*", **choices: Any
) -> MAML:
    """Almost no inner loop, with a learned Kronecker-factored map of the head's gradient.

    Arnold, Iqbal, Sha 2021, When MAML Can Adapt Fast and How to Assist When It Cannot. Differs: the map is linear.
    """
    return MAML(model, rule=Curvature(rule), adapted=adapted, **choices)


def MetaLSTM(model: nn.Module, *, lr: float = 0.1, hidden: int = 20, **choices: Any) -> MAML:
    """An LSTM, shared by all weights, learns how much of each to keep and how far to move it; and where all start.

    Ravi, Larochelle 2017, Optimization as a Model for Few-Shot Learning. See kshot.rules.LSTMRule.
    """
    return _named("MetaLSTM", model, {"hypergradient": "first-order", **choices}, rule=LSTMRule(lr, hidden=hidden))
