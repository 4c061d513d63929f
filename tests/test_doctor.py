"""The doctor against closed forms, planted faults, and memory that is counted in another way."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import kshot
from kshot import Batch, Diagnosis, InputError, Task, diagnose
from kshot.cli import app
from kshot.doctor import Agreement, Mode, Range, Silent, Step, forecast
from kshot.doctor.advice import recommend
from kshot.hypergradients import Checkpoint, Implicit, MixedMode, Unrolled
from kshot.memory import available_memory, peak_memory
from kshot.models import MLP, Conv4
from kshot.rules import SGD, Adam
from tests.conftest import classification, regression, trajectories
from tests.test_hypergradients import Transformer

# Memory.


def test_peak_memory_of_what_a_hand_can_count() -> None:
    before = torch.zeros(50_000)  # was there before, and does not count

    def run() -> None:
        a = torch.zeros(1_000)  # 4,000 bytes
        b = a + 1  # 8,000
        del a  # 4,000
        c = torch.cat([b, b])  # 12,000 at most
        del b
        c.mul_(2)

    assert [peak_memory(run) for _ in range(3)] == [12_000] * 3
    assert peak_memory(lambda: before.mul_(2)) < 100
    assert 1e6 < available_memory() <= math.inf
    with pytest.raises(InputError, match="measure on 'cpu' or 'cuda'"):
        peak_memory(run, "meta")


RESIDENT = """
from pathlib import Path
import torch, kshot
from kshot.memory import peak_memory
from tests.test_doctor import large

def status(name):
    return 1024 * int(next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name)).split()[1])

