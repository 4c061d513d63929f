"""Compiled meta-steps: recordings are the learner's own loss and gradient, for weights and tasks that they were not made from."""

from __future__ import annotations

import logging
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.utils import fresh_inductor_cache

import kshot
from kshot import InputError, MetaLearner, Task, meta_loss
from kshot.compiled import NotCompiled, _pool, add_gradient, forecast, inputs, record
from kshot.hypergradients import Evolution, Implicit, hypergradient
from kshot.models import MLP, Conv4
from kshot.rules import SGD
from kshot.tasks import Sinusoids
from kshot.training import compiling
from kshot.vectorize import compiled, losses_by, meta_backward
from tests.conftest import classification
from tests.test_hypergradients import Transformer
from tests.test_laws import CASES

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("c++") is None, reason="torch.compile needs a compiler of C++"
)


def maml(**choices: object) -> kshot.MAML:
    return kshot.MAML(MLP(4, (6,), 3), rule=SGD(0.1), **choices)  # type: ignore[arg-type]


def shaken(learner: MetaLearner) -> None:
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in learner.parameters():
            p += 0.1 * torch.randn(p.shape, generator=g, dtype=p.dtype)


def eager(learner: MetaLearner, tasks: Task, way: str) -> list[Tensor]:
    return _with_gradient(learner, meta_loss(learner, tasks, way))  # type: ignore[arg-type]


def _with_gradient(learner: MetaLearner, value: Tensor) -> list[Tensor]:
    learner.zero_grad()
    value.backward()
    trained = [p for p in learner.parameters() if p.requires_grad]
    return [value.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in trained)]


def replayed(learner: MetaLearner, tasks: Task, recorded: object) -> list[Tensor]:
    with torch.no_grad():
        found = recorded(*inputs(learner, tasks))  # type: ignore[operator]
    trained = [p for p in learner.parameters() if p.requires_grad]
    value, *grads = found
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(trained, grads, strict=True)]
    return [t / len(tasks) for t in (value, *filled)]


