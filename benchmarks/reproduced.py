"""The tables of what `kshot reproduce` measured, from results/NAME.json of each recipe; tables.py puts them into the pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tabulated import table

from kshot import recipes
from kshot.evidence import Kept, Standing, standing
from kshot.machine import described
from kshot.recipes.paper import Row
from kshot.settings import flat

__all__ = ["COLLECTED", "OMNIGLOT", "different"]

OMNIGLOT = ("5-way 1-shot", "5-way 5-shot", "20-way 1-shot", "20-way 5-shot")
TRAINED_BY = re.compile(r"(learner|training|tasks(?!\.(test|val)))\.")
AS_PAPER, ALONE = "as paper", "each alone"


def measured(kept: dict[str, Kept]) -> Iterator[Standing]:
    for name in (name for name in recipes.names() if name.startswith("omniglot-")):
        found = standing(recipes.read(name), kept.get(name))
        if found is not None and found.measured:
            yield found


def rows_of(m: Standing, test: str) -> dict[str, Row]:
    """By how they are measured: '' is as the recipe says."""
    found = (row for row in m.paper.rows if row.name.partition(", ")[0] == test)
    return {row.name.partition(", ")[2]: row for row in found}


def ours(m: Standing, row: Row | None) -> str:
    found = None if row is None else m.kept.ours(row.name)
    return "" if found is None else f"{found}{' *' * found.transductive}".replace("*", "\\*")


def omniglot_at_a_glance(kept: dict[str, Kept]) -> str:
    """A row a learner: our figures as they stand, and the paper's."""
    lines = []
    for m in measured(kept):
        _, trained_on, learner = m.kept.name.split("-", 2)
        used = m.kept.settings["learner"]["name"]
        label = learner if used == learner else f"{learner} ({used})"
        first, *others = (rows_of(m, test) for test in OMNIGLOT)
        row = first.get("")
        papers = "" if row is None or row.published is None else row.paper
        if papers and AS_PAPER in first:
            papers += f"; so tested {ours(m, first[AS_PAPER])}"
        lines.append((
            label + ", of 5-shot tasks" * trained_on.endswith("5s") + " †" * m.older,
            ours(m, row), alone(m, first), papers,
            *(ours(m, rows.get("")) + its(rows.get("")) for rows in others),
            f"{len(m.kept.seeds)} of {m.paper.seeds}",
        ))  # fmt: skip
    one, *more = OMNIGLOT
    return table(
        ("accuracy, %", one, ALONE, "the paper's", *(f"{test} (the paper's)" for test in more), "seeds"), lines
    )


def its(row: Row | None) -> str:
    return "" if row is None or row.published is None else f" ({row.paper})"


def alone(m: Standing, rows: dict[str, Row]) -> str:
    """A learner that is not transductive predicts each query alone anyway."""
    plain = m.kept.ours(rows[""].name) if "" in rows else None
    return "the same" if ALONE not in rows and plain and not plain.transductive else ours(m, rows.get(ALONE))


def omniglot(kept: dict[str, Kept]) -> str:
    """A table for each test, and one of the papers and of what the trainings took."""
    found = list(measured(kept))
    text = [f"### {test}\n\n{omniglot_test(found, test)}" for test in OMNIGLOT]
    trained = [
        (f"`{m.kept.name}`", m.paper.source, f"{len(m.kept.seeds)} of {m.paper.seeds}", *minutes(m.kept), m.kept.date)
        for m in found
    ]
    heads = ("recipe", "the paper", "seeds", "minutes a training", "budget", "measured")
    text.append("### The papers, and what a training took\n\n" + table(heads, trained))
    machines = sorted({described(seed.machine) for m in found for seed in m.kept.seeds})
    note = f"Minutes on {' or '.join(machines)}."
    names = {m.kept.name for m in found}
    if missing := [name for name in recipes.names() if name.startswith("omniglot-") and name not in names]:
        note += f" Not measured yet: {', '.join(f'`{name}`' for name in missing)}."
    return "\n\n".join([*text, note])


