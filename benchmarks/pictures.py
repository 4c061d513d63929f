"""The pictures of README.md and docs/, drawn from results/*.json: nothing in them is typed.

    python benchmarks/pictures.py

Each keeps a digest of the rows that it was drawn from.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable
from typing import Any

from matplotlib import colormaps
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tables import ROOT, SOME_SHOTS, SOME_STEPS, Result, counted

from kshot import atomic
from kshot.report.canvas import ACCENT, INK, MUTED, name_axes, png

BEHIND = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}  # of a number on a line


def picture_of_meta_step(r: Result) -> bytes:
    """How many times as fast as the best peer, a row a workload."""
    rows = list(dict.fromkeys((x["problem"], x["steps"]) for x in r["rows"]))
    at = {(x["problem"], x["steps"], x["contender"]): x["ratio"] for x in r["rows"]}
    contenders = {"kshot auto": (INK, "eager", -13), "kshot compiled": (ACCENT, "compiled", 6)}

    def draw(figure: Any) -> None:
        ax = figure.add_axes((0.36, 0.16, 0.6, 0.74))
        name_axes(ax, "times as fast as the best peer", "")
        ax.set_xscale("log")
        ax.axvline(1, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2.5)))
        for contender, (colour, name, above) in contenders.items():
            points = [(at[(*row, contender)], y) for y, row in enumerate(rows) if (*row, contender) in at]
            ax.plot(*zip(*points, strict=True), "o", color=colour, markersize=6, label=name)
            for x, y in points:
                looks = {"ha": "center", "fontsize": 7.5, "color": colour, "bbox": BEHIND, "zorder": 3}
                ax.annotate(f"{x:.1f}", (x, y), (0, above), textcoords="offset points", **looks)
        names = [f"{problem}{f', {counted(steps)}' if steps else ''}" for problem, steps in rows]
        ax.set_yticks(range(len(rows)), names)
        ax.set_xticks([1, 3, 10, 30], ["1", "3", "10", "30"])
        ax.minorticks_off()
        ax.set(xlim=(0.7, 100), ylim=(len(rows) - 0.2, -0.7))
        ax.text(1, -0.75, "the best peer", fontsize=7.5, color=MUTED, ha="center", va="bottom")
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=8)

    return png(draw, 7.0, 0.36 * len(rows) + 1.0)


def picture_of_learning_speed(r: Result) -> bytes:
    """Errors against steps and against examples, a line a learner: families by their colour, learners by shade and marker."""
    shades = {"gradient": "Blues", "metric": "YlOrBr"}
    colours: dict[str, Any] = {}
    for family, shade in shades.items():
        members = [row["learner"] for row in r["rows"] if row["family"] == family]
        depth = [0.55 + 0.4 * i / max(1, len(members) - 1) for i in range(len(members))]
        colours |= {name: colormaps[shade](d) for name, d in zip(members, depth, strict=True)}
    markers = {row["learner"]: "os^DvPX<>ph*d8"[i % 14] for i, row in enumerate(r["rows"])}

    def draw(figure: Any) -> None:
        for left, key, x in (
            (0.06, "steps", "adaptation steps, from one example a class"),
            (0.56, "shots", "examples a class"),
        ):
            ax = figure.add_axes((left, 0.14, 0.29, 0.77))
            name_axes(ax, x, "errors, % (band: 95 % interval)")
            ax.set_yscale("log")
            ax.set_xlim(r["rows"][0][key][0]["at"] - 0.4, max(p["at"] for row in r["rows"] for p in row[key]) + 0.4)
            ends = []
            for row in (row for row in r["rows"] if len(row[key]) > 1):
                colour, line = colours.get(row["learner"], MUTED), "-" if row["family"] in shades else (0, (4, 2))
                at, error = [p["at"] for p in row[key]], [100 * (1 - p["accuracy"]) for p in row[key]]
                half = [100 * p["interval"] for p in row[key]]
                low = [max(e - h, 0.1 * e) for e, h in zip(error, half, strict=True)]  # an error above 0
                ax.fill_between(
                    at, low, [e + h for e, h in zip(error, half, strict=True)], color=colour, alpha=0.13, lw=0
                )
                looks = {"color": colour, "linewidth": 1.2, "linestyle": line, "markersize": 3.5}
                ax.plot(at, error, marker=markers[row["learner"]], **looks)
                name = row["learner"] + " *" * row["transductive"]
                ends.append((at[-1], error[-1], name, colour, markers[row["learner"]]))
            ax.set_xticks(SOME_SHOTS if key == "shots" else SOME_STEPS)
            ticks = [y for y in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if ax.get_ylim()[0] <= y <= ax.get_ylim()[1]]
            ax.set_yticks(ticks, [f"{y:g}" for y in ticks])
            ax.minorticks_off()
            name_ends(ax, ends)
        legend = "blue: by gradient steps · brown: by a metric · dashed: not meta-trained · *: the queries of a task together"
        figure.text(0.06, 0.02, legend, fontsize=7.5, color=MUTED)

    return png(draw, 10.0, 5.3)


def name_ends(ax: Any, ends: list[tuple[float, float, str, Any, str]], gap: float = 0.052) -> None:
    """Names at the right, in the order of the lines' ends and far enough apart to be read, each led to its line."""
    height = [float(ax.transAxes.inverted().transform(ax.transData.transform((x, y)))[1]) for x, y, *_ in ends]
    order = sorted(range(len(ends)), key=lambda i: height[i])
    places = dict(enumerate(height))
    for below, i in itertools.pairwise(order):
        places[i] = max(places[i], places[below] + gap)
    top = 1.0
    for i in reversed(order):
        places[i] = top = min(places[i], top)
        top -= gap
    for i, (x, y, name, colour, marker) in enumerate(ends):
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.7, "shrinkA": 0, "shrinkB": 0}
        until = 1.085 if marker else 1.06
        ax.annotate(
            "", (x, y), (until, places[i]), textcoords="axes fraction", annotation_clip=False, arrowprops=leader
        )
        if marker:
            ax.plot(1.10, places[i], marker, color=colour, markersize=3.5, transform=ax.transAxes, clip_on=False)
        name_at = until + (0.04 if marker else 0.01)
        ax.text(name_at, places[i], name, transform=ax.transAxes, fontsize=7.5, color=colour, va="center")


