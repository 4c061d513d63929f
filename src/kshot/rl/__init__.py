"""Agents: environments as tasks, trajectories as examples. Its own sampling, on training's state, checkpoints and logs."""

from collections.abc import Callable

from kshot.rl.evaluate import evaluate
from kshot.rl.family import Family
from kshot.rl.loop import PolicyTraining, fit
from kshot.rl.navigation import Navigation
from kshot.rl.sampling import Trajectories, collect, rollout

ENVIRONMENTS: dict[str, Callable[..., Family]] = {"navigation": Navigation}

__all__ = [
    "ENVIRONMENTS",
    "Family",
    "Navigation",
    "PolicyTraining",
    "Trajectories",
    "collect",
    "evaluate",
    "fit",
    "rollout",
]
