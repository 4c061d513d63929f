"""Learning speed and generalization: accuracy on new characters against adaptation steps and against examples.

    KSHOT_DATA=... python benchmarks/learning_speed.py

Every learner of an Omniglot recipe that `kshot reproduce` has measured, from results/models/ or, where it is too large for that,
from its run: 5-way, 5 queries a class, 0 to 20 steps from one example a class, and
1 to 15 examples by the steps that its recipe takes at test (Reptile 50, others at most 20); EPISODES tasks for each point, the
same for all. Learners that do not learn in steps have a curve over examples alone. Beside them: training from scratch. A recipe
that was not measured yet, or with other settings, or whose run is not there, is left out and named. A learner that was measured
is not measured again; interrupted, it goes on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from evidence import RESULTS, record

import kshot
from kshot import recipes
from kshot.evaluation import Point
from kshot.evidence import Kept, read_all
from kshot.learners import FAMILIES
from kshot.tasks import Omniglot
from kshot.training.checkpoint import fingerprint
from kshot.types import InputError, Task

RUNS, OF_ONE_SHOT = Path("runs"), "omniglot-5w1s-"
EPISODES, STEPS, QUERIES, SHOTS = 600, 20, 5, (1, 2, 5, 10, 15)
SETTINGS = {"test tasks": EPISODES, "test seed": 0, "queries": QUERIES, "steps": STEPS, "shots": list(SHOTS)}


class OneShot:
    """Tasks that cannot be had with more examples: they have no curve over those."""

    def __init__(self) -> None:
        self.tasks = Omniglot("test", 5, 1, QUERIES)
        self.identities = self.tasks.identities

    def sample(self, n: int, generator: torch.Generator) -> Task:
        return self.tasks.sample(n, generator)


def learners() -> dict[str, tuple[str, str, kshot.MetaLearner]]:
    """By name: family, what tells it from another training, and the learner."""
    family = {name: kind for kind, found in FAMILIES.items() for name in found}
    kept, found = read_all(RESULTS), {}
    for name in (name for name in recipes.names() if name.startswith(OF_ONE_SHOT)):
        recipe = recipes.read(name)
        if name not in kept or not kept[name].is_of(recipe):
            print(f"{name} is left out: `kshot reproduce {name}` first", flush=True)
            continue
        place = model_of(kept[name]) or RUNS / f"{name}-seed0"
        try:
            learner, of = kshot.load(place), fingerprint(place)
        except InputError as error:
            print(f"{name} is left out: {error}", flush=True)
            continue
        found[name.removeprefix(OF_ONE_SHOT)] = (family[recipe.settings["learner"]["name"]], of, learner)
    return found


def model_of(kept: Kept) -> Path | None:
    return next((RESULTS / seed.model for seed in kept.seeds if seed.model), None)


def of_another(row: dict[str, Any], kept: dict[str, Kept]) -> bool:
    """Whether the row was measured of a learner that another training has replaced since."""
    trained = kept.get(OF_ONE_SHOT + row["learner"])
    model = model_of(trained) if trained else None
    return model is not None and model.is_file() and fingerprint(model) != row["of"]


def steps_curve(learner: kshot.MetaLearner) -> list[Point]:
    """Empty for a learner that does not learn in steps."""
    if len(learner.trajectory(OneShot().sample(1, kshot.seeded(0))[0].support, 1)) == 1:
        return []
    found = kshot.evaluate(learner, OneShot(), EPISODES, curve_steps=STEPS, curve_episodes=EPISODES)
    return found.steps_curve or []


def points(curve: list[Point]) -> list[dict[str, float]]:
    return [{"at": p.at, "accuracy": p.mean, "interval": p.interval} for p in curve]


def measured() -> dict[str, dict[str, Any]]:
    """The rows that are there already, of the same tasks."""
    path = RESULTS / "learning-speed.json"
    before = json.loads(path.read_text()) if path.is_file() else {"settings": {}, "rows": []}
    return {row["learner"]: row for row in before["rows"]} if before["settings"] == SETTINGS else {}


def main() -> None:
    known = measured()
    for name, (family, of, learner) in learners().items():
        row = known.get(name, {})
        if row.get("of") != of:
            found = [kshot.evaluate(learner, Omniglot("test", 5, k, QUERIES), EPISODES, curves=False) for k in SHOTS]
            shots = [Point(k, e.mean, e.interval) for k, e in zip(SHOTS, found, strict=True)]
            print(f"{name:20} " + "  ".join(f"{p.at}: {100 * p.mean:.1f}" for p in shots), flush=True)
            row = {"learner": name, "family": family, "of": of, "transductive": found[0].transductive}
            row |= {"steps": points(steps_curve(learner)), "shots": points(shots)}
        known[name] = row
        record("learning-speed", SETTINGS, list(known.values()))  # those that are left out this time stay
    print("written to", RESULTS / "learning-speed.json")


if __name__ == "__main__":
    main()
