"""The figures of a report and a paper: one function each, a value in, a Matplotlib figure out.

`rendered` makes SVG for the page, PDF and PNG for the paper of it.
"""

from darkhaloscope.report.figures.canvas import (
    DOUBLE,
    SINGLE,
    STATUS_COLOUR,
    STATUS_MARKER,
    STATUS_SIGN,
    rendered,
)
from darkhaloscope.report.figures.curves import (
    DECIDING_COUNT,
    completeness,
    reliability,
    roc,
    roc_log,
    selection_curves,
    training_auroc,
    training_loss,
)
from darkhaloscope.report.figures.maps import realism, selection_map
from darkhaloscope.report.figures.pictures import arms, examples, lenses, pair_png, pairs
from darkhaloscope.report.figures.rows import ablation, comparators, contaminants, gates

__all__ = [
    "DECIDING_COUNT",
    "DOUBLE",
    "SINGLE",
    "STATUS_COLOUR",
    "STATUS_MARKER",
    "STATUS_SIGN",
    "ablation",
    "arms",
    "comparators",
    "completeness",
    "contaminants",
    "examples",
    "gates",
    "lenses",
    "pair_png",
    "pairs",
    "realism",
    "reliability",
    "rendered",
    "roc",
    "roc_log",
    "selection_curves",
    "selection_map",
    "training_auroc",
    "training_loss",
]
