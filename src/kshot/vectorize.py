"""The only place that batches over tasks: a function of one task becomes one of many, by vmap, a loop, or chunks."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree

from kshot.compiled import Compiled, Known, NotCompiled, add_gradient, leaves_of, or_not_compiled, scaled
from kshot.learner import MetaLearner, check_learner
from kshot.memory import keep_freed
from kshot.types import InputError, Task, check_task, first_line

Way = Literal["vmap", "loop"] | int  # an int is the number of tasks in a chunk
Vectorize = Way | Literal["auto"]

_chosen: WeakKeyDictionary[MetaLearner, dict[Any, Way]] = WeakKeyDictionary()
CHUNKS = (4, 8)
MANY = 16  # compiled steps of one learner
LARGE = 0.005  # seconds of a task
ALONE = 1.15  # a few tasks are that much quicker alone than as a part of all
_MOVES = ("_share", "_recorded_share", "_all_used", "seen", "features")  # what no compiled step depends on
_compiled: WeakKeyDictionary[MetaLearner, dict[Any, Compiled]] = WeakKeyDictionary()


def meta_loss(learner: MetaLearner, tasks: Task, vectorize: Vectorize = "auto", compile: bool = False) -> Tensor:
    """Mean of learner.loss over a leading axis of tasks; its gradient in learner.parameters() is the meta-gradient.

    compile: by torch.compile, once for each shape of tasks; seconds to a minute, for many steps of the same kind.
    """
    way = choose(learner, tasks, vectorize)
    learner.check(tasks)
    if not compile:
        return torch.cat(list(pieces(learner.loss, tasks, way))).mean()
    try:
        value, gradient = compiled(learner, tasks, to_compile(learner, tasks, way, vectorize))(learner, tasks)
    except NotCompiled as reason:
        raise InputError(f"this meta-loss cannot be compiled ({reason}): leave out compile=True") from reason
    trained = [p for p in learner.parameters() if p.requires_grad]
    mean: Tensor = Known.apply(value, gradient, *trained)  # type: ignore[no-untyped-call]
    return mean


def to_compile(learner: MetaLearner, tasks: Task, way: Way, vectorize: Vectorize = "auto") -> Way:
    """How to compile what `way` is the quickest for eagerly: large tasks one by one, which then run side by side on a CPU.

    Each stays in its core's cache, and one compiles in a tenth of the time of many.
    """
    if vectorize != "auto" or way == "loop" or tasks.support.x.is_cuda:
        return way
    kind = ("compiled", shapes(tasks), learner.training)
    known = _chosen.setdefault(learner, {})
    if kind not in known:
        with torch.random.fork_rng(), torch.enable_grad():
            known[kind] = "loop" if _seconds(learner, learner.loss, tasks[:1], "loop") > LARGE else way
    return known[kind]


def compiled(learner: MetaLearner, tasks: Task, way: Way) -> Compiled:
    """The compiled meta-step for tasks like these; when it is made, it is compared with the eager one."""
    device = tasks.support.x.device.type
    casts = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    kind = (way, shapes(tasks), casts, _settings(learner))
    found = _compiled.setdefault(learner, {}).get(kind)
    if found is None:
        if len(_compiled[learner]) >= MANY:
            raise NotCompiled(
                f"{MANY} were compiled already for this learner, for other shapes of tasks or other settings of its modules"
            )
        with or_not_compiled():
            found = Compiled(learner, losses_by(learner, way), tasks, tasks_at_once(tasks, way))
            _check_same(learner, tasks, way, found, tolerance=0.05 if casts is None else 0.3)
        _compiled[learner][kind] = found
    return found


def _settings(learner: MetaLearner) -> tuple[Any, ...]:
    """What a compiled step depends on beside tensors: it is a constant there, and another one is compiled anew."""
    trained = tuple(p.requires_grad for p in learner.parameters())
    attributes = [
        _plain(v)
        for module in learner.modules()
        for name, v in (*vars(module).items(), ("hooks", [*module._forward_pre_hooks, *module._forward_hooks]))
        if name not in _MOVES and (name[0] != "_" or v.__hash__ is not None)
    ]
    return trained, learner.stage, *attributes


def _plain(v: Any) -> Any:
    """A value that is equal when this one is; of what has no such thing, which one it is."""
    if isinstance(v, list | tuple):
        return tuple(map(_plain, v))
    if isinstance(v, dict):
        return tuple((_plain(name), _plain(x)) for name, x in v.items())
    if v.__hash__ is None and is_dataclass(v):
        return type(v), _plain(vars(v))
    return id(v) if v.__hash__ is None else v


def losses_by(learner: MetaLearner, way: Way) -> Callable[[Task], Tensor]:
    """The losses of the tasks of one piece, [T]."""
    return lambda tasks: torch.cat(list(pieces(learner.loss, tasks, "loop" if way == "loop" else "vmap")))


def tasks_at_once(tasks: Task, way: Way) -> int:
    return len(tasks) if way == "vmap" else 1 if way == "loop" else way


def _check_same(learner: MetaLearner, tasks: Task, way: Way, step: Compiled, tolerance: float) -> None:
    """Rounding differs, and many steps make much of it; anything else does not."""
    trained = [p for p in learner.parameters() if p.requires_grad]
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        wanted: list[Tensor | None] = [None] * len(trained)
        for losses in pieces(learner.loss, tasks, way):
            part = torch.autograd.grad(losses.sum() / len(tasks), trained, allow_unused=True)
            wanted = [b if a is None else a if b is None else a + b for a, b in zip(wanted, part, strict=True)]
        torch.manual_seed(0)
        _, found = step(learner, tasks)
    pairs = [(a, b) for a, b in zip(wanted, found, strict=True) if a is not None and b is not None]
    length = sum(float(a.square().sum()) for a, _ in pairs) ** 0.5
    off = sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5
    if [a is None for a in wanted] != [b is None for b in found] or not off <= tolerance * length + 1e-12:
        raise NotCompiled(f"its gradient is off by {off / max(length, 1e-12):.1g} of its length")


def meta_backward(
    learner: MetaLearner, tasks: Task, way: Way, total: int | None = None, step: Compiled | None = None
) -> Tensor:
    """meta_loss(…).backward(), each piece's graph freed before the next is built. `total`: tasks to average over."""
    total = total or len(tasks)
    if step is not None:
        value, gradient = step(learner, tasks)
        if total != len(tasks):  # of several ranks
            value, gradient = value * (len(tasks) / total), scaled(gradient, len(tasks) / total)
        add_gradient([p for p in learner.parameters() if p.requires_grad], gradient)
        return value.cpu()
    value = torch.zeros(())
    for losses in pieces(learner.loss, tasks, way):
        part = losses.sum() / total
        part.backward()
        value = value + part.detach().cpu()
    return value


