"""Examples with class labels, wherever they lie, and the ways to cut them: by class, into splits, into rotations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kshot.types import InputError, seeded


class Storage(Protocol):
    """Rows of examples, in memory or not."""

    def __len__(self) -> int: ...

    def read(self, rows: Tensor) -> Tensor:
        """rows [*] -> examples [*, *features]; bytes (uint8) are read as float32 in 0..1."""
        ...


class InMemory:
    """A tensor of examples."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def read(self, rows: Tensor) -> Tensor:
        return as_input(_take(self.x, rows))


class Rotated:
    """Row r of the k-th quarter turn of `base` is row k · len(base) + r."""

    def __init__(self, base: Storage) -> None:
        self.base = base

    def __len__(self) -> int:
        return 4 * len(self.base)

    def read(self, rows: Tensor) -> Tensor:
        turns, rows = rows // len(self.base), rows % len(self.base)
        x = self.base.read(rows)
        for k in (1, 2, 3):
            x[turns == k] = x[turns == k].rot90(k, (-2, -1))
        return x


class Embedded:
    """What a function makes of the examples of a storage, each alone and each once, when it is first read."""

    def __init__(self, base: Storage, function: Callable[[Tensor], Tensor]) -> None:
        self.base, self.function = base, function
        self.known = torch.zeros(len(base), dtype=torch.bool)
        one = function(base.read(torch.zeros(1, dtype=torch.int64)))[0]
        self.x = torch.empty(len(base), *one.shape, dtype=one.dtype)  # no memory until it is written

    def __len__(self) -> int:
        return len(self.base)

    def read(self, rows: Tensor) -> Tensor:
        needed: Tensor = torch.unique(rows)
        new = needed[~self.known[needed]]
        for some in torch.split(new, 256) if len(new) else ():  # split would give one empty part
            self.x[some] = self.function(self.base.read(some)).to(self.x.device)
            self.known[some] = True
        return _take(self.x, rows)


# Reading is NumPy's: as fast as torch on one core, and without a team of threads that all wait for the last. A reader
# beside a training step has no core to itself: each parallel operation would cost it a turn of the scheduler (4-8 ms).


def as_input(x: Tensor) -> Tensor:
    """Bytes as float32 in 0..1, anything else as it is."""
    if x.dtype != torch.uint8:
        return x
    return torch.from_numpy(np.divide(x.cpu().numpy(), np.float32(255), dtype=np.float32))


def _take(x: Tensor, rows: Tensor) -> Tensor:
    if x.dtype == torch.bfloat16 or x.device.type != "cpu":  # NumPy has no such
        return x[rows.to(x.device)]
    return torch.from_numpy(x.numpy().take(rows.numpy(), axis=0))


def is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def digests(x: Tensor) -> Iterator[bytes]:
    """Of the values of each row."""
    rows = (
        x.detach().cpu().reshape(len(x), -1).contiguous().view(torch.uint8).numpy()
    )  # NumPy has no bfloat16, but bytes
    return (hashlib.blake2b(row.tobytes(), digest_size=12).digest() for row in rows)


def identified(data: Labelled, read: Callable[[Tensor], Tensor]) -> frozenset[str]:
    """Of each class 'name#content', by what the examples in its rows hold.

    Numbers are no names: they are given anew in each set of classes. The content is a fingerprint of the three largest examples:
    the same in whatever order they come, and not of blank ones. Of examples that are not in memory the first three are read.
    """
    pools = [data.rows(c)[: None if _in_memory(data.storage) else 3] for c in range(len(data))]
    sizes = [read(rows).reshape(len(rows), -1).double().abs().sum(1) for rows in torch.split(torch.cat(pools), 4096)]
    size = torch.split(torch.cat(sizes), [len(rows) for rows in pools])
    large = [found >= found.sort().values[-3:][0] for found in size]
    content = digests(read(torch.cat([rows[which] for rows, which in zip(pools, large, strict=True)])))
    found = []
    for name, sizes_of, which in zip(data.names, size, large, strict=True):
        known = sorted(zip((-sizes_of[which]).tolist(), content, strict=False))[:3]
        found.append(f"{'' if is_number(name) else name}#{_joined(digest for _, digest in known)}")
    return frozenset(found)


def _in_memory(storage: Storage) -> bool:
    return _in_memory(storage.base) if isinstance(storage, Rotated) else isinstance(storage, InMemory)


def _joined(parts: Iterable[bytes]) -> str:
    return hashlib.blake2b(b"".join(parts), digest_size=12).hexdigest()


