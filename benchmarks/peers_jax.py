"""MAML by hand in JAX, the other way to have one compiled function for a meta-step: the model is written anew for it.

Parameters are a list of arrays, in the order of the torch model's, whose values they start from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Parameters = list[Any]
Array = np.ndarray[Any, Any]
Network = Callable[[Parameters, Any], Any]
Loss = Callable[[Any, Any], Any]


def mlp(parameters: Parameters, x: Any) -> Any:
    *hidden, last = zip(parameters[::2], parameters[1::2], strict=True)
    for weight, bias in hidden:
        x = jax.nn.relu(x @ weight.T + bias)
    weight, bias = last
    return x @ weight.T + bias


def strided_conv4(parameters: Parameters, x: Any) -> Any:
    """Batch norm by the batch at hand, as kshot's Conv4(down='stride')."""
    *blocks, head, bias = parameters
    for i in range(0, len(blocks), 4):
        weight, shift, scale, offset = blocks[i : i + 4]
        x = lax.conv_general_dilated(x, weight, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NCHW", "OIHW", "NCHW"))
        x = x + shift[:, None, None]
        mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
        x = jax.nn.relu((x - mean) * lax.rsqrt(variance + 1e-5) * scale[:, None, None] + offset[:, None, None])
    return x.reshape(len(x), -1) @ head.T + bias


def mse(predicted: Any, y: Any) -> Any:
    return jnp.square(predicted - y).mean()


def cross_entropy(logits: Any, y: Any) -> Any:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()


class JaxMAML:
    """step(): a meta-gradient, then Adam. `adapted`: how many of the last arrays adapt, 0 is all.

    together=False: a compiled function of one task is called for each. Within vmap, and within lax.map too, the
    convolutions of JAX 0.10 take ten to thirty times as long on a CPU.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        parameters: Sequence[Array],
        tasks: Sequence[Array],
        lr: float,
        steps: int,
        *,
        together: bool = True,
        adapted: int = 0,
        first_order: bool = False,
    ) -> None:
        def of_task(initial: Parameters, task: Sequence[Any]) -> Any:
            support_x, support_y, query_x, query_y = task
            fixed, fast = initial[:-adapted] if adapted else [], initial[-adapted:]
            for _ in range(steps):
                grads = jax.grad(lambda p: loss(network([*fixed, *p], support_x), support_y))(fast)
                if first_order:
                    grads = lax.stop_gradient(grads)
                fast = [p - lr * g for p, g in zip(fast, grads, strict=True)]
            return loss(network([*fixed, *fast], query_x), query_y)

        def gradient(initial: Parameters, tasks: Sequence[Any]) -> Parameters:
            return jax.grad(lambda p: jax.vmap(partial(of_task, p))(tasks).sum() / count)(initial)

        def adam(p: Parameters, m: Parameters, v: Parameters, t: Any, g: Parameters) -> Any:
            m = [0.9 * a + 0.1 * b for a, b in zip(m, g, strict=True)]
            v = [0.999 * a + 0.001 * b * b for a, b in zip(v, g, strict=True)]
            rate = 1e-4 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            return [a - rate * b / (jnp.sqrt(c) + 1e-8) for a, b, c in zip(p, m, v, strict=True)], m, v

        count = len(tasks[0])
        self._pieces = [[jnp.asarray(t[i : i + 1]) for t in tasks] for i in range(count)]
        if together:
            self._pieces = [[jnp.asarray(t) for t in tasks]]
            self._step = jax.jit(lambda p, m, v, t, tasks: adam(p, m, v, t, gradient(p, tasks)))
        self._together, self._gradient, self._adam = together, jax.jit(gradient), jax.jit(adam)
        self.restart(parameters)

    def restart(self, parameters: Sequence[Array]) -> None:
        self.parameters = [jnp.asarray(p) for p in parameters]
        self._m, self._v = ([jnp.zeros_like(p) for p in self.parameters] for _ in range(2))
        self._t = 0.0

    def gradient(self) -> Parameters:
        total, *others = (self._gradient(self.parameters, piece) for piece in self._pieces)
        for other in others:
            total = [a + b for a, b in zip(total, other, strict=True)]
        return total

    def step(self) -> None:
        self._t += 1
        state = (self.parameters, self._m, self._v, self._t)
        found = self._step(*state, self._pieces[0]) if self._together else self._adam(*state, self.gradient())
        self.parameters, self._m, self._v = found

    def wait(self) -> None:
        jax.block_until_ready(self.parameters)
