"""Omniglot (Lake, Salakhutdinov, Tenenbaum 2015): 1,623 hand-drawn characters of 50 alphabets, 20 drawings of each.

The split is the one of Matching Networks (Vinyals et al. 2016) as Prototypical Networks published it and their
successors report on: 1,028 characters train, 172 validate, 423 test, and each counts as four classes, one a quarter
turn. It follows the alphabets but for one, Gurmukhi, so it is written down here in a dozen lines.
"""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from kshot import atomic
from kshot.tasks.download import fetch
from kshot.tasks.episodes import Count, Episodes
from kshot.tasks.images import UNREADABLE, as_square
from kshot.tasks.labelled import Labelled
from kshot.tasks.real_data import folder_of
from kshot.types import InputError

Split = Literal["train", "val", "trainval", "test"]
Drawings = tuple[list[str], NDArray[np.uint8]]  # names 'Alphabet/characterNN', images [characters, 20, s, s]

ADDRESS = "https://github.com/brendenlake/omniglot/raw/master/python/"
ARCHIVES = {  # name: (characters, md5 of the official file)
    "images_background": (964, "68d2efa1b9178cc56df9314c21c6e718"),
    "images_evaluation": (659, "6b91aef0f799c5bb55b94e3f2daec811"),
}
DRAWINGS = 20

VALIDATION = frozenset(("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"))
TEST = frozenset(("Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)", "Oriya"))
TEST |= {"Sylheti", "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG"}
TEST |= {f"Gurmukhi/character{number}" for number in (42, 43, 44, 45)}
SPLITS: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val",),
    "trainval": ("train", "val"),
    "test": ("test",),
}


def omniglot(
    split: Split = "train", *, root: str | Path | None = None, size: int = 28, download: bool = False
) -> Labelled:
    """Bytes [M, 1, size, size] in memory, ink 255 on 0; classes 'Greek/character07/rot090', 20 drawings of each; groups
    'Greek/rot090'.

    Classes: 4,112 train, 688 val, 4,800 trainval, 1,692 test. root holds the official images_background.zip and
    images_evaluation.zip; by default it is the folder omniglot in KSHOT_DATA. Decoded drawings are kept beside them.
    download=True brings the two archives (15 MB) where they are missing.
    """
    if split not in SPLITS:
        raise InputError(f"Omniglot has no split {split!r}: choose one of {', '.join(SPLITS)}")
    if not isinstance(size, int) or size < 1:
        raise InputError(f"size={size!r} is no side of an image: give a whole number of at least 1, 28 in the papers")
    place = _root(root)
    decoded = place / f"omniglot{size}.npz"
    if not decoded.is_file():
        return _classes(split, size, *_drawings(place, decoded, size, download))
    return _read(split, size, decoded, decoded.stat().st_mtime_ns)


@lru_cache(maxsize=4)  # a recipe asks for its splits again and again, and to tell their classes takes seconds
def _read(split: Split, size: int, decoded: Path, written: int) -> Labelled:
    """written: when the file was, so that another one in its place is read."""
    return _classes(split, size, *_load(decoded, size))


def _classes(split: Split, size: int, names: list[str], images: NDArray[np.uint8]) -> Labelled:
    chosen = [c for c, name in enumerate(names) if split_of(name) in SPLITS[split]]
    x = torch.from_numpy(images[chosen]).reshape(-1, 1, size, size)
    y = torch.arange(len(chosen)).repeat_interleave(DRAWINGS)
    characters = [names[c] for c in chosen]
    return Labelled.of(x, y, characters, [alphabet_of(name) for name in characters]).rotated()


def Omniglot(
    split: Split = "train",
    ways: Count = 5,
    shots: Count = 1,
    queries: Count = 15,
    *,
    root: str | Path | None = None,
    size: int = 28,
    download: bool = False,
    **options: Any,
) -> Episodes:
    """N-way k-shot tasks from Omniglot; `options` are those of Episodes."""
    return Episodes(omniglot(split, root=root, size=size, download=download), ways, shots, queries, **options)


