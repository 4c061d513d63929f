"""kshot demo: from nothing to a trained learner, in two minutes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from kshot.cli.adapt import adapt
from kshot.cli.runs import evaluate_run, report, train
from kshot.cli.terminal import out
from kshot.tasks import draw_glyphs
from kshot.tasks.images import write_folder


def demo(
    to: Annotated[Path, typer.Option("--out", help="The run folder.")] = Path("runs/demo"),
) -> None:
    """From nothing to a trained few-shot learner in two minutes: train, evaluate, learn new classes from a folder, report."""

    start = time.perf_counter()
    out.rule("1  train a prototype network on generated characters")
    train("glyphs-5w1s-protonet", [], to)
    out.rule("2  evaluate it on classes that it has never seen")
    evaluate_run(to, None, 0, [])
    out.rule("3  teach it five new classes from a folder of five images each")
    support, query = to / "new-classes" / "support", to / "new-classes" / "query"
    characters = draw_glyphs(5, 15, split="test", size=105, seed=2026)  # another world of characters, drawn larger
    write_folder(characters[:, :5], support)
    write_folder(characters[:, 5:], query)
    out.print(f"kshot adapt {to} --support {support} --query {query} --out {to / 'predictions.csv'}")
    adapt(to, support, query, to / "predictions.csv")
    out.rule("4  write the report")
    report(to, 0)
    out.print(f"all of it in {time.perf_counter() - start:.0f} s")
