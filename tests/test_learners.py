"""Each learner against something independent: a closed form, torch's own solvers, or its algorithm written out by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, one_hot, scaled_dot_product_attention

import kshot
from kshot import Batch, InputError, Task, meta_loss
from kshot.learner import mse_loss
from kshot.models import MLP, Conv4, ConvRelation
from kshot.rules import SGD, Adam, Curvature, LSTMRule, StrategyNetwork
from tests.conftest import classification, regression


def encoder(inputs: int = 4) -> nn.Module:
    return MLP(inputs, (6,)).double()


def one_task(ways: int = 3, shots: int = 2, features: tuple[int, ...] = (4,), **changes: int) -> Task:
    return classification(ways=ways, shots=shots, features=features, **changes)[0]


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# Ridge regression.


def design(learner: kshot.RidgeNet, x: Tensor) -> Tensor:
    features = learner.encoder(x)  # type: ignore[misc]
    return torch.cat([features / math.sqrt(features.shape[1]), torch.ones(len(x), 1).double()], 1)


@pytest.mark.parametrize("shots", [1, 5])  # fewer examples than features, and more
def test_ridge_is_least_squares_with_a_penalty(shots: int) -> None:
    task, learner = one_task(shots=shots), kshot.RidgeNet(encoder(), penalty=0.3).double()
    penalty, scale = (
        learner.log_penalty.exp().item(),
        learner.log_scale.exp().item(),
    )  # rounded to float32 before .double()
    a, y = design(learner, task.support.x), one_hot(task.support.y, 3).double()
    stacked = torch.cat(
        [a, math.sqrt(penalty) * torch.eye(a.shape[1]).double()]
    )  # min ‖AW − Y‖² + λ‖W‖² as plain least squares
    solution = torch.linalg.lstsq(stacked, torch.cat([y, torch.zeros(a.shape[1], 3).double()])).solution
    close(learner.adapt(task.support), scale * solution)
    close(learner(task.support, task.query.x), scale * design(learner, task.query.x) @ solution)


def test_ridge_regression_of_a_line_is_exact() -> None:
    x = torch.randn(20, 3).double()
    w = torch.tensor([[1.0, -2.0], [0.5, 0.0], [3.0, 1.0]]).double()
    support, query = Batch(x[:10], x[:10] @ w + 1), Batch(x[10:], x[10:] @ w + 1)
    learner = kshot.RidgeNet(nn.Identity(), loss="mse", penalty=1e-9).double()
    close(learner(support, query.x), query.y, 1e-6)
    assert learner.loss(Task(support, query)) < 1e-10


# Logistic regression.


@pytest.mark.parametrize("penalty", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("shots", [1, 5])
def test_logistic_regression_is_at_its_optimum(shots: int, penalty: float) -> None:
    task, learner = one_task(shots=shots), kshot.LogisticHead(encoder(), penalty=penalty).double()
    penalty = learner.log_penalty.exp().item()
    with torch.no_grad():
        x, found = learner.embed(task.support.x), learner.adapt(task.support) / learner.log_scale.exp()
    weights = torch.zeros_like(found).requires_grad_()

    def cost() -> Tensor:
        return cross_entropy(x @ weights, task.support.y, reduction="sum") + penalty / 2 * weights.square().sum()

    optimizer = torch.optim.LBFGS(
        [weights], max_iter=2000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = cost()
        value.backward()
        return value

    optimizer.step(closure)
    close(found, weights.detach(), 1e-6)
    with torch.no_grad():
        weights.copy_(found)
    assert torch.autograd.grad(cost(), weights)[0].abs().max() < 1e-9  # more exact than LBFGS is


# Support vector machine.


@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
@pytest.mark.parametrize(("ways", "shots", "width"), [(2, 1, 6), (5, 1, 20), (5, 5, 40), (3, 8, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_the_svm_is_at_its_optimum(ways: int, shots: int, width: int, penalty: float, seed: int) -> None:
    """Weak duality: no dual value is above any primal value, so where the two meet both are optimal."""
    task = one_task(ways=ways, shots=shots, seed=seed)
    learner = kshot.SVMHead(MLP(4, (width,)), penalty=penalty).double()
    penalty = learner.log_penalty.exp().item()
    with torch.no_grad():
        x = learner.embed(task.support.x)
        y = one_hot(task.support.y, ways).double()
        a = learner.solve(x @ x.T, y)
    assert (a <= y / penalty + 1e-9).all()
    close(a.sum(1), torch.zeros(len(a)).double(), 1e-9)
    w = x.T @ a
    scores = x @ w
    slack = (scores - (scores * y).sum(1, keepdim=True) + 1 - y).amax(1)  # Crammer, Singer: the worst margin violation
    primal = 0.5 * w.square().sum() + slack.sum() / penalty
    dual = (a * y).sum() - 0.5 * w.square().sum()
    assert primal - dual == pytest.approx(0, abs=1e-6 * max(1.0, float(primal)))


# Soft k-means.


def test_soft_k_means_climbs_a_likelihood_to_its_top() -> None:
    """Rounds are those of expectation maximization: Gaussians of variance temperature / 2, the support's classes known."""
    task = one_task(ways=3, shots=2)
    learner = kshot.SoftKMeans(encoder(), temperature=0.7).double()
    support, queries = learner.embed(task.support.x).detach(), learner.embed(task.query.x).detach()
    fitted = learner.adapt(task.support)

    def likelihood(prototypes: Tensor) -> Tensor:
        known = (support - prototypes[task.support.y]).square().sum() / 0.7
        return (-torch.cdist(queries, prototypes).square() / 0.7).logsumexp(1).sum() - known

    climbed = []
    for rounds in (0, 1, 2, 3, 10, 1000):
        learner.rounds = rounds
        top = learner.moved(fitted, queries).detach().requires_grad_()
        climbed.append(likelihood(top))
    assert all(later > earlier for earlier, later in pairwise(climbed))
    assert torch.autograd.grad(climbed[-1], top)[0].abs().max() < 1e-8


