"""Learners that compare a query with one prototype a class."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from kshot.functional import BatchNormPolicy
from kshot.learners.embedding import EmbeddingLearner, in_full_precision
from kshot.types import Batch, InputError, check_whole, one_hot

Distance = Callable[[Tensor, Tensor], Tensor]  # ([Q, 1, D], [1, N, D]) -> [Q, N]


def squared_euclidean(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(-1)


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """As one product of matrices: the broadcast one of torch's cosine_similarity holds Q · N · D numbers."""
    return 1 - normalize(a, dim=-1).squeeze(-2) @ normalize(b, dim=-1).squeeze(-3).mT


DISTANCES: dict[str, Distance] = {"euclidean": squared_euclidean, "cosine": cosine_distance}

# Squared distances are large from the start: at the paper's 1, softmax is certain before anything is learned.
TEMPERATURES = {"euclidean": 8.0, "cosine": 0.1}


def class_means(embedded: Tensor, y: Tensor, ways: int) -> Tensor:
    """embedded [S, D], y [S] -> prototypes [N, D]."""
    members = one_hot(y, ways).to(embedded.dtype)  # [S, N]
    with in_full_precision(embedded):
        return (members.T @ embedded) / members.sum(0).unsqueeze(1)


class Means(NamedTuple):
    """prototypes [N, D], and of how many examples each is the mean: counts [N, 1]."""

    prototypes: Tensor
    counts: Tensor


class _PrototypeLearner(EmbeddingLearner):
    """Embeds with `encoder`, one prototype a class, logits = −distance / temperature; its arguments are ProtoNet's."""

    def __init__(
        self,
        encoder: nn.Module | None,
        distance: str | Distance,
        temperature: float | None,
        learn_temperature: bool | None,
        batch_norm: BatchNormPolicy,
    ) -> None:
        super().__init__(encoder, batch_norm)
        if isinstance(distance, str) and distance not in DISTANCES:
            raise InputError(
                f"distance={distance!r} is not known: choose {' or '.join(DISTANCES)}, or give a function "
                "([Q, 1, D], [1, N, D]) -> [Q, N]"
            )
        if temperature is None:
            temperature = TEMPERATURES[distance] if isinstance(distance, str) else 1.0
        if not 0 < temperature < math.inf:
            raise InputError(f"temperature={temperature}: it divides the distances, give a positive number")
        self.distance, self.temperature = distance, temperature
        self.learn_temperature = distance == "cosine" if learn_temperature is None else learn_temperature
        if self.learn_temperature:
            self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def prototypes(self, support: Batch) -> Tensor:
        """[N, D]."""
        ways = self.ways(support)
        return class_means(self.embed(support.x), support.y, ways)

    def logits(self, embedded: Tensor, prototypes: Tensor) -> Tensor:
        """embedded [Q, D], prototypes [N, D] -> [Q, N]."""
        distance = DISTANCES[self.distance] if isinstance(self.distance, str) else self.distance
        scale = self.log_scale.exp() if self.learn_temperature else 1 / self.temperature
        with in_full_precision(embedded):
            return -distance(embedded.unsqueeze(1), prototypes.unsqueeze(0)) * scale


class _Nearest(_PrototypeLearner):
    """A query belongs to the nearest prototype."""

    def adapt(self, support: Batch) -> Tensor:
        """Prototypes [N, D]."""
        return self.prototypes(support)

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return self.logits(self.embed(x), fitted)


class ProtoNet(_Nearest):
    """A class is the mean of its embedded examples; a query belongs to the nearest.

    Snell, Swersky, Zemel 2017, Prototypical Networks for Few-shot Learning. Logits are −d(f(x), c_k) / temperature.
    distance: 'euclidean' (squared, the paper's), 'cosine', or a function ([Q, 1, D], [1, N, D]) -> [Q, N].
    temperature: 8 if not given (the paper's is 1), for cosine 0.1, for a function 1; learned with the encoder when
    learn_temperature (the default for cosine, whose distances are too small to train on).
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        distance: Literal["euclidean", "cosine"] | Distance = "euclidean",
        temperature: float | None = None,
        learn_temperature: bool | None = None,
        batch_norm: BatchNormPolicy = None,
    ) -> None:
        super().__init__(encoder, distance, temperature, learn_temperature, batch_norm)


class SoftKMeans(_PrototypeLearner):
    """Prototypes that move towards the queries predicted with them, in a few rounds of soft k-means: transductive.

    Ren, Triantafillou, Ravi, Snell, Swersky, Tenenbaum, Larochelle, Zemel 2018, Meta-Learning for Semi-Supervised Few-Shot
    Classification. Differs: the examples without a label are the queries themselves; the number of rounds.
    rounds: 0 is ProtoNet; eval_rounds: another number when not training. distance, temperature, learn_temperature: as ProtoNet's.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        rounds: int = 3,
        eval_rounds: int | None = None,
        distance: Literal["euclidean", "cosine"] | Distance = "euclidean",
        temperature: float | None = None,
        learn_temperature: bool | None = None,
        batch_norm: BatchNormPolicy = None,
    ) -> None:
        super().__init__(encoder, distance, temperature, learn_temperature, batch_norm)
        check_whole("SoftKMeans", least=0, rounds=rounds, eval_rounds=rounds if eval_rounds is None else eval_rounds)
        self.rounds, self.eval_rounds = rounds, eval_rounds

    @property
    def transductive(self) -> bool:
        return self._rounds > 0 or super().transductive

    def adapt(self, support: Batch) -> Means:
        prototypes = self.prototypes(support)
        counts = one_hot(support.y, len(prototypes)).sum(0)
        return Means(prototypes, counts.to(prototypes.dtype).unsqueeze(1))

    def predict(self, fitted: Means, x: Tensor) -> Tensor:
        embedded = self.embed(x)
        return self.logits(embedded, self.moved(fitted, embedded))

    def moved(self, fitted: Means, embedded: Tensor) -> Tensor:
        """embedded queries [Q, D] -> prototypes [N, D], of the support and of the queries that seem to belong to them."""
        prototypes = fitted.prototypes
        for _ in range(self._rounds):
            shares = self.logits(embedded, prototypes).softmax(-1)  # [Q, N]
            with in_full_precision(embedded):
                total = fitted.counts * fitted.prototypes + shares.T @ embedded
            prototypes = total / (fitted.counts + shares.sum(0).unsqueeze(1))
        return prototypes

    @property
    def _rounds(self) -> int:
        return self.rounds if self.training or self.eval_rounds is None else self.eval_rounds


class NearestCentroid(_Nearest):
    """The baseline that every learner must beat: class means in the space of a frozen copy of the encoder.

    Mensink, Verbeek, Perronnin, Csurka 2013, Distance-Based Image Classification. Without an encoder it compares raw inputs.
    """

    def __init__(
        self,
        encoder: nn.Module | None = None,
        *,
        distance: Literal["euclidean", "cosine"] | Distance = "euclidean",
        batch_norm: BatchNormPolicy = None,
    ) -> None:
        # A copy: it is frozen, and the user's own may go on being trained.
        super().__init__(copy.deepcopy(encoder), distance, 1.0, False, batch_norm)
        if self.encoder is not None:
            self.encoder.requires_grad_(False)

    def embed(self, x: Tensor) -> Tensor:
        return super().embed(x).detach()
