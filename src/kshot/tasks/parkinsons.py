"""Parkinson's telemonitoring (Tsanas, Little, McSharry, Ramig 2010; UCI 189): how severe is it, from a voice?

42 patients recorded themselves for half a year; a patient is a task. A doctor scored each at three visits, and between them
the data set interpolates by straight lines: a patient's day and few scores nearly give the others, and the voice alone hardly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from kshot.tasks.groups import Groups
from kshot.tasks.real_data import folder_of
from kshot.types import InputError

Split = Literal["train", "val", "test"]
FILE = "parkinsons_updrs.data"
PATIENTS = {"train": range(1, 26), "val": range(26, 33), "test": range(33, 43)}
SEVERITY = 4  # the column motor_UPDRS
DAY, VOICE = 3, range(6, 22)


def Parkinsons(
    split: Split = "train", shots: int = 10, queries: int = 60, *, day: bool = True, root: str | Path | None = None
) -> Groups:
    """Regression of motor_UPDRS, a task a patient. x: sixteen measures of the voice, standardized by the patients of training
    and validation; before them, unless day=False, the day of the recording.

    Patients 1 to 25 train, 26 to 32 validate, 33 to 42 test. root: the folder of parkinsons_updrs.data; by default
    the folder parkinsons in KSHOT_DATA.
    """
    if split not in PATIENTS:
        raise InputError(f"Parkinsons has no split {split!r}: choose one of {', '.join(PATIENTS)}")
    rows = _rows(_root(root) / FILE)
    patient, x, y = rows[:, 0].astype(int), rows[:, ([DAY] if day else []) + [*VOICE]], rows[:, SEVERITY]
    known = x[patient < PATIENTS["test"].start]
    x = (x - known.mean(0)) / known.std(0)
    here = np.isin(patient, PATIENTS[split])
    return Groups(
        torch.from_numpy(x[here]).float(), torch.from_numpy(y[here]).float(),
        [f"patient{number:02d}" for number in patient[here]], shots, queries,
    )  # fmt: skip


def _root(root: str | Path | None) -> Path:
    more = " (UCI Machine Learning Repository, data set 189; in a recipe: root = 'DIR' below [tasks])"
    return folder_of("parkinsons", root, called="the recordings lie is", more=more)


def _rows(path: Path) -> NDArray[np.float64]:
    if not path.is_file():
        raise InputError(f"there is no {path}: put the file of UCI's data set 189 there, or give another root=")
    try:
        rows = np.genfromtxt(path, delimiter="\t" if "\t" in path.open().readline() else ",", skip_header=1)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): bring the file of UCI's data set 189 anew") from error
    if rows.ndim != 2 or rows.shape[1] != 22 or not np.isfinite(rows).all():
        raise InputError(
            f"{path} holds a table of shape {rows.shape}, rows of 22 numbers are needed: bring the file anew"
        )
    return rows
