"""Any unmodified module as the model: each hazard of functional.py, against plain autograd."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import kshot
from kshot import InputError, Task, meta_loss
from kshot.functional import call, parameters, select, twice_differentiable
from kshot.rules import SGD
from tests.conftest import classification
from tests.test_laws import claim_exact, gradients


class Tied(nn.Module):
    """Two layers that share one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.b(self.a(x).tanh()).tanh())
        return out


class TwoNames(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.again = self.a
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.again(self.a(x).tanh()).tanh())
        return out


class Listed(nn.Module):
    """A ModuleList, a buffer that scales, and a counter buffer that each pass writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.head = nn.Linear(4, 3)
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("passes", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        for layer in self.layers:
            x = (layer(x) / self.scale).tanh()
        out: Tensor = self.head(x)
        return out


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), 2, 4)
        out: Tensor = self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.cell(x.reshape(len(x), 2, 4))[0][:, -1])
        return out


MODULES = {
    "tied": (Tied, (4,)),
    "two names": (TwoNames, (4,)),
    "list and buffers": (Listed, (4,)),
    "attention": (Attention, (8,)),
    "batch norm": (lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)), (4,)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)), (4,)),
    "transformer": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (2, 4)),
            nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True, activation=F.gelu),
            nn.Flatten(),
            nn.Linear(8, 3),
        ),
        (8,),
    ),
}


def maml(model: nn.Module, **choices: object) -> kshot.MAML:
    tracked = any(getattr(m, "track_running_stats", False) for m in model.modules())
    return kshot.MAML(
        model,
        rule=SGD(0.1),
        steps=2,
        batch_norm="batch" if tracked else None,
        **choices,  # type: ignore[arg-type]
    ).double()


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("way", ["loop", "vmap"])
def test_second_order_meta_gradient_of_unmodified_modules(name: str, way: str) -> None:
    make, features = MODULES[name]
    learner, tasks = maml(make()), classification(tasks=2, features=features)
    state = copy.deepcopy(learner.state_dict())
    if (name, way) == ("list and buffers", "vmap"):
        pytest.skip("a module that writes to its buffers cannot run under vmap; the next test shows the fallback")
    claim_exact_but_for_biases(learner, tasks, gradients(learner, tasks, way))
    for key, value in learner.state_dict().items():
        assert torch.equal(value, state[key]), f"{key} changed"
    assert len(dict(learner.model.named_parameters(remove_duplicate=False))) >= len(parameters(learner.model))


def claim_exact_but_for_biases(learner: kshot.MAML, tasks: Task, found: dict[str, Tensor]) -> None:
    """claim_exact without its check that each parameter gets some gradient: key biases of attention never do."""
    noisy = {n: g + 1e-300 for n, g in found.items()}
    claim_exact(learner, tasks, noisy)


def test_a_transformer_in_eval_mode_runs_under_vmap() -> None:
    learner, tasks = maml(MODULES["transformer"][0]()).eval(), classification(features=(8,))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(
                meta_loss(learner, tasks, "vmap"), meta_loss(learner, tasks, "loop"), rtol=1e-9, atol=1e-9
            )


def test_tied_weights_adapt_as_one_tensor() -> None:
    """Against plain autograd and torch.optim on the module itself."""
    for module in (Tied(), TwoNames()):
        learner, task = kshot.MAML(module, rule=SGD(0.1), steps=3).double(), classification(tasks=1)[0]
        plain = copy.deepcopy(learner.model)
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(plain(task.support.x), task.support.y).backward()
            optimizer.step()
        torch.testing.assert_close(learner(task.support, task.query.x), plain(task.query.x), rtol=1e-12, atol=1e-12)


def test_a_recurrent_model_falls_back_to_the_loop_and_says_so_once() -> None:
    learner, tasks = maml(Recurrent()), classification(features=(8,))
    with pytest.warns(UserWarning, match="runs the tasks in a loop"):
        value = meta_loss(learner, tasks)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert torch.equal(meta_loss(learner, tasks), value)
    claim_exact(learner, tasks, gradients(learner, tasks))


def test_a_module_that_writes_to_its_buffers_works_on_a_copy() -> None:
    learner, tasks = maml(Listed()), classification()
    meta_loss(learner, tasks, "loop")
    assert int(learner.model.passes) == 0  # type: ignore[arg-type]


def test_frozen_parameters_stay_and_get_no_meta_gradient() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    model[0].requires_grad_(False)
    learner, tasks = maml(model), classification()
    assert set(learner.adapt(tasks[0].support)) == {"2.weight", "2.bias"}
    meta_loss(learner, tasks).backward()
    assert model[0].weight.grad is None
    assert model[2].weight.grad is not None


def test_unused_parameters_are_an_error_or_allowed_on_request() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.used(x)
            return out

    tasks = classification()
    for way in ("loop", "vmap"):
        with pytest.raises(InputError, match=r"does not depend on 'spare.weight', 'spare.bias'.*allow_unused"):
            meta_loss(maml(Spare()), tasks, way)  # type: ignore[arg-type]
    learner = maml(Spare(), allow_unused=True)
    meta_loss(learner, tasks).backward()
    assert torch.equal(learner.adapt(tasks[0].support)["spare.weight"], learner.model.spare.weight)  # type: ignore[arg-type, union-attr]
    meta_loss(maml(Spare(), adapted="used.*"), tasks).backward()


def test_dropout_differs_between_tasks_and_stops_in_eval_mode() -> None:
    learner = maml(nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, 3)))
    one = classification(tasks=1)
    twice = Task(one.support[[0, 0]], one.query[[0, 0]])
    losses = torch.vmap(learner.loss, randomness="different")(twice)
    assert losses[0] != losses[1]
    learner.eval()
    with torch.no_grad():
        assert float(meta_loss(learner, twice, "vmap")) == pytest.approx(
            float(meta_loss(learner, one, "loop")), rel=1e-12
        )


class TestBatchNorm:
    """The policy is explicit."""

    @staticmethod
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))

    def test_running_statistics_without_a_policy_are_an_error(self) -> None:
        with pytest.raises(InputError, match="choose batch_norm='batch'"):
            kshot.MAML(self.model())
        with pytest.raises(InputError, match="choose batch_norm='batch'"):
            kshot.ProtoNet(self.model())

    def test_batch_is_transductive_and_running_is_not(self) -> None:
        assert kshot.MAML(self.model(), batch_norm="batch").transductive
        assert not kshot.MAML(self.model(), batch_norm="running").transductive

    @pytest.mark.parametrize("policy", ["batch", "running"])
    def test_it_computes_what_it_says(self, policy: str) -> None:
        model, x = self.model(), torch.randn(7, 4)
        model(torch.randn(50, 4) * 3)  # running statistics that are not the batch's
        wanted = copy.deepcopy(model).train(policy == "batch")(x)
        for training in (True, False):
            model.train(training)
            state = copy.deepcopy(model.state_dict())
            assert torch.equal(call(model, {}, x, policy), wanted)  # type: ignore[arg-type]
            assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
            assert all(m.training == training for m in model.modules())


NORMS: dict[str, tuple[tuple[int, ...], Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "batch_norm": ((6, 3), lambda x, w, b: F.batch_norm(x, None, None, w, b, True)),
    "instance_norm": ((6, 3), lambda x, w, b: F.instance_norm(x, None, None, w, b)),
    "layer_norm": ((3, 6), lambda x, w, b: F.layer_norm(x, (6,), w, b)),
}
OTHERS: dict[str, tuple[tuple[int, ...], Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "group_norm": ((6, 3), lambda x, w, b: F.group_norm(x, 2, w, b)),
    "rms_norm": ((6,), lambda x, w, b: F.rms_norm(x, (6,), w)),
    "softmax": ((6,), lambda x, w, b: F.softmax(x * w + b, -1)),
    "log_softmax": ((6,), lambda x, w, b: F.log_softmax(x * w + b, -1)),
    "gelu": ((6,), lambda x, w, b: F.gelu(x * w + b)),
    "silu": ((6,), lambda x, w, b: F.silu(x * w + b)),
    "elu": ((6,), lambda x, w, b: F.elu(x * w + b)),
    "max_pool2d": ((6, 4, 4), lambda x, w, b: F.max_pool2d(x * w[:, None, None], 2)),
    "avg_pool2d": ((6, 4, 4), lambda x, w, b: F.avg_pool2d(x * w[:, None, None], 2)),
    "conv2d strided": ((6, 5, 5), lambda x, w, b: F.conv2d(x, w.view(6, 1, 1, 1).expand(6, 6, 3, 3), b, stride=2)),
    "conv_transpose2d": ((6, 3, 3), lambda x, w, b: F.conv_transpose2d(x, w.view(6, 1, 1, 1).expand(6, 2, 3, 3))),
    "cross_entropy": ((6,), lambda x, w, b: F.cross_entropy(x * w + b, torch.arange(5))),
    "mse_loss": ((6,), lambda x, w, b: F.mse_loss(x * w + b, x)),
    "huber_loss": ((6,), lambda x, w, b: F.huber_loss(x * w + b, x)),
    "cosine_similarity": ((6,), lambda x, w, b: F.cosine_similarity(x * w + b, b.expand(5, 6), -1)),
    "attention": ((4, 6), lambda x, w, b: F.scaled_dot_product_attention(x[:, None] * w, x[:, None] + b, x[:, None])),
    "embedding": ((6,), lambda x, w, b: F.embedding(torch.tensor([[0, 1], [2, 2]]), (w * b).view(6, 1))),
}


def second_order(
    function: Callable[[Tensor, Tensor, Tensor], Tensor],
    features: tuple[int, ...],
    vmap: bool,
    around_gradient: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> list[Tensor]:
    """The gradient of a function of inner gradients, over four tasks."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, *features, generator=g, dtype=torch.float64)
    start = [torch.randn(n, generator=g, dtype=torch.float64) + 1.5 for n in (features, (6,), (6,))]
    start = [p.requires_grad_() for p in start]

    def inner(p: list[Tensor], x: Tensor) -> Tensor:
        return function((x * p[0]).tanh(), p[1], p[2]).sin().square().sum()

    def outer(x: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH), around_gradient():
            grads = torch.func.grad(inner)(start, x)
        return inner([p - 0.1 * d for p, d in zip(start, grads, strict=True)], x) + sum(d.sin().sum() for d in grads)

    total = torch.vmap(outer)(x).sum() if vmap else torch.stack([outer(row) for row in x]).sum()
    found = torch.autograd.grad(total, start, allow_unused=True)
    return [torch.zeros(()) if f is None else f for f in found]