def omniglot_test(found: list[Standing], test: str) -> str:
    """A row a recipe, and one for each way of measuring it that has no column."""
    lines = []
    for m in found:
        rows = rows_of(m, test)
        if "" in rows:
            cells = (
                ours(m, rows[""]),
                ours(m, rows.get(AS_PAPER)),
                alone(m, rows),
                papers(m, rows),
                m.target(rows[""]),
            )
            lines.append((f"`{m.kept.name}`{' †' * m.older}", *cells))
        for how in (how for how in rows if how not in ("", AS_PAPER, ALONE)):
            lines.append((f"– {how}", ours(m, rows[how]), "", "", "", m.target(rows[how])))
    heads = ("`kshot reproduce …`", "ours", AS_PAPER, ALONE, "the paper's", "target")
    used = [i for i, _ in enumerate(heads) if any(line[i] for line in lines)]
    return table([heads[i] for i in used], [[line[i] for i in used] for line in lines])


def papers(m: Standing, rows: dict[str, Row]) -> str:
    """Its figures, and how far ours are from them, as nearly as we measured in the same way."""
    found = []
    for how, says in ((AS_PAPER if AS_PAPER in rows else "", ""), (ALONE, "alone ")):
        if (row := rows.get(how)) is not None and row.published is not None:
            figure = m.kept.ours(row.name)
            found.append(f"{says}{row.paper}" + (f" ({row.less(figure.mean)})" if figure else ""))
    return ", ".join(found) or "–"


def minutes(kept: Kept) -> tuple[str, str]:
    """'43', '30, over': what a training took, and what it may take."""
    if kept.minutes is None:
        return "–", ""
    return f"{kept.minutes:.0f}", f"{kept.paper.minutes:g}{', over' * kept.over_budget}"


def sinusoid_paper(kept: dict[str, Kept]) -> str:
    """A row for the points, a column for the steps."""
    name = "sinusoid-maml-paper"
    stands = standing(recipes.read(name), kept[name])
    assert stands is not None
    found, older = stands.kept, stands.older
    names = [row.name.split(", ") for row in found.paper.rows]
    points, steps = (list(dict.fromkeys(part)) for part in zip(*names, strict=True))
    rows = [(p, *(str(found.ours(f"{p}, {s}")) for s in steps)) for p in points]
    tasks = {figure.episodes for seed in found.seeds for figure in seed.figures.values()}
    note = f"\n\n± over {' or '.join(f'{n:,}' for n in sorted(tasks))} test tasks; of several seeds the mean, and their standard "
    note += (
        "deviation behind ‖. A seed diverges on a task where its error is more than a thousand times its median one. "
    )
    note += f"Seeds: {len(found.seeds)} of {found.paper.seeds}, {found.minutes:.1f} minutes a training. "
    note += f"`{found.command}`" + ("; the recipe has other settings now." if older else "")
    return table(("squared error from", *(f"after {s}" for s in steps)), rows) + note


def earlier(kept: dict[str, Kept]) -> str:
    """What was measured on the test tasks before a recipe, or a row of it, got the settings that it has."""
    lines = []
    for name, entry in ((name, standing(recipes.read(name), found)) for name, found in kept.items()):
        assert entry is not None
        now = entry.kept
        for before in now.earlier:
            changed = [f"`{change}`" for change in different(before.settings, now.settings)]
            then = replace(
                now, settings=before.settings, seeds=before.seeds, reproduces=before.reproduces or now.reproduces
            )
            title = (f"`{name}`", then.date, ", ".join(changed) or "defaults")
            for row in then.paper.rows:
                if (was := then.ours(row.name)) is not None:
                    lines.append(
                        (*title, f"{row.name}{meant_otherwise(row, then, now)}", was, now.ours(row.name) or "–")
                    )
                    title = ("", "", "")
    return table(("recipe", "measured", "what was different", "on test tasks", "then", "now"), lines)


def different(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What a training depends on that is not as it is now, 'training.lr=0.1' as it was."""
    then, today = flat(was), flat(now)
    changed = [key for key in {**then, **today} if then.get(key) != today.get(key)]
    return [f"{key}={then.get(key, 'default')}" for key in changed if TRAINED_BY.match(key)]


def meant_otherwise(row: Row, then: Kept, now: Kept) -> str:
    """Of a figure whose test has changed: what it was."""
    was = flat(then.meaning(row))
    today = next((flat(now.meaning(other)) for other in now.paper.rows if other.name == row.name), was)
    changed = [f"`{key}={was.get(key, 'default')}`" for key in {**was, **today} if was.get(key) != today.get(key)]
    return f" ({', '.join(changed)})" if changed else ""


COLLECTED: dict[str, Callable[[dict[str, Kept]], str]] = {
    "omniglot": omniglot,
    "omniglot: at a glance": omniglot_at_a_glance,
    "sinusoid-maml-paper": sinusoid_paper,
    "earlier": earlier,
}
