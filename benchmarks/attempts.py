"""What was tried to make a meta-step faster, one change at a time: what was expected of it, and what it gave.

    python benchmarks/attempts.py [--repeats 15]

Each pair is timed in turns. `before` and `after` are medians in ms; some of what was tried was not kept, and says why. Writes
results/attempts.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from evidence import record
from torch import nn

import kshot
from kshot import compiled as engine
from kshot.compiled import Compiled, inputs
from kshot.hypergradients.beneath import Beneath
from kshot.memory import keep_freed
from kshot.models import MLP, Conv4
from kshot.models.conv4 import OneChannel
from kshot.rules import SGD
from kshot.tasks import Sinusoids
from kshot.vectorize import choose, compiled, losses_by, meta_backward

Run = Callable[[], object]


@dataclass(frozen=True)
class Attempt:
    what: str
    on: str
    expected: str
    before: Run
    after: Run
    kept: str = "kept"


def sinusoid(steps: int) -> tuple[kshot.MAML, kshot.Task]:
    learner = kshot.MAML(MLP(1, (40, 40), 1), loss="mse", rule=SGD(0.01), steps=steps)
    return learner, Sinusoids(shots=10, queries=10).sample(32, kshot.seeded(0))


def conv4(model: nn.Module | None = None, tasks: int = 8) -> tuple[kshot.MAML, kshot.Task]:
    g = torch.Generator().manual_seed(0)

    def images(each: int) -> kshot.Batch:
        y = torch.arange(5).repeat(tasks, each)
        return kshot.Batch(torch.rand(tasks, 5 * each, 1, 28, 28, generator=g), y, 5)

    model = Conv4(5, width=64, down="stride") if model is None else model
    return kshot.MAML(model, rule=SGD(0.4)), kshot.Task(images(1), images(15))


def plain_first_layer() -> Conv4:
    model = Conv4(5, width=64, down="stride")
    first = model.body[0][0]  # type: ignore[index]
    assert isinstance(first, OneChannel)
    model.body[0][0] = nn.Conv2d(1, 64, 3, padding=1, stride=2)  # type: ignore[index, operator]
    return model


def step(learner: kshot.MAML, tasks: kshot.Task, way: Any, made: Compiled | None = None) -> Run:
    def run() -> None:
        learner.zero_grad()
        meta_backward(learner, tasks, way, step=made)

    return run


def attempts() -> Iterator[Attempt]:
    learner, tasks = sinusoid(5)
    eager = step(learner, tasks, "vmap")
    on = "sinusoid, 32 tasks, 5 steps, vmap"

    def by_func() -> None:
        reachable, Beneath.reachable = Beneath.reachable, staticmethod(lambda: False)  # type: ignore[method-assign]
        try:
            eager()
        finally:
            Beneath.reachable = staticmethod(reachable)  # type: ignore[method-assign]

    yield Attempt(
        "torch.autograd beneath vmap, not torch.func.grad in it",
        on,
        "one layer of dispatch less: 1.3 ×",
        by_func,
        eager,
    )
    recorded = engine.record(learner, losses_by(learner, "vmap"), tasks)

    def replay() -> None:
        with torch.no_grad():
            recorded(*inputs(learner, tasks))

    yield Attempt(
        "the recorded operations, without a compiler",
        on,
        "no Python of ours, no autograd: 2 ×",
        eager,
        replay,
        "not kept: in threads they wait for Python's lock, and compiled they are faster",
    )
    made = compiled(learner, tasks, "vmap")
    yield Attempt("compiled", on, "a quarter of the time", eager, step(learner, tasks, "vmap", made))
    yield from _around_the_step(learner)
    yield from _conv_attempts()


def _conv_attempts() -> Iterator[Attempt]:
    on = "Conv4-64, 8 tasks, 1 step"
    learner, tasks = conv4()
    plain, _ = conv4(plain_first_layer())
    last = plain_first_layer().to(memory_format=torch.channels_last)
    yield Attempt(
        "weights in channels_last",
        f"{on}, loop",
        "faster kernels: 1.2 ×",
        step(plain, tasks, "loop"),
        step(conv4(last)[0], tasks, "loop"),
        "not kept: grey images count as either layout, and the mixture eats up the gain",
    )
    for size in (4, 8):
        yield Attempt(
            f"vmap over chunks of {size}, to stay in cache",
            on,
            "1.2 ×",
            step(learner, tasks, "loop"),
            step(learner, tasks, size),
            "kept as a way that 'auto' measures: with five inner steps it is 1.3 × as quick as the loop",
        )
    before, after = compiled(plain, tasks, "loop"), compiled(learner, tasks, "loop")
    yield Attempt(
        "the first convolution as a product of matrices",
        f"{on}, compiled",
        "a tenth of the machine's rate before: 1.1 ×; it also decides the layout of the rest",
        step(plain, tasks, "loop", before),
        step(learner, tasks, "loop", after),
    )
    assert after is not None
    alone = Compiled.__new__(Compiled)
    alone.size, alone._made, alone._threads = after.size, after._made, 1
    yield Attempt(
        "compiled tasks side by side, a thread each",
        f"{on}, compiled",
        "1.9 × on two cores",
        step(learner, tasks, "loop", alone),
        step(learner, tasks, "loop", after),
    )


def _around_the_step(learner: kshot.MAML) -> Iterator[Attempt]:
    yield Attempt(
        "seeding the generator of the CPU alone",
        "once a step of fit",
        "nothing",
        lambda: torch.manual_seed(0),
        lambda: torch.default_generator.manual_seed(0),
        "kept: torch.manual_seed also queues a call, with its traceback, for each kind of device that is not there",
    )
    for p in learner.parameters():
        p.grad = torch.randn_like(p)
    parameters = list(learner.parameters())
    one, other = torch.optim.Adam(parameters, lr=1e-9), torch.optim.Adam(parameters, lr=1e-9, fused=True)
    yield Attempt("Adam in one kernel", "six tensors", "3 ×", one.step, other.step)


def kept_memory() -> dict[str, Any]:
    """In two processes: the allocator's settings are a process's."""
    command = [sys.executable, __file__, "--step"]
    before, after = (
        float(subprocess.run(command, env={**os.environ, **own}, check=True, capture_output=True, text=True).stdout)
        for own in ({"MALLOC_TRIM_THRESHOLD_": str(128 * 1024)}, {})  # glibc's own setting, which kshot leaves alone
    )
    return {
        "attempt": "freed memory stays with the process",
        "on": "Conv4-64, 32 tasks, 1 step, vmap",
        "expected": "no page is brought in anew, half a million before: 1.5 ×",
        "before": before,
        "after": after,
        "kept": "kept, up to a gigabyte",
    }


def large_step() -> float:
    learner, tasks = conv4(tasks=32)
    choose(learner, tasks, "vmap")
    run, times = step(learner, tasks, "vmap"), []
    for _ in range(8):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * median(times[3:])


def second_derivative_of_norms() -> float:
    """The share of a Conv4 step's time that is the double backward of batch norm."""
    learner, tasks = conv4(tasks=2)
    run = step(learner, tasks, "loop")
    run()
    with torch.profiler.profile() as seen:
        run()
    times = {e.key: (e.cpu_time_total, e.self_cpu_time_total) for e in seen.key_averages()}
    return float(times["NativeBatchNormBackwardBackward0"][0] / sum(own for _, own in times.values()))


