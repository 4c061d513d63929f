"""The same meta-learners in the libraries that people use today, each in its own idiom, without any of kshot's code.

A function here is a `Peer`: for a list of tasks it adds the meta-gradient of the mean query loss to `.grad` of the
model's parameters. The inner loop is gradient descent on `inner`: the model itself (MAML) or a part of it, such as its
head (ANIL).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import higher
import torch
import torchopt
from torch import Tensor, nn
from torch.func import functional_call

Loss = Callable[[Tensor, Tensor], Tensor]
# TorchOpt corrects Adam's bias in float32, whatever it trains in: the powers of these two are exact there.
BETAS = (0.5, 0.75)
# The inner rules that a peer has, by kshot's names, each with the defaults of torch.optim.
TORCHOPT_RULES: dict[str, Callable[..., Any]] = {
    "sgd": torchopt.MetaSGD,
    "momentum": partial(torchopt.MetaSGD, momentum=0.9),
    "adam": partial(torchopt.MetaAdam, betas=BETAS),
    "adamw": partial(torchopt.MetaAdamW, betas=BETAS),
    "rmsprop": torchopt.MetaRMSProp,
}
HIGHER_RULES: dict[str, Callable[..., Any]] = {
    "sgd": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "rmsprop": torch.optim.RMSprop,
}
Examples = tuple[Tensor, Tensor, Tensor, Tensor]  # support x, support y, query x, query y of one task
Peer = Callable[..., None]


def with_torchopt(
    model: nn.Module,
    inner: nn.Module,
    loss: Loss,
    tasks: Sequence[Examples],
    lr: float,
    steps: int,
    *,
    rule: str = "sgd",
) -> None:
    """MetaSGD moves the module's own parameters; the state that was extracted before is recovered after each task."""
    optimizer = TORCHOPT_RULES[rule](inner, lr=lr)
    start = torchopt.extract_state_dict(model, by="reference", detach_buffers=True)
    start_of_optimizer = torchopt.extract_state_dict(optimizer, by="reference")
    losses = []
    for support_x, support_y, query_x, query_y in tasks:
        for _ in range(steps):
            optimizer.step(loss(model(support_x), support_y))
        losses.append(loss(model(query_x), query_y))
        torchopt.recover_state_dict(model, start)
        torchopt.recover_state_dict(optimizer, start_of_optimizer)
    torch.stack(losses).mean().backward()


def with_torchopt_first_order(
    model: nn.Module, inner: nn.Module, loss: Loss, tasks: Sequence[Examples], lr: float, steps: int
) -> None:
    """stop_gradient cuts each updated parameter from its past, so the query's gradient ends at the adapted values."""
    optimizer = torchopt.MetaSGD(inner, lr=lr)
    start = torchopt.extract_state_dict(model, by="reference", detach_buffers=True)
    start_of_optimizer = torchopt.extract_state_dict(optimizer, by="reference")
    owners = list(model.parameters())
    for support_x, support_y, query_x, query_y in tasks:
        for _ in range(steps):
            optimizer.step(loss(model(support_x), support_y))
            torchopt.stop_gradient(model)
        containers = torchopt.extract_state_dict(model).params
        adapted = [p for container in containers for p in container.values() if p is not None]
        _add(owners, torch.autograd.grad(loss(model(query_x), query_y), adapted), len(tasks))
        torchopt.recover_state_dict(model, start)
        torchopt.recover_state_dict(optimizer, start_of_optimizer)


def with_higher(
    model: nn.Module,
    inner: nn.Module,
    loss: Loss,
    tasks: Sequence[Examples],
    lr: float,
    steps: int,
    *,
    rule: str = "sgd",
) -> None:
    """innerloop_ctx on the model's own initial weights, so that backward ends in them."""
    optimizer = HIGHER_RULES[rule](inner.parameters(), lr=lr)
    for support_x, support_y, query_x, query_y in tasks:
        with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (fast, descent):
            for _ in range(steps):
                descent.step(loss(fast(support_x), support_y))
            (loss(fast(query_x), query_y) / len(tasks)).backward()


def with_higher_learned_rates(
    model: nn.Module, loss: Loss, tasks: Sequence[Examples], rates: Sequence[Tensor], steps: int
) -> None:
    """A learning rate for each tensor, learned: higher takes one for each group of parameters."""
    optimizer = torch.optim.SGD([{"params": [p]} for p in model.parameters()], lr=1.0)
    for support_x, support_y, query_x, query_y in tasks:
        with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False, override={"lr": list(rates)}) as (
            fast,
            descent,
        ):
            for _ in range(steps):
                descent.step(loss(fast(support_x), support_y))
            (loss(fast(query_x), query_y) / len(tasks)).backward()