def test_soft_k_means_without_a_round_is_the_prototype_network() -> None:
    task, proto = one_task(shots=3), kshot.ProtoNet(encoder()).double()
    none, three = kshot.SoftKMeans(proto.encoder, rounds=0), kshot.SoftKMeans(proto.encoder)
    assert not none.transductive
    assert three.transductive
    close(none(task.support, task.query.x), proto(task.support, task.query.x), 1e-12)
    alone = three(task.support, task.query.x[:1])
    assert (three(task.support, task.query.x)[:1] - alone).abs().max() > 1e-6
    later = kshot.SoftKMeans(proto.encoder, rounds=0, eval_rounds=3)
    assert not later.transductive
    assert later.eval().transductive
    close(later(task.support, task.query.x), three(task.support, task.query.x), 1e-12)


METRICS: dict[str, Callable[[nn.Module], kshot.MetaLearner]] = {
    "protonet": kshot.ProtoNet,
    "protonet, cosine": lambda f: kshot.ProtoNet(f, distance="cosine"),
    "softkmeans": kshot.SoftKMeans,
    "matchingnet": kshot.MatchingNet,
    "contrastivenet": kshot.ContrastiveNet,
    "contrastivenet, cosine": lambda f: kshot.ContrastiveNet(f, distance="cosine"),
    "ridgenet": kshot.RidgeNet,
    "logistichead": kshot.LogisticHead,
}


@pytest.mark.parametrize("metric", METRICS)
def test_under_autocast_only_the_encoder_is_imprecise(metric: str) -> None:
    """Three digits would do for the layers, and not for the difference between distances; so no layer, no difference."""
    task = one_task(ways=3, shots=2, features=(40,))
    task = Task(*(Batch(b.x.float(), b.y, 3) for b in (task.support, task.query)))
    learner = METRICS[metric](nn.Identity())
    with torch.autocast("cpu", torch.bfloat16):
        found = learner(task.support, task.query.x)
    assert torch.equal(found, learner(task.support, task.query.x))


# Matching, relation, contrastive.


def test_matching_by_hand() -> None:
    task, learner = one_task(), kshot.MatchingNet(encoder(), temperature=0.5).double()
    s, q = learner.encoder(task.support.x), learner.encoder(task.query.x)  # type: ignore[misc]
    attention = torch.stack([cosine_similarity(x, s) / 0.5 for x in q]).softmax(1)
    close(learner(task.support, task.query.x).exp(), attention @ one_hot(task.support.y, 3).double())


def test_full_context_by_torchs_own_cells() -> None:
    task, learner = one_task(), kshot.MatchingNet(encoder(), full_context=True, reads=3, temperature=0.1).double()
    both, cell = nn.LSTM(6, 6, bidirectional=True).double(), nn.LSTMCell(12, 6).double()
    cell.load_state_dict(learner.attend.state_dict())
    both.load_state_dict(
        {f"{n}_l0{suffix}": p for c, suffix in ((learner.onward, ""), (learner.back, "_reverse"))
         for n, p in c.state_dict().items()}
    )  # fmt: skip
    s, q = learner.encoder(task.support.x), learner.encoder(task.query.x)  # type: ignore[misc]
    s = s + both(s)[0].unflatten(1, (2, 6)).sum(1)
    close(learner.adapt(task.support).embedded, s)
    hidden, memory = q, torch.zeros_like(q)
    for _ in range(3):
        hidden, memory = cell(torch.cat([q, (hidden @ s.T).softmax(1) @ s], 1), (hidden, memory))
        hidden = hidden + q
    attention = (cosine_similarity(hidden.unsqueeze(1), s, dim=-1) / 0.1).softmax(1)
    close(learner(task.support, task.query.x).exp(), attention @ one_hot(task.support.y, 3).double())


def test_relation_by_hand() -> None:
    task, learner = one_task(), kshot.RelationNet(encoder(), hidden=5, loss="squared_scores").double()
    s, q = learner.encoder(task.support.x), learner.encoder(task.query.x)  # type: ignore[misc]
    means = torch.stack([s[task.support.y == c].mean(0) for c in range(3)])
    scores = torch.stack([torch.cat([learner.compare(torch.cat([m, x])) for m in means]) for x in q])
    close(learner(task.support, task.query.x), scores)
    wanted = one_hot(task.query.y, 3).double()
    close(learner.loss(task), (torch.sigmoid(scores) - wanted).square().mean())


