"""Texts as tensors: each is a row of numbers, one an n-gram. No vocabulary, nothing to fit, no download.

Axes: M texts, L places for n-grams.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

import torch
from torch import Tensor

from kshot.types import InputError

LENGTHS = (3, 4, 5)  # of character n-grams; a word counts its two ends, so that ' to ' is one of length 4


def hash_texts(texts: Sequence[str], length: int = 256) -> Tensor:
    """M texts -> int64 [M, length]: the n-grams of each in reading order, every one once, then zeros.

    An n-gram is a word (or a sign such as '?') or a piece of 3 to 5 characters of one, ends marked; its number, 1..2⁶²−1,
    is the same on every machine and in every process. Letter case and the unicode form do not matter.
    A text is cut after `length` n-grams, and a blank one is a row of zeros.
    """
    if isinstance(texts, str):
        raise InputError("one text was given where a list of texts is needed: write hash_texts([text])")
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise InputError(f"length={length!r} is no number of n-grams: give a whole number of at least 1")
    rows = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in zip(rows, texts, strict=True):
        if not isinstance(text, str):
            raise InputError(f"a {type(text).__name__} was given where a text is needed ({text!r}): leave it out")
        words = re.findall(r"[\w']+|[^\w\s]", unicodedata.normalize("NFKC", text).lower())
        numbers = list(dict.fromkeys(n for word in words for n in _numbers(word)))[:length]
        row[: len(numbers)] = torch.tensor(numbers, dtype=torch.int64)
    return rows


@lru_cache(maxsize=1 << 16)  # words repeat
def _numbers(word: str) -> tuple[int, ...]:
    marked = f" {word} "
    pieces = [marked] + [marked[i : i + n] for n in LENGTHS for i in range(len(marked) - n + 1) if n < len(marked)]
    return tuple(_number(piece) for piece in pieces)


def _number(piece: str) -> int:
    digest = blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "little") % ((1 << 62) - 1)  # Python's own hash() differs from process to process
