"""Learning speed and generalization: accuracy on new characters against adaptation steps and against examples.

    KSHOT_DATA=... python benchmarks/learning_speed.py

Every learner of an Omniglot recipe that `kshot reproduce` has trained, from results/models/ or, where it is too large for that,
from its run, and those with nothing to train in advance: 5-way, 0 to 20 steps from one example a class, and 1 to 15 examples
with 5 queries a class, EPISODES tasks for each point, the same for all. Learners that do not learn in steps have a curve over
examples alone. Beside them: training from scratch. A recipe that was not measured yet, or with other settings, is left out and
named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evidence import RESULTS, record

import kshot
from kshot import recipes
from kshot.evaluation import Point
from kshot.evidence import read_all
from kshot.learners import FAMILIES
from kshot.tasks import Omniglot

RUNS = Path("runs")
EPISODES, STEPS, SHOTS = 600, 20, (1, 2, 5, 10, 15)


def learners() -> dict[str, tuple[str, kshot.MetaLearner]]:
    """By name: family and learner."""
    family = {name: kind for kind, found in FAMILIES.items() for name in found}
    kept, found = read_all(RESULTS), {}
    for name in (name for name in recipes.names() if name.startswith("omniglot-5w1s-")):
        recipe = recipes.read(name)
        learner = recipe.learner().eval()
        if any(p.requires_grad for p in learner.parameters()):
            if name not in kept or not kept[name].is_of(recipe):
                print(f"{name} is left out: `kshot reproduce {name}` first", flush=True)
                continue
            model = next((seed.model for seed in kept[name].seeds if seed.model), None)
            learner = kshot.load(RESULTS / model if model else RUNS / f"{name}-seed0")
        found[name.removeprefix("omniglot-5w1s-")] = (family[recipe.settings["learner"]["name"]], learner)
    return found


def steps_curve(learner: kshot.MetaLearner) -> list[Point] | None:
    tasks = Omniglot("test", 5, 1, 15)
    if len(learner.trajectory(tasks.sample(1, kshot.seeded(0))[0].support, 1)) == 1:
        return None
    return kshot.evaluate(learner, tasks, EPISODES, curve_steps=STEPS, curve_episodes=EPISODES).steps_curve


def points(curve: list[Point] | None) -> list[dict[str, float]]:
    return [{"at": p.at, "accuracy": p.mean, "interval": p.interval} for p in curve or []]


def main() -> None:
    rows: list[dict[str, Any]] = []
    for name, (family, learner) in learners().items():
        steps = steps_curve(learner)
        found = [kshot.evaluate(learner, Omniglot("test", 5, k, 5), EPISODES, curves=False) for k in SHOTS]
        shots = [Point(k, e.mean, e.interval) for k, e in zip(SHOTS, found, strict=True)]
        print(f"{name:20} " + "  ".join(f"{p.at}: {100 * p.mean:.1f}" for p in shots), flush=True)
        rows.append({"learner": name, "family": family, "steps": points(steps), "shots": points(shots)})
    print("written to", record("learning-speed", {"test tasks": EPISODES, "test seed": 0}, rows))


if __name__ == "__main__":
    main()
