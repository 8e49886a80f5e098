"""The variance of an AUROC in closed form, for rows that share groups.

Obuchowski (1997, Biometrics 53, 567) for clustered rows, DeLong, DeLong & Clarke-Pearson (1988) where every
row is its own group. With V10 of a positive the share of negatives it beats, V01 of a negative the share of
positives that beat it (ties one half), and sums over each group c of n1c positives and n0c negatives:

    var(A) = S10 / n1^2 + S01 / n0^2 + 2 S11 / (n1 n0)
    S10 = I10 / (I10 - 1) sum_c (V10_c - n1c A)^2, S01 alike
    S11 = I / (I - 1) sum_c (V10_c - n1c A) (V01_c - n0c A)

I10 and I01 are the groups that hold positives and negatives, I all. It assumes that A is near normal, which
fails near 1 and with few groups: the cluster bootstrap is the default, this is its check.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as distributions

from darkhaloscope.stats.resampling import Estimate
from darkhaloscope.stats.rows import Rows, Vector, checked_rows

_METHOD = "clustered DeLong"


class _Parts(NamedTuple):
    """AUROC and each group's departure from it, as positives and as negatives."""

    auc: float
    pos: Vector
    neg: Vector


def auroc_delong(
    scores: ArrayLike, labels: ArrayLike, groups: ArrayLike | None, *, confidence: float = 0.95
) -> Estimate:
    """AUROC with its normal interval, cut at 0 and 1. None where a class is empty or has a single group."""
    rows = checked_rows(scores, labels, groups)
    why = _lacks(rows)
    if why:
        return Estimate(None, None, None, len(rows.score), rows.n_groups, _METHOD, why)
    parts = _parts(rows)
    error = float(np.sqrt(_covariance(rows, parts, parts)))
    return _normal(rows, parts.auc, error, confidence, bounds=(0.0, 1.0))


def auroc_difference_delong(
    first: ArrayLike,
    second: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike | None,
    *,
    confidence: float = 0.95,
) -> Estimate:
    """AUROC of the first model less that of the second on the same rows; None as `auroc_delong`."""
    rows, other = checked_rows(first, labels, groups), checked_rows(second, labels, groups)
    why = _lacks(rows)
    if why:
        return Estimate(None, None, None, len(rows.score), rows.n_groups, _METHOD, why)
    a, b = _parts(rows), _parts(other)
    variance = _covariance(rows, a, a) + _covariance(rows, b, b) - 2 * _covariance(rows, a, b)
    return _normal(rows, a.auc - b.auc, float(np.sqrt(max(variance, 0.0))), confidence, bounds=(-1.0, 1.0))


def _lacks(rows: Rows) -> str:
    if rows.lacks_a_class:
        return "one of the classes is empty"
    few = min(len(np.unique(rows.group[side])) for side in (rows.positive, ~rows.positive))
    return "" if few > 1 else "a class lies in a single group"


def _parts(rows: Rows) -> _Parts:
    pos, neg = rows.score[rows.positive], rows.score[~rows.positive]
    both = distributions.rankdata(np.concatenate([pos, neg]))
    n1, n0 = len(pos), len(neg)
    # A positive's rank among all less its rank among positives counts the negatives below it.
    v10 = (both[:n1] - distributions.rankdata(pos)) / n0
    v01 = 1.0 - (both[n1:] - distributions.rankdata(neg)) / n1
    auc = float(v10.mean())
    return _Parts(
        auc,
        _by_group(rows, rows.positive, v10 - auc),
        _by_group(rows, ~rows.positive, v01 - auc),
    )


def _by_group(rows: Rows, side: NDArray[np.bool_], departures: Vector) -> Vector:
    sums = np.bincount(rows.group[side], weights=departures, minlength=rows.n_groups)
    return np.asarray(sums, dtype=np.float64)


def _covariance(rows: Rows, a: _Parts, b: _Parts) -> float:
    n1, n0 = int(rows.positive.sum()), int((~rows.positive).sum())
    with_pos, with_neg = (len(np.unique(rows.group[side])) for side in (rows.positive, ~rows.positive))
    s10 = with_pos / (with_pos - 1) * float(a.pos @ b.pos)
    s01 = with_neg / (with_neg - 1) * float(a.neg @ b.neg)
    m = rows.n_groups
    s11 = m / (m - 1) * (float(a.pos @ b.neg) + float(b.pos @ a.neg)) / 2
    return s10 / n1**2 + s01 / n0**2 + 2 * s11 / (n1 * n0)


def _normal(
    rows: Rows, value: float, error: float, confidence: float, *, bounds: tuple[float, float]
) -> Estimate:
    half = float(distributions.norm.ppf((1 + confidence) / 2)) * error
    low, high = max(value - half, bounds[0]), min(value + half, bounds[1])
    return Estimate(value, low, high, len(rows.score), rows.n_groups, _METHOD, f"standard error {error:.3g}")
