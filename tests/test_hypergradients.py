"""Every way to differentiate through learning: the exact ones against differences and each other, the others against the
closed form of what they claim, on problems where it has one."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import kshot
from kshot import Batch, InputError, Task, meta_loss, recipes
from kshot.functional import Params
from kshot.hypergradients import (
    Checkpoint,
    Evolution,
    FiniteDifference,
    FirstOrder,
    Hypergradient,
    Implicit,
    MixedMode,
    Truncated,
    Unrolled,
    hypergradient,
    residuals,
)
from kshot.models import MLP, Conv4
from kshot.rules import SGD, Adam, Curvature, LSTMRule, Momentum, Rule, StrategyNetwork
from tests.conftest import classification, regression
from tests.test_laws import central_difference, gradients

EXACT = ["unrolled", "mixed-mode", "mixed-mode:2", "checkpoint:1", "checkpoint:2", "checkpoint:9", "truncated:9"]
WAYS = ["loop", "vmap"]


class Transformer(nn.Module):
    """Attention over the 16 rows of an image, as anybody would build it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.embed(x.flatten(1, 2))).mean(1))
        return out


class Attention(nn.Module):
    """The fused kernel called by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.flatten(1, 2)).tanh()
        out: Tensor = self.head(F.scaled_dot_product_attention(h, h, h).mean(1))
        return out


class Tied(nn.Module):
    """One weight in two layers, and one layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(256, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.third = nn.Linear(6, 6)
        self.third.weight = self.second.weight
        self.again = self.third

    def forward(self, x: Tensor) -> Tensor:
        h = self.third(self.second(self.first(x.flatten(1)).tanh()).tanh())
        out: Tensor = self.head(self.again(h).tanh())
        return out


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), MLP(256, (6,), 3)),
    "conv4 with batch norm": lambda: Conv4(3, width=3, size=16),
    "transformer": Transformer,
    "attention": Attention,
    "tied": Tied,
}


def of_images(name: str, **choices: object) -> tuple[kshot.MAML, Task]:
    torch.manual_seed(0)
    learner = kshot.MAML(MODELS[name](), steps=3, **{"rule": SGD(0.1, learn="tensor"), **choices}).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for p in learner.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return learner, classification(features=(1, 16, 16), tasks=2)


def with_way(learner: kshot.MetaLearner, how: str | Hypergradient) -> kshot.MetaLearner:
    other = copy.deepcopy(learner)
    other._way = hypergradient(how)
    return other


@pytest.mark.parametrize("name", MODELS)
def test_exact_ways_are_the_derivative(name: str) -> None:
    learner, tasks = of_images(name)
    wanted = gradients(learner, tasks)
    for seed in range(2):
        g = torch.Generator().manual_seed(seed)
        along = {n: torch.randn(p.shape, generator=g, dtype=p.dtype) for n, p in learner.named_parameters()}
        slope = central_difference(lambda: meta_loss(learner, tasks, "loop"), along, learner)
        assert slope == pytest.approx(sum(float((wanted[n] * v).sum()) for n, v in along.items()), rel=2e-5, abs=1e-8)
    for how in EXACT:
        for way in WAYS:
            found = gradients(with_way(learner, how), tasks, way)
            for n, g in found.items():
                torch.testing.assert_close(
                    g, wanted[n], rtol=1e-9, atol=1e-11, msg=lambda m, w=(how, way, n): f"{w}: {m}"
                )


