"""Statistics of scores and counts: arrays in, numbers out.

Scores are higher for what looks more like a lens; labels are 1 (arc) and 0 (none). A row belongs to a group
(host, or sky cell): rows of one group are not independent, so groups are what is resampled and what
`n_clusters` counts. NaN is an error everywhere: a NaN score is a fault upstream, not a low score.

Plain functions (`auroc`, `roc_curve`, `ece`, …) raise DataError where the answer is not defined. Those that
return an `Estimate` give `value=None` and say why in `detail`, so that a check can be NOT_EVALUATED.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy import stats as distributions
from sklearn import metrics
from statsmodels.stats.proportion import proportion_confint

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.random import stream

FEW_CLUSTERS = 30
NEGATIVES_PER_FPR = 10.0
_CHUNK_WEIGHTS = 2_000_000  # 16 MB of float64 at a time
_ROUNDING = 1e-9  # 0.01 x (199 + 1) is 2, whatever its last bit says

Vector = NDArray[np.float64]
BinomialMethod = Literal["jeffreys", "wilson", "clopper-pearson"]
Statistic = Callable[[Vector], Vector]
"""Weights (replicate, row) to one value per replicate; NaN where it is not defined."""


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


class Threshold(NamedTuple):
    """The score at a false-positive rate, its rank among the negatives, and the rate it really has."""

    threshold: float
    rank: int
    fpr_interval: tuple[float, float]


class RocCurve(NamedTuple):
    """Points of a ROC curve, from (0, 0) to (1, 1)."""

    fpr: Vector
    tpr: Vector
    threshold: Vector


class Draws(NamedTuple):
    """How an interval is drawn: seed of the stream, number of resamples, confidence."""

    seed: int
    n_boot: int = 2000
    confidence: float = 0.95


class _Rows(NamedTuple):
    """Scores, whether positive, and groups numbered 0 … m - 1."""

    score: Vector
    positive: NDArray[np.bool_]
    group: NDArray[np.intp]


def auroc(pos: ArrayLike, neg: ArrayLike) -> float:
    """Probability that a positive scores above a negative, ties counting one half (Mann & Whitney 1947).

    Raises DataError where either is empty or holds NaN.
    """
    p, m = _scores(pos, "positives"), _scores(neg, "negatives")
    ranks = distributions.rankdata(np.concatenate([p, m]))
    wins = ranks[: len(p)].sum() - len(p) * (len(p) + 1) / 2
    return float(wins / (len(p) * len(m)))


def roc_curve(pos: ArrayLike, neg: ArrayLike) -> RocCurve:
    """The ROC curve, without its collinear points. Raises DataError as `auroc` does."""
    p, m = _scores(pos, "positives"), _scores(neg, "negatives")
    labels = np.r_[np.ones(len(p)), np.zeros(len(m))]
    return RocCurve(*metrics.roc_curve(labels, np.r_[p, m]))


def win_rate(pos: ArrayLike, control: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Share of pairs whose positive scores above its own control, ties counting one half.

    The Clopper-Pearson interval of the untied pairs is moved to the share with ties. Pairs must be of
    different hosts: then n is also the number of clusters. For arcs that only add flux it tends to 1 by
    itself.
    """
    p, c = _scores(pos, "positives", allow_empty=True), _scores(control, "controls", allow_empty=True)
    if len(p) != len(c):
        raise DataError("win_rate", f"{len(p)} positives and {len(c)} controls are not pairs")
    n, ties = len(p), int((p == c).sum())
    if not n:
        return Estimate(None, None, None, 0, 0, "clopper-pearson", "no pairs")
    wins = int((p > c).sum())
    untied = binomial(wins, n - ties, method="clopper-pearson", confidence=confidence)
    low = (untied.low or 0.0) * (n - ties) / n + 0.5 * ties / n
    high = (1.0 if untied.high is None else untied.high) * (n - ties) / n + 0.5 * ties / n
    return Estimate((wins + 0.5 * ties) / n, low, high, n, n, "clopper-pearson", f"{ties} ties")


