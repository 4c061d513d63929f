"""Peak memory of one meta-gradient against the number of inner steps, for each way to differentiate through them.

    OMP_NUM_THREADS=1 python benchmarks/hypergradient_memory.py [--device cpu|cuda]

What a meta-gradient adds to the memory of tensors: on a CPU by the allocations and frees that torch's profiler writes down, on a
GPU as torch counts it. On a CPU, resident memory of a process of its own is the check, at 32 steps. Written are the slope per
step between 8 and 128 steps, the share of what unrolled adds at 32 steps, and how far the gradient is from the unrolled one, in
float32. The targets are a share of at most 1/8 for the MLP and the transformer, and 1/4 for Conv4 with batch norm, with a
gradient equal to 1e-5, and no slope for implicit.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from evidence import record
from torch import Tensor, nn

import kshot
from kshot import Batch, Task
from kshot.memory import peak_memory
from kshot.models import MLP, Conv4
from kshot.rules import SGD
from kshot.vectorize import meta_backward

STEPS = (1, 8, 32, 128)
WAYS = ("unrolled", "mixed-mode", "mixed-mode:6", "checkpoint:6", "truncated:4", "first-order", "implicit:cg")
EXACT = ("unrolled", "mixed-mode", "mixed-mode:6", "checkpoint:6")
SHARE = {"mlp": 1 / 8, "transformer": 1 / 8, "conv4 with batch norm": 1 / 4}


class Transformer(nn.Module):
    """Two layers over 32 words of 64 numbers."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(x).mean(1))
        return out


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, float]] = {
    # model, shape of an example, examples a class, rate
    "mlp": (lambda: MLP(64, (64, 64, 64), 5), (64,), 100, 0.01),
    "transformer": (Transformer, (32, 64), 10, 0.01),
    "conv4 with batch norm": (lambda: Conv4(5, width=64), (1, 28, 28), 5, 0.01),
    "small mlp, 10 examples": (lambda: MLP(1, (40, 40), 5), (1,), 2, 0.01),
    "wide mlp, 1,000 examples": (lambda: MLP(64, (256, 256), 5), (64,), 200, 0.01),
}


def task(shape: tuple[int, ...], each: int, device: str) -> Task:
    """One task; noise will do, memory does not depend on the values."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(5).repeat(1, each)

    def batch() -> Batch:
        return Batch(torch.randn(1, 5 * each, *shape, generator=g), y, 5)

    return Task(batch(), batch()).to(device)


def resident_peak(run: Callable[[], object]) -> int:
    """Bytes that `run` adds to what is resident at most."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is resident
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return 1024 * int(line.split()[1])


def meta_gradient(model: str, way: str, steps: int, device: str) -> tuple[kshot.MAML, Callable[[], object]]:
    """A learner, and what runs one meta-gradient of it: once already, so that what is allocated for good is there."""
    make, shape, each, lr = MODELS[model]
    tasks = task(shape, each, device)
    torch.manual_seed(0)
    learner = kshot.MAML(make(), rule=SGD(lr), steps=steps, hypergradient=way, allow_unused=True).to(device)
    warm = kshot.MAML(learner.model, rule=SGD(lr), steps=1, hypergradient=way, allow_unused=True)
    meta_backward(warm, tasks, "loop")
    learner.zero_grad(set_to_none=False)
    return learner, lambda: meta_backward(learner, tasks, "loop")


def measure(model: str, device: str) -> list[dict[str, Any]]:
    rows, exact = [], {}
    for way in WAYS if model in SHARE else EXACT:
        for steps in STEPS:
            learner, run = meta_gradient(model, way, steps, device)
            row: dict[str, Any] = {"model": model, "way": way, "steps": steps, "MB": peak_memory(run, device) / 1e6}
            if way in EXACT:
                found = torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])
                wanted = exact.setdefault(steps, found)  # unrolled is the first
                row["off"] = float((found - wanted).norm() / wanted.norm())
            if device == "cpu" and steps == 32 and way in ("unrolled", "mixed-mode"):
                row["resident MB"] = in_a_process_of_its_own(model, way, steps) / 1e6
            rows.append(row)
        print(f"{model:26}{way:16}" + "".join(f"{x['MB']:10.1f}" for x in rows[-len(STEPS) :]), flush=True)
    return rows


def in_a_process_of_its_own(model: str, way: str, steps: int) -> int:
    environment = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "16384",
        "MALLOC_TRIM_THRESHOLD_": "0",
    }  # what is freed goes back
    command = [sys.executable, __file__, "--child", model, way, str(steps)]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()[-1])


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """MB a step between 8 and 128 steps, the share of what unrolled adds at 32, and whether that is its target."""
    at = {(x["model"], x["way"], x["steps"]): x for x in rows}
    found = []
    for model, way in dict.fromkeys((x["model"], x["way"]) for x in rows):
        slope = (at[model, way, 128]["MB"] - at[model, way, 8]["MB"]) / 120
        share = at[model, way, 32]["MB"] / at[model, "unrolled", 32]["MB"]
        x: dict[str, Any] = {"model": model, "way": way, "MB a step": slope, "share at 32 steps": share}
        if way in EXACT:
            x["off"] = max(at[model, way, s]["off"] for s in STEPS if s <= 32)
        if way.startswith("mixed-mode") and model in SHARE:
            x |= {"target": SHARE[model], "met": share <= SHARE[model] and x["off"] <= 1e-5}
        if way == "implicit:cg":
            x["flat"] = slope == 0
        found.append(x)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--child", nargs=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.child:
        model, way, steps = given.child
        print(resident_peak(meta_gradient(model, way, int(steps), "cpu")[1]))
        return
    # or a gradient is not even equal to itself
    torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, False
    rows = [row for model in MODELS for row in measure(model, given.device)]
    found = summary(rows)
    for x in found:
        share = f"{x['share at 32 steps']:8.3f}"
        print(f"{x['model']:26}{x['way']:16}{x['MB a step']:10.3f} MB a step {share}   {x.get('off', '')}")
    name = "hypergradient-memory" if given.device == "cpu" else "hypergradient-memory-gpu"
    examples = {model: 5 * each for model, (_, _, each, _) in MODELS.items()}
    settings = {"steps": STEPS, "tasks": 1, "rule": "sgd", "dtype": "float32", "support and query examples": examples}
    print("written to", record(name, settings, rows, summary=found))


if __name__ == "__main__":
    main()