torch.set_num_threads(1)
learner, task = large()
run = lambda: torch.autograd.grad(learner.loss(task), list(learner.parameters()))
run()
Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is resident
before = status("VmRSS")
run()
resident = status("VmHWM") - before
print(peak_memory(run), resident)
"""


def large() -> tuple[kshot.MAML, Task]:
    tasks = classification(1, features=(256,), shots=100)
    return kshot.MAML(MLP(256, (256, 256), 3), steps=16).double(), tasks[0]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is read the way of Linux")
def test_peak_memory_is_what_the_process_takes() -> None:
    import os

    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, "-c", RESIDENT]
    root = Path(__file__).parent.parent
    environment["PYTHONPATH"] = f"{root / 'src'}{os.pathsep}{root}"
    found = subprocess.run(command, env=environment, cwd=root, check=True, capture_output=True, text=True)
    counted, resident = map(int, found.stdout.split())
    assert counted > 30e6
    assert counted == pytest.approx(resident, rel=0.05)
    assert not found.stderr  # the profiler keeps its lines to itself


IMAGES = classification(2, shots=1, features=(1, 16, 16))
SMALL = Task(Batch(IMAGES.support.x.float(), IMAGES.support.y, 3), Batch(IMAGES.query.x.float(), IMAGES.query.y, 3))
LEARNERS = {
    "mlp": lambda: kshot.MAML(nn.Sequential(nn.Flatten(), MLP(256, (40, 40), 3))),
    "conv4 with batch norm": lambda: kshot.MAML(Conv4(3, width=4, size=16, norm="batch")),
    "transformer": lambda: kshot.MAML(Transformer()),
    "adam": lambda: kshot.MAML(nn.Sequential(nn.Flatten(), MLP(256, (20,), 3)), rule=Adam(0.01)),
    "meta-lstm": lambda: kshot.MetaLSTM(nn.Sequential(nn.Flatten(), MLP(256, (4,), 3)), lr=0.01, hidden=3),
    "maml++": lambda: kshot.MAMLPlusPlus(
        nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.LayerNorm(8), MLP(8, (8,), 3)), steps=2
    ),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_memory_is_forecast_from_a_few_steps(name: str) -> None:
    found = diagnose(LEARNERS[name](), SMALL, count=2, steps=4)
    able = [m for m in found.modes if m.why is None]
    assert len(able) >= 6
    for mode in able:
        f = mode.forecast
        assert f is not None
        assert f.measured is not None
        assert f.steps == 16
        assert max(s for s, _ in f.seen) <= 12
        assert f.measured == pytest.approx(f.bytes, rel=0.2), (mode.hypergradient, f.deviation)
        assert len(f.curve) == 16
        assert mode.memory == pytest.approx(f.curve[3], rel=0.5), mode.hypergradient
    assert found.mode("unrolled").forecast.a_step > 0  # type: ignore[union-attr]


def test_a_checkpoint_longer_than_the_loop_is_one_segment() -> None:
    learner = LEARNERS["mlp"]()
    memory = forecast.Memory(learner, SMALL[0])
    for every in (3, 7, 40):
        f = memory.forecast(Checkpoint(every), 16)
        assert memory.peak(Checkpoint(every), 16) == pytest.approx(f.bytes, rel=0.2)


# Directions, on a problem that has a closed form: a line fitted by squares, whose curvature H does not change.


def closed_form(lr: float, steps: int) -> tuple[kshot.MAML, Task, list[dict[str, Tensor]], list[list[float]]]:
    """The learner, tasks, each task's meta-gradients, and the norm of each step's gradient: by algebra alone."""
    tasks = regression(3, features=3)
    learner = kshot.MAML(nn.Linear(3, 1, bias=False), loss="mse", rule=SGD(lr), steps=steps).double()
    start = learner.model.weight.detach().flatten()
    wanted, norms = [], []
    for i in range(3):
        x, y = tasks[i].support.x, tasks[i].support.y.flatten()
        xq, yq = tasks[i].query.x, tasks[i].query.y.flatten()
        curvature, w, along = 2 / len(x) * x.T @ x, start, []
        for _ in range(steps + 1):
            slope = 2 / len(x) * x.T @ (x @ w - y)
            along.append(float(slope.norm()))
            before, w = w, w - lr * slope
        v = 2 / len(xq) * xq.T @ (xq @ before - yq)
        through = torch.eye(3, dtype=torch.float64) - lr * curvature
        powers = {k: torch.linalg.matrix_power(through, k) @ v for k in (steps, 0, 1, steps // 2)}
        wanted.append({"exact": powers[steps], "first-order": v, "truncated:1": powers[1], "truncated:2": powers[2]})
        norms.append(along)
    return learner, tasks, wanted, norms


def test_cosines_and_lengths_are_those_of_the_closed_form() -> None:
    learner, tasks, wanted, norms = closed_form(0.1, 4)
    found = diagnose(learner, tasks)
    for name in ("first-order", "truncated:1", "truncated:2"):
        mode = found.mode(name)
        cosines = [float(torch.cosine_similarity(w[name], w["exact"], 0)) for w in wanted]
        ratios = [float(w[name].norm() / w["exact"].norm()) for w in wanted]
        assert mode.cosine is not None
        assert mode.ratio is not None
        assert (mode.cosine.mean, mode.cosine.low, mode.cosine.high) == pytest.approx(
            (sum(cosines) / 3, min(cosines), max(cosines))
        )
        assert (mode.ratio.mean, mode.ratio.low, mode.ratio.high) == pytest.approx(
            (sum(ratios) / 3, min(ratios), max(ratios))
        )
    for name in ("mixed-mode", "checkpoint:4"):
        assert found.mode(name).cosine.low == pytest.approx(1)  # type: ignore[union-attr]
    assert [s.gradient for s in found.inner] == pytest.approx([sum(n[k] for n in norms) / 3 for k in range(5)])
    vectors = [w["exact"] for w in wanted]
    pairs = [float(torch.cosine_similarity(a, b, 0)) for a, b in combinations(vectors, 2)]
    mean = sum(vectors) / 3
    noise = sum(float((v - mean).square().sum()) for v in vectors) / 2
    signal = float(mean.square().sum()) - noise / 3  # type: ignore[union-attr]
    assert found.agreement is not None
    assert found.agreement.cosine == pytest.approx(sum(pairs) / 3)
    assert found.agreement.noise_scale == pytest.approx(noise / signal if signal > 0 else math.inf)
    assert found.modules == pytest.approx({"model": float(mean.norm())})  # type: ignore[union-attr]


def test_the_losses_along_the_way_are_those_of_the_trajectory() -> None:
    tasks = regression(2)
    learner = kshot.MAML(MLP(1, (8,), 1), loss="mse", rule=SGD(0.05), steps=3).double()
    found = diagnose(learner, tasks)
    for s in found.inner:
        losses = []
        for i in range(2):
            fitted = learner.trajectory(tasks[i].support, s.step)[-1]
            losses.append(
                [
                    float(learner.judge(learner.predict(fitted, b.x), b).detach())
                    for b in (tasks[i].support, tasks[i].query)
                ]
            )
        assert [s.support_loss, s.query_loss] == pytest.approx([sum(c) / 2 for c in zip(*losses, strict=True)])


# What got no gradient.


class Planted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.second = nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1)
        self.never = nn.Linear(2, 2)
        self.kept = nn.Linear(1, 1)
        self.kept.weight.requires_grad_(False)
        self.register_buffer("constant", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.relu(self.first(x))) + self.kept(x) * self.constant
        return out


class Weighted(kshot.MAML):
    """The support's loss is weighed by one number, and another is added to it; the query's is not."""

    def __init__(self, model: nn.Module, **choices: Any) -> None:
        super().__init__(model, **choices)
        self.weight, self.added = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))

    def judge(self, outputs: Tensor, batch: Batch) -> Tensor:
        value = super().judge(outputs, batch)
        return value * self.weight + self.added if len(batch) == 5 else value


def reasons(found: Diagnosis) -> dict[str, str]:
    return {s.name: s.reason for s in found.silent}


def test_parameters_without_a_gradient_and_why() -> None:
    model = Planted()
    choices: dict[str, Any] = {"loss": "mse", "rule": SGD(0.01), "allow_unused": True}
    alive = reasons(diagnose(kshot.MAML(model, **choices).double(), regression()))
    silent = {"model.never.weight": "unreached", "model.never.bias": "unreached"}
    silent |= {"model.kept.weight": "frozen", "model.constant": "buffer"}
    assert alive == silent
    with torch.no_grad():
        model.first.bias.fill_(-1000)
    found = diagnose(kshot.MAML(model, **choices).double(), regression())
    dead = {"model.first.weight": "dead", "model.first.bias": "dead", "model.second.weight": "dead"}
    assert reasons(found) == silent | dead
    assert "model.relu (ReLU) gives 0 for every query" in found.recommendation
    cut = diagnose(Weighted(MLP(1, (4,), 1), hypergradient="first-order", **choices).double(), regression())
    assert reasons(cut) == {"weight": "cut", "added": "unjudged"}
    assert "first-order gives weight no gradient" in cut.recommendation
    whole = diagnose(Weighted(MLP(1, (4,), 1), **choices).double(), regression())
    assert reasons(whole) == {"added": "unjudged"}


def test_a_gradient_that_is_not_finite() -> None:
    learner = kshot.MAML(MLP(1, (8,), 1), loss="mse", rule=SGD(1e30), steps=3).double()
    found = diagnose(learner, regression())
    assert set(reasons(found).values()) == {"not finite"}
    assert "diverges" in found.recommendation
    json.dumps(found.to_dict(), allow_nan=False)


class Power(nn.Module):
    """Adds |v|^1.5 of a v that is zero: its first derivative is 0 there, and its second infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(1, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        out: Tensor = self.two(h.tanh() + (h - h.detach()).abs() ** 1.5)
        return out


def test_an_exact_gradient_that_is_not_finite_where_the_learners_own_is() -> None:
    learner = kshot.MAML(Power(), loss="mse", rule=SGD(0.01), hypergradient="first-order").double()
    found = diagnose(learner, regression())
    assert found.recommendation.startswith("Keep hypergradient='first-order': the exact meta-gradient is not finite")
    json.dumps(found.to_dict(), allow_nan=False)


# One recommendation.


def case(**changes: Any) -> Diagnosis:
    """Six modes of a healthy loop: first-order points elsewhere."""
    one = Range(1.0, 1.0, 1.0)
    modes = [
        Mode("unrolled", True, one, one, seconds=1.0, memory=1000),
        Mode("mixed-mode", True, one, one, seconds=1.6, memory=200),
        Mode("first-order", False, Range(0.5, 0.2, 0.7), one, seconds=0.4, memory=100),
    ]
    inner = [Step(0, 2.0, 3.0, 3.0), Step(1, 1.0, 2.0, 2.5)]
    plain: dict[str, Any] = {
        "learner": "MAML", "hypergradient": "unrolled", "steps": 1, "tasks": 8, "seed": 0, "device": "cpu", "inner": inner,
        "modes": modes, "modules": {}, "silent": [], "agreement": Agreement(0.3, 5.0), "seconds": 1.0, "memory": 1000,
        "trained": True, "free": 1e9,
    }  # fmt: skip
    return Diagnosis(**{**plain, **changes})


def with_mode(name: str, **changes: Any) -> Diagnosis:
    d = case()
    return replace(d, modes=[replace(m, **changes) if m.hypergradient == name else m for m in d.modes])


def test_the_recommendation_follows_what_was_found() -> None:
    good = Range(0.99, 0.98, 1.0)
    assert recommend(case()).startswith("Keep hypergradient='unrolled'")
    assert "cosine of 0.200" in recommend(case())
    cheap = recommend(with_mode("first-order", cosine=good))
    assert cheap.startswith("Take hypergradient='first-order': its meta-gradient has cosine 0.990")
    assert "0.40 of the time" in cheap
    assert "initial weights" not in cheap
    assert "initial weights" in recommend(replace(with_mode("first-order", cosine=good), trained=False))
    assert recommend(with_mode("first-order", cosine=good, seconds=0.9)).startswith("Keep hypergradient='unrolled'")
    assert recommend(with_mode("first-order", cosine=good, ratio=Range(9, 8, 10))).startswith("Keep")
    dropout = with_mode("mixed-mode", cosine=Range(0.97, 0.9, 1.0))
    assert recommend(replace(dropout, free=50_000)).startswith("Keep")
    assert recommend(replace(with_mode("mixed-mode", seconds=2.5), free=50_000)).startswith("Keep")
    small = recommend(case(free=50_000))  # of which a task takes a fiftieth
    assert small.startswith("Take hypergradient='mixed-mode': the same gradient as unrolled")
    assert "0.20 of the memory" in small
    fits = recommend(with_mode("unrolled", why="it would take 90.0 GB", seconds=None, memory=None, cosine=None))
    assert fits.startswith("Take hypergradient='mixed-mode': it is exact, and of unrolled it would take 90.0 GB")
    runaway = case(inner=[Step(0, 1.0, 3.0, 3.0), Step(1, 30.0, 9.0, 2.5)])
    assert "grows ×30 by step 1" in recommend(runaway)
    assert "Lower the inner learning rate" in recommend(case(inner=[Step(0, 1.0, 3.0, 3.0), Step(1, 1.0, 4.0, 2.5)]))
    assert recommend(case(silent=[Silent("a", 3, "dead", "off")])).startswith("Mend a first: off")
    assert recommend(case(silent=[Silent("a", 3, "not finite", "NaN")])).startswith(
        "The meta-gradient of a is not finite"
    )
    assert "about 5 tasks" in recommend(case(inner=[], modes=[]))
    assert "no direction in common" in recommend(case(inner=[], modes=[], agreement=Agreement(0.0, math.inf)))
    assert recommend(case(modes=[], agreement=None)).startswith("Nothing is learned in advance")


def test_a_steep_inner_loop_is_told_to_slow_down() -> None:
    learner, tasks, _, norms = closed_form(2.0, 5)
    found = diagnose(learner, tasks)
    growth = sum(n[5] for n in norms) / sum(n[0] for n in norms)
    assert growth > 10
    assert f"grows ×{growth:.0f} by step 5" in found.recommendation


def test_what_does_not_fit_is_forecast_and_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, tasks = (
        kshot.MAML(MLP(1, (8, 8), 1), loss="mse", rule=SGD(0.1), steps=16).double(),
        regression(2, shots=100),
    )
    memory = forecast.Memory(learner, tasks[0])
    most, least = memory.peak(Unrolled(), 16), memory.peak(MixedMode(), 16)
    monkeypatch.setattr("kshot.doctor.examine.available_memory", lambda _: (most + least) / 2)
    found = diagnose(learner, tasks)
    assert "are free" in str(found.mode("unrolled").why)
    assert found.mode("unrolled").seconds is None
    assert found.mode("mixed-mode").cosine is not None
    assert found.recommendation.startswith(("Take hypergradient='mixed-mode'", "Take hypergradient='checkpoint"))


# Every kind of learner.

KINDS: dict[str, tuple[Any, Any]] = {
    "maml": (lambda: kshot.MAML(MLP(1, (8,), 1), loss="mse", steps=2), regression),
    "own hypergradient": (
        lambda: kshot.MAML(MLP(1, (8,), 1), loss="mse", hypergradient=Implicit("cg", proximal=1.0)),
        regression,
    ),
    "anil": (lambda: kshot.ANIL(MLP(1, (8,), 1), loss="mse"), regression),
    "boil": (lambda: kshot.BOIL(MLP(1, (8,), 1), loss="mse"), regression),
    "metasgd": (lambda: kshot.MetaSGD(MLP(1, (8,), 1), loss="mse"), regression),
    "metacurvature": (lambda: kshot.MetaCurvature(MLP(1, (8,), 1), loss="mse"), regression),
    "reptile": (lambda: kshot.Reptile(MLP(1, (8,), 1), loss="mse"), regression),
    "scratch": (lambda: kshot.Scratch(MLP(1, (8,), 1), loss="mse", steps=3), regression),
    "policy": (lambda: kshot.PolicyMAML(kshot.models.GaussianPolicy(4, 2, hidden=(8,))), trajectories),
    "protonet": (lambda: kshot.ProtoNet(MLP(4, (8,), 5)), classification),
    "neural process": (lambda: kshot.NeuralProcess(MLP(2, (8,), 8), outputs=1), regression),
}  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        "maml",
        "own hypergradient",
        "anil",
        "boil",
        "metasgd",
        "metacurvature",
        "reptile",
        "scratch",
        "policy",
        "protonet",
    ],
)
def test_every_kind_of_learner_is_examined_and_left_as_it_was(kind: str) -> None:
    make, tasks = KINDS[kind]
    learner = make().double().eval()
    before = {name: t.clone() for name, t in learner.state_dict().items()}
    settings = [getattr(learner, name, None) for name in ("steps", "hypergradient", "training")]
    found = diagnose(learner, tasks(), steps=3 if found_steps(learner) else None)
    assert all(torch.equal(t, before[name]) for name, t in learner.state_dict().items())
    assert settings == [getattr(learner, name, None) for name in ("steps", "hypergradient", "training")]
    assert all(p.grad is None for p in learner.parameters())
    assert bool(found.inner) == found_steps(learner) == (found.steps == 3)
    assert bool(found.modes) == (kind not in ("reptile", "scratch", "protonet"))
    assert found.recommendation
    learned = kind in ("metasgd", "metacurvature")
    if found.modes:
        refused = {m.hypergradient for m in found.modes if m.why}
        assert refused == ({"implicit:cg"} if learned else set())
        assert found.hypergradient == ("implicit (own)" if kind == "own hypergradient" else "unrolled")
        if learned:
            assert "this rule learns" in str(found.mode("implicit:cg").why)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["recommendation"] == found.recommendation