def auroc_estimate(
    scores: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike | None,
    seed: int,
    n_boot: int = 2000,
    *,
    confidence: float = 0.95,
) -> Estimate:
    """AUROC with an interval over groups (`cluster_interval`). None where a class is empty."""
    rows = _rows(scores, labels, groups)
    if rows.positive.all() or not rows.positive.any():
        return _undefined(rows, "one of the classes is empty")

    def statistic(pos: Vector, neg: Vector) -> Vector:
        above = np.cumsum(pos, axis=1) - pos / 2
        return np.asarray((neg * above).sum(axis=1) / (pos.sum(axis=1) * neg.sum(axis=1)))

    return _estimate(rows, statistic, Draws(seed, n_boot, confidence))


def threshold_at_fpr(neg: ArrayLike, fpr: float, *, confidence: float = 0.95) -> Threshold:
    """The threshold that a share `fpr` of new negatives is expected to exceed (``score > threshold``).

    It is the k-th largest of N negatives, k = floor(fpr (N + 1)); the rate it really has follows
    Beta(k, N + 1 - k), whose central interval is returned. Raises DataError where k would be 0.
    """
    m = np.sort(_scores(neg, "negatives"))
    if not 0 < fpr < 1:
        raise DataError("threshold_at_fpr", f"a false-positive rate lies between 0 and 1, not {fpr}")
    k = _rank(fpr, len(m))
    if k < 1:
        needed = int(np.ceil(1 / fpr)) - 1
        raise DataError("threshold_at_fpr", f"{len(m)} negatives cannot set {fpr:g}", f"needs {needed}")
    tail = (1 - confidence) / 2
    low, high = distributions.beta.ppf([tail, 1 - tail], k, len(m) + 1 - k)
    return Threshold(float(m[-k]), k, (float(low), float(high)))


def _rank(fpr: float, n: float) -> int:
    return int(np.floor(fpr * (n + 1) + _ROUNDING))


def needed_negatives(fpr: float) -> int:
    """How many negatives an operating point takes: 10/fpr."""
    return int(np.ceil(NEGATIVES_PER_FPR / fpr - _ROUNDING))


