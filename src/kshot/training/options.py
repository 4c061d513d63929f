"""The settings of a training, checked before it starts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from kshot.settings import suggestion
from kshot.training.compiling import Compile
from kshot.types import InputError
from kshot.vectorize import Vectorize

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
    "sgd": torch.optim.SGD,
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """The settings of a run; see fit."""

    steps: int = 1000
    meta_batch: int = 32
    seed: int = 0
    optimizer: str | MakeOptimizer = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup: int = 0
    clip: float | None = None
    average: float | None = None
    precision: Literal["fp32", "bf16-mixed"] = "fp32"
    vectorize: Vectorize = "auto"
    compile: Compile = "auto"
    validate_every: int | None = None
    validate_episodes: int = 200
    save_every: int | None = None
    log_every: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "meta_batch", "validate_episodes", "validate_every", "save_every", "log_every"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f"{name}={value!r}: training needs a whole number of at least 1")
        for name in ("warmup", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise InputError(f"{name}={value!r}: training needs a whole number of at least 0")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | float) or not 0 < value < math.inf):
                raise InputError(f"{name}={value!r}: give a positive number")
        if not isinstance(self.weight_decay, int | float) or not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay={self.weight_decay!r}: give a number of at least 0")
        if self.average is not None and (not isinstance(self.average, int | float) or not 0 < self.average < 1):
            raise InputError(f"average={self.average!r}: the share of the past in the average, give such as 0.995")
        if not isinstance(self.optimizer, str) and not callable(self.optimizer):
            raise InputError(
                f"optimizer={self.optimizer!r}: give a name or a function of the parameters that makes one, such as 'adam'"
            )
        if isinstance(self.optimizer, str) and self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer {self.optimizer!r} is not known: {suggestion(self.optimizer, OPTIMIZERS)}")
        if self.compile not in (True, False, "auto"):
            raise InputError(f"compile={self.compile!r} is not known: choose true, false or 'auto'")
        for name, known in (("schedule", ("constant", "cosine", "linear")), ("precision", ("fp32", "bf16-mixed"))):
            if getattr(self, name) not in known:
                raise InputError(f"{name} {getattr(self, name)!r} is not known: choose one of {', '.join(known)}")
        if not 0 <= self.warmup < self.steps:
            raise InputError(f"warmup={self.warmup} of steps={self.steps}: it must end before training does")

    def every(self, name: str, parts: int) -> int:
        """A period that was not given cuts the run into so many parts."""
        given: int | None = getattr(self, name)
        return given if given is not None else max(1, self.steps // parts)

    def lr_factor(self, step: int) -> float:
        """The schedule: a function of the step alone, so that nothing needs to be stored."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / (self.steps - self.warmup)
        return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[self.schedule]

    def torch_device(self) -> torch.device:
        if self.device == "auto" and torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        return torch.device("cpu" if self.device in (None, "auto") else str(self.device))

    def make_optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        if not isinstance(self.optimizer, str):
            return self.optimizer(parameters)
        return OPTIMIZERS[self.optimizer](parameters, lr=self.lr, weight_decay=self.weight_decay)

    def to_dict(self) -> dict[str, Any]:
        optimizer = self.optimizer if isinstance(self.optimizer, str) else "custom"
        return {**asdict(self), "optimizer": optimizer}
