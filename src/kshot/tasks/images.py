"""Images that are decoded when they are asked for, and folders of them with a sub-folder a class.

Axes: M images, U different images of one read, C channels, s the side of the square they are brought to.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from kshot import atomic
from kshot.tasks.labelled import Labelled, as_input
from kshot.types import InputError

Invert = Literal["auto"] | bool
SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".jp2"]
)
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class Images:
    """A Storage of images that are opened when first read; the latest stay in memory as bytes, at most cache_mb.

    load: row -> PIL image; title: row -> how an error names it. `read` may be called from several threads.
    """

    def __init__(
        self,
        load: Callable[[int], Image.Image],
        count: int,
        *,
        title: Callable[[int], str] = "row {}".format,
        size: int = 28,
        channels: int = 1,
        invert: Invert = "auto",
        cache_mb: float = 512,
        threads: int = 4,
    ) -> None:
        if size < 1 or channels not in (1, 3) or invert not in ("auto", True, False) or cache_mb < 0:
            raise InputError(
                f"size={size}, channels={channels}, invert={invert!r}, cache_mb={cache_mb} do not describe images: "
                "size is at least 1, channels 1 (grey) or 3 (colour), invert 'auto', True or False, cache_mb at least 0"
            )
        self.load, self.count, self.title = load, count, title
        self.size, self.channels, self.invert, self.threads = size, channels, invert, threads
        self.capacity = min(count, int(cache_mb * 2**20) // (channels * size * size))  # images
        self._lock = Lock()
        self._cache: Tensor = torch.empty(self.capacity, channels, size, size, dtype=torch.uint8)
        self._slot: Tensor = torch.full((count,), -1)  # row -> its place in the cache
        self._row: Tensor = torch.full((self.capacity,), -1)  # and back
        self._used: Tensor = torch.zeros(self.capacity, dtype=torch.int64)  # when, by the count of reads
        self._reads = 0

    def __len__(self) -> int:
        return self.count

    @property
    def cached_bytes(self) -> int:
        return int((self._row >= 0).sum()) * self.channels * self.size**2

    def read(self, rows: Tensor) -> Tensor:
        """rows [*] -> [*, C, s, s] float32 in 0..1."""
        wanted, place = torch.unique(rows, return_inverse=True)
        x = torch.empty(len(wanted), self.channels, self.size, self.size, dtype=torch.uint8)  # [U, C, s, s]
        with self._lock:
            self._reads += 1
            slots = self._slot[wanted]
            here = slots >= 0
            x[here] = self._cache[slots[here]]
            self._used[slots[here]] = self._reads
        missing = wanted[~here]
        if len(missing):
            decoded = self._decode_all(missing.tolist())
            x[~here] = decoded
            self._keep(missing, decoded)
        return as_input(x[place])

    def _decode_all(self, rows: list[int]) -> Tensor:
        if len(rows) < 4:  # not worth the start of threads
            arrays = [self._decode(row) for row in rows]
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                arrays = list(pool.map(self._decode, rows))
        return torch.from_numpy(np.stack(arrays))

    def _decode(self, row: int) -> NDArray[np.uint8]:
        try:
            with self.load(row) as image:
                return as_square(image, self.size, self.channels, self.invert)
        except InputError:
            raise
        except UNREADABLE as error:
            raise InputError(
                f"{self.title(row)} cannot be read as an image ({error}): replace it, or take it out of the data"
            ) from error

    def _keep(self, rows: Tensor, decoded: Tensor) -> None:
        with self._lock:
            new = (self._slot[rows] < 0).nonzero().flatten()[: self.capacity]  # another thread may have been faster
            slots = self._used.topk(len(new), largest=False).indices  # empty ones first, then the least recently used
            evicted = self._row[slots]
            self._slot[evicted[evicted >= 0]] = -1
            self._slot[rows[new]], self._row[slots] = slots, rows[new]
            self._cache[slots], self._used[slots] = decoded[new], self._reads


def as_square(image: Image.Image, size: int, channels: int = 1, invert: Invert = "auto") -> NDArray[np.uint8]:
    """A PIL image -> uint8 [C, s, s]. Its proportions are kept: padded to a square in its border's tone, then LANCZOS.

    invert='auto' brings drawings to kshot's convention, ink bright on black: a grey image whose outermost pixels have a
    median of at least 128 is dark ink on bright paper, and is inverted. Colour images are inverted only by invert=True.
    """
    image = _eight_bits(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(image).reshape(image.height, image.width, channels)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    tone = np.median(border, axis=0).astype(int)  # [C]
    if image.width != image.height:
        side = max(image.size)
        square = Image.new(image.mode, (side, side), int(tone[0]) if channels == 1 else tuple(tone.tolist()))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    if image.width != size:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    x = np.array(image, dtype=np.uint8).reshape(size, size, channels).transpose(2, 0, 1)
    turn = tone[0] >= 128 and channels == 1 if invert == "auto" else invert
    return np.ascontiguousarray(255 - x if turn else x)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey is scaled, not clipped; what is transparent becomes white paper."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values.clip(0, 65535) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def from_folder(
    path: str | Path, *, size: int = 28, channels: int = 1, invert: Invert = "auto", cache_mb: float = 512
) -> Labelled:
    """A folder with a sub-folder a class, read lazily as [M, channels, size, size].

    Every folder below `path` that holds images is a class, named by its place below it: 'Greek/character07'.
    invert: see as_square. cache_mb: how much of the decoded images stays in memory.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise InputError(
            f"{root} is a file: give the folder that holds a sub-folder of images for each class"
            if root.exists()
            else f"there is no folder {root}: check the path (it is looked up from {Path.cwd()})"
        )
    classes = dict(_walk(root))
    if "." in classes:
        raise InputError(
            f"{root} holds the image {classes['.'][0].name} outside of any class folder: "
            "put the images of each class in a sub-folder of its own"
        )
    empty = [name for name, files in classes.items() if not files]
    if len(classes) < 2:
        raise InputError(
            f"{root} holds {len(classes)} class folders and telling classes apart needs at least 2: "
            "put the images of each class in a sub-folder of its own"
        )
    if empty:
        raise InputError(
            f"class folder {empty[0]!r} of {root} holds no image (such as .png or .jpg): put some in, or remove "
            "the folder"
        )
    files = [file for members in classes.values() for file in members]

    storage = _from_files(files, size=size, channels=channels, invert=invert, cache_mb=cache_mb)
    names = list(classes)
    return Labelled.of(storage, [c for c, name in enumerate(names) for _ in classes[name]], names)


