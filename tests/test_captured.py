"""What an objective uses beside its arguments is found exactly, however it is used, and gets its gradient in every exact way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kshot
from kshot import InputError
from kshot.functional import Params
from kshot.hypergradients.captured import Captured
from kshot.rules import SGD

D = torch.float64
_g = torch.Generator().manual_seed(0)
X, Y = torch.randn(3, 6, 4, generator=_g, dtype=D), torch.randn(3, 6, 1, generator=_g, dtype=D)
ROW = torch.randn(4, generator=_g, dtype=D).requires_grad_()
SQUARE = torch.randn(4, 4, generator=_g, dtype=D).requires_grad_()
ONE = torch.tensor(0.3, dtype=D).requires_grad_()
NET = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()
OUTSIDE = {"row": ROW, "square": SQUARE, "one": ONE, **dict(NET.named_parameters())}


class Cube(torch.autograd.Function):
    """No torch function mode sees what comes out of it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        return 3 * ctx.saved_tensors[0] ** 2 * g

    @staticmethod
    def jvp(ctx, t):  # type: ignore[no-untyped-def]
        return 3 * ctx.saved_tensors[0] ** 2 * t


def error(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (x @ w - y).square().mean()


def temporaries(w: Tensor, x: Tensor, y: Tensor, step: int) -> Tensor:
    """Many tensors that die, so that their numbers are used again."""
    total = error(w, x, y)
    for i in range(25):
        a = (torch.ones(4, dtype=D) * i).sin()
        b = a @ w
        total = total + 1e-3 * b.square().sum() * ROW[i % 4]
        del a, b
    return total


def factories(w: Tensor, x: Tensor, y: Tensor, step: int) -> Tensor:
    a = torch.full((4,), 0.1, dtype=D) + torch.tensor([1.0, 2, 3, 4], dtype=D) + torch.arange(4, dtype=D)
    a = (
        a
        + torch.as_tensor(np.ones(4))
        + torch.from_numpy(np.ones(4))
        + torch.eye(4, dtype=D)[0]
        + torch.empty(4).zero_()
    )
    buffer = torch.empty(4, dtype=D)
    torch.add(a, 1.0, out=buffer)
    return error(w, x, y) + 1e-3 * ((buffer * ROW) @ w).square().sum()


def random(w: Tensor, x: Tensor, y: Tensor, step: int) -> Tensor:
    noise = torch.randn(4, dtype=D) + torch.rand(4, dtype=D)
    return error(w, F.dropout(x + 0.1 * torch.randn_like(x), 0.3), y) + ((noise * ROW) @ w).square().sum()


def in_place(w: Tensor, x: Tensor, y: Tensor, step: int) -> Tensor:
    a = ROW * 0
    a.add_(ROW).mul_(2.0)
    h = (x * a) @ w * ONE
    h[0] = h[0] * 2
    h += 1
    return (h - y).square().mean()


def indexing(w: Tensor, x: Tensor, y: Tensor, step: int) -> Tensor:
    first, *_, last = SQUARE.unbind()
    rows = SQUARE[0] + SQUARE[torch.tensor([1, 2])].sum(0) + first * last + sum(row for row in SQUARE)
    return error(w, x[1:4], y[1:4]) * ROW[step % 4].exp() + (rows @ w).square().sum()


def attributes(w: Tensor, x: Tensor, y: Tensor, step: int) -> Tensor:
    fixed = error(w, x, y) * ROW.data.square().sum() + (ROW.detach() @ w).square().sum()
    return fixed + (SQUARE.T @ w).square().sum() + (SQUARE.mT @ w).square().sum() * ROW.real.sum()


def modules(w: Tensor, x: Tensor, y: Tensor, step: int) -> Tensor:
    return (x @ w - NET(x)).square().mean()


def twice_and_in_lists(w: Tensor, x: Tensor, y: Tensor, step: int) -> Tensor:
    several = torch.cat([ROW, ROW, SQUARE[0]]).square().sum() + torch.block_diag(SQUARE, SQUARE).sum()
    return error(w, x, y) + (ROW * ROW @ w).square().sum() + several * w.square().sum() + torch.einsum("i,ij->", ROW, w)


def keywords(w: Tensor, x: Tensor, y: Tensor, step: int) -> Tensor:
    h = F.linear(input=x, weight=w.T, bias=ONE.reshape(1))
    return (
        F.mse_loss(input=h, target=y) + torch.addmm(input=SQUARE, mat1=SQUARE, mat2=SQUARE, beta=0.1).sum() * w.mean()
    )


def operators(w: Tensor, x: Tensor, y: Tensor, step: int) -> Tensor:
    return (
        error(w, x, y) + ((2.0 * ROW - 1.0 / (ROW.square() + 1) + (-ROW) ** 2 + (3.0 - ROW)) @ w).square().sum() * 0.1
    )


def kinds(w: Tensor, x: Tensor, y: Tensor, step: int) -> Tensor:
    return error(w, x, y) * ROW.float().double().exp().sum() + (ONE.expand(4) @ w).square().sum()


def without_gradient(w: Tensor, x: Tensor, y: Tensor, step: int) -> Tensor:
    with torch.no_grad():
        k = ROW.sum() * SQUARE.sum()
    return error(w, x, y) * (k.square() * 0.01 + 1) * ROW[1].exp()


def functions_of_the_users(w: Tensor, x: Tensor, y: Tensor, step: int) -> Tensor:
    return (Cube.apply(x @ w) * ROW[0] - y).square().mean() + (
        Cube.apply(0.3 * SQUARE[0]) @ Cube.apply(w)
    ).square().sum()


def transforms(w: Tensor, x: Tensor, y: Tensor, step: int) -> Tensor:
    slope = torch.func.grad(lambda v: error(v, x, y) * ROW[0])(w)
    return slope.square().sum() + torch.vmap(lambda r, v: (r * ROW) @ v, in_dims=(0, None))(x, w).square().mean()


OBJECTIVES: dict[Callable[..., Tensor], set[str]] = {
    temporaries: {"row"},
    factories: {"row"},
    random: {"row"},
    in_place: {"row", "one"},
    indexing: {"row", "square"},
    attributes: {"row", "square"},
    modules: set(dict(NET.named_parameters())),
    twice_and_in_lists: {"row", "square"},
    keywords: {"square", "one"},
    operators: {"row"},
    kinds: {"row", "one"},
    without_gradient: {"row", "square"},
    functions_of_the_users: {"row", "square"},
    transforms: {"row"},
}


def gradient(objective: Callable[..., Tensor], how: str, way: str) -> list[Tensor]:
    start = {"w": torch.linspace(-0.2, 0.3, 4, dtype=D).reshape(4, 1).requires_grad_()}

    def judged(x: Tensor, y: Tensor) -> Tensor:
        fitted = kshot.unroll(lambda p, step: objective(p["w"], x, y, step), start, SGD(0.02), 4, how)
        return error(fitted["w"], x, y)

    torch.manual_seed(3)
    if way == "vmap":
        value = torch.vmap(judged, randomness="different")(X, Y).mean()
    else:
        value = torch.stack([judged(x, y) for x, y in zip(X, Y, strict=True)]).mean()
    return list(torch.autograd.grad(value, [start["w"], *OUTSIDE.values()], allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("way", ["loop", "vmap"])
def test_whatever_an_objective_uses_gets_its_gradient(objective: Callable[..., Tensor], way: str) -> None:
    wanted = gradient(objective, "unrolled", way)
    near = 1e-6 if objective is kinds else 1e-9  # a part of it is float32
    for how in ("mixed-mode", "mixed-mode:3", "checkpoint:1", "checkpoint:3"):
        for a, b in zip(gradient(objective, how, way), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=near, atol=1e-11, msg=lambda m, h=how: f"{h}: {m}")


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda f: f.__name__)
def test_what_is_found_is_what_is_used(objective: Callable[..., Tensor]) -> None:
    w = torch.ones(4, 1, dtype=D)
    for _ in range(3):
        seen = Captured()
        with torch.no_grad():
            torch.func.vjp(lambda w, seen=seen: seen.run(objective, w, X[0], Y[0], 0), w)
        asked = {id(t) for t in seen.tensors if t.requires_grad}
        assert asked == {id(OUTSIDE[name]) for name in OBJECTIVES[objective]}


def test_random_numbers_go_on_as_if_no_step_had_been_taken_again() -> None:
    after = []
    for how in ("unrolled", "mixed-mode", "mixed-mode:2", "checkpoint:3", "finite-difference"):
        gradient(random, how, "loop")
        after.append(float(torch.rand(())))
    assert len(set(after)) == 1


def test_what_would_lose_its_gradient_is_refused() -> None:
    """An argument of a transform is another tensor inside it."""

    def handed_over(w: Tensor, x: Tensor, y: Tensor, step: int) -> Tensor:
        return error(w, x, y) + torch.vmap(lambda row: row @ w)(SQUARE).square().sum()

    for how in ("mixed-mode", "checkpoint:2"):
        with pytest.raises(InputError, match="without being given it"):
            gradient(handed_over, how, "loop")


def test_a_step_that_is_differentiated_twice() -> None:
    """The meta-gradient's own graph, on request."""

    def curvature(how: str) -> Tensor:
        start = {"w": torch.full((4, 1), 0.2, dtype=D, requires_grad=True)}

        def objective(params: Params, step: int) -> Tensor:
            return error(params["w"].tanh() * ONE, X[0], Y[0])

        value = error(kshot.unroll(objective, start, SGD(0.1), 3, how)["w"], X[0], Y[0])
        (slope,) = torch.autograd.grad(value, ONE, create_graph=True)
        (second,) = torch.autograd.grad(slope, ONE)
        return second

    for how in ("mixed-mode", "mixed-mode:2", "checkpoint:2"):
        torch.testing.assert_close(curvature(how), curvature("unrolled"), rtol=1e-9, atol=1e-11)
