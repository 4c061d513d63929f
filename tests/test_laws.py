"""The laws of the design, for every learner in the table. A new learner adds its rows to CASES.

Biases are made random before the tests of derivatives: at zero, a ReLU can sit exactly on its kink, where rounding decides
the derivative.
"""

from __future__ import annotations

import copy
import gc
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

import kshot
from kshot import Batch, InputError, MetaLearner, Task, meta_loss
from kshot.functional import call
from kshot.learner import mse_loss
from kshot.learners import LEARNERS
from kshot.models import MLP, Conv4, ConvRelation, GaussianPolicy, ResNet12
from kshot.rules import SGD, Adam, Curvature, LSTMRule, RMSprop, StrategyNetwork
from tests.conftest import classification, regression, trajectories

IMAGE = (1, 16, 16)


def mlp(outputs: int | None = 3) -> nn.Module:
    return MLP(4, (6,), outputs)


def conv(outputs: int | None = 3, **choices: object) -> nn.Module:
    return Conv4(outputs, width=3, size=16, **choices)  # type: ignore[arg-type]


def frozen_body() -> nn.Module:
    model = mlp()
    model.body.requires_grad_(False)  # type: ignore[union-attr]
    return model


@dataclass(frozen=True)
class Case:
    """learner: its name in the table; claim: what its meta-gradient is; features: of its classification tasks, None for values.

    values: makes the tasks of a learner of values.
    """

    learner: str
    make: Callable[[], MetaLearner]
    claim: str = "exact"
    features: tuple[int, ...] | None = (4,)
    values: Callable[..., Task] = regression
    any_targets: bool = False  # whether it takes regression targets of any shape

    def tasks(self, **changes: int) -> Task:
        if self.features is None:
            return self.values(**changes)
        tasks = classification(features=self.features, **changes)
        return replace(tasks, classes=torch.tensor([4, 0, 2]).repeat(len(tasks), 1))  # of five that there are

    def build(self) -> MetaLearner:
        learner = self.make().double()
        with torch.no_grad():
            for p in learner.parameters():
                p.add_(0.05 * torch.randn_like(p))
        return learner


def policy(**choices: object) -> Case:
    def make() -> MetaLearner:
        return kshot.PolicyMAML(GaussianPolicy(4, 2, (6,)), **{"rule": SGD(0.1), **copy.deepcopy(choices)})  # type: ignore[arg-type]

    return Case("policy-maml", make, features=None, values=trajectories)


