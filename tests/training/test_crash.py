"""kill -9 at any moment: real processes, killed at random, and in the end the same bits as a run that was left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import torch

import kshot
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
    Path(f"{out}.{os.getpid()}").touch()  # here the training begins
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


def wait_for_training(out: Path, process: multiprocessing.process.BaseProcess) -> None:
    while not Path(f"{out}.{process.pid}").exists():
        time.sleep(0.001)


def step_on_disk(out: Path) -> int:
    """The checkpoint must be whole at any moment."""
    file = out / checkpoint.LAST
    return int(checkpoint.read(file)[0]["state"]["step"]) if file.exists() else 0


def test_killed_twenty_times_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(whole)
    wait_for_training(whole, process)
    began = time.monotonic()
    while step_on_disk(whole) == 0:
        time.sleep(0.005)
    latency = time.monotonic() - began
    process.join()
    seconds = time.monotonic() - began - latency
    assert process.exitcode == 0

    rng, steps, kills = random.Random(0), [], 0
    while kills < KILLS:
        process = start(killed)
        wait_for_training(killed, process)
        # Mostly after the first step, now and then before it; twenty kills cover most of the run.
        time.sleep(rng.uniform(0.7 * latency, latency + 1.5 * seconds / KILLS))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0)
        kills += 1
        steps.append(step_on_disk(killed))
    assert steps == sorted(steps), "work before a checkpoint was lost"
    print(f"{latency:.2f} s to the first checkpoint, {seconds:.2f} s of training, killed at {steps}")
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
        [{k: v for k, v in line.items() if k != "tasks_per_s"} for line in read_metrics(folder / "metrics.jsonl")]
        for folder in (whole, killed)
    )
    # A log line averages the losses since the last line or resume: compare what does not depend on where it was cut.
    strip = [{k: v for k, v in line.items() if k != "loss"} for line in a_lines]
    assert strip == [{k: v for k, v in line.items() if k != "loss"} for line in b_lines]


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = start(tmp_path)
    while step_on_disk(tmp_path) == 0:
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(20)
    assert process.exitcode == 1  # Interrupted left the process; the command line turns it into 130
    step = step_on_disk(tmp_path)
    assert 0 < step < STEPS
    assert step % 13 != 0 or step > 0  # saved where it stopped, not only at the period
    assert json.loads((tmp_path / "run.json").read_text())["training"]["steps"] == STEPS