def test_relation_of_maps_by_hand() -> None:
    task = one_task(features=(1, 16, 16))
    maps = Conv4(width=3, size=16, norm="group", halvings=2, flat=False)
    compare = ConvRelation(channels=3, size=4, width=3, hidden=4, norm="group")
    learner = kshot.RelationNet(maps, relation=compare).double()
    s, q = maps(task.support.x), maps(task.query.x)
    assert s.shape == (6, 3, 4, 4)
    means = torch.stack([s[task.support.y == c].mean(0) for c in range(3)])
    close(learner(task.support, task.query.x)[1, 2], compare(torch.cat([means[2], q[1]])[None])[0, 0])
    by_pairs = kshot.RelationNet(maps, relation=nn.Sequential(compare)).double()  # has no of_all_pairs
    close(learner(task.support, task.query.x), by_pairs(task.support, task.query.x))
    for p, other in zip(*(torch.autograd.grad(x.loss(task), x.parameters()) for x in (learner, by_pairs)), strict=True):
        close(p, other)


def distance(a: Tensor, b: Tensor, cosine: bool) -> Tensor:
    return 1 - cosine_similarity(a, b, dim=0) if cosine else (a - b).square().mean().sqrt()


@pytest.mark.parametrize("kind", ["euclidean", "cosine"])
def test_contrastive_and_triplet_loss_by_hand(kind: str) -> None:
    task, margin = one_task(), 0.4
    x, y = torch.cat([task.support.x, task.query.x]), torch.cat([task.support.y, task.query.y]).tolist()
    make: Callable[..., kshot.ContrastiveNet] = kshot.ContrastiveNet
    model = encoder()
    e = model(x)
    d = [[distance(a, b, kind == "cosine") for b in e] for a in e]
    everyone = range(len(y))
    same = [d[i][j] ** 2 for i in everyone for j in everyone if i != j and y[i] == y[j]]
    other = [(margin - d[i][j]).clamp(min=0) ** 2 for i in everyone for j in everyone if y[i] != y[j]]
    found = make(model, objective="contrastive", distance=kind, margin=margin).double().loss(task)
    close(found, (torch.stack(same).mean() + torch.stack(other).mean()) / 2)
    triplets = [
        d[a][p] - d[a][n] + margin
        for a in everyone for p in everyone for n in everyone
        if a != p and y[a] == y[p] and y[a] != y[n]
    ]  # fmt: skip
    active = [t for t in triplets if t > 0]
    found = make(model, objective="triplet", distance=kind, margin=margin).double().loss(task)
    close(found, torch.stack(active).mean())


def test_contrastive_predicts_the_nearest_neighbour() -> None:
    task, learner = one_task(shots=3), kshot.ContrastiveNet(encoder()).double()
    s, q = learner.encoder(task.support.x), learner.encoder(task.query.x)  # type: ignore[misc]
    nearest = torch.cdist(q, s).argmin(1)
    assert torch.equal(learner(task.support, task.query.x).argmax(1), task.support.y[nearest])


# In-context learners.


@pytest.mark.parametrize("attentive", [False, True])
def test_a_neural_process_predicts_a_distribution_and_is_trained_by_its_likelihood(attentive: bool) -> None:
    task = regression()[0]
    learner = kshot.NeuralProcess(encoder(1), outputs=1, hidden=8, attentive=attentive, heads=2).double()
    fitted = learner.adapt(task.support)
    mean, deviation = learner.distribution(fitted, task.query.x)
    normal = torch.distributions.Normal(mean, deviation)
    close(learner.loss(task), -normal.log_prob(task.query.y).mean())
    close(learner.predict(fitted, task.query.x), mean)
    assert (deviation > 0).all()


def test_attention_is_torchs() -> None:
    task = regression()[0]
    learner = kshot.NeuralProcess(encoder(1), outputs=1, hidden=8, attentive=True, heads=2).double()
    fitted, query = learner.adapt(task.support), learner.embed(task.query.x)

    def heads(x: Tensor) -> Tensor:
        return x.reshape(1, len(x), 2, 4).transpose(1, 2)

    wanted = scaled_dot_product_attention(
        heads(learner.seek(query)), heads(learner.seek(fitted.keys)), heads(fitted.values)
    )
    close(learner._attended(query, fitted)[:, 0], wanted.transpose(1, 2).reshape(len(query), 8))


def test_a_neural_process_reads_each_class_apart() -> None:
    task, learner = one_task(), kshot.NeuralProcess(encoder(), hidden=8).double()
    means = torch.stack([learner.reader(learner.embed(task.support.x[task.support.y == c])).mean(0) for c in range(3)])
    q = learner.embed(task.query.x)
    scores = torch.stack([torch.cat([learner.writer(torch.cat([x, m])) for m in means]) for x in q])
    close(learner(task.support, task.query.x), scores)


@pytest.mark.parametrize("recall", [True, False])
def test_a_recurrent_learner_answers_before_it_is_told(recall: bool) -> None:
    """The label of example t changes the answers after t and no earlier one; and the last label counts for the query."""
    task, learner = one_task(), kshot.RecurrentLearner(encoder(), outputs=3, hidden=8, recall=recall).double()
    before = learner.adapt(task.support).said
    for t in (0, 3, 5):
        y = task.support.y.clone()
        y[t] = (y[t] + 1) % 3
        changed = Batch(task.support.x, y, 3)
        said = learner.adapt(changed).said
        assert torch.equal(said[: t + 1], before[: t + 1])
        assert not torch.isclose(said[t + 1 :], before[t + 1 :]).any()
        assert not torch.allclose(learner(changed, task.query.x), learner(task.support, task.query.x))


