"""What settings were chosen by: a recipe with changes, trained without the test classes and measured on validation classes.

    KSHOT_DATA=... python benchmarks/choices.py omniglot-5w1s-maml --set training.steps=4000 --set learner.rule.lr=1.0

--at-test KEY=VALUE changes the trained learner when it is measured, such as eval_steps=5; --figure NAME measures that one alone.
Each call adds lines to results/choices.json, one for each figure of the recipe's [paper] section, in place of those with the same
changes. A source with splits is trained on 'train' and measured on 'val'; tasks without classes, such as sinusoids, are measured
with another seed than the test's. The runs are kept in runs/choices/, so that two can be compared on the same tasks:
kshot compare RUN RUN --set tasks.test.split=val. Interrupted, it goes on.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

from evidence import RESULTS, record

import kshot
from kshot import recipes
from kshot.evidence import Figure, as_tested
from kshot.recipes import runs
from kshot.recipes.paper import Row
from kshot.settings import arguments
from kshot.training.progress import METRICS, read_metrics

OTHER_SEED = 1  # the test's is 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--at-test", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--figure", dest="figures", action="append", default=[], metavar="NAME")
    given = parser.parse_args()
    plain = recipes.read(given.recipe)
    tested = plain.changed(*(f"learner.{change}" for change in given.at_test)).settings["learner"]
    at_test = {name: tested[name] for name in (re.split("[.=]", change)[0] for change in given.at_test)}
    split = "split" in arguments(plain.kind.tasks[plain.settings["tasks"]["name"]])
    recipe = plain.changed(*(["tasks.train.split=train"] if split else []), *given.changes)
    label = "_".join([plain.name, *(change.replace("/", "-") for change in given.changes)])
    run = Path("runs") / "choices" / label

    runs.train(recipe, run)
    minutes = max(line.get("seconds", 0) for line in read_metrics(run / METRICS)) / 60
    changes = [*given.changes, *(f"at test {change}" for change in given.at_test)]
    trained = {"recipe": plain.name, "changes": changes, "steps": recipe.training["steps"]}
    rows = []
    for row in recipe.paper.rows if recipe.paper else (Row(""),):
        if given.figures and row.name not in given.figures:
            continue
        tasks = recipe.tasks("test", {**row.test, **({"split": "val"} if split else {})})
        learner = as_tested(recipe, row, run, **at_test)
        found = kshot.evaluate(learner, tasks, recipe.episodes, OTHER_SEED, curves=False)
        print(f"{label}: {row.name}: {found}", flush=True)
        figure = {"figure": row.name, "metric": found.metric, "mean": found.mean, "interval": found.interval}
        if (astray := Figure.of(found)).diverged:  # then the mean is that of a few tasks
            figure |= {"mean": None, "interval": None, "median": astray.median, "diverges on tasks": astray.diverged}
        rows.append({**trained, "minutes": round(minutes, 1), **figure, "date": time.strftime("%Y-%m-%d")})
    print("written to", record("choices", {"test seed": OTHER_SEED}, [*others(rows), *rows]))


def others(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines that stay."""
    path, keys = RESULTS / "choices.json", ("recipe", "changes", "steps", "figure")
    before = json.loads(path.read_text())["rows"] if path.is_file() else []
    return [known for known in before if all(any(known[key] != row[key] for key in keys) for row in rows)]


if __name__ == "__main__":
    main()