CASES = {
    "maml": Case("maml", lambda: kshot.MAML(mlp(), rule=SGD(0.1), steps=3)),
    "maml-eval-steps": Case("maml", lambda: kshot.MAML(mlp(), rule=SGD(0.1, momentum=0.9), steps=2, eval_steps=5)),
    "maml-regression": Case(
        "maml", lambda: kshot.MAML(MLP(1, (8, 8), 1), loss=mse_loss, rule=SGD(0.05), steps=2), features=None
    ),
    "maml-conv-batchnorm": Case("maml", lambda: kshot.MAML(conv(norm="batch"), rule=SGD(0.1), steps=2), features=IMAGE),
    "maml-conv-strided-groupnorm": Case(
        "maml", lambda: kshot.MAML(conv(norm="group", down="stride"), rule=SGD(0.1)), features=IMAGE
    ),
    "maml-learned-rates": Case("maml", lambda: kshot.MAML(mlp(), rule=SGD(0.1, learn="tensor-step"), steps=2)),
    "maml-meta-sgd": Case("maml", lambda: kshot.MAML(mlp(), rule=SGD(0.1, learn="parameter"))),
    "maml-frozen-body": Case("maml", lambda: kshot.MAML(frozen_body(), rule=SGD(0.1, learn="tensor"), steps=2)),
    "fomaml": Case("fomaml", lambda: kshot.FOMAML(mlp(), rule=SGD(0.1), steps=3), "first-order"),
    "fomaml-conv": Case("fomaml", lambda: kshot.FOMAML(conv(), rule=SGD(0.1), steps=2), "first-order", IMAGE),
    "anil": Case("anil", lambda: kshot.ANIL(mlp(), rule=SGD(0.1), steps=3)),
    "anil-conv": Case("anil", lambda: kshot.ANIL(conv(), rule=SGD(0.1), steps=2), features=IMAGE),
    "reptile": Case("reptile", lambda: kshot.Reptile(mlp(), rule=SGD(0.1), steps=3), "reptile"),
    "reptile-conv": Case("reptile", lambda: kshot.Reptile(conv(), rule=SGD(0.1), steps=2), "reptile", IMAGE),
    "protonet": Case("protonet", lambda: kshot.ProtoNet(mlp(None))),
    "protonet-cosine": Case("protonet", lambda: kshot.ProtoNet(mlp(None), distance="cosine")),
    "protonet-callable": Case("protonet", lambda: kshot.ProtoNet(mlp(None), distance=torch_manhattan)),
    "protonet-conv": Case("protonet", lambda: kshot.ProtoNet(conv(None)), features=IMAGE),
    "protonet-tracked": Case(
        "protonet", lambda: kshot.ProtoNet(conv(None, norm="running"), batch_norm="tracked"), features=IMAGE
    ),
    "softkmeans": Case("softkmeans", lambda: kshot.SoftKMeans(mlp(None))),
    "softkmeans-cosine": Case("softkmeans", lambda: kshot.SoftKMeans(mlp(None), distance="cosine", rounds=1)),
    "protonet-resnet": Case(
        "protonet",
        lambda: kshot.ProtoNet(ResNet12(widths=(2, 2, 3, 3), channels=1, size=16, norm="group")),
        features=IMAGE,
    ),
    "policy-maml": policy(steps=2),
    "policy-maml-learned-rates": policy(rule=SGD(0.1, learn="tensor-step"), steps=2, eval_steps=3),
    "policy-maml-head-momentum": policy(rule=SGD(0.1, momentum=0.9), steps=2, adapted=["head.*", "log_std"], clip=0.5),
    "nearest-centroid": Case("nearest-centroid", lambda: kshot.NearestCentroid(), "none"),
    "nearest-centroid-conv": Case("nearest-centroid", lambda: kshot.NearestCentroid(conv(None)), "none", IMAGE),
    # Rules.
    "maml-adam": Case("maml", lambda: kshot.MAML(mlp(), rule=Adam(0.1), steps=2)),
    "maml-rmsprop": Case("maml", lambda: kshot.MAML(mlp(), rule=RMSprop(0.1, momentum=0.5, clip=1.0), steps=2)),
    "maml-all-of-adam-learned": Case(
        "maml",
        lambda: kshot.MAML(
            mlp(),
            rule=Adam(
                0.1,
                weight_decay=0.1,
                clip=0.5,
                learn={
                    "lr": "tensor",
                    "beta1": "one",
                    "beta2": "step",
                    "eps": "one",
                    "weight_decay": "one",
                    "clip": "one",
                },
            ),
            steps=3,
        ),
    ),
    "maml-lstm": Case("maml", lambda: kshot.MAML(mlp(), rule=LSTMRule(0.1, hidden=4), steps=2)),
    "maml-strategy-rate": Case("maml", lambda: kshot.MAML(mlp(), rule=StrategyNetwork(hidden=4), steps=3)),
    "maml-strategy-update": Case(
        "maml",
        lambda: kshot.MAML(MLP(1, (8,), 1), loss=mse_loss, rule=StrategyNetwork(emits="update", hidden=4), steps=3),
        features=None,
    ),
    "maml-strategy-first-order": Case(
        "maml", lambda: kshot.FOMAML(mlp(), rule=StrategyNetwork(hidden=4), steps=2), "first-order-rule"
    ),
    "maml-curvature-adam": Case(
        "maml", lambda: kshot.MAML(conv(norm="none"), rule=Curvature(Adam(0.05)), steps=2), features=IMAGE
    ),
    # Gradient learners.
    "boil": Case("boil", lambda: kshot.BOIL(mlp(), rule=SGD(0.1), steps=2)),
    "metasgd": Case("metasgd", lambda: kshot.MetaSGD(mlp(), lr=0.1)),
    "mamlplusplus": Case("mamlplusplus", lambda: kshot.MAMLPlusPlus(mlp(), lr=0.1, steps=2)),
    "mamlplusplus-conv": Case("mamlplusplus", lambda: kshot.MAMLPlusPlus(conv(), lr=0.1, steps=2), features=IMAGE),
    "mamlplusplus-start": Case(
        "mamlplusplus",
        lambda: at_progress(0.0, kshot.MAMLPlusPlus(conv(norm="group"), lr=0.1, steps=4, first_order=0)),
        features=IMAGE,
    ),
    "mamlplusplus-running": Case(
        "mamlplusplus",
        lambda: kshot.MAMLPlusPlus(conv(norm="running"), lr=0.1, steps=2, batch_norm="running"),
        features=IMAGE,
    ),
    "cavia": Case(
        "cavia", lambda: kshot.CAVIA(MLP(3, (8, 8), 1), loss=mse_loss, context=2, rule=SGD(0.5), steps=2), features=None
    ),
    "cavia-film": Case(
        "cavia", lambda: kshot.CAVIA(conv(), context=4, at="body.1", rule=SGD(0.5), steps=2), features=IMAGE
    ),
    "metacurvature": Case("metacurvature", lambda: kshot.MetaCurvature(mlp(), rule=SGD(0.1), steps=2)),
    "metakfo": Case("metakfo", lambda: kshot.MetaKFO(mlp(), rule=SGD(0.1), steps=2)),
    "metalstm": Case("metalstm", lambda: kshot.MetaLSTM(mlp(), hidden=4, steps=2), "first-order-rule"),
    # Metric learners.
    "matchingnet": Case("matchingnet", lambda: kshot.MatchingNet(mlp(None))),
    "matchingnet-full-context": Case("matchingnet", lambda: kshot.MatchingNet(mlp(None), full_context=True, reads=2)),
    "relationnet": Case("relationnet", lambda: kshot.RelationNet(mlp(None), hidden=5)),
    "relationnet-conv": Case(
        "relationnet",
        lambda: kshot.RelationNet(
            conv(None, halvings=2, flat=False), relation=ConvRelation(channels=3, size=4, width=3, hidden=4)
        ),
        features=IMAGE,
    ),
    "ridgenet": Case("ridgenet", lambda: kshot.RidgeNet(mlp(None))),
    "ridgenet-regression": Case(
        "ridgenet", lambda: kshot.RidgeNet(MLP(1, (8,)), loss=mse_loss, penalty=0.1), features=None, any_targets=True
    ),
    "logistichead": Case("logistichead", lambda: kshot.LogisticHead(mlp(None))),
    "svmhead": Case("svmhead", lambda: kshot.SVMHead(mlp(None))),
    "svmhead-soft": Case("svmhead", lambda: kshot.SVMHead(mlp(None), penalty=10.0)),
    "contrastivenet": Case("contrastivenet", lambda: kshot.ContrastiveNet(mlp(None))),
    "contrastivenet-triplet": Case(
        "contrastivenet", lambda: kshot.ContrastiveNet(mlp(None), objective="triplet", distance="cosine")
    ),
    # In-context learners.
    "neuralprocess": Case("neuralprocess", lambda: kshot.NeuralProcess(mlp(None), hidden=8)),
    "neuralprocess-attentive": Case(
        "neuralprocess", lambda: kshot.NeuralProcess(mlp(None), hidden=8, attentive=True, heads=2)
    ),
    "neuralprocess-regression": Case(
        "neuralprocess", lambda: kshot.NeuralProcess(MLP(1, (8,)), outputs=1, hidden=8), features=None
    ),
    "neuralprocess-attentive-regression": Case(
        "neuralprocess",
        lambda: kshot.NeuralProcess(MLP(1, (8,)), outputs=1, hidden=8, attentive=True, heads=2),
        features=None,
    ),
    "recurrent": Case("recurrent", lambda: kshot.RecurrentLearner(mlp(None), outputs=3, hidden=8)),
    "recurrent-regression": Case(
        "recurrent", lambda: kshot.RecurrentLearner(MLP(1, (8,)), outputs=1, regression=True, hidden=8), features=None
    ),
    # Baselines.
    "finetune": Case("finetune", lambda: kshot.Finetune(mlp(None), classes=5, rule=SGD(0.1), steps=3)),
    "finetune-all": Case(
        "finetune", lambda: kshot.Finetune(conv(None), classes=5, rule=SGD(0.1), steps=2, adapted="*"), features=IMAGE
    ),
    "multitask": Case(
        "multitask", lambda: kshot.MultiTask(MLP(1, (8,), 1), loss=mse_loss, rule=SGD(0.1), steps=2), features=None
    ),
    "scratch": Case("scratch", lambda: kshot.Scratch(mlp(), rule=Adam(0.1), steps=5), "none"),
}


