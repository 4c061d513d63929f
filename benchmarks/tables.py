"""The tables of README.md and docs/results.md, made from results/*.json: nothing in them is typed. `--check` only compares.

    python benchmarks/tables.py [--check]

A page holds a pair of comments for each table, <!-- table: NAME --> and <!-- end -->.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from learning_speed import OF_ONE_SHOT, of_another
from reproduced import COLLECTED, OMNIGLOT, different
from tabulated import counted, table

from kshot import atomic, recipes
from kshot.evaluation import written
from kshot.evidence import read_all
from kshot.machine import described
from kshot.settings import flat

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{page}.md" for page in ("results", "choices", "performance")))
Result = dict[str, Any]


def percent(row: Result, name: str = "accuracy", interval: str = "interval", signed: bool = False) -> str:
    return written("accuracy", 100 * row[name], 100 * row[interval], signed)


def error(row: Result, name: str = "mse", interval: str = "interval", signed: bool = False) -> str:
    return written("mse", row[name], row[interval], signed)


def source(result: Result) -> str:
    m = result["machine"]
    on = m["gpu"] if "--device cuda" in result["command"] else described(m)
    return f"\n\n<sub>{on}, torch {result['versions']['torch']}; `{result['command']}`</sub>"


def costs(x: Result) -> tuple[str, str, str]:
    seconds = "–" if x["training seconds"] is None else f"{x['training seconds']:,}"
    return seconds, f"{x['adapt ms']:.1f}", f"{x['parameters']:,}"


def glyph_learners(r: Result) -> str:
    rows = [
        (
            x["learner"] + (" *" if x["transductive"] else ""),
            x["family"],
            *(percent(x, f"accuracy, {k} shot", f"interval, {k} shot") for k in (1, 5)),
            *costs(x),
        )
        for x in sorted(r["rows"], key=lambda x: -x["accuracy, 1 shot"])
    ]
    heads = ("learner", "family", "1 shot, %", "5 shots, %", "training, s", "to adapt, ms", "parameters")
    note = "\n\n\\* transductive: the query examples of a task are predicted together."
    note += " Several trainings shared the machine: their seconds are upper bounds."
    return table(heads, rows) + note + source(r)


def sinusoid_learners(r: Result) -> str:
    rows = [
        (
            x["learner"],
            x["family"],
            *(error(x, f"mse, {k} points", f"interval, {k} points") for k in (5, 10)),
            *costs(x),
        )
        for x in sorted(r["rows"], key=lambda x: x["mse, 10 points"])
    ]
    heads = ("learner", "family", "5 points", "10 points", "training, s", "to adapt, ms", "parameters")
    return table(heads, rows) + source(r)


def strategy(r: Result) -> str:
    def shown(x: Result, name: str) -> str:
        return "diverges" if x["mse"] is None or x["mse"] > 100 else error(x, name, f"{name}, interval")

    rows = []
    for x in r["rows"]:
        x = {**x, "mse, interval": x["interval"]}
        gain = "" if x["rule"].startswith("fixed") else shown(x, "better by")
        rows.append((x["rule"], shown(x, "mse"), gain, x["parameters"]))
    best = r["settings"]["best fixed rate"]
    return table(("inner rule", "squared error", f"better than {best}, task by task", "its parameters"), rows) + source(
        r
    )


def across(r: Result) -> str:
    """What changes between training and test, in groups."""
    rows, last, beside = [], "", r["rows"][0]
    for x in r["rows"]:
        question = "" if x["question"] == last else x["question"]
        gap = percent(x, "gap", "gap, interval", signed=True) if "gap" in x else ""
        beside = beside if gap else x
        what = next((key for key in ("trained on", "tested on") if x[key] != beside[key]), "")
        than = f"{what} {beside[what].partition(':')[0]}" if what else ""
        rows.append((question, x["trained on"], x["tested on"], percent(x), gap, than))
        last = x["question"]
    trained, recipe = r["settings"]["steps"], r["settings"]["recipe"]["training"]["steps"]
    note = (
        "\n\nA difference is on the same tasks, and its interval is over those. One "
        f"training each, of {trained:,} steps where the recipe takes {recipe:,}: what another seed would change is not in it. "
        "Of 180-way tasks one is met a step, with one query a class; of 5-way tasks twelve, with five: about as many images."
    )
    return table(("", "trained on", "tested on", "accuracy, %", "difference, paired", "from"), rows) + note + source(r)


def sinusoid(r: Result) -> str:
    steps = sorted({x["steps"] for x in r["rows"]})
    rows = []
    for learner in dict.fromkeys(x["learner"] for x in r["rows"]):
        found = {x["steps"]: error(x) for x in r["rows"] if x["learner"] == learner}
        rows.append((learner, *(found[s] for s in steps)))
    return table(("squared error after", *map(counted, steps)), rows) + source(r)


def navigation(r: Result) -> str:
    steps = sorted({x["steps"] for x in r["rows"]})
    rows = []
    for learner in dict.fromkeys(x["learner"] for x in r["rows"]):
        found = {x["steps"]: error(x, "return") for x in r["rows"] if x["learner"] == learner}
        rows.append((learner, *(found[s] for s in steps)))
    heads = ("return after", *map(counted, steps))
    return table(heads, rows) + source(r)


def parkinsons(r: Result) -> str:
    def cells(x: Result) -> tuple[str, str]:
        first = x["learner"].startswith("RidgeNet")
        return error(x), "" if first else error(x, "more than RidgeNet", "gap, interval", signed=True)

    shown = {(x["learner"].partition(",")[0], x["day"]): cells(x) for x in r["rows"]}
    rows = [(name, *shown[name, True], *shown[name, False]) for name in dict.fromkeys(name for name, _ in shown)]
    heads = ("squared error", "with the day", "more than RidgeNet, paired", "from the voice alone", "more, paired")
    return table(heads, rows) + source(r)


TF_IDF = (("accuracy",), ("tf-idf", "tf-idf, interval"), ("better by", "better by, interval"))


def intents(r: Result) -> str:
    rows = [
        (
            x["dataset"],
            x["shots"],
            *(percent(x, *names) for names in TF_IDF),
            f"{x['training seconds a split']:.0f}",
        )
        for x in r["rows"]
    ]
    heads = ("intents", "shots", "ProtoNet, %", "TF-IDF centroid, %", "better by, paired", "training a split, s")
    return table(heads, [[str(cell).replace("-", "−") for cell in row] for row in rows]) + source(r)


def meta_gradients(r: Result) -> str:
    worst: dict[tuple[str, str], float] = {}
    for x in r["rows"]:
        key = (x["learner"], x["peer"])
        worst[key] = max(worst.get(key, 0.0), x["difference"])
    peers = list(dict.fromkeys(peer for _, peer in worst))
    rows = [
        (learner, *(f"{worst[learner, peer]:.0e}" if (learner, peer) in worst else "" for peer in peers))
        for learner in dict.fromkeys(learner for learner, _ in worst)
    ]
    return table(("largest difference, float64", *peers), rows) + source(r)


def meta_step(r: Result) -> str:
    """The best peer in torch, kshot as it comes, kshot compiled, and JAX."""
    rows = []
    for problem in dict.fromkeys((x["problem"], x["steps"]) for x in r["rows"]):
        found = {x["contender"]: x for x in r["rows"] if (x["problem"], x["steps"]) == problem}
        peer = found[found["kshot auto"]["best peer"]]
        cells = [f"{1000 * peer['median']:.1f} ({peer['contender']})", timed(found["kshot auto"])]
        cells += [timed(found["kshot compiled"]) if "kshot compiled" in found else ""]
        cells += [milliseconds(found["jax"]) if "jax" in found else ""]
        rows.append((problem[0], problem[1] or "", *cells))
    heads = ("one meta-step, ms", "inner steps", "best peer", "kshot", "kshot, compiled", "JAX")
    return table(heads, rows) + source(r)


def timed(x: Result) -> str:
    times = f"{x['ratio']:.1f} ×"
    return f"{milliseconds(x)}, {f'**{times}**' if x['ratio'] > 1 else times}"


def milliseconds(x: Result) -> str:
    return f"{1000 * x['median']:.{1 if x['median'] > 0.01 else 2}f}"


def meta_step_ways(r: Result) -> str:
    """Every contender."""
    rows = [
        (
            x["problem"],
            x["steps"] or "",
            x["contender"] + (f" ({x['way']})" if "way" in x else ""),
            f"{1000 * x['median']:.2f}",
            f"{1000 * x['lowest']:.2f}–{1000 * x['highest']:.2f}",
            f"{x['ratio']:.2f}",
            f"{x['of jax']:.2f}" if "of jax" in x else "",
            f"{x['deviation']:.0e}",
            x.get("choice", ""),
            x.get("compilation", ""),
        )
        for x in r["rows"]
    ]
    heads = (
        "",
        "inner steps",
        "",
        "ms",
        "range",
        "best torch peer / this",
        "JAX / this",
        "off",
        "choice, steps",
        "compilation, s",
    )
    return table(heads, rows) + source(r)


def three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def attempts(r: Result) -> str:
    rows = [
        (
            x["attempt"],
            x["on"],
            x["expected"],
            f"{three_digits(x['before'])} → {three_digits(x['after'])}",
            f"{x['before'] / x['after']:.2f} ×",
            x["kept"],
        )
        for x in r["rows"]
    ]
    return table(("attempt", "on", "expected", "ms", "", ""), rows) + source(r)


def floor(r: Result) -> str:
    """Of the Conv4-64 step with stride 2, 5-way 1-shot, 15 queries a class, one inner step, counted from the shapes."""
    # Of one image; a multiplication and an addition are two. Back costs twice forward, and back through both about five times.
    forward = 2 * (196 * 9 * 64 + (49 + 16 + 4) * 576 * 64) / 1e9
    query, support = 75 * 3 * forward, 5 * 8 * forward
    rate = r["gigaflops_of_a_thread"]
    rows = [
        ("one image forward", f"{forward:.4f}", f"{1000 * forward / rate:.2f}"),
        ("75 query images, forward and back", f"{query:.2f}", f"{1000 * query / rate:.1f}"),
        ("5 support images, forward, back, and back through both", f"{support:.2f}", f"{1000 * support / rate:.1f}"),
    ]
    note = f"\n\nIn a large matrix product one thread does {rate:.0f} thousand million operations a second. Batch norm's double "
    note += f"backward is {100 * r['batch_norm_double_backward']:.0f} % of the eager step."
    return table(("of one task", "thousand million operations", "ms on one thread"), rows) + note + source(r)


def scaling(r: Result) -> str:
    rows = [(x["contender"], x["against"], x["from"], x["to"], f"{x['exponent']:.2f}") for x in r["rows"]]
    return table(("", "cost against", "from", "to", "exponent"), rows) + source(r)


def hypergradient_memory(r: Result) -> str:
    steps = r["settings"]["steps"]
    rows = []
    for x in r["summary"]:
        at = {y["steps"]: y["MB"] for y in r["rows"] if (y["model"], y["way"]) == (x["model"], x["way"])}
        missed = ", missed" * (not x.get("met", True))
        share = f"{x['share at 32 steps']:.3f}" + (f" (target {x['target']:g}{missed})" if "target" in x else "")
        rows.append((x["model"], x["way"], *(f"{at[s]:,.1f}" for s in steps), f"{x['MB a step']:.3f}", share))
    heads = ("MB a meta-gradient adds", "hypergradient", *map(counted, steps), "a step", "of unrolled, at 32")
    return table(heads, rows) + source(r)


def flat_memory(r: Result) -> str:
    rows = [
        (x["way"], f"{x['MB at step 100']:.1f}", f"{x['MB at step 1000']:.1f}", f"{100 * x['largest change']:.2f} %")
        for x in r["rows"]
    ]
    heads = ("hypergradient", "MB resident at step 100", "at step 1,000", "largest change between")
    return table(heads, rows) + source(r)


def sampling(r: Result) -> str:
    rows = [(x["queries"], x["tasks_at_once"], f"{x['median']:,}") for x in r["rows"]]
    return table(("queries a class", "tasks at once", "tasks a second"), rows) + source(r)


def choices(r: Result) -> str:
    """A table a recipe: a row for each training, the shorter ones first, and a column for each figure."""
    text = []
    for name, rows in itertools.groupby(sorted(r["rows"], key=lambda x: x["recipe"]), lambda x: x["recipe"]):
        now, lines = recipes.read(name).settings, []
        trained = list(rows)
        measured = [x for x in OMNIGLOT if any(x in row["figures"] for row in trained)]
        measured += dict.fromkeys(figure for row in trained for figure in row["figures"] if figure not in measured)
        varied = dict.fromkeys(key.partition("=")[0] for x in trained for key in different(x["settings"], now))
        has = [f"`{key}={value}`" for key, value in flat(now).items() if key in varied and key != "training.steps"]
        recipe = f"The [recipe](../src/kshot/recipes/{name}.toml)" + (f" has {', '.join(has)}" if has else "") + ":"
        for x in trained:
            changed = [f"`{change}`" for change in different(x["settings"], now) if "training.steps=" not in change]
            changed += [f"`{change}` at test" for change in x["at test"]]
            own = now["tasks"].get("test", {})
            changed += [
                f"`{key}={value}` at test" for key, value in x.get("tests", {}).items() if own.get(key) != value
            ]
            cells = [chosen_by(x["figures"].get(figure)) for figure in measured]
            steps = x["settings"]["training"].get("steps", 0)
            lines.append((steps, len(changed), ", ".join(changed) or "as it is", f"{x['episodes']:,}", cells))
        table_rows = [(f"{steps:,}", changed, tasks, *cells) for steps, _, changed, tasks, cells in sorted(lines)]
        text.append(
            f"### `{name}`\n\n{recipe}\n\n"
            + table(("steps", "different from the recipe", "tasks", *measured), table_rows)
        )
    days = sorted({x["date"] for x in r["rows"]})
    note = f"\n\n<sub>Measured from {days[0]} to {days[-1]}; `python benchmarks/choices.py RECIPE --set …`</sub>"
    return "\n\n".join(text) + note  # by several commits, and on more than one machine


def chosen_by(x: Result | None) -> str:
    if x is None:
        return ""
    if x["metric"] == "accuracy":
        return percent(x, "mean")
    if x["mean"] is None:
        strays = x["diverges on tasks"]
        return f"median {x['median']:.3f}; diverges on {strays} task{'s' * (strays > 1)}"
    return error(x, "mean")


SOME_STEPS, SOME_SHOTS = (0, 1, 5, 20), (1, 2, 5, 10, 15)


def learning_speed(r: Result) -> str:
    def at(points: list[dict[str, float]], where: int) -> str:
        found = next((p for p in points if p["at"] == where), None)
        return percent(found) if found else ""

    kept = read_all(ROOT / "results")
    stale = {x["learner"] for x in r["rows"] if of_another(x, kept)}
    rows = [
        (
            x["learner"] + " \\*" * x["transductive"] + " †" * (x["learner"] in stale),
            x["family"],
            *(at(x["steps"], s) for s in SOME_STEPS),
            *(at(x["shots"], k) for k in SOME_SHOTS),
        )
        for x in sorted(r["rows"], key=lambda x: -x["shots"][0]["accuracy"])
    ]
    heads = ("learner", "family", *(counted(s) for s in SOME_STEPS), *(f"{k} shot{'s' * (k > 1)}" for k in SOME_SHOTS))
    note = f"\n\n\\* transductive: the {5 * r['settings']['queries']} queries of a task are predicted together."
    note += " † of a learner that was trained anew since." if stale else ""
    every = (name.removeprefix(OF_ONE_SHOT) for name in recipes.names() if name.startswith(OF_ONE_SHOT))
    if missing := [name for name in every if all(x["learner"] != name for x in r["rows"])]:
        note += f" Not measured yet: {', '.join(missing)}."
    return table(heads, rows) + note + source(r)


TABLES: dict[str, Callable[[Result], str]] = {
    "glyph-learners": glyph_learners,
    "across": across,
    "sinusoid": sinusoid,
    "sinusoid-learners": sinusoid_learners,
    "strategy": strategy,
    "navigation": navigation,
    "intents": intents,
    "parkinsons": parkinsons,
    "meta-gradients": meta_gradients,
    "meta-step": meta_step,
    "meta-step: all": meta_step_ways,
    "attempts": attempts,
    "attempts: floor": floor,
    "scaling": scaling,
    "hypergradient-memory": hypergradient_memory,
    "hypergradient-memory-gpu": hypergradient_memory,
    "flat-memory": flat_memory,
    "sampling": sampling,
    "choices": choices,
    "learning-speed": learning_speed,
}


def filled(text: str) -> str:
    """The page with each table made anew."""

    def make(match: re.Match[str]) -> str:
        name = match[1]
        if name in COLLECTED:
            return f"<!-- table: {name} -->\n{COLLECTED[name](read_all(ROOT / 'results'))}\n<!-- end -->"
        result = json.loads((ROOT / "results" / f"{name.partition(':')[0]}.json").read_text())
        return f"<!-- table: {name} -->\n{TABLES[name](result)}\n<!-- end -->"

    return re.sub(r"<!-- table: ([\w: -]+?) -->.*?<!-- end -->", make, text, flags=re.DOTALL)


def main() -> None:
    for page in PAGES:
        before = page.read_text()
        after = filled(before)
        if "--check" in sys.argv and before != after:
            raise SystemExit(f"{page.name} does not say what results/*.json say: run `make tables`")
        if before != after:
            atomic.write(page, after)


if __name__ == "__main__":
    main()
