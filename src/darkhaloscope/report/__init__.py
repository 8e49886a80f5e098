"""One self-contained page from the results of a run, and its figures.

`RunResults` is what a run hands in; `write_report` writes the page and its JSON twin.
"""

from darkhaloscope.report.figures import (
    Completeness,
    CompletenessBin,
    Epoch,
    History,
    LensPicture,
    Origin,
    PairPicture,
    RocCurve,
)
from darkhaloscope.report.report import ManifestEntry, RunResults, Verdict, render_report, write_report

__all__ = [
    "Completeness",
    "CompletenessBin",
    "Epoch",
    "History",
    "LensPicture",
    "ManifestEntry",
    "Origin",
    "PairPicture",
    "RocCurve",
    "RunResults",
    "Verdict",
    "render_report",
    "write_report",
]