def at_progress(progress: float, learner: MetaLearner) -> MetaLearner:
    learner.progress = progress
    return learner


def torch_manhattan(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().sum(-1)


def test_every_learner_in_the_table_is_under_the_laws() -> None:
    assert {case.learner for case in CASES.values()} == set(LEARNERS)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def gradients(learner: MetaLearner, tasks: Task, vectorize: str | int = "loop") -> dict[str, Tensor]:
    learner.zero_grad()
    value = meta_loss(learner, tasks, vectorize)  # type: ignore[arg-type]
    if value.requires_grad:
        value.backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in learner.named_parameters()}


# Law 1: a loop over tasks, vmap and chunks give the same losses and meta-gradients.


def test_loop_vmap_and_chunks_agree(case: Case) -> None:
    learner, tasks = case.build(), case.tasks(tasks=5)
    loop_loss, loop = meta_loss(learner, tasks, "loop"), gradients(learner, tasks)
    for way in ("vmap", 2, "auto"):
        torch.testing.assert_close(meta_loss(learner, tasks, way), loop_loss, rtol=1e-9, atol=1e-9)  # type: ignore[arg-type]
        for name, g in gradients(learner, tasks, way).items():
            torch.testing.assert_close(g, loop[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


# Law 2: the meta-gradient is what the learner claims.


def central_difference(
    function: Callable[[], Tensor], along: dict[str, Tensor], of: nn.Module, eps: float = 1e-7
) -> float:
    """d function / d direction, moving the module's parameters."""
    own = dict(of.named_parameters())

    def moved(by: float) -> float:
        before = {name: own[name].detach().clone() for name in along}
        with torch.no_grad():
            for name, v in along.items():
                own[name] += by * v
            value = float(function())
            for name in along:
                own[name].copy_(before[name])
        return value

    return (moved(eps) - moved(-eps)) / (2 * eps)


def test_meta_gradient_is_what_is_claimed(case: Case) -> None:
    learner, tasks = case.build(), case.tasks(tasks=2)
    found = gradients(learner, tasks)
    CLAIMS[case.claim](learner, tasks, found)


def claim_exact(learner: MetaLearner, tasks: Task, found: dict[str, Tensor]) -> None:
    trained = {n: p for n, p in learner.named_parameters() if p.requires_grad}
    trained = {
        n: p for n, p in trained.items() if not n.startswith("per_step.") or found[n].any()
    }  # rows of no step yet
    assert all(found[n].abs().sum() > 0 or _dead_by_design(learner, n) for n in trained)
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        along = {n: torch.randn(p.shape, generator=g, dtype=p.dtype) for n, p in trained.items()}
        slope = central_difference(lambda: meta_loss(learner, tasks, "loop"), along, learner)
        assert slope == pytest.approx(sum(float((found[n] * v).sum()) for n, v in along.items()), rel=2e-5, abs=1e-8)


def _dead_by_design(learner: MetaLearner, name: str) -> bool:
    """A bias before batch norm has no effect at all; one in the only layer of an encoder moves all prototypes alike."""
    model = getattr(learner, "model", None) or getattr(learner, "encoder", None)
    return name.endswith("0.bias") and getattr(model, "norm", None) == "batch"


def adapted_by_torch_optim(learner: MetaLearner, x: Tensor, y: Tensor) -> nn.Module:
    """The inner loop as anybody would write it."""
    model = copy.deepcopy(learner.model)
    assert isinstance(model, nn.Module)
    optimizer = torch.optim.SGD(model.parameters(), lr=learner.rule.lr)  # type: ignore[union-attr, arg-type]
    for _ in range(learner.steps):  # type: ignore[arg-type]
        optimizer.zero_grad()
        learner.criterion(model(x), y).backward()
        optimizer.step()
    return model


def claim_first_order(learner: MetaLearner, tasks: Task, found: dict[str, Tensor]) -> None:
    """The gradient of the query loss at the adapted parameters."""
    wanted = {n: torch.zeros_like(g) for n, g in found.items()}
    for i in range(len(tasks)):
        s, q = tasks[i].support, tasks[i].query
        model = adapted_by_torch_optim(learner, s.x, s.y)
        model.zero_grad()
        (learner.criterion(model(q.x), q.y) / len(tasks)).backward()
        for n, p in model.named_parameters():
            assert p.grad is not None
            wanted[f"model.{n}"] += p.grad
    for n, g in found.items():
        torch.testing.assert_close(g, wanted[n], rtol=1e-9, atol=1e-11)


def claim_reptile(learner: MetaLearner, tasks: Task, found: dict[str, Tensor]) -> None:
    """θ − φ, with φ learned from all the examples of the task."""
    wanted = {n: torch.zeros_like(g) for n, g in found.items()}
    for i in range(len(tasks)):
        s, q = tasks[i].support, tasks[i].query
        model = adapted_by_torch_optim(learner, torch.cat([s.x, q.x]), torch.cat([s.y, q.y]))
        for (n, p), start in zip(model.named_parameters(), learner.model.parameters(), strict=True):  # type: ignore[union-attr]
            wanted[f"model.{n}"] += (start - p).detach() / len(tasks)
    for n, g in found.items():
        torch.testing.assert_close(g, wanted[n], rtol=1e-9, atol=1e-11)


def claim_none(learner: MetaLearner, tasks: Task, found: dict[str, Tensor]) -> None:
    assert not meta_loss(learner, tasks, "vmap").requires_grad
    assert not [p for p in learner.parameters() if p.requires_grad]


def claim_first_order_rule(learner: MetaLearner, tasks: Task, found: dict[str, Tensor]) -> None:
    """The derivative of the query loss through the rule, with the inner gradients and losses held at what they are."""
    trained = dict(learner.named_parameters())
    constants: list[list[tuple[dict[str, Tensor], Tensor]]] = []
    for i in range(len(tasks)):
        constants.append([])
        params, state = learner.start(), learner.rule.init(learner.start())  # type: ignore[operator, union-attr]
        for _ in range(learner.steps):  # type: ignore[arg-type]
            grads, loss = torch.func.grad_and_value(
                lambda p, s=tasks[i].support: learner.criterion(learner.predict(p, s.x), s.y)
            )({n: p.detach() for n, p in params.items()})
            constants[i].append(({n: g.detach() for n, g in grads.items()}, loss.detach()))
            params, state = learner.rule.step(params, grads, learner.rule.observe(state, loss))  # type: ignore[operator, union-attr]

    def surrogate() -> Tensor:
        losses = []
        for i in range(len(tasks)):
            params, state = learner.start(), learner.rule.init(learner.start())  # type: ignore[operator, union-attr]
            for grads, loss in constants[i]:
                params, state = learner.rule.step(params, grads, learner.rule.observe(state, loss))  # type: ignore[operator, union-attr]
            losses.append(learner.criterion(learner.predict(params, tasks[i].query.x), tasks[i].query.y))
        return torch.stack(losses).mean()

    assert float(surrogate().detach()) == pytest.approx(float(meta_loss(learner, tasks).detach()), rel=1e-12)
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        along = {n: torch.randn(p.shape, generator=g, dtype=p.dtype) for n, p in trained.items()}
        slope = central_difference(surrogate, along, learner)
        assert slope == pytest.approx(sum(float((found[n] * v).sum()) for n, v in along.items()), rel=2e-5, abs=1e-8)


CLAIMS = {
    "exact": claim_exact,
    "first-order": claim_first_order,
    "first-order-rule": claim_first_order_rule,
    "reptile": claim_reptile,
    "none": claim_none,
}


# Law 3: the order of the support examples does not matter; renumbering classes renumbers predictions.


def test_support_order_does_not_matter(case: Case) -> None:
    learner, task = case.build().eval(), case.tasks()[0]
    order = torch.randperm(len(task.support))
    with torch.no_grad():
        shuffled, straight = learner(task.support[order], task.query.x), learner(task.support, task.query.x)
    assert torch.allclose(shuffled, straight, rtol=1e-9, atol=1e-9) == learner.order_free


def test_renumbering_classes_renumbers_predictions(case: Case) -> None:
    learner, task = case.build().eval(), case.tasks()[0]
    if task.support.ways is None:
        return
    new = torch.tensor([2, 0, 1])  # class c becomes new[c]
    renumbered = replace(task.support, y=new[task.support.y])
    with torch.no_grad():
        before = learner(task.support, task.query.x)
        same = torch.allclose(learner(renumbered, task.query.x)[:, new], before, rtol=1e-9, atol=1e-9)
        assert same == learner.class_symmetric
        if not learner.class_symmetric:  # it is the head alone, and its learning rates, that know numbers
            for name, p in learner.named_parameters():
                renumber_head(name, p, new.argsort())
            torch.testing.assert_close(learner(renumbered, task.query.x)[:, new], before, rtol=1e-9, atol=1e-9)


def renumber_head(name: str, p: Tensor, old: Tensor) -> None:
    """Rows of the head and of what is learned for it; a matrix that maps its rows; the labels that a recurrent cell reads."""
    if "head" in name and p.shape[:1] == (3,) and not name.endswith("/1"):  # an axis of features may be as long
        p.copy_(p.clone()[old])
        if "matrices" in name:
            p.copy_(p.clone()[:, old])
    if name == "cell.weight_ih":
        p[:, -3:] = p[:, -3:].clone()[:, old]


# Law 4: adapt, predict and loss change nothing.


def test_nothing_is_changed(case: Case) -> None:
    learner, tasks = case.build(), case.tasks()
    before, data = copy.deepcopy(learner.state_dict()), copy.deepcopy(tasks)
    first = learner(tasks[0].support, tasks[0].query.x)
    learner.loss(tasks[0])
    learner.trajectory(tasks[0].support, 2)
    meta_loss(learner, tasks, "vmap")
    assert torch.equal(learner(tasks[0].support, tasks[0].query.x), first)
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name]), name
    for a, b in ((tasks.support, data.support), (tasks.query, data.query)):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)