def assert_recorded(learner: MetaLearner, tasks: Task, others: Task, way: str) -> None:
    """A recording made on some tasks is right for other weights and others, and draws the random numbers of eager mode."""
    recorded = record(learner, losses_by(learner, way), tasks)  # type: ignore[arg-type]
    shaken(learner)
    torch.manual_seed(3)
    wanted = eager(learner, others, way)
    torch.manual_seed(3)
    torch.testing.assert_close(replayed(learner, others, recorded), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_a_recording_is_the_learners_loss_and_gradient(name: str) -> None:
    case = CASES[name]
    learner, tasks, others = case.build(), case.tasks(tasks=2), case.tasks(tasks=2, seed=1)
    if not any(p.requires_grad for p in learner.parameters()):
        return
    meta_loss(learner, tasks, "loop")
    assert_recorded(learner, tasks[:1], others[:1], "loop")  # which is compiled for one task, and called for each
    assert_recorded(learner, tasks, others, "vmap")


@pytest.mark.parametrize("way", ["loop", "vmap"])
@pytest.mark.parametrize(("recorded_at", "replayed_at"), [(0.02, 0.12), (0.2, 0.29), (0.4, 0.9)])
def test_a_recording_computes_with_the_progress(recorded_at: float, replayed_at: float, way: str) -> None:
    tasks = classification(tasks=2)
    learner = kshot.MAMLPlusPlus(MLP(4, (5,), 3).double(), steps=3)
    learner.progress = recorded_at
    recorded = record(learner, losses_by(learner, way), tasks)  # type: ignore[arg-type]
    learner.progress = replayed_at
    torch.testing.assert_close(
        replayed(learner, tasks, recorded), eager(learner, tasks, way), rtol=1e-6, atol=1e-7
    )  # it is a float32


def test_a_training_with_stages_compiles_each_and_is_the_eager_one() -> None:
    found = []
    for compile in (False, True):
        torch.manual_seed(0)
        learner = kshot.MAMLPlusPlus(MLP(1, (8,), 1), steps=2, loss="mse", multi_step=0.25, first_order=0.5)
        kshot.fit(learner, Sinusoids(), steps=12, meta_batch=2, vectorize="vmap", compile=compile, progress=False)
        found.append([p.detach() for p in learner.parameters()])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_a_loss_that_decides_by_the_progress_outside_of_its_stage_is_not_compiled() -> None:
    class Hasty(kshot.ProtoNet):
        def loss(self, task: Task) -> Tensor:
            return super().loss(task) * (2 if self.progress < 0.5 else 1)

    learner = Hasty(MLP(4, (5,)).double())
    with pytest.raises(NotCompiled):
        record(learner, losses_by(learner, "loop"), classification(tasks=2))


@pytest.mark.parametrize("way", ["loop", "vmap"])
@pytest.mark.parametrize(
    "how",
    [
        "unrolled",
        "mixed-mode",
        "checkpoint:2",
        "first-order",
        "truncated:1",
        "finite-difference",
        "implicit:cg",
        "implicit:neumann",
        "evolution",
    ],
)
def test_every_hypergradient_can_be_recorded(how: str, way: str) -> None:
    tasks = classification(features=(1, 16, 16), tasks=2)
    few = {f"implicit:{s}": Implicit(s, iterations=2) for s in ("cg", "neumann")} | {"evolution": Evolution(pairs=1)}
    learner = kshot.MAML(Transformer(), rule=SGD(0.1), steps=2, hypergradient=few.get(how, how)).double()
    meta_loss(learner, tasks, "loop")
    assert_recorded(learner, tasks, tasks, way)


class Looks(nn.Module):
    """Decides by a value."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        return out if float(x.sum()) > 0 else -out


def test_what_looks_at_values_is_not_compiled() -> None:
    learner, tasks = kshot.MAML(Looks(), rule=SGD(0.1)).double(), classification()
    with pytest.raises(InputError, match=r"cannot be compiled \(.+\): leave out compile=True"):
        meta_loss(learner, tasks, "loop", compile=True)
    meta_loss(learner, tasks, "loop").backward()  # and eagerly it goes on


@needs_compiler
@pytest.mark.parametrize("way", ["vmap", 2])
def test_compiled_is_eager(way: object) -> None:
    """2 of 5 tasks at a time: the last piece is smaller."""
    learner, tasks = maml(), _floats(classification(tasks=5))
    for _ in range(2):
        wanted = eager(learner, tasks, "loop")
        value = meta_loss(learner, tasks, way, compile=True)  # type: ignore[arg-type]
        torch.testing.assert_close(_with_gradient(learner, value), wanted, rtol=1e-5, atol=1e-6)
        shaken(learner)
    step = compiled(learner, tasks, way)  # type: ignore[arg-type]
    learner.zero_grad()
    for _ in range(2):  # adds to what is there
        meta_backward(learner, tasks, way, step=step)  # type: ignore[arg-type]
    again = [p.grad / 2 for p in learner.parameters() if p.grad is not None]
    torch.testing.assert_close(again, eager(learner, tasks, "loop")[1:], rtol=1e-5, atol=1e-6)


@needs_compiler
def test_a_compiled_training_of_convolutions_is_the_eager_one() -> None:
    """The compiler lays gradients out as it likes, and a fused Adam reads them as the parameters lie."""
    tasks = _floats(classification(features=(1, 28, 28), ways=5, tasks=2))

    class Same:
        def sample(self, n: int, generator: torch.Generator) -> Task:
            return tasks

    for layout in (torch.contiguous_format, torch.channels_last):
        moved = []
        for compile in (True, False):
            torch.manual_seed(0)
            model = Conv4(5, width=8, down="stride", norm="none").to(memory_format=layout)  # type: ignore[call-overload]
            learner = kshot.MAML(model, rule=SGD(0.1))
            kshot.fit(learner, Same(), steps=3, meta_batch=2, vectorize="loop", compile=compile, progress=False)
            moved.append(list(learner.parameters()))
        torch.testing.assert_close(*moved, rtol=1e-3, atol=2e-4)


def test_a_gradient_is_handed_over_as_the_parameter_lies() -> None:
    torch.manual_seed(0)
    p, q, r = (nn.Parameter(torch.randn(3, 4)) for _ in range(3))
    for times in (1.0, 2.0):
        shared = torch.ones(3, 4)
        add_gradient([p, q, r], [torch.arange(12.0).reshape(4, 3).t(), shared, shared])
        assert p.grad is not None
        assert p.grad.is_contiguous()
        torch.testing.assert_close(p.grad, times * torch.arange(12.0).reshape(4, 3).t())
    assert q.grad is not None
    assert r.grad is not None
    assert q.grad.data_ptr() != r.grad.data_ptr()
    torch.testing.assert_close(q.grad, r.grad)


@needs_compiler
def test_the_compilers_own_warnings_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that it calls the solver of a ridge regression by a detour."""
    learner, tasks = kshot.RidgeNet(MLP(4, (6,))), _floats(classification(tasks=2))
    heard: list[str] = []
    log = logging.getLogger("torch._inductor.ir")
    monkeypatch.setattr(log, "filters", [lambda record: heard.append(record.getMessage())])
    with fresh_inductor_cache():
        found = meta_loss(learner, tasks, "loop", compile=True)
    torch.testing.assert_close(found, meta_loss(learner, tasks, "loop"), rtol=1e-5, atol=1e-6)
    assert not heard


@needs_compiler
def test_pieces_run_side_by_side_and_others_keep_their_threads() -> None:
    learner, tasks = maml(), _floats(classification(tasks=5))
    wanted = eager(learner, tasks, "loop")
    torch.set_num_threads(2)
    try:
        step = compiled(learner, tasks, 2)
        assert step._threads == 2
        value, gradient = step(learner, tasks)
        torch.testing.assert_close([value, *gradient], wanted, rtol=1e-5, atol=1e-6)
        again = step(learner, tasks)[1]
        assert all(torch.equal(a, b) for a, b in zip(gradient, again, strict=True) if a is not None and b is not None)
        both = Barrier(2)  # so that each of the two is asked
        assert list(_pool(2).map(lambda _: (both.wait(), torch.get_num_threads())[1], range(2))) == [1, 1]
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(1)


def test_pieces_that_draw_random_numbers_do_so_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda recorded, given, **named: recorded)
    model = nn.Sequential(MLP(4, (6,)), nn.Dropout(0.5), nn.Linear(6, 3))
    learner, tasks = kshot.MAML(model, rule=SGD(0.1)), _floats(classification(tasks=4))
    torch.set_num_threads(2)
    try:
        step = compiled(learner, tasks, "loop")
        assert step._threads == 1
        torch.manual_seed(5)
        wanted = eager(learner, tasks, "loop")
        torch.manual_seed(5)
        value, gradient = step(learner, tasks)
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close([value, *gradient], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("failure", [AssertionError(), RuntimeError("a kernel is missing")])
def test_whatever_fails_in_compiled_code_goes_on_eagerly(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(recorded: object, given: object, **named: object) -> object:
        def run(*tensors: Tensor) -> None:
            raise failure

        return run

    monkeypatch.setattr(torch._inductor, "compile", made)
    learner, tasks, said = maml(), _floats(classification()), []
    way = compiling.Compiling("auto", said.append)
    way.chosen = True
    assert way.step(learner, tasks, "vmap", 10) is None
    assert said == [f"the steps are not compiled: {str(failure) or 'AssertionError'}"]


def test_a_learner_that_changes_all_the_time_is_not_compiled_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda recorded, given, **named: recorded)
    learner, tasks = maml(), _floats(classification())
    for learner.called in range(16):  # type: ignore[assignment]
        meta_loss(learner, tasks, "vmap", compile=True)
    learner.called = 16
    with pytest.raises(InputError, match=r"16 were compiled already for this learner"):
        meta_loss(learner, tasks, "vmap", compile=True)


@needs_compiler
def test_a_changed_setting_is_compiled_anew() -> None:
    learner, tasks = maml(), _floats(classification())
    one = meta_loss(learner, tasks, "vmap", compile=True).detach()
    learner.steps = 2
    torch.testing.assert_close(
        meta_loss(learner, tasks, "vmap", compile=True).detach(), meta_loss(learner, tasks, "vmap").detach()
    )
    assert not torch.equal(one, meta_loss(learner, tasks, "vmap", compile=True).detach())


def test_what_a_step_depends_on_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parameter that was frozen, another loss, other parameters that adapt, another hypergradient."""
    monkeypatch.setattr(torch._inductor, "compile", lambda recorded, given, **named: recorded)
    learner, tasks = maml(), _floats(classification())

    def agrees() -> None:
        wanted = eager(learner, tasks, "vmap")
        found = _with_gradient(learner, meta_loss(learner, tasks, "vmap", compile=True))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)

    agrees()
    learner.criterion = lambda outputs, y: 2 * nn.functional.cross_entropy(outputs, y)
    agrees()
    learner.hypergradient, learner._way = "first-order", hypergradient("first-order")
    agrees()
    learner.adapted = ["head.*"]
    agrees()
    learner.config = {"scale": 1.0}
    learner.criterion = lambda outputs, y: learner.config["scale"] * nn.functional.cross_entropy(outputs, y)
    agrees()
    learner.config["scale"] = 2.0
    agrees()
    learner.model.register_forward_hook(lambda module, given, found: 2 * found)
    agrees()
    next(learner.parameters()).requires_grad_(False)
    agrees()


def test_a_compiled_loss_is_a_value_where_gradients_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda recorded, given, **named: recorded)
    learner, tasks = maml(), _floats(classification())
    with torch.no_grad():
        torch.testing.assert_close(meta_loss(learner, tasks, compile=True), meta_loss(learner, tasks))


@pytest.mark.parametrize("how", ["unrolled", "mixed-mode", "checkpoint:1"])
def test_steps_that_are_taken_again_with_dropout_are_right_or_refused(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their random numbers are drawn again by setting a state, which is no operation on tensors."""
    monkeypatch.setattr(torch._inductor, "compile", lambda recorded, given, **named: recorded)
    model = nn.Sequential(MLP(4, (6,)), nn.Dropout(0.5), nn.Linear(6, 3))
    learner, tasks = kshot.MAML(model, rule=SGD(0.5), steps=2, hypergradient=how), _floats(classification())
    torch.manual_seed(5)
    wanted = eager(learner, tasks, "loop")
    torch.manual_seed(5)
    try:
        found = _with_gradient(learner, meta_loss(learner, tasks, "loop", compile=True))
    except InputError:
        assert how != "unrolled"
        return
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@needs_compiler
def test_dropout_draws_what_it_draws_eagerly() -> None:
    model = nn.Sequential(MLP(4, (6,)), nn.Dropout(0.5), nn.Linear(6, 3))
    learner, tasks = kshot.MAML(model, rule=SGD(0.1)), _floats(classification())
    meta_loss(learner, tasks, "vmap", compile=True)
    torch.manual_seed(5)
    wanted = meta_loss(learner, tasks, "vmap").detach()
    torch.manual_seed(5)
    torch.testing.assert_close(meta_loss(learner, tasks, "vmap", compile=True).detach(), wanted)


def _floats(tasks: Task) -> Task:
    def halved(b: kshot.Batch) -> kshot.Batch:
        return kshot.Batch(b.x.float(), b.y if b.ways else b.y.float(), b.ways)

    return Task(halved(tasks.support), halved(tasks.query))


def trained(steps: int, out: Path | None = None, **settings: object) -> list[Tensor]:
    torch.manual_seed(0)
    learner = kshot.MAML(MLP(1, (6,), 1), loss="mse", rule=SGD(0.1))
    kshot.fit(
        learner,
        Sinusoids(shots=5, queries=5),
        steps=steps,
        meta_batch=4,
        vectorize="vmap",
        out=out,
        progress=False,
        save_every=3,
        **settings,
    )
    return [p.detach().clone() for p in learner.parameters()]


@needs_compiler
def test_fit_compiles_and_goes_on_to_the_bit(tmp_path: Path) -> None:
    whole = trained(6, tmp_path / "whole", compile=True)
    torch.testing.assert_close(whole, trained(6, compile=False), rtol=1e-4, atol=1e-5)
    trained(3, tmp_path / "parts", compile=True)
    for a, b in zip(whole, trained(6, tmp_path / "parts", compile=True), strict=True):
        assert torch.equal(a, b)


def test_auto_compiles_where_it_pays_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    learner, tasks = maml(), _floats(classification())
    way = compiling.Compiling("auto", said.append)
    for _ in range(compiling.TIMED):
        assert way.step(learner, tasks, "vmap", 10**6) is None
        way._seconds.append(0.001)
    monkeypatch.setattr(compiling, "compiled", lambda *given: lambda learner, tasks: [torch.zeros(())])
    monkeypatch.setattr(compiling, "forecast", lambda *given: (30.0, 0.0005))
    assert way.step(learner, tasks, "vmap", 10**6) is not None
    assert way.chosen is True
    assert "to save about 500 s of 1000 s" in said[0]
    assert "compiled in" in said[1]


@pytest.mark.parametrize(("left", "then"), [(1000, 0.0), (10**6, 0.00095)])
def test_auto_leaves_it_where_it_does_not_pay(left: int, then: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few steps, or too small a gain."""
    learner, tasks = maml(), _floats(classification())
    way = compiling.Compiling("auto", lambda line: pytest.fail(line))
    for _ in range(compiling.TIMED):
        way.step(learner, tasks, "vmap", left)
        way._seconds.append(0.001)
    monkeypatch.setattr(compiling, "forecast", lambda *given: (30.0, then))
    assert way.step(learner, tasks, "vmap", left) is None
    assert way.chosen is False


def test_what_cannot_be_compiled_goes_on_eagerly_and_says_why() -> None:
    said: list[str] = []
    learner, tasks = kshot.MAML(Looks(), rule=SGD(0.1)), _floats(classification())
    way = compiling.Compiling("auto", said.append)
    for _ in range(compiling.TIMED):
        way.step(learner, tasks, "loop", 10**6)
        way._seconds.append(0.001)
    assert way.step(learner, tasks, "loop", 10**6) is None
    assert way.chosen is False
    assert said[0].startswith("the steps are not compiled: ")
    with pytest.raises(InputError, match="compile=True: this meta-step cannot be compiled"):
        compiling.Compiling(True, said.append).step(learner, tasks, "loop", 10)


def test_a_wrong_compilation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, tasks = maml(), _floats(classification())

    def wrong(recorded: object, given: object, **named: object) -> object:
        return lambda *tensors: [None if t is None else 1.1 * t for t in recorded(*tensors)]  # type: ignore[operator]

    monkeypatch.setattr(torch._inductor, "compile", wrong)
    with pytest.raises(InputError, match=r"its gradient is off by 0\.1 of its length"):
        meta_loss(learner, tasks, "vmap", compile=True)


def test_tasks_of_many_shapes_are_compiled_for_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda recorded, given, **named: recorded)
    learner, way = maml(), compiling.Compiling(True, lambda line: None)
    found = [way.step(learner, _floats(classification(shots=k)), "vmap", 10) for k in (1, 2, 3, 4, 5, 1)]
    assert [step is not None for step in found] == [True] * 4 + [False, True]


def test_the_forecast_times_what_is_left() -> None:
    learner, tasks = maml(), _floats(classification())
    meta_loss(learner, tasks, "vmap")
    recorded = record(learner, losses_by(learner, "vmap"), tasks)
    cost, seconds = forecast(recorded, learner, tasks, len(tasks))
    assert 11 < cost < 20  # seconds; a hundred operations or so
    assert 0 < seconds < 0.1


def test_compile_takes_true_false_or_auto() -> None:
    with pytest.raises(InputError, match="compile='yes' is not known: choose true, false or 'auto'"):
        trained(1, compile="yes")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(1, compile=False)
