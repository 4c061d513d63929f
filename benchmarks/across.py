"""Trained on one thing, tested on another: domains, alphabets, damaged drawings, numbers of classes never trained on,
classes that look alike.

    KSHOT_DATA=... python benchmarks/across.py [--runs runs/across]

A prototype network throughout, trained once as the recipe omniglot-5w1s-protonet says but for STEPS steps, on tasks that differ;
each test is 5-way 1-shot where nothing else is said, over 1,000 tasks with 15 queries a class. Differences are paired, task by
task. How much the choice of five alphabets matters is shown by two such choices at random beside the Latin-like ones.
Interrupted, it goes on: what was measured of a learner lies beside its run.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from evidence import record
from torch import Tensor

import kshot
from kshot import atomic, recipes
from kshot.evaluation.protocol import fingerprint_of
from kshot.intervals import mean_interval
from kshot.models import Conv4
from kshot.tasks import Episodes, Glyphs, Labelled, Omniglot, omniglot
from kshot.training.checkpoint import fingerprint
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


def trained(name: str, tasks: Any, runs: Path, **changes: Any) -> Measured:
    recipe = recipes.read(RECIPE)
    settings = {**recipe.training, "steps": STEPS, "average": 0.98, **changes}
    print(f"training on {name}", flush=True)
    kshot.fit(recipe.learner(), tasks, out=runs / name, progress=False, **settings)
    return Measured(kshot.load(runs / name), runs / name)


class Measured:
    """A learner's evaluations, each made once."""

    def __init__(self, learner: kshot.MetaLearner, place: Path) -> None:
        self.learner, self.place, self.of = learner, place, fingerprint(place) if place.exists() else ""

    def __call__(self, test: str, tasks: Any) -> kshot.Evaluation:
        path = self.place / "measured" / f"{test}.json"
        kept = json.loads(path.read_text()) if path.is_file() else {}
        same = kept.pop("of", None) == self.of and kept.get("episodes") == EPISODES
        if not same or kept["tasks"] != fingerprint_of(tasks, 0):
            found = kshot.evaluate(self.learner, tasks, EPISODES, curves=False)
            atomic.write(path, json.dumps({"of": self.of, **found.to_dict()}))
            return found
        return kshot.Evaluation.from_dict(kept)


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


def by_alphabets(chosen: Sequence[str], characters: int) -> Labelled:
    """So many characters of these alphabets, at random if there are more, each in four rotations."""
    every = omniglot("trainval")
    alphabet = [name.split("/")[0] for name in every.groups or ()]
    quarter = len(alphabet) // 4  # rotations stand one after the other
    upright = [c for c in range(quarter) if alphabet[c] in chosen]
    some = [upright[i] for i in torch.randperm(len(upright), generator=seeded(0))[:characters].tolist()]
    return every.only([k * quarter + c for k in range(4) for c in some])


def five_others(choice: int, characters: int) -> tuple[str, ...]:
    """Five alphabets at random that are not Latin-like, the first such choice that has so many characters."""
    every = omniglot("trainval")
    count = Counter(name.split("/")[0] for name in (every.groups or ())[: len(every) // 4])
    others = sorted(count.keys() - {*LATIN})
    for attempt in range(1000):
        picked = [others[i] for i in torch.randperm(len(others), generator=seeded(choice, attempt))[:5].tolist()]
        if sum(count[name] for name in picked) >= characters:
            return tuple(sorted(picked))
    raise ValueError(f"no five alphabets have {characters} characters")


def but_for(data: Labelled, alphabet: str) -> Labelled:
    return data.only([c for c, group in enumerate(data.groups or ()) if group.split("/")[0] != alphabet])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/across"))
    runs = parser.parse_args().runs
    omni = recipes.read(RECIPE).tasks("train")
    many = {"ways": omni.ways, "shots": omni.shots, "queries": omni.queries, **omni.looks}
    latin = by_alphabets(LATIN, 10**6)
    size = len(latin) // 4
    others = [five_others(choice, size) for choice in range(2)]
    controls = [f"five others: {', '.join(chosen)}" for chosen in others]
    sources: dict[str, Any] = {
        "Omniglot": omni,
        "generated characters": Glyphs("train", classes=4800, **many),
        "Latin-like alphabets": Episodes(latin, **many),
        **{name: Episodes(by_alphabets(chosen, size), **many) for name, chosen in zip(controls, others, strict=True)},
    }
    learners = {name: trained(name, tasks, runs) for name, tasks in sources.items()}
    five = Omniglot("trainval", **{**many, "ways": 5, "queries": 5})  # 12 of them have as many images
    learners["5-way tasks of Omniglot"] = trained("5-way tasks of Omniglot", five, runs, meta_batch=12)
    pixels = Measured(kshot.NearestCentroid(distance="cosine"), runs / "pixels")

    whole = {"Omniglot": Omniglot("test"), "generated characters": Glyphs("test")}
    rows = []
    for tested, tasks in whole.items():
        at_home = learners[tested](tested, tasks)
        rows.append(row("domains", tested, tested, at_home))
        other = next(name for name in whole if name != tested)
        rows.append(row("domains", other, tested, learners[other](tested, tasks), at_home))
        rows.append(row("domains", "nothing: raw pixels, nearest centroid", tested, pixels(tested, tasks), at_home))

    foreign, title = Episodes(but_for(omniglot("test"), LATIN_TOO), 5, 1, 15), "alphabets that are not Latin-like"
    first, second, like_latin = (learners[name](title, foreign) for name in (*controls, "Latin-like alphabets"))
    rows.append(row("alphabets", controls[0], title, first))
    rows.append(row("alphabets", controls[1], title, second, first))
    rows.append(row("alphabets", f"Latin-like: {', '.join(LATIN)}", title, like_latin, first))

    undamaged = learners["Omniglot"]("Omniglot", whole["Omniglot"])
    rows.append(row("damage", "Omniglot", "Omniglot", undamaged))
    for name, damage in DAMAGES.items():
        damaged = learners["Omniglot"](name, Damaged(whole["Omniglot"], damage))
        rows.append(row("damage", "Omniglot", name, damaged, undamaged))

    asked = {f"{ways}-way": Omniglot("test", ways) for ways in (5, 20, 50)}
    asked["5 to 20 ways, 1 to 5 shots"] = Omniglot("test", (5, 20), (1, 5), balanced=False)
    for name, tasks in asked.items():
        few = learners["5-way tasks of Omniglot"](name, tasks)
        rows.append(row("ways", "5-way tasks", name, few))
        rows.append(row("ways", f"{omni.ways}-way tasks", name, learners["Omniglot"](name, tasks), few))

    for ways in (5, 20):
        title, of_one = f"{ways}-way, of all alphabets", f"{ways}-way, all of one alphabet"
        rows.append(row("alike", "Omniglot", title, learners["Omniglot"](f"{ways}-way", asked[f"{ways}-way"])))
        rows.append(row("alike", "Omniglot", of_one, learners["Omniglot"](of_one, Omniglot("test", ways, alike=1.0))))
    settings = {
        "recipe": recipes.read(RECIPE).settings,
        "steps": STEPS,
        "test tasks": EPISODES,
        "characters of five alphabets": size,
        "left out of the test with them": LATIN_TOO,
    }
    settings["parameters"] = sum(p.numel() for p in Conv4().parameters())
    print("written to", record("across", settings, rows))


if __name__ == "__main__":
    main()
