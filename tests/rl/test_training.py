"""Agents in training: they learn, a run goes on to the same bits, and a wrong pair ends in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import kshot
from kshot import InputError, rl
from kshot.cli import app
from kshot.evaluation import Evaluation
from kshot.models import GaussianPolicy
from kshot.rules import SGD
from kshot.training import checkpoint
from kshot.training.progress import read_metrics


def policy(**choices: object) -> kshot.PolicyMAML:
    torch.manual_seed(0)
    return kshot.PolicyMAML(GaussianPolicy(2, 2, (16,), std=0.1), **{"rule": SGD(0.01), **choices})  # type: ignore[arg-type]


SHORT = {"meta_batch": 3, "vectorize": "vmap", "progress": False}


def test_a_short_training_improves_what_adapting_gives() -> None:
    learner, family = policy(), rl.Navigation(10, 10, horizon=20)
    before = rl.evaluate(learner, family, 40, curves=False)
    rl.fit(learner, family, steps=20, meta_batch=10, lr=3e-3, vectorize="vmap", progress=False)
    after = rl.evaluate(learner, family, 40, curve_steps=1, curve_episodes=40)
    assert after.mean - after.interval > before.mean + before.interval
    assert after.steps_curve is not None
    unadapted, adapted = after.steps_curve
    assert adapted.mean > unadapted.mean + unadapted.interval
    assert adapted.mean == pytest.approx(after.mean)  # one step, on the same trajectories


def test_stopped_and_gone_on_with_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    family = rl.Navigation(2, 2, horizon=5)

    def train(out: Path, steps: int) -> None:
        choices = {"validate": family, "validate_every": 2, "validate_episodes": 4, "save_every": 1, "log_every": 2}
        rl.fit(policy(rule=SGD(0.01, learn="tensor")), family, out=out, steps=steps, **choices, **SHORT)  # type: ignore[arg-type]

    train(tmp_path / "whole", 6)
    for steps in (3, 6):
        train(tmp_path / "parts", steps)
    for name in (checkpoint.LAST, checkpoint.BEST):
        whole, parts = (checkpoint.read(tmp_path / run / name)[1] for run in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole), name
    lines = read_metrics(tmp_path / "parts" / "metrics.jsonl")
    assert [line["val_return"] for line in lines if "val_return" in line]
    loaded = kshot.load(tmp_path / "parts")
    assert isinstance(loaded, kshot.PolicyMAML)
    assert loaded.features == (2,)


def test_an_epoch_is_a_step_of_ppo_on_the_same_trajectories() -> None:
    ours, theirs, family = policy(), policy(), rl.Navigation(2, 2, horizon=5)
    rl.fit(ours, family, steps=2, epochs=2, lr=0.01, seed=3, **SHORT)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.01)
    for step in range(2):
        g = kshot.seeded(3, step)
        tasks = rl.collect(theirs, family, family.draw(3, g), g)
        for _ in range(2):
            optimizer.zero_grad()
            kshot.meta_loss(theirs, tasks, "vmap").backward()
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_an_evaluation_depends_on_its_seed_and_survives_json() -> None:
    family = rl.Navigation(2, 2, horizon=5)
    found = rl.evaluate(policy(), family, 25, seed=1, curve_episodes=4)
    assert found.metric == "return"
    assert len(found.values) == 25
    assert [p.at for p in found.steps_curve or []] == [0, 1, 2, 3]
    assert Evaluation.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert rl.evaluate(policy(), family, 25, seed=1, curves=False).values == found.values
    assert rl.evaluate(policy(), family, 4, seed=1, curves=False).values == found.values[:4]
    assert rl.evaluate(policy(), family, 25, seed=2, curves=False).values != found.values


def test_a_wrong_pair_ends_in_a_sentence() -> None:
    navigation, sinusoids = rl.Navigation(), kshot.tasks.Sinusoids()
    maml = kshot.MAML(GaussianPolicy(2, 2))
    for act in (rl.fit, rl.evaluate):
        with pytest.raises(InputError, match="needs a learner that acts, found a MAML: give one, such as"):
            act(maml, navigation)  # type: ignore[operator]
        with pytest.raises(InputError, match="a family of environments is needed, found Sinusoids"):
            act(policy(), sinusoids)  # type: ignore[operator]
    for act in (kshot.fit, kshot.evaluate):
        with pytest.raises(InputError, match=r"found Navigation: .* kshot\.rl"):
            act(policy(), navigation)  # type: ignore[operator]
    with pytest.raises(InputError, match="a policy learns from trajectories"):
        kshot.evaluate(kshot.PolicyMAML(GaussianPolicy(784, 5)), kshot.tasks.Glyphs("test", classes=20), 2)
    with pytest.raises(InputError, match="epochs=0"):
        rl.fit(policy(), navigation, epochs=0)
    with pytest.raises(InputError, match="did you mean 'epochs'"):
        rl.fit(policy(), navigation, epoch=2)
    with pytest.raises(InputError, match="at least 2 tasks"):
        rl.evaluate(policy(), navigation, 1)


@pytest.mark.parametrize(
    ("recipe", "changes", "sentence"),
    [
        ("navigation-maml", ["learner.name=maml"], "needs a learner that acts, found a MAML"),
        ("navigation-maml", ["tasks.name=sinusoids", "training.epochs=2"], "[training] has no setting 'epochs'"),
        ("navigation-maml", ["training.epoch=2"], "did you mean 'epochs'?"),
        ("navigation-maml", ["tasks.name=navigatoin"], "did you mean 'navigation'?"),
        ("navigation-maml", ["learner.model.observations=3"], "build it with observations=2"),
        ("sinusoid-maml", ["learner.name=policy-maml"], "has no setting 'loss'"),
    ],
)
def test_a_wrong_recipe_ends_in_a_sentence(recipe: str, changes: list[str], sentence: str, tmp_path: Path) -> None:
    words = [word for change in changes for word in ("--set", change)]
    done = CliRunner().invoke(app, ["train", recipe, *words, "--out", str(tmp_path)])
    assert done.exit_code == 2, done.output
    assert sentence in done.output
