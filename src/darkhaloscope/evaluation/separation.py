"""How well a linear probe tells two samples apart, where rows share groups.

A group (host, sky cell, matched pair) is never cut: neither by folds nor by intervals. The samples may share
groups, as two stamps of one host do.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy import stats as distributions
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.random import stream
from darkhaloscope.gates.probes import PENALTIES, Features
from darkhaloscope.stats import Estimate, tost, upper_bound_no_hits

Groups = NDArray[np.str_]
Vector = NDArray[np.float64]

MARGIN = 0.10
"""AUROC above one half up to which two samples count as equivalent (delta of the two one-sided tests)."""

LEAST_ROWS = 30
"""Rows, and groups, of each sample below which nothing is measured."""

INFLATION = 2.0
"""Variance of a cross-validated AUROC without a difference over the variance for fits that are fixed."""

FOLDS, REPEATS = 5, 5
"""Of the nested cross-validation."""

Verdict = Literal["shown equivalent", "not shown equivalent", "different"]
"""All that a comparison can end in: that no difference was seen is never a result."""


@dataclass(frozen=True, eq=False)
class Separation:
    """How well a linear probe tells sample A (label 1) from sample B: mean AUROC over repeats.

    influence   of each group on the mean AUROC, by name: what intervals of it and of differences are made of
    n           rows of each sample in a repeat; n_groups of both together; df of Student's t
    """

    auc: float
    influence: dict[str, float]
    n: int
    n_groups: int
    df: int

    @property
    def error(self) -> float:
        """Standard error of `auc`: see `separate`."""
        return float(np.sqrt(INFLATION * sum(v * v for v in self.influence.values())))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Symmetric in the logit; a probe that never errs is widened by the bound for no exceptions."""
        if not 0.0 < self.auc < 1.0:
            room = upper_bound_no_hits(self.df + 1, confidence=confidence)
            return max(self.auc - room, 0.0), min(self.auc + room, 1.0)
        t = float(distributions.t.ppf((1 + confidence) / 2, self.df))
        half = t * self.error / (self.auc * (1 - self.auc))
        middle = special.logit(self.auc)
        return float(special.expit(middle - half)), float(special.expit(middle + half))

    def verdict(self, margin: float = MARGIN) -> Verdict:
        """By two one-sided tests at 5 %; "different" where the lower 95 % bound lies above one half."""
        low, high = self.interval(0.90)
        if tost(low, high, 0.5, margin):
            return "shown equivalent"
        return "different" if low > 0.5 else "not shown equivalent"

    def estimate(self) -> Estimate:
        """The AUROC with its 95 % interval."""
        low, high = self.interval()
        method = (
            f"nested CV by group {FOLDS}x{REPEATS}, variance of groups' influence x {INFLATION:g}, t{self.df}"
        )
        return Estimate(self.auc, low, high, 2 * self.n, self.n_groups, method)


def lacks_rows(groups: tuple[Groups, ...], least: int = LEAST_ROWS) -> str:
    """What samples need before they are compared; empty where they have it."""
    found = min(min(len(own), len(set(own))) for own in groups)
    return "" if found >= least else f"{found} rows or groups in the smaller sample, needs {least}"


