"""The meta-loss and its gradient as one compiled function.

It is recorded from one run without numbers, below all transforms and below autograd: a flat list of operations on tensors, which
the compiler of torch.compile takes without questions. So any learner and any hypergradient will do, as long as no value of a
tensor decides what happens next.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache, reduce
from threading import Barrier
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.experimental.proxy_tensor import make_fx

from kshot.functional import standing_in
from kshot.learner import MetaLearner
from kshot.types import InputError, Task, first_line

Losses = Callable[[Task], Tensor]  # of some tasks, [T]
Recorded = Callable[..., Sequence[Any]]
Gradient = list[Tensor | None]  # one for each trained parameter


class NotCompiled(RuntimeError):
    """Why a meta-step cannot be compiled."""


@contextmanager
def or_not_compiled() -> Iterator[None]:
    """Whatever a compiler or what it made stumbles over, eager mode may still be able to do."""
    try:
        yield
    except (InputError, NotCompiled):
        raise
    except Exception as error:
        raise NotCompiled(first_line(error)) from error


class Compiled:
    """(learner, tasks) -> (their mean loss, its gradient in the learner's trained parameters).

    size: how many tasks are compiled as one; more are run in pieces, on a CPU side by side.
    """

    def __init__(self, learner: MetaLearner, losses: Losses, tasks: Task, size: int) -> None:
        """Made for as many tasks of this shape."""
        self.size = size
        self._made: dict[int, Recorded] = {}
        for few in {min(size, len(tasks)), len(tasks) % size} - {0}:
            part = tasks[:few]
            recorded = record(learner, losses, part, of=len(tasks))
            self._threads = side_by_side(recorded, tasks, size)
            self._compile(recorded, inputs(learner, part), few)

    def _compile(self, recorded: GraphModule, given: list[Tensor], size: int) -> None:
        """On a GPU one launch for all kernels; on a CPU one call, if torch (2.13: not all of bf16) can; else a call for each."""
        ways = [{"triton.cudagraphs": True}] if given[-1].is_cuda else [{"cpp_wrapper": True}, {"cpp_wrapper": False}]
        threads = {"cpp.threads": 1} if self._threads > 1 else {}
        from torch import _inductor  # takes a second to import

        for way in ways:
            options: dict[str, Any] = {"fallback_random": True, **threads, **way}  # the random numbers of eager mode
            try:  # there is nothing in a recording for the rest of torch.compile to do, or to look after at each call
                with torch.no_grad(), _without_warnings():
                    self._made[size] = _inductor.compile(recorded, list(given), options=options)
                return
            except Exception as error:  # such as that there is no compiler of C++
                reason = error
        raise NotCompiled(first_line(reason)) from reason

    def __call__(self, learner: MetaLearner, tasks: Task) -> tuple[Tensor, Gradient]:
        own = _tensors(learner, tasks)
        if len(tasks) <= self.size:
            loss, *total = self._run([*own, *_leaves(tasks)], len(tasks))
            return loss, total
        parts = [tasks[start : start + self.size] for start in range(0, len(tasks), self.size)]
        threads = self._threads
        if threads == 1:
            loss, *total = self._sum(own, parts)
        else:  # each its share of the pieces, which it adds up itself: the same sum whichever is done first
            shares = _pool(threads).map(self._sum, [own] * threads, [parts[i::threads] for i in range(threads)])
            loss, *total = reduce(_plus, shares)
        return loss, total

    def _sum(self, own: list[Tensor], parts: Sequence[Task]) -> Sequence[Any]:
        return reduce(_plus, (self._run([*own, *_leaves(part)], len(part)) for part in parts))

    def _run(self, tensors: list[Tensor], size: int) -> Sequence[Any]:
        device = tensors[-1].device.type
        casting = torch.is_autocast_enabled(device)  # its casts are recorded
        with torch.no_grad(), torch.autocast(device, enabled=False) if casting else nullcontext():
            return self._made[size](*tensors)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Of the compiler: they are of its insides, and nothing that a user could do. Who asks for its log by TORCH_LOGS has it."""
    log = logging.getLogger("torch._inductor")
    before = log.level
    if before in (logging.NOTSET, logging.WARNING):
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def side_by_side(recorded: GraphModule, tasks: Task, size: int) -> int:
    """How many pieces of so many tasks run at once: one on a GPU, and where they draw random numbers, in turn as eagerly."""
    if tasks.support.x.is_cuda or any(_is_random(node) for node in recorded.graph.nodes):
        return 1
    return min(torch.get_num_threads(), math.ceil(len(tasks) / size))


def _is_random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Each runs with one thread of its own: compiled code holds no lock, and small tasks are better apart than shared."""
    before = torch.get_num_threads()
    found = ThreadPoolExecutor(threads, "kshot-step", initializer=_with_one_thread)
    all_there = Barrier(threads)
    list(found.map(lambda _: all_there.wait(), range(threads)))
    torch.set_num_threads(before)  # torch takes the last one said for all threads that are still to start
    return found


def _with_one_thread() -> None:
    torch.get_num_threads()  # a thread takes the number last said when it is first asked, whatever it was told before
    torch.set_num_threads(1)


def forecast(recorded: GraphModule, learner: MetaLearner, tasks: Task, size: int) -> tuple[float, float]:
    """(seconds to compile, seconds of a step on these tasks then), roughly, from a recording of `size` of them.

    Libraries and large tensors take as long as they did, small operations half, and a call nothing.
    """
    clock, given = _Clock(recorded), inputs(learner, tasks[:size])
    before, threads = torch.get_num_threads(), side_by_side(recorded, tasks, size)
    if threads > 1:
        torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for _ in range(2):  # the first warms up
                clock.seconds = 0.0
                clock.run(*given)
    finally:
        torch.set_num_threads(before)
    pieces = math.ceil(len(tasks) / size)
    return 10 + 12 * (len(recorded.graph.nodes) / 1000) ** 1.5, clock.seconds * math.ceil(pieces / threads)


def wait(t: Tensor) -> None:
    """Until it is there: a GPU works on after a call has returned."""
    if t.is_cuda:
        torch.cuda.synchronize(t.device)


class _Clock(Interpreter):
    """Runs a recording, and adds up what its operations will take when it is compiled."""

    CALL, LARGE = 30e-6, 300e-6  # what a call takes, whatever it does; the time of what is not done in a cache
    seconds = 0.0

    def run_node(self, n: Node) -> Any:
        start = time.perf_counter()
        found = super().run_node(n)
        if isinstance(found, Tensor):
            wait(found)
        took = time.perf_counter() - start
        if any(word in str(n.target) for word in ("convolution", "mm")):
            self.seconds += max(took - self.CALL / 2, self.CALL / 6)
        elif took > self.LARGE:
            self.seconds += took
        else:
            self.seconds += max(took - self.CALL, 0.0) / 2
        return found


def record(learner: MetaLearner, losses: Losses, tasks: Task, of: int = 1) -> GraphModule:
    """(its progress, *the learner's tensors, *the tasks' tensors) -> (losses, summed, over `of`; *their gradient).

    For tasks of this shape, and the learner at this stage.
    """
    names = [name for name, _ in (*learner.named_parameters(), *learner.named_buffers())]
    trained = [name for name, p in learner.named_parameters() if p.requires_grad]

    def step(progress: Tensor, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        held, leaves = dict(zip(names, tensors, strict=False)), tensors[len(names) :]
        at = [held[name].detach().requires_grad_() for name in trained]
        learner._recorded_share = progress
        try:
            with standing_in(learner, held | dict(zip(trained, at, strict=True))), torch.enable_grad():
                value = losses(_task(tasks, leaves)).sum() / of
        finally:
            learner._recorded_share = None
        grads = torch.autograd.grad(value, at, allow_unused=True)
        return value.detach(), *(None if g is None else g.detach() for g in grads)

    recorded = _traced(step, inputs(learner, tasks))
    recorded.graph.eliminate_dead_code()
    recorded.recompile()
    return recorded


def _traced(step: Callable[..., Any], given: list[Tensor]) -> GraphModule:
    # Without numbers is quicker, and cannot do forward derivatives under vmap (torch 2.13).
    for tracing in ("fake", "real"):
        try:
            with torch.random.fork_rng():
                found = make_fx(step, tracing_mode=tracing)(*given)
                return found if tracing == "fake" else make_fx(found, tracing_mode="fake")(*given)
        except InputError:
            raise
        except Exception as error:  # eager mode may still be able to do whatever this is
            reason = error
    raise NotCompiled(first_line(reason)) from reason


class Known(torch.autograd.Function):
    """(value, its gradient in some parameters, these) -> the value, which hands that gradient on."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradient: Gradient, *parameters: Tensor) -> Tensor:
        ctx.gradient = gradient
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *scaled(ctx.gradient, by)


def add_gradient(parameters: Sequence[Tensor], gradient: Gradient) -> None:
    """To .grad, as backward() does: fused optimizers count on its lying in memory as the parameter does, clipping on its own.

    What CUDA graphs return is only theirs, and written again at the next step.
    """
    taken: set[int] = set()
    for p, g in zip(parameters, gradient, strict=True):
        if g is None:
            continue
        alike = g.stride() == p.stride() or (g.is_contiguous() and p.is_contiguous())
        if p.grad is not None:
            p.grad.add_(g)
        elif alike and g.data_ptr() not in taken and not g.is_cuda:
            p.grad = g
            taken.add(g.data_ptr())
        else:
            p.grad = torch.empty_like(p).copy_(g)


def scaled(gradient: Gradient, by: Tensor | float) -> Gradient:
    known = iter(torch._foreach_mul([g for g in gradient if g is not None], by))
    return [None if g is None else next(known) for g in gradient]


def inputs(learner: MetaLearner, tasks: Task) -> list[Tensor]:
    """Of a recording."""
    return [*_tensors(learner, tasks), *_leaves(tasks)]


def _tensors(learner: MetaLearner, tasks: Task) -> list[Tensor]:
    progress = torch.tensor(learner.progress, dtype=torch.float32, device=tasks.support.x.device)
    return [progress, *(t.detach() for t in (*learner.parameters(), *learner.buffers()))]


def _leaves(tasks: Task) -> list[Tensor]:
    return [t for t in leaves_of(tasks) if t is not None]


def leaves_of(tasks: Task) -> tuple[Tensor | None, ...]:
    return tasks.support.x, tasks.support.y, tasks.query.x, tasks.query.y, tasks.classes


def _task(like: Task, leaves: Sequence[Tensor]) -> Task:
    support_x, support_y, query_x, query_y, *classes = leaves
    return Task(replace(like.support, x=support_x, y=support_y), replace(like.query, x=query_x, y=query_y), *classes)


def _plus(a: Sequence[Any], b: Sequence[Any]) -> Sequence[Any]:
    return [y if x is None else x if y is None else x + y for x, y in zip(a, b, strict=True)]
