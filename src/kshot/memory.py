"""How much memory a computation takes at its peak, how much there is, and that what is freed stays at hand."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from kshot.types import InputError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_SAID_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@cache
def keep_freed() -> None:
    """What is freed stays with the process, up to a gigabyte: else large tensors go back to the system, and come page by page.

    A setting of glibc for the whole process; left alone where the user's environment has one of its own.
    """
    if any(name in os.environ for name in _SAID_BY_USER):
        return
    with suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(_MMAP_THRESHOLD, 1 << 28) or mallopt(_MMAP_THRESHOLD, 1 << 25):  # what older ones take at most
            mallopt(_TRIM_THRESHOLD, 1 << 30)


def peak_memory(run: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Bytes of tensors that `run` adds at its worst moment to what was there before.

    The same at every call. Counted is what torch allocates: not Python's own objects, nor what a library takes by itself.
    """
    kind = torch.device(device).type
    if kind not in ("cpu", "cuda"):
        raise InputError(f"torch counts no memory on {kind!r} that kshot can read: measure on 'cpu' or 'cuda'")
    collects = gc.isenabled()
    gc.disable()  # what a collection in between frees is not this computation's, and would be taken off its count
    try:
        return _peak_on_gpu(run, torch.device(device)) if kind == "cuda" else _peak_on_cpu(run)
    finally:
        if collects:
            gc.enable()


def _peak_on_gpu(run: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(run: Callable[[], object]) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler writes a line to stderr at each start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        run()
    events = [e for e in watched.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):  # one an allocation, and a negative one as it is freed
        held += event.nbytes()
        most = max(most, held)
    return most


def available_memory(device: torch.device | str = "cpu") -> float:
    """Bytes that are free to take, infinite where nobody says."""
    if torch.device(device).type == "cuda":
        there, _ = torch.cuda.mem_get_info(torch.device(device))
        return there + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    lines = _words("/proc/meminfo")
    free = 1024 * float(lines[lines.index("MemAvailable:") + 1]) if "MemAvailable:" in lines else float("inf")
    # What a container may take; files that it read count as used, and are given up at need.
    limit, used, kinds = (_words(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current", "stat"))
    if not (limit and used) or limit[0] == "max":
        return free
    files = float(kinds[kinds.index("inactive_file") + 1]) if "inactive_file" in kinds else 0.0
    return min(free, float(limit[0]) - float(used[0]) + files)


def in_bytes(count: float | None) -> str:
    """4.1 MB."""
    if count is None:
        return ""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.{0 if count >= 100 * factor else 1}f} {unit}"
    return f"{count:.0f} B"


def _words(file: str) -> list[str]:
    return Path(file).read_text().split() if Path(file).is_file() else []
