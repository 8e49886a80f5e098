"""How far stated probabilities are from what happens: reliability and proper scores.

Intervals at a prevalence are a delete-one-group jackknife with Student's t (`prevalence.jackknife_half`).
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.stats.calibration_error import Binned
from darkhaloscope.stats.counts import clustered_binomial, effective_rows
from darkhaloscope.stats.prevalence import (
    ClassSums,
    PriorShift,
    at_prevalence,
    jackknife_half,
    logits,
    moved_text,
    probabilities,
)
from darkhaloscope.stats.resampling import Estimate
from darkhaloscope.stats.rows import Rows, Vector, checked_rows

# --- reliability ------------------------------------------------------------------------------------------


class ReliabilityBin(NamedTuple):
    """Rows of neighbouring probabilities: their mean, and the share of positives with its interval.

    n_eff   rows that would say as much were they independent
    """

    p_mean: float
    observed: float
    low: float
    high: float
    n: int
    n_eff: float
    n_clusters: int


def reliability_bins(
    prob: ArrayLike,
    label: ArrayLike,
    groups: ArrayLike | None = None,
    bins: int = 15,
    *,
    confidence: float = 0.95,
) -> tuple[ReliabilityBin, ...]:
    """Stated against observed in bins of equal mass, binned as `ece`; a bin without rows is left out.

    The interval is that of `clustered_binomial` for few groups, and holds for one bin at a time. Without rows
    there are no bins.
    """
    rows = checked_rows(prob, label, groups)
    probabilities(rows.score)
    if not len(rows.score):
        return ()
    which = Binned(rows, bins).bin_of_rows()
    return tuple(_reliability(rows, which == b, confidence) for b in np.unique(which))


def _reliability(rows: Rows, inside: NDArray[np.bool_], confidence: float) -> ReliabilityBin:
    hits, groups = rows.positive[inside], rows.group[inside]
    found = clustered_binomial(hits, groups, confidence=confidence, few=True)
    return ReliabilityBin(
        p_mean=float(rows.score[inside].mean()),
        observed=float(hits.mean()),
        low=float(found.low or 0.0),
        high=1.0 if found.high is None else float(found.high),
        n=found.n,
        n_eff=effective_rows(hits, groups),
        n_clusters=int(found.n_clusters or 0),
    )


# --- proper scores ----------------------------------------------------------------------------------------


def brier(prob: ArrayLike, label: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean square of probability less outcome (Brier 1950): 0 is perfect."""
    p, y, w = _weighted(prob, label, weights)
    return float(np.average((p - y) ** 2, weights=w))


def brier_skill(prob: ArrayLike, label: ArrayLike, weights: ArrayLike | None = None) -> float:
    """1 - Brier score over that of the base rate told to every row: 0 is no skill, 1 is perfect.

    DataError where a class is empty: the base rate is then perfect.
    """
    p, y, w = _weighted(prob, label, weights)
    base = float(np.average(y, weights=w))
    if not 0 < base < 1:
        raise DataError("brier_skill", "needs both classes")
    return 1 - brier(p, y, w) / (base * (1 - base))


def log_score(prob: ArrayLike, label: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean of -ln(probability given to what happened) [nat] (Good 1952): 0 is perfect.

    A probability of 0 for what happened counts as `EPSILON`.
    """
    p, y, w = _weighted(prob, label, weights)
    return float(np.average(_log_losses(logits(p)[0], y), weights=w))


def _weighted(
    prob: ArrayLike, label: ArrayLike, weights: ArrayLike | None
) -> tuple[Vector, Vector, Vector | None]:
    rows = checked_rows(prob, label, None)
    if not len(rows.score):
        raise DataError("scores", "there are no rows")
    w = None if weights is None else np.asarray(weights, dtype=np.float64).ravel()
    return probabilities(rows.score), rows.positive.astype(np.float64), w


def _log_losses(x: Vector, y: Vector) -> Vector:
    return np.asarray(np.logaddexp(0.0, np.where(y > 0, -x, x)))


def brier_skill_estimate(
    prob: ArrayLike,
    label: ArrayLike,
    groups: ArrayLike | None,
    shift: PriorShift,
    *,
    confidence: float = 0.95,
) -> Estimate:
    """`brier_skill` at prevalence `shift.now` with an interval over groups. None where a class is empty."""
    rows = checked_rows(prob, label, groups)
    found = _mean_loss(rows, (at_prevalence(rows.score, *shift) - rows.positive) ** 2, shift.now, confidence)
    base = shift.now * (1 - shift.now)
    value, low, high = (None if x is None else 1 - x / base for x in (found.value, found.high, found.low))
    return replace(found, value=value, low=low, high=None if high is None else min(high, 1.0))


def log_score_estimate(
    prob: ArrayLike,
    label: ArrayLike,
    groups: ArrayLike | None,
    shift: PriorShift,
    *,
    confidence: float = 0.95,
) -> Estimate:
    """`log_score` at prevalence `shift.now` with an interval over groups. None where a class is empty."""
    rows = checked_rows(prob, label, groups)
    x, moved = logits(rows.score)
    loss = _log_losses(x + shift.step, rows.positive.astype(np.float64))
    found = _mean_loss(rows, loss, shift.now, confidence)
    low = None if found.low is None else max(found.low, 0.0)
    return replace(
        found, low=low, detail="; ".join(t for t in (moved_text(moved, len(x)), found.detail) if t)
    )


def _mean_loss(rows: Rows, loss: Vector, now: float, confidence: float) -> Estimate:
    n, m = len(rows.score), rows.n_groups
    if rows.lacks_a_class:
        return Estimate(None, None, None, n, m, "none", "one of the classes is empty")
    sums = ClassSums(rows, loss[:, None], now)
    half, method, why = jackknife_half(sums, sums.without() - sums.whole, confidence)
    value = float(sums.whole[0])
    low, high = (None, None) if half is None else (value - float(half[0]), value + float(half[0]))
    return Estimate(value, low, high, n, m, method[0], why)
