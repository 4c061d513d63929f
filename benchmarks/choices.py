"""What settings were chosen by: a recipe with changes, trained without the test classes and measured on validation classes.

    KSHOT_DATA=... python benchmarks/choices.py omniglot-5w1s-maml --set training.steps=4000 --set learner.rule.lr=1.0

Each call adds a line to results/choices.json, in place of one with the same changes. A source with splits is trained on 'train'
and measured on 'val'; tasks without classes, such as sinusoids, are measured with another seed than the test's. The runs are kept
in runs/choices/, so that two can be compared on the same tasks: kshot compare RUN RUN --set tasks.test.split=val. Interrupted, it
goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from evidence import RESULTS, record

import kshot
from kshot import recipes
from kshot.recipes import runs
from kshot.settings import arguments
from kshot.training.progress import METRICS, read_metrics

OTHER_SEED = 1  # the test's is 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    plain = recipes.read(given.recipe)
    split = "split" in arguments(plain.kind.tasks[plain.settings["tasks"]["name"]])
    recipe = plain.changed(*(["tasks.train.split=train"] if split else []), *given.changes)
    label = "_".join([plain.name, *(change.replace("/", "-") for change in given.changes)])
    run = Path("runs") / "choices" / label

    runs.train(recipe, run)
    tasks = recipe.tasks("test", {"split": "val"} if split else None)
    found = kshot.evaluate(kshot.load(run), tasks, recipe.episodes, OTHER_SEED, curves=False)
    minutes = max(line.get("seconds", 0) for line in read_metrics(run / METRICS)) / 60
    row = {
        "recipe": plain.name,
        "changes": given.changes,
        "steps": recipe.training["steps"],
        "minutes": round(minutes, 1),
        "metric": found.metric,
        "mean": found.mean,
        "interval": found.interval,
        "date": time.strftime("%Y-%m-%d"),
    }
    print(f"{label}: {found}")
    print("written to", record("choices", {"test seed": OTHER_SEED}, [*others(row), row]))


def others(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines that stay."""
    path = RESULTS / "choices.json"
    before = json.loads(path.read_text())["rows"] if path.is_file() else []
    same = ("recipe", "changes")
    return [known for known in before if any(known[key] != row[key] for key in same)]


if __name__ == "__main__":
    main()
