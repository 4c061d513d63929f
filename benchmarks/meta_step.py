"""The time of one meta-step (meta-gradient of a batch of tasks, then Adam), beside TorchOpt, higher and torch.autograd.

    python benchmarks/meta_step.py --repeats 15

All contenders run in turn within each repeat, in an order that rotates, so that a busy moment of the machine meets them
all. A row has the median, lowest and highest seconds; `ratio` is a peer's time over the contender's in the same repeat,
median over the repeats: 3 means three times as fast as that peer. Before the timing the float32 meta-gradients are
compared, so that nobody is fast by computing something else. Writes results/meta-step.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from evidence import record
from peers import UNROLLED, Examples, Loss
from torch import Tensor, nn

import kshot
from kshot.learner import mse_loss
from kshot.models import MLP, Conv4
from kshot.tasks import Sinusoids

Backward = Callable[[], object]  # adds the meta-gradient to .grad


@dataclass(frozen=True)
class Problem:
    name: str
    model: nn.Module
    tasks: kshot.Task
    lr: float
    steps: int
    loss: Loss


@dataclass(frozen=True)
class Contender:
    model: nn.Module
    backward: Backward
    optimizer: torch.optim.Optimizer

    def meta_step(self) -> float:
        """Seconds of one."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        self.backward()
        self.optimizer.step()
        return time.perf_counter() - start


def problems(seed: int) -> list[Problem]:
    torch.manual_seed(seed)  # initial weights
    generator = torch.Generator().manual_seed(seed)
    sines = Sinusoids(shots=10, queries=10).sample(32, generator)
    images = kshot.Task(_images(generator, 8, 1), _images(generator, 8, 15))
    mlp, conv = MLP(1, (40, 40), 1), Conv4(5, width=64, down="stride")
    return [
        Problem("sinusoid, MLP 40-40, 32 tasks", mlp, sines, 0.01, 1, mse_loss),
        Problem("sinusoid, MLP 40-40, 32 tasks", mlp, sines, 0.01, 5, mse_loss),
        Problem("5-way 1-shot 28×28, Conv4-64, 8 tasks", conv, images, 0.4, 1, F.cross_entropy),
    ]


def _images(generator: torch.Generator, tasks: int, each: int, ways: int = 5) -> kshot.Batch:
    """Noise will do: the time does not depend on the values."""
    y = torch.arange(ways).repeat(tasks, each)
    return kshot.Batch(torch.rand(tasks, ways * each, 1, 28, 28, generator=generator), y, ways)


def contenders(problem: Problem) -> dict[str, Contender]:
    """Each with its own copy of the model and its own Adam."""
    found = {}
    for way in ("loop", "vmap"):
        rule = kshot.rules.SGD(lr=problem.lr)
        learner = kshot.MAML(deepcopy(problem.model), loss=problem.loss, rule=rule, steps=problem.steps)

        def backward(learner: kshot.MAML = learner, way: Any = way) -> None:
            kshot.meta_loss(learner, problem.tasks, vectorize=way).backward()

        found[f"kshot {way}"] = Contender(learner.model, backward, _adam(learner.model))
    for name, peer in UNROLLED.items():
        model = deepcopy(problem.model)
        tasks = _examples(problem.tasks)
        run = partial(peer, model, model, problem.loss, tasks, problem.lr, problem.steps)
        found[name] = Contender(model, run, _adam(model))
    return found


def _adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-4)


def _examples(tasks: kshot.Task) -> list[Examples]:
    s, q = tasks.support, tasks.query
    return [(s.x[i], s.y[i], q.x[i], q.y[i]) for i in range(len(tasks))]


def check_same_gradients(everyone: dict[str, Contender], tolerance: float = 1e-3) -> float:
    """The largest deviation from plain torch.autograd, relative to its largest entry."""
    grads = {}
    for name, contender in everyone.items():
        contender.backward()
        grads[name] = torch.cat([_grad(p).flatten() for p in contender.model.parameters()])
        contender.optimizer.zero_grad()
    expected = grads["autograd"]
    worst = max(float((g - expected).abs().max() / expected.abs().max()) for g in grads.values())
    if not worst <= tolerance:
        raise SystemExit(f"the meta-gradients differ by {worst:.1e} of the largest entry: there is nothing to compare")
    return worst


def _grad(p: Tensor) -> Tensor:
    return p.grad.clone() if p.grad is not None else torch.zeros_like(p)


def measure(problem: Problem, repeats: int) -> list[dict[str, Any]]:
    everyone = contenders(problem)
    deviation = check_same_gradients(everyone)
    for contender in everyone.values():  # the optimizers' state and the allocator warm up
        contender.meta_step()
    names = list(everyone)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(everyone[name].meta_step())
    return [
        {
            "problem": problem.name,
            "steps": problem.steps,
            "contender": name,
            "median": median(times),
            "lowest": min(times),
            "highest": max(times),
            "ratio": {peer: _ratio(seconds[peer], times) for peer in UNROLLED if peer != name},
            "deviation": deviation,
        }
        for name, times in seconds.items()
    ]


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    return round(median(t / o for t, o in zip(theirs, ours, strict=True)), 3)


def show(rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        ratios = "  ".join(f"{peer} ×{ratio:.2f}" for peer, ratio in row["ratio"].items())
        print(f"{row['problem']:40}{row['steps']} steps  {row['contender']:12}{row['median'] * 1e3:9.2f} ms  {ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    for problem in problems(options.seed):
        found = measure(problem, options.repeats)
        show(found)
        rows += found
    settings = {**vars(options), "dtype": "float32", "outer": "Adam", "shots, queries": "sinusoid 10, 10; images 1, 15"}
    print(f"written to {record('meta-step', settings, rows).name}")


if __name__ == "__main__":
    main()
