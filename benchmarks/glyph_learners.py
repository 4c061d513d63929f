"""Every learner that has a recipe on Glyphs: 5-way 1- and 5-shot accuracy on unseen classes, and what it costs.

    python benchmarks/glyph_learners.py [--runs runs/bench] [--train NAME …] [--again NAME …]

Trains each recipe (an interrupted or finished run folder is gone on with), then evaluates it on the same tasks, beside raw
pixels with the nearest centroid. A learner is trained once, as its recipe says, and that one is measured at 1 and at 5 shots.
--train only trains and measures the named recipes, for a start on several cores; the results are written by a run without it;
--again measures the named recipes, and takes the rows of the others from the results that are there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from evidence import RESULTS, record

import kshot
from kshot import atomic, recipes
from kshot.learners import FAMILIES
from kshot.tasks import Glyphs
from kshot.training.progress import METRICS, read_metrics

EPISODES = 600
SHOTS = (1, 5)


def row(
    name: str, family: str, learner: kshot.MetaLearner, seconds: float | None, tasks: int | None = None
) -> dict[str, Any]:
    found = {shots: kshot.evaluate(learner, Glyphs("test", shots=shots), EPISODES, curves=False) for shots in SHOTS}
    print(f"{name:28} {found[1]}   {found[5]}", flush=True)
    return {
        "learner": name,
        "family": family,
        **{f"accuracy, {shots} shot": e.mean for shots, e in found.items()},
        **{f"interval, {shots} shot": e.interval for shots, e in found.items()},
        "training seconds": seconds and round(seconds),
        "training tasks": tasks,
        "adapt ms": round(found[1].adapt_ms, 2),
        "parameters": sum(p.numel() for p in learner.parameters()),
        "transductive": found[1].transductive,
    }


def training_seconds(run: Path, meta_batch: int) -> float:
    """From the tasks a second that the run logged: steps alone, without validating and saving, however often resumed."""
    lines = [line for line in read_metrics(run / METRICS) if "tasks_per_s" in line]
    steps = [line["step"] for line in lines]
    return sum(
        (step - before) * meta_batch / line["tasks_per_s"]
        for before, step, line in zip([0, *steps], steps, lines, strict=False)
    )


def measured(name: str, runs: Path, family: str) -> dict[str, Any]:
    """The row of a recipe, from its run folder where it was measured before, with the settings as they are now."""
    kept, settings = runs / name / "row.json", recipes.read(name).settings
    if kept.is_file() and (before := json.loads(kept.read_text())).get("settings") == settings:
        found: dict[str, Any] = before["row"]
        return found
    learner, seconds = trained(name, runs)
    tasks = settings["training"]["steps"] * settings["training"]["meta_batch"] if seconds else None
    found = row(name.removeprefix("glyphs-5w1s-"), family, learner, seconds, tasks)
    atomic.write(kept, json.dumps({"settings": settings, "row": found}))
    return found


def passed(rows: list[dict[str, Any]]) -> bool:
    """None trails the nearest centroid on raw pixels, and Meta-LSTM is at least at first-order MAML's level."""
    first, *others = rows
    at = {x["learner"]: x["accuracy, 1 shot"] for x in others}
    above = all(x[f"accuracy, {shots} shot"] > first[f"accuracy, {shots} shot"] for x in others for shots in SHOTS)
    return above and at["metalstm"] >= at["fomaml"]


def trained(name: str, runs: Path) -> tuple[kshot.MetaLearner, float | None]:
    """The learner of a recipe and the seconds that its training took; None where there is nothing to train."""
    recipe, out = recipes.read(name), runs / name
    learner = recipe.learner()
    if not any(p.requires_grad for p in learner.parameters()):
        return learner, None
    kshot.fit(learner, recipe.tasks("train"), validate=recipe.tasks("val"), out=out, progress=False, **recipe.training)
    return kshot.load(out), training_seconds(out, recipe.training["meta_batch"])


def main() -> None:
    names = [name for name in recipes.names() if name.startswith("glyphs-5w1s-")]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/bench"))
    parser.add_argument("--train", nargs="*", default=[], choices=names)
    parser.add_argument("--again", nargs="*", default=[], choices=names)
    given = parser.parse_args()
    family = {name: kind for kind, learners in FAMILIES.items() for name in learners}
    for name in given.train:
        measured(name, given.runs, family[recipes.read(name).settings["learner"]["name"]])
    if given.train:
        return
    before = json.loads((RESULTS / "glyph-learners.json").read_text())["rows"] if given.again else []
    there = {x["learner"]: x for x in before}
    rows = [row("nearest-centroid, raw pixels", "baseline", kshot.NearestCentroid(), None)]
    settings = {}
    for name in names:
        settings[name] = recipes.read(name).settings
        known = None if name in given.again else there.get(name.removeprefix("glyphs-5w1s-"))
        rows.append(known or measured(name, given.runs, family[settings[name]["learner"]["name"]]))
    settings = {"test tasks": EPISODES, "test seed": 0, **settings}
    print("written to", record("glyph-learners", settings, rows, passed=passed(rows)))


if __name__ == "__main__":
    main()
