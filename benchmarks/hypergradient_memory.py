"""Peak memory of one meta-gradient against the number of inner steps, for each way to differentiate through them.

    OMP_NUM_THREADS=1 python benchmarks/hypergradient_memory.py [--device cpu|cuda]

On a CPU each (model, way) is a process of its own, and its high-water mark of resident memory is set back before each
meta-gradient; on a GPU torch counts what it allocates. Written are what a meta-gradient adds to that, the slope per step
between 8 and 128 steps, the seconds it took, and how far its gradient is from the unrolled one, in float32. The
targets are that mixed-mode adds at 32 steps at most 1/8 of what unrolled adds for the MLP and the transformer, and 1/4 for Conv4
with batch norm, with a gradient equal to 1e-5.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import kshot
from kshot import Batch, Task
from kshot.memory import peak_memory
from kshot.models import MLP, Conv4
from kshot.rules import SGD
from kshot.vectorize import meta_backward

STEPS = (1, 8, 32, 128)
WAYS = ("unrolled", "mixed-mode", "checkpoint:6", "truncated:4", "first-order", "implicit:cg")
EXACT = ("unrolled", "mixed-mode", "checkpoint:6")
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


MODELS: dict[str, tuple[Any, tuple[int, ...], int, float]] = {  # model, shape of an example, examples a class, rate
    "mlp": (lambda: MLP(64, (64, 64, 64), 5), (64,), 100, 0.01),
    "transformer": (Transformer, (32, 64), 10, 0.01),
    "conv4 with batch norm": (lambda: Conv4(5, width=64), (1, 28, 28), 5, 0.01),
}


def task(shape: tuple[int, ...], each: int, device: str) -> Task:
    """One task; noise will do, memory does not depend on the values."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(5).repeat(1, each)

    def batch() -> Batch:
        return Batch(torch.randn(1, 5 * each, *shape, generator=g), y, 5)

    return Task(batch(), batch()).to(device)


def peak(run: Any, device: str) -> int:
    """Bytes that `run` adds at most."""
    gc.collect()
    if device == "cuda":
        return peak_memory(run, device)
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is resident
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return 1024 * int(line.split()[1])


def measure(model: str, way: str, device: str) -> list[dict[str, Any]]:
    make, shape, each, lr = MODELS[model]
    tasks, rows = task(shape, each, device), []
    for steps in STEPS:
        torch.manual_seed(0)
        learner = kshot.MAML(make(), rule=SGD(lr), steps=steps, hypergradient=way).to(device)
        meta_backward(learner, tasks, "loop")  # what is allocated once and for all
        learner.zero_grad(set_to_none=False)
        start = time.perf_counter()
        added = peak(lambda learner=learner: meta_backward(learner, tasks, "loop"), device)
        seconds = time.perf_counter() - start
        rows.append({"model": model, "way": way, "steps": steps, "MB": added / 1e6, "seconds": round(seconds, 4)})
        if way in EXACT and steps <= 32:
            found = torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])
            learner.zero_grad()
            with learner.trying("unrolled"):
                meta_backward(learner, tasks, "loop")
            wanted = torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])
            rows[-1]["off"] = float((found - wanted).norm() / wanted.norm())
    return rows


def everything(device: str) -> list[dict[str, Any]]:
    rows = []
    for model in MODELS:
        for way in WAYS:
            if device == "cuda":
                rows += measure(model, way, device)
            else:  # small allocations go back at once too
                environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0"}
                command = [sys.executable, __file__, "--child", model, way]
                rows += json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
            print(f"{model:24}{way:16}" + "".join(f"{x['MB']:10.1f}" for x in rows[-len(STEPS) :]), flush=True)
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """MB a step between 8 and 128 steps, the share of what unrolled adds at 32, and whether that is its target."""
    at = {(x["model"], x["way"], x["steps"]): x for x in rows}
    found = []
    for model in MODELS:
        for way in WAYS:
            slope = (at[model, way, 128]["MB"] - at[model, way, 8]["MB"]) / 120
            share = at[model, way, 32]["MB"] / at[model, "unrolled", 32]["MB"]
            off = max(at[model, way, s].get("off", 0.0) for s in STEPS)
            x = {"model": model, "way": way, "MB a step": slope, "share at 32 steps": share, "off": off}
            target = (
                {"target": SHARE[model], "met": share <= SHARE[model] and off <= 1e-5} if way == "mixed-mode" else {}
            )
            found.append(x | target)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--child", nargs=2)
    given = parser.parse_args()
    if given.child:
        torch.set_num_threads(1)
        print(json.dumps(measure(*given.child, "cpu")))
        return
    from evidence import record

    torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = (
        True,
        False,
    )  # or it is not even equal to itself
    rows = everything(given.device)
    found = summary(rows)
    for x in found:
        print(
            f"{x['model']:24}{x['way']:16}{x['MB a step']:10.3f} MB a step {x['share at 32 steps']:8.3f}   off {x['off']:.1e}"
        )
    name = "hypergradient-memory" if given.device == "cpu" else "hypergradient-memory-gpu"
    settings = {"steps": STEPS, "tasks": 1, "rule": "sgd", "dtype": "float32"}
    print("written to", record(name, settings, rows, summary=found))


if __name__ == "__main__":
    main()
