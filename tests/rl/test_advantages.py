"""Advantages against a slow version in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kshot.rl.advantages import advantages, baseline, sums_to_go


def test_discounted_sums_by_hand() -> None:
    assert sums_to_go(torch.tensor([1.0, 2.0, 4.0]), 0.5).tolist() == [3.0, 4.0, 4.0]


def slow(observations: np.ndarray, rewards: np.ndarray, lengths: list[int], discount: float, smoothing: float) -> list:  # type: ignore[type-arg]
    """One task: a list of each trajectory's advantages, as the papers write them."""
    rows, targets, steps = [], [], 0
    for x, r, n in zip(observations, rewards, lengths, strict=True):
        steps += len(r)
        for t in range(n):
            rows.append([*x[t], *x[t] ** 2, t / 100, (t / 100) ** 2, (t / 100) ** 3, 1.0])
            targets.append(sum(discount ** (k - t) * r[k] for k in range(t, n)))
    features = np.array(rows)
    square = features.T @ features + 1e-5 * steps * np.eye(features.shape[1])
    values = features @ np.linalg.solve(square, features.T @ np.array(targets))
    found, start = [], 0
    for r, n in zip(rewards, lengths, strict=True):
        v = [*values[start : start + n], 0.0]
        start += n
        delta = [r[t] + discount * v[t + 1] - v[t] for t in range(n)]
        found.append([sum((discount * smoothing) ** (k - t) * delta[k] for k in range(t, n)) for t in range(n)])
    flat = np.array([a for trajectory in found for a in trajectory])
    return [[(a - flat.mean()) / (flat.std() + 1e-8) for a in trajectory] for trajectory in found]


@pytest.mark.parametrize(("discount", "smoothing"), [(0.99, 0.97), (0.9, 0.0), (1.0, 1.0)])
def test_they_are_those_of_the_papers(discount: float, smoothing: float) -> None:
    g = torch.Generator().manual_seed(0)
    tasks, count, horizon = 2, 4, 9
    lengths = [[9, 3, 9, 1], [5, 9, 2, 9]]
    x = torch.randn(tasks, count, horizon, 2, generator=g, dtype=torch.float64)
    alive = (torch.arange(horizon) < torch.tensor(lengths).unsqueeze(-1)).double()
    rewards = torch.randn(tasks, count, horizon, generator=g, dtype=torch.float64) * alive
    found = advantages(x, rewards, alive, discount, smoothing)
    for task in range(tasks):
        wanted = slow(x[task].numpy(), rewards[task].numpy(), lengths[task], discount, smoothing)
        for trajectory, n in enumerate(lengths[task]):
            assert found[task, trajectory, :n].tolist() == pytest.approx(wanted[trajectory], rel=1e-6, abs=1e-6)
            assert not found[task, trajectory, n:].any()


def test_the_baseline_finds_what_is_linear_in_its_features() -> None:
    x = torch.randn(1, 50, 3, 1, dtype=torch.float64)
    truth = 2 * x.squeeze(-1) - x.squeeze(-1) ** 2 + 0.3
    torch.testing.assert_close(baseline(x, truth, torch.ones_like(truth)), truth, rtol=0, atol=1e-3)
