"""Linear regressions y = wᵀx + b, each of another curvature: the strategy network against every fixed learning rate.

    python benchmarks/strategy.py

All learn the same linear model in five inner steps from meta-learned initial parameters, meta-trained alike on the same
tasks: by the strategy network, emitting updates or rates, and by gradient descent with each rate of RATES, with one learned
rate, and with a learned rate a weight. Squared error over the same 1,000 tasks, and the difference from the best fixed rate,
task by task, with its 95 % interval.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from evidence import record

import kshot
from kshot import recipes
from kshot.intervals import mean_interval
from kshot.rules import SGD, Rule, StrategyNetwork

RATES = (0.003, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.1, 0.15)
EPISODES = 1000


def main() -> None:
    recipe = recipes.read("linear-strategy")
    steps, model = recipe.settings["learner"]["steps"], recipe.learner().model
    rules: dict[str, Rule] = {f"fixed rate {lr}": SGD(lr) for lr in RATES}
    rules |= {"one learned rate": SGD(0.03, learn="one"), "a learned rate a weight": SGD(0.03, learn="parameter")}
    rules |= {f"strategy network, {e}": StrategyNetwork(0.05, emits=e) for e in ("rate", "update")}  # type: ignore[arg-type]
    start = {name: t.clone() for name, t in model.state_dict().items()}  # type: ignore[union-attr]
    values: dict[str, list[float]] = {}
    for name, rule in rules.items():
        model.load_state_dict(start)  # type: ignore[union-attr]
        learner = kshot.MAML(model, loss="mse", rule=rule, steps=steps)  # type: ignore[arg-type]
        try:
            kshot.fit(learner, recipe.tasks("train"), progress=False, **recipe.training)
        except kshot.Diverged:
            values[name] = [math.inf] * EPISODES
        else:
            values[name] = kshot.evaluate(learner, recipe.tasks("test"), EPISODES, curves=False).values
        print(f"{name:28} {sum(values[name]) / EPISODES:.4f}", flush=True)
    best = min((n for n in values if n.startswith("fixed")), key=lambda n: sum(values[n]))
    rows: list[dict[str, Any]] = []
    for name, found in values.items():
        mean, interval = mean_interval(found)
        gain, gain_interval = mean_interval((torch.tensor(values[best]) - torch.tensor(found)).tolist())
        finite = math.isfinite(mean)
        rows.append(
            {
                "rule": name,
                "mse": round(mean, 4) if finite else None,
                "interval": round(interval, 4) if finite else None,
                "better by": round(gain, 4) if finite else None,
                "better by, interval": round(gain_interval, 4) if finite else None,
                "parameters": sum(p.numel() for p in rules[name].parameters()),
            }
        )
    found_rows = {row["rule"]: row for row in rows}
    passed = all(
        found_rows[f"strategy network, {e}"]["better by"] > found_rows[f"strategy network, {e}"]["better by, interval"]
        for e in ("rate", "update")
    )
    settings = {"recipe": recipe.settings, "test tasks": EPISODES, "test seed": 0, "best fixed rate": best}
    print("written to", record("strategy", settings, rows, passed=passed))
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
