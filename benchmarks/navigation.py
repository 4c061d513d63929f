"""Point navigation: MAML by its recipe, and beside it the same policy trained by the same PPO without an inner step.

    OMP_NUM_THREADS=1 python benchmarks/navigation.py

The baseline gets as many outer steps and as many trajectories of as many tasks in each: all but one of a task's are its query,
where MAML adapts on half of them. Both then adapt in the same way, each step on fresh trajectories of the policy so far. MAML has
the inner rate of its recipe; the baseline is shown with two of RATES, chosen on other tasks: the one that gives most after its
first step, and the one that gives most after the third.
Mean return over 200 tasks after 0, 1, 2, 3 steps, with 95 % intervals, and what MAML is ahead by, task by task; it passes if one
step puts it ahead of the policy that does not adapt, by more than the interval.
"""

from __future__ import annotations

import time

import torch
from evidence import record

import kshot
from kshot import recipes, rl
from kshot.intervals import mean_interval
from kshot.rl.evaluate import returns_by_step
from kshot.rules import SGD
from kshot.types import seeded

RATES = (0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05)
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
    elsewhere = torch.stack(
        [returns(learner, family, 60, seed=99).mean(0) for learner in choices]
    )  # [rates, steps + 1]
    tuned = {
        f"its rate best for {n}": choices[int(elsewhere[:, at].argmax())] for n, at in (("one step", 1), ("three", 3))
    }

    ours = returns(maml, family, TASKS, 0)
    found = {"MAML": ours}
    found |= {f"trained on all tasks, {how}": returns(learner, family, TASKS, 0) for how, learner in tuned.items()}
    rows = []
    for name, values in found.items():
        for steps, column in enumerate(values.T):
            mean, interval = mean_interval(column.tolist())
            ahead, by = mean_interval((ours - values)[:, steps].tolist())
            row = {"learner": name, "steps": steps, "return": round(mean, 3), "interval": round(interval, 3)}
            rows.append(row | {"MAML ahead": round(ahead, 3), "ahead interval": round(by, 3)})
            print(f"{name:46} after {steps}: {mean:8.2f} ± {interval:.2f}   MAML ahead {ahead:7.2f} ± {by:.2f}")
    settings = {
        "recipe": recipe.settings,
        "test tasks": TASKS,
        "test seed": 0,
        "training seconds": round(seconds),
        "training seconds of the processor": round(processor),
        "baseline's rates": {how: learner.rule.lr for how, learner in tuned.items()},
    }
    unadapted = found[f"trained on all tasks, {next(iter(tuned))}"][:, 0]
    gain, by = mean_interval((ours[:, 1] - unadapted).tolist())
    print(f"MAML after one step is ahead of the policy that does not adapt by {gain:.2f} ± {by:.2f}")
    facts = {"ahead of no adaptation": {"mean": round(gain, 3), "interval": round(by, 3)}, "passed": gain > by}
    print("written to", record("navigation", settings, rows, **facts))


if __name__ == "__main__":
    main()
