"""Meta-learners: one idea from one paper a file, one row in the table."""

from collections.abc import Callable

from kshot.learner import MetaLearner
from kshot.learners.maml import ANIL, FOMAML, MAML
from kshot.learners.policy import PolicyMAML
from kshot.learners.prototypes import NearestCentroid, ProtoNet
from kshot.learners.reptile import Reptile

LEARNERS: dict[str, Callable[..., MetaLearner]] = {
    "maml": MAML,
    "fomaml": FOMAML,
    "anil": ANIL,
    "reptile": Reptile,
    "protonet": ProtoNet,
    "nearest-centroid": NearestCentroid,
    "policy-maml": PolicyMAML,
}

__all__ = ["ANIL", "FOMAML", "LEARNERS", "MAML", "NearestCentroid", "PolicyMAML", "ProtoNet", "Reptile"]