# Law 5: the other query examples do not matter, unless the learner declares that they do.


def test_other_queries_do_not_matter_unless_declared(case: Case) -> None:
    learner, task = case.build().eval(), case.tasks()[0]
    with torch.no_grad():
        fitted = learner.adapt(task.support)
        together = learner.predict(fitted, task.query.x)
        alone = torch.cat([learner.predict(fitted, task.query.x[i : i + 1]) for i in range(len(task.query))])
    independent = torch.allclose(together, alone, rtol=1e-9, atol=1e-9)
    assert independent != learner.transductive


# Law 6: memory does not grow.


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_memory_does_not_grow_over_a_thousand_steps(name: str) -> None:
    case = CASES[name]
    learner, tasks = case.build(), case.tasks(tasks=2)
    trained = [p for p in learner.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained) if trained else None

    def run(steps: int) -> tuple[int, int]:
        for _ in range(steps):
            value = meta_loss(learner, tasks, "vmap")
            if optimizer is not None:
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tensors = sum(isinstance(o, Tensor) for o in gc.get_objects())
        return tensors, _resident()

    tensors, resident = run(200)
    more_tensors, more_resident = run(1000)
    assert more_tensors <= tensors
    assert more_resident - resident < 2 * 2**20


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


# Law 7: saved and loaded, it predicts the same, to the bit.


