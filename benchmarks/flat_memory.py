"""Resident memory over 1,000 outer steps of kshot.fit, for each way to take the meta-gradient.

    OMP_NUM_THREADS=1 python benchmarks/flat_memory.py

Each way is a process of its own, which reads what it holds whenever it is asked for tasks. The target: from step 100 on it stays
within 2 % of what it was then.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import kshot
from kshot import Task
from kshot.hypergradients import Hypergradient, Implicit
from kshot.models import MLP
from kshot.rules import SGD

WAYS: dict[str, Hypergradient | None] = dict.fromkeys(
    (
        "unrolled",
        "first-order",
        "truncated:2",
        "mixed-mode",
        "mixed-mode:2",
        "checkpoint:2",
        "finite-difference",
        "implicit:cg",
    )
)
WAYS["implicit:neumann"] = Implicit("neumann", proximal=100.0, iterations=3)  # the series must not diverge
WAYS["evolution"] = None
STEPS, FROM, EVERY = 1000, 100, 50
INNER, META_BATCH, HIDDEN = 4, 4, (100, 100)


class Watched:
    """Sinusoids, and what was resident when the tasks of step 0, 50, 100, … were drawn."""

    def __init__(self) -> None:
        self.source, self.calls = kshot.tasks.Sinusoids(), 0
        self.resident: dict[int, int] = {}

    def sample(self, n: int, generator: torch.Generator) -> Task:
        if self.calls % EVERY == 0:
            gc.collect()
            self.resident[self.calls] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf(
                "SC_PAGE_SIZE"
            )
        self.calls += 1
        return self.source.sample(n, generator)


def measure(way: str) -> dict[str, Any]:
    learner = kshot.MAML(MLP(1, HIDDEN, 1), loss="mse", rule=SGD(0.01), steps=INNER, hypergradient=WAYS[way] or way)
    tasks = Watched()
    kshot.fit(learner, tasks, steps=STEPS + 1, meta_batch=META_BATCH, vectorize="vmap", progress=False, lr=1e-4)
    held = tasks.resident
    apart = max(abs(held[step] / held[FROM] - 1) for step in held if step >= FROM)
    MB = {f"MB at step {step}": round(held[step] / 1e6, 2) for step in (FROM, STEPS)}
    return {"way": way, **MB, "grown": held[STEPS] / held[FROM] - 1, "largest change": apart}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.child:
        print(json.dumps(measure(given.child)))
        return
    from evidence import record

    rows = []
    for way in WAYS:
        command = [sys.executable, __file__, "--child", way]
        rows.append(
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        )
        print(rows[-1], flush=True)
    settings = {
        "outer steps": STEPS,
        "inner steps": INNER,
        "meta batch": META_BATCH,
        "hidden": HIDDEN,
        "tasks": "Sinusoids",
    }
    flat = all(row["largest change"] <= 0.02 for row in rows)
    print("written to", record("flat-memory", settings, rows, passed=flat))


if __name__ == "__main__":
    main()
