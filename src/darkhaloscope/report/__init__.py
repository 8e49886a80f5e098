"""The page of a run, its figures, and the files of a paper.

`RunResults` is what a run hands in. `write_report` writes the page and its JSON twin, `write_paper` the
figures and tables of a paper. A figure is one function of one value (`report.figures`, `report.values`).
"""

from darkhaloscope.report.captions import caption
from darkhaloscope.report.paper import write_paper
from darkhaloscope.report.parts import Binning, Counted, Fit, Histogram, Origin
from darkhaloscope.report.report import render_report, write_report
from darkhaloscope.report.run import ManifestEntry, RunResults, Verdict
from darkhaloscope.report.values import (
    AblationBars,
    Arm,
    ComparatorAuc,
    ComparatorAucs,
    Completeness,
    CompletenessBin,
    ContaminantRate,
    ContaminantRates,
    Distribution,
    Endpoint,
    Epoch,
    Example,
    History,
    LensPicture,
    PairPicture,
    Profile,
    QuantileBand,
    Realism,
    Reliability,
    ReliabilityBin,
    ReliabilityCurve,
    RocCurve,
    SeedValue,
    SelectionCurve,
    SelectionMap,
    SelectionPoint,
)

__all__ = [
    "AblationBars",
    "Arm",
    "Binning",
    "ComparatorAuc",
    "ComparatorAucs",
    "Completeness",
    "CompletenessBin",
    "ContaminantRate",
    "ContaminantRates",
    "Counted",
    "Distribution",
    "Endpoint",
    "Epoch",
    "Example",
    "Fit",
    "Histogram",
    "History",
    "LensPicture",
    "ManifestEntry",
    "Origin",
    "PairPicture",
    "Profile",
    "QuantileBand",
    "Realism",
    "Reliability",
    "ReliabilityBin",
    "ReliabilityCurve",
    "RocCurve",
    "RunResults",
    "SeedValue",
    "SelectionCurve",
    "SelectionMap",
    "SelectionPoint",
    "Verdict",
    "caption",
    "render_report",
    "write_paper",
    "write_report",
]
