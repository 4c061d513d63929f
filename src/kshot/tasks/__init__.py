"""Where tasks come from: one source a file, one row in the table of those that a recipe can name."""

from collections.abc import Callable
from typing import Any

from kshot.tasks.datasets import from_dataset
from kshot.tasks.episodes import Episodes
from kshot.tasks.files import from_csv, from_jsonl
from kshot.tasks.glyphs import Glyphs, draw_glyphs
from kshot.tasks.groups import Groups
from kshot.tasks.images import from_folder
from kshot.tasks.intents import Intents
from kshot.tasks.labelled import Labelled
from kshot.tasks.linear import LinearRegressions
from kshot.tasks.omniglot import Omniglot, omniglot
from kshot.tasks.own import Own
from kshot.tasks.parkinsons import Parkinsons
from kshot.tasks.sinusoids import Sinusoids
from kshot.tasks.texts import hash_texts
from kshot.tasks.transforms import from_transforms

SOURCES: dict[str, Callable[..., Any]] = {
    "glyphs": Glyphs,
    "intents": Intents,
    "linear": LinearRegressions,
    "omniglot": Omniglot,
    "own": Own,
    "parkinsons": Parkinsons,
    "sinusoids": Sinusoids,
}

__all__ = [
    "SOURCES",
    "Episodes",
    "Glyphs",
    "Groups",
    "Intents",
    "Labelled",
    "LinearRegressions",
    "Omniglot",
    "Parkinsons",
    "Sinusoids",
    "draw_glyphs",
    "from_csv",
    "from_dataset",
    "from_folder",
    "from_jsonl",
    "from_transforms",
    "hash_texts",
    "omniglot",
]