def smooth(model: nn.Module) -> nn.Module:
    """Without kinks, over which no difference is precise."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.SiLU())
    return model


@pytest.mark.parametrize("name", MODELS)
def test_exact_ways_are_the_derivative_to_nine_digits(name: str) -> None:
    """By six points, which are exact for polynomials of degree six."""
    torch.manual_seed(0)
    model = Conv4(3, width=3, size=16, down="stride") if name.startswith("conv4") else MODELS[name]()
    learner = kshot.MAML(smooth(model), steps=3, rule=SGD(0.1, learn="tensor")).double()
    tasks = classification(features=(1, 16, 16), tasks=2)
    wanted = gradients(learner, tasks)
    along = {n: torch.randn_like(p) / p.numel() ** 0.5 for n, p in learner.named_parameters()}
    slopes = [
        central_difference(lambda: meta_loss(learner, tasks, "loop"), along, learner, k * 1e-3) for k in (1, 2, 3)
    ]
    slope = sum(weight * s for weight, s in zip((1.5, -0.6, 0.1), slopes, strict=True))
    assert slope == pytest.approx(sum(float((wanted[n] * v).sum()) for n, v in along.items()), rel=1e-9)


RULES: dict[str, Callable[[], Rule]] = {
    "momentum": lambda: Momentum(0.1, learn="step"),
    "adam": lambda: Adam(0.1, learn={"lr": "tensor", "beta1": "one", "beta2": "step", "eps": "one"}, clip=1.0),
    "lstm": lambda: LSTMRule(0.1, hidden=3),
    "strategy": lambda: StrategyNetwork(hidden=3),
    "curvature": lambda: Curvature(SGD(0.1)),
}


@pytest.mark.parametrize("rule", RULES)
def test_exact_ways_pass_through_every_rule_and_its_numbers(rule: str) -> None:
    learner, tasks = of_images("mlp", rule=RULES[rule]())
    wanted = gradients(learner, tasks)
    assert all(g.any() for n, g in wanted.items() if n.startswith("rule"))
    for how in EXACT:
        for way in WAYS:
            for n, g in gradients(with_way(learner, how), tasks, way).items():
                torch.testing.assert_close(
                    g, wanted[n], rtol=1e-9, atol=1e-11, msg=lambda m, w=(how, way, n): f"{w}: {m}"
                )


LEARNERS: dict[str, Callable[[str], kshot.MetaLearner]] = {
    "anil": lambda how: kshot.ANIL(MLP(4, (6,), 3), rule=SGD(0.1), steps=3, hypergradient=how),
    "boil": lambda how: kshot.BOIL(MLP(4, (6,), 3), rule=SGD(0.1), steps=3, hypergradient=how),
    "cavia": lambda how: kshot.CAVIA(MLP(6, (6,), 3), context=2, rule=SGD(0.5), steps=3, hypergradient=how),
    "metasgd": lambda how: kshot.MetaSGD(MLP(4, (6,), 3), lr=0.1, steps=3, hypergradient=how),
    "metacurvature": lambda how: kshot.MetaCurvature(MLP(4, (6,), 3), rule=SGD(0.1), hypergradient=how),
    "mamlplusplus": lambda how: kshot.MAMLPlusPlus(MLP(4, (6,), 3), lr=0.1, steps=3, hypergradient=how),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_takes_the_exact_ways(name: str) -> None:
    found = {}
    for how in EXACT:
        torch.manual_seed(0)
        learner = LEARNERS[name](how).double()
        if name == "mamlplusplus":
            learner.progress = 0.31  # of all steps' losses and of exact gradients
            learner.multi_step = 1.0
        for way in WAYS:
            found[how, way] = gradients(learner, classification(), way)
    for key, g in found.items():
        for n in g:
            torch.testing.assert_close(
                g[n], found["unrolled", "loop"][n], rtol=1e-9, atol=1e-11, msg=lambda m, k=key: f"{k}: {m}"
            )


def test_a_loss_that_a_part_of_the_parameters_meets_without_the_task() -> None:
    """Its gradient there has no axis of tasks, which must not make it count once a task."""
    torch.manual_seed(0)

    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.bias = nn.Parameter(torch.randn(1)), nn.Parameter(torch.randn(1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.w + self.bias

    model = Held().double()
    tasks = regression(tasks=3)
    meta = nn.Parameter(torch.tensor(0.7).double())

    def loss(task: Task, how: str) -> Tensor:
        def objective(params: Params, step: int) -> Tensor:
            data = (task.support.x * params["w"] - task.support.y).square().mean()
            return data + (meta * params["bias"]).square().sum()

        start = dict(model.named_parameters())
        fitted = kshot.unroll(objective, start, SGD(0.1), 3, how)
        return (task.query.x * fitted["w"] + fitted["bias"] - task.query.y).square().mean()

    found = []
    for how in EXACT:
        for vectorize in (True, False):
            if vectorize:
                value = torch.vmap(lambda t, h=how: loss(t, h))(tasks).mean()
            else:
                value = torch.stack([loss(tasks[i], how) for i in range(3)]).mean()
            found.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, [*model.parameters(), meta])]))
    for g in found:
        torch.testing.assert_close(g, found[0], rtol=1e-10, atol=1e-12)


SHORT_CUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "silu of torch": torch.nn.SiLU(),
    "mish": F.mish,
    "group norm": lambda m: F.group_norm(m.reshape(2, 4, 2), 2, m[0], m[1]),
    "group norm of torch": lambda m: torch.group_norm(m, 2),
    "logit": lambda m: torch.logit(m.sigmoid()),
    "cumprod": lambda m: m.cumprod(0),
    "det": lambda m: torch.linalg.det(m + 3 * torch.eye(4, dtype=m.dtype)),
    "logdet": lambda m: torch.logdet(m @ m.T + torch.eye(4, dtype=m.dtype)),
    "solve": lambda m: torch.linalg.solve(m + 3 * torch.eye(4, dtype=m.dtype), m),
    "inv": lambda m: torch.linalg.inv(m + 3 * torch.eye(4, dtype=m.dtype)),
}


@pytest.mark.parametrize("name", SHORT_CUTS)
def test_functions_whose_gradient_is_another_where_no_graph_of_it_is_made(name: str) -> None:
    g = torch.Generator().manual_seed(0)
    start, x = torch.randn(4, 4, generator=g).double().requires_grad_(), torch.randn(3, 4, 4, generator=g).double()

    def loss(x: Tensor, how: str) -> Tensor:
        def objective(params: Params, step: int) -> Tensor:
            return SHORT_CUTS[name](params["m"] + 0.1 * x).sin().square().mean()

        fitted = kshot.unroll(objective, {"m": start}, SGD(0.1), 2, how)["m"]
        return (fitted * x).sin().sum()

    wanted = torch.autograd.grad(torch.stack([loss(row, "unrolled") for row in x]).sum(), start)
    for how in ("mixed-mode", "mixed-mode:2"):
        looped = torch.stack([loss(row, how) for row in x]).sum()
        for value in (looped, torch.vmap(lambda row, h=how: loss(row, h))(x).sum()):
            torch.testing.assert_close(torch.autograd.grad(value, start), wanted, rtol=1e-9, atol=1e-11)


# Quadratic problems L(φ) = ½ φᵀAφ − (Bψ)ᵀφ, judged by cᵀφ: every way has a closed form.

SIZE, RATE, STEPS = 5, 0.1, 12


class Quadratic:
    def __init__(self, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        m = torch.randn(SIZE, SIZE, generator=g, dtype=torch.float64)
        self.a = m @ m.T / SIZE + 0.3 * torch.eye(SIZE, dtype=torch.float64)
        self.b = torch.randn(SIZE, 2, generator=g, dtype=torch.float64)
        self.c = torch.randn(SIZE, generator=g, dtype=torch.float64)
        self.theta = torch.randn(SIZE, generator=g, dtype=torch.float64).requires_grad_()
        self.psi = torch.randn(2, generator=g, dtype=torch.float64).requires_grad_()

    def gradient(self, how: str | Hypergradient, steps: int = STEPS, rule: Rule | None = None) -> tuple[Tensor, Tensor]:
        """In θ and ψ, through `steps` steps."""

        def objective(params: Params, step: int) -> Tensor:
            p = params["p"]
            return p @ self.a @ p / 2 - (self.b @ self.psi) @ p

        fitted = kshot.unroll(objective, {"p": self.theta}, rule or SGD(RATE), steps, how)
        by_theta, by_psi = torch.autograd.grad(self.c @ fitted["p"], [self.theta, self.psi], allow_unused=True)
        return by_theta, torch.zeros(2).double() if by_psi is None else by_psi

    def power(self, n: int) -> Tensor:
        return torch.linalg.matrix_power(torch.eye(SIZE, dtype=torch.float64) - RATE * self.a, n)


@pytest.mark.parametrize("last", [0, 1, 5, STEPS])
def test_truncated_is_the_product_of_the_last_steps(last: int) -> None:
    q = Quadratic()
    by_theta, by_psi = q.gradient(Truncated(last))
    torch.testing.assert_close(by_theta, q.power(last) @ q.c)
    through = sum((q.power(k) for k in range(last)), torch.zeros_like(q.a))
    torch.testing.assert_close(by_psi, RATE * q.b.T @ through @ q.c)
    if last == 0:
        assert torch.equal(by_theta, q.gradient(FirstOrder())[0])


def test_the_bias_of_truncation_shrinks_with_every_step() -> None:
    q = Quadratic()
    exact = q.gradient("unrolled")
    off = [
        max(float((a - b).abs().max()) for a, b in zip(q.gradient(Truncated(k)), exact, strict=True))
        for k in range(STEPS + 1)
    ]
    assert all(after < before for before, after in pairwise(off))
    assert off[-1] < 1e-14


def optimum(q: Quadratic, proximal: float, damping: float = 0.0) -> tuple[Tensor, Tensor]:
    """Its derivative, with the damping."""
    w = torch.linalg.solve(q.a + (proximal + damping) * torch.eye(SIZE, dtype=torch.float64), q.c)
    return proximal * w, q.b.T @ w


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_implicit_by_conjugate_gradients_is_the_derivative_of_the_optimum(damping: float) -> None:
    q = Quadratic()
    way = Implicit(proximal=0.7, iterations=SIZE, tolerance=0.0, damping=damping)
    for found, wanted in zip(q.gradient(way), optimum(q, 0.7, damping), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
    found = kshot.unroll(
        lambda p, _: p["p"] @ q.a @ p["p"] / 2 - (q.b @ q.psi) @ p["p"], {"p": q.theta}, SGD(0.2), 400, way
    )["p"]
    eye = torch.eye(SIZE, dtype=torch.float64)
    torch.testing.assert_close(
        found, torch.linalg.solve(q.a + 0.7 * eye, q.b @ q.psi + 0.7 * q.theta), rtol=1e-8, atol=1e-8
    )


def test_implicit_comes_nearer_with_iterations_and_with_less_damping() -> None:
    q = Quadratic()
    exact = optimum(q, 0.7)[0]
    off = lambda **choices: float((q.gradient(Implicit(proximal=0.7, tolerance=0.0, **choices))[0] - exact).norm())  # noqa: E731
    by_iterations = [off(iterations=n) for n in range(1, SIZE + 1)]
    assert all(after < before for before, after in pairwise(by_iterations))
    by_damping = [off(iterations=SIZE, damping=d) for d in (1.0, 0.1, 0.01, 0.001)]
    assert all(after < before / 5 for before, after in pairwise(by_damping))


@pytest.mark.parametrize("iterations", [1, 3, 8])
def test_implicit_by_a_series_is_its_partial_sum(iterations: int) -> None:
    q = Quadratic()
    proximal = 4.0
    w, term = torch.zeros_like(q.c), q.c / proximal
    for _ in range(iterations):
        w, term = w + term, -q.a @ term / proximal
    by_theta, by_psi = q.gradient(Implicit("neumann", proximal, iterations, 0.0))
    torch.testing.assert_close(by_theta, proximal * w)
    torch.testing.assert_close(by_psi, q.b.T @ w)


def test_the_solvers_say_how_much_is_left_and_stop_where_they_may() -> None:
    q = Quadratic()
    calls = 0

    def curvature(x: list[Tensor]) -> list[Tensor]:
        nonlocal calls
        calls += 1
        return [q.a @ x[0]]

    shifted = q.a + 8.0 * torch.eye(SIZE, dtype=torch.float64)  # above the largest curvature: the series converges
    for solver in ("cg", "neumann"):
        (w,), left = Implicit(solver, 8.0, 3).solve(curvature, [q.c])  # type: ignore[arg-type]
        assert float(left) == pytest.approx(float((q.c - shifted @ w).norm() / q.c.norm()), rel=1e-6)
        _, left = Implicit(solver, 8.0, 50, tolerance=0.2).solve(curvature, [q.c])  # type: ignore[arg-type]
        assert 1e-4 < float(left) <= 0.2
        zero, left = Implicit(solver, 8.0, 3).solve(curvature, [torch.zeros_like(q.c)])  # type: ignore[arg-type]
        assert not zero[0].any()
        assert float(left) == 0
    assert calls


def test_implicit_does_not_ask_how_the_optimum_was_reached() -> None:
    q = Quadratic()
    ways = [q.gradient(Implicit(proximal=0.7), steps, rule) for steps, rule in ((300, SGD(0.2)), (600, Momentum(0.05)))]
    for a, b in zip(*ways, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("solver", ["cg", "neumann"])
def test_implicit_is_one_and_the_same_in_a_loop_and_under_vmap(solver: str) -> None:
    torch.manual_seed(0)
    learner = kshot.ANIL(MLP(4, (6,), 3), rule=SGD(0.1), steps=5, hypergradient=f"implicit:{solver}").double()
    tasks = classification(tasks=3)
    loop, vmap = gradients(learner, tasks, "loop"), gradients(learner, tasks, "vmap")
    for n, g in loop.items():
        assert g.any()
        torch.testing.assert_close(vmap[n], g, rtol=1e-9, atol=1e-11)


def test_finite_differences_are_exact_on_quadratics_and_fall_with_the_square_elsewhere() -> None:
    q = Quadratic()
    for found, wanted in zip(q.gradient(FiniteDifference()), q.gradient("unrolled"), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
    learner, tasks = of_images("attention")
    wanted = gradients(learner, tasks)

    def off(size: float) -> float:
        found = gradients(with_way(learner, FiniteDifference(size)), tasks, "vmap")
        return max(float((found[n] - g).abs().max()) for n, g in wanted.items())

    wide, narrow = off(0.02), off(0.002)
    assert 50 < wide / narrow < 200


def test_evolution_is_unbiased_where_the_loss_is_linear_and_comes_nearer_with_pairs() -> None:
    torch.manual_seed(0)
    slope = torch.randn(6, dtype=torch.float64)
    at = [torch.randn(6, dtype=torch.float64)]
    off = {}
    for pairs in (100, 10_000):
        found = [Evolution(pairs=pairs).estimate(lambda x: slope @ x[0], at)[0] for _ in range(3)]
        off[pairs] = float(torch.stack([(f - slope).norm() / slope.norm() for f in found]).mean())
    assert off[10_000] < 0.05
    assert 4 < off[100] / off[10_000] < 25  # a tenth, give or take luck


def test_evolution_goes_down_a_loss_that_has_no_gradient() -> None:
    def errors(outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs.argmax(1) != y).double().mean()

    torch.manual_seed(0)
    x, w = torch.randn(4, 40, 4).double(), torch.randn(4, 3).double()
    y = (x @ w).argmax(-1)  # the same question in every task, so that there is something to learn for all of them
    tasks = Task(Batch(x[:, :10], y[:, :10], 3), Batch(x[:, 10:], y[:, 10:], 3))
    way = Evolution(sigma=0.3, pairs=8, inner="evolution")
    learner = kshot.MAML(nn.Linear(4, 3), loss=errors, rule=SGD(0.2), allow_unused=True, hypergradient=way).double()
    optimizer, seen = torch.optim.Adam(learner.parameters(), lr=0.1), []
    for _ in range(30):
        optimizer.zero_grad()
        value = meta_loss(learner, tasks, "vmap")
        value.backward()
        optimizer.step()
        seen.append(float(value.detach()))
    before, after = sum(seen[:3]) / 3, sum(seen[-3:]) / 3
    assert after < 0.6 * before


@pytest.mark.parametrize("way", WAYS)
def test_evolutions_gradient_is_that_of_the_smoothed_loss(way: str) -> None:
    learner, tasks = kshot.MAML(MLP(1, (4,), 1), loss="mse", rule=SGD(0.05)).double(), regression(tasks=2)
    exact = torch.cat([g.flatten() for g in gradients(learner, tasks).values()])
    learner = with_way(learner, Evolution(sigma=1e-3, pairs=600))
    found = torch.cat([g.flatten() for g in gradients(learner, tasks, way).values()])
    assert float(torch.cosine_similarity(found, exact, 0)) > 0.99
    assert float(found.norm() / exact.norm()) == pytest.approx(1, abs=0.1)


def test_evolution_is_mamlplusplus_own_loss_too() -> None:
    """All that is differentiated goes through the way, whatever a learner's loss is made of."""
    torch.manual_seed(0)
    tasks = classification(tasks=2)
    learner = kshot.MAMLPlusPlus(nn.Linear(4, 3), rule=SGD(0.1), steps=2, first_order=0.0).double()
    exact = torch.cat([g.flatten() for g in gradients(learner, tasks).values()])
    learner._way = Evolution(sigma=1e-3, pairs=600)
    found = torch.cat([g.flatten() for g in gradients(learner, tasks, "vmap").values()])
    assert not torch.equal(found, exact)
    assert float(torch.cosine_similarity(found, exact, 0)) > 0.97


