"""evaluate: against values worked out by hand, and what it must not do."""

from __future__ import annotations

import gc
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import kshot
from kshot import Batch, InputError, MetaLearner, Task
from kshot.evaluation import Evaluation, score, stream
from kshot.evaluation.once import embedding_once
from kshot.intervals import mean_interval, student
from kshot.learner import mse_loss
from kshot.models import MLP, Conv4, ConvRelation
from kshot.rules import SGD
from kshot.tasks import Episodes, Glyphs, Groups, Sinusoids
from kshot.training.progress import METRICS, read_metrics
from kshot.types import draw, identities


class Fixed(MetaLearner):
    """Answers with the logits that x holds."""

    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.functional.cross_entropy
        self.scale = nn.Parameter(torch.ones(()))

    def adapt(self, support: Batch) -> None:
        return None

    def predict(self, fitted: None, x: Tensor) -> Tensor:
        return x * self.scale


class Answers:
    """Two-way tasks whose queries are right for `right` of 4, with confidence softmax([2, 0])."""

    def __init__(self, right: list[int]) -> None:
        self.right = torch.tensor(right)

    def sample(self, n: int, generator: torch.Generator) -> Task:
        right = self.right[torch.randint(len(self.right), (n,), generator=generator)]
        y = (torch.arange(4) >= right[:, None]).long()  # class 0 is right, class 1 is answered wrongly
        x = torch.tensor([2.0, 0.0]).expand(n, 4, 2)
        support = Batch(torch.randn(n, 2, 2, generator=generator), torch.arange(2).repeat(n, 1), 2)
        return Task(support, Batch(x, y, 2))


def test_mean_interval_and_calibration_by_hand() -> None:
    found = kshot.evaluate(Fixed(), Answers([3, 1]), 400, curves=False)
    values = torch.tensor(found.values)
    assert set(found.values) == {0.25, 0.75}
    assert found.mean == pytest.approx(float(values.mean()))
    assert found.interval == pytest.approx(1.9659 * float(values.double().std()) / 20, rel=1e-4)  # t of 399
    assert found.calibration is not None
    sure = 1 / (1 + math.exp(-2))
    assert found.calibration.ece == pytest.approx(abs(sure - found.mean), abs=1e-6)
    assert found.calibration.bins == [pytest.approx((sure, found.mean, 1.0), abs=1e-6)]


def test_mean_interval_covers_the_truth_as_often_as_it_says() -> None:
    g = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(400):
        mean, half = mean_interval((torch.rand(600, generator=g) < 0.7).double().tolist())
        hits += abs(mean - 0.7) <= half
    assert 0.92 <= hits / 400 <= 0.98


def test_score_of_a_trajectory_and_of_surplus_outputs() -> None:
    query = Batch(torch.zeros(1, 2, 1), torch.tensor([[0, 1]]), 2)
    outputs = torch.tensor(
        [[[[1.0, 0.0, 9.0], [1.0, 0.0, 9.0]], [[1.0, 0.0, 9.0], [0.0, 1.0, 9.0]]]]
    )  # [T, steps, Q, 3]
    assert score(outputs, query).tolist() == [[0.5, 1.0]]  # the third output is of no class of this task
    values = Batch(torch.zeros(1, 2, 1), torch.tensor([[[1.0], [3.0]]]))
    assert score(torch.zeros(1, 2, 1), values).tolist() == [5.0]


def test_the_same_seed_gives_the_same_tasks_to_any_learner() -> None:
    seen: dict[str, list[Task]] = {"a": [], "b": []}

    class Spy(Sinusoids):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def sample(self, n: int, generator: torch.Generator) -> Task:
            tasks = super().sample(n, generator)
            seen[self.name].append(tasks)
            return tasks

    for name, lr in (("a", 0.01), ("b", 0.1)):
        learner = kshot.MAML(MLP(1, (4,), 1), loss=mse_loss, rule=SGD(lr))
        kshot.evaluate(learner, Spy(name), 45, seed=3, curves=False)
    assert all(torch.equal(a.query.y, b.query.y) for a, b in zip(seen["a"], seen["b"], strict=True))