@dataclass(frozen=True, eq=False)
class Labelled:
    """C classes over a storage. Class c holds the rows order[start[c] : start[c] + count[c]].

    groups: what each class belongs to, such as its alphabet, where that is known: classes of one are harder to tell apart.
    """

    storage: Storage
    names: tuple[str, ...]
    order: Tensor
    start: Tensor
    count: Tensor
    groups: tuple[str, ...] | None = None

    @staticmethod
    def of(x: Any, y: Any, names: Sequence[str] | None = None, groups: Sequence[str] | None = None) -> Labelled:
        """x: a Storage, tensor or array [M, *features]; y: one label a row, of any hashable kind.

        names, groups: one a class, in label order.
        """
        storage = x if hasattr(x, "read") else InMemory(_tensor(x))
        labels = y.tolist() if hasattr(y, "tolist") else y
        if not isinstance(labels, Iterable):
            raise InputError(
                f"the labels are one {type(labels).__name__}: one label a row is needed, give a list or an array"
            )
        labels = list(labels)
        if len(labels) != len(storage):
            raise InputError(f"{len(storage)} examples came with {len(labels)} labels: give one label an example")
        if not labels:
            raise InputError("the data holds no example: give at least a few for each of some classes")
        try:
            values = sorted(set(labels))
        except TypeError:
            raise InputError(
                f"labels of type {type(labels[0]).__name__} cannot be told apart and ordered: use numbers or strings, "
                "one a row"
            ) from None
        if any(v != v for v in values):
            raise InputError("some labels are NaN: give each row its class, or leave those rows out")
        number = {label: c for c, label in enumerate(values)}
        classes = torch.tensor([number[label] for label in labels])
        count = torch.bincount(classes, minlength=len(values))
        titles = tuple(str(v) for v in values) if names is None else tuple(names)
        kinds = None if groups is None else tuple(groups)
        for what, given in (("name", titles), ("group", kinds)):
            if given is not None and len(given) != len(values):
                raise InputError(
                    f"{len(given)} class {what}s for {len(values)} classes: give one {what} a class, in label order"
                )
        return Labelled(storage, titles, classes.argsort(stable=True), count.cumsum(0) - count, count, kinds)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def identities(self) -> frozenset[str]:
        """Of each class 'name#content': one of the two is the same where the class is."""
        return identified(self, self.storage.read)

    def fingerprints(self) -> list[tuple[str, frozenset[bytes]]]:
        """The name of each class and a fingerprint of each of its examples, where they are in memory; else nothing."""
        if not isinstance(self.storage, InMemory):
            return []
        every = list(digests(self.storage.x))
        return [(name, frozenset(every[row] for row in self.rows(c).tolist())) for c, name in enumerate(self.names)]

    def rows(self, c: int) -> Tensor:
        """The rows of class c."""
        return self.order[self.start[c] : self.start[c] + self.count[c]]

    def only(self, classes: Sequence[str | int]) -> Labelled:
        """These classes, by name or number."""
        number = {name: c for c, name in enumerate(self.names)}
        unknown = [c for c in classes if (c not in number if isinstance(c, str) else not 0 <= c < len(self))]
        if unknown or not len(classes):
            raise InputError(
                f"no class is called {unknown[0]!r}: the data has {len(self)}, such as {', '.join(self.names[:3])}"
                if unknown
                else "an empty list of classes was asked for: name at least one"
            )
        if len(set(classes)) < len(classes):
            raise InputError(
                f"{len(classes) - len(set(classes))} of the classes asked for are named twice: name each once"
            )
        chosen = torch.tensor([number[c] if isinstance(c, str) else c for c in classes])
        return replace(
            self,
            names=tuple(self.names[c] for c in chosen.tolist()),
            start=self.start[chosen],
            count=self.count[chosen],
            groups=None if self.groups is None else tuple(self.groups[c] for c in chosen.tolist()),
        )

    def split(self, *shares: float, seed: int = 0) -> tuple[Labelled, ...]:
        """Disjoint sets of classes, at random: split(0.8, 0.1, 0.1)."""
        if not shares or min(shares) <= 0 or sum(shares) > 1 + 1e-9:
            raise InputError(f"shares {shares} cannot cut the classes: give positive numbers that sum to at most 1")
        ends = [round(sum(shares[: i + 1]) * len(self)) for i in range(len(shares))]
        shuffled = torch.randperm(len(self), generator=seeded(seed)).tolist()
        parts = [sorted(shuffled[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
        if not all(parts):
            raise InputError(
                f"{len(self)} classes cannot be cut into shares {shares}: a part would be empty, give larger shares"
            )
        return tuple(self.only(part) for part in parts)

    def check_square(self, done: str = "rotated") -> None:
        """Raise InputError unless the examples are square images, which can be `done`."""
        shape = tuple(self.storage.read(self.order[:1]).shape[1:])
        if len(shape) < 2 or shape[-1] != shape[-2]:
            raise InputError(
                f"examples of shape {shape} cannot be {done}: square images [C, s, s] are needed, bring them to one size"
            )

    def rotated(self) -> Labelled:
        """Four classes of each, one a quarter turn of its images (as in the Omniglot papers).

        Split before you rotate: a character upright in one split and turned in another is hardly new.
        """
        self.check_square()
        m = len(self.storage)
        turned: Storage = Rotated(self.storage)
        if isinstance(self.storage, InMemory):
            # four times the memory, and nothing to do when reading
            turned = InMemory(torch.cat([self.storage.x.rot90(k, (-2, -1)) for k in range(4)]))

        def titled(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(f"{name}/rot{90 * k:03d}" for k in range(4) for name in names)

        return Labelled(
            turned,
            titled(self.names),
            torch.cat([self.order + k * m for k in range(4)]),
            torch.cat([self.start + k * len(self.order) for k in range(4)]),
            self.count.repeat(4),
            None if self.groups is None else titled(self.groups),
        )


def _tensor(x: Any) -> Tensor:
    try:
        values = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"examples of type {type(x).__name__} cannot become a tensor ({error}): give one array [M, *features]"
        ) from None
    if values.ndim < 2:
        raise InputError(f"examples have shape {tuple(values.shape)}: give at least [examples, features]")
    if values.is_floating_point():
        bad = (~torch.isfinite(values)).flatten(1).any(1)
        if bool(bad.any()):
            raise InputError(
                f"{int(bad.sum()):,} of {len(values):,} examples hold NaN or infinite values (first: row "
                f"{int(bad.nonzero()[0, 0])}): clean or drop those rows"
            )
        if values.dtype == torch.float16 or (values.dtype == torch.float64 and not isinstance(x, Tensor)):
            values = values.to(
                torch.get_default_dtype()
            )  # float64 is NumPy's default, and a tensor's deliberate choice
    return values
