"""The time of one meta-step (meta-gradient of a batch of tasks, then Adam), beside TorchOpt, higher, easyfsl and torch.autograd.

    python benchmarks/meta_step.py [--repeats 5] [--only NAME …] [--threads N]

All contenders run in turn within each repeat, in an order that rotates, so that a busy moment of the machine meets them
all; a turn is a tenth of a second of steps, at least one. A row has the median, lowest and highest seconds; `ratio` is the best
peer's time over the contender's in the same repeat, median over the repeats: 3 means three times as fast. Before the timing the
float32 meta-gradients are compared, so that nobody is fast by computing something else. `auto` has made its choice before the
timing; what that cost, in its own steps, is `choice`. Compiled rows were compiled before, in `compilation` seconds, with nothing
in the disk cache. Writes results/meta-step.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from evidence import record
from peers import FIRST_ORDER, UNROLLED, easyfsl_prototypes, with_autograd_prototypes, with_autograd_reptile
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import kshot
from kshot.learner import mse_loss
from kshot.models import MLP, Conv4
from kshot.rules import SGD
from kshot.tasks import Sinusoids
from kshot.training.options import OPTIMIZERS
from kshot.vectorize import CHUNKS, choose, compiled, meta_backward

Backward = Callable[[], object]  # adds the meta-gradient to .grad


@dataclass(frozen=True)
class Workload:
    """inner: which part of a model adapts, for the peers; peers: functions of (model, inner, loss, tasks, lr, steps)."""

    name: str
    steps: int
    model: nn.Module
    tasks: kshot.Task
    learner: Callable[[nn.Module], kshot.MetaLearner]
    peers: dict[str, Callable[..., None]]
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    lr: float = 0.4
    inner: Callable[[nn.Module], nn.Module] = lambda model: model
    compile: bool = True
    bf16: bool = False


@dataclass(frozen=True)
class Contender:
    parameters: list[nn.Parameter]
    backward: Backward
    optimizer: torch.optim.Optimizer
    facts: dict[str, Any]

    def meta_step(self) -> None:
        self.optimizer.zero_grad()
        self.backward()
        self.optimizer.step()

    def turn(self, times: int) -> float:
        """Seconds a step, of so many in a row as in a training; quick ones after one that is not counted."""
        if times > 1:
            self.meta_step()
        start = time.perf_counter()
        for _ in range(times):
            self.meta_step()
        return (time.perf_counter() - start) / times


class LoRA(nn.Module):
    """A linear layer and a change of low rank to it, which is all that adapts."""

    def __init__(self, inputs: int, outputs: int, rank: int = 4) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs)
        self.lora = nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.lora(x)
        return out


class Transformer(nn.Module):
    """Two layers over the 28 rows of an image."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.embed, self.head = heads, nn.Linear(28, width), LoRA(width, 5)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "qkv": LoRA(width, 3 * width),
                    "out": LoRA(width, width),
                    "up": LoRA(width, 2 * width),
                    "down": LoRA(2 * width, width),
                    "one": nn.LayerNorm(width),
                    "two": nn.LayerNorm(width),
                }
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.flatten(1, 2))  # [S, 28, width]
        for layer in self.layers:
            q, k, v = (
                t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in layer["qkv"](layer["one"](h)).chunk(3, -1)
            )
            h = h + layer["out"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            h = h + layer["down"](F.gelu(layer["up"](layer["two"](h))))
        out: Tensor = self.head(h.mean(1))
        return out


def adapters(model: nn.Module) -> nn.Module:
    return nn.ModuleList(m.lora for m in model.modules() if isinstance(m, LoRA))


def workloads(seed: int) -> Iterator[Workload]:
    torch.manual_seed(seed)  # initial weights
    generator = torch.Generator().manual_seed(seed)
    sines = Sinusoids(shots=10, queries=10).sample(32, generator)
    images = kshot.Task(_images(generator, 32, 1), _images(generator, 32, 15))
    episodes = kshot.Task(_images(generator, 20, 5, 20), _images(generator, 20, 5, 20))
    mlp, conv, body = MLP(1, (40, 40), 1), Conv4(5, width=64, down="stride"), Conv4(None, width=64)

    def maml(lr: float, steps: int, **choices: Any) -> Callable[[nn.Module], kshot.MetaLearner]:
        return lambda model: kshot.MAML(model, rule=SGD(lr), steps=steps, **choices)

    for steps in (1, 5):
        rule = maml(0.01, steps, loss=mse_loss)
        yield Workload("sinusoid, MLP 40-40", steps, mlp, sines, rule, UNROLLED, mse_loss, 0.01)
    for steps in (1, 5):
        lr = 0.4 if steps == 1 else 0.01  # longer ones diverge, and then no two libraries agree
        yield Workload("MAML, Conv4-64", steps, conv, images, maml(lr, steps), UNROLLED, lr=lr, bf16=steps == 1)
    first = maml(0.01, 5, hypergradient="first-order")
    yield Workload("first-order MAML, Conv4-64", 5, conv, images, first, FIRST_ORDER, lr=0.01, compile=False)
    head = maml(0.01, 5, adapted="head.*")
    yield Workload("ANIL, Conv4-64", 5, conv, images, head, UNROLLED, lr=0.01, inner=lambda m: m.head, compile=False)
    reptile = lambda model: kshot.Reptile(model, rule=SGD(0.01), steps=5)  # noqa: E731
    yield Workload(
        "Reptile, Conv4-64", 5, conv, images, reptile, {"autograd": with_autograd_reptile}, lr=0.01, compile=False
    )
    prototypes = {"easyfsl": easyfsl_prototypes, "autograd": with_autograd_prototypes}
    yield Workload("ProtoNet, 20-way 5-shot", 0, body, episodes, kshot.ProtoNet, prototypes, compile=False)
    lora = maml(0.1, 5, adapted="*lora*")
    yield Workload("LoRA in a transformer", 5, Transformer(), images, lora, UNROLLED, lr=0.1, inner=adapters)


def _images(generator: torch.Generator, tasks: int, each: int, ways: int = 5) -> kshot.Batch:
    """Noise will do: the time does not depend on the values."""
    y = torch.arange(ways).repeat(tasks, each)
    return kshot.Batch(torch.rand(tasks, ways * each, 1, 28, 28, generator=generator), y, ways)


def contenders(w: Workload) -> dict[str, Contender]:
    """Each with its own copy of the model and its own Adam: the peers with torch's default, kshot with that of its fit."""
    found = {}
    for name, peer in w.peers.items():
        model = deepcopy(w.model)
        run = partial(_by_peer, peer, model, w.inner(model), w.loss, _examples(w.tasks), w.lr, w.steps)
        parameters = list(model.parameters())
        found[name] = Contender(parameters, run, torch.optim.Adam(parameters, lr=1e-4), {})
    chunks = [size for size in CHUNKS if 2 * size <= len(w.tasks)]
    for way in ("loop", *chunks, "vmap", "auto", *["compiled"] * w.compile, *["auto, bf16"] * w.bf16):
        found[f"kshot {'chunks of ' * isinstance(way, int)}{way}"] = _of_kshot(w, way)
    return found


def _by_peer(peer: Callable[..., None], *given: Any) -> None:
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no second derivative, and none of them knows
        peer(*given)


def _of_kshot(w: Workload, way: str | int) -> Contender:
    learner = w.learner(deepcopy(w.model))
    learner.train()
    parameters, facts = list(learner.parameters()), {}
    casts = torch.autocast("cpu", torch.bfloat16, enabled="bf16" in str(way), cache_enabled=False)
    start = time.perf_counter()
    with casts:
        chosen: Any = way if way in ("loop", "vmap") or isinstance(way, int) else choose(learner, w.tasks)
    if "auto" in str(way):
        facts = {"way": chosen, "choice seconds": time.perf_counter() - start}
    step = None
    if way == "compiled":
        start = time.perf_counter()
        step = compiled(learner, w.tasks, chosen)
        facts = {"way": chosen, "compilation": round(time.perf_counter() - start, 1)}

    def backward() -> None:
        with casts:
            meta_backward(learner, w.tasks, chosen, step=step)

    return Contender(parameters, backward, OPTIMIZERS["adam"](parameters, lr=1e-4), facts)


def _examples(tasks: kshot.Task) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    s, q = tasks.support, tasks.query
    return [(s.x[i], s.y[i], q.x[i], q.y[i]) for i in range(len(tasks))]


def deviations(everyone: dict[str, Contender], tolerance: float = 0.05) -> dict[str, float]:
    """How far each meta-gradient is from plain torch.autograd's, relative to its length; in bf16 it may be."""
    grads = {}
    for name, contender in everyone.items():
        contender.optimizer.zero_grad()
        contender.backward()
        grads[name] = torch.cat([_grad(p).flatten() for p in contender.parameters])
    expected = grads["autograd"]
    found = {name: float((g - expected).norm() / expected.norm()) for name, g in grads.items()}
    for name, off in found.items():
        free = name == "easyfsl" or "bf16" in name  # its distance is not squared; its roundings are what is to be shown
        if not free and not off <= tolerance:
            raise SystemExit(f"the meta-gradient of {name} is off by {off:.1e}: there is nothing to compare")
    return found


def _grad(p: Tensor) -> Tensor:
    return p.grad.clone() if p.grad is not None else torch.zeros_like(p)


def measure(w: Workload, repeats: int) -> list[dict[str, Any]]:
    everyone = contenders(w)
    off = deviations(everyone)
    times = {name: contender.turn(1) for name, contender in everyone.items()}  # and all that is done once is done
    turns = {name: max(1, min(50, round(0.1 / seconds))) for name, seconds in times.items()}
    names = list(everyone)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(everyone[name].turn(turns[name]))
    best = min(w.peers, key=lambda name: median(seconds[name]))
    rows = []
    for name, times in seconds.items():
        facts = dict(everyone[name].facts)
        if "choice seconds" in facts:
            facts["choice"] = round(facts.pop("choice seconds") / median(times), 2)
        rows.append(
            {
                "problem": w.name,
                "steps": w.steps,
                "contender": name,
                "median": median(times),
                "lowest": min(times),
                "highest": max(times),
                "ratio": _ratio(seconds[best], times),
                "best peer": best,
                "deviation": off[name],
                **facts,
            }
        )
    return rows


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    return round(median(t / o for t, o in zip(theirs, ours, strict=True)), 3)


def show(rows: Sequence[dict[str, Any]]) -> None:
    for x in rows:
        facts = "  ".join(f"{k} {x[k]}" for k in ("way", "choice", "compilation") if k in x)
        line = f"{x['problem']:30}{x['steps']:2} steps  {x['contender']:22}{1000 * x['median']:9.2f} ms"
        print(f"{line}  ×{x['ratio']:.2f} of {x['best peer']}  {facts}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="*", default=[], help="words of the workloads to run: their rows replace the file"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as empty:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
        for w in workloads(options.seed):
            if not options.only or any(word in f"{w.name} {w.steps}" for word in options.only):
                found = measure(w, options.repeats)
                show(found)
                rows += found
    settings = {**vars(options), "dtype": "float32", "outer": "Adam", "tasks": "32; ProtoNet 20"}
    print(f"written to {record('meta-step', settings, rows).name}")


if __name__ == "__main__":
    main()
