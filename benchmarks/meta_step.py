"""The time of one meta-step (the meta-gradient of some tasks, then Adam), beside TorchOpt, higher, easyfsl, torch.autograd, JAX.

    python benchmarks/meta_step.py [--repeats 7] [--only NAME …] [--threads N]

Each contender is a process of its own, with the settings that its library makes. All run in turn within each repeat, one at a
time, in an order that rotates, so that a busy moment of the machine meets them all; a turn is a tenth of a second of steps, at
least one. A row has the median, lowest and highest seconds; `ratio` is the time of the best peer in torch over the contender's in
the same repeat, median over the repeats: 3 means three times as fast; `of jax` is the same for JAX, in which a model has to be
written anew. Before the timing the float32 meta-gradients are compared, so that nobody is fast by computing something else.
`auto` has made its choice before the timing; what that cost, in its own steps, is `choice`. Compiled rows were compiled before,
in `compilation` seconds, with nothing in the disk cache. Writes results/meta-step.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import islice
from statistics import median
from typing import Any

import numpy as np
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
from kshot.vectorize import CHUNKS, choose, compiled, meta_backward, to_compile


@dataclass(frozen=True)
class Workload:
    """inner: which part of a model adapts, for the peers; peers: functions of (model, inner, loss, tasks, lr, steps).

    jax: what JaxMAML is to be told beside that; None where there is nothing like it.
    """

    name: str
    steps: int
    model: nn.Module
    tasks: kshot.Task
    learner: Callable[[nn.Module], kshot.MetaLearner]
    peers: dict[str, Callable[..., None]]
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    lr: float = 0.4
    inner: Callable[[nn.Module], nn.Module] = lambda model: model
    jax: dict[str, Any] | None = None
    compile: bool = True
    bf16: bool = False


@dataclass(frozen=True)
class Contender:
    """step: a whole meta-step; gradient: the meta-gradient as one vector; wait: until all steps are done."""

    step: Callable[[], object]
    gradient: Callable[[], Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    wait: Callable[[], object] = lambda: None

    def turn(self, times: int) -> float:
        """Seconds a step, of so many in a row as in a training; quick ones after one that is not counted."""
        if times > 1:
            self.step()
            self.wait()
        start = time.perf_counter()
        for _ in range(times):
            self.step()
        self.wait()
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
        yield Workload("sinusoid, MLP 40-40", steps, mlp, sines, rule, UNROLLED, mse_loss, 0.01, jax={})
    for steps in (1, 5):
        lr = 0.4 if steps == 1 else 0.01  # longer ones diverge, and then no two libraries agree
        yield Workload("MAML, Conv4-64", steps, conv, images, maml(lr, steps), UNROLLED, lr=lr, jax={}, bf16=steps == 1)
    first = maml(0.01, 5, hypergradient="first-order")
    yield Workload(
        "first-order MAML, Conv4-64",
        5,
        conv,
        images,
        first,
        FIRST_ORDER,
        lr=0.01,
        jax={"first_order": True},
        compile=False,
    )
    head = maml(0.01, 5, adapted="head.*")
    yield Workload(
        "ANIL, Conv4-64",
        5,
        conv,
        images,
        head,
        UNROLLED,
        lr=0.01,
        inner=lambda m: m.head,
        jax={"adapted": 2},
        compile=False,
    )
    reptile = lambda model: kshot.Reptile(model, rule=SGD(0.01), steps=5)  # noqa: E731
    yield Workload(
        "Reptile, Conv4-64", 5, conv, images, reptile, {"autograd": with_autograd_reptile}, lr=0.01, compile=False
    )
    prototypes = {"easyfsl": easyfsl_prototypes, "autograd": with_autograd_prototypes}
    yield Workload("ProtoNet, 20-way 5-shot", 0, body, episodes, kshot.ProtoNet, prototypes, compile=False)
    lora = maml(0.1, 5, adapted="*lora*")
    # Not compiled: more than six minutes, of eleven thousand operations.
    yield Workload(
        "LoRA in a transformer", 5, Transformer(), images, lora, UNROLLED, lr=0.1, inner=adapters, compile=False
    )


def _images(generator: torch.Generator, tasks: int, each: int, ways: int = 5) -> kshot.Batch:
    """Noise will do: the time does not depend on the values."""
    y = torch.arange(ways).repeat(tasks, each)
    return kshot.Batch(torch.rand(tasks, ways * each, 1, 28, 28, generator=generator), y, ways)


def names(w: Workload) -> list[str]:
    ways = ("loop", *(f"chunks of {size}" for size in CHUNKS if 2 * size <= len(w.tasks)), "vmap", "auto")
    return [
        *w.peers,
        *["jax"] * (w.jax is not None and find_spec("jax") is not None),
        *(f"kshot {way}" for way in (*ways, *["compiled"] * w.compile, *["auto, bf16"] * w.bf16)),
    ]


def contender(w: Workload, name: str) -> Contender:
    """With its own Adam: the peers with torch's default, kshot with that of its fit."""
    if name == "jax":
        return _in_jax(w)
    if name.startswith("kshot "):
        return _of_kshot(w, name.removeprefix("kshot "))
    model, parameters = w.model, list(w.model.parameters())
    run = partial(w.peers[name], model, w.inner(model), w.loss, _examples(w.tasks), w.lr, w.steps)

    def backward() -> None:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no second derivative, and none of them knows
            run()

    return _in_torch(parameters, backward, torch.optim.Adam(parameters, lr=1e-4), {})


