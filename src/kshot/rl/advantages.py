"""What an action was worth: generalized advantages over a baseline that is linear in features of observation and time.

Axes: T tasks, E trajectories of each, H steps of each, O numbers observed, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-5  # times the number of steps, so that what it does depends on no size


def advantages(observations: Tensor, rewards: Tensor, alive: Tensor, discount: float, smoothing: float) -> Tensor:
    """Â_t = Σ_k (discount · smoothing)^k δ_{t+k} with δ_t = r_t + discount · V(x_{t+1}) − V(x_t)  [T, E, H].

    Schulman 2016; the baseline V is that of Duan 2016, fitted to each task's own trajectories. Then brought to mean 0 and
    standard deviation 1 over the steps that a task's agent took; 0 after the end. V is 0 after the last step: the features
    know the time, so a horizon is part of the task.
    """
    to_go = sums_to_go(rewards, discount)
    values = baseline(observations, to_go, alive) * alive
    after = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], -1)
    worth = sums_to_go((rewards + discount * after - values) * alive, discount * smoothing)
    taken = alive.sum((1, 2), keepdim=True)
    mean = (worth * alive).sum((1, 2), keepdim=True) / taken
    spread = ((worth - mean).square() * alive).sum((1, 2), keepdim=True).div(taken).sqrt()
    return (worth - mean) / (spread + 1e-8) * alive


def sums_to_go(values: Tensor, discount: float) -> Tensor:
    """Σ_k discount^k values_{t+k} at every t  [..., H]."""
    total, sums = torch.zeros_like(values[..., 0]), []
    for step in reversed(values.unbind(-1)):
        total = step + discount * total
        sums.append(total)
    return torch.stack(sums[::-1], -1)


def baseline(observations: Tensor, to_go: Tensor, alive: Tensor) -> Tensor:
    """The values [T, E, H] that ridge regression on features of the steps taken gives, one regression a task."""
    features = (_features(observations) * alive.unsqueeze(-1)).flatten(1, 2).double()  # [T, E · H, F]
    target = (to_go * alive).flatten(1, 2).unsqueeze(-1).double()
    square = features.mT @ features
    ridge = RIDGE * features.shape[1] * torch.eye(square.shape[-1], dtype=square.dtype, device=square.device)
    weights = torch.linalg.solve(square + ridge, features.mT @ target)
    values: Tensor = (features @ weights).reshape(to_go.shape)
    return values.to(to_go.dtype)


def _features(observations: Tensor) -> Tensor:
    """x, x², t, t², t³, 1, with t the step in hundreds; x clipped to ±10 as in the paper's code  [T, E, H, F]."""
    x = observations.clamp(-10, 10)
    t = torch.arange(x.shape[2], dtype=x.dtype, device=x.device).div(100).expand(x.shape[:3]).unsqueeze(-1)
    return torch.cat([x, x.square(), t, t.square(), t**3, torch.ones_like(t)], -1)
