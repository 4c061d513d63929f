"""The examination of a learner: its inner loop, its meta-gradient in every mode, and what to do about it."""

from kshot.doctor.examine import diagnose
from kshot.doctor.findings import Agreement, Diagnosis, Forecast, Mode, Range, Silent, Step
from kshot.doctor.tables import show

__all__ = ["Agreement", "Diagnosis", "Forecast", "Mode", "Range", "Silent", "Step", "diagnose", "show"]