def separate(
    a: Features,
    b: Features,
    groups: tuple[Groups, Groups],
    *,
    seed: int,
    purpose: str,
    folds: int = FOLDS,
    repeats: int = REPEATS,
    most: int | None = None,
) -> Separation:
    """Repeated nested cross-validation of a logistic regression, by group.

    groups    of the rows of `a` and of `b`; a name in both is one group
    purpose   names the random stream, with the seed: the result depends on nothing else
    most      rows of each sample at most: a probe learns more from more rows, so what is compared is learned
              from equally many

    In each repeat the larger sample is cut to the rows of the smaller and groups are dealt to folds anew.
    Features are standardised and the penalty is chosen (mean AUROC of the remaining folds, each left out in
    turn) within the training folds. AUROC is that of pairs in one fold, averaged: scores of different fits
    are not compared, which would bias it below one half (Airola et al. 2011).

    The error is the spread of groups' influence on the mean over repeats (LeDell, Petersen & van der Laan
    2015, summed within groups). That takes the fits for fixed. But each two folds train on one another:
    without a difference the sum over folds is of products D_f . D_g of the classes' differences in two
    folds, each counted twice, so that the variance is twice as large. The factor is taken everywhere; where
    the samples differ clearly the interval is up to 40 % too wide.

    Raises DataError for features that are not finite, and where a sample has fewer groups than folds.
    """
    for sample, own in zip((a, b), groups, strict=True):
        if not np.isfinite(sample).all():
            raise DataError("features", "hold values that are not finite")
        if len(sample) != len(own):
            raise DataError("features", f"have {len(sample)} rows and {len(own)} groups")
        if len(set(own)) < folds:
            raise DataError("groups", f"{len(set(own))} groups cannot fill {folds} folds")
    x, labels = np.concatenate([a, b]), np.repeat([1, 0], [len(a), len(b)])
    names, member = np.unique(np.concatenate(groups), return_inverse=True)
    n = min(len(a), len(b), most or len(a))
    aucs, influence = [], np.zeros(len(names))
    for repeat in range(repeats):
        rng = stream(seed, purpose, f"repeat {repeat}")
        kept = np.concatenate([np.sort(rng.permutation(np.flatnonzero(labels == c))[:n]) for c in (1, 0)])
        dealt = _deal(member[kept], labels[kept], folds, rng)
        auc, share = _cross_validated(x[kept], labels[kept], dealt)
        aucs.append(auc)
        np.add.at(influence, member[kept], share / repeats)
    return Separation(
        auc=float(np.mean(aucs)),
        influence={str(name): float(v) for name, v in zip(names, influence, strict=True)},
        n=n,
        n_groups=len(names),
        df=min(len(set(own)) for own in groups) - 1,
    )


def paired_differences(
    a: Features, b: Features, hosts: tuple[Groups, Groups]
) -> tuple[Features, NDArray[np.intp]]:
    """Mean features of each host in `a` less those in `b`, and the first row of `a` of each host.

    Rows of hosts in both samples only, in the order of their names. `separate` of the differences and of
    their negatives asks whether one sample can be told from the other *within* a host: by marginal scores,
    the spread of hosts hides what a change does to each of them. Where the two are exchangeable within hosts
    the differences are as often of either sign, and the AUROC is one half.

    DataError where a host is in one sample only.
    """
    names, first, of_a = np.unique(hosts[0], return_index=True, return_inverse=True)
    others, of_b = np.unique(hosts[1], return_inverse=True)
    if not np.array_equal(names, others):
        raise DataError("pairs", f"{len(np.setxor1d(names, others))} hosts are in one sample only")
    means = []
    for sample, member in ((a, of_a), (b, of_b)):
        total = np.zeros((len(names), sample.shape[1]))
        np.add.at(total, member, sample)
        means.append(total / np.bincount(member)[:, None])
    return means[0] - means[1], first


