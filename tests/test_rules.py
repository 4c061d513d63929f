"""Rules against torch.optim, step by step in float64, and their learned hyperparameters against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kshot
from kshot import InputError, meta_loss
from kshot.models import MLP
from kshot.recurrent import LSTMCell, read
from kshot.rules import RULES, SGD, Adam, AdamW, Curvature, LSTMRule, Momentum, RMSprop, Rule, StrategyNetwork
from kshot.rules.coordinates import flat, scaled, shaped
from kshot.rules.descent import Grain
from tests.conftest import classification
from tests.test_laws import claim_exact, gradients

Make = Callable[..., Any]
# (ours, torch's, settings of both)
PAIRS: list[tuple[Callable[..., Rule], Make, dict[str, Any], dict[str, Any]]] = [
    (SGD, torch.optim.SGD, {"lr": 0.1}, {}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, {}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.01}, {}),
    (SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.1, "nesterov": True}, {}),
    (Momentum, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, {}),
    (Momentum, torch.optim.SGD, {"lr": 0.1, "momentum": 0.7, "nesterov": True}, {}),
    (Adam, torch.optim.Adam, {"lr": 0.1}, {}),
    (Adam, torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.1, "eps": 1e-3}, {"beta1": 0.8, "beta2": 0.99}),
    (AdamW, torch.optim.AdamW, {"lr": 0.1}, {}),
    (AdamW, torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.3}, {}),
    (RMSprop, torch.optim.RMSprop, {"lr": 0.1}, {}),
    (RMSprop, torch.optim.RMSprop, {"lr": 0.1, "alpha": 0.9, "eps": 1e-3, "momentum": 0.8, "weight_decay": 0.1}, {}),
]


@pytest.mark.parametrize("clip", [None, 0.5, 100.0])
@pytest.mark.parametrize(("ours", "theirs", "settings", "betas"), PAIRS, ids=lambda v: getattr(v, "__name__", str(v)))
def test_a_rule_is_torch_optims_step_by_step(
    ours: Callable[..., Rule], theirs: Make, settings: dict[str, Any], betas: dict[str, float], clip: float | None
) -> None:
    leaves = [nn.Parameter(torch.randn(3, 4, dtype=torch.float64)), nn.Parameter(torch.randn(4, dtype=torch.float64))]
    params = {str(i): p.detach().clone() for i, p in enumerate(leaves)}
    extra = {"betas": (betas["beta1"], betas["beta2"])} if betas else {}
    optimizer, rule = theirs(leaves, **settings, **extra), ours(**settings, **betas, clip=clip)
    state = rule.init(params)
    for _ in range(6):
        grads = {name: torch.randn_like(p) for name, p in params.items()}
        for p, g in zip(leaves, grads.values(), strict=True):
            p.grad = g.clone()
        if clip is not None:
            nn.utils.clip_grad_norm_(leaves, clip)
        optimizer.step()
        params, state = rule.step(params, grads, state)
        for p, q in zip(leaves, params.values(), strict=True):
            torch.testing.assert_close(q, p.detach(), rtol=1e-13, atol=1e-14)


SIZES: dict[Grain, Callable[[int, int, int], int]] = {
    "one": lambda tensors, weights, steps: 1,
    "tensor": lambda tensors, weights, steps: tensors,
    "parameter": lambda tensors, weights, steps: weights,
    "step": lambda tensors, weights, steps: steps,
    "tensor-step": lambda tensors, weights, steps: tensors * steps,
}
# Each rule with every number that it has above its bound, so that each can be learned.
FULL: dict[str, Callable[..., Rule]] = {
    "sgd": lambda **c: SGD(0.1, momentum=0.5, weight_decay=0.1, **c),
    "nesterov": lambda **c: SGD(0.1, momentum=0.5, nesterov=True, **c),
    "adam": lambda **c: Adam(0.1, weight_decay=0.1, eps=1e-3, **c),
    "adamw": lambda **c: AdamW(0.1, eps=1e-3, **c),
    "rmsprop": lambda **c: RMSprop(0.05, momentum=0.5, weight_decay=0.1, eps=1e-3, **c),
}


@pytest.mark.parametrize("grain", SIZES)
@pytest.mark.parametrize("name", FULL)
def test_learned_rates_start_at_lr_and_have_exact_gradients(name: str, grain: Grain) -> None:
    tasks, steps = classification(), 3
    learner = kshot.MAML(MLP(4, (5,), 3).double(), rule=FULL[name](learn=grain), steps=steps)
    fixed = kshot.MAML(learner.model, rule=FULL[name](), steps=steps)
    torch.testing.assert_close(meta_loss(learner, tasks), meta_loss(fixed, tasks), rtol=1e-12, atol=1e-12)
    weights = sum(p.numel() for p in learner.model.parameters())
    assert sum(r.numel() for r in learner.rule.parameters()) == SIZES[grain](4, weights, steps)
    claim_exact(learner, tasks, gradients(learner, tasks, "vmap"))


@pytest.mark.parametrize("clip", [0.3, None])
@pytest.mark.parametrize("name", FULL)
def test_every_number_can_be_learned(name: str, clip: float | None) -> None:
    numbers = list(FULL[name](clip=clip)._numbers)
    if name == "nesterov":
        numbers.remove("weight_decay")  # there it is 0, tested below
    tasks = classification()
    rule = FULL[name](clip=clip, learn=dict.fromkeys(numbers, "one"))
    learner = kshot.MAML(MLP(4, (5,), 3).double(), rule=rule, steps=3)
    fixed = kshot.MAML(learner.model, rule=FULL[name](clip=clip), steps=3)
    torch.testing.assert_close(meta_loss(learner, tasks), meta_loss(fixed, tasks), rtol=1e-12, atol=1e-12)
    found = gradients(learner, tasks, "vmap")
    for number in numbers:
        assert found[f"rule.learned.{number}.all"] != 0, number
    claim_exact(learner, tasks, found)


def test_weight_decay_is_learned_from_zero() -> None:
    learner = kshot.MAML(MLP(4, (5,), 3).double(), rule=SGD(0.1, learn={"weight_decay": "tensor"}), steps=2)
    tasks = classification()
    found = gradients(learner, tasks)
    assert all(g != 0 for n, g in found.items() if "weight_decay" in n)
    claim_exact(learner, tasks, found)


@pytest.mark.parametrize("rule", [Adam(0.1), RMSprop(0.1)])
def test_a_gradient_of_zero_has_a_finite_derivative(rule: Rule) -> None:
    """A unit that is never active: √v has an infinite derivative at v = 0, and the chain rule would make it NaN."""
    learner = kshot.MAML(MLP(4, (5,), 3).double(), rule=rule, steps=2)
    with torch.no_grad():
        learner.model.body[0].bias[0] = -1e6  # type: ignore[union-attr, index]
    found = gradients(learner, classification(), "vmap")
    assert all(torch.isfinite(g).all() for g in found.values())


BAD_RULES: dict[str, tuple[Callable[[], object], str]] = {
    "negative lr": (lambda: Adam(-1.0), "lr=-1.0: it must be a finite number of at least 0"),
    "beta of one": (lambda: Adam(beta1=1.0), "beta1=1.0: it must be at least 0 and below 1"),
    "eps of zero": (lambda: RMSprop(eps=0.0), "eps=0.0: it must be a positive finite number"),
    "clip of zero": (lambda: SGD(clip=0.0), "clip=0.0: it must be a positive"),
    "unknown number": (lambda: SGD(learn={"beta": "one"}), "cannot learn 'beta': its numbers are lr, momentum"),  # type: ignore[dict-item]
    "unknown grain": (lambda: Adam(learn="each"), "learn='each' is not known: choose 'one', 'tensor'"),  # type: ignore[arg-type]
    "clip for each tensor": (lambda: SGD(clip=1.0, learn={"clip": "tensor"}), "choose 'one', 'step'"),
    "clip learned from nothing": (lambda: SGD(learn={"clip": "one"}), "cannot learn 'clip'"),
    "momentum learned from 0": (lambda: SGD(learn={"momentum": "one"}), "momentum=0.0 to learn from: start it above 0"),
    "nesterov alone": (lambda: SGD(nesterov=True), "give a momentum"),
    "gate of one": (lambda: LSTMRule(1.0), "a gate lies between 0 and 1"),
    "no hidden": (lambda: LSTMRule(hidden=0), "whole number of at least 1"),
    "strategy emits": (lambda: StrategyNetwork(emits="step"), "choose 'rate' or 'update'"),  # type: ignore[arg-type]
    "a grain of three": (lambda: Adam(learn=3), "give a grain, such as 'tensor'"),  # type: ignore[arg-type]
    "adamw decoupled": (lambda: kshot.rules.AdamW(decoupled=False), "leave decoupled= out"),
    "decoupled in words": (lambda: Adam(decoupled="no"), "give True or False"),  # type: ignore[arg-type]
    "a rate of true": (lambda: SGD(lr=True), "lr=True"),
    "strategy lr": (lambda: StrategyNetwork(lr=0.0), "lr=0.0: give a positive number"),
    "strategy hidden": (lambda: StrategyNetwork(hidden=2.5), "whole number of at least 1"),  # type: ignore[arg-type]
    "curvature of a number": (lambda: Curvature(0.1), "give an inner rule"),  # type: ignore[arg-type]
    "curvature largest": (lambda: Curvature(largest=0), "whole number of at least 1"),
}


@pytest.mark.parametrize("fault", BAD_RULES)
def test_a_wrong_rule_ends_in_a_sentence(fault: str) -> None:
    make, sentence = BAD_RULES[fault]
    with pytest.raises(InputError, match=sentence):
        make()


def test_steps_past_the_last_use_the_last_rate() -> None:
    rule = SGD(1.0, learn="step")
    start = {"p": torch.zeros(1)}
    rule.prepare(start, steps=2)
    with torch.no_grad():
        rule.learned["lr"]["all"].copy_(torch.tensor([1.0, 10.0]))  # type: ignore[index]
    params, state, path = start, rule.init(start), []
    for _ in range(4):
        params, state = rule.step(params, {"p": torch.ones(1)}, state)
        path.append(params["p"].item())
    assert path == [-1, -11, -21, -31]


def test_a_rule_that_was_not_prepared_says_so() -> None:
    rule = SGD(0.1, learn="tensor")
    params = {"p": torch.zeros(1)}
    with pytest.raises(InputError, match="prepare"):
        rule.step(params, params, rule.init(params))


def test_meta_gradient_by_hand() -> None:
    """Half-square loss: θ = 0.1 to 3.0 in one step of 0.1 leaves 0.9 of the distance, so dL/dθ = 0.9 · 0.9 · (0.1 − 3.0)."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.theta = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.theta.expand(len(x), 1)

    def half_square(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (outputs - y).square().mean() / 2

    batch = kshot.Batch(torch.zeros(1, 2, 1, dtype=torch.float64), torch.full((1, 2, 1), 3.0, dtype=torch.float64))
    for make, wanted in ((kshot.MAML, 0.9 * 0.9 * (0.1 - 3.0)), (kshot.FOMAML, 0.9 * (0.1 - 3.0))):
        learner = make(Constant(), loss=half_square, rule=SGD(0.1))
        meta_loss(learner, kshot.Task(batch, batch)).backward()
        assert learner.model.theta.grad.item() == pytest.approx(wanted, rel=1e-12)  # type: ignore[union-attr]


# Learned rules.


def test_the_cell_is_torchs() -> None:
    theirs, ours = nn.LSTMCell(3, 5), LSTMCell(3, 5)
    ours.load_state_dict(theirs.state_dict())
    x, memory = torch.randn(4, 3), (torch.randn(4, 5), torch.randn(4, 5))
    for a, b in zip(ours(x, memory), theirs(x, memory), strict=True):
        torch.testing.assert_close(a, b)
    layer = nn.LSTM(3, 5, bidirectional=True)
    for suffix, backwards, part in (("", False, slice(0, 5)), ("_reverse", True, slice(5, 10))):
        state = {n.removesuffix(f"_l0{suffix}"): p for n, p in layer.state_dict().items() if n.endswith(f"_l0{suffix}")}
        ours.load_state_dict(state)
        torch.testing.assert_close(read(ours, x, backwards=backwards), layer(x)[0][:, part])


def test_numbers_of_any_size_are_scaled_as_in_the_paper() -> None:
    x = torch.tensor([1.0, -math.exp(-5), math.exp(-11), 0.0], dtype=torch.float64)
    wanted = torch.tensor([[0, 1], [-0.5, -1], [-1, math.exp(-1)], [-1, 0]], dtype=torch.float64)
    torch.testing.assert_close(scaled(x), wanted)


def test_flat_and_shaped_are_inverse() -> None:
    params = {"a": torch.randn(2, 3), "b": torch.randn(()), "c": torch.randn(4)}
    for name, p in shaped(flat(params), params).items():
        assert torch.equal(p, params[name])


def by_steps(rule: Rule, params: dict[str, Tensor], path: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    state = rule.init(params)
    for grads in path:
        params, state = rule.step(params, grads, rule.observe(state, torch.tensor(1.5)))
    return params


def test_learned_rules_start_near_gradient_descent() -> None:
    params = {"w": torch.randn(3, 4), "b": torch.randn(3)}
    path = [{n: torch.randn_like(p) for n, p in params.items()} for _ in range(3)]
    plain = by_steps(SGD(0.3), params, path)
    rules = (LSTMRule(0.3), StrategyNetwork(0.3), StrategyNetwork(0.3, emits="update"))
    for rule in rules:
        for name, p in by_steps(rule, params, path).items():
            torch.testing.assert_close(p, plain[name], rtol=0.05, atol=0.05)
    curvature = Curvature(SGD(0.3))
    curvature.prepare(params, 3)
    for name, p in by_steps(curvature, params, path).items():
        torch.testing.assert_close(p, plain[name])


def test_the_lstm_rule_by_hand() -> None:
    """With gates of weight zero: θ ← σ(b_f) θ − σ(b_i) g."""
    rule = LSTMRule(0.2, keep=0.9)
    with torch.no_grad():
        rule.forget.weight.zero_()
        rule.enter.weight.zero_()
    moved = by_steps(rule, {"p": torch.tensor([1.0, -2.0])}, [{"p": torch.tensor([0.5, 1.0])}])
    torch.testing.assert_close(moved["p"], torch.tensor([0.9 - 0.1, -1.8 - 0.2]))


def test_curvature_by_hand() -> None:
    """G ← M₀ G M₁ᵀ for a matrix, and along each axis of a convolution."""
    rule = Curvature(SGD(1.0), largest=6)
    params = {"w": torch.zeros(2, 3), "conv": torch.zeros(2, 3, 2, 2), "long": torch.zeros(7), "one": torch.zeros(())}
    rule.prepare(params, 1)
    assert {n: tuple(p.shape) for n, p in rule.matrices.items()} == {
        "w/0": (2, 2), "w/1": (3, 3), "conv/0": (2, 2), "conv/1": (3, 3), "conv/2": (4, 4), "one/0": (1, 1),
    }  # fmt: skip
    with torch.no_grad():
        for p in rule.matrices.values():
            p.copy_(torch.randn_like(p))
    grads = {n: torch.randn_like(p) for n, p in params.items()}
    moved, _ = rule.step(params, grads, rule.init(params))
    m = {n: p.detach() for n, p in rule.matrices.items()}
    torch.testing.assert_close(-moved["w"].detach(), m["w/0"] @ grads["w"] @ m["w/1"].T)
    bent = torch.einsum("oa,ib,sc,abc->ois", m["conv/0"], m["conv/1"], m["conv/2"], grads["conv"].flatten(2))
    torch.testing.assert_close(-moved["conv"].detach(), bent.reshape(2, 3, 2, 2))
    torch.testing.assert_close(-moved["long"], grads["long"])


def test_a_strategy_reads_the_loss_and_the_sequence() -> None:
    """The same gradient moves by another rate when the loss, or what came before, was another."""
    torch.manual_seed(1)
    params, g = {"p": torch.ones(3)}, {"p": torch.ones(3)}
    for rule in (StrategyNetwork(1.0, hidden=8), StrategyNetwork(1.0, hidden=8, emits="update")):
        with torch.no_grad():
            rule.speaker.weight.copy_(torch.randn_like(rule.speaker.weight))
        fresh = rule.init(params)
        one, after = rule.step(params, g, rule.observe(fresh, torch.tensor(1.0)))
        other, _ = rule.step(params, g, rule.observe(fresh, torch.tensor(5.0)))
        later, _ = rule.step(params, g, rule.observe(after, torch.tensor(1.0)))
        assert not torch.allclose(one["p"], other["p"])
        assert not torch.allclose(one["p"], later["p"])


@pytest.mark.parametrize("make", [lambda: SGD(0.1, learn="parameter"), lambda: Curvature(SGD(0.1))])
def test_a_rule_keeps_what_it_learned_and_refuses_other_parameters(make: Callable[[], Rule]) -> None:
    rule = make()
    kshot.MAML(nn.Linear(3, 1), loss="mse", rule=rule)
    with torch.no_grad():
        for p in rule.parameters():
            p.fill_(0.7)
    kshot.MAML(nn.Linear(3, 1), loss="mse", rule=rule)
    assert all((p == 0.7).all() for p in rule.parameters())
    with pytest.raises(InputError, match="give each learner a rule of its own"):
        kshot.MAML(nn.Linear(4, 1), loss="mse", rule=rule)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_meta_trains(name: str) -> None:
    """Some outer steps lower the loss of held-out tasks."""
    settings: dict[str, Any] = {"learn": "one"} if name in ("sgd", "momentum", "adam", "adamw", "rmsprop") else {}
    learner = kshot.MAML(nn.Linear(3, 1), loss="mse", rule=RULES[name](**settings), steps=2)
    tasks = kshot.tasks.LinearRegressions(inputs=3, scale=(0.5, 2.0))
    before = kshot.evaluate(learner, tasks, 60, seed=9, curves=False).mean
    kshot.fit(learner, tasks, steps=80, meta_batch=8, lr=0.02, progress=False, vectorize="vmap")
    assert kshot.evaluate(learner, tasks, 60, seed=9, curves=False).mean < 0.8 * before