def images_below(
    path: str | Path, *, size: int = 28, channels: int = 1, invert: Invert = "auto"
) -> tuple[list[Path], Images]:
    """Every image in a folder, however deep, without labels: (files, their storage)."""
    root = Path(path).expanduser()
    files = [file for _, members in _walk(root) for file in members] if root.is_dir() else []
    if not files:
        raise InputError(
            f"{root} {'holds no image (such as .png or .jpg)' if root.is_dir() else 'is not a folder'}: "
            "give the folder with the images to classify"
        )
    return files, _from_files(files, size=size, channels=channels, invert=invert)


def write_folder(images: Tensor, path: str | Path) -> None:
    """uint8 [N, k, s, s], ink bright on black -> path/class_00/00.png …, drawn dark on white as on paper."""
    for c, examples in enumerate(images):
        for i, image in enumerate(examples):
            buffer = BytesIO()
            Image.fromarray((255 - image).numpy()).save(buffer, format="PNG")
            atomic.write(Path(path) / f"class_{c:02d}" / f"{i:02d}.png", buffer.getvalue())


def _from_files(files: Sequence[Path], *, size: int, **options: Any) -> Images:
    def load(row: int) -> Image.Image:
        image = Image.open(files[row])
        image.draft(None, (4 * size, 4 * size))  # a large JPEG is decoded no larger than it is useful
        return image

    return Images(load, len(files), title=lambda row: str(files[row]), size=size, **options)


def _walk(root: Path) -> list[tuple[str, Sequence[Path]]]:
    """(name, images) of each folder that holds images, and of each that holds nothing, sorted by name."""

    def fail(error: OSError) -> None:
        raise InputError(f"folder {error.filename} cannot be listed ({error.strerror}): allow reading it") from error

    found: list[tuple[str, Sequence[Path]]] = []
    seen: set[str] = set()
    for place, folders, files in os.walk(root, onerror=fail, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back up is not walked for ever
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [f for f in folders if not f.startswith((".", "__MACOSX"))]
        images = sorted(f for f in files if Path(f).suffix.lower() in SUFFIXES and not f.startswith("."))
        if images or (not folders and place != str(root)):
            found.append((Path(place).relative_to(root).as_posix(), [Path(place, f) for f in images]))
    return sorted(found)
