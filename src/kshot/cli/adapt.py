"""kshot adapt: new classes from a folder of a few images each."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated

import torch
import typer

from kshot import atomic, learners, recipes, training
from kshot.cli.terminal import Alone, out
from kshot.recipes.runs import RECIPE
from kshot.tasks import from_folder
from kshot.tasks.images import Invert, images_below
from kshot.tasks.labelled import digests
from kshot.types import Batch, InputError


def adapt(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or a saved learner.")],
    support: Annotated[Path, typer.Option(help="Labelled images: one sub-folder a class, a few images in each.")],
    query: Annotated[Path, typer.Option(help="Images to classify (a folder).")],
    to: Annotated[Path, typer.Option("--out", help="Where to write the predictions.")] = Path("predictions.csv"),
    alone: Alone = False,
) -> None:
    """Learn new classes from a folder of a few images each, and classify other images.

    Writes a CSV with a row an image: file, prediction, its probability, and the probability of each class.
    """
    learner = training.load(run)
    most = getattr(getattr(learner, "model", None), "outputs", None)
    learner = learners.alone(learner) if alone else learner
    if learner.features is None or len(learner.features) != 3 or learner.features[1] != learner.features[2]:
        raise InputError(
            f"{run} learned from examples of shape {learner.features}, not from square images: "
            "use kshot.load, learner.adapt and learner.predict from Python"
        )
    channels, size, _ = learner.features
    invert = _inverted(run)
    classes = from_folder(support, size=size, channels=channels, invert=invert)
    files, images = images_below(query, size=size, channels=channels, invert=invert)
    if isinstance(most, int) and most < len(classes):
        raise InputError(
            f"{run} tells {most} classes apart and {support} has {len(classes)}: use fewer classes, or a learner that takes any "
            "number, such as protonet"
        )
    together = len(files) if learner.transductive else 200
    with torch.no_grad():
        x = classes.storage.read(classes.order)
        y = torch.arange(len(classes)).repeat_interleave(classes.count)
        fitted = learner.adapt(Batch(x, y, len(classes)))
        logits = torch.cat(
            [learner.predict(fitted, images.read(i)) for i in torch.split(torch.arange(len(files)), together)]
        )
    chances = logits[:, : len(classes)].softmax(-1)
    atomic.write(
        to, _predictions(classes.names, [f.relative_to(query.expanduser()).as_posix() for f in files], chances)
    )
    best = chances.argmax(-1)
    out.print(
        f"{len(files)} images, {len(classes)} classes learned from {len(y)} examples: predictions in [bold]{to}[/]"
    )
    truth = [f.relative_to(query.expanduser()).parent.as_posix() for f in files]
    if all(t in classes.names for t in truth):
        known = set(digests(x))
        new = [digest not in known for digest in digests(images.read(torch.arange(len(files))))]
        right = sum(classes.names[b] == t for b, t, one in zip(best.tolist(), truth, new, strict=True) if one)
        share = f"{right} of {sum(new)} right" + (f" ({100 * right / sum(new):.1f} %)" if any(new) else "")
        shown = len(files) - sum(new)
        less = f"; {shown} more are among the examples it learned from, and say nothing" if shown else ""
        out.print(f"the query's sub-folders name the classes: {share}{less}")
    if learner.transductive:
        out.print(
            "note: this learner predicts all images together, so each prediction depends on the others; --alone predicts each "
            "beside the support alone"
        )


def _inverted(run: Path) -> Invert:
    """How the run's own training images were read."""
    kept = recipes.read(run / RECIPE).settings["tasks"] if (run / RECIPE).is_file() else {}
    invert: Invert = kept.get("invert", "auto")
    return invert


def _predictions(classes: tuple[str, ...], files: list[str], chances: torch.Tensor) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["file", "prediction", "probability", *(f"p({name})" for name in classes)])
    for file, row in zip(files, chances.tolist(), strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        rows.writerow([file, classes[best], f"{row[best]:.4f}", *(f"{p:.4f}" for p in row)])
    return text.getvalue()