def _deal(
    member: NDArray[np.intp], labels: NDArray[np.intp], k: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """A fold for each row: groups of A alone, of B alone and of both are dealt in turn, in random order."""
    holds = np.zeros((member.max() + 1, 2), bool)
    holds[member, labels] = True
    fold = np.zeros(len(holds), np.intp)
    start = 0
    for kind in ((True, False), (False, True), (True, True)):
        those = np.flatnonzero((holds == kind).all(axis=1))
        fold[rng.permutation(those)] = (start + np.arange(len(those))) % k
        start += len(those)
    return fold[member]


def _cross_validated(x: Features, labels: NDArray[np.intp], folds: NDArray[np.intp]) -> tuple[float, Vector]:
    """AUROC averaged over folds, weighted by their pairs, and the influence of each row on it."""
    found = []
    for fold in np.unique(folds):
        test = np.flatnonzero(folds == fold)
        pos, neg = test[labels[test] == 1], test[labels[test] == 0]
        train = folds != fold
        if not len(pos) or not len(neg) or len(set(labels[train])) < 2:
            continue
        scores = _fit(x[train], labels[train], folds[train])(x[test])
        found.append((pos, neg, *_placements(scores[labels[test] == 1], scores[labels[test] == 0])))
    if not found:
        raise DataError("folds", "none holds rows of both samples", "more groups, or fewer folds")
    weights = np.array([len(pos) * len(neg) for pos, neg, *_ in found], float)
    weights /= weights.sum()
    share, auc = np.zeros(len(x)), 0.0
    for weight, (pos, neg, won, lost) in zip(weights, found, strict=True):
        value = float(won.mean())
        auc += weight * value
        for rows, placed in ((pos, won), (neg, lost)):
            # The mean of so few was taken from them: n/(n - 1), as for a variance.
            few = np.sqrt(len(rows) / max(len(rows) - 1, 1))
            share[rows] = weight * few * (placed - value) / len(rows)
    return auc, share


def _placements(pos: Vector, neg: Vector) -> tuple[Vector, Vector]:
    """Share of the other class that each row wins against: of each positive, and of each negative."""
    low, high = np.sort(neg), np.sort(pos)
    won = (np.searchsorted(low, pos, "left") + np.searchsorted(low, pos, "right")) / (2 * len(neg))
    lost = 1 - (np.searchsorted(high, neg, "left") + np.searchsorted(high, neg, "right")) / (2 * len(pos))
    return won, lost


def _fit(x: Features, labels: NDArray[np.intp], folds: NDArray[np.intp]) -> Any:
    """The probe with the penalty that does best where the training folds are left out in turn."""

    def model(rows: NDArray[np.bool_], penalty: float) -> Any:
        scaler = StandardScaler().fit(x[rows])
        # A gradient below 1e-3 leaves the AUROC unchanged to the third digit.
        fitted = LogisticRegression(C=penalty, solver="lbfgs", max_iter=2000, tol=1e-3)
        fitted.fit(scaler.transform(x[rows]), labels[rows])
        return lambda new: fitted.decision_function(scaler.transform(new))

    def inner_auc(penalty: float) -> float:
        found = []
        for fold in np.unique(folds):
            out = folds == fold
            if len(set(labels[out])) == 2 and len(set(labels[~out])) == 2:
                scores = model(~out, penalty)(x[out])
                found.append(_placements(scores[labels[out] == 1], scores[labels[out] == 0])[0].mean())
        return float(np.mean(found)) if found else 0.5

    best = max(PENALTIES, key=inner_auc)
    return model(np.ones(len(x), bool), best)


def logit_difference(one: Separation, other: Separation, confidence: float = 0.95) -> Estimate:
    """logit(one) - logit(other) with an interval over the groups of both, shared ones counted once.

    Not defined (None) where either is 0 or 1: such a logit has no bound.
    """
    names = sorted({*one.influence, *other.influence})
    method = "influence of groups on both logits"
    if not (0 < one.auc < 1 and 0 < other.auc < 1):
        return Estimate(None, None, None, one.n + other.n, len(names), method, "an AUROC of 0 or 1")
    value = float(special.logit(one.auc) - special.logit(other.auc))
    scale = [np.sqrt(INFLATION) / (s.auc * (1 - s.auc)) for s in (one, other)]
    parts = [scale[0] * one.influence.get(g, 0.0) - scale[1] * other.influence.get(g, 0.0) for g in names]
    half = float(distributions.t.ppf((1 + confidence) / 2, min(one.df, other.df)) * np.linalg.norm(parts))
    return Estimate(value, value - half, value + half, one.n + other.n, len(names), method)


def paired_groups(a: Groups, b: Groups) -> tuple[Groups, Groups]:
    """One group for all that hangs together where row i of one sample is matched with row i of the other.

    A matched pair is alike and has opposite labels. On both sides of a fold the training partner drags the
    score below one half, as two stamps of one host would.
    """
    names, member = np.unique(np.concatenate([a, b]), return_inverse=True)
    m, n = len(names), len(a)
    links = coo_array((np.ones(n), (member[:n], member[n:])), shape=(m, m))
    _, joined = connected_components(links, directed=False)
    of = joined[member].astype(str)
    return of[:n], of[n:]
