"""The loop style: the same numbers as the pure style, losses of any kind, and no stale output that goes unnoticed."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, mse_loss

import kshot
from kshot import InputError, Task
from kshot.learners.gradient import GradientLearner
from kshot.models import MLP, Conv4
from kshot.rules import RULES, SGD, Adam, Momentum, RMSprop, Rule
from tests.conftest import classification

EXACT = {"rtol": 1e-12, "atol": 1e-12}


class Attention(nn.Module):
    """x [B, 4] as two tokens of two features, through an encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(2, 1, dim_feedforward=4, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(x.reshape(-1, 2, 2)).flatten(1))
        return logits


class Embedder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def embed(self, x: Tensor) -> Tensor:
        return self.body(x).tanh()  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x))  # type: ignore[no-any-return]


def mlp() -> MLP:
    return MLP(4, (6,), 3)


def task(features: tuple[int, ...] = (4,), seed: int = 0) -> Task:
    return classification(1, features=features, seed=seed)[0]


def maml(model: nn.Module | None = None, **choices: object) -> GradientLearner:
    return kshot.MAML(mlp() if model is None else model, **{"rule": SGD(lr=0.3), **choices}).double()  # type: ignore[arg-type, return-value]


def gradients(learner: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    trained = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(trained.items(), found, strict=True)}


def compare(learner: GradientLearner, data: Task, steps: int) -> None:
    """Loss and meta-gradient of the loop, and of learner.loss."""
    clone = learner.clone(data.support)
    for _ in range(steps):
        clone.adapt(learner.criterion(clone(data.support.x), data.support.y))
    ours = learner.criterion(clone(data.query.x), data.query.y)
    pure = learner.loss(data)
    torch.testing.assert_close(ours, pure, **EXACT)
    a, b = gradients(learner, ours), gradients(learner, pure)
    assert any(bool(g.any()) for g in b.values())
    for name in b:
        torch.testing.assert_close(a[name], b[name], **EXACT)


# The same numbers as the pure style.

OPTIONS: dict[str, Callable[[], Rule]] = {
    **{name: (lambda make=make: make()) for name, make in RULES.items()},
    "sgd-learned": lambda: SGD(0.3, learn={"lr": "parameter", "momentum": "one"}, momentum=0.5, clip=1.0),
    "sgd-each-step": lambda: SGD(0.3, learn="tensor-step"),
    "momentum-learned": lambda: Momentum(0.3, learn={"lr": "step", "momentum": "tensor"}),
    "adam-learned": lambda: Adam(0.1, learn={"lr": "tensor", "beta1": "one", "beta2": "one"}),
    "rmsprop-learned": lambda: RMSprop(0.1, learn={"lr": "tensor", "alpha": "one"}),
    "strategy-update": lambda: kshot.rules.StrategyNetwork(emits="update"),
}


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("hypergradient", ["unrolled", "first-order"])
@pytest.mark.parametrize("rule", OPTIONS)
def test_every_rule_moves_a_clone_as_it_moves_the_learner(rule: str, hypergradient: str, steps: int) -> None:
    compare(maml(rule=OPTIONS[rule](), hypergradient=hypergradient, steps=steps), task(), steps)


LEARNERS: dict[str, tuple[Callable[..., kshot.MetaLearner], tuple[int, ...]]] = {
    "conv4": (lambda **c: kshot.MAML(Conv4(3, width=4, size=16), **c), (1, 16, 16)),
    "conv4-running": (
        lambda **c: kshot.MAML(Conv4(3, width=4, size=16, norm="running"), batch_norm="running", **c),
        (1, 16, 16),
    ),
    "anil": (lambda **c: kshot.ANIL(mlp(), **c), (4,)),
    "boil": (lambda **c: kshot.BOIL(mlp(), **c), (4,)),
    "cavia": (lambda **c: kshot.CAVIA(MLP(6, (6,), 3), context=2, **c), (4,)),
    "cavia-film": (lambda **c: kshot.CAVIA(Conv4(3, width=4, size=16), context=2, at="body.2", **c), (1, 16, 16)),
    "attention": (lambda **c: kshot.MAML(Attention(), **c), (4,)),
    "metasgd": (lambda rule, **c: kshot.MetaSGD(mlp(), lr=0.3, **c), (4,)),
    "metacurvature": (lambda **c: kshot.MetaCurvature(mlp(), **c), (4,)),
    "maml++": (
        lambda rule, **c: kshot.MAMLPlusPlus(Conv4(3, width=4, size=16), multi_step=0.0, first_order=0.0, **c),
        (1, 16, 16),
    ),
}


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("hypergradient", ["unrolled", "first-order"])
@pytest.mark.parametrize("name", LEARNERS)
def test_every_gradient_learner_clones(name: str, hypergradient: str, steps: int) -> None:
    build, features = LEARNERS[name]
    learner = build(rule=SGD(lr=0.3), hypergradient=hypergradient, steps=steps).double()
    compare(learner, task(features), steps)  # type: ignore[arg-type]