def tpr_at_fpr(
    pos: ArrayLike,
    neg: ArrayLike,
    fpr: float,
    pos_groups: ArrayLike | None = None,
    neg_groups: ArrayLike | None = None,
    *,
    seed: int,
    n_boot: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """Share of positives above `threshold_at_fpr`, which is set anew in each replicate.

    Groups are common to both classes: a host in both is resampled once. n counts the positives. None below
    `needed_negatives`: fewer do not set the threshold.
    """
    p, m = (_scores(x, what, allow_empty=True) for x, what in ((pos, "positives"), (neg, "negatives")))
    if (pos_groups is None) != (neg_groups is None):
        raise DataError("tpr_at_fpr", "groups are needed for both classes, or for neither")
    groups = None if pos_groups is None else np.r_[np.asarray(pos_groups), np.asarray(neg_groups)]
    rows = _rows(np.r_[p, m], np.r_[np.ones(len(p)), np.zeros(len(m))], groups)
    needed = needed_negatives(fpr)
    if not len(p) or len(m) < needed:
        why = f"{len(p)} positives, {len(m)} negatives; FPR {fpr:g} needs {needed} negatives"
        return replace(_undefined(rows, why), n=len(p))

    def statistic(pos: Vector, neg: Vector) -> Vector:
        cum_neg = np.cumsum(neg, axis=1)
        rank = np.floor(fpr * (cum_neg[:, -1:] + 1) + _ROUNDING)
        found = (pos * (cum_neg < rank)).sum(axis=1)  # blocks above the one that holds the threshold
        return np.where(rank[:, 0] >= 1, found / pos.sum(axis=1), np.nan)

    return replace(_estimate(rows, statistic, Draws(seed, n_boot, confidence)), n=len(p))


def precision_at_recall(
    scores: ArrayLike,
    labels: ArrayLike,
    recall: float = 0.9,
    groups: ArrayLike | None = None,
    *,
    seed: int,
    n_boot: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """Precision at the highest threshold whose recall reaches `recall`, at the prevalence of these rows."""
    rows = _rows(scores, labels, groups)
    if not rows.positive.any():
        return _undefined(rows, "no positives")

    def statistic(pos: Vector, neg: Vector) -> Vector:
        hits, false = np.cumsum(pos, axis=1), np.cumsum(neg, axis=1)
        block = np.argmax(hits >= recall * hits[:, -1:] - _ROUNDING, axis=1)[:, None]
        hit = np.take_along_axis(hits, block, axis=1)[:, 0]
        return np.asarray(hit / (hit + np.take_along_axis(false, block, axis=1)[:, 0]))

    return _estimate(rows, statistic, Draws(seed, n_boot, confidence))


def cluster_interval(
    statistic: Statistic, groups: NDArray[np.intp], draws: Draws
) -> tuple[float | None, float | None, str, str]:
    """(low, high, method, detail) of a statistic of weighted rows whose groups are independent.

    statistic   a share or probability, within 0 … 1
    groups      0 … m - 1, one per row

    From 30 groups on: percentiles over resamples of whole groups. Fewer: delete-one-group jackknife with
    Student's t of m - 1 degrees of freedom. The draws depend on the seed and on m alone, so that two models
    on the same rows are resampled alike.
    """
    m = int(groups.max()) + 1 if groups.size else 0
    if m >= FEW_CLUSTERS:
        return _bootstrap(statistic, groups, draws)
    method = f"cluster jackknife, t{max(m - 1, 0)}"
    left_out = statistic((groups != np.arange(m)[:, None]).astype(np.float64)) if m > 1 else np.empty(0)
    if m < 2 or not np.isfinite(left_out).all():
        return None, None, method, f"{m} clusters are too few for an interval"
    value = float(statistic(np.ones((1, len(groups))))[0])
    half = distributions.t.ppf((1 + draws.confidence) / 2, m - 1) * np.sqrt((m - 1) * left_out.var())
    return max(value - half, 0.0), min(value + half, 1.0), method, ""


def _bootstrap(
    statistic: Statistic, groups: NDArray[np.intp], draws: Draws
) -> tuple[float | None, float | None, str, str]:
    m = int(groups.max()) + 1
    rng = stream(draws.seed, "stats/cluster_bootstrap", str(m))
    chunk = max(_CHUNK_WEIGHTS // len(groups), 1)
    values = np.empty(draws.n_boot)
    for start in range(0, draws.n_boot, chunk):
        size = min(chunk, draws.n_boot - start)
        counts = rng.multinomial(m, np.full(m, 1 / m), size=size).astype(np.float64)
        values[start : start + size] = statistic(counts[:, groups])
    valid = values[np.isfinite(values)]
    lost = draws.n_boot - len(valid)
    method = f"cluster bootstrap percentile, B={draws.n_boot}"
    detail = f"{lost} replicates in which it is not defined" if lost else ""
    if lost > draws.n_boot / 10:
        return None, None, method, detail
    tail = 50 * (1 - draws.confidence)
    low, high = np.percentile(valid, [tail, 100 - tail])
    return float(low), float(high), method, detail


def _estimate(rows: _Rows, of_blocks: Callable[[Vector, Vector], Vector], draws: Draws) -> Estimate:
    """Estimate from a statistic of (positives, negatives) per block of equal scores, highest score first."""
    order = np.argsort(-rows.score, kind="stable")
    score, positive, groups = rows.score[order], rows.positive[order], rows.group[order]
    starts = np.flatnonzero(np.r_[True, np.diff(score) != 0])

    def statistic(weights: Vector) -> Vector:
        pos = np.add.reduceat(weights * positive, starts, axis=1)
        neg = np.add.reduceat(weights * ~positive, starts, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return of_blocks(pos, neg)

    value = float(statistic(np.ones((1, len(groups))))[0])
    low, high, method, detail = cluster_interval(statistic, groups, draws)
    if low is not None and low == high == value and value in (0.0, 1.0):
        # Resampling a perfect result gives only perfect ones; the count bounds what could have been.
        sides = [len(np.unique(groups[side])) for side in (positive, ~positive) if side.any()]
        room = upper_bound_no_hits(min(sides), confidence=draws.confidence)
        low, high = max(value - room, 0.0), min(value + room, 1.0)
        method += ", widened by the bound for no exceptions"
    return Estimate(value, low, high, len(groups), int(groups.max()) + 1, method, detail)


def _undefined(rows: _Rows, why: str) -> Estimate:
    return Estimate(None, None, None, len(rows.score), len(np.unique(rows.group)), "none", why)


def binomial(
    k: float, n: float, *, method: BinomialMethod = "jeffreys", confidence: float = 0.95
) -> Estimate:
    """A share k/n with its interval; k and n may be effective numbers.

    "jeffreys" for cells of a table (Brown, Cai & DasGupta 2001, with their end points 0 at k = 0 and 1 at
    k = n), "wilson" for plots, "clopper-pearson" where the claim is "at least". n = 0 gives None.
    """
    if not (np.isfinite(k) and np.isfinite(n) and 0 <= k <= n):
        raise DataError("binomial", f"{k} of {n} is not a count")
    if n == 0:
        return Estimate(None, None, None, 0, None, method, "no trials")
    known = {"jeffreys": "jeffreys", "wilson": "wilson", "clopper-pearson": "beta"}
    low, high = proportion_confint(k, n, alpha=1 - confidence, method=known[method])
    if method == "jeffreys":
        low, high = (0.0 if k == 0 else low), (1.0 if k == n else high)
    return Estimate(k / n, float(low), float(high), int(n), None, method)


def clustered_binomial(
    hits: ArrayLike,
    groups: ArrayLike,
    *,
    method: BinomialMethod = "jeffreys",
    confidence: float = 0.95,
) -> Estimate:
    """A proportion of rows that share groups: the binomial interval of n / deff rows.

    deff is the ratio of the between-group (linearised) variance of the proportion to p(1 - p)/n, at least 1;
    with groups of one size it is that of their means. Where every row agrees, the rows say nothing about how
    alike those of one group are: each group then counts once.
    """
    _, x, g = _rows(np.zeros(np.size(hits)), hits, groups)
    n, m = len(x), len(np.unique(g))
    if not n:
        return Estimate(None, None, None, 0, 0, method, "no trials")
    p = float(x.mean())
    effective = float(m) if p in (0.0, 1.0) else n / design_effect(x, g)
    found = binomial(p * effective, effective, method=method, confidence=confidence)
    detail = f"n_eff = {effective:.1f}"
    return Estimate(p, found.low, found.high, n, m, f"{method}, design effect", detail)


def design_effect(hits: NDArray[Any], groups: NDArray[np.intp]) -> float:
    """How much wider groups make the error of a proportion: variance over p(1 - p)/n, at least 1.

    groups   0 … m - 1, one per row. 1 where p is 0 or 1; n/m where there is a single group.
    """
    n, p = len(hits), float(np.mean(hits))
    size = np.bincount(groups)
    m = len(size)
    if p in (0.0, 1.0):
        return 1.0
    if m < 2:
        return n / m
    excess = np.bincount(groups, weights=hits) - size * p
    variance = m / (m - 1) * float((excess**2).sum()) / n**2
    return min(max(variance / (p * (1 - p) / n), 1.0), n)


def upper_bound_no_hits(n: int, *, confidence: float = 0.95) -> float:
    """The largest rate that n trials without a hit leave possible: about 3/n. 1 for no trials."""
    return float(-special.expm1(np.log1p(-confidence) / n)) if n > 0 else 1.0


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


def _calibration_bins(prob: ArrayLike, label: ArrayLike, bins: int) -> tuple[Vector, Vector, Vector]:
    p, y, _ = _rows(prob, label, None)
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


def tost(low90: float | None, high90: float | None, centre: float, margin: float) -> bool:
    """Two one-sided tests at 5 %: whether the 90 % interval lies inside centre ± margin.

    False for an interval that is missing or NaN: equivalence is shown, never presumed.
    """
    if low90 is None or high90 is None:
        return False
    return bool(low90 > centre - margin and high90 < centre + margin)


def _scores(scores: ArrayLike, what: str, *, allow_empty: bool = False) -> Vector:
    s = np.asarray(scores, dtype=np.float64).ravel()
    if np.isnan(s).any():
        raise DataError(what, f"{int(np.isnan(s).sum())} of {len(s)} scores are NaN")
    if not len(s) and not allow_empty:
        raise DataError(what, "there are no scores")
    return s


def _rows(scores: ArrayLike, labels: ArrayLike, groups: ArrayLike | None) -> _Rows:
    """Checked rows; each its own group if there are none."""
    s = _scores(scores, "scores", allow_empty=True)
    y = np.asarray(labels, dtype=np.float64).ravel()
    if len(y) != len(s) or not np.isin(y, (0.0, 1.0)).all():
        raise DataError("labels", f"must be 0 or 1, one for each of {len(s)} scores")
    if groups is None:
        return _Rows(s, y == 1, np.arange(len(s)))
    g = np.asarray(groups).ravel()
    if len(g) != len(s):
        raise DataError("groups", f"{len(g)} groups do not fit {len(s)} scores")
    return _Rows(s, y == 1, np.unique(g, return_inverse=True)[1])
