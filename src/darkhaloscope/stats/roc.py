"""Curves over a threshold: AUROC, rates at a false-positive rate, partial areas, precision.

A replicate of a cluster bootstrap gives every row the number of times its group was drawn. Rows are sorted
once; a replicate is then a few passes over the sorted rows (`_Ranked`), not a curve of its own: a thousand
replicates of a million rows take seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as distributions
from sklearn import metrics

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.stats.counts import clustered_binomial, upper_bound_no_hits
from darkhaloscope.stats.resampling import ByCounts, Counts, Draws, Estimate, Interval, intervals
from darkhaloscope.stats.rows import Rows, Vector, checked_rows, checked_scores, class_rows

NEGATIVES_PER_FPR = 10.0
_ROUNDING = 1e-9  # 0.01 x (199 + 1) is 2, whatever its last bit says


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


def auroc(pos: ArrayLike, neg: ArrayLike) -> float:
    """Probability that a positive scores above a negative, ties counting one half (Mann & Whitney 1947).

    Raises DataError where either is empty or holds NaN.
    """
    p, m = checked_scores(pos, "positives"), checked_scores(neg, "negatives")
    ranks = distributions.rankdata(np.concatenate([p, m]))
    wins = ranks[: len(p)].sum() - len(p) * (len(p) + 1) / 2
    return float(wins / (len(p) * len(m)))


def roc_curve(pos: ArrayLike, neg: ArrayLike) -> RocCurve:
    """The ROC curve, without its collinear points. Raises DataError as `auroc` does."""
    p, m = checked_scores(pos, "positives"), checked_scores(neg, "negatives")
    labels = np.r_[np.ones(len(p)), np.zeros(len(m))]
    return RocCurve(*metrics.roc_curve(labels, np.r_[p, m]))


def threshold_at_fpr(neg: ArrayLike, fpr: float, *, confidence: float = 0.95) -> Threshold:
    """The threshold that a share `fpr` of new negatives is expected to exceed (``score > threshold``).

    It is the k-th largest of N negatives, k = floor(fpr (N + 1)); the rate it really has follows
    Beta(k, N + 1 - k), whose central interval is returned. Raises DataError where k would be 0.
    """
    m = np.sort(checked_scores(neg, "negatives"))
    if not 0 < fpr < 1:
        raise DataError("threshold_at_fpr", f"a false-positive rate lies between 0 and 1, not {fpr}")
    k = int(_rank(fpr, len(m)))
    if k < 1:
        needed = int(np.ceil(1 / fpr)) - 1
        raise DataError("threshold_at_fpr", f"{len(m)} negatives cannot set {fpr:g}", f"needs {needed}")
    tail = (1 - confidence) / 2
    low, high = distributions.beta.ppf([tail, 1 - tail], k, len(m) + 1 - k)
    return Threshold(float(m[-k]), k, (float(low), float(high)))


def _rank(fpr: float, n: float) -> float:
    return float(np.floor(fpr * (n + 1) + _ROUNDING))


def recall_before(
    pos: ArrayLike,
    neg: ArrayLike,
    false_positives: int,
    groups: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
) -> Estimate:
    """Share of positives found before so many false positives (Metcalf et al. 2019): TPR0 is 1, TPR10 is 10.

    The threshold is the score of that negative, from the top; a positive must score higher. It depends on how
    many negatives there are. No resampling tells the scatter of an extreme: the interval is that of the share
    above this very threshold, over `groups` of positives. None without positives or with too few negatives.
    """
    p, m = (checked_scores(x, w, allow_empty=True) for x, w in ((pos, "positives"), (neg, "negatives")))
    if not len(p) or len(m) < false_positives:
        return Estimate(None, None, None, len(p), 0, "none", f"{len(p)} positives, {len(m)} negatives")
    threshold = np.sort(m)[-false_positives]
    found = clustered_binomial(p > threshold, _or_own(groups, len(p)), confidence=confidence)
    tail = (1 - confidence) / 2
    low, high = distributions.beta.ppf([tail, 1 - tail], false_positives, len(m) + 1 - false_positives)
    detail = (
        f"above {threshold:.4g}, whose FPR is {low:.2g} to {high:.2g} ({len(m)} negatives); {found.detail}"
    )
    return replace(found, method=f"{found.method}, given the threshold", detail=detail)


def _or_own(groups: ArrayLike | None, n: int) -> ArrayLike:
    return np.arange(n) if groups is None else groups


def needed_negatives(fpr: float) -> int:
    """How many negatives an operating point takes: 10/fpr."""
    return int(np.ceil(NEGATIVES_PER_FPR / fpr - _ROUNDING))


# --- what is measured over a threshold --------------------------------------------------------------------


class RocMeasure(Protocol):
    """A number between 0 and 1 that follows from the order of weighted rows."""

    def lacks(self, positives: int, negatives: int) -> str:
        """Why so many rows do not define it; empty if they do."""
        ...

    def of(self, replicate: "_Replicate") -> float:
        """Its value in one replicate; NaN where it is not defined."""
        ...


@dataclass(frozen=True)
class Auroc:
    """Probability that a positive scores above a negative, ties counting one half."""

    def lacks(self, positives: int, negatives: int) -> str:
        """Both classes are needed."""
        return "" if positives and negatives else "one of the classes is empty"

    def of(self, replicate: "_Replicate") -> float:
        """The weighted Mann-Whitney statistic."""
        return replicate.auroc


@dataclass(frozen=True)
class TprAtFpr:
    """Share of positives above `threshold_at_fpr`, which is set anew in each replicate."""

    fpr: float

    def lacks(self, positives: int, negatives: int) -> str:
        """Positives, and 10/fpr negatives: fewer do not set the threshold."""
        needed = needed_negatives(self.fpr)
        if positives and negatives >= needed:
            return ""
        return f"{positives} positives, {negatives} negatives; FPR {self.fpr:g} needs {needed} negatives"

    def of(self, replicate: "_Replicate") -> float:
        """The weight of positives whose negatives at or above them weigh less than the rank."""
        rank = _rank(self.fpr, replicate.weight_neg)
        return replicate.share_found(rank) if rank >= 1 else float("nan")


@dataclass(frozen=True)
class PartialAuc:
    """Mean TPR over log10 FPR between two rates: the whole range of 1e-4 to 1e-2 weighs each decade alike."""

    low: float = 1e-4
    high: float = 1e-2

    def lacks(self, positives: int, negatives: int) -> str:
        """Positives, and 10/low negatives."""
        return TprAtFpr(self.low).lacks(positives, negatives)

    def of(self, replicate: "_Replicate") -> float:
        """Exact: each positive is found from the FPR at which it is reached upwards."""
        reached = replicate.negatives_reached / replicate.weight_neg
        decades = np.log10(self.high / np.clip(reached, self.low, self.high))
        return float(decades @ replicate.pos / (replicate.weight_pos * np.log10(self.high / self.low)))


@dataclass(frozen=True)
class PrecisionAtRecall:
    """Precision at the highest threshold whose recall reaches `recall`, at the prevalence of these rows."""

    recall: float = 0.9

    def lacks(self, positives: int, negatives: int) -> str:
        """Positives are needed."""
        del negatives
        return "" if positives else "no positives"

    def of(self, replicate: "_Replicate") -> float:
        """Rows of equal scores are taken together. A replicate's own prevalence is not its precision's."""
        hits = np.cumsum(replicate.pos)
        last = int(np.searchsorted(hits, self.recall * replicate.weight_pos - _ROUNDING))
        hit = hits[replicate.ranked.ties_end[last] - 1] / replicate.weight_pos
        wrong = replicate.negatives_reached[last] / replicate.weight_neg
        positives, negatives = (
            len(groups) for groups in (replicate.ranked.pos_groups, replicate.ranked.neg_groups)
        )
        return float(hit * positives / (hit * positives + wrong * negatives))


class _Ranked:
    """Rows sorted from the highest score down, once for all replicates.

    above, level   of each positive: how many negatives score higher, and how many at least as high
    ties_end       of each positive: one past the last positive of the same score
    """

    def __init__(self, rows: Rows) -> None:
        order = np.argsort(-rows.score, kind="stable")
        positive, score = rows.positive[order], rows.score[order]
        groups = rows.group[order]
        self.pos_groups, self.neg_groups = groups[positive], groups[~positive]
        self.m = rows.n_groups
        pos, neg = score[positive], score[~positive]
        self.above = np.searchsorted(-neg, -pos, side="left")
        self.level = np.searchsorted(-neg, -pos, side="right")
        self._pos = pos
        self.tied = bool((self.above != self.level).any())
        # Weights are counts of draws: their sum fits an int32 unless one group is a large part of many rows.
        largest = int(np.bincount(rows.group).max()) if rows.group.size else 0
        self.sums = np.int32 if self.m * largest < np.iinfo(np.int32).max else np.int64

    @cached_property
    def ties_end(self) -> NDArray[np.intp]:
        return np.searchsorted(-self._pos, -self._pos, side="right")

    def values(self, counts: Counts, measures: Sequence[RocMeasure]) -> Vector:
        """The measures when each group counts so often; NaN where a class has no weight."""
        replicate = _Replicate(self, counts)
        if not replicate.weight_pos or not replicate.weight_neg:
            return np.full(len(measures), np.nan)
        return np.array([measure.of(replicate) for measure in measures])


class _Replicate:
    """Sorted rows with the weights of one replicate."""

    def __init__(self, ranked: _Ranked, counts: Counts) -> None:
        self.ranked = ranked
        self.pos = counts.take(ranked.pos_groups, mode="clip")  # clip: the groups are known to fit
        self._cumulated = np.zeros(len(ranked.neg_groups) + 1, ranked.sums)
        weights = counts.take(ranked.neg_groups, mode="clip")
        np.cumsum(weights, dtype=ranked.sums, out=self._cumulated[1:])
        self.weight_neg = float(self._cumulated[-1])
        self.weight_pos = float(self.pos.sum(dtype=np.int64))

    @cached_property
    def negatives_reached(self) -> NDArray[np.integer[Any]]:
        """Weight of the negatives that score at least as high as each positive."""
        return np.asarray(self._cumulated.take(self.ranked.level, mode="clip"))

    @cached_property
    def auroc(self) -> float:
        weights, reached = self.pos.astype(np.float64), self.negatives_reached.astype(np.float64)
        lost = weights @ reached
        if self.ranked.tied:
            higher = self._cumulated.take(self.ranked.above, mode="clip")
            lost = (lost + weights @ higher.astype(np.float64)) / 2
        return 1.0 - float(lost) / (self.weight_pos * self.weight_neg)

    def share_found(self, rank: float) -> float:
        """Weight share of the positives that score above the negative of that rank."""
        first = np.searchsorted(self._cumulated, rank)  # negatives down to the one that holds the threshold
        found = np.searchsorted(self.ranked.level, first)
        return float(self.pos[:found].sum(dtype=np.int64)) / self.weight_pos


# --- estimates --------------------------------------------------------------------------------------------


def roc_estimates(
    scores: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike | None,
    measures: Sequence[RocMeasure],
    draws: Draws,
) -> list[Estimate]:
    """Several measures of the same rows with intervals over groups, from the same replicates."""
    return _estimates(checked_rows(scores, labels, groups), measures, draws)


def _estimates(rows: Rows, measures: Sequence[RocMeasure], draws: Draws) -> list[Estimate]:
    positives = int(rows.positive.sum())
    why = [measure.lacks(positives, len(rows.score) - positives) for measure in measures]
    defined = [measure for measure, reason in zip(measures, why, strict=True) if not reason]
    found: list[tuple[float, Interval]] = []
    if defined:
        ranked = _Ranked(rows)

        def of(counts: Counts) -> Vector:
            return ranked.values(counts, defined)

        whole = of(np.ones(ranked.m, np.int32))
        found = list(zip(whole.tolist(), intervals(of, ranked.m, draws), strict=True))
    made = iter(found)
    return [
        _undefined(rows, reason) if reason else _made(rows, *next(made), draws.confidence) for reason in why
    ]


def _made(rows: Rows, value: float, interval: Interval, confidence: float) -> Estimate:
    low, high, method, detail = interval
    if not np.isfinite(value):
        return _undefined(rows, "it is not defined on these rows")
    if low is not None and high is not None and low == high == value and value in (0.0, 1.0):
        # Resampling a perfect result gives only perfect ones; the count bounds what could have been.
        sides = [len(np.unique(rows.group[side])) for side in (rows.positive, ~rows.positive) if side.any()]
        room = upper_bound_no_hits(min(sides), confidence=confidence)
        low, high = max(value - room, 0.0), min(value + room, 1.0)
        method += ", widened by the bound for no exceptions"
    return Estimate(value, low, high, len(rows.score), rows.n_groups, method, detail)


def _undefined(rows: Rows, why: str) -> Estimate:
    return Estimate(None, None, None, len(rows.score), len(np.unique(rows.group)), "none", why)


def roc_differences(
    models: tuple[ArrayLike, ArrayLike],
    labels: ArrayLike,
    groups: ArrayLike | None,
    measures: Sequence[RocMeasure],
    draws: Draws,
) -> list[Estimate]:
    """First model less second on the same rows, from common replicates; cut at -1 and 1."""
    one, other = (checked_rows(scores, labels, groups) for scores in models)
    positives = int(one.positive.sum())
    why = [measure.lacks(positives, len(one.score) - positives) for measure in measures]
    if any(why) or one.lacks_a_class:
        return [_undefined(one, reason or "one of the classes is empty") for reason in why]
    a, b = _Ranked(one), _Ranked(other)

    def of(counts: Counts) -> Vector:
        return a.values(counts, measures) - b.values(counts, measures)

    whole = of(np.ones(a.m, np.int32))
    found = intervals(of, a.m, draws, bounds=(-1.0, 1.0))
    return [
        Estimate(float(value), low, high, len(one.score), a.m, method, detail)
        for value, (low, high, method, detail) in zip(whole, found, strict=True)
    ]


def roc_by_counts(
    scores: ArrayLike, labels: ArrayLike, groups: NDArray[np.intp], measures: Sequence[RocMeasure]
) -> ByCounts:
    """Measures as a function of how often each group counts, for replicates that several models share.

    groups   one per row, in the numbering 0 … m - 1 of the counts; models of other rows have others of them

    NaN where a class has no weight; whether rows are enough is the caller's question (`RocMeasure.lacks`).
    """
    score, positive, _ = checked_rows(scores, labels, None)
    ranked = _Ranked(Rows(score, positive, np.asarray(groups, dtype=np.intp)))

    def of(counts: Counts) -> Vector:
        return ranked.values(counts, measures)

    return of


def auroc_estimate(
    scores: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike | None,
    seed: int,
    n_boot: int = 2000,
    *,
    confidence: float = 0.95,
) -> Estimate:
    """AUROC with an interval over groups. None where a class is empty."""
    return roc_estimates(scores, labels, groups, [Auroc()], Draws(seed, n_boot, confidence))[0]


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
    rows = class_rows(pos, neg, pos_groups, neg_groups)
    found = _estimates(rows, [TprAtFpr(fpr)], Draws(seed, n_boot, confidence))[0]
    return replace(found, n=int(rows.positive.sum()))


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
    rows = checked_rows(scores, labels, groups)
    return _estimates(rows, [PrecisionAtRecall(recall)], Draws(seed, n_boot, confidence))[0]
