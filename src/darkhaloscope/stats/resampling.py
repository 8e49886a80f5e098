"""Intervals from resampling whole groups.

Rows of one group are not independent, and nested groups (sky cell > host > injection) are resampled at the
top: whatever lies below a cell comes with it. The draws depend on the seed and on the number of groups
alone, so two models on the same rows are resampled alike and their difference has its own interval.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy import stats as distributions

from darkhaloscope.contracts.random import stream
from darkhaloscope.stats.rows import Vector

FEW_CLUSTERS = 30
"""Groups below which a bootstrap is too narrow: delete-one jackknife with Student's t instead."""

_BLOCKS = 200  # of groups left out in turn, for the acceleration of BCa
_MOST_UNDEFINED = 0.1
_CHUNK_WEIGHTS = 2_000_000  # 16 MB of float64 at a time

Counts = NDArray[np.int32]
"""How often each group was drawn, (m,)."""

Statistic = Callable[[Vector], Vector]
"""Weights (replicate, row) to one value per replicate; NaN where it is not defined."""

ByCounts = Callable[[Counts], Vector]
"""How often each group counts, to some values; NaN where one is not defined."""

Kind = Literal["percentile", "bca"]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval. `value` is None where it is not defined; `detail` then says why."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_clusters: int | None
    method: str
    detail: str = ""


class Draws(NamedTuple):
    """How an interval is drawn: seed of the stream, number of resamples, confidence, kind of interval.

    bca   bias-corrected and accelerated (Efron 1987): the percentiles are moved for the bias and the skewness
          of the replicates; the acceleration is that of a jackknife over at most 200 blocks of groups
    """

    seed: int
    n_boot: int = 2000
    confidence: float = 0.95
    kind: Kind = "percentile"


class Interval(NamedTuple):
    """Ends (None where there is none), how they were found, and what was wrong."""

    low: float | None
    high: float | None
    method: str
    detail: str = ""


def resamples(m: int, draws: Draws) -> Iterator[Counts]:
    """How often each of m groups comes, `n_boot` times."""
    rng = stream(draws.seed, "stats/cluster_bootstrap", str(m))
    for _ in range(draws.n_boot):
        yield np.bincount(rng.integers(m, size=m), minlength=m).astype(np.int32)


def intervals(
    values_of: ByCounts, m: int, draws: Draws, *, bounds: tuple[float, float] = (0.0, 1.0)
) -> list[Interval]:
    """An interval for each value of a function of how often each of m independent groups counts.

    From 30 groups on: bootstrap of whole groups. Fewer: delete-one-group jackknife with Student's t of m - 1
    degrees of freedom, cut at `bounds`.
    """
    whole = values_of(np.ones(m, np.int32))
    if m < FEW_CLUSTERS:
        return _jackknife(values_of, whole, m, draws.confidence, bounds)
    values = _resampled(values_of, m, draws, len(whole))
    skew = _acceleration(values_of, m) if draws.kind == "bca" else np.zeros(len(whole))
    return [_percentiles(values[:, j], whole[j], skew[j], draws) for j in range(len(whole))]


def _resampled(values_of: ByCounts, m: int, draws: Draws, width: int) -> NDArray[np.float64]:
    values = np.empty((draws.n_boot, width))
    for k, counts in enumerate(resamples(m, draws)):
        values[k] = values_of(counts)
    return values