def test_recalling_trains_where_the_state_alone_does_not() -> None:
    tasks = kshot.tasks.Episodes(clusters(), ways=3, shots=1, queries=5, shuffle=True)
    found = {}
    for recall in (True, False):
        torch.manual_seed(0)
        learner = kshot.RecurrentLearner(MLP(8, (32,)), outputs=3, hidden=32, recall=recall)
        kshot.fit(learner, tasks, steps=250, meta_batch=16, lr=3e-3, progress=False, vectorize="vmap")
        found[recall] = kshot.evaluate(learner, tasks, 100, curves=False, allow_seen=True).mean
    assert found[True] > 0.8
    assert found[True] > found[False] + 0.1


def clusters() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(60, 1, 8, generator=g)
    return (centres + 0.2 * torch.randn(60, 8, 8, generator=g)).flatten(0, 1), torch.arange(60).repeat_interleave(8)


# Gradient learners.


def test_which_parameters_move() -> None:
    support = one_task().support
    moved = {
        name: set(make(MLP(4, (5,), 3).double()).adapt(support))
        for name, make in {"anil": kshot.ANIL, "boil": kshot.BOIL, "metakfo": kshot.MetaKFO}.items()
    }
    body, head = {"body.0.weight", "body.0.bias"}, {"head.weight", "head.bias"}
    assert moved == {"anil": head, "boil": body, "metakfo": head}


def test_names_of_papers_are_choices_of_maml() -> None:
    model = MLP(4, (5,), 3)
    assert kshot.MetaSGD(model, lr=0.3).rule.learn == "parameter"
    assert isinstance(kshot.MetaCurvature(model, rule=Adam()).rule.rule, Adam)  # type: ignore[union-attr]
    assert isinstance(kshot.MetaKFO(model).rule, Curvature)
    lstm = kshot.MetaLSTM(model, lr=0.2, hidden=3)
    assert isinstance(lstm.rule, LSTMRule)
    assert (lstm.rule.lr, lstm.rule.hidden, lstm.hypergradient) == (0.2, 3, "first-order")
    assert kshot.MetaLSTM(model, hypergradient="unrolled").hypergradient == "unrolled"


def test_each_minibatch_of_reptile_has_its_share_of_every_class() -> None:
    """In whichever order the examples come: by hand, a step on each part in turn."""
    torch.manual_seed(0)
    task = one_task(ways=3, shots=1, queries=3)
    learner = kshot.Reptile(MLP(4, (6,), 3).double(), rule=SGD(0.1), steps=2, minibatches=2).double()
    x, y = task.examples.x, task.examples.y  # four of each class
    parts = [torch.cat([(y == c).nonzero()[part::2, 0] for c in range(3)]) for part in range(2)]
    moved = copy.deepcopy(learner.model)
    optimizer = torch.optim.SGD(moved.parameters(), 0.1)
    for part in parts:
        optimizer.zero_grad()
        cross_entropy(moved(x[part]), y[part]).backward()
        optimizer.step()
    there = [(p - q).square().sum() for p, q in zip(moved.parameters(), learner.model.parameters(), strict=True)]
    close(learner.loss(task), torch.stack(there).sum() / 2)


def test_cavia_moves_the_context_alone_and_starts_at_zero() -> None:
    task = regression()[0]
    learner = kshot.CAVIA(MLP(3, (8,), 1), loss=mse_loss, context=2, rule=SGD(0.5), steps=2).double()
    path = learner.trajectory(task.support, 2)
    assert [list(p) for p in path] == [["context"]] * 3
    assert not path[0]["context"].any()
    beside = torch.cat([task.query.x, path[2]["context"].expand(4, 2)], 1)
    close(learner.predict(path[2], task.query.x), learner.model(beside))


def test_cavia_modulates_a_layer_and_leaves_no_trace() -> None:
    task = one_task(features=(1, 16, 16))
    model = Conv4(3, width=3, size=16, norm="group")
    learner = kshot.CAVIA(model, context=4, at="body.1", rule=SGD(0.5)).double()
    fitted = {"context": torch.randn(4).double()}
    scale, shift = learner.film(fitted["context"]).chunk(2)
    inside = model.body[:2](task.query.x) * (1 + scale)[:, None, None] + shift[:, None, None]
    wanted = model.head(model.body[2:](inside))
    close(learner.predict(fitted, task.query.x), wanted)
    assert not any(m._forward_hooks for m in model.modules())


def plus_plus(progress: float = 1.0, **choices: object) -> kshot.MAMLPlusPlus:
    torch.manual_seed(0)
    learner = kshot.MAMLPlusPlus(MLP(4, (5,), 3).double(), **{"lr": 0.1, "steps": 4, **choices})  # type: ignore[arg-type]
    learner.progress = progress
    return learner