FLAT = ["unrolled", "first-order", "truncated:1", "mixed-mode", "mixed-mode:2", "checkpoint:2", "finite-difference"]


@pytest.mark.parametrize("how", [*FLAT, "implicit:cg", "implicit:neumann", Evolution(pairs=2)], ids=str)
def test_no_step_leaves_a_tensor_behind(how: str | Hypergradient) -> None:
    """Exactly: as many tensors live after twenty outer steps more, and not a byte of tensor memory. benchmarks/flat_memory.py
    has resident memory over a thousand."""
    torch.manual_seed(0)
    learner = kshot.MAML(MLP(1, (4,), 1), loss="mse", rule=SGD(0.01), steps=2, hypergradient=how).double()
    tasks, optimizer = regression(tasks=2), torch.optim.Adam(learner.parameters())

    def train(steps: int) -> int:
        for step in range(steps):
            optimizer.zero_grad(set_to_none=False)
            meta_loss(learner, tasks, "vmap" if step % 2 else "loop").backward()
            optimizer.step()
        gc.collect()
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

    before = train(4)
    assert train(20) == before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        train(4)
    assert sum(e.nbytes() for e in seen.profiler.kineto_results.events() if e.name() == "[memory]") == 0  # type: ignore[union-attr]


# What goes together, and what says why it does not.