def found_steps(learner: kshot.MetaLearner) -> bool:
    return hasattr(learner, "steps")


def test_the_same_seed_gives_the_same_findings() -> None:
    learner = kshot.MAML(nn.Sequential(MLP(1, (8,), 8), nn.Dropout(0.5), nn.Linear(8, 1)), loss="mse")
    a, b = (diagnose(learner, kshot.tasks.Sinusoids(), count=3, seed=4) for _ in range(2))
    assert a.inner == b.inner
    assert [m.cosine for m in a.modes] == [m.cosine for m in b.modes]


def test_trying_another_hypergradient_ends_when_it_is_over() -> None:
    learner = kshot.MAML(MLP(1, (8,), 1), loss="mse")
    with learner.trying("first-order", 5):
        assert (learner.hypergradient, learner.steps) == ("first-order", 5)
    with pytest.raises(InputError), learner.trying("first-order", 5):
        raise InputError
    assert (learner.hypergradient, learner.steps) == ("unrolled", 1)
    for wrong in ({"steps": 0}, {"hypergradient": "sideways"}):
        with pytest.raises(InputError), learner.trying(**wrong):  # type: ignore[arg-type]
            pass


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": 1}, "at least 2"),
        ({"steps": 0}, "at least 1"),
        ({"steps": True}, "at least 1"),
        ({"tasks": regression(1)}, "one task"),
        ({"tasks": [1, 2]}, "source of tasks"),
        ({"learner": nn.Linear(1, 1)}, "a MetaLearner is needed"),
        ({"learner": kshot.ProtoNet(MLP(4, (8,), 5)), "steps": 3}, "takes no inner steps"),
        ({"learner": kshot.NearestCentroid()}, "nothing to examine"),
        ({"tasks": kshot.rl.Navigation()}, "needs a learner that acts"),
    ],
)
def test_bad_input_ends_in_a_sentence(change: dict[str, Any], said: str) -> None:
    plain = {"learner": kshot.MAML(MLP(1, (8,), 1), loss="mse"), "tasks": kshot.tasks.Sinusoids()}
    tasks = classification() if isinstance(change.get("learner"), kshot.NearestCentroid) else plain["tasks"]
    with pytest.raises(InputError, match=said):
        diagnose(**{**plain, "tasks": tasks, **change})


