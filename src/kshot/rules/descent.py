"""What the rules of torch.optim share here: numbers that the meta-gradient may train, clipping, weight decay."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from kshot.functional import Params
from kshot.rules.rule import Rule, kept, key
from kshot.types import InputError

Grain = Literal["one", "tensor", "parameter", "step", "tensor-step"]
Learn = Grain | Mapping[str, Grain] | None


class Domain(NamedTuple):
    """Where a number may lie; `stored` is what is trained, so that no step of an outer optimizer can leave the domain."""

    words: str
    holds: Callable[[float], bool]
    stored: Callable[[float], float]
    value: Callable[[Tensor], Tensor]
    learnable: str = ""  # what a number must be besides, to be learned


FREE = Domain("a finite number of at least 0", lambda v: 0 <= v < math.inf, lambda v: v, lambda t: t)
SHARE = Domain(
    "at least 0 and below 1",
    lambda v: 0 <= v < 1,
    lambda v: math.log(v / (1 - v)) if v else -math.inf,
    torch.sigmoid,
    "above 0",
)
POSITIVE = Domain("a positive finite number", lambda v: 0 < v < math.inf, math.log, torch.exp)


class Descent(Rule, ABC):
    """A rule with numbers, such as lr, any of which the meta-gradient can train from its given value on.

    learn: how finely: a grain for lr, or one for each number, {'lr': 'tensor', 'momentum': 'one'}:
      'one'         one number
      'tensor'      one for each tensor
      'parameter'   one for each single weight
      'step'        one for each inner step; steps past the last use the last
      'tensor-step' one for each tensor and step
    clip: the largest norm of the inner gradient, over all tensors together; None does not clip.
    """

    NUMBERS: ClassVar[dict[str, Domain]]

    def __init__(self, *, learn: Learn, clip: float | None, **numbers: float) -> None:
        super().__init__()
        title = type(self).__name__
        self.learn, self.clip = learn, clip
        if learn is not None and not isinstance(learn, str | Mapping):
            raise InputError(
                f"{title} has learn={learn!r}: give a grain, such as 'tensor', or a table {{'lr': 'tensor'}}"
            )
        self._grains: Mapping[str, Grain] = {"lr": learn} if isinstance(learn, str) else dict(learn or {})
        self._numbers = numbers if clip is None else {**numbers, "clip": clip}
        for name, value in self._numbers.items():
            domain = self._domain(name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not domain.holds(value):
                raise InputError(f"{title} has {name}={value!r}: it must be {domain.words}")
            setattr(self, name, value)
        for name, grain in self._grains.items():
            if name not in self._numbers:
                raise InputError(
                    f"{title} cannot learn {name!r}: its numbers are {', '.join(self._numbers)}, give learn={{name: grain}}"
                )
            known = ("one", "step") if name == "clip" else get_args(Grain)  # clip is one norm over all tensors
            if grain not in known:
                raise InputError(f"learn={grain!r} is not known: choose {', '.join(map(repr, known))} or None")
            if not math.isfinite(self._domain(name).stored(self._numbers[name])):
                raise InputError(
                    f"{title} has {name}={self._numbers[name]!r} to learn from: start it {self._domain(name).learnable}"
                )
        self.learned = nn.ModuleDict()

    def prepare(self, params: Params, steps: int) -> None:
        some = next(iter(params.values()))
        for number, grain in self._grains.items():
            start = self._domain(number).stored(self._numbers[number])
            if grain in ("one", "step"):
                shapes: dict[str, tuple[int, ...]] = {"all": (steps,) if grain == "step" else ()}
            elif grain == "parameter":
                shapes = {key(name): tuple(p.shape) for name, p in params.items()}
            else:
                shapes = {key(name): (steps,) if grain == "tensor-step" else () for name in params}
            made = {at: torch.full(shape, start, dtype=some.dtype, device=some.device) for at, shape in shapes.items()}
            before = self.learned[number] if number in self.learned else None  # noqa: SIM401
            self.learned[number] = kept(self, before, made)  # type: ignore[arg-type]

    def number(self, number: str, name: str, step: int) -> Tensor | float:
        """The number for the tensor `name` at this step: learned, or as given."""
        grain = self._grains.get(number)
        if grain is None:
            return self._numbers[number]
        if number not in self.learned:
            raise InputError(
                f"{type(self).__name__}(learn={self.learn!r}) does not know the parameters yet: call "
                "rule.prepare(params, steps) first, as every learner does"
            )
        stored: Tensor = self.learned[number]["all" if grain in ("one", "step") else key(name)]  # type: ignore[index]
        if grain in ("step", "tensor-step"):
            stored = stored[min(step, len(stored) - 1)]
        return self._domain(number).value(stored)

    def clipped(self, grads: Params, step: int) -> Params:
        """Scaled down together where their norm is above `clip`, as torch.nn.utils.clip_grad_norm_ does."""
        if self.clip is None:
            return grads
        norm = root(torch.stack([g.square().sum() for g in grads.values()]).sum())
        scale = (self.number("clip", "", step) / (norm + 1e-6)).clamp(max=1.0)
        return {name: g * scale for name, g in grads.items()}

    def _domain(self, name: str) -> Domain:
        return POSITIVE if name == "clip" else self.NUMBERS[name]


def root(x: Tensor) -> Tensor:
    """√x, with the derivative 0 at 0: there the infinite one would meet a zero, as for a unit that is never active."""
    inside = x > 0
    return torch.where(inside, x, 1.0).sqrt() * inside
