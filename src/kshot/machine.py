"""Where a number comes from: the versions and the machine that it was measured with."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from kshot.version import __version__

BF16 = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")  # of Intel's and AMD's, and of ARM's
PEERS = ("torchopt", "higher", "easyfsl", "jax", "numpy")


def versions() -> dict[str, str]:
    """kshot's, Python's, and those of torch and the peers that are installed; of a clone also its commit."""
    known = {"kshot": __version__, "python": platform.python_version(), "torch": torch.__version__}
    if commit := _commit():
        known["commit"] = commit
    for peer in PEERS:
        with suppress(PackageNotFoundError):
            known[peer] = version(peer)
    return known


def _commit() -> str:
    """The last one that touched the source, and whether files were changed since; nothing where it is no clone."""
    source = ["git", "-C", str(Path(__file__).parent)]
    try:
        last, changed = (
            subprocess.run([*source, *words, "--", "."], capture_output=True, text=True, timeout=10, check=True).stdout
            for words in (("log", "-1", "--format=%h"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return last.strip() + (" and changes" if last and changed else "")


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu(),
        "instructions": torch.backends.cpu.get_cpu_capability(),  # the name alone does not tell a machine from one half as fast
        "bf16": computes_in_bf16(torch.device("cpu")),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def described(machine: Mapping[str, Any]) -> str:
    """'AMD EPYC with AVX2, 2 cores', and the GPU where there is one."""
    instructions = f" with {machine['instructions']}" if "instructions" in machine else ""  # older files do not say
    gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
    return f"{machine['cpu']}{instructions}, {machine['cores']} cores{gpu}"


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the processor has instructions for bfloat16: one that imitates it takes several times as long as in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return not known or any(known.get(name, False) for name in BF16)  # an older torch does not say


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.machine())