def picture_of_memory(r: Result) -> bytes:
    """What a meta-gradient adds against steps, a panel a model that has a target, a line a way."""
    rows, steps = r["rows"], r["settings"]["steps"]
    lines_of = {
        "unrolled": (INK, "-"),
        "checkpoint:6": (MUTED, "-"),
        "truncated:4": (MUTED, ":"),
        "mixed-mode": (ACCENT, "-"),
        "mixed-mode:6": (ACCENT, "--"),
        "implicit:cg": (MUTED, "--"),
        "first-order": (MUTED, "-."),
    }

    def draw(figure: Any) -> None:
        for i, model in enumerate(dict.fromkeys(x["model"] for x in r["summary"] if "target" in x)):
            ax = figure.add_axes((0.06 + 0.325 * i, 0.15, 0.2, 0.68))
            name_axes(ax, "inner steps", f"{model}, MB added")
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            lines = {way: [x["MB"] for x in rows if (x["model"], x["way"]) == (model, way)] for way in lines_of}
            for way, (colour, style) in lines_of.items():
                ax.plot(steps, lines[way], style, color=colour, linewidth=1.6, marker="o", markersize=2.5)
            ax.set_xticks(steps, [str(s) for s in steps])
            ax.minorticks_off()
            ticks = [y for y in (1, 10, 100, 1000, 10000) if ax.get_ylim()[0] <= y <= ax.get_ylim()[1]]
            ax.set_yticks(ticks, [f"{y:,}" for y in ticks])
            name_ends(ax, [(steps[-1], lines[way][-1], way, lines_of[way][0], "") for way in lines_of], gap=0.075)

    return png(draw, 11.0, 3.1)


PICTURES: dict[str, Callable[[Result], bytes]] = {
    "hypergradient-memory": picture_of_memory,
    "meta-step": picture_of_meta_step,
    "learning-speed": picture_of_learning_speed,
}


def digest(result: Result) -> str:
    """What a picture keeps of the rows that it was drawn from."""
    return hashlib.blake2b(json.dumps(result["rows"]).encode(), digest_size=12).hexdigest()


def stamped(picture: bytes, result: Result) -> bytes:
    kept, known = io.BytesIO(), PngInfo()
    known.add_text("rows", digest(result))
    Image.open(io.BytesIO(picture)).save(kept, "PNG", pnginfo=known, optimize=True)
    return kept.getvalue()


def main() -> None:
    for name, draw in PICTURES.items():
        if (path := ROOT / "results" / f"{name}.json").is_file():
            result = json.loads(path.read_text())
            atomic.write(ROOT / "docs" / f"{name}.png", stamped(draw(result), result))


if __name__ == "__main__":
    main()
