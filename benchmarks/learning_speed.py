"""Learning speed and generalization: accuracy on new characters against adaptation steps and against examples.

    KSHOT_DATA=... python benchmarks/learning_speed.py

Every learner of an Omniglot recipe that `kshot reproduce` has kept in results/models/, and those with nothing to train in
advance: 5-way, 0 to 20 steps from one example a class, and 1 to 15 examples with 5 queries a class, EPISODES tasks for each
point, the same for all. Learners that do not learn in steps have one point there. Beside them: training from scratch.
"""

from __future__ import annotations

from typing import Any

from evidence import RESULTS, record

import kshot
from kshot import recipes
from kshot.evaluation import Point
from kshot.evidence import read_all
from kshot.learners import FAMILIES
from kshot.tasks import Omniglot

EPISODES, STEPS, SHOTS = 600, 20, (1, 2, 5, 10, 15)


def learners() -> dict[str, tuple[str, kshot.MetaLearner]]:
    """By name: family and learner."""
    family = {name: kind for kind, found in FAMILIES.items() for name in found}
    kept, found = read_all(RESULTS), {}
    for name in (name for name in recipes.names() if name.startswith("omniglot-5w1s-")):
        recipe = recipes.read(name)
        kind = family[recipe.settings["learner"]["name"]]
        model = next((seed.model for seed in kept[name].seeds if seed.model), None) if name in kept else None
        learner = kshot.load(RESULTS / model) if model else recipe.learner().eval()
        if model or not any(p.requires_grad for p in learner.parameters()):
            found[name.removeprefix("omniglot-5w1s-")] = (kind, learner)
    return found


def points(curve: list[Point] | None) -> list[dict[str, float]]:
    return [{"at": p.at, "accuracy": p.mean, "interval": p.interval} for p in curve or []]


def main() -> None:
    rows: list[dict[str, Any]] = []
    for name, (family, learner) in learners().items():
        steps = kshot.evaluate(
            learner, Omniglot("test", 5, 1, 15), EPISODES, curve_steps=STEPS, curve_episodes=EPISODES
        ).steps_curve
        found = [kshot.evaluate(learner, Omniglot("test", 5, k, 5), EPISODES, curves=False) for k in SHOTS]
        shots = [Point(k, e.mean, e.interval) for k, e in zip(SHOTS, found, strict=True)]
        print(f"{name:20} " + "  ".join(f"{p.at}: {100 * p.mean:.1f}" for p in shots), flush=True)
        rows.append({"learner": name, "family": family, "steps": points(steps), "shots": points(shots)})
    print("written to", record("learning-speed", {"test tasks": EPISODES, "test seed": 0}, rows))


if __name__ == "__main__":
    main()