@pytest.mark.parametrize(
    "how", ["mixed-mode", "checkpoint:2", "implicit:cg", "truncated:1", "finite-difference", "evolution"]
)
def test_adapting_without_a_graph_is_the_same_in_every_way(how: str) -> None:
    torch.manual_seed(0)
    task = classification()[0]
    learner = kshot.MAML(MLP(4, (6,), 3), rule=SGD(0.1), steps=3, hypergradient=how).double()
    with torch.no_grad():
        silent = learner.adapt(task.support)
        assert len(learner.trajectory(task.support, 3)) == 4
    for name, p in learner.adapt(task.support).items():
        torch.testing.assert_close(silent[name], p.detach())
        assert not silent[name].requires_grad


def test_torchs_own_squared_error_passes_in_mixed_mode() -> None:
    torch.manual_seed(0)
    tasks, found = regression(), []
    model = MLP(1, (5,), 1).double()
    for how in ("unrolled", "mixed-mode"):
        learner = kshot.MAML(
            model,
            loss=lambda o, y: F.mse_loss(o, y, reduction="sum") + F.mse_loss(o, y),
            rule=SGD(0.01),
            hypergradient=how,
        )
        found.append(gradients(learner, tasks, "vmap"))
    for n, g in found[0].items():
        torch.testing.assert_close(found[1][n], g)


