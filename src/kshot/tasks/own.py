"""Your own data in a recipe: a folder of images or a table, its classes cut into train, val and test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from kshot.tasks.episodes import Count, Episodes
from kshot.tasks.files import from_csv, from_jsonl
from kshot.tasks.images import Invert, from_folder
from kshot.tasks.labelled import Labelled
from kshot.types import InputError

READERS: dict[str, Callable[..., Labelled]] = {".csv": from_csv, ".tsv": from_csv, ".jsonl": from_jsonl}


def Own(
    split: str = "train",
    ways: Count = 5,
    shots: Count = 1,
    queries: Count = 15,
    *,
    path: str,
    shares: Sequence[float] = (0.6, 0.2, 0.2),
    split_seed: int = 0,
    small_classes: Literal["error", "skip"] = "error",
    shuffle: bool = False,
    warp: float = 0.0,
    warp_classes: float = 0.0,
    size: int | None = None,
    channels: int | None = None,
    invert: Invert | None = None,
    label: str | None = None,
    features: str | Sequence[str] | None = None,
) -> Episodes:
    """Your own labelled data: a folder with a sub-folder of images a class, a .csv, .tsv or .jsonl.

    shares: of the classes, for train, val and test. size, channels, invert: of images, see from_folder. label, features: of
    tables and JSON lines, see from_csv and from_jsonl.
    """
    names = ("train", "val", "test")
    if split not in names or len(shares) != 3:
        raise InputError(f"split={split!r} with {len(shares)} shares: give one of {', '.join(names)}, and three shares")
    place = Path(path).expanduser()
    given = {"size": size, "channels": channels, "invert": invert, "label": label, "features": features}
    reading = {name: value for name, value in given.items() if value is not None}
    reader = READERS.get(place.suffix.lower(), from_folder)
    try:
        data = reader(place, **reading)
    except TypeError as error:
        raise InputError(
            f"{place} cannot be read with {reading} ({error}): leave out what kshot.tasks.{reader.__name__} does not take"
        ) from error
    part = data.split(*shares, seed=split_seed)[names.index(split)]
    looks: dict[str, Any] = {"shuffle": shuffle, "warp": warp, "warp_classes": warp_classes}
    return Episodes(part, ways, shots, queries, small_classes=small_classes, **looks)
