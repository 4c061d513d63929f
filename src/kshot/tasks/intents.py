"""Intents: what does somebody want who writes this sentence? Classes that are split by files.

BANKING77 (Casanueva et al. 2020), HWU64 (Liu et al. 2019), CLINC150 (Larson et al. 2019), each with the five splits of its
classes that ProtAugment (Dopierre, Gravier, Logerais 2021) published and its successors report on.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

from kshot.tasks.episodes import Count, Episodes
from kshot.tasks.files import from_jsonl
from kshot.tasks.labelled import Labelled
from kshot.tasks.real_data import folder_of
from kshot.tasks.texts import hash_texts
from kshot.types import InputError

Split = Literal["train", "val", "test"]
FILES = {"train": "labels.train.txt", "val": "labels.valid.txt", "test": "labels.test.txt"}


def Intents(
    split: Split = "train",
    ways: Count = 5,
    shots: Count = 1,
    queries: Count = 15,
    *,
    dataset: str = "BANKING77",
    fold: int = 1,
    root: str | Path | None = None,
    length: int = 256,
    **options: Any,
) -> Episodes:
    """N-way k-shot tasks of sentences, as rows [length] of hashed n-grams (see hash_texts); `options` are those of Episodes.

    dataset: a folder of root, with full.jsonl (`sentence`, `label`) and splits/0N/labels.{train,valid,test}.txt, one class a
    line. fold: which of the splits. root: by default the folder intents in KSHOT_DATA.
    """
    if split not in FILES:
        raise InputError(f"Intents has no split {split!r}: choose one of {', '.join(FILES)}")
    if not isinstance(fold, int) or isinstance(fold, bool):
        raise InputError(f"fold={fold!r} is no number of a split of the classes: give a whole number, such as fold=1")
    folder = _folder(_root(root), dataset)
    classes = _classes(folder, fold)  # before the sentences: it is read in no time
    data = from_jsonl(folder / "full.jsonl", features="sentence", encode=partial(hash_texts, length=length))
    _check_known(folder, fold, classes, data)
    return Episodes(data.only(classes[split]), ways, shots, queries, **options)


def sentences(dataset: str, root: str | Path | None = None) -> list[str]:
    """All sentences of a dataset, in the order of its rows."""
    with (_folder(_root(root), dataset) / "full.jsonl").open(encoding="utf-8-sig") as file:
        return [json.loads(line)["sentence"] for line in file if line.strip()]


def _root(root: str | Path | None) -> Path:
    more = " (in a recipe: root = 'DIR' below [tasks])"
    return folder_of("intents", root, called="the intents lie is", more=more)


def _folder(root: Path, dataset: str) -> Path:
    if (root / dataset / "full.jsonl").is_file():
        return root / dataset
    there = sorted(path.parent.name for path in root.glob("*/full.jsonl"))
    raise InputError(
        f"there is no {root / dataset / 'full.jsonl'}: "
        + (f"choose a dataset that {root} has, {', '.join(there)}" if there else f"{root} has no dataset, check root")
    )


def _classes(folder: Path, fold: int) -> dict[str, list[str]]:
    """The classes of each split, of which none is in two."""
    place = folder / "splits" / f"{fold:02d}"
    found: dict[str, list[str]] = {}
    for split, name in FILES.items():
        try:
            lines = (place / name).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            folds = ", ".join(sorted(path.name for path in (folder / "splits").glob("*"))) or "none"
            raise InputError(
                f"{place / name} cannot be read ({error}): fold={fold!r} needs this file with one class a line; the folds "
                f"there are {folds}"
            ) from error
        found[split] = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
        for other in found:
            both = set(found[other]) & set(found[split])
            if other != split and both:
                raise InputError(
                    f"{place} has {min(both)!r} in both {FILES[other]} and {name}: a class belongs to one split, remove it "
                    "from the other"
                )
    return found


def _check_known(folder: Path, fold: int, classes: dict[str, list[str]], data: Labelled) -> None:
    for split, names in classes.items():
        unknown = [name for name in names if name not in data.names]
        if unknown or not names:
            what = f"names the class {unknown[0]!r}, which full.jsonl has no sentence of" if unknown else "is empty"
            raise InputError(
                f"{folder / 'splits' / f'{fold:02d}' / FILES[split]} {what}: write one label of full.jsonl a line, such as "
                f"{', '.join(data.names[:3])}"
            )
