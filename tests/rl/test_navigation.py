"""The family's dynamics by hand, and trajectories of a policy in it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import kshot
from kshot import InputError, rl
from kshot.models import GaussianPolicy
from kshot.rl.sampling import collect, rollout
from kshot.rules import SGD


def moved(family: rl.Navigation, goal: list[float], at: list[float], action: list[float]) -> tuple[Tensor, float, bool]:
    goals, state, actions = torch.tensor([goal]), torch.tensor([[at]]), torch.tensor([[action]])
    state, rewards, ended = family.step(goals, state, actions, torch.Generator())
    return state[0, 0], float(rewards), bool(ended)


def test_a_step_by_hand() -> None:
    state, reward, ended = moved(rl.Navigation(), [0.3, 0.5], [0.0, 0.0], [0.05, 0.4])
    torch.testing.assert_close(state, torch.tensor([0.05, 0.1]))  # the second velocity is cut to 0.1
    assert reward == pytest.approx(-math.hypot(0.25, 0.4))
    assert not ended
    assert moved(rl.Navigation(reward="squared"), [0.3, 0.5], [0.0, 0.0], [0.05, 0.4])[1] == pytest.approx(
        -(0.25**2 + 0.4**2)
    )


def test_it_ends_near_the_goal() -> None:
    assert moved(rl.Navigation(), [0.3, 0.1], [0.2, 0.1], [0.095, 0.0])[2]  # 0.005 away
    assert not moved(rl.Navigation(), [0.3, 0.1], [0.2, 0.1], [0.08, 0.0])[2]


def test_goals_fill_the_square_and_depend_on_the_generator() -> None:
    goals = rl.Navigation().draw(1000, kshot.seeded(3))
    assert goals.abs().max() <= 0.5
    assert goals.min() < -0.49
    assert goals.max() > 0.49
    assert torch.equal(goals, rl.Navigation().draw(1000, kshot.seeded(3)))


class Towards:
    """An actor that needs no learning: towards a place, without noise; fitted: places [2]."""

    def unadapted(self) -> Tensor:
        return torch.tensor([[0.35, 0.05], [0.0, 0.0]])

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return fitted - x

    def act(self, outputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return outputs, outputs.sum(-1)


def test_a_trajectory_by_hand() -> None:
    """The first agent arrives at its goal in four steps, the second stands still half a unit from its own."""
    family, goals = rl.Navigation(horizon=6), torch.tensor([[0.35, 0.05], [0.3, 0.4]])
    towards = Towards()
    found = rollout(towards, towards.unadapted(), family, goals, 2, kshot.seeded(0))
    assert found.observations.shape == (2, 2, 6, 2)
    assert found.alive.sum(-1).tolist() == [[4, 4], [6, 6]]
    xs = [0.1, 0.2, 0.3, 0.35]
    wanted = [-math.hypot(0.35 - x, max(0.05 - x, 0)) for x in xs] + [0.0, 0.0]
    torch.testing.assert_close(found.rewards[0, 0], torch.tensor(wanted), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.returns, torch.tensor([[sum(wanted)] * 2, [-3.0] * 2]))


def policy(**choices: object) -> kshot.PolicyMAML:
    torch.manual_seed(0)
    return kshot.PolicyMAML(GaussianPolicy(2, 2, (8,), std=0.1), **{"rule": SGD(0.01), **choices})  # type: ignore[arg-type]


def test_the_generator_decides_everything() -> None:
    learner, family = policy(), rl.Navigation(3, 2, horizon=7)

    def task(seed: int) -> kshot.Task:
        g = kshot.seeded(seed)
        return collect(learner, family, family.draw(4, g), g)

    first, again, other = task(1), task(1), task(2)
    assert first.support.x.shape == (4, 3 * 7, 2)
    assert first.query.y.shape == (4, 2 * 7, 2 + 2)
    for a, b in ((first.support, again.support), (first.query, again.query)):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
    assert not torch.equal(first.support.y, other.support.y)


def test_what_was_recorded_is_what_the_policy_says() -> None:
    """The ratio is 1 for the policy that acted: the unadapted one on the support, the adapted one on the query."""
    from kshot.learners.policy import log_probability

    learner, family = policy(rule=SGD(0.05)), rl.Navigation(3, 2, horizon=7)
    goals = family.draw(2, kshot.seeded(0))
    task = collect(learner, family, goals, kshot.seeded(1))[1]
    for fitted, batch in ((learner.unadapted(), task.support), (learner.adapt(task.support), task.query)):
        said = log_probability(learner.predict(fitted, batch.x), batch.y[:, :2])
        torch.testing.assert_close(said, batch.y[:, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"shots": 0}, "shots=0"),
        ({"horizon": 2.5}, "whole number"),
        ({"discount": 1.5}, "from 0 to 1"),
        ({"smoothing": -0.1}, "from 0 to 1"),
        ({"reward": "sparse"}, "'distance' or 'squared'"),
    ],
)
def test_bad_settings_end_in_a_sentence(choices: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        rl.Navigation(**choices)  # type: ignore[arg-type]