def test_the_multi_step_loss_begins_as_the_mean_over_steps_and_ends_as_the_last() -> None:
    task = one_task()
    learner = plus_plus(first_order=0)
    at_each = [learner.judge(learner.predict(p, task.query.x), task.query) for p in learner.trajectory(task.support, 4)]
    for progress, weights in {
        0.0: [0.25, 0.25, 0.25, 0.25],
        0.075: [0.125, 0.125, 0.125, 0.625],
        0.15: [0, 0, 0, 1],
        1.0: [0, 0, 0, 1],
    }.items():
        learner.progress = progress
        close(
            learner.loss(task),
            sum((w * v for w, v in zip(weights, at_each[1:], strict=True)), torch.zeros(()).double()),
        )


def test_the_meta_gradient_is_first_order_at_first() -> None:
    tasks = classification()

    def grads(learner: kshot.MAMLPlusPlus) -> list[Tensor]:
        found = torch.autograd.grad(meta_loss(learner, tasks), [p for p in learner.parameters() if p.requires_grad])
        return list(found)

    early, late = grads(plus_plus(0.29, multi_step=0)), grads(plus_plus(0.31, multi_step=0))
    first = grads(plus_plus(1.0, multi_step=0, hypergradient="first-order"))
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(early, first, strict=True))
    assert not all(torch.allclose(a, b, rtol=1e-3) for a, b in zip(early, late, strict=True))


def test_each_step_has_a_normalization_of_its_own() -> None:
    task = one_task(features=(1, 16, 16))
    learner = kshot.MAMLPlusPlus(Conv4(3, width=3, size=16), lr=0.1, steps=2).double()
    assert {n.replace("/", ".") for n in learner.per_step} == {
        f"body.{i}.1.{w}" for i in range(4) for w in ("weight", "bias")
    }
    path = learner.trajectory(task.support, 4)
    with torch.no_grad():
        learner.per_step["body/0/1/weight"][2] += 1  # the last row counts from step 2 on
    again = learner.trajectory(task.support, 4)
    name = "body.0.0.weight"
    same = [torch.equal(a[name], b[name]) for a, b in zip(path, again, strict=True)]
    assert same == [True, True, True, False, False]
    assert "body.0.1.weight" not in learner.start(task.support)


def test_tracked_statistics_are_of_the_batch_in_training_and_their_average_afterwards() -> None:
    tasks = kshot.tasks.Glyphs("train", ways=8, shots=1, queries=7, classes=20, size=16)
    learner = kshot.ProtoNet(Conv4(width=4, size=16, norm="running"), batch_norm="tracked")
    before = copy.deepcopy(learner)
    kshot.fit(learner, tasks, steps=200, meta_batch=1, lr=1e-6, progress=False, vectorize="loop")
    first = learner.encoder.body[0]  # type: ignore[union-attr, index]
    every = first[0](tasks.examples())
    wanted_mean, wanted_var = every.mean((0, 2, 3)), every.var((0, 2, 3))
    torch.testing.assert_close(first[1].running_mean, wanted_mean, rtol=0.1, atol=0.02)
    torch.testing.assert_close(first[1].running_var, wanted_var, rtol=0.1, atol=0.02)

    task = tasks.sample(1, kshot.seeded(5))[0]
    batch = kshot.ProtoNet(before.encoder, batch_norm="batch").train()
    before.train()
    assert before.transductive
    torch.testing.assert_close(before.loss(task), batch.loss(task), rtol=0, atol=0)
    assert not learner.transductive  # fit leaves it in eval mode
    with torch.no_grad():
        fitted = learner.adapt(task.support)
        torch.testing.assert_close(learner.predict(fitted, task.query.x)[:1], learner.predict(fitted, task.query.x[:1]))


def test_nothing_to_track_is_said() -> None:
    with pytest.raises(InputError, match="no batch norm of the model keeps running statistics"):
        kshot.ProtoNet(Conv4(width=4), batch_norm="tracked")
    with pytest.raises(InputError, match="is no policy of this learner: choose 'batch' or 'running'"):
        kshot.MAML(Conv4(5, width=4, norm="running"), batch_norm="tracked")


