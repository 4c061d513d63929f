"""Where tasks come from."""

from kshot.tasks.sinusoids import Sinusoids
