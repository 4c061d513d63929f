"""What a run was made from: kept in its run.json, and compared before it goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from kshot.learner import MetaLearner
from kshot.machine import machine, versions
from kshot.settings import Settings, changed, describe, describe_tasks, flat
from kshot.training.options import Training
from kshot.types import InputError, TaskSource

FREE = {"training.log_every", "training.save_every", "training.device"}  # what may change when a run goes on


def settings_of(learner: MetaLearner, tasks: TaskSource, validate: TaskSource | None, training: Training) -> Settings:
    """Learner, tasks and training, as JSON gives them back."""
    found = {
        "learner": describe(learner),
        "tasks": describe_tasks(tasks),
        "validate": None if validate is None else describe_tasks(validate),
        "training": training.to_dict(),
    }
    plain: Settings = json.loads(json.dumps(found))
    return plain


def origin(settings: Settings, **facts: object) -> dict[str, Any]:
    """The content of run.json."""
    return {
        **versions(),
        "machine": machine(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        **facts,
        **settings,
    }


def check_same(out: Path, before: Settings, now: Settings, training: Training) -> None:
    """Raise InputError unless the run in `out` was made from the same settings; it may only be made longer."""
    was, new, free = flat(before), flat(now), set(FREE)
    if training.schedule == "constant" and training.steps > was.get("training.steps", training.steps):
        free.add("training.steps")
    if keys := [key for key in changed(before, now) if key not in free]:
        what = "; ".join(f"{key.removeprefix('training.')} was {was.get(key)!r}, now {new.get(key)!r}" for key in keys)
        raise InputError(
            f"{out} holds a run with other settings ({what}): give the same settings to go on with it, or choose another folder"
        )