def test_first_order_can_be_said_for_each_call() -> None:
    data, exact = task(), maml()
    clone = exact.clone()
    clone.adapt(cross_entropy(clone(data.support.x), data.support.y), first_order=True)
    found = gradients(exact, cross_entropy(clone(data.query.x), data.query.y))
    first = maml(exact.model, hypergradient="first-order")
    wanted = gradients(first, first.loss(data))
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], **EXACT)

    clone = first.clone()
    clone.adapt(cross_entropy(clone(data.support.x), data.support.y), first_order=False)
    found = gradients(first, cross_entropy(clone(data.query.x), data.query.y))
    wanted = gradients(exact, exact.loss(data))
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], **EXACT)


def test_a_first_order_learner_with_attention_may_take_one_exact_step() -> None:
    data, first = task(), maml(Attention(), hypergradient="first-order")
    clone = first.clone()
    clone.adapt(cross_entropy(clone(data.support.x), data.support.y), first_order=False)
    found = gradients(first, cross_entropy(clone(data.query.x), data.query.y))
    exact = maml(first.model)
    wanted = gradients(exact, exact.loss(data))
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], **EXACT)


# Losses of one's own.

Loss = Callable[[Callable[..., Tensor], list[Tensor], Task], Tensor]


def supervised(f: Callable[..., Tensor], params: list[Tensor], data: Task) -> Tensor:
    return cross_entropy(f(data.support.x), data.support.y)


def decayed(f: Callable[..., Tensor], params: list[Tensor], data: Task) -> Tensor:
    return supervised(f, params, data) + 0.01 * torch.stack([p.square().sum() for p in params]).sum()


def entropy(f: Callable[..., Tensor], params: list[Tensor], data: Task) -> Tensor:
    p = f(data.query.x).softmax(-1)
    return -(p * p.log()).sum(-1).mean()


def consistency(f: Callable[..., Tensor], params: list[Tensor], data: Task) -> Tensor:
    """Two views of the same examples, no label, and a method of the model."""
    x = data.support.x
    return mse_loss(f(1.1 * x, method="embed"), f(x.flip(0), method="embed").flip(0)) + entropy(f, params, data)


@pytest.mark.parametrize(
    "losses",
    [[supervised, supervised], [supervised, decayed, entropy], [consistency], [consistency, supervised]],
    ids=lambda losses: "-".join(loss.__name__ for loss in losses),
)
def test_the_loss_may_change_from_step_to_step(losses: list[Loss]) -> None:
    learner, data = maml(Embedder(), allow_unused=False), task()
    clone = learner.clone()
    for loss in losses:
        clone.adapt(loss(clone, clone.parameters(), data))
    ours = cross_entropy(clone(data.query.x), data.query.y)

    model = learner.model
    params = dict(model.named_parameters())

    def at(now: dict[str, Tensor]) -> Callable[..., Tensor]:
        def f(x: Tensor, method: str | None = None) -> Tensor:
            body = (x @ now["body.weight"].T + now["body.bias"]).tanh()
            return body if method == "embed" else body @ now["head.weight"].T + now["head.bias"]

        return f

    for loss in losses:
        grads = torch.autograd.grad(
            loss(at(params), list(params.values()), data), list(params.values()), create_graph=True
        )
        params = {name: p - 0.3 * g for (name, p), g in zip(params.items(), grads, strict=True)}
    by_hand = cross_entropy(functional_call(model, params, (data.query.x,)), data.query.y)
    torch.testing.assert_close(ours, by_hand, **EXACT)
    a, b = gradients(learner, ours), gradients(learner, by_hand)
    for name in a:
        torch.testing.assert_close(a[name], b[name], **EXACT)


