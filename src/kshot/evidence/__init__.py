"""Evidence: a paper's figures reproduced by one command, and kept as files that can be checked later."""

from kshot.evidence.beside import (
    Comparison,
    Other,
    compared,
    keep_comparison,
    keep_evaluation,
    read_comparison,
    read_evaluation,
    read_figures,
)
from kshot.evidence.figures import Figure, reached
from kshot.evidence.kept import Kept, Standing, read_all, read_kept, standing, trained_by
from kshot.evidence.reproduce import as_tested, measure_again, paper_of, reproduce

__all__ = [
    "Comparison",
    "Figure",
    "Kept",
    "Other",
    "Standing",
    "as_tested",
    "compared",
    "keep_comparison",
    "keep_evaluation",
    "measure_again",
    "paper_of",
    "reached",
    "read_all",
    "read_comparison",
    "read_evaluation",
    "read_figures",
    "read_kept",
    "reproduce",
    "standing",
    "trained_by",
]
