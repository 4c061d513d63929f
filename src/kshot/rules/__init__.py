"""Inner update rules: how one step moves the adapted parameters. One rule a file, one row in the table."""

from kshot.rules.rule import Rule
from kshot.rules.sgd import SGD

RULES: dict[str, type[Rule]] = {"sgd": SGD}

__all__ = ["RULES", "SGD", "Rule"]
