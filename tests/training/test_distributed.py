"""torchrun with two processes on this machine: the same training, and what happens when one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kshot.training import checkpoint
from kshot.training.progress import read_metrics

TRAIN = ["-m", "kshot", "train", "sinusoid-maml", "--set", "training.meta_batch=5", "--set", "training.vectorize=vmap"]


def command(out: Path, steps: int, ranks: int, *more: str, restarts: int = 0) -> list[str]:
    settings = [*TRAIN, "--set", f"training.steps={steps}", *more, "--out", str(out)]
    if ranks == 1:
        return [sys.executable, *settings]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return [sys.executable, *launch, "--max-restarts", str(restarts), *settings]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*arguments: object, **named: object) -> None:
    done = subprocess.run(command(*arguments, **named), env=environment(), capture_output=True, text=True)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr


def state(out: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(out / checkpoint.LAST)[1]


def test_two_ranks_train_like_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run(one, 60, 1)
    run(two, 60, 2)  # five tasks a step: two and three
    a, b = state(one), state(two)
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=1e-6)
    a_lines, b_lines = read_metrics(one / "metrics.jsonl"), read_metrics(two / "metrics.jsonl")
    assert [line["step"] for line in a_lines] == [line["step"] for line in b_lines]
    for x, y in zip(a_lines, b_lines, strict=True):
        assert x.keys() == y.keys()
        for name in x.keys() & {"loss", "grad_norm", "val_mse"}:
            assert x[name] == pytest.approx(y[name], rel=1e-4)


MAML_PLUS_PLUS = {"learner.model.norm": "running", "learner.batch_norm": "running", "learner.model.width": 4}
PROTONET = {"learner.encoder.norm": "running", "learner.batch_norm": "tracked", "learner.encoder.width": 4}
PROTONET |= {"training.average": 0.5}


@pytest.mark.parametrize(
    ("recipe", "settings", "buffers"),
    [
        ("glyphs-5w1s-mamlplusplus", MAML_PLUS_PLUS, 16),
        ("glyphs-5w1s-protonet", PROTONET, 8),
    ],
)
def test_two_ranks_track_statistics_like_one(
    tmp_path: Path, recipe: str, settings: dict[str, object], buffers: int
) -> None:
    """Buffers that a learner moves are averaged by the ranks' shares of the tasks."""
    small = dict(settings)
    small |= {
        "tasks.classes": 20,
        "training.meta_batch": 3,
        "training.vectorize": "loop",
        "training.validate_episodes": 4,
    }
    small |= {
        "training.optimizer": "sgd"
    }  # Adam scales the rounding in the gradient of a bias before batch norm up to its step
    more = [part for key, value in small.items() for part in ("--set", f"{key}={value}")]
    one, two = tmp_path / "one", tmp_path / "two"
    for out, ranks in ((one, 1), (two, 2)):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if ranks == 2 else []
        words = [sys.executable, *launch, "-m", "kshot", "train", recipe, *more]
        words += ["--set", "training.steps=6", "--out", str(out)]
        done = subprocess.run(words, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    a, b = state(one), state(two)
    tracked = [key for key in a if "statistics" in key or "running_" in key]
    assert len(tracked) == buffers
    assert any((a[key] - a[key].round()).abs().max() > 0.01 for key in tracked)  # they have moved off 0 and 1
    for key in tracked:
        torch.testing.assert_close(a[key], b[key], rtol=1e-3, atol=1e-4)


def ranks_of(launcher: int) -> list[int]:
    """The processes that torchrun started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            if int(fields[1]) == launcher and b"train" in words:
                found.append(int(entry.name))
    return sorted(found)


def wait_for_checkpoint(out: Path, seconds: float = 90) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (out / checkpoint.LAST).exists():
            return int(checkpoint.read(out / checkpoint.LAST)[0]["state"]["step"])
        time.sleep(0.1)
    raise AssertionError("no checkpoint was written")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_job_and_the_same_command_goes_on(tmp_path: Path, victim: int) -> None:
    more = ("--set", "training.save_every=20", "--set", "training.validate_episodes=20")
    job = subprocess.Popen(
        command(tmp_path, 6000, 2, *more), env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    wait_for_checkpoint(tmp_path)
    os.kill(ranks_of(job.pid)[victim], signal.SIGKILL)
    killed = time.monotonic()
    _, errors = job.communicate(timeout=30)
    assert time.monotonic() - killed < 30
    assert job.returncode != 0
    assert "SIGKILL" in errors  # torchrun names the first to die
    assert "another rank of this job is gone" in errors  # and the one that is left says so too
    step = wait_for_checkpoint(tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert step < 6000
    job = subprocess.Popen(command(tmp_path, 6000, 2, *more), env=environment(), stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while wait_for_checkpoint(tmp_path) <= step and time.monotonic() < end:
        time.sleep(0.1)
    job.send_signal(signal.SIGINT)
    job.communicate(timeout=60)
    assert wait_for_checkpoint(tmp_path) > step, "it did not go on from the checkpoint"
    again = read_metrics(tmp_path / "metrics.jsonl")
    before = [line for line in lines if line["step"] <= step]
    assert again[: len(before)] == before, "the lines before the checkpoint were not kept"


def test_torchruns_own_restart_resumes(tmp_path: Path) -> None:
    steps = 1500
    job = subprocess.Popen(
        command(tmp_path, steps, 2, "--set", "training.save_every=20", restarts=3),
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_for_checkpoint(tmp_path)
    os.kill(ranks_of(job.pid)[0], signal.SIGKILL)
    _, errors = job.communicate(timeout=120)
    assert job.returncode == 0, errors
    assert checkpoint.read(tmp_path / checkpoint.LAST)[0]["state"]["step"] == steps
