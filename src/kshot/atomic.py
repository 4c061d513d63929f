"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kshot.types import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def write(path: str | Path, content: bytes | str) -> None:
    """Write beside, fsync, rename: a reader, or a crash at any moment, finds the old file or the new one."""
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_UMASK)
        os.replace(beside, path)
        beside = None
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself
        finally:
            os.close(folder)
    except OSError as error:
        raise InputError(why_not_written(path, error, len(data))) from error
    finally:
        if beside is not None:
            with contextlib.suppress(OSError):
                os.unlink(beside)


@contextlib.contextmanager
def alone_in(folder: Path, instead: str = "") -> Iterator[None]:
    """No other process is within, for the same folder, meanwhile. One that comes waits, or ends with the sentence `instead`.

    A process that dies lets go. On systems and disks without such locks nothing is held.
    """
    handle = None
    with contextlib.suppress(OSError):  # what is wrong with the folder, the first write says
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None and handle is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if instead else 0))
            except BlockingIOError:
                raise InputError(instead) from None
            except OSError:
                pass  # no locks there
        yield
    finally:
        if handle is not None:
            os.close(handle)


def finite(value: Any) -> Any:
    """What a JSON file is to hold: null for a number that is none, such as the error of a learner that diverged."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def why_not_written(path: Path, error: OSError, size: int) -> str:
    """The sentence for a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path} could not be written: the disk is full, {size:,} bytes are needed; free some, or choose another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} could not be written: {path.parent} is read-only for you; choose another folder, or change its rights"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{path} could not be written: a part of its folder's path is a file; choose another folder"
    return f"{path} could not be written: {error.strerror or error}; choose another folder"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()  # read once, at import: changing it is global to the process