def test_fewer_episodes_are_the_first_of_more() -> None:
    learner, tasks = kshot.NearestCentroid(), Glyphs("test", classes=20)
    few, many = (kshot.evaluate(learner, tasks, n, curves=False) for n in (30, 70))
    assert many.values[:30] == few.values


def test_nothing_is_trained_and_no_graph_grows() -> None:
    learner = kshot.MAML(MLP(1, (4,), 1), loss=mse_loss, rule=SGD(0.01), steps=2)
    before = {name: t.clone() for name, t in learner.state_dict().items()}
    state = torch.random.get_rng_state()
    learner.train()
    kshot.evaluate(learner, Sinusoids(), 40)
    gc.collect()
    tensors = sum(isinstance(o, Tensor) for o in gc.get_objects())
    for _ in range(3):
        kshot.evaluate(learner, Sinusoids(), 40)
    gc.collect()
    assert sum(isinstance(o, Tensor) for o in gc.get_objects()) <= tensors
    assert learner.training
    assert all(p.grad is None for p in learner.parameters())
    assert all(torch.equal(t, before[name]) for name, t in learner.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_curves_over_steps_and_shots() -> None:
    learner = kshot.MAML(MLP(1, (40, 40), 1), loss=mse_loss, rule=SGD(0.01), steps=1)
    kshot.fit(learner, Sinusoids(), steps=300, meta_batch=8, progress=False, vectorize="vmap")
    found = kshot.evaluate(learner, Sinusoids(10, 20), 100, curve_steps=5)
    assert found.steps_curve is not None
    assert [p.at for p in found.steps_curve] == list(range(6))
    assert found.steps_curve[1].mean == pytest.approx(found.mean)  # the same hundred tasks, after the one step
    assert found.shots_curve is not None
    shots = {p.at: p.mean for p in found.shots_curve}
    assert shots[20] < shots[1]
    assert found.adapt_ms > 0


def test_a_learner_without_steps_has_no_steps_curve_and_shots_end_with_the_examples() -> None:
    found = kshot.evaluate(kshot.NearestCentroid(), Glyphs("test", classes=20, examples=20, queries=15), 40)
    assert found.steps_curve is None
    assert found.shots_curve is not None
    assert [p.at for p in found.shots_curve] == [1, 2, 3, 5]  # twenty examples less fifteen queries


def test_classes_of_the_training_are_refused_under_any_name() -> None:
    x = torch.randn(60, 4)
    y = torch.arange(6).repeat(10)
    learner = kshot.ProtoNet(MLP(4, (8,)))
    kshot.fit(learner, Episodes((x, y), 3, 1, 2), steps=2, meta_batch=2, progress=False)
    renamed = Episodes((x, [f"class {c}" for c in y.tolist()]), 3, 1, 2)
    with pytest.raises(InputError, match=r"6 of the 6 classes .* trained on"):
        kshot.evaluate(learner, renamed, 10)
    kshot.evaluate(learner, renamed, 10, allow_seen=True)
    kshot.evaluate(learner, Episodes((torch.randn(60, 4), y), 3, 1, 2), 10)


def test_transduction_is_said() -> None:
    tasks = Glyphs("test", classes=10, size=16)
    for norm, transductive in (("batch", True), ("group", False)):
        learner = kshot.ProtoNet(Conv4(width=4, size=16, norm=norm))  # type: ignore[arg-type]
        found = kshot.evaluate(learner, tasks, 4, curves=False)
        assert found.transductive == transductive
        assert ("transductive" in str(found)) == transductive


@pytest.mark.parametrize("kind", [kshot.MAML, kshot.MAMLPlusPlus, kshot.SoftKMeans])
def test_a_query_alone_is_predicted_without_the_others(kind: Callable[..., kshot.MetaLearner]) -> None:
    """As the last of a batch with the support."""
    outputs = () if kind is kshot.SoftKMeans else (5,)
    learner = kind(Conv4(*outputs, width=4, size=16, norm="batch")).eval()
    inductive = kshot.alone(learner)
    task = draw(Glyphs("test", queries=3, classes=10, size=16), 1, kshot.seeded(0))[0]
    with torch.no_grad():
        fitted = inductive.adapt(task.support)
        together = inductive.predict(fitted, task.query.x)
        first = inductive.predict(fitted, task.query.x[:1])
        beside = learner.predict(learner.adapt(task.support), torch.cat([task.support.x, task.query.x[:1]]))
    torch.testing.assert_close(together[:1], first)
    torch.testing.assert_close(first, beside[-1:])
    assert not torch.allclose(together, learner(task.support, task.query.x))
    assert learner.transductive
    assert not inductive.transductive


def test_a_learner_alone_is_evaluated_as_others_are() -> None:
    """Task by task, its curve over steps, and the classes that it was trained on."""
    maml = kshot.MAML(Conv4(5, width=4, size=16), steps=2)
    source = Glyphs("test", queries=2, classes=10, size=16)
    found = kshot.evaluate(kshot.alone(maml), source, 20, curve_episodes=20)
    assert not found.transductive
    assert [point.at for point in found.steps_curve or []] == list(range(11))
    assert found.steps_curve is not None
    assert found.steps_curve[2].mean == pytest.approx(found.mean)
    tasks = draw(source, 20, stream(0, 0))
    maml.eval()
    with torch.no_grad():
        right = [
            float((kshot.alone(maml)(t.support, t.query.x).argmax(-1) == t.query.y).double().mean())
            for t in (tasks[i] for i in range(20))
        ]
    assert found.values == pytest.approx(right)
    maml.seen = identities(source)
    with pytest.raises(InputError, match="trained on"):
        kshot.evaluate(kshot.alone(maml), source, 20)


def test_a_learner_that_looks_at_each_query_alone_stays_what_it_is() -> None:
    learner = kshot.ProtoNet(Conv4(width=4, norm="group"))
    assert kshot.alone(learner) is learner


def test_an_evaluation_survives_json() -> None:
    found = kshot.evaluate(kshot.NearestCentroid(), Glyphs("test", classes=20), 20)
    assert Evaluation.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_variable_ways_and_shots() -> None:
    tasks = Glyphs("test", ways=(3, 8), shots=(1, 4), queries=2, classes=20, balanced=False)
    found = kshot.evaluate(kshot.NearestCentroid(), tasks, 60, curves=False)
    assert 1 / 3 < found.mean < 1


def test_a_paired_difference_by_hand() -> None:
    tasks = Glyphs("test", classes=30)
    one, other = (
        kshot.evaluate(kshot.NearestCentroid(distance=d), tasks, 30, curves=False) for d in ("euclidean", "cosine")
    )
    found = kshot.compare(other, one)
    gaps = torch.tensor(other.values) - torch.tensor(one.values)
    assert found.mean == pytest.approx(float(gaps.mean()))
    assert found.interval == pytest.approx(2.0452 * float(gaps.std()) / math.sqrt(30), rel=1e-4)  # t of 29
    assert kshot.compare(one, one).mean == 0
    assert not kshot.compare(one, one).shown
    assert "no difference shown" in str(kshot.compare(one, one))


def trained(means: Sequence[float], spread: float = 0.0, tasks: int = 40, seed: int = 0) -> list[kshot.Evaluation]:
    """Of a training each, on the same tasks: what a task adds is the same for all, and a little its own."""
    g = torch.Generator().manual_seed(seed)
    same, found = torch.randn(tasks, generator=g), []
    for mean in means:
        values = [float(v) for v in mean + same + spread * torch.randn(tasks, generator=g)]
        found.append(kshot.Evaluation("mse", statistics.fmean(values), 1.0, values, tasks, 0, False, 1.0, tasks="same"))
    return found


def test_a_difference_over_trainings_is_welchs_where_tasks_do_not_differ() -> None:
    found = kshot.compare(trained([1.0, 2.0, 3.0]), trained([4.0, 6.0, 8.0]))
    assert found.mean == pytest.approx(-4.0)
    # Variances of the means 1/3 and 4/3; (5/3)² / ((1/3)² / 2 + (4/3)² / 2) = 2.9 degrees of freedom, so t of 2.
    assert found.interval == pytest.approx(4.3027 * math.sqrt(5 / 3), rel=1e-4)
    assert found.trainings == 3
    assert not found.shown
    assert "over 3 trainings" in str(found)
    one, other = trained([1.0, 4.0])
    assert kshot.compare(one, other).shown  # of these two trainings it is: their tasks say nothing of others
    assert kshot.compare([one], [other]) == kshot.compare(one, other)
    assert kshot.compare(trained([1.0, 2.0, 3.0]), [one]).trainings == 1
    with pytest.raises(InputError, match="nothing to compare"):
        kshot.compare([], [one])
    with pytest.raises(InputError, match="episodes is 40 and 30"):
        kshot.compare([one, *trained([1.0], tasks=30)], [other])


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.3])
def test_an_interval_over_trainings_holds_the_truth_as_often_as_it_says(spread: float) -> None:
    """Of learners that are the same, three trainings each: 5 % of the intervals at most leave out zero, of single ones more."""
    g = torch.Generator().manual_seed(0)
    missed = alone = 0
    for i in range(400):
        means = [float(v) for v in spread * torch.randn(6, generator=g)]
        found = trained(means, spread=0.5, seed=i)
        missed += kshot.compare(found[:3], found[3:]).shown
        alone += kshot.compare(found[0], found[3]).shown
    assert missed / 400 < 0.07
    if spread == 0.3:
        assert missed / 400 > 0.01
        assert alone / 400 > 0.4


