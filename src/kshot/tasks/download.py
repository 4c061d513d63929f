"""Downloads that say what they do, go on where they were cut, and put nothing in place that is not whole."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kshot.types import InputError

BLOCK = 1 << 18  # bytes


def fetch(
    url: str,
    path: str | Path,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    attempts: int = 4,
    timeout: float = 30.0,
    say: Callable[[str], None] = print,
) -> Path:
    """Bring the file at `url` to `path` and check it by md5 or sha256 (one is needed). If it is there, only check it.

    What has come so far lies in `path`.part: a broken connection is taken up again, now (`attempts` times) or in the
    next call. The finished file appears under its name in one step. Several processes may ask for the same file.
    """
    if (md5 is None) == (sha256 is None):
        raise InputError(f"give one checksum for {url}, md5= or sha256=: a download that is not checked is not used")
    algorithm, wanted = ("md5", md5) if md5 is not None else ("sha256", sha256)
    path = Path(path).expanduser()
    if path.exists():
        return _check_present(path, algorithm, wanted)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file, _alone(file):
            if path.exists():  # another process brought it while this one waited
                part.unlink(missing_ok=True)
                return _check_present(path, algorithm, wanted)
            _receive(url, file, path, attempts, timeout, say)
            file.flush()
            os.fsync(file.fileno())
            found = _checksum(part, algorithm)
            if found != wanted:
                part.unlink()
                raise InputError(
                    f"what {url} sent has the {algorithm} {found} where {wanted} is needed, so it was removed: try "
                    f"again, or get the file in another way and put it at {path}"
                )
            os.replace(part, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(f"{path} cannot be written ({error}): choose a folder that can") from error
        raise InputError(
            f"the disk is full at {path.parent}: make room and call again, what has come is kept"
        ) from error
    return path


def _check_present(path: Path, algorithm: str, wanted: str | None) -> Path:
    if (found := _checksum(path, algorithm)) != wanted:
        raise InputError(
            f"{path} is there with the {algorithm} {found} where {wanted} is needed: remove it, and it is downloaded "
            "anew"
        )
    return path


def _receive(url: str, file: BinaryIO, path: Path, attempts: int, timeout: float, say: Callable[[str], None]) -> None:
    """Append to `file` what it lacks of `url`."""
    failure = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(min(0.25 * 2**attempt, 8.0))
        try:
            if _receive_once(url, file, path, timeout, say):
                return
            failure = "the connection was cut"
        except urllib.error.HTTPError as error:
            failure = f"the server answered {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 429):
                break
        except urllib.error.URLError as error:
            failure = f"no connection: {error.reason}"
        except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
            failure = f"the connection was cut: {error or type(error).__name__}"
    raise InputError(
        f"{url} could not be downloaded ({failure}): check the network and call again, {file.tell():,} bytes are kept; "
        f"or get the file in another way and put it at {path}"
    )


def _receive_once(url: str, file: BinaryIO, path: Path, timeout: float, say: Callable[[str], None]) -> bool:
    """Whether the file is whole now."""
    have = file.seek(0, os.SEEK_END)
    headers = {"User-Agent": "kshot", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing lies beyond what is here: whole, or not this file; the checksum tells
            return True
        raise
    with response:
        if have and response.status != 206:  # the server knows no ranges and sends all of it
            have = file.truncate(0)
        length = response.headers.get("Content-Length")
        size = have + int(length) if length else None
        _announce(url, path, have, size, say)
        while block := response.read(BLOCK):
            file.write(block)
        return size is None or file.tell() >= size


def _announce(url: str, path: Path, have: int, size: int | None, say: Callable[[str], None]) -> None:
    much = "of unknown size" if size is None else f"{size / 1e6:.1f} MB"
    say(f"downloading {url} ({much}{f', {have / 1e6:.1f} MB are here' if have else ''}) to {path}")
    free = shutil.disk_usage(path.parent).free
    if size is not None and free < size - have:
        raise InputError(
            f"{path} needs {(size - have) / 1e6:,.1f} MB more and its disk has {free / 1e6:,.1f} MB: make room, or "
            "choose another folder"
        )


def _checksum(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _alone(file: BinaryIO) -> Iterator[None]:
    """One process at a time, where the system can lock files."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    fcntl.flock(file, fcntl.LOCK_EX)
    yield