def with_higher_first_order(
    model: nn.Module, inner: nn.Module, loss: Loss, tasks: Sequence[Examples], lr: float, steps: int
) -> None:
    """Without higher gradients the fast weights are leaves: the query's gradient at them is the first-order one."""
    optimizer = torch.optim.SGD(inner.parameters(), lr=lr)
    for support_x, support_y, query_x, query_y in tasks:
        with higher.innerloop_ctx(model, optimizer, track_higher_grads=False) as (fast, descent):
            for _ in range(steps):
                descent.step(loss(fast(support_x), support_y))
            grads = torch.autograd.grad(loss(fast(query_x), query_y), list(fast.parameters()))
        _add(list(model.parameters()), grads, len(tasks))


def with_autograd(
    model: nn.Module,
    inner: nn.Module,
    loss: Loss,
    tasks: Sequence[Examples],
    lr: float,
    steps: int,
    *,
    first_order: bool = False,
) -> None:
    """No library: the loop that one would write by hand with torch.autograd."""
    start = dict(model.named_parameters())
    moving = {id(p) for p in inner.parameters()}
    names = [name for name, p in start.items() if id(p) in moving]
    for support_x, support_y, query_x, query_y in tasks:
        fast: dict[str, Tensor] = dict(start)
        for _ in range(steps):
            value = loss(functional_call(model, fast, (support_x,)), support_y)
            grads = torch.autograd.grad(value, [fast[name] for name in names], create_graph=not first_order)
            fast |= {name: fast[name] - lr * g for name, g in zip(names, grads, strict=True)}
        (loss(functional_call(model, fast, (query_x,)), query_y) / len(tasks)).backward()


def with_autograd_reptile(
    model: nn.Module, inner: nn.Module, loss: Loss, tasks: Sequence[Examples], lr: float, steps: int
) -> None:
    """θ − φ, averaged over the tasks: a copy of the model trained by hand, on all examples of a task."""
    start = dict(model.named_parameters())
    for support_x, support_y, query_x, query_y in tasks:
        x, y = torch.cat([support_x, query_x]), torch.cat([support_y, query_y])
        fast = {name: p.detach().requires_grad_() for name, p in start.items()}
        for _ in range(steps):
            value = loss(functional_call(model, fast, (x,)), y)
            grads = torch.autograd.grad(value, list(fast.values()))
            fast = {n: (p - lr * g).detach().requires_grad_() for (n, p), g in zip(fast.items(), grads, strict=True)}
        _add(list(start.values()), [p.detach() - fast[name].detach() for name, p in start.items()], len(tasks))


def with_autograd_prototypes(
    model: nn.Module, inner: nn.Module, loss: Loss, tasks: Sequence[Examples], lr: float, steps: int
) -> None:
    """Means of a class's features, and negative squared distances to them, one episode after the other."""
    for support_x, support_y, query_x, query_y in tasks:
        features = model(support_x)
        means = torch.stack([features[support_y == k].mean(0) for k in range(int(support_y.max()) + 1)])
        (loss(-torch.cdist(model(query_x), means).square(), query_y) / len(tasks)).backward()


def easyfsl_prototypes(
    model: nn.Module, inner: nn.Module, loss: Loss, tasks: Sequence[Examples], lr: float, steps: int
) -> None:
    """easyfsl's class, an episode after the other; its distance is not squared, so its gradient is another."""
    method = easyfsl_method("PrototypicalNetworks")(model)
    for support_x, support_y, query_x, query_y in tasks:
        method.process_support_set(support_x, support_y)
        (loss(method(query_x), query_y) / len(tasks)).backward()


UNROLLED: dict[str, Peer] = {"torchopt": with_torchopt, "higher": with_higher, "autograd": with_autograd}
FIRST_ORDER: dict[str, Peer] = {
    "torchopt": with_torchopt_first_order,
    "higher": with_higher_first_order,
    "autograd": partial(with_autograd, first_order=True),
}


def easyfsl_method(name: str) -> Any:
    """easyfsl's class of this name. easyfsl asks torchvision for the Python of its residual blocks.

    PyPI's torchvision for Linux is built for CUDA: beside a torch for CPUs its compiled operators do not load, and then
    its import fails on two names that nobody calls here. Declaring the names lets it pass.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for missing in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{missing}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
    import easyfsl.methods

    return getattr(easyfsl.methods, name)


def _add(parameters: Sequence[nn.Parameter], grads: Sequence[Tensor], tasks: int) -> None:
    for p, g in zip(parameters, grads, strict=True):
        p.grad = g / tasks if p.grad is None else p.grad + g / tasks
