"""What a run shows and keeps while it trains: a progress bar, metrics.jsonl, and TensorBoard if asked.

Logged numbers: loss, the mean meta-loss since the last line; grad_norm, of the meta-gradient before clipping, at this step;
lr; tasks_per_s, since the last line; seconds, of the whole run; val_accuracy, val_mse or val_return, and val_interval, at
validations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kshot import atomic
from kshot.types import InputError

METRICS = "metrics.jsonl"


class Writers:
    """A context manager around the training loop; ranks other than the first write nothing."""

    def __init__(
        self, out: Path | None, steps: int, start: int, *, show: bool, tensorboard: bool, active: bool
    ) -> None:
        self._show, self._steps, self._start = show and active, steps, start
        self._out = out if active else None
        self._board = _tensorboard(self._out) if tensorboard and self._out is not None else None
        self._file: TextIO | None = None
        self._latest: dict[str, str] = {}
        if self._out is not None:
            _truncate(self._out / METRICS, start)

    def __enter__(self) -> Writers:
        self._bar = Progress(
            TextColumn("[bold]step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            disable=not self._show,
        )
        self._bar.start()
        self._row = self._bar.add_task("train", total=self._steps, completed=self._start, numbers="")
        if self._out is not None:
            with _writing(self._out / METRICS, 0):
                self._file = open(self._out / METRICS, "a")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._file is not None:
            with suppress(OSError):  # each line was flushed; one that could not be has raised already
                self._file.close()
        if self._board is not None:
            self._board.close()

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        self._bar.update(self._row, completed=step)

    def say(self, line: str) -> None:
        """A sentence above the bar."""
        if self._show:
            self._bar.console.print(line, highlight=False)

    def log(self, step: int, **numbers: float) -> None:
        """One line of metrics.jsonl, complete or absent."""
        if self._file is not None:
            line = json.dumps({"step": step, **numbers}) + "\n"
            with _writing(Path(self._file.name), len(line)):
                self._file.write(line)
                self._file.flush()
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        for name, shown in (
            ("loss", "loss"),
            ("val_accuracy", "val acc"),
            ("val_mse", "val mse"),
            ("val_return", "val return"),
            ("tasks_per_s", "tasks/s"),
        ):
            if name in numbers:
                self._latest[shown] = f"{numbers[name]:.4g}"
        self._bar.update(self._row, numbers="  ".join(f"{name} {value}" for name, value in self._latest.items()))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that was cut off is passed over."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:  # the process died while writing it
            break
    return lines


@contextmanager
def _writing(path: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(atomic.why_not_written(path, error, size)) from error


def _truncate(path: Path, step: int) -> None:
    """Drop the lines after `step`: they are about to be computed again."""
    if path.is_file():
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        atomic.write(path, "".join(json.dumps(line) + "\n" for line in kept))


def _tensorboard(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError('tensorboard=True needs TensorBoard: pip install "kshot[tensorboard]"') from error
    return SummaryWriter(str(out / "tensorboard"))