def pieces(function: Callable[[Task], Any], tasks: Task, way: Way) -> Iterator[Any]:
    """function(task) stacked along a leading axis: the one piece of vmap, one after the other for a loop or chunks."""
    if way == "loop":
        for i in range(len(tasks)):
            yield _pytree.tree_map(lambda t: t.unsqueeze(0), function(tasks[i]))
    else:
        size = len(tasks) if way == "vmap" else way
        for start in range(0, len(tasks), size):
            # The fused attention kernel has no batching rule; 'different': each task draws its own dropout mask.
            with sdpa_kernel(SDPBackend.MATH):
                yield torch.vmap(function, randomness="different")(tasks[start : start + size])


def each_task(function: Callable[..., Any], *stacked: Any) -> Any:
    """function(...) of one task, over a leading axis of tasks that every argument has, at once."""
    with sdpa_kernel(SDPBackend.MATH):
        return torch.vmap(function, randomness="different")(*stacked)


def choose(
    learner: MetaLearner, tasks: Task, vectorize: Vectorize = "auto", function: Callable[[Task], Tensor] | None = None
) -> Way:
    """Check the tasks, and settle 'auto' by measuring the ways, once for each shape of tasks.

    function: what is to be run for each task, the learner's loss if not given; two functions of one name count as the same.
    """
    if vectorize not in ("auto", "vmap", "loop") and not (isinstance(vectorize, int) and vectorize > 0):
        raise InputError(f"vectorize={vectorize!r} is not known: choose 'auto', 'vmap', 'loop' or a chunk size")
    check_learner(learner)
    check_task(tasks, axes=1)
    keep_freed()
    function = learner.loss if function is None else function
    mode = (learner.training, torch.is_grad_enabled(), function.__qualname__)
    kind = (vectorize, shapes(tasks), mode)
    known = _chosen.setdefault(learner, {})
    if kind not in known:
        with torch.random.fork_rng():  # neither trial may shift the run's random numbers
            with torch.no_grad():  # one real task first: a learner cannot look at values inside vmap
                learner.adapt(tasks[0].support)
            known[kind] = _measure(learner, function, tasks) if vectorize == "auto" else vectorize
    return known[kind]


