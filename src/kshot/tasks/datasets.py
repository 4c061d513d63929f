"""Labelled data of other libraries' datasets: torch map-style datasets and Hugging Face datasets, read item by item.

Axes: M examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from kshot.tasks.images import Images, Invert
from kshot.tasks.labelled import Labelled, as_input
from kshot.types import InputError

Label = str | Sequence[Any] | Callable[[Any], Any]


class Items:
    """A Storage over a dataset whose items become tensors of one shape, read when asked for and not kept."""

    def __init__(self, load: Callable[[int], Any], count: int) -> None:
        self.load, self.count = load, count
        self.shape = self._item(0).shape

    def __len__(self) -> int:
        return self.count

    def read(self, rows: Tensor) -> Tensor:
        """rows [*] -> [*, *features]."""
        x = torch.stack([self._item(row) for row in rows.reshape(-1).tolist()])
        return as_input(x).reshape(*rows.shape, *self.shape)

    def _item(self, row: int) -> Tensor:
        value = self.load(row)
        try:
            x = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"example {row} is a {type(value).__name__} ({error}): a tensor, an array, numbers or an image is "
                "needed; for text give encode="
            ) from error
        if x.dtype == torch.float64 and not isinstance(value, Tensor):
            x = x.to(torch.get_default_dtype())
        x = x.reshape(1) if x.ndim == 0 else x
        if x.shape != getattr(self, "shape", x.shape):
            raise InputError(
                f"example {row} has shape {tuple(x.shape)} and the first {tuple(self.shape)}: all need one shape, "
                "resize them in the dataset's transform"
            )
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            raise InputError(f"example {row} holds NaN or infinite values: clean it, or leave it out of the dataset")
        return x


def is_dataset(data: Any) -> bool:
    """Whether from_dataset is the reader: a torch or Hugging Face dataset, fit or not."""
    return isinstance(data, Dataset) or type(data).__module__.split(".")[0] == "datasets"


def from_dataset(
    dataset: Any,
    *,
    label: Label | None = None,
    x: str | Sequence[str] | None = None,
    encode: Callable[[list[str]], Tensor] | None = None,
    size: int | None = None,
    channels: int | None = None,
    invert: Invert = False,
    cache_mb: float = 512,
) -> Labelled:
    """A torch map-style dataset of (x, y) items, or a Hugging Face dataset (or the folder its save_to_disk made).

    label: torch: an attribute (default 'targets' or 'labels'), one label an item, or a callable item -> label (this one
    reads every item once); Hugging Face: the column (default 'label', else the only ClassLabel), or one label a row.
    x: Hugging Face: the column of examples (default the only column of images, else the only other one), or several
    columns of numbers. encode: makes a tensor [M, *features] of a column of M texts.
    size, channels, invert, cache_mb: for PIL images, see from_folder; default the first one's longer side and colours.
    """
    if isinstance(dataset, (str, Path)):
        dataset = _from_disk(Path(dataset).expanduser())
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise InputError(
            f"a {type(dataset).__name__} has no length or items by number, and tasks are drawn by number: give a "
            "map-style dataset, such as a list of its items"
        )
    if isinstance(dataset, dict):
        raise InputError(f"this dataset has the splits {', '.join(dataset)}: choose one, as in data['train']")
    if not len(dataset):
        raise InputError("the dataset holds no example: give at least a few for each of some classes")
    if isinstance(dataset, TensorDataset) and label is None and len(dataset.tensors) == 2:
        return _several(Labelled.of(*dataset.tensors))
    if hasattr(dataset, "column_names"):
        load, y, names = _columns(dataset, label, x, encode)
    else:
        load, y, names = _items(dataset, label)
    if isinstance(load, Tensor):
        storage: Any = load
    elif isinstance(first := load(0), Image.Image):
        grey = first.mode in ("1", "L", "LA", "I", "F") or first.mode.startswith("I;")
        storage = Images(
            load,
            len(dataset),
            title="example {}".format,
            size=size or max(first.size),
            channels=channels or (1 if grey else 3),
            invert=invert,
            cache_mb=cache_mb,
        )
    else:
        storage = Items(load, len(dataset))
    present = sorted(set(y)) if names else []
    return _several(Labelled.of(storage, y, [names[c] for c in present] if names else None))


def _several(data: Labelled) -> Labelled:
    if len(data) < 2:
        raise InputError(f"the dataset has one class only, {data.names[0]!r}: telling classes apart needs at least 2")
    return data


def _items(dataset: Any, label: Label | None) -> tuple[Callable[[int], Any], list[Any], Sequence[str] | None]:
    """How to load x of a torch dataset, its labels, and the classes' names where it has them."""
    if callable(label):
        y = [_plain(label(dataset[row])) for row in range(len(dataset))]
    elif label is None or isinstance(label, str):
        y = _targets(dataset, (label,) if label else ("targets", "labels"))
    else:
        y = [_plain(v) for v in label]
    names = None
    if not isinstance(label, str) and not callable(label):
        names = _class_names(dataset)
    if names is not None and not all(isinstance(v, int) and 0 <= v < len(names) for v in y):
        names = None

    def load(row: int) -> Any:
        item = dataset[row]
        return item[0] if isinstance(item, (tuple, list)) else item

    return load, y, names


