"""Inner update rules: how one step moves the adapted parameters. One rule a file, one row in the table."""

from collections.abc import Callable

from kshot.rules.adam import Adam, AdamW
from kshot.rules.curvature import Curvature
from kshot.rules.lstm import LSTMRule
from kshot.rules.rmsprop import RMSprop
from kshot.rules.rule import Rule
from kshot.rules.sgd import SGD, Momentum
from kshot.rules.strategy import StrategyNetwork

RULES: dict[str, Callable[..., Rule]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "curvature": Curvature,
    "lstm": LSTMRule,
    "strategy": StrategyNetwork,
}

__all__ = [
    "RULES",
    "SGD",
    "Adam",
    "AdamW",
    "Curvature",
    "LSTMRule",
    "Momentum",
    "RMSprop",
    "Rule",
    "StrategyNetwork",
]
