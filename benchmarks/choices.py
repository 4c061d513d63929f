"""What settings were chosen by: a recipe with changes, trained without the test classes and measured on validation classes.

    KSHOT_DATA=... python benchmarks/choices.py omniglot-5w1s-maml --set training.steps=4000 --set learner.rule.lr=1.0

--at-test KEY=VALUE changes the trained learner when it is measured, such as eval_steps=5; --figure NAME measures that one alone.
Each call adds a row to results/choices.json, with all settings of that training, or figures to the row that has the same: so
docs/choices.md says what was different from the recipe as it is now, whatever becomes of it. A source with splits is trained on
'train' and measured on 'val'; tasks without classes, such as sinusoids, are measured with another seed than the test's. The runs
are kept in runs/choices/, so that two can be compared on the same tasks: kshot compare RUN RUN --set tasks.test.split=val.
Interrupted, it goes on.
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
from kshot.evidence import Figure, as_tested, trained_by
from kshot.machine import machine, versions
from kshot.recipes import runs
from kshot.recipes.paper import Row
from kshot.settings import arguments
from kshot.training.progress import METRICS, read_metrics
from kshot.types import InputError

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
    minutes = max((line.get("seconds", 0) for line in read_metrics(run / METRICS)), default=0) / 60
    figures = {}
    for row in recipe.paper.rows if recipe.paper else (Row(""),):
        if given.figures and row.name not in given.figures:
            continue
        tasks = recipe.tasks("test", {**row.test, **({"split": "val"} if split else {})})
        found = kshot.evaluate(as_tested(recipe, row, run, **at_test), tasks, recipe.episodes, OTHER_SEED, curves=False)
        print(f"{label}: {row.name}: {found}", flush=True)
        figures[row.name] = {"metric": found.metric, "mean": found.mean, "interval": found.interval}
        if (astray := Figure.of(found)).diverged:  # then the mean is that of a few tasks
            figures[row.name] |= {"mean": None, "interval": None, "median": astray.median}
            figures[row.name]["diverges on tasks"] = astray.diverged
    settings = trained_by(plain.changed(*given.changes).settings)
    new = {"recipe": plain.name, "settings": settings, "at test": given.at_test, "episodes": recipe.episodes}
    if tests := recipe.settings["tasks"].get("test"):
        new["tests"] = tests
    new |= {"minutes": round(minutes, 1), "date": time.strftime("%Y-%m-%d"), "figures": figures}
    new |= {"machine": machine(), "versions": versions()}
    print("written to", record("choices", {"test seed": OTHER_SEED}, among(known(), new)))


def known() -> list[dict[str, Any]]:
    path = RESULTS / "choices.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.is_file() else []
    return rows


def among(rows: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """With the new row, in place of one of the same training and tests, whose other figures it keeps."""
    keys = ("recipe", "settings", "at test", "episodes", "tests")
    same = [row for row in rows if all(row.get(key) == new.get(key) for key in keys)]
    figures = {name: figure for row in [*same, new] for name, figure in row["figures"].items()}
    return [*(row for row in rows if row not in same), {**new, "figures": figures}]


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