def _targets(dataset: Any, attributes: Sequence[str]) -> list[Any]:
    for attribute in attributes:
        if (values := getattr(dataset, attribute, None)) is not None:
            return [_plain(v) for v in values]
    if isinstance(dataset, Subset):
        whole = _targets(dataset.dataset, attributes)
        return [whole[i] for i in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        return [y for part in dataset.datasets for y in _targets(part, attributes)]
    if isinstance(dataset, TensorDataset):
        return [_plain(v) for v in dataset.tensors[-1]]
    raise InputError(
        f"the {type(dataset).__name__} has no attribute {' or '.join(map(repr, attributes))} with its labels: "
        "call from_dataset(dataset, label=...) with an attribute, one label an item, or a callable such as "
        "lambda item: item[1], which reads every item once"
    )


def _class_names(dataset: Any) -> Sequence[str] | None:
    if isinstance(dataset, Subset):
        return _class_names(dataset.dataset)
    names = getattr(dataset, "classes", None)
    return [str(name) for name in names] if isinstance(names, (list, tuple)) else None


def _plain(value: Any) -> Any:
    """A NumPy or torch scalar as a Python one."""
    return value.item() if isinstance(value, (Tensor, np.generic)) and value.ndim == 0 else value


def _columns(
    dataset: Any, label: Label | None, x: str | Sequence[str] | None, encode: Callable[[list[str]], Tensor] | None
) -> tuple[Callable[[int], Any] | Tensor, list[Any], Sequence[str] | None]:
    """How to load x of a Hugging Face dataset, its labels read without decoding its images, and the classes' names."""
    features, names = dataset.features, list(dataset.column_names)
    kinds = {name: type(features[name]).__name__ for name in names} if features else dict.fromkeys(names, "")
    if callable(label):
        raise InputError(
            "a Hugging Face dataset takes a column's name as label=, not a callable: add a column by map()"
        )
    if label is None:
        label = _pick("label", ["label"] if "label" in names else [n for n in names if kinds[n] == "ClassLabel"], names)
    if isinstance(label, str):
        _pick("label", [label] if label in names else [], names)
        y = list(dataset.select_columns([label]).with_format(None)[label])
        classes = getattr(features[label], "names", None) if features else None
        others = [name for name in names if name != label]
    else:
        y, classes, others = [_plain(v) for v in label], None, names
    if x is None:
        x = _pick("x", [n for n in others if kinds[n] == "Image"] or others, names)
    for name in [x] if isinstance(x, str) else x:
        _pick("x", [name] if name in names else [], names)
    if encode is not None:
        return encode([str(text) for text in dataset.select_columns([x])[x]]), y, classes
    chosen = dataset.select_columns([x] if isinstance(x, str) else list(x))

    def load(row: int) -> Any:
        item = chosen[row]
        return item[x] if isinstance(x, str) else [item[name] for name in x]

    return load, y, classes


def _pick(argument: str, candidates: list[str], columns: list[str]) -> str:
    if len(candidates) != 1:
        raise InputError(
            f"{len(candidates)} columns could be {argument!r}, the dataset has {', '.join(columns)}: "
            f"name one of them by {argument}=, as in kshot.tasks.from_dataset(data, {argument}=...)"
        )
    return candidates[0]


def _from_disk(path: Path) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "the folder of a Hugging Face dataset needs the package datasets, which is not installed: "
            'pip install "kshot[huggingface]"'
        ) from error
    try:
        return datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is no folder that Dataset.save_to_disk made ({error}): load the dataset with "
            "datasets.load_dataset and give one of its splits"
        ) from error