def shapes(tasks: Task) -> tuple[Any, ...]:
    leaves = [None if t is None else (t.shape, t.stride(), t.dtype, t.device) for t in leaves_of(tasks)]
    return tasks.support.ways, tasks.query.ways, *leaves


def _measure(learner: MetaLearner, function: Callable[[Task], Tensor], tasks: Task) -> Way:
    """The quickest a task, of a loop, vmap, and, where these are close, chunks; in less time than five steps take.

    Where all at once is quicker than a few, so it is than chunks between.
    """
    found: dict[Way, float] = {"loop": _seconds(learner, function, tasks[:1], "loop")}
    many = tasks
    try:
        if found["loop"] > LARGE:
            # Tasks differ, and so do large ones in whether vmap is of use: a few show it, for little.
            few = tasks[: CHUNKS[0]]
            looped, together = (_seconds(learner, function, few, way) / len(few) for way in ("loop", "vmap"))
            found["loop"] = ALONE * looped
            if together > 1.5 * found["loop"]:
                return "loop"
            found[len(few)] = ALONE * together
            many = tasks[: max(len(few), len(tasks) // 2)]  # their memory is new to the process, which takes its time
        found["vmap"] = _seconds(learner, function, many, "vmap", hopeless=3 * found["loop"] * len(many)) / len(many)
        close = 1 / 3 < found["vmap"] / found["loop"] < 3 and found["vmap"] > found.get(CHUNKS[0], 0.0)
        for size in CHUNKS if close else ():
            if size not in found and 2 * size <= len(tasks):
                found[size] = ALONE * _seconds(learner, function, tasks[:size], "vmap") / size
    except InputError:
        raise
    except Exception as error:  # whatever vmap cannot do, the loop has just done
        warnings.warn(
            f"vectorize='auto' runs the tasks in a loop, because vmap cannot run this model: {first_line(error)}",
            stacklevel=4,
        )
        return "loop"
    return min(found, key=found.__getitem__)


def _seconds(
    learner: MetaLearner, function: Callable[[Task], Tensor], tasks: Task, way: Way, hopeless: float = float("inf")
) -> float:
    """Of the function, and of its meta-gradient if there is one: the better of two, for the first one warms up.

    One is enough where it is hopeless: it took more seconds than that.
    """
    wanted = [p for p in learner.parameters() if p.requires_grad]
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        value = torch.cat(list(pieces(function, tasks, way))).mean()
        if wanted and value.requires_grad:
            torch.autograd.grad(value, wanted, allow_unused=True)
        if value.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
        if best > hopeless:
            break
    return best