def test_saved_and_loaded_it_predicts_the_same(case: Case, tmp_path) -> None:  # type: ignore[no-untyped-def]
    learner, task = case.build().eval(), case.tasks()[0]
    learner.seen, learner.features = frozenset({"a", "b"}), tuple(task.support.x.shape[1:])
    kshot.save(learner, tmp_path / "learner.safetensors")
    given = {"distance": torch_manhattan} if getattr(learner, "distance", None) is torch_manhattan else {}
    loaded = kshot.load(tmp_path / "learner.safetensors", **given)
    assert type(loaded) is type(learner)
    trained = [[n for n, p in x.named_parameters() if p.requires_grad] for x in (loaded, learner)]
    assert trained[0] == trained[1]
    assert (loaded.seen, loaded.features) == (learner.seen, learner.features)
    assert loaded.state_dict().keys() == learner.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(loaded(task.support, task.query.x), learner(task.support, task.query.x))
    header = (tmp_path / "learner.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    assert json.loads(header[8 : 8 + size])["__metadata__"].keys() == {"kshot"}  # safetensors and JSON, nothing else


# Law 8: a bad task ends in a sentence.

Spoil = Callable[[Task], Task]


def on_support(change: Callable[[Batch], Batch]) -> Spoil:
    return lambda task: replace(task, support=change(task.support))


def on_query(change: Callable[[Batch], Batch]) -> Spoil:
    return lambda task: replace(task, query=change(task.query))


def poisoned(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x.view(-1)[3] = value
    return x


BAD: dict[str, tuple[Spoil, str]] = {
    "labels too few": (on_support(lambda b: replace(b, y=b.y[:, :-1])), "must agree"),
    "x is a list": (on_support(lambda b: replace(b, x=b.x.tolist())), "must be a tensor"),
    "nan in support": (on_support(lambda b: replace(b, x=poisoned(b.x, float("nan")))), "NaN or infinite"),
    "inf in query": (on_query(lambda b: replace(b, x=poisoned(b.x, float("inf")))), "NaN or infinite"),
    "no support": (on_support(lambda b: b[:, :0]), "at least one example"),
    "no query": (on_query(lambda b: b[:, :0]), "at least one example"),
    "other features in query": (on_query(lambda b: replace(b, x=torch.cat([b.x, b.x], -1))), "make them alike"),
    "different numbers of tasks": (on_query(lambda b: b[:-1]), "same number of tasks"),
    "complex": (on_support(lambda b: replace(b, x=b.x + 0j)), "complex"),
}
BAD_CLASSES: dict[str, tuple[Spoil, str]] = {
    "label too high": (on_support(lambda b: replace(b, y=b.y + 1)), "relabel the classes"),
    "label negative": (on_query(lambda b: replace(b, y=b.y - 1)), "relabel the classes"),
    "labels are floats": (on_support(lambda b: replace(b, y=b.y.double())), "torch.int64"),
    "labels are one-hot": (on_support(lambda b: replace(b, y=nn.functional.one_hot(b.y))), "argmax"),
    "class without example": (on_support(lambda b: replace(b, y=torch.zeros_like(b.y))), "at least one"),
    "ways differ": (on_query(lambda b: replace(b, ways=4)), "share"),
    "ways forgotten": (lambda t: Task(Batch(t.support.x, t.support.y), Batch(t.query.x, t.query.y)), "ways=N"),
}
BAD_VALUES: dict[str, tuple[Spoil, str]] = {
    "targets in another shape": (
        lambda t: Task(Batch(t.support.x, t.support.y[..., 0]), Batch(t.query.x, t.query.y[..., 0])),
        "make the two alike",
    ),
    "targets are integers": (on_support(lambda b: replace(b, y=b.y.long())), "floating point"),
    "nan in targets": (on_support(lambda b: replace(b, y=poisoned(b.y, float("nan")))), "NaN or infinite"),
}


@pytest.mark.parametrize("fault", [*BAD, *BAD_CLASSES, *BAD_VALUES])
def test_a_bad_task_ends_in_a_sentence(case: Case, fault: str) -> None:
    if fault in (BAD_VALUES if case.features is not None else BAD_CLASSES):
        return
    spoil, sentence = (BAD | BAD_CLASSES | BAD_VALUES)[fault]
    learner, task = case.build(), spoil(case.tasks())
    if fault == "targets in another shape" and case.any_targets:
        meta_loss(learner, task)
        return
    for way in ("vmap", "loop"):
        with pytest.raises(InputError, match=sentence):
            meta_loss(learner, task, way)  # type: ignore[arg-type]
    support_is_bad = fault in {f for f in BAD | BAD_CLASSES | BAD_VALUES if "query" not in f} - {
        "label negative",
        "ways differ",
        "different numbers of tasks",
    }
    if support_is_bad and fault not in ("x is a list",):
        with pytest.raises(InputError, match=sentence):  # asked directly, without a batch of tasks
            learner(task.support[0], task.query.x[0])


def test_predictions_use_the_models_own_functional_call() -> None:
    """A guard for the tests above: predict runs the model, not something of its own."""
    learner, task = CASES["maml"].build(), CASES["maml"].tasks()[0]
    assert torch.equal(learner.predict({}, task.query.x), call(learner.model, {}, task.query.x))  # type: ignore[arg-type]
