"""kshot: meta-learning for PyTorch. Train models that learn a new task from k examples."""

from kshot import models, rl, rules, tasks
from kshot.evaluation import Evaluation, evaluate
from kshot.learner import MetaLearner
from kshot.learners import ANIL, FOMAML, MAML, NearestCentroid, PolicyMAML, ProtoNet, Reptile
from kshot.training import Diverged, Interrupted, fit, load, load_weights, save
from kshot.types import Batch, InputError, Task, TaskSource, seeded
from kshot.vectorize import meta_loss
from kshot.version import __version__

__all__ = [
    "ANIL",
    "FOMAML",
    "MAML",
    "Batch",
    "Diverged",
    "Evaluation",
    "InputError",
    "Interrupted",
    "MetaLearner",
    "NearestCentroid",
    "PolicyMAML",
    "ProtoNet",
    "Reptile",
    "Task",
    "TaskSource",
    "__version__",
    "evaluate",
    "fit",
    "load",
    "load_weights",
    "meta_loss",
    "models",
    "rl",
    "rules",
    "save",
    "seeded",
    "tasks",
]
