"""The outer loop: train a learner, and never lose a run."""

from kshot.training.checkpoint import load, load_weights, save
from kshot.training.loop import Diverged, Interrupted, fit

__all__ = ["Diverged", "Interrupted", "fit", "load", "load_weights", "save"]
