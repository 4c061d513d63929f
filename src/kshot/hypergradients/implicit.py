"""The derivative of the optimum, which does not ask how it was reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from kshot.functional import Params, twice_differentiable
from kshot.hypergradients.beneath import Beneath
from kshot.hypergradients.captured import Captured, replaced, together
from kshot.hypergradients.hypergradient import Hypergradient, Objective, constant_gradient
from kshot.rules import Rule
from kshot.types import InputError

Vector = list[Tensor]


@dataclass(frozen=True)
class Implicit(Hypergradient):
    """The steps minimize L(φ) + ½ proximal ‖φ − θ‖², and are taken to end at its optimum; their number costs no memory.

    Rajeswaran, Finn, Kakade, Levine 2019, Meta-Learning with Implicit Gradients (solver 'cg', conjugate gradients);
    Lorraine, Vicol, Duvenaud 2020 (solver 'neumann'). With H the second derivative of L at φ, the vector v that comes from
    the query becomes w = (H + proximal + damping)⁻¹ v; θ gets proximal · w, whatever else L depends on −∂(wᵀ∇L).
    Short of the optimum it is biased. The rule, and what it learns, only serve to get there: they get no gradient.
    iterations, tolerance: the solver stops after so many, or where the rest is so small a share of v.
    damping: makes the system easier to solve, and the answer shorter.
    """

    solver: Literal["cg", "neumann"] = "cg"
    proximal: float = 2.0
    iterations: int = 10
    tolerance: float = 1e-6
    damping: float = 0.0

    learns_rules = False
    every_step = False

    def __post_init__(self) -> None:
        if self.solver not in ("cg", "neumann"):
            raise InputError(f"implicit:{self.solver} is not known: choose 'implicit:cg' or 'implicit:neumann'")
        if not isinstance(self.iterations, int) or self.iterations < 1:
            raise InputError(f"iterations={self.iterations!r}: the solver needs a whole number of at least 1")
        if not self.proximal > 0:
            raise InputError(f"proximal={self.proximal!r}: what ties φ to θ needs a number above 0, such as 2.0")
        for name, value in (("tolerance", self.tolerance), ("damping", self.damping)):
            if not value >= 0:
                raise InputError(f"{name}={value!r}: give a number of at least 0")

    def descend(self, objective: Objective, params: Params, rule: Rule, steps: int) -> Iterator[Params]:
        """All but the last are constants."""

        def tied(now: Params, step: int) -> Tensor:
            apart = torch.stack([(now[name] - p.detach()).square().sum() for name, p in params.items()]).sum()
            return objective(now, step) + self.proximal / 2 * apart

        yield params
        now = {name: p.detach() for name, p in params.items()}
        state = rule.init(now)
        for step in range(steps):
            grads, value = constant_gradient(tied, now, step)
            with torch.no_grad():
                now, state = rule.step(now, grads, rule.observe(state, value))
            if step + 1 < steps or not torch.is_grad_enabled():
                yield now
        if not torch.is_grad_enabled():
            return
        seen, names = Captured(), list(params)
        with torch.no_grad():
            seen.run(lambda *own: objective(dict(zip(names, own, strict=True)), steps - 1), *now.values())
        others, again = seen.tensors, seen.again(objective)

        def pure(own: tuple[Tensor, ...], rest: tuple[Tensor, ...]) -> Tensor:
            return replaced(again, others, rest)(dict(zip(names, own, strict=True)), steps - 1)

        found = _Optimum.apply(self, pure, len(names), *together(list(now.values())), *params.values(), *others)  # type: ignore[no-untyped-call]
        yield dict(zip(names, found, strict=True))

    def solve(self, curvature: Callable[[Vector], Vector], v: Vector) -> tuple[Vector, Tensor]:
        """w with (curvature + proximal + damping) w = v, and how long v − … is, as a share of v."""
        shift = self.proximal + self.damping
        full = lambda x: [h + shift * p for h, p in zip(curvature(x), x, strict=True)]  # noqa: E731
        return (_conjugate if self.solver == "cg" else _neumann)(full, v, 1 / shift, self.iterations, self.tolerance)


_noting: list[list[Tensor]] = []


@contextmanager
def residuals() -> Iterator[list[Tensor]]:
    """Collects what the solver left, as a share of what it was to solve for: a number for each backward pass inside, or [T].

    A compiled step has no such list.
    """
    noted: list[Tensor] = []
    _noting.append(noted)
    try:
        yield noted
    finally:
        _noting.pop()


class _Optimum(torch.autograd.Function):
    """The optimum, as a function of where it started and of all else that its objective depends on."""

    generate_vmap_rule = True

    @staticmethod
    def forward(way: Implicit, pure: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.clone() for t in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.way, ctx.pure, ctx.count = inputs[:3]
        tensors = inputs[3:]
        ctx.save_for_backward(*tensors[: ctx.count], *tensors[2 * ctx.count :])  # the optimum, and what was captured

    @staticmethod
    def backward(ctx: Any, *v: Tensor) -> tuple[Tensor | None, ...]:
        own, rest = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        start = 3 + 2 * ctx.count
        wanted = [i for i in range(len(rest)) if ctx.needs_input_grad[start + i]]

        def gradients(own: tuple[Tensor, ...], chosen: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            full = list(rest)
            for i, t in zip(wanted, chosen, strict=True):
                full[i] = t
            found: tuple[Tensor, ...] = torch.func.grad(lambda own: ctx.pure(own, tuple(full)))(own)
            return found

        with twice_differentiable():
            pull = torch.func.vjp(gradients, own, tuple(rest[i] for i in wanted))[1]
            w, left = ctx.way.solve(lambda x: list(pull(tuple(x))[0]), list(v))
            by_rest = pull(tuple(w))[1]
        for noted in _noting if get_proxy_mode() is None else ():
            noted.append(Beneath().below(left).detach() if Beneath.reachable() else left.detach())
        found: list[Tensor | None] = [None] * (start + len(rest))
        for i, x in enumerate(w):
            found[3 + ctx.count + i] = ctx.way.proximal * x
        for i, g in zip(wanted, by_rest, strict=True):
            found[start + i] = -g
        return tuple(found)


def _dot(a: Vector, b: Vector) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def _plus(a: Vector, by: Tensor | float, b: Vector) -> Vector:
    return [x + by * y for x, y in zip(a, b, strict=True)]


def _conjugate(
    system: Callable[[Vector], Vector], v: Vector, _: float, iterations: int, tolerance: float
) -> tuple[Vector, Tensor]:
    w, left, size = [torch.zeros_like(x) for x in v], v, _dot(v, v)
    along, rest = left, size
    for _i in range(iterations):
        open_ = (rest > tolerance**2 * size).to(rest.dtype)  # under vmap each task stops by itself
        image = system(along)
        bend = _dot(along, image)
        stride = open_ * rest / torch.where(bend == 0, 1, bend)
        w, left = _plus(w, stride, along), _plus(left, -stride, image)
        now = _dot(left, left)
        along = _plus(left, open_ * now / torch.where(rest == 0, 1, rest), along)
        rest = now
    return w, (rest / torch.where(size == 0, 1, size)).sqrt()


def _neumann(
    system: Callable[[Vector], Vector], v: Vector, stride: float, iterations: int, tolerance: float
) -> tuple[Vector, Tensor]:
    w, left, size = [torch.zeros_like(x) for x in v], v, _dot(v, v)
    for _i in range(iterations):
        open_ = (_dot(left, left) > tolerance**2 * size).to(size.dtype)
        w = _plus(w, stride * open_, left)
        left = _plus(left, -stride * open_, system(left))
    return w, (_dot(left, left) / torch.where(size == 0, 1, size)).sqrt()
