"""What probabilities are worth at another prevalence, and estimates that rest on the two classes alone.

A probability is stated at a prevalence: a network trained on as many arcs as galaxies without one states what
holds where every second galaxy has one. `PriorShift` says at which prevalence the probabilities were stated
and at which they are judged; they are moved there, and the classes are weighed to it. What is then estimated
rests on the two classes alone, not on how many rows of each there happen to be.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy import stats as distributions

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.stats.rows import Rows, Vector, checked_rows

EPSILON = 1e-12
"""Where a logarithm is taken, probabilities are kept this far from 0 and 1, and those moved are counted."""


class PriorShift(NamedTuple):
    """The prevalence at which probabilities are stated, and the one at which they are judged."""

    was: float
    now: float

    @property
    def step(self) -> float:
        """What the move adds to a logit. DataError for a prevalence outside 0 … 1."""
        return _prior_logit(self.now) - _prior_logit(self.was)


def at_prevalence(prob: ArrayLike, was: float, now: float) -> Vector:
    """Probabilities stated at prevalence `was` as they hold at prevalence `now`.

    The odds are multiplied by the ratio of the prior odds (Elkan 2001, theorem 2; Saerens, Latinne &
    Decaestecker 2002, eq. 4): right where the two classes look the same at both. 0 and 1 stay what they are.
    """
    p = probabilities(prob)
    ratio = float(np.exp(PriorShift(was, now).step))
    return np.asarray(p * ratio / (p * ratio + (1 - p)))


def prevalence_weights(label: ArrayLike, now: float) -> Vector:
    """A weight for each row that makes the weighted share of positives `now`; their mean is 1.

    DataError where a class is empty.
    """
    y = checked_rows(np.zeros(np.size(label)), label, None).positive
    if y.all() or not y.any():
        raise DataError("prevalence_weights", "one of the classes is empty, so no weight makes up for it")
    _prior_logit(now)
    share = float(y.mean())
    return np.where(y, now / share, (1 - now) / (1 - share))


def effective_n(weights: ArrayLike) -> float:
    """(sum w)² / sum w²: rows of equal weight with as large an error (Kish 1965); 0 for none."""
    w = np.asarray(weights, dtype=np.float64)
    square = float((w**2).sum())
    return float(w.sum()) ** 2 / square if square else 0.0


def _prior_logit(prevalence: float) -> float:
    if not 0 < prevalence < 1:
        raise DataError("prevalence", f"must lie between 0 and 1, not {prevalence:g}")
    return float(special.logit(prevalence))


def probabilities(prob: ArrayLike) -> Vector:
    """Probabilities as an array; DataError for one outside 0 … 1, or NaN."""
    p = np.asarray(prob, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise DataError("probabilities", "must lie between 0 and 1")
    return p


def logits(prob: ArrayLike) -> tuple[Vector, int]:
    """The logit of each p, ln p/(1 - p), and how many p were moved to `EPSILON` from 0 or 1 for it."""
    p = probabilities(prob)
    kept = np.clip(p, EPSILON, 1 - EPSILON)
    return np.asarray(special.logit(kept)), int((kept != p).sum())


# --- each group left out in turn --------------------------------------------------------------------------


class ClassSums:
    """Means of columns of rows: of all rows, and with each group left out in turn.

    now   the prevalence to which the classes are weighed: now x the mean of the positives and (1 - now) x
          that of the rest, whatever is left out. None: the plain mean of the rows as they were drawn.
    """

    def __init__(self, rows: Rows, columns: NDArray[np.float64], now: float | None) -> None:
        self.now, self.m = now, rows.n_groups
        cell = rows.positive * self.m + rows.group

        def by_cell(column: Vector) -> Vector:
            return np.asarray(np.bincount(cell, column, 2 * self.m).reshape(2, self.m), dtype=np.float64)

        self._n = by_cell(np.ones(len(cell)))
        self._sums = np.stack([by_cell(column) for column in columns.T], axis=-1)
        self.whole = self._mean(self._sums.sum(axis=1), self._n.sum(axis=1))
        self.fewest = int((self._n > 0).sum(axis=1).min()) if now is not None else self.m
        """Groups that hold the class which the fewest hold; all groups where rows are not weighed."""

    def without(self) -> NDArray[np.float64]:
        """The means without each group, (group, column); NaN where a class is then empty."""
        sums, n = (
            self._sums.sum(axis=1, keepdims=True) - self._sums,
            self._n.sum(axis=1, keepdims=True) - self._n,
        )
        return self._mean(sums, n)

    def _mean(self, sums: NDArray[np.float64], n: Vector) -> NDArray[np.float64]:
        if self.now is None:
            sums, n, share = sums.sum(axis=0, keepdims=True), n.sum(axis=0, keepdims=True), np.ones(1)
        else:
            share = np.array([1 - self.now, self.now])
        means = sums / np.where(n > 0, n, np.nan)[..., None]
        return np.asarray(np.tensordot(share, means, axes=1))


def jackknife_half(
    sums: ClassSums, departures: NDArray[np.float64], confidence: float
) -> tuple[Vector | None, tuple[str, ...], str]:
    """Half widths of intervals, their methods, and why there are none.

    departures   how far each estimate moves when a group is left out, (group, estimate)
    """
    m, least = sums.m, sums.fewest - 1
    none = (f"cluster jackknife, t{max(least, 0)}",) * departures.shape[1]
    if least < 1 or not np.isfinite(departures).all():
        return None, none, f"{max(sums.fewest, 0)} clusters are too few for an interval"
    square = (departures**2).sum(axis=0)
    if not square.all():
        return None, none, "the clusters do not differ, so there is no interval"
    freedom = freedom_of(departures, least)
    half = distributions.t.ppf((1 + confidence) / 2, freedom) * np.sqrt((m - 1) / m * square)
    return np.asarray(half), tuple(f"cluster jackknife, t{f:.3g}" for f in freedom), ""


def freedom_of(departures: NDArray[np.float64], least: int) -> Vector:
    """Degrees of freedom of the variance of m groups' departures, (group, estimate), `least` at most.

    2 m / (k - 1), with the kurtosis k = m sum d^4 / (sum d²)² of the departures d: few where few groups carry
    the estimate, as at a low prevalence.
    """
    m, square = len(departures), (departures**2).sum(axis=0)
    kurtosis = m * (departures**4).sum(axis=0) / square**2
    return np.asarray(2 * m / np.maximum(kurtosis - 1, 2 * m / least))


def moved_text(moved: int, n: int) -> str:
    """What was done to probabilities too near 0 or 1 for a logarithm; empty where there were none."""
    return f"{moved} of {n} probabilities moved to {EPSILON:g} from 0 or 1" if moved else ""