def test_running_statistics_are_tracked_for_each_step_and_used_in_eval_mode() -> None:
    tasks = kshot.tasks.Glyphs("train", ways=3, shots=2, queries=3, classes=20, size=16)
    learner = kshot.MAMLPlusPlus(Conv4(3, width=4, size=16, norm="running"), lr=0.1, steps=2, batch_norm="running")
    kshot.fit(learner, tasks, steps=60, meta_batch=4, lr=1e-5, progress=False, vectorize="loop")
    assert not learner.transductive
    learner.train()
    batch = tasks.sample(60, kshot.seeded(99))
    seen = []
    for i in range(60):  # the first layer's mean at the first step, over both halves, by hand
        x = torch.cat([batch.support.x[i], batch.query.x[i]])
        convolved = learner.model.body[0][0](x)  # type: ignore[union-attr, index, operator]
        seen.append(convolved.mean((0, 2, 3)).detach())
    tracked = learner.statistics.get_buffer("body/0/1/running_mean")
    assert tracked.shape == (3, 4)
    torch.testing.assert_close(tracked[0], torch.stack(seen).mean(0), rtol=0.2, atol=0.02)
    learner.eval()
    task = batch[0]
    with torch.no_grad():
        fitted = learner.adapt(task.support)
        together, alone = learner.predict(fitted, task.query.x), learner.predict(fitted, task.query.x[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-4)


def test_fit_says_how_far_it_is_and_shows_the_tasks() -> None:
    class Watching(kshot.ProtoNet):
        def loss(self, task: Task) -> Tensor:
            seen.append(self.progress)
            return super().loss(task)

        def track(self, tasks: Task) -> None:
            tracked.append(len(tasks))

    seen: list[float] = []
    tracked: list[int] = []
    learner = Watching(MLP(8, (4,)))
    tasks = kshot.tasks.Episodes(clusters(), ways=3, shots=1, queries=2)
    kshot.fit(learner, tasks, steps=4, meta_batch=2, vectorize="vmap", progress=False)
    assert seen == [0, 0.25, 0.5, 0.75]
    assert tracked == [2, 2, 2, 2]
    assert learner.progress == 1


# Baselines.


def test_finetune_is_ordinary_training_and_then_softmax_regression() -> None:
    task = replace(one_task(), classes=torch.tensor([4, 0, 2]))
    learner = kshot.Finetune(encoder(), classes=5, rule=SGD(0.5), steps=20).double()
    x, y = torch.cat([task.support.x, task.query.x]), torch.cat([task.support.y, task.query.y])
    assert task.classes is not None
    close(learner.loss(task), cross_entropy(learner.model(x), task.classes[y]))
    head = nn.Linear(6, 3).double()
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        cross_entropy(head(learner.encoder(task.support.x).detach()), task.support.y).backward()
        optimizer.step()
    close(learner(task.support, task.query.x), head(learner.encoder(task.query.x)))


def test_finetune_learns_the_classes_and_then_new_ones() -> None:
    x, y = clusters()
    train, test = kshot.tasks.Labelled.of(x, y).split(0.6, 0.4)
    learner = kshot.Finetune(MLP(8, (32,)), classes=len(train), rule=SGD(0.3), steps=20)
    tasks = kshot.tasks.Episodes(test, ways=5, shots=1, queries=5)
    kshot.fit(
        learner,
        kshot.tasks.Episodes(train, ways=10, shots=2, queries=3),
        steps=150,
        meta_batch=2,
        lr=3e-3,
        progress=False,
    )
    assert kshot.evaluate(learner, tasks, 60, curves=False).mean > 0.85


@pytest.mark.parametrize("adapted", ["head.*", "*"])
def test_finetune_is_kept_without_the_head_of_its_training_classes(adapted: str, tmp_path: Path) -> None:
    task = one_task()
    learner = kshot.Finetune(encoder(), classes=500, adapted=adapted, rule=SGD(0.1), steps=3).double().eval()
    learner.seen = frozenset({"a"})
    small = learner.compact()
    assert sum(p.numel() for p in small.parameters()) < 100 < sum(p.numel() for p in learner.parameters())
    assert learner.classes == 500
    kshot.save(small, tmp_path / "small.safetensors")
    for other in (small, kshot.load(tmp_path / "small.safetensors", encoder=encoder()).double()):
        close(other(task.support, task.query.x), learner(task.support, task.query.x))
        assert other.seen == {"a"}


def test_finetune_needs_to_know_which_classes_these_are() -> None:
    learner = kshot.Finetune(encoder(), classes=5).double()
    with pytest.raises(InputError, match="does not say which of all classes"):
        learner.loss(one_task())
    with pytest.raises(InputError, match="class 6 and Finetune was built with classes=5"):
        learner.loss(replace(one_task(), classes=torch.tensor([5, 6, 0])))
    with pytest.raises(InputError, match="clone"):
        learner.clone()


def test_scratch_is_torch_optim_from_the_same_start() -> None:
    task, model = one_task(), MLP(4, (5,), 3).double()
    learner = kshot.Scratch(model, rule=Adam(0.05), steps=30)
    theirs = MLP(4, (5,), 3).double()
    theirs.load_state_dict(model.state_dict())
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.05)
    for _ in range(30):
        optimizer.zero_grad()
        cross_entropy(theirs(task.support.x), task.support.y).backward()
        optimizer.step()
    close(learner(task.support, task.query.x), theirs(task.query.x), 1e-9)
    with pytest.raises(InputError, match="no parameters to train"):
        kshot.fit(learner, kshot.tasks.Episodes(clusters(), ways=3, queries=5), steps=1)


def test_multitask_is_ordinary_training_on_all_examples() -> None:
    tasks, model = regression(), MLP(1, (8,), 1).double()
    learner = kshot.MultiTask(model, loss="mse", rule=SGD(0.1), steps=2)
    x = torch.cat([tasks.support.x, tasks.query.x], 1).reshape(-1, 1)
    y = torch.cat([tasks.support.y, tasks.query.y], 1).reshape(-1, 1)
    close(meta_loss(learner, tasks), mse_loss(model(x), y))


# Wrong uses.