def _in_torch(
    parameters: list[nn.Parameter],
    backward: Callable[[], object],
    optimizer: torch.optim.Optimizer,
    facts: dict[str, Any],
) -> Contender:
    """backward adds the meta-gradient to .grad."""

    def step() -> None:
        optimizer.zero_grad()
        backward()
        optimizer.step()

    def gradient() -> Tensor:
        optimizer.zero_grad()
        backward()
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])

    return Contender(step, gradient, facts)


def _of_kshot(w: Workload, name: str) -> Contender:
    learner = w.learner(w.model)
    learner.train()
    parameters, facts = list(learner.parameters()), {}
    casts = torch.autocast("cpu", torch.bfloat16, enabled="bf16" in name, cache_enabled=False)
    way: Any = int(name.split()[-1]) if "chunks" in name else name if name in ("loop", "vmap") else "auto"
    if way == "auto":
        first = w.learner(deepcopy(w.model))  # torch and its libraries do much once; that is not the choice's
        meta_backward(first, w.tasks, choose(first, w.tasks, "loop"))
    start = time.perf_counter()
    with casts:
        chosen = choose(learner, w.tasks, way)
    if way == "auto":
        facts = {"way": chosen, "choice seconds": time.perf_counter() - start}
    step = None
    if name == "compiled":
        start = time.perf_counter()
        chosen = to_compile(learner, w.tasks, chosen)
        step = compiled(learner, w.tasks, chosen)
        facts = {"way": chosen, "compilation": round(time.perf_counter() - start, 1)}

    def backward() -> None:
        with casts:
            meta_backward(learner, w.tasks, chosen, step=step)

    return _in_torch(parameters, backward, OPTIMIZERS["adam"](parameters, lr=1e-4), facts)


def _in_jax(w: Workload) -> Contender:
    from peers_jax import JaxMAML, cross_entropy, mlp, mse, strided_conv4

    network, loss = (mlp, mse) if w.loss is mse_loss else (strided_conv4, cross_entropy)
    s, q = w.tasks.support, w.tasks.query
    tasks = [t.numpy() for t in (s.x, s.y, q.x, q.y)]
    start = [p.detach().numpy() for p in w.model.parameters()]
    maml = JaxMAML(network, loss, start, tasks, w.lr, w.steps, together=network is mlp, **(w.jax or {}))
    began = time.perf_counter()
    maml.step()
    maml.wait()
    facts = {"compilation": round(time.perf_counter() - began, 1)}
    gradient = lambda: torch.cat([torch.tensor(np.asarray(g)).flatten() for g in maml.gradient()])  # noqa: E731
    maml.restart(start)
    return Contender(maml.step, gradient, facts, maml.wait)


def _examples(tasks: kshot.Task) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    s, q = tasks.support, tasks.query
    return [(s.x[i], s.y[i], q.x[i], q.y[i]) for i in range(len(tasks))]


class Apart:
    """A contender in a process of its own."""

    def __init__(self, row: int, name: str, seed: int, threads: int) -> None:
        self._pipe, there = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(there, row, name, seed, threads)
        )
        self._process.start()
        there.close()
        self.facts, gradient = self._pipe.recv()
        self.gradient = torch.tensor(gradient)

    def turn(self, times: int) -> float:
        self._pipe.send(times)
        return float(self._pipe.recv())

    def end(self) -> None:
        self._pipe.send(0)
        self._process.join()


def _serve(pipe: Any, row: int, name: str, seed: int, threads: int) -> None:
    torch.set_num_threads(threads)
    one = contender(next(islice(workloads(seed), row, None)), name)
    pipe.send((one.facts, one.gradient().numpy()))
    while times := pipe.recv():
        pipe.send(one.turn(times))


def deviations(gradients: dict[str, Tensor], tolerance: float = 0.05) -> dict[str, float]:
    """How far each meta-gradient is from plain torch.autograd's, relative to its length; in bf16 it may be."""
    expected = gradients["autograd"]
    found = {name: float((g - expected).norm() / expected.norm()) for name, g in gradients.items()}
    for name, off in found.items():
        free = name == "easyfsl" or "bf16" in name  # its distance is not squared; its roundings are what is to be shown
        if not free and not off <= tolerance:
            raise SystemExit(f"the meta-gradient of {name} is off by {off:.1e}: there is nothing to compare")
    return found


def measure(w: Workload, row: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    everyone = {name: Apart(row, name, options.seed, options.threads) for name in names(w)}
    off = deviations({name: one.gradient for name, one in everyone.items()})
    turns = {}
    for name, one in everyone.items():
        one.turn(1)  # all that is done once is done
        turns[name] = max(1, round(0.1 / one.turn(1)))
    order = list(everyone)
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for repeat in range(options.repeats):
        first = repeat % len(order)
        for name in order[first:] + order[:first]:
            seconds[name].append(everyone[name].turn(turns[name]))
    for one in everyone.values():
        one.end()
    best = min(w.peers, key=lambda name: median(seconds[name]))
    rows = []
    for name, times in seconds.items():
        facts = dict(everyone[name].facts)
        if "choice seconds" in facts:
            facts["choice"] = round(facts.pop("choice seconds") / median(times), 2)
        if "jax" in seconds:
            facts["of jax"] = _ratio(seconds["jax"], times)
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
    parser.add_argument("--repeats", type=int, default=7)
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
        for row, w in enumerate(workloads(options.seed)):
            if not options.only or any(word in f"{w.name} {w.steps}" for word in options.only):
                found = measure(w, row, options)
                show(found)
                rows += found
    settings = {**vars(options), "dtype": "float32", "outer": "Adam", "tasks": "32; ProtoNet 20"}
    print(f"written to {record('meta-step', settings, rows).name}")


if __name__ == "__main__":
    main()
