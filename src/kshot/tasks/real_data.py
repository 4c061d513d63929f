"""Where data lies that the package does not hold: in a folder that is named, or in one of KSHOT_DATA."""

from __future__ import annotations

import os
from pathlib import Path

from kshot.types import InputError


def folder_of(name: str, root: str | Path | None, *, called: str, more: str = "") -> Path:
    """root, or the folder `name` of KSHOT_DATA. called, more: for the error, what lies there, and what else would help."""
    if root is not None:
        return Path(root).expanduser()
    if not (data := os.environ.get("KSHOT_DATA")):
        raise InputError(
            f"where {called} not known: give root='a folder', or set the environment variable KSHOT_DATA to the folder that "
            f"holds {name}/{more}"
        )
    return Path(data).expanduser() / name
