"""Learners and runs on disk: one safetensors file each, its settings as JSON in the header. No pickle, no half-written file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from kshot import atomic
from kshot.learner import MetaLearner
from kshot.settings import build, describe
from kshot.types import InputError

FORMAT = 1
KEYS = {"learner", "state", "seen", "features"}  # of the header, beside format
BEST, LAST = "best.safetensors", "last.safetensors"


def save(learner: MetaLearner, path: str | Path) -> None:
    """Everything that `load` needs to rebuild the learner: architecture, settings, weights, the classes it has seen."""
    write(Path(path), learner)


def load(path: str | Path, **given: Any) -> MetaLearner:
    """The learner saved at `path`, a file or a run folder (its best checkpoint, else its last), in eval mode.

    given: arguments that settings cannot hold, such as a model of your own: load(path, model=MyNet()).
    """
    file = find(Path(path))
    header, tensors = read(file)
    settings = header["learner"]
    if "name" not in settings:
        raise InputError(
            f"{file} holds a learner of your own class {next(iter(settings.values()))!r}, which kshot cannot rebuild: "
            "build it as before saving, and use kshot.load_weights(learner, path)"
        )
    learner: MetaLearner = build(settings, "learner", given)
    return _restore(learner, header, tensors, file)


def load_weights(learner: MetaLearner, path: str | Path) -> MetaLearner:
    """Fill a learner that you built yourself with the weights saved at `path`; returns it in eval mode."""
    file = find(Path(path))
    header, tensors = read(file)
    return _restore(learner, header, tensors, file)


def _restore(learner: MetaLearner, header: dict[str, Any], tensors: dict[str, Tensor], file: Path) -> MetaLearner:
    fill(learner, tensors, file)
    for name, p in learner.named_parameters():
        p.requires_grad_(name not in header["frozen"])
    learner.seen, learner.validated = frozenset(header["seen"]), frozenset(header.get("validated", ()))
    learner.features = tuple(header["features"]) if header["features"] is not None else None
    return learner.eval()


def find(path: Path) -> Path:
    """The checkpoint file that `path` means."""
    if path.is_dir():
        for name in (BEST, LAST):
            if (path / name).is_file():
                return path / name
        raise InputError(
            f"{path} holds no trained learner ({BEST} or {LAST}): train one with `kshot train … --out {path}`"
        )
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a saved learner, or the folder of a run")
    return path


def fingerprint(path: Path) -> str:
    """Of the learner that `load` gives: a run that went on has another."""
    return hashlib.blake2b(find(path).read_bytes(), digest_size=12).hexdigest()


def write(path: Path, learner: MetaLearner, state: dict[str, Any] | None = None, **extra: Tensor) -> None:
    """The learner, and for a training state also `state` (JSON) and extra tensors."""
    tensors = {f"learner.{name}": t for name, t in learner.state_dict().items()} | extra
    header = {"format": FORMAT, "learner": describe(learner), "state": state}
    header |= {"seen": sorted(learner.seen), "validated": sorted(learner.validated), "features": learner.features}
    header |= {"frozen": [name for name, p in learner.named_parameters() if not p.requires_grad]}
    copies = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    try:
        text = json.dumps(header)
    except TypeError as error:
        raise InputError(
            f"the learner's settings cannot be written as JSON ({error}): use plain numbers and strings"
        ) from error
    atomic.write(path, safetensors.torch.save(copies, {"kshot": text}))


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(header, tensors) of a file that `write` wrote."""
    try:
        data = path.read_bytes()  # at once: a run that is still training may replace the file at any moment
        tensors = safetensors.torch.load(data)
        size = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + size]).get("__metadata__", {})["kshot"])
        if header["format"] > FORMAT:
            raise InputError(f"{path} was written by a newer kshot (format {header['format']}): pip install -U kshot")
        if missing := KEYS - header.keys():
            raise KeyError(min(missing))
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError, OSError) as error:
        foreign = isinstance(error, KeyError | TypeError)
        kind = "is not a learner saved by kshot" if foreign else "is damaged or not a safetensors file"
        reason = f"its header has no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{path} {kind} ({reason}): use another checkpoint of the run, or train again") from error
    return header, tensors


def fill(learner: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Load the learner.* tensors, each in the dtype that it was saved in."""
    saved = {name.removeprefix("learner."): t for name, t in tensors.items() if name.startswith("learner.")}
    own = learner.state_dict(keep_vars=True)
    missing, surplus = own.keys() - saved.keys(), saved.keys() - own.keys()
    other = [n for n in own.keys() & saved.keys() if own[n].shape != saved[n].shape]
    if missing or surplus or other:
        found = "; ".join(
            f"{what} {', '.join(sorted(names)[:3])}"
            for what, names in (("lacks", missing), ("has besides", surplus), ("has in another shape", other))
            if names
        )
        raise InputError(
            f"{source} does not fit this learner, it {found}: build the learner with the settings of training"
        )
    with torch.no_grad():
        for name, t in own.items():
            if t.dtype != saved[name].dtype:
                t.data = t.data.to(saved[name].dtype)
    learner.load_state_dict(saved)
