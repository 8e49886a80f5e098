"""What a search meets at its threshold: recall before the first false positives, and how many candidates.

Thresholds are set on the calib split and used on the test split, as a search would.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from darkhaloscope.contracts.measured import ArcDomain, HostDomain, Measured
from darkhaloscope.evaluation.metrics import fpr_name
from darkhaloscope.evaluation.samples import Run, Sample, Vector, host_domain, negatives, positives
from darkhaloscope.gates.detection import point_at
from darkhaloscope.stats import (
    Draws,
    Estimate,
    PartialAuc,
    clustered_binomial,
    recall_before,
    roc_estimates,
)

FALSE_POSITIVES = {"tpr0": 1, "tpr10": 10}
"""Names of Metcalf et al. (2019), and the false positive that ends the list."""


def operating_metrics(
    rows: pa.Table, calibration: pa.Table, run: Run, *, area_deg2: float | None
) -> tuple[Measured, ...]:
    """TPR0, TPR10, partial AUC over log FPR, and candidates per square degree at each rate of the protocol.

    rows          SCORES of the test split
    calibration   SCORES of the calib split, whose negatives set the thresholds
    area_deg2     sky from which the negatives of `rows` are all the parents; None where it is not known
    """
    pos, neg = positives(rows), negatives(rows)
    host, level = host_domain(pos, neg), run.protocol.statistics.confidence
    found = {
        name: recall_before(pos.score, neg.score, k, pos.group, confidence=level)
        for name, k in FALSE_POSITIVES.items()
    }
    ranks = [run.measured(f"{name}_synth", e, host, ArcDomain.SIM) for name, e in found.items()]
    set_by = negatives(calibration).score
    rates = run.protocol.operating_points.fpr
    candidates = [_candidates(fpr, neg, set_by, run, area_deg2) for fpr in rates]
    return (*ranks, _partial(pos, neg, run), *candidates)


def _partial(pos: Sample, neg: Sample, run: Run) -> Measured:
    rates = run.protocol.operating_points.fpr
    draws = Draws(run.seed, run.protocol.statistics.bootstrap)
    scores, labels = np.r_[pos.score, neg.score], np.repeat([1.0, 0.0], [len(pos), len(neg)])
    measure = PartialAuc(min(rates), max(rates))
    found = roc_estimates(scores, labels, np.r_[pos.group, neg.group], [measure], draws)[0]
    detail = f"mean TPR over log10 FPR, {measure.low:g} to {measure.high:g}"
    return run.measured("partial_auc_synth", found, host_domain(pos, neg), ArcDomain.SIM, detail=detail)


def _candidates(fpr: float, neg: Sample, set_by: Vector, run: Run, area_deg2: float | None) -> Measured:
    """Parents above the threshold per square degree: what people would have to look at."""
    host = host_domain(neg)
    name = f"{'' if host is HostDomain.REAL else 'mock_'}candidates_per_deg2_fpr_{fpr_name(fpr)}"
    point = point_at(set_by, fpr, run.protocol)
    if area_deg2 is None or point is None or not point.enough:
        needs = run.protocol.operating_points.negatives_needed(fpr)
        lacks = f"{len(set_by)} negatives in calib, needs {needs}"
        if area_deg2 is None:
            lacks = "the sky area of the parents is not known"
        none = Estimate(None, None, None, len(neg), len(set(neg.group)), "none", lacks)
        return run.measured(name, none, host, ArcDomain.NONE)
    share = clustered_binomial(neg.score > point.threshold, neg.group, method="clopper-pearson")
    density = len(neg) / area_deg2
    value, low, high = (None if x is None else x * density for x in (share.value, share.low, share.high))
    found = replace(share, value=value, low=low, high=high, method=f"{share.method}, times the density")
    detail = f"{len(neg)} parents in {area_deg2:.3g} deg^2; {point.text}"
    measured = run.measured(name, found, host, ArcDomain.NONE, detail=detail)
    return measured.model_copy(update={"unit": "deg^-2"})
