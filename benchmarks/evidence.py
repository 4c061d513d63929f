"""Results that can be checked later: what was measured, on what machine, with which versions, by which command."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kshot import atomic
from kshot.machine import machine, versions

RESULTS = Path(__file__).resolve().parents[1] / "results"


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
    atomic.write(path, json.dumps(atomic.finite(content), indent=1) + "\n")
    return path