@pytest.mark.parametrize("name", [*NORMS, *OTHERS])
def test_second_derivatives_under_vmap_are_right(name: str) -> None:
    features, function = (NORMS | OTHERS)[name]
    right = second_order(function, features, vmap=False)
    ours = second_order(function, features, vmap=True, around_gradient=twice_differentiable)
    torch.testing.assert_close(ours, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NORMS)
def test_torch_alone_gets_them_wrong(name: str) -> None:
    """Why the detour exists. Where this fails, torch was mended and the detour can go."""
    features, function = NORMS[name]
    torch_alone, right = second_order(function, features, vmap=True), second_order(function, features, vmap=False)
    assert not all(torch.allclose(a, b, rtol=1e-3) for a, b in zip(torch_alone, right, strict=True))


@pytest.mark.parametrize("name", NORMS)
def test_forward_over_reverse_is_right_and_reverse_over_forward_is_not(name: str) -> None:
    """Why mixed mode is the first of the two. Where this fails, torch was mended and the second, which is lighter, can be had."""
    features, function = NORMS[name]
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, *features, generator=g, dtype=torch.float64)
    at = [torch.randn(n, generator=g, dtype=torch.float64) + 1.5 for n in (features, (6,), (6,))]
    along = [torch.randn(p.shape, generator=g, dtype=torch.float64) for p in at]

    def loss(p: list[Tensor]) -> Tensor:
        return function((x * p[0]).tanh(), p[1], p[2]).sin().square().sum()

    (right,) = torch.func.vjp(torch.func.grad(loss), at)[1](along)
    torch.testing.assert_close(torch.func.jvp(torch.func.grad(loss), (at,), (along,))[1], right)
    other = torch.func.grad(lambda p: torch.func.jvp(loss, (p,), (along,))[1])(at)
    assert not all(torch.allclose(a, b, rtol=1e-3) for a, b in zip(other, right, strict=True))


def test_patterns_select_names() -> None:
    names = ["body.0.weight", "body.0.bias", "head.weight"]
    assert select(names, "*") == names
    assert select(names, "head.*") == ["head.weight"]
    assert select(names, "!head.*") == names[:2]
    assert select(names, ["body.*", "!*.bias"]) == ["body.0.weight"]
    with pytest.raises(InputError, match="matches none"):
        select(names, "tail.*")