def test_several_losses_summed_are_one_step() -> None:
    learner, data = maml(), task()
    clone, half = learner.clone(), len(data.support) // 2
    first, second = data.support[:half], data.support[half:]
    clone.adapt((cross_entropy(clone(first.x), first.y) + cross_entropy(clone(second.x), second.y)) / 2)
    for name, p in learner.adapt(data.support).items():
        torch.testing.assert_close(clone.fitted[name], p, **EXACT)
    assert clone.steps == 1


def test_an_old_number_may_come_along_detached() -> None:
    learner, data = maml(), task()
    clone = learner.clone()
    before = cross_entropy(clone(data.support.x), data.support.y)
    clone.adapt(before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clone.adapt(cross_entropy(clone(data.support.x), data.support.y) / before.detach())
    assert clone.steps == 2


# Which parameters.


def test_parameters_and_fitted_are_where_it_is_now() -> None:
    learner, data = kshot.MAMLPlusPlus(Conv4(3, width=4, size=16)).double(), task((1, 16, 16))
    clone = learner.clone()
    clone.adapt(cross_entropy(clone(data.support.x), data.support.y))
    torch.testing.assert_close(learner.predict(clone.fitted, data.query.x), clone(data.query.x), **EXACT)
    assert [p.shape for p in clone.parameters()] == [p.shape for p in learner.start().values()]
    plain = maml().clone()
    assert list(plain.fitted.values()) == plain.parameters()  # nothing more, in plain MAML


def test_frozen_parts_stay_and_get_no_gradient() -> None:
    model, data = mlp(), task()
    model.body.requires_grad_(False)
    learner = maml(model)
    clone = learner.clone()
    clone.adapt(cross_entropy(clone(data.support.x), data.support.y))
    cross_entropy(clone(data.query.x), data.query.y).backward()
    assert set(clone.fitted) == {"head.weight", "head.bias"}
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"head.weight", "head.bias"}


def test_parts_that_do_not_move_still_learn() -> None:
    model, data = mlp(), task()
    learner = maml(model, adapted="head.*")
    clone = learner.clone()
    clone.adapt(cross_entropy(clone(data.support.x), data.support.y))
    cross_entropy(clone(data.query.x), data.query.y).backward()
    assert set(clone.fitted) == {"head.weight", "head.bias"}
    assert all(p.grad is not None for p in model.parameters())


