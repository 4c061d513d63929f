"""What a function uses beside its arguments, made arguments.

An objective is a closure: over a body that does not move, a rule's learned rates, the support. A custom derivative can only
hand gradients to what it was given, so whatever floating-point tensor an operation meets that no operation before it made is
one more input; running the function again with others in their places is then a pure function of all it depends on. It draws
the same random numbers again too: another dropout mask would be another function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._C import _functorch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from kshot.types import InputError

T = TypeVar("T")


class Captured:
    """Collects what the functions that it runs use beside their arguments."""

    def __init__(self) -> None:
        self._found: dict[int, Tensor] = {}
        self._made: set[int] = set()
        self._level = _functorch.maybe_current_level() or 0
        self._chance = _random_states()

    def run(self, function: Callable[..., T], *args: Any) -> T:
        self._made |= {id(t) for t in _pytree.tree_leaves(args)}
        with _Watch(self._found, self._made, self._level):
            return function(*args)

    @property
    def tensors(self) -> list[Tensor]:
        return list(self._found.values())

    def again(self, function: Callable[..., T]) -> Callable[..., T]:
        """The function, drawing the random numbers that were drawn since this was made."""
        chance = self._chance
        if all(torch.equal(then, now) for then, now in zip(chance, _random_states(), strict=True)):
            return function

        def run(*args: Any) -> T:
            with torch.random.fork_rng(_gpu()):
                _set_random_states(chance)
                return function(*args)

        return run


def _gpu() -> list[int]:
    """The one at hand, where there is one."""
    begun = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return [torch.cuda.current_device()] if begun else []


def _random_states() -> list[Tensor]:
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, _gpu())]


def _set_random_states(states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)


def replaced(function: Callable[..., T], before: Sequence[Tensor], now: Sequence[Tensor]) -> Callable[..., T]:
    """The function, with the tensors `now` in place of those that it captured."""

    def run(*args: Any) -> T:
        with _Replace({id(b): n for b, n in zip(before, now, strict=True)}):
            return function(*args)

    return run


def together(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same values; under vmap all of them have the axis of tasks, if any has.

    A custom function of which one output has it and another has not would count the gradient of the second once a task.
    """
    nothing = torch.stack([t.flatten()[:0].sum() for t in tensors]).sum()
    return [t + nothing for t in tensors]


class _Watch(TorchFunctionMode):
    def __init__(self, found: dict[int, Tensor], made: set[int], level: int) -> None:
        super().__init__()
        self.found, self.made, self.level = found, made, level

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for t in _pytree.tree_leaves((args, kwargs)):
            if isinstance(t, Tensor) and t.is_floating_point() and self.from_outside(t):
                self.found.setdefault(id(t), t)
        made = _INSTEAD.get(func, func)(*args, **(kwargs or {}))  # with the roundings of _Replace
        # A number may be used again for another tensor, but not that of one from outside, which lives all the while.
        self.made.update(id(t) for t in _pytree.tree_leaves(made) if isinstance(t, Tensor) and id(t) not in self.found)
        return made

    def from_outside(self, t: Tensor) -> bool:
        """What a transform of the function's own has wrapped is not, but may wrap something that is."""
        wraps = _functorch.maybe_get_level(t) > self.level
        while id(t) not in self.made and _functorch.maybe_get_level(t) > self.level:
            t = _functorch.get_unwrapped(t)
        if wraps and id(t) not in self.made and t.requires_grad:
            raise InputError(
                f"an inner objective gives torch.func or torch.vmap a tensor of shape {tuple(t.shape)} to work on which it was "
                "not given itself and which needs a gradient, and that is lost there: let the function that is transformed use "
                "the tensor without being given it, or take hypergradient='unrolled'"
            )
        return not wraps and id(t) not in self.made


class _Replace(TorchFunctionMode):
    def __init__(self, table: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.table = table

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == _ASKS:  # which parameters are trained stays as it was
            return func(*args)
        now = lambda t: self.table.get(id(t), t) if isinstance(t, Tensor) else t  # noqa: E731
        args, kwargs = _pytree.tree_map(now, (args, kwargs or {}))
        return _INSTEAD.get(func, func)(*args, **kwargs)


def _mse_loss(
    x: Tensor, y: Tensor, *_: Any, reduction: str = "mean", weight: Tensor | None = None, **__: Any
) -> Tensor:
    """torch's own has no derivative forward over reverse."""
    squares = (x - y).square() if weight is None else weight * (x - y).square()
    if reduction == "mean":
        return squares.mean() if weight is None else squares.sum() / weight.sum()
    return squares.sum() if reduction == "sum" else squares


def _silu(x: Tensor, inplace: bool = False) -> Tensor:
    """This and the next two: torch's own would need the graph of the gradient, see gradient_and_value."""
    return x * x.sigmoid()


def _mish(x: Tensor, inplace: bool = False) -> Tensor:
    return x * torch.nn.functional.softplus(x).tanh()


def _group_norm(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    each = x.reshape(len(x), groups, -1)
    x = torch.nn.functional.layer_norm(each, each.shape[-1:], eps=eps).reshape(x.shape)
    x = x if weight is None else x * weight.reshape(-1, *[1] * (x.ndim - 2))
    return x if bias is None else x + bias.reshape(-1, *[1] * (x.ndim - 2))


_ASKS = Tensor.requires_grad.__get__  # type: ignore[attr-defined]
_INSTEAD = {
    torch.nn.functional.mse_loss: _mse_loss,
    torch.nn.functional.silu: _silu,
    torch.nn.functional.mish: _mish,
    torch.nn.functional.group_norm: _group_norm,
}
