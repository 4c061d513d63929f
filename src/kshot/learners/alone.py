"""A transductive learner's predictions without the company of other queries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kshot.learner import MetaLearner
from kshot.types import Batch


def alone(learner: MetaLearner) -> MetaLearner:
    """The learner, each query predicted in a batch with the support alone; itself, where it is not transductive.

    For images that come one by one, and for figures beside transductive ones (Nichol, Achiam, Schulman 2018 give both).
    """
    was_training = learner.training
    transductive = learner.eval().transductive
    learner.train(was_training)
    return Alone(learner) if transductive else learner


class Alone(MetaLearner):
    """See alone. As many times the work as there are queries."""

    def __init__(self, learner: MetaLearner) -> None:
        super().__init__()
        self.learner, self.criterion = learner, learner.criterion
        self.seen, self.validated, self.features = learner.seen, learner.validated, learner.features
        self.steps, self.eval_steps = (getattr(learner, name, None) for name in ("steps", "eval_steps"))

    def adapt(self, support: Batch) -> Any:
        return self.learner.adapt(support), support.x

    def predict(self, fitted: Any, x: Tensor) -> Tensor:
        own, company = fitted
        return torch.stack([self.learner.predict(own, torch.cat([company, query[None]]))[-1] for query in x])

    def trajectory(self, support: Batch, steps: int) -> list[Any]:
        return [(own, support.x) for own in self.learner.trajectory(support, steps)]

    @property
    def class_symmetric(self) -> bool:
        return self.learner.class_symmetric

    @property
    def order_free(self) -> bool:
        return self.learner.order_free
