"""Results that can be checked later: what was measured, on what machine, with which versions, by which command."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

import kshot
from kshot import atomic

RESULTS = Path(__file__).resolve().parents[1] / "results"
PEERS = ("torchopt", "higher", "easyfsl", "jax", "numpy")


def record(name: str, settings: dict[str, Any], rows: Sequence[dict[str, Any]], **facts: Any) -> Path:
    """Write results/{name}.json whole or not at all; `facts` are further entries, such as passed=True."""
    content = {
        "name": name,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "versions": versions(),
        "machine": machine(),
        "settings": settings,
        **facts,
        "rows": list(rows),
    }
    path = RESULTS / f"{name}.json"
    atomic.write(path, json.dumps(content, indent=1) + "\n")
    return path


def versions() -> dict[str, str]:
    """kshot's, Python's, and those of torch and the peers that are installed."""
    found = {d.name.lower(): d.version for d in distributions()}
    known = {"kshot": kshot.__version__, "python": platform.python_version(), "torch": torch.__version__}
    return known | {peer: found[peer] for peer in PEERS if peer in found}


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.machine())
