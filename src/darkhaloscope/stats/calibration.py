"""How far stated probabilities are from what happens."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as distributions

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.stats.resampling import ByCounts, Counts
from darkhaloscope.stats.rows import Vector, checked_rows


def ece(prob: ArrayLike, label: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error in bins of equal mass (Naeini, Cooper & Hauskrecht 2015, in our binning).

    Equal probabilities share a bin, so the order of rows does not matter. It is biased up in small samples
    (.06 for a perfect model at n = 300) and dominated by the larger class. Raises DataError where a class is
    empty or a probability lies outside 0 … 1.
    """
    size, prob_mean, label_mean = _calibration_bins(prob, label, bins)
    return float((size * np.abs(label_mean - prob_mean)).sum() / size.sum())


def ece_debiased(prob: ArrayLike, label: ArrayLike, bins: int = 15) -> float:
    """Root of the squared calibration error less what sampling alone gives it; 0 where that is negative.

    sum_b w_b [(y - p)² - y (1 - y)/(n_b - 1)] over bins of at least two rows, binned as `ece`.
    """
    size, prob_mean, label_mean = _calibration_bins(prob, label, bins)
    usable = size > 1
    size, prob_mean, label_mean = size[usable], prob_mean[usable], label_mean[usable]
    square = (label_mean - prob_mean) ** 2 - label_mean * (1 - label_mean) / (size - 1)
    return float(np.sqrt(max((size * square).sum() / size.sum(), 0.0)))


def ece_by_counts(prob: ArrayLike, label: ArrayLike, groups: NDArray[np.intp], bins: int = 15) -> ByCounts:
    """`ece` as a function of how often each group counts: that of the rows repeated so often.

    groups   one per row, numbered 0 … m - 1, in which the counts are. NaN where a class has no weight.
    """
    p, y, _ = checked_rows(prob, label, None)
    order = np.argsort(p, kind="stable")
    p, positive, group = p[order], y[order], groups[order]
    # Rows of one probability share a bin: they are one block of the sorted rows.
    starts = np.flatnonzero(np.r_[True, p[1:] > p[:-1]]) if len(p) else np.zeros(0, np.intp)

    def of(counts: Counts) -> Vector:
        weight = counts.take(group).astype(np.float64)
        total, positives = weight.sum(), weight @ positive
        if not 0 < positives < total:
            return np.array([np.nan])
        block = np.add.reduceat(weight, starts)
        middle = (np.cumsum(block) - block / 2) / total
        which = np.minimum((middle * bins).astype(np.intp), bins - 1)
        excess = np.bincount(which, np.add.reduceat(weight * (positive - p), starts), minlength=bins)
        return np.array([np.abs(excess).sum() / total])

    return of


def _calibration_bins(prob: ArrayLike, label: ArrayLike, bins: int) -> tuple[Vector, Vector, Vector]:
    p, y, _ = checked_rows(prob, label, None)
    if y.all() or not y.any():
        raise DataError("ece", "calibration needs both classes")
    if p.min() < 0 or p.max() > 1:
        raise DataError("ece", "probabilities must lie between 0 and 1")
    middle = (distributions.rankdata(p) - 0.5) / len(p)
    which = np.minimum((middle * bins).astype(np.intp), bins - 1)
    size = np.bincount(which, minlength=bins).astype(np.float64)
    used = size > 0
    sums = (np.bincount(which, weights=w, minlength=bins)[used] for w in (p, y.astype(np.float64)))
    prob_sum, label_sum = sums
    return size[used], prob_sum / size[used], label_sum / size[used]
