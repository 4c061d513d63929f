"""Every learner that has a recipe on Glyphs: 5-way 1-shot accuracy on unseen classes, and what it costs.

    python benchmarks/glyph_learners.py [--runs runs/bench]

Trains each recipe (an interrupted or finished run folder is gone on with), then evaluates it on the same 1,000 tasks,
beside raw pixels with the nearest centroid.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from evidence import record

import kshot
from kshot import recipes
from kshot.tasks import Glyphs
from kshot.training.progress import METRICS, read_metrics

EPISODES = 1000


def row(name: str, learner: kshot.MetaLearner, seconds: float | None) -> dict[str, Any]:
    found = kshot.evaluate(learner, Glyphs("test"), EPISODES, curves=False)
    print(f"{name:28} {found}")
    return {
        "learner": name,
        "accuracy": found.mean,
        "interval": found.interval,
        "training seconds": seconds and round(seconds),
        "adapt ms": round(found.adapt_ms, 2),
        "parameters": sum(p.numel() for p in learner.parameters()),
        "transductive": found.transductive,
    }


def training_seconds(run: Path, meta_batch: int) -> float:
    """From the tasks a second that the run logged: steps alone, without validating and saving, however often resumed."""
    lines = [line for line in read_metrics(run / METRICS) if "tasks_per_s" in line]
    steps = [line["step"] for line in lines]
    return sum(
        (step - before) * meta_batch / line["tasks_per_s"]
        for before, step, line in zip([0, *steps], steps, lines, strict=False)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/bench"))
    runs = parser.parse_args().runs
    rows = [row("nearest centroid, raw pixels", kshot.NearestCentroid(), None)]
    settings = {}
    for name in (n for n in recipes.names() if n.startswith("glyphs-5w1s-")):
        recipe, out = recipes.read(name), runs / name
        kshot.fit(recipe.learner(), recipe.tasks("train"), validate=recipe.tasks("val"), out=out, **recipe.training)
        learner = kshot.load(out)
        rows.append(
            row(name.removeprefix("glyphs-5w1s-"), learner, training_seconds(out, recipe.training["meta_batch"]))
        )
        settings[name] = recipe.settings
    print("written to", record("glyph-learners", {"test tasks": EPISODES, "test seed": 0, **settings}, rows))


if __name__ == "__main__":
    main()
