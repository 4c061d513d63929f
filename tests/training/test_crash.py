"""kill -9 at any moment: real processes, killed at random, and in the end the same bits as a run that was left alone."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import kshot
from kshot import InputError, atomic
from kshot.learner import mse_loss
from kshot.models import MLP
from kshot.rules import SGD
from kshot.tasks import Sinusoids
from kshot.training import checkpoint
from kshot.training.progress import read_metrics

STEPS, KILLS = 2400, 20


def run_training(out: str, steps: int = STEPS) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    learner = kshot.MAML(
        torch.nn.Sequential(MLP(1, (8,)), torch.nn.Dropout(0.1), torch.nn.Linear(8, 1)),
        loss=mse_loss,
        rule=SGD(0.01, learn="tensor"),
    )
    kshot.fit(
        learner,
        Sinusoids(5, 5),
        validate=Sinusoids(5, 5),
        out=out,
        progress=False,
        steps=steps,
        meta_batch=4,
        schedule="cosine",
        clip=10.0,
        vectorize="vmap",
        save_every=13,
        validate_every=200,
        validate_episodes=20,
        log_every=10,
    )


def start(out: Path) -> multiprocessing.process.BaseProcess:
    context = multiprocessing.get_context("forkserver")  # so that a process starts in milliseconds, with kshot imported
    context.set_forkserver_preload(["kshot", __name__])
    process = context.Process(target=run_training, args=(str(out),))
    process.start()
    return process


def step_on_disk(out: Path) -> int:
    """The checkpoint must be whole at any moment."""
    file = out / checkpoint.LAST
    return int(checkpoint.read(file)[0]["state"]["step"]) if file.exists() else 0


def test_killed_twenty_times_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(whole)
    process.join()
    assert process.exitcode == 0

    rng, steps = random.Random(0), [0]
    for _ in range(KILLS):
        process = start(killed)
        target = steps[-1] + rng.choice([0, rng.randrange(STEPS // (KILLS + 5))])  # 0: while it starts or resumes
        while step_on_disk(killed) < target:
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.08))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        steps.append(step_on_disk(killed))
    assert steps == sorted(steps), "work before a checkpoint was lost"
    assert len(set(steps)) > 5, f"the kills did not hit the run at different places: {steps}"

    process = start(killed)  # and now it may end
    process.join()
    assert process.exitcode == 0
    for name in (checkpoint.LAST, checkpoint.BEST):
        a, b = (checkpoint.read(folder / name) for folder in (whole, killed))
        assert a[0] == b[0]
        assert a[1].keys() == b[1].keys()
        assert all(torch.equal(a[1][key], b[1][key]) for key in a[1]), f"{name} differs"
    a_lines, b_lines = (
        [
            {k: v for k, v in line.items() if k not in ("tasks_per_s", "seconds")}
            for line in read_metrics(folder / "metrics.jsonl")
        ]
        for folder in (whole, killed)
    )
    assert a_lines == b_lines


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    other = start(tmp_path)
    while step_on_disk(tmp_path) == 0:
        time.sleep(0.01)
    with pytest.raises(InputError, match="another process is training into"):
        run_training(str(tmp_path))
    other.kill()
    other.join()
    with atomic.alone_in(tmp_path, "taken"):  # it let go
        pass


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["train", "sinusoid-maml", "--set", "training.save_every=5000", "--out", str(out)]
    command = [sys.executable, "-m", "kshot", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not read_metrics(out / "metrics.jsonl"):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    step = step_on_disk(out)
    assert 0 < step < 5000  # saved where it stopped, long before it was due
    assert f"stopped at step {step} of 15000: saved in {out}; start it again in the same way to go on" in said
    assert "Traceback" not in said