def test_a_body_outside_and_a_head_that_adapts() -> None:
    body, head, data = nn.Linear(4, 6).double(), nn.Linear(6, 3), task()
    clone = (learner := maml(head)).clone()
    features = body(data.support.x)
    for _ in range(2):
        clone.adapt(cross_entropy(clone(features), data.support.y))
    found = torch.autograd.grad(cross_entropy(clone(body(data.query.x)), data.query.y), list(body.parameters()))
    whole = nn.Sequential()
    whole.body, whole.head = body, head
    anil = kshot.ANIL(whole, rule=learner.rule, steps=2)
    for a, b in zip(found, torch.autograd.grad(anil.loss(data), list(body.parameters())), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_unused_parameters_are_refused_unless_allowed() -> None:
    learner, data = maml(Embedder()), task()
    clone = learner.clone()
    for _ in range(2):
        with pytest.raises(InputError, match=r"does not depend on 'head.weight', 'head.bias': leave them out"):
            clone.adapt(clone(data.support.x, method="embed").square().mean())
    assert clone.steps == 0
    clone.adapt(clone(data.support.x, method="embed").square().mean(), allow_unused=True)
    assert torch.equal(clone.fitted["head.weight"], learner.model.get_parameter("head.weight"))
    assert not torch.equal(clone.fitted["body.weight"], learner.model.get_parameter("body.weight"))
    other = maml(Embedder(), allow_unused=True).clone()
    other.adapt(other(data.support.x, method="embed").square().mean())
    with pytest.raises(InputError, match="does not depend on"):
        other.adapt(other(data.support.x, method="embed").square().mean(), allow_unused=False)


# What is stale, or was never this clone's.


@pytest.mark.parametrize("hypergradient", ["unrolled", "first-order"])
@pytest.mark.parametrize("rule", OPTIONS)
def test_a_loss_from_before_the_last_adapt_is_refused(rule: str, hypergradient: str) -> None:
    data, clone = task(), maml(rule=OPTIONS[rule](), hypergradient=hypergradient).clone()
    early = cross_entropy(clone(data.support.x), data.support.y)
    for step in (1, 2):
        loss = cross_entropy(clone(data.support.x), data.support.y)
        clone.adapt(loss)
        for old in (loss, early):
            with pytest.raises(
                InputError, match=f"before the last adapt, .* earlier step than step {step}: compute it anew"
            ):
                clone.adapt(old)
        assert clone.steps == step


def test_a_part_from_before_the_last_adapt_is_warned_of() -> None:
    data, clone = task(), maml().clone()
    old = clone(data.support.x)
    clone.adapt(cross_entropy(old, data.support.y))
    with pytest.warns(
        UserWarning, match="a part of the loss was computed before the last adapt.* step 2.*detach"
    ) as seen:
        clone.adapt(cross_entropy(clone(data.support.x), data.support.y) + mse_loss(clone(data.query.x), old))
    assert seen[0].filename == __file__


def test_what_is_not_this_clones_is_refused() -> None:
    data, learner = task(), maml()
    clone, other = learner.clone(), learner.clone()
    for f in (other, learner.model):
        with pytest.raises(InputError, match="does not depend on this clone's parameters"):
            clone.adapt(cross_entropy(f(data.support.x), data.support.y))
    child = clone.clone()
    with pytest.raises(InputError, match="does not depend on this clone's parameters"):
        child.adapt(cross_entropy(clone(data.support.x), data.support.y))


def test_what_is_no_loss_is_refused() -> None:
    data, clone = task(), maml().clone()
    with pytest.raises(InputError, match=r"a tensor of shape \(6, 3\): reduce it, as by .mean\(\)"):
        clone.adapt(clone(data.support.x))
    with pytest.raises(InputError, match="was given a float"):
        clone.adapt(0.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no gradient"):
        clone.adapt(cross_entropy(clone(data.support.x).detach(), data.support.y))
    with torch.no_grad():
        hidden = cross_entropy(clone(data.support.x), data.support.y)
    with pytest.raises(InputError, match=r"no gradient: .* outside torch.no_grad\(\)"):
        clone.adapt(hidden)
    assert clone.steps == 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_evaluation_under_no_grad_is_refused_with_the_way_out(mode: Callable[[], torch.no_grad]) -> None:
    data, learner = task(), maml(hypergradient="first-order")
    clone = learner.clone()
    loss = cross_entropy(clone(data.support.x), data.support.y)
    with mode(), pytest.raises(InputError, match=r"under torch.no_grad\(\).*first_order=True and detach"):
        clone.adapt(loss)
    with mode(), pytest.raises(InputError, match=r"under torch.no_grad\(\)"):
        clone.adapt(cross_entropy(clone(data.support.x), data.support.y), first_order=True)
    clone.adapt(loss, first_order=True)  # nothing was spoilt
    fitted = learner.adapt(data.support)
    with mode():
        torch.testing.assert_close(clone(data.query.x), learner.predict(fitted, data.query.x), **EXACT)


def test_the_pure_style_takes_no_grad_and_says_so_of_inference_mode() -> None:
    data, learner = task(), maml()
    with torch.no_grad():
        fitted = learner.adapt(data.support)
    assert not any(p.requires_grad for p in fitted.values())
    with torch.inference_mode():
        with pytest.raises(InputError, match=r"MAML was to adapt under torch.inference_mode\(\).*under torch.no_grad"):
            learner.adapt(data.support)
        assert learner.predict(fitted, data.query.x).shape == (6, 3)


# Clones of clones.


def test_a_clone_of_a_clone_goes_on_alone() -> None:
    data, learner = task(), maml(rule=Momentum(0.3))
    first = learner.clone()
    first.adapt(cross_entropy(first(data.support.x), data.support.y))
    second = first.clone()
    assert second.steps == 1
    kept = {name: p.detach().clone() for name, p in first.fitted.items()}
    second.adapt(cross_entropy(second(data.support.x), data.support.y))
    assert all(torch.equal(p, kept[name]) for name, p in first.fitted.items())
    two = maml(learner.model, rule=Momentum(0.3), steps=2)
    for name, p in two.adapt(data.support).items():  # velocity and all
        torch.testing.assert_close(second.fitted[name], p, **EXACT)
    loss = cross_entropy(second(data.query.x), data.query.y)
    assert all(bool(g.any()) for g in torch.autograd.grad(loss, first.parameters(), retain_graph=True))
    wanted = gradients(two, two.loss(data))
    for name, g in gradients(learner, loss).items():
        torch.testing.assert_close(g, wanted[name], **EXACT)
    first.adapt(cross_entropy(first(data.query.x), data.query.y))
    assert first.steps == second.steps == 2
    assert not torch.equal(first.parameters()[0], second.parameters()[0])


def test_three_levels_against_finite_differences() -> None:
    """The step of a clone differentiates through the adaptation of its own clone, and the learner through both."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    learner = maml(model, loss="mse")
    x, y = torch.randn(3, 4, 2).double(), torch.randn(3, 4, 1).double()

    def outer() -> Tensor:
        mid = learner.clone()
        inner = mid.clone()
        inner.adapt(mse_loss(inner(x[0]), y[0]))
        mid.adapt(mse_loss(inner(x[1]), y[1]))
        return mse_loss(mid(x[2]), y[2])

    def by_hand() -> Tensor:
        theta = dict(model.named_parameters())

        def loss(params: dict[str, Tensor], i: int) -> Tensor:
            return (functional_call(model, params, (x[i],)) - y[i]).square().mean()

        def step(params: dict[str, Tensor], value: Tensor) -> dict[str, Tensor]:
            grads = torch.autograd.grad(value, list(params.values()), create_graph=True)
            return {name: p - 0.3 * g for (name, p), g in zip(params.items(), grads, strict=True)}

        return loss(step(theta, loss(step(theta, loss(theta, 0)), 1)), 2)

    torch.testing.assert_close(outer(), by_hand(), **EXACT)
    found, wanted = gradients(learner, outer()), gradients(learner, by_hand())
    for name, p in learner.named_parameters():
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-10, atol=1e-12)
        numbers = p.detach().reshape(-1)
        for i in range(len(numbers)):
            values = []
            for shift in (1e-5, -2e-5):
                numbers[i] += shift
                values.append(outer().item())
            numbers[i] += 1e-5
            assert (values[0] - values[1]) / 2e-5 == pytest.approx(
                found[name].reshape(-1)[i].item(), rel=1e-6, abs=1e-8
            )


def test_an_inner_clone_of_an_older_step_is_stale_too() -> None:
    data, mid = task(), maml().clone()
    inner = mid.clone()
    inner.adapt(cross_entropy(inner(data.support.x), data.support.y))
    mid.adapt(cross_entropy(inner(data.query.x), data.query.y))
    with pytest.raises(InputError, match="before the last adapt"):
        mid.adapt(cross_entropy(inner(data.query.x), data.query.y))


# It leaves nothing behind.


@pytest.mark.parametrize("name", LEARNERS)
def test_the_learner_is_as_it_was(name: str) -> None:
    build, features = LEARNERS[name]
    learner, data = build(rule=SGD(lr=0.3)).double(), task(features)
    before = {key: value.clone() for key, value in learner.state_dict().items()}
    clone = learner.clone()  # type: ignore[attr-defined]
    for _ in range(2):
        clone.adapt(cross_entropy(clone(data.support.x), data.support.y))
    cross_entropy(clone(data.query.x), data.query.y).backward()
    assert learner.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in learner.state_dict().items())


def test_memory_stays_flat_over_many_clones() -> None:
    learner, data = maml(rule=Adam(0.01)), task()

    def run(clones: int) -> tuple[int, int]:
        for _ in range(clones):
            clone = learner.clone()
            for _ in range(5):
                clone.adapt(cross_entropy(clone(data.support.x), data.support.y))
            learner.zero_grad()
            cross_entropy(clone(data.query.x), data.query.y).backward()
        del clone
        tensors = sum(type(o) in (Tensor, nn.Parameter) for o in gc.get_objects())  # nothing waits for the collector
        return tensors, _resident()

    gc.collect()
    gc.disable()
    try:
        tensors, resident = run(60)
        more_tensors, more_resident = run(300)
    finally:
        gc.enable()
    assert more_tensors <= tensors
    assert more_resident - resident < 4 * 2**20


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
