"""Shared by the tests: one thread, no color, and tasks made by hand."""

from __future__ import annotations

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
