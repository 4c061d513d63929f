"""The policy's objective by algebra, and what it says to a wrong task."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import kshot
from kshot import Batch, InputError
from kshot.learners.policy import log_probability, surrogate
from kshot.models import GaussianPolicy
from kshot.rules import SGD
from tests.conftest import classification, trajectories


def step(mean: float, action: float, advantage: float, acted: float) -> tuple[Tensor, Tensor]:
    """outputs [1, 2] of unit deviation, y [1, 3]."""
    return torch.tensor([[mean, 0.0]], dtype=torch.float64), torch.tensor(
        [[action, advantage, acted]], dtype=torch.float64
    )


def test_the_density_is_torchs() -> None:
    outputs, actions = torch.randn(7, 6).double(), torch.randn(7, 3).double()
    normal = torch.distributions.Normal(outputs[:, :3], outputs[:, 3:].exp())
    torch.testing.assert_close(log_probability(outputs, actions), normal.log_prob(actions).sum(-1))


def test_where_the_asked_policy_acted_the_gradient_is_the_policy_gradient() -> None:
    """ratio = 1: the value is −advantage, and its derivative in the mean −advantage · (action − mean) / σ²."""
    outputs, y = step(0.5, 0.8, 2.0, -(0.3**2) / 2 - math.log(2 * math.pi) / 2)
    outputs.requires_grad_()
    value = surrogate(outputs, y)
    value.backward()
    assert value.item() == pytest.approx(-2.0)
    assert outputs.grad is not None
    assert outputs.grad[0].tolist() == pytest.approx([-2.0 * 0.3, -2.0 * (0.3**2 - 1)])


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain", "moves"),
    [
        (1.1, 2.0, 2.2, True),
        (1.5, 2.0, 2.4, False),  # good, and already more likely: held at 1.2
        (0.5, 2.0, 1.0, True),  # good, and less likely: no bound
        (0.5, -2.0, -1.6, False),  # bad, and already less likely: held at 0.8
        (1.5, -2.0, -3.0, True),  # bad, and more likely: no bound
    ],
)
def test_the_clipped_surrogate(ratio: float, advantage: float, gain: float, moves: bool) -> None:
    said = -(0.3**2) / 2 - math.log(2 * math.pi) / 2
    outputs, y = step(0.5, 0.8, advantage, said - math.log(ratio))
    outputs.requires_grad_()
    value = surrogate(outputs, y, clip=0.2)
    value.backward()
    assert value.item() == pytest.approx(-gain)
    assert outputs.grad is not None
    assert bool(outputs.grad.any()) == moves


def test_one_inner_step_by_hand() -> None:
    """A policy that is one bias: θ' = θ + lr · mean(advantage · (action − θ))."""

    class Bias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Parameter(torch.tensor([0.5]).double())

        def forward(self, x: Tensor) -> Tensor:
            mean = self.mean.expand(len(x), 1)
            return torch.cat([mean, torch.zeros_like(mean)], -1)

    said = [-((a - 0.5) ** 2) / 2 - math.log(2 * math.pi) / 2 for a in (0.8, 0.1)]
    y = torch.tensor([[0.8, 2.0, said[0]], [0.1, -1.0, said[1]]], dtype=torch.float64)
    learner = kshot.PolicyMAML(Bias(), rule=SGD(0.1))
    fitted = learner.adapt(Batch(torch.zeros(2, 1).double(), y))
    assert fitted["mean"].item() == pytest.approx(0.5 + 0.1 * (2.0 * 0.3 + 1.0 * 0.4) / 2)


def test_further_steps_are_those_of_adapt_and_half_as_long_after_the_first() -> None:
    torch.manual_seed(0)
    learner = kshot.PolicyMAML(GaussianPolicy(4, 2, (6,)), rule=SGD(0.1), steps=2).double()
    support = trajectories(shots=8)[0].support
    _, one, two = learner.trajectory(support, 2)
    first = learner.further(learner.unadapted(), support)
    second = learner.further(first, support)
    for name in two:
        torch.testing.assert_close(first[name], one[name])
        torch.testing.assert_close(second[name], (one[name] + two[name]) / 2)


def test_first_order_is_the_gradient_at_the_adapted_policy() -> None:
    torch.manual_seed(0)
    learner = kshot.PolicyMAML(GaussianPolicy(4, 2, (6,)), rule=SGD(0.1), hypergradient="first-order").double()
    task = trajectories(shots=8, queries=8)[0]
    learner.loss(task).backward()
    phi = {name: p.detach().requires_grad_() for name, p in learner.adapt(task.support).items()}
    surrogate(learner.predict(phi, task.query.x), task.query.y, 0.2).backward()
    for name, p in learner.model.named_parameters():
        torch.testing.assert_close(p.grad, phi[name].grad)


def test_a_policy_says_what_it_needs() -> None:
    learner = kshot.PolicyMAML(GaussianPolicy(4, 2)).double()
    with pytest.raises(InputError, match="a policy learns from trajectories and this task has 3 classes"):
        learner.loss(classification()[0])
    support = trajectories()[0].support
    with pytest.raises(InputError, match=r"actions, advantage and log-probability; make the two alike"):
        learner.adapt(Batch(support.x, support.y[:, :3]))
    with pytest.raises(InputError, match=r"build it with observations=3"):
        learner.adapt(Batch(support.x[:, :3], support.y))
    with pytest.raises(InputError, match="clip=0"):
        kshot.PolicyMAML(GaussianPolicy(4, 2), clip=0)
    with pytest.raises(InputError, match="every layer needs at least one unit"):
        GaussianPolicy(4, 0)
    with pytest.raises(InputError, match="positive standard deviation"):
        GaussianPolicy(4, 2, std=-1.0)