BAD: dict[str, tuple[Callable[[], object], str]] = {
    "ridge penalty": (lambda: kshot.RidgeNet(encoder(), penalty=0), "penalty=0: give a positive number"),
    "svm scale": (lambda: kshot.SVMHead(encoder(), scale=-1), "scale=-1: give a positive number"),
    "soft k-means rounds": (lambda: kshot.SoftKMeans(encoder(), rounds=-1), "rounds=-1: give a whole number of at least 0"),
    "matching temperature": (lambda: kshot.MatchingNet(encoder(), temperature=0), "temperature=0"),
    "matching reads": (lambda: kshot.MatchingNet(encoder(), reads=0), "reads=0: give a whole number"),
    "unknown width": (lambda: kshot.RelationNet(nn.Flatten()), "set encoder.features to that number"),
    "relation with two outputs": (
        lambda: kshot.RelationNet(encoder(), relation=nn.Linear(12, 2)).double().loss(one_task()),
        "end it with one output",
    ),
    "relation of flat features": (
        lambda: kshot.RelationNet(encoder(), relation=ConvRelation()).double().loss(one_task()),
        "the encoder with flat=False",
    ),
    "objective": (lambda: kshot.ContrastiveNet(encoder(), objective="pairs"), "choose 'contrastive' or 'triplet'"),  # type: ignore[arg-type]
    "contrastive distance": (lambda: kshot.ContrastiveNet(encoder(), distance="l1"), "choose 'euclidean' or 'cosine'"),  # type: ignore[arg-type]
    "heads": (lambda: kshot.NeuralProcess(encoder(), hidden=10, attentive=True), "choose a multiple"),
    "values for classes": (
        lambda: kshot.NeuralProcess(encoder(), outputs=1).double().loss(one_task()), "a 3-way task: make the two alike",
    ),
    "classes have no distribution": (
        lambda: kshot.NeuralProcess(encoder()).double().distribution(None, torch.zeros(1)), "softmax"),  # type: ignore[arg-type]
    "more ways than outputs": (
        lambda: kshot.RecurrentLearner(encoder(), outputs=2).double().adapt(one_task().support), "build it with more outputs",
    ),
    "aside": (lambda: kshot.RecurrentLearner(encoder(), outputs=2, aside=1), "from 0 to below 1"),
    "values as classes": (
        lambda: kshot.RidgeNet(encoder(1)).double().adapt(regression()[0].support), "needs classes and this task has none",
    ),
    "context": (lambda: kshot.CAVIA(MLP(4, (5,), 3), context=0), "CAVIA has context=0: give a whole number"),
    "context nowhere": (lambda: kshot.CAVIA(MLP(4, (5,), 3), at="neck"), "no submodule 'neck' for the context"),
    "context at ReLU": (lambda: kshot.CAVIA(MLP(4, (5,), 3), at="body.1"), "has no parameters"),
    "context and weights": (lambda: kshot.CAVIA(MLP(4, (5,), 3), adapted="head.*"), "the context moves and nothing else"),
    "fixed rule": (lambda: kshot.MetaSGD(MLP(4, (5,), 3), rule=SGD()), "leave rule= out, or take MAML"),
    "fixed hypergradient": (lambda: kshot.FOMAML(MLP(4, (5,), 3), hypergradient="unrolled"), "leave hypergradient= out"),
    "boil without a head": (lambda: kshot.BOIL(nn.Sequential(nn.Linear(4, 3))), "BOIL needs a head that stays"),
    "ridge on classes by squared error": (
        lambda: kshot.RidgeNet(encoder(), loss="mse").double().loss(one_task()), "judged by the squared error",
    ),
    "context at flat maps": (
        lambda: kshot.CAVIA(Conv4(3, width=4, size=32), at="body").double().loss(one_task(features=(1, 32, 32))),
        "the context modulates 4 channels",
    ),
    "share": (lambda: plus_plus(multi_step=1.5), "a share of the training"),
    "no running statistics": (
        lambda: kshot.MAMLPlusPlus(Conv4(3), batch_norm="running"), "no batch norm of the model keeps running statistics",
    ),
    "finetune learns rates": (
        lambda: kshot.Finetune(encoder(), classes=5, rule=SGD(learn="one")), "Finetune has no meta-gradient",
    ),
    "scratch learns rates": (lambda: kshot.Scratch(MLP(4, (5,), 3), rule=SGD(learn="one")), "no meta-gradient"),
    "multitask with a learned rule": (lambda: kshot.MultiTask(MLP(1, (5,), 1), rule=LSTMRule()), "no meta-gradient"),
    "finetune on values": (lambda: kshot.Finetune(encoder(1), classes=5).double().adapt(regression()[0].support), "MultiTask"),
    "a head that half moves": (
        lambda: kshot.Finetune(encoder(), classes=5, adapted=["encoder.*", "head.weight"]), "leaves a part of the head",
    ),
    "a head that stays": (lambda: kshot.Finetune(encoder(), classes=5, adapted="encoder.*"), "leaves a part of the head"),
    "more classes than were counted": (
        lambda: meta_loss(
            kshot.Finetune(encoder(), classes=4).double(), replace(classification(), classes=torch.full((3, 3), 4)), "vmap",
        ),
        "of class 4 and Finetune was built with classes=4",
    ),
    "a context for nothing": (lambda: kshot.CAVIA(nn.Flatten()), "has no parameters"),
    "a context of true": (lambda: kshot.CAVIA(MLP(4, (5,), 3), context=True), "give a whole number"),
    "full context in words": (lambda: kshot.MatchingNet(encoder(), full_context="no"), "give True or False"),  # type: ignore[arg-type]
    "blocks that halve": (lambda: Conv4(halvings=5), "from 0 to 4"),
    "means of maps": (lambda: Conv4(average=True, flat=False), "average=True and flat=False"),
    "a head on maps": (lambda: Conv4(5, flat=False), "leave one of them out"),
    "maps too small": (lambda: ConvRelation(size=3), "halves twice"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_a_wrong_use_ends_in_a_sentence(fault: str) -> None:
    make, sentence = BAD[fault]
    with pytest.raises(InputError, match=sentence):
        make()


def test_finetune_is_measured_on_classes_that_it_was_not_trained_on() -> None:
    learner = kshot.Finetune(MLP(8, (8,)), classes=2, steps=5)
    found = kshot.evaluate(learner, kshot.tasks.Episodes(clusters(), ways=3, queries=5), 4, curves=False)
    assert found.metric == "accuracy"


@pytest.mark.parametrize(
    "make",
    [
        lambda model: kshot.MAMLPlusPlus(model, steps=2),
        lambda model: kshot.Scratch(model),
        lambda model: kshot.NearestCentroid(model),
    ],
)
def test_a_baseline_leaves_the_users_model_trainable(make: Callable[[nn.Module], object]) -> None:
    model = Conv4(3, width=3, size=16)
    before = {name: p.clone() for name, p in model.named_parameters()}
    make(model)
    learner = kshot.MAML(model, rule=SGD(0.1)).double()
    task = classification(features=(1, 16, 16))[0]
    assert learner.adapt(task.support).keys() == before.keys()


@pytest.mark.parametrize(
    "make",
    [
        lambda: kshot.MAML(MLP(4, (5,), 3).double(), rule=StrategyNetwork(hidden=3)),
        lambda: kshot.MetaLSTM(MLP(4, (5,), 3).double()),
        lambda: kshot.CAVIA(MLP(4, (5,), 3).double(), at="body.0"),
        lambda: kshot.MatchingNet(MLP(4, (5,)).double(), full_context=True),
        lambda: kshot.RelationNet(MLP(4, (5,)).double()),
        lambda: kshot.NeuralProcess(MLP(4, (5,)).double(), attentive=True),
        lambda: kshot.RecurrentLearner(MLP(4, (5,)).double(), outputs=3),
        lambda: kshot.Finetune(MLP(4, (5,)).double(), classes=5),
    ],
)
def test_a_float64_model_is_enough(make: Callable[[], kshot.MetaLearner]) -> None:
    """What a learner adds is of its model's kind."""
    learner, task = make(), classification()[0]
    assert learner(task.support, task.query.x).dtype == torch.float64


@pytest.mark.parametrize("norm", [nn.LayerNorm([8, 4]), nn.InstanceNorm1d(4, affine=True)])
def test_maml_plus_plus_has_rows_of_every_normalization(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 32), nn.Unflatten(1, (8, 4) if isinstance(norm, nn.LayerNorm) else (4, 8)), norm)
    learner = kshot.MAMLPlusPlus(nn.Sequential(model, nn.Flatten(), nn.Linear(32, 3)), steps=2).double()
    assert {n.replace("/", ".") for n in learner.per_step} == {"0.2.weight", "0.2.bias"}
    for rows in learner.per_step.values():
        assert rows.shape == (3, *norm.weight.shape)
    assert not any(name.startswith("0.2.") for name in learner.start())
    assert torch.isfinite(meta_loss(learner, classification()))


@pytest.mark.parametrize("size", [1e-2, 1.0, 100.0])
@pytest.mark.parametrize("penalty", [1e-3, 1.0])
def test_heads_are_solved_at_any_scale_of_features(size: float, penalty: float) -> None:
    task = one_task(ways=5, shots=5)
    x = torch.randn(25, 40, generator=kshot.seeded(0)).double() * size
    y = one_hot(task.support.y, 5).double()
    with torch.no_grad():
        a = kshot.SVMHead(nn.Identity(), penalty=penalty).solve(x @ x.T, y)
        w = x.T @ a
        scores = x @ w
        slack = (scores - (scores * y).sum(1, keepdim=True) + 1 - y).amax(1)
        primal, dual = 0.5 * w.square().sum() + slack.sum() / penalty, (a * y).sum() - 0.5 * w.square().sum()
        assert 0 <= float(primal - dual) < 1e-7 * float(primal)
        logistic = kshot.LogisticHead(nn.Identity(), penalty=penalty)
        w = x.T @ logistic.solve(x @ x.T, y)
        slope = x.T @ ((x @ w).softmax(1) - y) + logistic.log_penalty.exp() * w
        assert float(slope.abs().max()) < 1e-6 * size


def test_a_saved_maml_plus_plus_goes_on_where_it_was(tmp_path: Path) -> None:
    learner = kshot.MAMLPlusPlus(Conv4(3, width=3, size=16), steps=2, lr=0.3)
    kshot.save(learner, tmp_path / "a.safetensors")
    again = kshot.load(tmp_path / "a.safetensors")
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in learner.named_parameters() if p.requires_grad
    }


def test_the_means_of_maps_are_features() -> None:
    maps, means = Conv4(width=3, size=16, flat=False), Conv4(width=3, size=16, average=True)
    means.load_state_dict(maps.state_dict())
    x = torch.randn(2, 1, 16, 16)
    assert means.features == 3
    torch.testing.assert_close(means(x), maps(x).mean((2, 3)))