def rate_of_products() -> float:
    """Operations a second of one thread, in thousands of millions, in a large matrix product."""
    threads, a = torch.get_num_threads(), torch.randn(1024, 1024)
    torch.set_num_threads(1)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    return 2 * 1024**3 / min(times) / 1e9


def measure(attempt: Attempt, repeats: int) -> tuple[float, float]:
    times: tuple[list[float], list[float]] = ([], [])
    for run in (attempt.before, attempt.after):
        run()
    for _ in range(repeats):
        for run, found in zip((attempt.before, attempt.after), times, strict=True):
            run()  # its own data back into the caches
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
    return 1000 * median(times[0]), 1000 * median(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--step", action="store_true", help="time one large step, print it, and no more")
    options = parser.parse_args()
    if options.step:
        print(large_step())
        return
    keep_freed()  # as kshot does wherever it chooses a way
    rows: list[dict[str, Any]] = []
    for attempt in attempts():
        before, after = measure(attempt, options.repeats)
        row = {
            "attempt": attempt.what,
            "on": attempt.on,
            "expected": attempt.expected,
            "before": before,
            "after": after,
        }
        rows.append({**row, "kept": attempt.kept})
        print(f"{attempt.what:62}{before:9.3f} → {after:9.3f} ms   {before / after:.2f} ×", flush=True)
    rows.append(kept_memory())
    share = second_derivative_of_norms()
    print(f"double backward of batch norm: {share:.1%} of a step")
    facts = {"batch_norm_double_backward": share, "gigaflops_of_a_thread": rate_of_products()}
    settings = {"repeats": options.repeats, "threads": torch.get_num_threads()}
    print("written to", record("attempts", settings, rows, **facts).name)


if __name__ == "__main__":
    main()