def test_evaluations_of_other_values_of_the_same_inputs_are_not_paired() -> None:
    learner = kshot.MAML(MLP(1, (4,), 1), loss=mse_loss, rule=SGD(0.001))
    low, high = (kshot.evaluate(learner, Sinusoids(amplitude=a), 20, curves=False) for a in ((0.1, 5.0), (5.0, 10.0)))
    with pytest.raises(InputError, match="the tasks are others"):
        kshot.compare(low, high)


@pytest.mark.parametrize(
    ("episodes", "seed", "shots", "why"),
    [(20, 0, 1, "episodes is"), (30, 1, 1, "seed is"), (30, 0, 2, "the tasks are others")],
)
def test_what_cannot_be_paired(episodes: int, seed: int, shots: int, why: str) -> None:
    one = kshot.evaluate(kshot.NearestCentroid(), Glyphs("test", classes=30), 30, curves=False)
    tasks = Glyphs("test", classes=30, shots=shots)
    other = kshot.evaluate(kshot.NearestCentroid(), tasks, episodes, seed, curves=False)
    with pytest.raises(InputError, match=why):
        kshot.compare(one, other)


class Counting(nn.Module):
    """An encoder that counts the images that it sees."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        assert len(x), "asked for the embeddings of nothing, which some encoders refuse"
        self.seen += len(x)
        out: Tensor = self.inner(x)
        return out


class OfItsOwn(Episodes):
    """Tasks of a kind that evaluation does not know: they are measured as they come."""


def small_encoder(**choices: object) -> Counting:
    torch.manual_seed(0)
    return Counting(Conv4(width=8, norm="group", halvings=2, **choices))


EMBEDDING = {
    "protonet": lambda: kshot.ProtoNet(small_encoder()),
    "matchingnet": lambda: kshot.MatchingNet(small_encoder()),
    "relationnet": lambda: kshot.RelationNet(
        small_encoder(flat=False), relation=ConvRelation(channels=8, width=8, size=7)
    ),
    "ridgenet": lambda: kshot.RidgeNet(small_encoder()),
    "logistichead": lambda: kshot.LogisticHead(small_encoder()),
    "softkmeans": lambda: kshot.SoftKMeans(small_encoder()),
    "contrastivenet": lambda: kshot.ContrastiveNet(small_encoder()),
}


@pytest.mark.parametrize("name", EMBEDDING)
def test_each_image_is_embedded_once_and_the_answers_are_the_same(name: str) -> None:
    glyphs = Glyphs("test", ways=4, shots=2, queries=4, classes=20)
    once, each = EMBEDDING[name](), EMBEDDING[name]()
    found = kshot.evaluate(once, glyphs, 100, curves=True, curve_episodes=20)
    as_they_come = OfItsOwn(glyphs.data, 4, 2, 4)
    beside = kshot.evaluate(each, as_they_come, 100, curves=True, curve_episodes=20)
    assert found.values == beside.values
    assert found.tasks == beside.tasks
    assert found.calibration.ece == pytest.approx(beside.calibration.ece, abs=1e-6)
    of_both = zip(found.shots_curve, beside.shots_curve, strict=False)
    assert all(a == b for a, b in of_both)
    with torch.no_grad():
        twin, tasks = embedding_once(once.eval(), glyphs, 0)
        assert twin is not once
        once.encoder.seen = 0
        for i in range(50):
            tasks.sample(4, kshot.seeded(i))
    assert once.encoder.seen <= len(glyphs.examples())


class Doubling(kshot.ProtoNet):
    """Learners of the user's, which do more than their encoder, or go round `encode`."""

    def encode(self, x: Tensor) -> Tensor:
        return 2 * super().encode(x)


