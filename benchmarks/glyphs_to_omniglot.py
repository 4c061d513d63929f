"""The demo's learner, measured: on unseen Glyphs classes, and on real Omniglot, of which it has seen nothing.

    KSHOT_DATA=... python benchmarks/glyphs_to_omniglot.py

Trains the recipe glyphs-5w1s-protonet; evaluates 5-way 1-shot on 1,000 tasks of each with 15 queries a class, beside
the same comparison of raw pixels.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from evidence import record

import kshot
from kshot import recipes
from kshot.tasks import Omniglot

EPISODES = 1000
TARGETS = {"glyphs": 0.95, "omniglot": 0.92}


def main() -> None:
    recipe = recipes.read("glyphs-5w1s-protonet")
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        learner = kshot.fit(
            recipe.learner(),
            recipe.tasks("train"),
            validate=recipe.tasks("val"),
            out=Path(folder) / "run",
            **recipe.training,
        )
    seconds = time.perf_counter() - start
    rows = []
    for name, tasks in (("glyphs", recipe.tasks("test")), ("omniglot", Omniglot("test", 5, 1, 15))):
        for title, who in (("ProtoNet", learner), ("raw pixels, nearest centroid", kshot.NearestCentroid())):
            found = kshot.evaluate(who, tasks, EPISODES, curves=False)
            target = TARGETS[name] if who is learner else None
            rows.append(
                {"test": name, "learner": title, "accuracy": found.mean, "interval": found.interval, "target": target}
            )
            print(f"{name:10} {title:30} {100 * found.mean:.2f} ± {100 * found.interval:.2f} %")
    passed = all(row["accuracy"] >= row["target"] for row in rows if row["target"])
    settings = {"recipe": recipe.settings, "test tasks": EPISODES, "test seed": 0, "training seconds": round(seconds)}
    print("written to", record("glyphs-to-omniglot", settings, rows, passed=passed))
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
