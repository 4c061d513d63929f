"""The report of a run: one HTML file that explains itself, and one picture; and the picture of a diagnosis."""

from kshot.report.canvas import need_matplotlib
from kshot.report.diagnosis import picture as picture_of_diagnosis
from kshot.report.page import write_report

__all__ = ["need_matplotlib", "picture_of_diagnosis", "write_report"]