class Direct(kshot.ProtoNet):
    def embed(self, x: Tensor) -> Tensor:
        return self.encoder(x).flatten(1)


class Deep(kshot.ProtoNet):
    def embed(self, x: Tensor) -> Tensor:
        return self.encoder.inner(x).flatten(1)


class Centred(nn.Module):
    """Compares the images of a batch, in a way that is no batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) - x.flatten(1).mean(0)


def test_progress_counts_the_tasks_of_the_curves_too() -> None:
    told: list[tuple[int, int]] = []
    tasks = Glyphs("test", ways=4, shots=1, queries=4, classes=20)
    for learner, at in ((kshot.NearestCentroid(), 0), (kshot.MAML(Conv4(outputs=4, width=4, down="stride")), 1)):
        told.clear()
        found = kshot.evaluate(learner, tasks, 40, curve_episodes=10, progress=lambda *seen: told.append(seen))
        points = at + len(found.shots_curve)
        assert [total for _, total in told] == [40 + 10 * points] * len(told)
        done = [tasks for tasks, _ in told]
        assert done[-1] == 40 + 10 * points
        assert done == sorted(done)


def test_what_hangs_on_its_batch_is_not_embedded_alone() -> None:
    """Encoders that compare the images of a batch, batch statistics, and images that are warped anew."""
    plain = Glyphs("test", ways=4, shots=2, queries=4, classes=20)
    warped = Glyphs("test", ways=4, shots=2, queries=4, classes=20, warp=3.0)
    alone = kshot.ProtoNet(small_encoder())
    learners = [kshot.ProtoNet(Centred()), kshot.ProtoNet(Conv4(width=8, norm="batch")), kshot.NearestCentroid()]
    learners += [Deep(small_encoder()), alone]
    with torch.no_grad():
        for learner, tasks in zip(learners, (plain, plain, plain, plain, warped), strict=True):
            assert embedding_once(learner.eval(), tasks, 0) == (learner, tasks)
        assert embedding_once(alone, plain, 0)[1] is not plain


@pytest.mark.parametrize("learner", [Doubling, Direct, Deep])
def test_learners_of_the_users_are_measured_as_they_are(learner: type[kshot.ProtoNet]) -> None:
    glyphs = Glyphs("test", ways=4, shots=1, queries=4, classes=20)
    found = kshot.evaluate(learner(small_encoder()), glyphs, 40, curves=False)
    as_they_come = OfItsOwn(glyphs.data, 4, 1, 4)
    assert found.values == kshot.evaluate(learner(small_encoder()), as_they_come, 40, curves=False).values


def test_encoders_that_refuse_one_example_alone_are_measured() -> None:
    """Batch norm has no statistics of one number a channel."""
    tasks = Glyphs("test", ways=4, shots=1, queries=4, classes=20)

    def flat(**choices: bool) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8, **choices))

    small = kshot.ProtoNet(Conv4(width=4, down="stride", size=16))
    for learner, source in (
        (kshot.ProtoNet(flat(track_running_stats=False)), tasks),
        (kshot.ProtoNet(flat(), batch_norm="batch"), tasks),
        (small, Glyphs("test", ways=4, shots=1, queries=4, classes=20, size=16)),
    ):
        assert kshot.evaluate(learner, source, 20).transductive


def test_the_interval_is_over_patients_where_many_tasks_are_of_one() -> None:
    """Of a learner whose error is that of the group, 600 tasks of five groups tell no more than five."""
    level = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    groups = torch.arange(5).repeat_interleave(40)
    tasks = Groups(torch.randn(200, 1), level[groups].sqrt(), groups, shots=5, queries=5)

    class Zero(kshot.RidgeNet):
        def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 1)

    found = kshot.evaluate(Zero(nn.Identity(), loss="mse"), tasks, 600)
    assert found.mean == pytest.approx(2.0, abs=1e-5)
    assert found.interval == pytest.approx(2.7764 * level.std().item() / 5**0.5, rel=1e-4)
    assert found.shots_curve[0].interval == pytest.approx(found.interval, rel=1e-4)
    assert "(95 % interval over 5 groups, 600 tasks of them" in str(found)
    other = kshot.evaluate(Zero(nn.Identity(), loss="mse"), tasks, 600)
    assert kshot.compare(found, other).groups == 5
    assert Evaluation.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    with pytest.raises(InputError, match="of one group: an interval needs at least 2"):
        kshot.evaluate(Zero(nn.Identity(), loss="mse"), tasks.only([0]), 600)


@pytest.mark.filterwarnings("error")
def test_a_training_may_be_validated_on_one_patient(tmp_path: Path) -> None:
    """Its mean chooses the best; nobody reads its interval."""
    groups = torch.arange(5).repeat_interleave(40)
    tasks = Groups(torch.randn(200, 1), torch.randn(200), groups, shots=5, queries=5)
    learner = kshot.RidgeNet(MLP(1, (4,)), loss="mse")
    options = {"steps": 2, "meta_batch": 2, "validate_every": 1, "validate_episodes": 4, "progress": False}
    kshot.fit(learner, tasks.only([0, 1, 2, 3]), validate=tasks.only([4]), out=tmp_path, **options)
    validated = [line for line in read_metrics(tmp_path / METRICS) if "val_mse" in line]
    assert [line["step"] for line in validated] == [1, 2]
    assert all(math.isfinite(line["val_mse"]) for line in validated)


def test_the_quantiles_of_student() -> None:
    """Against a printed table."""
    known = {1: 12.706, 4: 2.776, 9: 2.262, 10: 2.228, 14: 2.145, 30: 2.042, 59: 2.001, 120: 1.980, 999: 1.962}
    assert {n: round(student(n), 3) for n in known} == known


def test_a_difference_to_one_that_diverges_is_no_tie() -> None:
    assert kshot.evaluation.Difference("mse", math.nan, math.nan, 10).verdict == "one of the two diverges"
