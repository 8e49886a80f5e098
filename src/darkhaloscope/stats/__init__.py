"""Statistics of scores and counts: arrays in, numbers out.

Scores are higher for what looks more like a lens; labels are 1 (arc) and 0 (none). A row belongs to a group
(host, or sky cell): rows of one group are not independent, so groups are what is resampled and what
`n_clusters` counts. NaN is an error everywhere: a NaN score is a fault upstream, not a low score.

Plain functions (`auroc`, `roc_curve`, `ece`, …) raise DataError where the answer is not defined. Those that
return an `Estimate` give `value=None` and say why in `detail`, so that a check can be NOT_EVALUATED.
"""

from darkhaloscope.stats.calibration import (
    EceReplicates,
    ReliabilityBin,
    brier,
    brier_skill,
    brier_skill_estimate,
    ece,
    ece_debiased,
    log_score,
    log_score_estimate,
    reliability_bins,
)
from darkhaloscope.stats.counts import (
    BinomialMethod,
    binomial,
    clustered_binomial,
    design_effect,
    effective_rows,
    upper_bound_no_hits,
    win_rate,
)
from darkhaloscope.stats.delong import auroc_delong, auroc_difference_delong
from darkhaloscope.stats.prevalence import (
    EPSILON,
    PriorShift,
    at_prevalence,
    effective_n,
    prevalence_weights,
)
from darkhaloscope.stats.recalibration import Recalibration, cox
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
    "EPSILON",
    "FEW_CLUSTERS",
    "Auroc",
    "BinomialMethod",
    "Draws",
    "EceReplicates",
    "Estimate",
    "PartialAuc",
    "PrecisionAtRecall",
    "PriorShift",
    "Recalibration",
    "ReliabilityBin",
    "RocCurve",
    "RocMeasure",
    "Statistic",
    "Threshold",
    "TprAtFpr",
    "at_prevalence",
    "auroc",
    "auroc_delong",
    "auroc_difference_delong",
    "auroc_estimate",
    "binomial",
    "brier",
    "brier_skill",
    "brier_skill_estimate",
    "cluster_interval",
    "clustered_binomial",
    "cox",
    "design_effect",
    "ece",
    "ece_debiased",
    "effective_n",
    "effective_rows",
    "log_score",
    "log_score_estimate",
    "needed_negatives",
    "precision_at_recall",
    "prevalence_weights",
    "recall_before",
    "reliability_bins",
    "roc_curve",
    "roc_differences",
    "roc_estimates",
    "threshold_at_fpr",
    "tost",
    "tpr_at_fpr",
    "upper_bound_no_hits",
    "win_rate",
]
