"""The ways to differentiate through learning, one a file. By name, or as an object where it has settings:

unrolled           exact, keeps the graph of every step
mixed-mode         exact, keeps the parameters of every step
mixed-mode:K       exact, keeps the parameters of every Kth step, and takes the steps again
checkpoint:K       exact, keeps the parameters of every Kth step and the graph of K steps, and takes the steps again
first-order        as if inner gradients were constants
truncated:K        exact through the last K steps, first-order before them
finite-difference  mixed-mode, with a difference of two gradients for the second derivative
implicit:cg        of the optimum that the steps lead to, by conjugate gradients
implicit:neumann   the same, by a series
evolution          from values of the loss alone
"""

from collections.abc import Callable

from kshot.hypergradients.checkpoint import Checkpoint
from kshot.hypergradients.evolution import Evolution
from kshot.hypergradients.hypergradient import Hypergradient, Objective
from kshot.hypergradients.implicit import Implicit, residuals
from kshot.hypergradients.mixed_mode import FiniteDifference, MixedMode
from kshot.hypergradients.unrolled import FirstOrder, Truncated, Unrolled
from kshot.types import InputError

HYPERGRADIENTS: dict[str, Callable[..., Hypergradient]] = {
    "unrolled": Unrolled,
    "mixed-mode": MixedMode,
    "checkpoint": Checkpoint,
    "first-order": FirstOrder,
    "truncated": Truncated,
    "finite-difference": FiniteDifference,
    "implicit": Implicit,
    "evolution": Evolution,
}
_BY_NAME = (
    "unrolled",
    "mixed-mode",
    "mixed-mode:5",
    "checkpoint:5",
    "first-order",
    "truncated:5",
    "finite-difference",
    "implicit:cg",
    "implicit:neumann",
    "evolution",
)


def hypergradient(given: str | Hypergradient) -> Hypergradient:
    """'truncated:5' -> Truncated(5)."""
    if isinstance(given, Hypergradient):
        return given
    if isinstance(given, str):
        name, _, setting = given.partition(":")
        needs, may = name in ("implicit", "checkpoint", "truncated"), name == "mixed-mode"
        if name in HYPERGRADIENTS and (needs == bool(setting) or may):
            if not setting:
                return HYPERGRADIENTS[name]()
            return HYPERGRADIENTS[name](int(setting) if setting.lstrip("-").isdecimal() else setting)
    raise InputError(f"hypergradient={given!r} is not known: choose one of {', '.join(_BY_NAME)}")


__all__ = [
    "HYPERGRADIENTS",
    "Checkpoint",
    "Evolution",
    "FiniteDifference",
    "FirstOrder",
    "Hypergradient",
    "Implicit",
    "MixedMode",
    "Objective",
    "Truncated",
    "Unrolled",
    "hypergradient",
    "residuals",
]
