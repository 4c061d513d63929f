"""Every learner that has a recipe on sinusoids: the squared error from 5 and from 10 points, and what it costs.

    python benchmarks/sinusoid_learners.py [--runs runs/bench] [--train NAME …]

As glyph_learners.py: each recipe is trained once, on 10 points, and measured on the same 1,000 tasks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from evidence import record
from glyph_learners import trained

import kshot
from kshot import recipes
from kshot.learners import FAMILIES
from kshot.tasks import Sinusoids

EPISODES = 1000
SHOTS = (5, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/bench"))
    parser.add_argument("--train", nargs="*", default=[])
    given = parser.parse_args()
    for name in given.train:
        print(name, trained(name, given.runs)[1], flush=True)
    if given.train:
        return
    family = {name: kind for kind, learners in FAMILIES.items() for name in learners}
    rows, settings = [], {}
    for name in (n for n in recipes.names() if n.startswith("sinusoid-")):
        learner, seconds = trained(name, given.runs)
        found = {k: kshot.evaluate(learner, Sinusoids(k, 100), EPISODES, curves=False) for k in SHOTS}
        print(f"{name:28} {found[5]}   {found[10]}", flush=True)
        settings[name] = recipes.read(name).settings
        rows.append(
            {
                "learner": name.removeprefix("sinusoid-"),
                "family": family[settings[name]["learner"]["name"]],
                **{f"mse, {k} points": round(e.mean, 4) for k, e in found.items()},
                **{f"interval, {k} points": round(e.interval, 4) for k, e in found.items()},
                "training seconds": seconds and round(seconds),
                "adapt ms": round(found[10].adapt_ms, 2),
                "parameters": sum(p.numel() for p in learner.parameters()),
            }
        )
    scratch = next(row for row in rows if row["learner"] == "scratch")
    passed = all(
        row[f"mse, {k} points"] < scratch[f"mse, {k} points"] for row in rows if row is not scratch for k in SHOTS
    )
    about = {"test tasks": EPISODES, "test seed": 0, **settings}
    print("written to", record("sinusoid-learners", about, rows, passed=passed))


if __name__ == "__main__":
    main()
