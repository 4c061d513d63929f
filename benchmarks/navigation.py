"""Point navigation: MAML by its recipe, and beside it the same policy trained by the same PPO without an inner step.

    OMP_NUM_THREADS=1 python benchmarks/navigation.py

The baseline gets as many outer steps and as many trajectories of as many tasks in each: all but one of a task's are its query,
where MAML adapts on half of them. Both then adapt in the same way, each step on fresh trajectories of the policy so far; the
baseline's inner learning rate is the one of RATES whose first step gives most on other tasks.
Mean return over 200 tasks after 0, 1, 2, 3 steps, with 95 % intervals, and the difference task by task.
"""

from __future__ import annotations

import time

import torch
from evidence import record

import kshot
from kshot import recipes, rl
from kshot.evaluation import mean_interval
from kshot.rl.evaluate import returns_by_step
from kshot.rules import SGD
from kshot.types import seeded

RATES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
STEPS, TASKS, TOGETHER = 3, 200, 20


def trained(learner: kshot.PolicyMAML, family: rl.Navigation, training: dict[str, object]) -> tuple[float, float]:
    """(seconds, seconds of the processor)."""
    start, used = time.perf_counter(), time.process_time()
    rl.fit(learner, family, **training)  # type: ignore[arg-type]
    return time.perf_counter() - start, time.process_time() - used


def pooled(recipe: recipes.Recipe) -> tuple[kshot.PolicyMAML, rl.Navigation]:
    """A rate of 0 leaves the policy where it is, so the outer loss is PPO's on its own trajectories, of all tasks together."""
    model, family = recipe.learner().model, recipe.tasks("train")
    learner = kshot.PolicyMAML(model, rule=SGD(lr=0.0), hypergradient="first-order")
    return learner, rl.Navigation(1, family.shots + family.queries - 1)


def returns(
    learner: kshot.PolicyMAML, family: rl.Navigation, tasks: int, seed: int, steps: int = STEPS
) -> torch.Tensor:
    """[tasks, steps + 1]."""
    found = []
    with torch.no_grad():
        for i in range(tasks // TOGETHER):
            goals = family.draw(TOGETHER, seeded(seed, i))
            found.append(torch.stack(returns_by_step(learner.eval(), family, goals, steps, seed, i), 1))
    return torch.cat(found)


def main() -> None:
    recipe = recipes.read("navigation-maml")
    maml, family = recipe.learner(), recipe.tasks("test")
    seconds, processor = trained(maml, recipe.tasks("train"), recipe.training)
    baseline, its_family = pooled(recipe)
    trained(baseline, its_family, recipe.training)
    choices = [kshot.PolicyMAML(baseline.model, rule=SGD(lr)) for lr in RATES]
    tuned = max(choices, key=lambda learner: float(returns(learner, family, 60, seed=99, steps=1)[:, 1].mean()))

    found = {
        "MAML": returns(maml, family, TASKS, 0),
        "trained on all tasks, then tuned": returns(tuned, family, TASKS, 0),
    }
    rows = []
    for name, values in found.items():
        for steps, column in enumerate(values.T):
            mean, interval = mean_interval(column.tolist())
            rows.append({"learner": name, "steps": steps, "return": round(mean, 3), "interval": round(interval, 3)})
            print(f"{name:34} after {steps} steps: {mean:7.2f} ± {interval:.2f}")
    ours, theirs = found.values()
    mean, interval = mean_interval((ours - theirs)[:, 1].tolist())
    print(
        f"MAML − baseline after 1 step: {mean:.2f} ± {interval:.2f}; trained in {seconds:.0f} s ({processor:.0f} s of CPU)"
    )
    settings = {
        "recipe": recipe.settings,
        "test tasks": TASKS,
        "test seed": 0,
        "training seconds": round(seconds),
        "training seconds of the processor": round(processor),
        "baseline's rate": tuned.rule.lr,
    }
    difference = {"mean": round(mean, 3), "interval": round(interval, 3)}
    passed = mean > interval
    print("written to", record("navigation", settings, rows, passed=passed, difference_after_one_step=difference))
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
