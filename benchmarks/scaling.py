"""How the time of a meta-gradient grows with the number of tasks, of inner steps, and of parameters.

    python benchmarks/scaling.py [--repeats 9]

The exponent is the slope of log time against log size, over the larger half of the sizes, where what is constant matters
least: 1 means in proportion. Sinusoids, an MLP of two layers, one inner step and 32 tasks unless that is what grows. Writes
results/scaling.json.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from statistics import linear_regression, median
from typing import Any

import torch
from evidence import record
from peers import UNROLLED

import kshot
from kshot.learner import mse_loss
from kshot.models import MLP
from kshot.rules import SGD
from kshot.tasks import Sinusoids
from kshot.vectorize import choose, meta_backward

SIZES = {"tasks": (4, 16, 64, 256), "inner steps": (1, 2, 4, 8, 16), "width of the layers": (20, 80, 320, 1280)}


def ours(width: int, tasks: kshot.Task, steps: int) -> Callable[[], object]:
    learner = kshot.MAML(MLP(1, (width, width), 1), loss="mse", rule=SGD(0.001), steps=steps)
    way = choose(learner, tasks)
    return lambda: meta_backward(learner, tasks, way)


def by_torchopt(width: int, tasks: kshot.Task, steps: int) -> Callable[[], object]:
    model = MLP(1, (width, width), 1)
    s, q = tasks.support, tasks.query
    examples = [(s.x[i], s.y[i], q.x[i], q.y[i]) for i in range(len(tasks))]
    return lambda: UNROLLED["torchopt"](model, model, mse_loss, examples, 0.001, steps)


def seconds(run: Callable[[], object], repeats: int) -> float:
    run()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, make, repeats in (
        ("kshot", ours, options.repeats),
        ("torchopt", by_torchopt, max(1, options.repeats // 3)),
    ):
        for against, sizes in SIZES.items():
            times = {}
            for size in sizes:
                if name == "torchopt" and against == "tasks" and size > 64:
                    continue  # it has no other way than one after the other
                given = {"tasks": 32, "inner steps": 1, "width of the layers": 40, against: size}
                tasks = Sinusoids(shots=10, queries=10).sample(given["tasks"], kshot.seeded(0))
                times[size] = seconds(make(given["width of the layers"], tasks, given["inner steps"]), repeats)
            large = list(times)[len(times) // 2 - 1 :]
            slope = linear_regression([math.log(n) for n in large], [math.log(times[n]) for n in large]).slope
            row = {"contender": name, "against": against, "from": large[0], "to": large[-1], "exponent": slope}
            rows.append({**row, "seconds": {str(n): t for n, t in times.items()}})
            print(
                f"{name:10}{against:22}{slope:6.2f}  " + "  ".join(f"{n}: {1000 * t:.2f} ms" for n, t in times.items())
            )
    print("written to", record("scaling", {**vars(options), "threads": torch.get_num_threads()}, rows).name)


if __name__ == "__main__":
    main()
