"""The last section of the page: commands and Python lines that go on from the run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from html import escape

import torch

from kshot.report.sections import Report
from kshot.settings import describe


def going_on(r: Report) -> str:
    """Commands and Python lines that go on from here; they run as they stand."""
    run = shlex.quote(str(r.run))
    shell = [f"kshot evaluate {run}"]
    if r.episode.kind == "images":
        shell.append(f"kshot adapt {run} --support DIR --query DIR --out predictions.csv")
    adapt = (
        " Or learn new classes from a folder with one sub-folder a class, a few images in each, and classify others."
        if len(shell) > 1
        else ""
    )
    then = (
        "let it learn from a few examples, predict. Put your own examples in place of the random ones, as in training."
    )
    if r.episode.kind == "trajectories":
        then = "let it adapt to other tasks."
    return (
        "<section><h2>To go on</h2>"
        f"<p>On the command line: measure again, with more tasks or other ways and shots.{adapt}</p>"
        f"<pre><code>{escape(chr(10).join(shell))}</code></pre>"
        f"<p>In Python: load the learner, {then}</p>"
        f'<pre><code id="python">{escape(python_lines(r))}</code></pre></section>'
    )


def python_lines(r: Report) -> str:
    support, ways = r.episode.task.support, r.episode.task.support.ways
    x, path = support.x, str(r.run)
    settings = describe(r.learner)
    unknown = [key for key, value in settings.items() if isinstance(value, Mapping) and "name" not in value]
    if "name" not in settings:
        load = f"kshot.load_weights(learner, {path!r})  # a {type(r.learner).__name__}, built as before training"
    else:
        load = f"kshot.load({', '.join([repr(path), *(f'{key}={key}' for key in unknown)])})"

    if r.episode.kind == "trajectories":
        family = f"rl.ENVIRONMENTS[{r.source!r}]()  # with the settings of training"
        lines = ("import kshot", "from kshot import rl", "", f"learner = {load}", f"family = {family}")
        return "\n".join((*lines, "print(rl.evaluate(learner, family, episodes=20, curves=False))"))

    def examples(n: int) -> str:
        shape = ", ".join(map(str, (n, *x.shape[1:])))
        return f"torch.rand({shape})" if x.dtype == torch.float32 else f"torch.zeros(({shape},), dtype={x.dtype})"

    if ways is None:
        values = ", ".join(map(str, support.y.shape))
        labels, batch = f"y = torch.rand({values})", "kshot.Batch(x, y)"
    else:
        classes = f"torch.arange({ways}).repeat_interleave({max(1, len(support) // ways)})"
        labels, batch = f"y = {classes}  # a class number for each", f"kshot.Batch(x, y, ways={ways})"
    n = len(support) if ways is None else ways * max(1, len(support) // ways)
    return "\n".join(
        (
            "import kshot",
            "import torch",
            "",
            f"learner = {load}",
            f"x = {examples(n)}  # {n} examples to learn from",
            labels,
            f"fitted = learner.adapt({batch})",
            f"outputs = learner.predict(fitted, {examples(3)}).detach()",
            *(() if ways is None else (f"probabilities = outputs[:, :{ways}].softmax(-1)",)),
        )
    )