def alphabet_of(character: str) -> str:
    return character.split("/")[0]


def split_of(character: str) -> Literal["train", "val", "test"]:
    """Where 'Alphabet/characterNN' belongs in the Vinyals split."""
    alphabet = alphabet_of(character)
    if alphabet in TEST or character in TEST:
        return "test"
    return "val" if alphabet in VALIDATION else "train"


def _root(root: str | Path | None) -> Path:
    more = "; with download=True it is brought there (in a recipe: root = 'DIR', download = true below [tasks])"
    return folder_of("omniglot", root, called="Omniglot lies is", more=more)


def _drawings(root: Path, kept: Path, size: int, download: bool) -> Drawings:
    """From the archives; kept for the next time."""
    names: list[str] = []
    images: list[NDArray[np.uint8]] = []
    background: list[bool] = []
    for archive, (characters, md5) in ARCHIVES.items():
        path = root / f"{archive}.zip"
        if download and not path.exists():
            fetch(ADDRESS + path.name, path, md5=md5)
        found, drawn = _decode(path, characters, size)
        names += found
        images.append(drawn)
        background += [archive == "images_background"] * characters
    order = sorted(range(len(names)), key=names.__getitem__)
    names, drawings = [names[i] for i in order], np.concatenate(images)[order]
    _keep(kept, names, drawings, [background[i] for i in order])
    return names, drawings


def _load(path: Path, size: int) -> Drawings:
    total = sum(characters for characters, _ in ARCHIVES.values())
    try:
        with np.load(path, allow_pickle=False) as file:
            names, images = file["names"].tolist(), file["images"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}): remove it, it is made anew from the archives") from error
    if images.shape != (total, DRAWINGS, size, size) or images.dtype != np.uint8 or len(set(names)) != total:
        raise InputError(
            f"{path} holds {images.dtype} of shape {images.shape} where bytes of shape {(total, DRAWINGS, size, size)} "
            "and a name for each character are needed: remove it, it is made anew from the archives"
        )
    return names, images


def _decode(path: Path, characters: int, size: int) -> Drawings:
    """An official archive: images_background/ALPHABET/characterNN/NNNN_NN.png, ink black on white, 105 × 105."""
    advice = f"remove it and download it again from {ADDRESS}{path.name}, or by download=True"
    if not path.is_file():
        raise InputError(
            f"there is no {path}: put the file from {ADDRESS}{path.name} there, or give download=True (of a recipe: "
            "kshot train NAME --set tasks.download=true)"
        )
    drawings: dict[str, list[str]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in sorted(archive.namelist()):
                if member.endswith(".png") and not member.startswith("__MACOSX"):
                    drawings.setdefault("/".join(member.split("/")[-3:-1]), []).append(member)
            if len(drawings) != characters or any(len(members) != DRAWINGS for members in drawings.values()):
                raise InputError(
                    f"{path} holds {len(drawings)} characters where {characters} with {DRAWINGS} drawings each are "
                    f"needed: {advice}"
                )
            images = np.empty((characters, DRAWINGS, size, size), np.uint8)
            for c, members in enumerate(drawings.values()):
                for d, member in enumerate(members):
                    with Image.open(io.BytesIO(archive.read(member))) as image:
                        images[c, d] = as_square(image, size, invert=True)[0]
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, *UNREADABLE) as error:
        raise InputError(f"{path} is no whole zip archive of drawings ({error}): {advice}") from error
    return list(drawings), images


def _keep(path: Path, names: list[str], images: NDArray[np.uint8], background: list[bool]) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, images=images, names=np.array(names), background=np.array(background))
    try:
        atomic.write(path, content.getvalue())
    except InputError as error:
        warnings.warn(f"{error}; until then each start decodes the drawings again", stacklevel=4)
