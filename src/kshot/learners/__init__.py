"""Meta-learners: one idea from one paper a file, one row in the table of its family."""

from collections.abc import Callable

from kshot.learner import MetaLearner
from kshot.learners.alone import alone
from kshot.learners.baselines import Finetune, MultiTask, Scratch
from kshot.learners.cavia import CAVIA
from kshot.learners.contrastive import ContrastiveNet
from kshot.learners.logistic import LogisticHead
from kshot.learners.maml import ANIL, BOIL, FOMAML, MAML, MetaCurvature, MetaKFO, MetaLSTM, MetaSGD
from kshot.learners.maml_plus_plus import MAMLPlusPlus
from kshot.learners.matching import MatchingNet
from kshot.learners.neural_process import NeuralProcess
from kshot.learners.policy import PolicyMAML
from kshot.learners.prototypes import NearestCentroid, ProtoNet, SoftKMeans
from kshot.learners.recurrent import RecurrentLearner
from kshot.learners.relation import RelationNet
from kshot.learners.reptile import Reptile
from kshot.learners.ridge import RidgeNet
from kshot.learners.svm import SVMHead

FAMILIES: dict[str, dict[str, Callable[..., MetaLearner]]] = {
    "gradient": {
        "maml": MAML,
        "fomaml": FOMAML,
        "anil": ANIL,
        "boil": BOIL,
        "metasgd": MetaSGD,
        "mamlplusplus": MAMLPlusPlus,
        "cavia": CAVIA,
        "metacurvature": MetaCurvature,
        "metakfo": MetaKFO,
        "metalstm": MetaLSTM,
        "reptile": Reptile,
    },
    "metric": {
        "protonet": ProtoNet,
        "softkmeans": SoftKMeans,
        "matchingnet": MatchingNet,
        "relationnet": RelationNet,
        "ridgenet": RidgeNet,
        "logistichead": LogisticHead,
        "svmhead": SVMHead,
        "contrastivenet": ContrastiveNet,
    },
    "in-context": {
        "neuralprocess": NeuralProcess,
        "recurrent": RecurrentLearner,
    },
    "agents": {
        "policy-maml": PolicyMAML,
    },
    "baseline": {
        "nearest-centroid": NearestCentroid,
        "finetune": Finetune,
        "multitask": MultiTask,
        "scratch": Scratch,
    },
}
LEARNERS: dict[str, Callable[..., MetaLearner]] = {
    name: learner for family in FAMILIES.values() for name, learner in family.items()
}

__all__ = [
    "ANIL",
    "BOIL",
    "CAVIA",
    "FAMILIES",
    "FOMAML",
    "LEARNERS",
    "MAML",
    "ContrastiveNet",
    "Finetune",
    "LogisticHead",
    "MAMLPlusPlus",
    "MatchingNet",
    "MetaCurvature",
    "MetaKFO",
    "MetaLSTM",
    "MetaSGD",
    "MultiTask",
    "NearestCentroid",
    "NeuralProcess",
    "PolicyMAML",
    "ProtoNet",
    "RecurrentLearner",
    "RelationNet",
    "Reptile",
    "RidgeNet",
    "SVMHead",
    "Scratch",
    "SoftKMeans",
    "alone",
]