@pytest.mark.parametrize(
    "way",
    ["truncated:2", "mixed-mode:4", "implicit:cg", Implicit("neumann", 3.0, 7), Evolution(pairs=2), Checkpoint(4)],
)
def test_it_is_saved_with_the_learner(way: str | Hypergradient, tmp_path: Path) -> None:
    kshot.save(kshot.MAML(MLP(4, (5,), 3), hypergradient=way), tmp_path / "a.safetensors")
    again = kshot.load(tmp_path / "a.safetensors")
    assert hypergradient(again.hypergradient) == hypergradient(way)  # type: ignore[arg-type]


def test_a_recipe_takes_one_with_settings() -> None:
    given = ["learner.hypergradient.name=implicit", "learner.hypergradient.proximal=0.5"]
    assert recipes.read("sinusoid-maml", given).learner().hypergradient == Implicit(proximal=0.5)
    assert recipes.read("sinusoid-maml", ["learner.hypergradient=checkpoint:3"]).learner()._way == Checkpoint(3)


def test_names_and_objects() -> None:
    assert hypergradient("checkpoint:3") == Checkpoint(3)
    assert hypergradient("mixed-mode:3") == MixedMode(3)
    assert hypergradient("truncated:0") == Truncated(0)
    assert hypergradient("implicit:neumann") == Implicit("neumann")
    assert hypergradient("unrolled") == Unrolled()
    assert hypergradient(MixedMode()) == MixedMode()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: hypergradient("second-order"), "choose one of unrolled, mixed-mode"),
        (lambda: hypergradient("truncated"), "choose one of"),
        (lambda: hypergradient("truncated:x"), "give 'truncated:5'"),
        (lambda: hypergradient("truncated:-1"), "give 'truncated:5'"),
        (lambda: hypergradient("checkpoint:0"), "give 'checkpoint:5'"),
        (lambda: hypergradient("mixed-mode:0"), "give 'mixed-mode:5'"),
        (lambda: hypergradient("finite-difference:2"), "choose one of"),
        (lambda: hypergradient("unrolled:3"), "choose one of"),
        (lambda: hypergradient("implicit:lu"), "choose 'implicit:cg' or 'implicit:neumann'"),
        (lambda: hypergradient(None), "choose one of"),
        (lambda: Implicit(iterations=0), "at least 1"),
        (lambda: Implicit(proximal=0), "above 0"),
        (lambda: Implicit(damping=-1.0), "at least 0"),
        (lambda: FiniteDifference(0.0), "above 0"),
        (lambda: Evolution(sigma=0), "above 0"),
        (lambda: Evolution(pairs=0), "at least 1"),
        (lambda: Evolution(inner="no"), "choose 'gradient' or 'evolution'"),  # type: ignore[arg-type]
        (lambda: kshot.unroll(lambda p, _: p["w"].sum(), {"w": torch.ones(1)}, SGD(0.1), 0), "at least 1"),
        (lambda: kshot.MAML(MLP(4, (5,), 3), rule=SGD(0.1, learn="one"), hypergradient="implicit:cg"), "learn=None"),
        (lambda: kshot.MAMLPlusPlus(MLP(4, (5,), 3), rule=SGD(0.1), hypergradient="implicit:cg"), "every step"),
        (
            lambda: (lambda c, t: c.adapt(F.cross_entropy(c(t.support.x), t.support.y)))(
                kshot.MAML(MLP(4, (5,), 3), hypergradient="mixed-mode").double().clone(), classification()[0]
            ),
            "a clone takes one step at a time",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make()


@pytest.mark.parametrize("how", ["unrolled", "mixed-mode", "checkpoint:2", "truncated:9"])
def test_the_hypergradient_of_any_two_objectives_is_their_derivative(how: str) -> None:
    """Against differences, in the start and in what the inner objective captures."""
    g = torch.Generator().manual_seed(0)
    x, y, v = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((8, 3), (8, 1), (3, 1)))
    strength = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    start = {"w": torch.randn(3, 1, generator=g, dtype=torch.float64)}
    unused = torch.ones(2, dtype=torch.float64, requires_grad=True)

    def inner(params: Params, step: int) -> Tensor:
        return (x @ params["w"] - y).square().mean() + strength.exp() * params["w"].square().sum()

    def outer(fitted: Params) -> Tensor:
        return (x @ fitted["w"] - y).tanh().square().mean()

    value, by_start, (by_strength, by_nothing) = kshot.hypergradient(
        inner, outer, start, SGD(0.1), 5, how, of=[strength, unused]
    )

    def moved(along_start: float, along_strength: float) -> float:
        with torch.no_grad():
            strength.add_(along_strength)
            found = float(outer(kshot.unroll(inner, {"w": start["w"] + along_start * v}, SGD(0.1), 5)))
            strength.sub_(along_strength)
        return found

    eps = 1e-6
    assert float(value) == pytest.approx(moved(0, 0), rel=1e-12)
    slope = (moved(eps, 0) - moved(-eps, 0)) / (2 * eps)
    assert float((by_start["w"] * v).sum()) == pytest.approx(slope, rel=1e-7, abs=1e-9)
    assert float(by_strength) == pytest.approx((moved(0, eps) - moved(0, -eps)) / (2 * eps), rel=1e-7, abs=1e-9)
    assert not by_nothing.any()


