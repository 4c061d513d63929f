"""Shared by the tests: one thread, no color, and tasks made by hand."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tiny tensors are slower on many threads

import pytest
import torch

from kshot import Batch, Task

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def kshot_data() -> Path:
    folder = os.environ.get("KSHOT_DATA")
    if not folder:
        pytest.skip("KSHOT_DATA is not set: the folder with real data")
    return Path(folder)


def classification(
    tasks: int = 3, ways: int = 3, shots: int = 2, queries: int = 2, features: tuple[int, ...] = (4,), seed: int = 0
) -> Task:
    """Random float64 tasks; classes differ in their means."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(tasks, ways, *features, generator=g, dtype=torch.float64)

    def batch(k: int) -> Batch:
        y = torch.arange(ways).repeat_interleave(k).repeat(tasks, 1)
        x = centres.repeat_interleave(k, 1) + torch.randn(tasks, ways * k, *features, generator=g, dtype=torch.float64)
        return Batch(x, y, ways)

    return Task(batch(shots), batch(queries))


def regression(tasks: int = 3, shots: int = 5, queries: int = 4, features: int = 1, seed: int = 0) -> Task:
    g = torch.Generator().manual_seed(seed)

    def batch(k: int) -> Batch:
        x = torch.randn(tasks, k, features, generator=g, dtype=torch.float64)
        return Batch(x, (2 * x.sum(-1, keepdim=True)).sin())

    return Task(batch(shots), batch(queries))


def trajectories(tasks: int = 3, shots: int = 5, queries: int = 4, seed: int = 0) -> Task:
    """Steps of an agent with 4 observations and 2 actions, as a standard normal policy would take them; [T, S, 2 + 2]."""
    g = torch.Generator().manual_seed(seed)

    def batch(k: int) -> Batch:
        x = torch.randn(tasks, k, 4, generator=g, dtype=torch.float64)
        actions = torch.randn(tasks, k, 2, generator=g, dtype=torch.float64)
        advantage = torch.randn(tasks, k, 1, generator=g, dtype=torch.float64)
        log_probability = -actions.square().sum(-1, keepdim=True) / 2 - math.log(2 * math.pi)
        return Batch(x, torch.cat([actions, advantage, log_probability], -1))

    return Task(batch(shots), batch(queries))


def write_intents(root: Path, name: str = "SMALL", classes: int = 9, examples: int = 8) -> Path:
    """A folder of intents with one split of its classes into thirds; a sentence has its class's word among others."""
    folder = root / name
    place = folder / "splits" / "01"
    place.mkdir(parents=True)
    fillers = ("please", "my", "card", "now", "help", "account", "the", "today", "why", "again")
    labels = [f"about_{'abcdefghijklmnop'[c]}" for c in range(classes)]
    lines = []
    for i in range(examples):
        for c, label in enumerate(labels):
            words = [fillers[(i * k + c * (k + 1)) % len(fillers)] for k in range(1, 5)]
            lines.append({"sentence": " ".join([*words, f"{'bdfgklmnprst'[c] * 2}oo{i}"]), "label": label})
    (folder / "full.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    third = classes // 3
    for k, split in enumerate(("train", "valid", "test")):
        (place / f"labels.{split}.txt").write_text("\n".join(labels[k * third : (k + 1) * third]) + "\n")
    return folder
