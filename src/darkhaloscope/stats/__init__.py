"""Statistics of scores and counts: arrays in, numbers out.

Scores are higher for what looks more like a lens; labels are 1 (arc) and 0 (none). A row belongs to a group
(host, or sky cell): rows of one group are not independent, so groups are what is resampled and what
`n_clusters` counts. NaN is an error everywhere: a NaN score is a fault upstream, not a low score.

Plain functions (`auroc`, `roc_curve`, `ece`, …) raise DataError where the answer is not defined. Those that
return an `Estimate` give `value=None` and say why in `detail`, so that a check can be NOT_EVALUATED.
"""

from darkhaloscope.stats.calibration import ece, ece_debiased
from darkhaloscope.stats.counts import (
    BinomialMethod,
    binomial,
    clustered_binomial,
    design_effect,
    upper_bound_no_hits,
    win_rate,
)
from darkhaloscope.stats.delong import auroc_delong, auroc_difference_delong
from darkhaloscope.stats.resampling import (
    FEW_CLUSTERS,
    Draws,
    Estimate,
    Statistic,
    cluster_interval,
    tost,
)
from darkhaloscope.stats.roc import (
    Auroc,
    PartialAuc,
    PrecisionAtRecall,
    RocCurve,
    RocMeasure,
    Threshold,
    TprAtFpr,
    auroc,
    auroc_estimate,
    needed_negatives,
    precision_at_recall,
    recall_before,
    roc_curve,
    roc_differences,
    roc_estimates,
    threshold_at_fpr,
    tpr_at_fpr,
)

__all__ = [
    "FEW_CLUSTERS",
    "Auroc",
    "BinomialMethod",
    "Draws",
    "Estimate",
    "PartialAuc",
    "PrecisionAtRecall",
    "RocCurve",
    "RocMeasure",
    "Statistic",
    "Threshold",
    "TprAtFpr",
    "auroc",
    "auroc_delong",
    "auroc_difference_delong",
    "auroc_estimate",
    "binomial",
    "cluster_interval",
    "clustered_binomial",
    "design_effect",
    "ece",
    "ece_debiased",
    "needed_negatives",
    "precision_at_recall",
    "recall_before",
    "roc_curve",
    "roc_differences",
    "roc_estimates",
    "threshold_at_fpr",
    "tost",
    "tpr_at_fpr",
    "upper_bound_no_hits",
    "win_rate",
]
