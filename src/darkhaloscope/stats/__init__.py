"""Statistics of scores and counts: arrays in, numbers out.

Scores are higher for what looks more like a lens; labels are 1 (arc) and 0 (none). A row belongs to a group
(host, or sky cell): rows of one group are not independent, so groups are what is resampled and what
`n_clusters` counts. NaN is an error everywhere: a NaN score is a fault upstream, not a low score.

Plain functions (`auroc`, `roc_curve`, `ece`, …) raise DataError where the answer is not defined. Those that
return an `Estimate` give `value=None` and say why in `detail`, so that a check can be NOT_EVALUATED.
"""

from darkhaloscope.stats.calibration import (
    ReliabilityBin,
    brier,
    brier_skill,
    brier_skill_estimate,
    log_score,
    log_score_estimate,
    reliability_bins,
)
from darkhaloscope.stats.calibration_error import EceReplicates, ece, ece_debiased, ece_estimates
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
from darkhaloscope.stats.differences import (
    Combined,
    Mcnemar,
    combine,
    detectable_share,
    holm,
    mcnemar_exact,
)
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
    ByCounts,
    Draws,
    Estimate,
    Replicates,
    Statistic,
    cluster_interval,
    replicates,
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
    roc_by_counts,
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
    "ByCounts",
    "Combined",
    "Draws",
    "EceReplicates",
    "Estimate",
    "Mcnemar",
    "PartialAuc",
    "PrecisionAtRecall",
    "PriorShift",
    "Recalibration",
    "ReliabilityBin",
    "Replicates",
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
    "combine",
    "cox",
    "design_effect",
    "detectable_share",
    "ece",
    "ece_debiased",
    "ece_estimates",
    "effective_n",
    "effective_rows",
    "holm",
    "log_score",
    "log_score_estimate",
    "mcnemar_exact",
    "needed_negatives",
    "precision_at_recall",
    "prevalence_weights",
    "recall_before",
    "reliability_bins",
    "replicates",
    "roc_by_counts",
    "roc_curve",
    "roc_differences",
    "roc_estimates",
    "threshold_at_fpr",
    "tost",
    "tpr_at_fpr",
    "upper_bound_no_hits",
    "win_rate",
]
