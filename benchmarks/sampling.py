"""How many tasks a second can be drawn: 5-way 1-shot on Omniglot in memory, rotations as classes (trainval, 4,800).

    KSHOT_DATA=... python benchmarks/sampling.py

A task counts once its tensors are there as float32 [5, 1, 28, 28] in 0..1: drawing the rows, gathering the images and
bringing bytes to floats are all in the time; reading the data set is not. Training takes batches of 32 tasks, so that
is one of the sizes; `tasks_per_second` is the best size's median.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

import torch
from evidence import record

from kshot.tasks.episodes import Episodes
from kshot.tasks.labelled import Labelled
from kshot.tasks.omniglot import omniglot
from kshot.types import seeded

TARGET = 134_000  # tasks a second, 1 query a class: twenty times the 6,700 of learn2learn's sampler in Cython


def rate(episodes: Episodes, batch: int, repeats: int, seconds: float) -> dict[str, float]:
    """Tasks a second: the median, lowest and highest of `repeats` runs of about `seconds` each."""
    generator = seeded(batch)
    rates = []
    for repeat in range(repeats + 1):
        done, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            episodes.sample(batch, generator)
            done += batch
        if repeat:  # the first warms up
            rates.append(done / elapsed)
    return {"median": round(statistics.median(rates)), "lowest": round(min(rates)), "highest": round(max(rates))}


def measure(
    data: Labelled,
    *,
    threads: int = 2,
    repeats: int = 7,
    seconds: float = 0.4,
    batches: tuple[int, ...] = (32, 128, 256),
) -> dict[str, Any]:
    """Rates for 1 and 15 queries a class, per batch size, with the machine's load before and after."""
    before, load = torch.get_num_threads(), os.getloadavg()[0]
    torch.set_num_threads(threads)
    results: dict[str, Any] = {"what": "5-way 1-shot tasks/s, Omniglot trainval with rotations, in memory"}
    try:
        for queries in (1, 15):
            episodes = Episodes(data, ways=5, shots=1, queries=queries)
            rates = {str(batch): rate(episodes, batch, repeats, seconds) for batch in batches}
            best = max(rates, key=lambda batch: rates[batch]["median"])
            results[f"queries_{queries}"] = {
                "tasks_per_second": rates[best]["median"],
                "tasks_per_batch": int(best),
                "by_batch": rates,
            }
    finally:
        torch.set_num_threads(before)
    results |= {
        "target": TARGET,
        "meets_target": results["queries_1"]["tasks_per_second"] >= TARGET,
        "threads": threads,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "load": [round(load, 2), round(os.getloadavg()[0], 2)],
    }
    return results


def main() -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.4)
    options = parser.parse_args()
    results = measure(omniglot("trainval"), threads=options.threads, repeats=options.repeats, seconds=options.seconds)
    print(json.dumps(results, indent=2))
    rows = [
        {"queries": queries, "tasks_at_once": int(batch), **found}
        for queries in (1, 15)
        for batch, found in results[f"queries_{queries}"]["by_batch"].items()
    ]
    settings = {**vars(options), "what": results["what"], "target": TARGET}
    print("written to", record("sampling", settings, rows, passed=results["meets_target"]))
    return results


if __name__ == "__main__":
    main()
