"""fit, piece by piece."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import kshot
from kshot import Batch, InputError, Task
from kshot.hypergradients import FirstOrder
from kshot.learner import mse_loss
from kshot.machine import computes_in_bf16
from kshot.models import MLP, Conv4
from kshot.rules import SGD
from kshot.tasks import Glyphs, Sinusoids
from kshot.training import checkpoint, loop
from kshot.training.loop import VALIDATION
from kshot.training.options import Training
from kshot.training.origin import check_same
from kshot.training.progress import read_metrics


def maml(**choices: object) -> kshot.MAML:
    torch.manual_seed(0)
    return kshot.MAML(MLP(1, (16,), 1), loss=mse_loss, rule=SGD(0.01), **choices)  # type: ignore[arg-type]


def weights(learner: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in learner.parameters()])


QUICK = {"progress": False, "vectorize": "vmap", "meta_batch": 4}


def test_it_is_the_loop_that_anybody_would_write() -> None:
    ours, theirs, tasks = maml(), maml(), Sinusoids()
    kshot.fit(ours, tasks, steps=5, lr=0.01, clip=1.0, seed=3, **QUICK)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.01)
    for step in range(5):
        optimizer.zero_grad()
        kshot.meta_loss(theirs, tasks.sample(4, kshot.seeded(3, step)), "vmap").backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-6, atol=1e-7)


def test_schedules_and_warmup() -> None:
    t = Training(steps=100, warmup=10, schedule="cosine")
    assert [t.lr_factor(s) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert t.lr_factor(10) == 1
    assert t.lr_factor(55) == pytest.approx(0.5)
    assert t.lr_factor(99) < 0.001
    assert Training(steps=100, schedule="linear").lr_factor(25) == 0.75
    assert Training(steps=100).lr_factor(99) == 1


def test_the_logged_rate_follows_the_schedule(tmp_path: Path) -> None:
    kshot.fit(maml(), Sinusoids(), steps=8, lr=0.5, schedule="linear", out=tmp_path, **QUICK)  # type: ignore[arg-type]
    rates = [line["lr"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert rates == pytest.approx([0.5 * (1 - s / 8) for s in range(8)])


def test_an_optimizer_of_ones_own() -> None:
    learner = maml()
    before = weights(learner)
    kshot.fit(learner, Sinusoids(), steps=1, optimizer=lambda p: torch.optim.SGD(p, lr=1.0), **QUICK)  # type: ignore[arg-type]
    reference = maml()
    kshot.meta_loss(reference, Sinusoids().sample(4, kshot.seeded(0, 0)), "vmap").backward()
    wanted = torch.cat([p.grad.flatten() for p in reference.parameters() if p.grad is not None])
    torch.testing.assert_close(before - weights(learner), wanted, rtol=1e-4, atol=1e-6)


def test_reptile_with_plain_sgd_is_the_papers_update() -> None:
    """θ ← θ + ε · mean(φ − θ)."""
    torch.manual_seed(0)
    learner = kshot.Reptile(MLP(1, (8,), 1), loss=mse_loss, rule=SGD(0.02), steps=4)
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    tasks = Sinusoids().sample(3, kshot.seeded(0, 0))
    moved = []
    for i in range(3):
        *_, phi = learner.descend(tasks[i].examples, 4, FirstOrder())
        moved.append(phi)
    kshot.fit(learner, Sinusoids(), steps=1, meta_batch=3, optimizer="sgd", lr=0.3, vectorize="vmap", progress=False)
    for name, p in learner.model.named_parameters():
        mean = torch.stack([m[name] for m in moved]).mean(0)
        torch.testing.assert_close(p.detach(), before[name] + 0.3 * (mean - before[name]), rtol=1e-5, atol=1e-6)


def test_the_best_learner_by_validation_stays(tmp_path: Path) -> None:
    for out in (tmp_path, None):
        learner = maml()
        kshot.fit(
            learner,
            Sinusoids(),
            validate=Sinusoids(),
            steps=40,
            lr=0.3,
            validate_every=4,
            validate_episodes=40,
            out=out,
            **QUICK,  # type: ignore[arg-type]
        )
        found = kshot.evaluate(learner, Sinusoids(), 40, VALIDATION, curves=False).mean
        lines = [line["val_mse"] for line in read_metrics(tmp_path / "metrics.jsonl") if "val_mse" in line]
        assert len(lines) == 10
        assert found == pytest.approx(min(lines), rel=1e-5)
        assert min(lines) < lines[-1], "the run is not one in which it matters"
    assert torch.equal(weights(kshot.load(tmp_path)), weights(learner))


@pytest.mark.parametrize("learner", ["maml", "protonet", "ridgenet", "logistichead", "svmhead"])
def test_bf16_trains_too(learner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "computes_in_bf16", lambda device: True)
    made = {
        "maml": lambda: kshot.MAML(Conv4(5, width=8, size=16, down="stride"), rule=SGD(0.1)),
        "protonet": lambda: kshot.ProtoNet(Conv4(width=8, size=16, norm="group")),
        "ridgenet": lambda: kshot.RidgeNet(Conv4(width=8, size=16, norm="group")),
        "logistichead": lambda: kshot.LogisticHead(Conv4(width=8, size=16, norm="group")),
        "svmhead": lambda: kshot.SVMHead(Conv4(width=8, size=16, norm="group")),
    }[learner]
    losses = {}
    tasks = Glyphs(classes=40, size=16, queries=3)
    for precision in ("fp32", "bf16-mixed"):
        torch.manual_seed(0)
        trained = kshot.fit(
            made(), tasks, steps=25, meta_batch=4, precision=precision, progress=False, vectorize="vmap"
        )
        losses[precision] = float(kshot.meta_loss(trained, tasks.sample(20, kshot.seeded(9)), "vmap").detach())
    assert losses["bf16-mixed"] == pytest.approx(losses["fp32"], rel=0.15)
    assert losses["bf16-mixed"] != losses["fp32"]


def test_a_processor_without_bf16_does_not_imitate_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False}, raising=False)
    losses = []
    for precision in ("fp32", "bf16-mixed"):
        learner = kshot.fit(maml(), Sinusoids(), precision=precision, **QUICK | {"steps": 5, "progress": True})  # type: ignore[arg-type]
        losses.append(weights(learner))
    assert torch.equal(*losses)
    assert "no instructions for bfloat16: the steps are in float32" in " ".join(capsys.readouterr().err.split())
    for capabilities in ({"bf16": True}, {}):  # of ARM's, and of a torch that does not say
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=capabilities: known)
        assert computes_in_bf16(torch.device("cpu"))


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kshot.fit(maml(), Sinusoids(), steps=4, out=tmp_path, tensorboard=True, **QUICK)  # type: ignore[arg-type]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([line["loss"] for line in lines])


class Poison(Sinusoids):
    """From step 3 on, task 2 of the batch is far off."""

    def sample(self, n: int, generator: torch.Generator) -> Task:
        tasks = super().sample(n, generator)
        if generator.initial_seed() == kshot.seeded(0, 3).initial_seed():
            tasks.query.y[2] = 1e30
        return tasks


def test_divergence_names_the_step_and_the_task_and_its_replay_diverges(tmp_path: Path) -> None:
    learner, tasks = maml(), Poison()
    with pytest.raises(kshot.Diverged, match=r"at step 3; replay it with .*seeded\(0, 3\)\)\[2\]") as caught:
        kshot.fit(learner, tasks, steps=10, out=tmp_path, **QUICK)  # type: ignore[arg-type]
    line = str(caught.value).split("replay it with ")[1].split(";")[0]
    assert not torch.isfinite(eval(line, {"learner": learner, "tasks": tasks, "kshot": kshot}))
    assert checkpoint.read(tmp_path / checkpoint.LAST)[0]["state"]["step"] == 3  # what was good is kept


def test_bad_tasks_are_found_at_any_step() -> None:
    class Late:
        """Goes wrong at the third batch."""

        def sample(self, n: int, generator: torch.Generator) -> Task:
            y = torch.arange(2).repeat(n, 1)
            y = y - 100 if generator.initial_seed() == kshot.seeded(0, 2).initial_seed() else y
            s, q = torch.randn(2, n, 2, 4, generator=generator)
            return Task(Batch(s, torch.arange(2).repeat(n, 1), 2), Batch(q, y, 2))

    with pytest.raises(InputError, match="relabel"):
        kshot.fit(kshot.MAML(MLP(4, (4,), 2)), Late(), steps=5, **QUICK)  # type: ignore[arg-type]


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = kshot.fit(maml(), Sinusoids(), steps=5, out=tmp_path, **QUICK)  # type: ignore[arg-type]
    lines = (tmp_path / "metrics.jsonl").read_text()
    again = kshot.fit(maml(), Sinusoids(), steps=5, out=tmp_path, **QUICK)  # type: ignore[arg-type]
    assert torch.equal(weights(first), weights(again))
    assert (tmp_path / "metrics.jsonl").read_text() == lines


def test_a_run_goes_on_with_options_that_came_after_it_if_they_are_off() -> None:
    before = {"tasks": {"ways": 5}, "training": {"steps": 4, "clip": 0.0}}
    off = {"tasks": {"ways": 5, "warp": 0.0, "mirror": False}, "training": {"steps": 4, "clip": 0.0, "average": None}}
    check_same(Path("run"), before, off, Training(steps=4))
    for on in ({"tasks": {"ways": 5, "warp": 1.0}}, {"tasks": {"ways": 0}}, {"tasks": {}}):
        with pytest.raises(InputError, match="other settings"):
            check_same(Path("run"), before, before | on, Training(steps=4))


def test_the_global_random_numbers_are_left_alone() -> None:
    learner = maml()
    state = torch.random.get_rng_state()
    kshot.fit(learner, Sinusoids(), steps=2, **QUICK)  # type: ignore[arg-type]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_averaged_weights_are_those_kept_and_gone_on_with(tmp_path: Path) -> None:
    """The average, worked out beside it, is what fit returns and keeps; an interrupted run ends with the same."""

    class Recording(kshot.MAML):
        """Keeps the weights before each step, which are those after the one before."""

        def check(self, tasks: Task) -> None:
            self.__dict__.setdefault("history", []).append(weights(self))

    def train(learner: kshot.MetaLearner, steps: int, out: Path | None) -> kshot.MetaLearner:
        return kshot.fit(learner, Sinusoids(), steps=steps, average=0.5, lr=0.01, out=out, **QUICK)  # type: ignore[arg-type]

    plain = maml()
    kshot.fit(plain, Sinusoids(), steps=6, lr=0.01, **QUICK)  # type: ignore[arg-type]
    torch.manual_seed(0)
    learner = Recording(MLP(1, (16,), 1), loss=mse_loss, rule=SGD(0.01))
    train(learner, 6, None)
    wanted = learner.history[0]
    for step, now in enumerate([*learner.history[1:], weights(plain)], 1):
        decay = min(0.5, step / (10 + step))
        wanted = decay * wanted + (1 - decay) * now
    torch.testing.assert_close(weights(learner), wanted)
    assert not torch.equal(weights(learner), weights(plain))

    train(maml(), 6, tmp_path / "whole")
    train(maml(), 3, tmp_path / "parts")
    train(maml(), 6, tmp_path / "parts")
    for run in ("whole", "parts"):
        torch.testing.assert_close(weights(kshot.load(tmp_path / run)), weights(learner), rtol=0, atol=0)


def test_the_average_is_what_is_validated(tmp_path: Path) -> None:
    learner = maml()
    settings = {"steps": 20, "validate_every": 20, "lr": 0.05, "average": 0.9, **QUICK}
    kshot.fit(learner, Sinusoids(), validate=Sinusoids(), out=tmp_path, **settings)  # type: ignore[arg-type]
    logged = next(line["val_mse"] for line in read_metrics(tmp_path / "metrics.jsonl") if "val_mse" in line)
    found = kshot.evaluate(kshot.load(tmp_path), Sinusoids(), 200, VALIDATION, curves=False)
    assert found.mean == pytest.approx(logged)


@pytest.mark.parametrize("average", [0, 1, 1.5, "much"])
def test_an_average_that_is_none(average: object) -> None:
    with pytest.raises(InputError, match="the share of the past in the average"):
        Training(average=average)  # type: ignore[arg-type]