def test_the_hypergradient_of_evolution_is_near_the_exact_one() -> None:
    a = torch.tensor([2.0, -1.0], dtype=torch.float64)
    inner = lambda p, step: (p["w"] - a).square().sum()  # noqa: E731
    outer = lambda p: p["w"].square().sum()  # noqa: E731
    start = {"w": torch.zeros(2, dtype=torch.float64)}
    torch.manual_seed(0)
    _, found, _ = kshot.hypergradient(inner, outer, start, SGD(0.1), 3, Evolution(sigma=0.01, pairs=4000))
    _, exact, _ = kshot.hypergradient(inner, outer, start, SGD(0.1), 3)
    assert (found["w"] - exact["w"]).norm() < 0.1 * exact["w"].norm()


def test_the_hypergradient_refuses_what_has_no_gradient() -> None:
    start, loss = {"w": torch.zeros(2)}, lambda p, step=0: p["w"].square().sum()
    with pytest.raises(InputError, match=r"shape \(3,\) in `of` has no gradient"):
        kshot.hypergradient(loss, loss, start, SGD(0.1), 3, of=[torch.ones(3)])
    with pytest.raises(InputError, match="depends on none of these parameters"):
        kshot.hypergradient(loss, lambda p: torch.ones(()), start, SGD(0.1), 3)


@pytest.mark.parametrize("way", WAYS)
def test_the_residual_of_the_solver_is_reported(way: str) -> None:
    """As many iterations as there are parameters leave nothing; one leaves a share that a second one lowers."""
    tasks = regression(tasks=3, features=2)
    shares = []
    for iterations in (1, 2, 3):
        model = nn.Linear(2, 1).double()
        learner = kshot.MAML(
            model, loss="mse", rule=SGD(0.1), steps=5, hypergradient=Implicit("cg", iterations=iterations)
        )
        with residuals() as left:
            meta_loss(learner, tasks, way).backward()  # type: ignore[arg-type]
        shares.append(torch.cat([share.flatten() for share in left]))
        assert shares[-1].shape == (3,)
    assert (shares[0] > shares[1]).all()
    assert (shares[2] < 1e-6).all()
