"""Trained on one thing, tested on another: domains, alphabets, damaged drawings, numbers of classes never trained on,
classes that look alike.

    KSHOT_DATA=... python benchmarks/across.py [--runs runs/across]

A prototype network throughout, trained once as the recipe omniglot-5w1s-protonet says but for STEPS steps, on tasks that differ;
each test is 5-way 1-shot where nothing else is said, over 1,000 tasks with 15 queries a class. Differences are paired, task by
task. Interrupted, it goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from evidence import record
from torch import Tensor

import kshot
from kshot import recipes
from kshot.intervals import mean_interval
from kshot.models import Conv4
from kshot.tasks import Episodes, Glyphs, Labelled, Omniglot, omniglot
from kshot.types import Task, draw, seeded

STEPS, EPISODES = 2000, 1000
RECIPE = "omniglot-5w1s-protonet"
LATIN = ("Latin", "Greek", "Cyrillic", "Armenian", "Anglo-Saxon_Futhorc")  # drawn with the same few strokes
LATIN_TOO = "Old_Church_Slavonic_(Cyrillic)"  # of the test alphabets
Damage = Callable[[Tensor, torch.Generator], Tensor]


class Damaged:
    """The tasks of a source, their images damaged: support and query alike."""

    def __init__(self, tasks: Episodes, damage: Damage) -> None:
        self.tasks, self.damage, self.identities = tasks, damage, tasks.identities

    def sample(self, n: int, generator: torch.Generator) -> Task:
        task = draw(self.tasks, n, generator)
        halves = (kshot.Batch(self.damage(b.x, generator), b.y, b.ways) for b in (task.support, task.query))
        return Task(*halves, task.classes)


def noisy(x: Tensor, generator: torch.Generator, deviation: float) -> Tensor:
    return (x + deviation * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def occluded(x: Tensor, generator: torch.Generator, side: int) -> Tensor:
    """A black square somewhere."""
    size = x.shape[-1]
    corner = torch.randint(size - side + 1, (2, *x.shape[:-3], 1, 1, 1), generator=generator)
    along = torch.arange(size)
    rows, columns = along.view(-1, 1), along.view(1, -1)
    hidden = (rows >= corner[0]) & (rows < corner[0] + side) & (columns >= corner[1]) & (columns < corner[1] + side)
    return x.masked_fill(hidden, 0)


def thicker(x: Tensor, generator: torch.Generator) -> Tensor:
    return F.max_pool2d(x.flatten(0, -4), 3, 1, 1).reshape(x.shape)


def thinner(x: Tensor, generator: torch.Generator) -> Tensor:
    """Eroded along each direction by half as much as `thicker` adds, or little would be left."""
    return -F.max_pool2d(F.pad(-x.flatten(0, -4), (0, 1, 0, 1)), 2, 1).reshape(x.shape)


DAMAGES: dict[str, Damage] = {
    "noise, deviation 0.1": partial(noisy, deviation=0.1),
    "noise, deviation 0.3": partial(noisy, deviation=0.3),
    "noise, deviation 0.5": partial(noisy, deviation=0.5),
    "a hidden square of 7 × 7": partial(occluded, side=7),
    "a hidden square of 14 × 14": partial(occluded, side=14),
    "thicker strokes": thicker,
    "thinner strokes": thinner,
}


def trained(name: str, tasks: Any, runs: Path, **changes: Any) -> kshot.MetaLearner:
    recipe = recipes.read(RECIPE)
    settings = {**recipe.training, "steps": STEPS, "average": 0.98, **changes}
    print(f"training on {name}", flush=True)
    kshot.fit(recipe.learner(), tasks, out=runs / name, progress=False, **settings)
    return kshot.load(runs / name)


def measured(learner: kshot.MetaLearner, tasks: Any) -> kshot.Evaluation:
    return kshot.evaluate(learner, tasks, EPISODES, curves=False)


def row(
    question: str, trained_on: str, tested_on: str, found: kshot.Evaluation, beside: kshot.Evaluation | None = None
) -> dict[str, Any]:
    """beside: of another learner on the same tasks, or of this one on the same before they were damaged."""
    print(f"{question}: {trained_on} → {tested_on}: {found}", flush=True)
    line = {"question": question, "trained on": trained_on, "tested on": tested_on}
    line |= {"accuracy": found.mean, "interval": found.interval}
    if beside is not None:
        gaps = [x - y for x, y in zip(found.values, beside.values, strict=True)]
        line["gap"], line["gap, interval"] = mean_interval(gaps)
    return line


def by_alphabets(latin: bool) -> Labelled:
    """153 characters in four rotations: of the Latin-like alphabets, or of all the others."""
    every = omniglot("trainval")
    is_latin = [name.split("/")[0] in LATIN for name in every.groups or ()]
    chosen = [c for c, known in enumerate(is_latin) if known == latin]
    if not latin:
        quarter = len(chosen) // 4  # rotations stand one after the other
        some = torch.randperm(quarter, generator=seeded(0))[: sum(is_latin) // 4].tolist()
        chosen = [chosen[k * quarter + i] for k in range(4) for i in some]
    return every.only(chosen)


def but_for(data: Labelled, alphabet: str) -> Labelled:
    return data.only([c for c, group in enumerate(data.groups or ()) if group.split("/")[0] != alphabet])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/across"))
    runs = parser.parse_args().runs
    omni = recipes.read(RECIPE).tasks("train")
    many = {"ways": omni.ways, "shots": omni.shots, "queries": omni.queries, **omni.looks}
    sources: dict[str, Any] = {
        "Omniglot": omni,
        "generated characters": Glyphs("train", classes=4800, **many),
        "Latin-like alphabets": Episodes(by_alphabets(latin=True), **many),
        "as many characters of others": Episodes(by_alphabets(latin=False), **many),
    }
    learners = {name: trained(name, tasks, runs) for name, tasks in sources.items()}
    five = Omniglot("trainval", **{**many, "ways": 5, "queries": 5})  # 12 of them have as many images
    learners["5-way tasks of Omniglot"] = trained("5-way tasks of Omniglot", five, runs, meta_batch=12)

    whole = {"Omniglot": Omniglot("test"), "generated characters": Glyphs("test")}
    rows = []
    for tested, tasks in whole.items():
        at_home = measured(learners[tested], tasks)
        rows.append(row("domains", tested, tested, at_home))
        other = next(name for name in whole if name != tested)
        rows.append(row("domains", other, tested, measured(learners[other], tasks), at_home))
        pixels = measured(kshot.NearestCentroid(distance="cosine"), tasks)
        rows.append(row("domains", "nothing: raw pixels, nearest centroid", tested, pixels, at_home))

    foreign = Episodes(but_for(omniglot("test"), LATIN_TOO), 5, 1, 15)
    mixed, latin = (
        measured(learners[name], foreign) for name in ("as many characters of others", "Latin-like alphabets")
    )
    rows.append(row("alphabets", "as many characters of others", "alphabets that are not Latin-like", mixed))
    rows.append(row("alphabets", "Latin-like alphabets", "alphabets that are not Latin-like", latin, mixed))

    undamaged = measured(learners["Omniglot"], whole["Omniglot"])
    rows.append(row("damage", "Omniglot", "Omniglot", undamaged))
    for name, damage in DAMAGES.items():
        damaged = measured(learners["Omniglot"], Damaged(whole["Omniglot"], damage))
        rows.append(row("damage", "Omniglot", name, damaged, undamaged))

    asked = {f"{ways}-way": Omniglot("test", ways) for ways in (5, 20, 50)}
    asked["5 to 20 ways, 1 to 5 shots"] = Omniglot("test", (5, 20), (1, 5), balanced=False)
    for name, tasks in asked.items():
        few = measured(learners["5-way tasks of Omniglot"], tasks)
        rows.append(row("ways", "5-way tasks", name, few))
        rows.append(row("ways", f"{omni.ways}-way tasks", name, measured(learners["Omniglot"], tasks), few))

    for ways in (5, 20):
        rows.append(
            row(
                "alike",
                "Omniglot",
                f"{ways}-way, of all alphabets",
                measured(learners["Omniglot"], asked[f"{ways}-way"]),
            )
        )
        of_one = measured(learners["Omniglot"], Omniglot("test", ways, alike=1.0))
        rows.append(row("alike", "Omniglot", f"{ways}-way, all of one alphabet", of_one))
    settings = {
        "recipe": recipes.read(RECIPE).settings,
        "steps": STEPS,
        "test tasks": EPISODES,
        "Latin-like": LATIN,
        "left out with them": LATIN_TOO,
    }
    settings["parameters"] = sum(p.numel() for p in Conv4().parameters())
    print("written to", record("across", settings, rows))


if __name__ == "__main__":
    main()