# The command line.


def kshot_command(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_the_command_examines_a_recipe_and_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = kshot_command(
        "doctor", "sinusoid-maml", "--steps", "3", "--tasks", "3", "--json", "d.json", "--out", "d.png"
    )
    assert code == 0
    for words in (
        "not trained yet: 3 inner steps, 3 tasks",
        "unrolled ←",
        "implicit:cg",
        "a further step",
        "recommendation",
    ):
        assert words in said
    kept = json.loads(Path("d.json").read_text())
    assert kept["target"] == "sinusoid-maml"
    assert [m["hypergradient"] for m in kept["modes"]][:2] == ["unrolled", "mixed-mode"]
    assert abs(kept["modes"][0]["forecast"]["deviation"]) < 0.2
    assert Path("d.png").read_bytes().startswith(b"\x89PNG")
    small = ["--set", "training.steps=2", "--set", "training.meta_batch=2", "--set", "training.validate_episodes=4"]
    assert kshot_command("train", "sinusoid-maml", "--out", "runs/a", *small)[0] == 0
    code, said = kshot_command("doctor", "runs/a", "--tasks", "3")
    assert code == 0
    assert "MAML, trained: 1 inner step, 3 tasks" in said
    assert Path("runs/a/doctor.png").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.json", "d.png", "runs"]
    code, said = kshot_command("doctor", "runs/a", "--set", "learner.steps=3")
    assert code == 2
    assert "as it was trained" in said


def test_the_command_examines_agents_and_learners_without_steps() -> None:
    code, said = kshot_command(
        "doctor", "navigation-maml", "--tasks", "2", "--set", "tasks.shots=2", "--set", "tasks.queries=2"
    )
    assert code == 0
    assert "PolicyMAML" in said
    code, said = kshot_command("doctor", "sinusoid-neuralprocess", "--tasks", "3")
    assert code == 0
    assert "no inner loop" in said
    assert "A meta-batch of about" in said or "no direction in common" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sinusoid-mml",), "did you mean 'sinusoid-maml'"),
        (("runs/nothing",), "there is no folder runs/nothing"),
        (("nothing.toml",), "there is no recipe file nothing.toml"),
        ((".",), "is not the folder of a run"),
        (("glyphs-5w1s-protonet", "--steps", "2"), "takes no inner steps"),
        (("sinusoid-maml", "--set", "learner.stepz=2"), "did you mean 'steps'"),
    ],
)
def test_the_command_ends_in_a_sentence(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = kshot_command("doctor", *words)
    assert code == 2
    assert said in output
    assert not list(tmp_path.iterdir())
