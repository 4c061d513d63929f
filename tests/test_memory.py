"""Memory: what is freed stays at hand."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
import kshot
from kshot.models import MLP

torch.set_num_threads(1)
learner = kshot.ProtoNet(MLP(1000, (1000,)))
tasks = kshot.Task(*(kshot.Batch(torch.zeros(20, 100, 1000), torch.arange(20 * 100).reshape(20, -1) % 5, 5) for _ in "sq"))
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kshot.meta_loss(learner, tasks, "vmap").backward()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize(("variables", "again"), [({}, False), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, True)])
def test_a_step_takes_the_memory_of_the_one_before(variables: dict[str, str], again: bool) -> None:
    """By the pages that the system had to bring: tensors of 8 MB are 2,000 each, and many.

    The fewest of some steps: while memory still grows, which takes a few of them, some are brought in either way.
    """
    command = [sys.executable, "-c", FAULTS]
    pages = int(subprocess.run(command, env=variables, check=True, capture_output=True, text=True).stdout)
    assert pages > 20_000 if again else pages < 2_000