@dataclass(frozen=True)
class Replicates:
    """Values of all rows, and what they become when groups are drawn again, (replicate, value).

    scale   the variance is `scale` times the mean square departure from the replicates' mean: 1 for a
            bootstrap, m - 1 for a jackknife
    """

    whole: Vector
    values: NDArray[np.float64]
    scale: float
    clusters: int
    method: str

    def covariance(self, deviating: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Covariance (k, k) of values made of these replicates, (replicate, k).

        None where more than one replicate in ten does not define them, or any of a jackknife's.
        """
        known = np.isfinite(deviating).all(axis=1)
        most = _MOST_UNDEFINED if self.scale == 1 else 0.0
        if len(deviating) < 2 or (~known).mean() > most:
            return None
        departure = deviating[known] - deviating[known].mean(axis=0)
        return np.asarray(self.scale * departure.T @ departure / known.sum())


def replicates(values_of: ByCounts, m: int, draws: Draws) -> Replicates:
    """Values of a function of how often each of m groups counts, for variances of what is made of several.

    From 30 groups on resamples of whole groups, fewer: each group left out once.
    """
    whole = values_of(np.ones(m, np.int32))
    if m >= FEW_CLUSTERS:
        values = _resampled(values_of, m, draws, len(whole))
        return Replicates(whole, values, 1.0, m, f"cluster bootstrap, B={draws.n_boot}")
    left_out = np.array([values_of((np.arange(m) != k).astype(np.int32)) for k in range(m)])
    return Replicates(whole, left_out.reshape(m, len(whole)), float(max(m - 1, 0)), m, "cluster jackknife")


def _percentiles(values: Vector, whole: float, acceleration: float, draws: Draws) -> Interval:
    valid = values[np.isfinite(values)]
    lost = draws.n_boot - len(valid)
    method = f"cluster bootstrap {'BCa' if draws.kind == 'bca' else 'percentile'}, B={draws.n_boot}"
    detail = f"{lost} replicates in which it is not defined" if lost else ""
    if lost > _MOST_UNDEFINED * draws.n_boot:
        return Interval(None, None, method, detail)
    levels = np.array([(1 - draws.confidence) / 2, (1 + draws.confidence) / 2])
    if draws.kind == "bca":
        levels = _moved(levels, valid, whole, acceleration)
    low, high = np.quantile(valid, levels)
    return Interval(float(low), float(high), method, detail)


def _moved(levels: Vector, values: Vector, whole: float, acceleration: float) -> Vector:
    """The levels of BCa. Ties with the whole count one half, else a coarse statistic looks biased."""
    below = ((values < whole).sum() + 0.5 * (values == whole).sum()) / len(values)
    edge = 0.5 / len(values)
    bias = special.ndtri(np.clip(below, edge, 1 - edge))
    shifted = bias + special.ndtri(levels)
    return np.asarray(special.ndtr(bias + shifted / (1 - acceleration * shifted)))


def _acceleration(values_of: ByCounts, m: int) -> Vector:
    block = np.arange(m) % min(m, _BLOCKS)
    left_out = np.array([values_of((block != k).astype(np.int32)) for k in range(min(m, _BLOCKS))])
    d = np.nanmean(left_out, axis=0) - left_out
    square = np.nansum(d**2, axis=0)
    return np.asarray(
        np.where(square > 0, np.nansum(d**3, axis=0) / (6 * np.maximum(square, 1e-300) ** 1.5), 0.0)
    )


def _jackknife(
    values_of: ByCounts, whole: Vector, m: int, confidence: float, bounds: tuple[float, float]
) -> list[Interval]:
    method = f"cluster jackknife, t{max(m - 1, 0)}"
    few = Interval(None, None, method, f"{m} clusters are too few for an interval")
    if m < 2:
        return [few] * len(whole)
    left_out = np.array([values_of((np.arange(m) != k).astype(np.int32)) for k in range(m)])
    half = distributions.t.ppf((1 + confidence) / 2, m - 1) * np.sqrt((m - 1) * left_out.var(axis=0))
    defined = np.isfinite(left_out).all(axis=0)
    return [
        Interval(float(max(v - h, bounds[0])), float(min(v + h, bounds[1])), method) if known else few
        for v, h, known in zip(whole, half, defined, strict=True)
    ]


def cluster_interval(statistic: Statistic, groups: NDArray[np.intp], draws: Draws) -> Interval:
    """The interval of a statistic of weighted rows whose groups are independent.

    statistic   a share or probability, within 0 … 1
    groups      0 … m - 1, one per row

    See `intervals`: statistics of ranks go there faster, as `roc_estimates` does.
    """
    m = int(groups.max()) + 1 if groups.size else 0
    if m < FEW_CLUSTERS:

        def of_counts(counts: Counts) -> Vector:
            return statistic(counts[groups].astype(np.float64)[None])

        return intervals(of_counts, m, draws)[0] if m else Interval(None, None, "none", "no rows")
    chunk = max(_CHUNK_WEIGHTS // len(groups), 1)
    values, waiting = [], []
    for k, counts in enumerate(resamples(m, draws), start=1):
        waiting.append(counts[groups].astype(np.float64))
        if len(waiting) == chunk or k == draws.n_boot:
            values.append(statistic(np.array(waiting)))
            waiting = []
    return _percentiles(np.concatenate(values), float("nan"), 0.0, draws._replace(kind="percentile"))


def tost(low90: float | None, high90: float | None, centre: float, margin: float) -> bool:
    """Two one-sided tests at 5 %: whether the 90 % interval lies inside centre ± margin.

    False for an interval that is missing or NaN: equivalence is shown, never presumed.
    """
    if low90 is None or high90 is None:
        return False
    return bool(low90 > centre - margin and high90 < centre + margin)
