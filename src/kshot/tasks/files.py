"""Readers that make Labelled data of what people have: arrays, folders of images, tables, JSON lines, datasets.

Axes: M examples, F features.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from kshot.tasks.datasets import from_dataset, is_dataset
from kshot.tasks.images import from_folder
from kshot.tasks.labelled import Labelled
from kshot.types import InputError

__all__ = ["from_csv", "from_dataset", "from_folder", "from_jsonl", "labelled"]


def labelled(data: Any) -> Labelled:
    """Whatever Episodes accepts, read with default settings; the from_… functions have the settings."""
    if isinstance(data, Labelled):
        return data
    if isinstance(data, (str, Path)):
        path = Path(data).expanduser()
        kind = path.suffix.lower()
        if path.is_file() and kind in (".csv", ".tsv"):
            return from_csv(path)
        if path.is_file() and kind == ".jsonl":
            return from_jsonl(path)
        if (path / "dataset_info.json").is_file():
            return from_dataset(path)
        if path.is_file():
            raise InputError(f"{path} is no .csv, .tsv or .jsonl file: convert it, or read it yourself and give (x, y)")
        return from_folder(path)
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return _checked(Labelled.of(*data), "the labels")
    if is_dataset(data):
        return from_dataset(data)
    raise InputError(
        f"{_what(data)} is no labelled data: give (x, y), a Labelled, a torch or Hugging Face dataset, a folder with a "
        "sub-folder of images for each class, or a .csv or .jsonl file"
    )


def from_csv(
    path: str | Path, *, label: str = "label", features: Sequence[str] | None = None, delimiter: str | None = None
) -> Labelled:
    """A table with a header -> float32 [M, F].

    label: the column of classes. features: the columns of numbers, else all others.
    delimiter: else a tab for .tsv and a comma otherwise.
    """
    with _open(path) as file:
        rows = csv.reader(file, delimiter=delimiter or ("\t" if Path(path).suffix.lower() == ".tsv" else ","))
        header = [name.strip() for name in next(rows, [])]
        chosen = list(features) if features is not None else [name for name in header if name != label]
        for name in (label, *chosen):
            if header.count(name) != 1:
                raise InputError(
                    f"{path} has {header.count(name)} columns called {name!r}, its header is {', '.join(header[:8])}"
                    f"{', …' if len(header) > 8 else ''}: name columns by label= and features=, what separates them by "
                    "delimiter="
                )
        if not chosen:
            raise InputError(f"{path} has no column beside {label!r}: at least one feature is needed")
        at, columns = header.index(label), [header.index(name) for name in chosen]
        x, y = [], []
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(f"{where} has {len(row)} cells and the header {len(header)}: mend or remove the line")
            x.append([_number(row[c], where, header[c]) for c in columns])
            y.append(row[at].strip())
            if not y[-1]:
                raise InputError(f"{where} has no {label!r}: give its class, or remove the line")
    return _table(path, torch.tensor(x), y)


def from_jsonl(
    path: str | Path,
    *,
    label: str = "label",
    features: str | None = None,
    encode: Callable[[list[str]], Tensor] | None = None,
) -> Labelled:
    """One JSON object a line -> [M, *features].

    label: the field of classes. features: the field of numbers (a list, or lists in lists), else the only other field.
    encode: makes a tensor [M, *features] of M texts where that field holds text; it is called once with all of them.
    """
    x: list[Any] = []
    y: list[str | int] = []
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            record = _record(line, where)
            features = features or _only_other(record, label, where)
            for name in (label, features):
                if name not in record:
                    raise InputError(
                        f"{where} has no field {name!r}, it has {', '.join(record)}: name it by label= or features="
                    )
            if not isinstance(record[label], (str, int)):
                raise InputError(f"{where} has the label {record[label]!r}: a text or a whole number is needed")
            x.append(_value(record[features], where, features, encode is not None))
            y.append(record[label])
            if not encode and x[-1].shape != x[0].shape:
                raise InputError(
                    f"{where} has {features} of shape {tuple(x[-1].shape)} and the first line {tuple(x[0].shape)}: "
                    "all examples need the same shape, pad or cut them"
                )
    if len({type(v) for v in y}) > 1:
        y = [str(v) for v in y]
    if not x:
        return _table(path, torch.empty(0), y)
    return _table(path, encode(x) if encode else torch.stack(x), y)


def _table(path: str | Path, x: Tensor, y: list[Any]) -> Labelled:
    if not y:
        raise InputError(f"{path} holds no example: a header or nothing was found, add rows")
    return _checked(Labelled.of(x, y), str(path))


def _checked(data: Labelled, what: str) -> Labelled:
    if len(data) < 2:
        raise InputError(
            f"{what} name one class only, {data.names[0]!r}: telling classes apart needs at least 2, add rows of other classes"
        )
    return data


@contextmanager
def _open(path: str | Path) -> Iterator[TextIO]:
    try:
        with Path(path).expanduser().open(encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): check the path and the right to read it"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no text in UTF-8 ({error}): save it as such, or read it yourself") from error


def _number(cell: str, where: str, column: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"{where} has {cell!r} in column {column!r}: a finite number is needed, mend the line or choose other "
            "columns by features="
        )
    return value


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON ({error}): write one object a line") from error
    if not isinstance(record, dict):
        raise InputError(f"{where} holds a {type(record).__name__}: one JSON object a line is needed")
    return record


def _only_other(record: dict[str, Any], label: str, where: str) -> str:
    others = [name for name in record if name != label]
    if len(others) != 1:
        raise InputError(f"{where} has the fields {', '.join(record)}: say which to learn from by features= and label=")
    return others[0]


def _value(value: Any, where: str, field: str, encoded: bool) -> Any:
    if encoded:
        if not isinstance(value, str):
            raise InputError(f"{where} has a {type(value).__name__} in {field!r}: encode= needs text")
        return value
    if isinstance(value, str):
        raise InputError(f"{where} has text in {field!r}: give encode=, which makes a tensor of a list of texts")
    try:
        x = torch.tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        x = torch.tensor(math.nan)
    if not x.numel() or not bool(torch.isfinite(x).all()):
        raise InputError(
            f"{where} has {str(value)[:60]!r} in {field!r}: finite numbers are needed, in lists of one length"
        )
    return x.reshape(1) if x.ndim == 0 else x


def _what(data: Any) -> str:
    shape = getattr(data, "shape", None)
    return f"a {type(data).__name__}" + (
        f" of shape {tuple(shape)} with no labels" if isinstance(shape, torch.Size | tuple) else ""
    )
