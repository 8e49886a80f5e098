"""Shares of counts: binomial intervals, for rows that share groups too."""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy import stats as distributions
from statsmodels.stats.proportion import proportion_confint

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.stats.resampling import Estimate
from darkhaloscope.stats.rows import checked_rows, checked_scores

BinomialMethod = Literal["jeffreys", "wilson", "clopper-pearson"]


def win_rate(pos: ArrayLike, control: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Share of pairs whose positive scores above its own control, ties counting one half.

    The Clopper-Pearson interval of the untied pairs is moved to the share with ties. Pairs must be of
    different hosts: then n is also the number of clusters. For arcs that only add flux it tends to 1 by
    itself.
    """
    p, c = (
        checked_scores(pos, "positives", allow_empty=True),
        checked_scores(control, "controls", allow_empty=True),
    )
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
    few: bool = False,
) -> Estimate:
    """A proportion of rows that share groups: the binomial interval of n / deff rows.

    few   allow for the scatter of deff itself, which in few or unequal groups makes the interval too narrow:
          n / deff is multiplied by the squared ratio of Student's t of n - 1 and of m - 1 degrees of freedom
          (Korn & Graubard 1998, Survey Methodology 24, 193), here with m = (sum n_g)² / sum n_g² groups

    deff is the ratio of the between-group (linearised) variance of the proportion to p(1 - p)/n, at least 1;
    with groups of one size it is that of their means. Where every row agrees, the rows say nothing about how
    alike those of one group are: each group then counts once.
    """
    _, x, g = checked_rows(np.zeros(np.size(hits)), hits, groups)
    n, m = len(x), len(np.unique(g))
    if not n:
        return Estimate(None, None, None, 0, 0, method, "no trials")
    p, effective = float(x.mean()), effective_rows(x, g)
    if few and 0 < p < 1:
        effective *= _few_groups(g, confidence)
    found = binomial(p * effective, effective, method=method, confidence=confidence)
    detail = f"n_eff = {effective:.1f}"
    return Estimate(p, found.low, found.high, n, m, f"{method}, design effect", detail)


def _few_groups(groups: NDArray[np.intp], confidence: float) -> float:
    size = np.bincount(groups)
    equal = float(size.sum()) ** 2 / float((size.astype(np.float64) ** 2).sum())
    freedom = np.array([len(groups) - 1, max(equal - 1, 1.0)])
    ideal, real = distributions.t.ppf((1 + confidence) / 2, freedom)
    return min(float(ideal / real) ** 2, 1.0)


def effective_rows(hits: ArrayLike, groups: ArrayLike) -> float:
    """Rows that would say as much about a proportion were they independent: n / deff.

    Where every row agrees each group counts once. 0 for no rows.
    """
    _, x, g = checked_rows(np.zeros(np.size(hits)), hits, groups)
    if not len(x) or x.all() or not x.any():
        return float(len(np.unique(g)))
    return len(x) / design_effect(x, g)


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
