"""Severity of Parkinson's from ten scored recordings of a patient: RidgeNet beside what needs no meta-learning.

    python benchmarks/parkinsons.py

With the day of the recording and without it. The last ten patients, 60 tasks of each, the same for all; intervals are over
the ten patients, by Student's t, and differences paired. The ridge on the support is centred, its penalty the best one of
PENALTIES on the training patients; the pooled ridge is fitted to these, and knows nothing of the new patient.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from evidence import record
from torch import Tensor

import kshot
from kshot import recipes
from kshot.intervals import mean_interval
from kshot.tasks import Groups
from kshot.types import seeded

TASKS, PENALTIES = 60, (0.01, 0.1, 1.0, 10.0, 100.0)
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]  # support x, support y, query x -> query y


def ridge(penalty: float) -> Predict:
    def predict(x: Tensor, y: Tensor, query: Tensor) -> Tensor:
        centre, mean = x.mean(0), y.mean(0)
        x = x - centre
        w = torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype), x.T @ (y - mean))
        return (query - centre) @ w + mean

    return predict


def pooled(train: Groups) -> Predict:
    x, y = train.examples().double(), train.y[torch.cat([train.data.rows(g) for g in range(len(train.data))])].double()
    fitted = ridge(1.0)
    return lambda _, __, query: fitted(x, y, query)


def by_patient(predict: Predict, tasks: Groups) -> list[float]:
    """The mean squared error of each patient."""
    found = []
    for g, name in enumerate(tasks.data.names):
        batch = tasks.only([name]).sample(TASKS, seeded(0, g))
        errors = []
        for i in range(TASKS):
            s, q = batch.support[i], batch.query[i]
            errors.append(float((predict(s.x.double(), s.y.double(), q.x.double()) - q.y).square().mean()))
        found.append(statistics.fmean(errors))
    return found


def row(name: str, day: bool, errors: list[float], ours: list[float]) -> dict[str, Any]:
    """ours: RidgeNet's, of the same patients."""
    mse, interval = mean_interval(errors)
    gap, its_interval = mean_interval([e - o for e, o in zip(errors, ours, strict=True)])
    print(f"{name:28} {'with' if day else 'without'} the day: {mse:.2f} ± {interval:.2f}", flush=True)
    found = {"learner": name, "day": day, "mse": mse, "interval": interval}
    return found | {"more than RidgeNet": gap, "gap, interval": its_interval, "patients": errors}


def main() -> None:
    rows, settings = [], {}
    for day in (True, False):
        changes = [] if day else ["tasks.day=false", "learner.encoder.inputs=16"]
        recipe = recipes.read("parkinsons-ridgenet", changes)
        settings[f"day={day}"] = recipe.settings
        train, test = recipe.tasks("train"), recipe.tasks("test")
        learner = kshot.fit(recipe.learner(), train, validate=recipe.tasks("val"), progress=False, **recipe.training)

        def meta(x: Tensor, y: Tensor, query: Tensor, learner: kshot.MetaLearner = learner) -> Tensor:
            with torch.no_grad():
                return learner.predict(learner.adapt(kshot.Batch(x.float(), y.float())), query.float())

        best = min(PENALTIES, key=lambda penalty: statistics.fmean(by_patient(ridge(penalty), train)))
        ours = by_patient(meta, test)
        audited = kshot.evaluate(
            learner, test, 600, curves=False
        )  # other draws, through the auditor; over patients, too
        print(f"day={day}: {audited}", flush=True)
        settings[f"day={day}, by evaluate"] = {
            "mse": audited.mean,
            "interval": audited.interval,
            "audit": audited.audit,
        }
        rows += [
            row("RidgeNet, meta-trained", day, ours, ours),
            row(f"ridge on the support, {best:g}", day, by_patient(ridge(best), test), ours),
            row(
                "mean of the support", day, by_patient(lambda x, y, query: y.mean(0).expand(len(query), 1), test), ours
            ),
            row("ridge on other patients", day, by_patient(pooled(train), test), ours),
        ]
    others = [x for x in rows if x["day"] and not x["learner"].startswith("RidgeNet")]
    beaten = all(x["more than RidgeNet"] > x["gap, interval"] for x in others)
    print("written to", record("parkinsons", {"tasks a patient": TASKS, **settings}, rows, passed=beaten))


if __name__ == "__main__":
    main()
