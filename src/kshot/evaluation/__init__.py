"""How well a learner learns: accuracy or error with a 95 % interval, curves, and the difference between two learners."""

from kshot.evaluation.found import (
    HIGHER_IS_BETTER,
    Calibration,
    Difference,
    Evaluation,
    Point,
    compare,
    figure,
    numbers,
    rounded,
    shown_in,
    written,
)
from kshot.evaluation.measure import evaluate, measure, score
from kshot.evaluation.protocol import SHOTS, TASKS_AT_ONCE, fingerprint, nth_task, stream

__all__ = [
    "HIGHER_IS_BETTER",
    "SHOTS",
    "TASKS_AT_ONCE",
    "Calibration",
    "Difference",
    "Evaluation",
    "Point",
    "compare",
    "evaluate",
    "figure",
    "fingerprint",
    "measure",
    "nth_task",
    "numbers",
    "rounded",
    "score",
    "shown_in",
    "stream",
    "written",
]
