"""Regression with one task a group: a patient, a device, a customer, each with examples of its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from kshot.tasks.episodes import distinct
from kshot.tasks.labelled import Labelled, identified
from kshot.types import Batch, InputError, Task


class Groups:
    """k examples of one group to learn from, others of the same group to be judged on.

    x: [M, *features]; y: values [M] or [M, targets]; groups: which group each row is of, [M], of any hashable kind.
    shots, queries: examples of a task. small_groups: 'error', or 'skip' to leave out the groups that have too few.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        groups: Sequence[Any] | Tensor,
        shots: int = 10,
        queries: int = 15,
        *,
        small_groups: Literal["error", "skip"] = "error",
    ) -> None:
        for name, value in (("shots", shots), ("queries", queries)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name}={value!r}: give a whole number of at least 1")
        if small_groups not in ("error", "skip"):
            raise InputError(f"small_groups={small_groups!r} is not known: choose 'error' or 'skip'")
        self.data = Labelled.of(x, groups)
        self.y = _values(y, len(self.data.storage))
        self.shots, self.queries, self.small_groups = shots, queries, small_groups
        self._drop_small_groups()

    @property
    def identities(self) -> frozenset[str]:
        """Of the groups, by their examples with the values: inputs alone may be the same grid for all."""

        def both(rows: Tensor) -> Tensor:
            return torch.cat([part.flatten(1).double() for part in (self.data.storage.read(rows), self.y[rows])], 1)

        return identified(self.data, both)

    def examples(self) -> Tensor:
        """All examples of all its groups, [M, *features]."""
        return self.data.storage.read(torch.cat([self.data.rows(g) for g in range(len(self.data))]))

    def only(self, groups: Sequence[Any]) -> Groups:
        """Tasks of these groups alone, by their labels."""
        chosen = self.data.only([str(group) for group in groups])
        return self._of(chosen, self.shots)

    def split(self, *shares: float, seed: int = 0) -> tuple[Groups, ...]:
        """Disjoint sets of groups, at random: split(0.8, 0.1, 0.1)."""
        return tuple(self._of(part, self.shots) for part in self.data.split(*shares, seed=seed))

    def with_shots(self, shots: int) -> Groups:
        """The same groups with another number of examples to learn from; an error where one has too few."""
        return self._of(self.data, shots)

    def rows(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which rows make the n tasks of this generator: support [n, shots] and query [n, queries]."""
        group = self.drawn(n, generator)
        within = distinct(self.data.count[group], self.shots + self.queries, generator)
        rows = self.data.order[self.data.start[group].unsqueeze(1) + within]
        return rows[:, : self.shots], rows[:, self.shots :]

    def sample(self, n: int, generator: torch.Generator) -> Task:
        if n < 1:
            raise InputError(f"{n} tasks were asked for: at least one is needed, give n=1 or more")
        support, query = (Batch(self.data.storage.read(rows), self.y[rows]) for rows in self.rows(n, generator))
        return Task(support, query)

    def drawn(self, n: int, generator: torch.Generator) -> Tensor:
        """Which groups the n tasks of this generator are of: tasks of one are alike, and an interval is over groups."""
        return torch.randint(len(self.data), (n,), generator=generator)

    def _of(self, data: Labelled, shots: int) -> Groups:
        made = copy.copy(self)
        made.data, made.shots, made.small_groups = data, shots, "error"
        made._drop_small_groups()
        return made

    def _drop_small_groups(self) -> None:
        needed = self.shots + self.queries
        large = (self.data.count >= needed).nonzero().flatten().tolist()
        if len(large) < len(self.data):
            g = int((self.data.count < needed).nonzero()[0])
            if self.small_groups == "error" or not large:
                raise InputError(
                    f"group {self.data.names[g]!r} has {int(self.data.count[g])} examples; {self.shots} shots + {self.queries} "
                    f"queries need {needed}: lower one, or leave the group out (small_groups='skip')"
                )
            self.data = self.data.only(large)


def _values(y: Any, rows: int) -> Tensor:
    try:
        values = torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"y of type {type(y).__name__} cannot become a tensor ({error}): give numbers, [M]") from None
    if values.ndim < 1:
        raise InputError("y is one number: give one value an example, [M] or [M, targets]")
    values = values if values.is_floating_point() and isinstance(y, Tensor) else values.to(torch.get_default_dtype())
    if len(values) != rows:
        raise InputError(f"{rows} examples came with {len(values)} values: give one value an example")
    if not bool(torch.isfinite(values).all()):
        raise InputError("some values of y are NaN or infinite: clean or drop those rows")
    return values.reshape(rows, -1)
