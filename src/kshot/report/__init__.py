"""The report of a run: one HTML file that explains itself, and one picture."""

from kshot.report.page import write_report

__all__ = ["write_report"]
