"""Differences between models that were each trained several times: one interval, one p.

The design is crossed: each of S networks (seeds) of an arm is measured on the same test rows, whose clusters
are m. Let theta_s be what network s gives there (or the difference of two networks s, one of each arm):

    theta_s = theta + a_s + c + e_s

with a_s what the seed does (variance A), c what the drawn test rows do to every network alike (C), and e_s
what they do to this network alone (E). All have mean 0. So

    Var(mean of theta_s) = A/S + C + E/S

The scatter between seeds, s^2 = sum (theta_s - mean)^2 / (S - 1), has the expectation A + E: c is common and
cancels. Resampling clusters, the same draws for every network, gives an S × S covariance with C + E on its
diagonal and C off it: the networks stay what they are, so A is not in it. Hence

    V = s^2 / S + C^,    C^ = max(mean of the off-diagonal elements, 0)

is unbiased before the cut. The naive sum of s^2/S and the bootstrap variance of the mean, C + E/S, counts E
twice; s^2/S alone forgets C, which does not shrink with S; C + E/S alone forgets that another seed gives
another network. It is the variance of Obuchowski & Rockette (1995, Commun. Stat. Simul. 24, 285) with
networks for readers and a bootstrap for their covariances.

Two estimates with different degrees of freedom stand in V: S - 1, and m - 1. The quantile is theirs weighted
by their parts (Cochran's, in Cochran & Cox 1957, Experimental Designs, 2nd ed., sec. 4.14),

    t = (s^2/S t_{S-1} + C^ t_{m-1}) / V

which is t_{S-1} where seeds are all of the scatter (4.30 for three), t_{m-1} where test rows are, and never
too small between them: coverage is 95.0 to 97.2 per cent for S = 3 and 95.0 to 96.4 for S = 5, nominal 95.
Satterthwaite's degrees of freedom (Hillis 2007) give 92.3 and 94.2 at their worst.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special
from scipy import stats as distributions

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.stats.counts import upper_bound_no_hits

POWER = 0.8
"""Chance of being found that a minimal detectable difference is stated for."""

_LEAST_TAIL = 1e-200
"""Below it quantiles lose their digits; a p of that size is none."""


@dataclass(frozen=True)
class Combined:
    """The mean over seeds with the two parts of its variance.

    between, within   s^2/S (0 for one seed), and C^
    seeds, clusters   S and m

    Where neither part shows any scatter (both arms right, or wrong, on every row) the clusters bound what
    could have been: of m clusters none differed from the others.
    """

    value: float
    between: float
    within: float
    seeds: int
    clusters: int

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return float(np.sqrt(self.between + self.within))

    def quantile(self, level: float) -> float:
        """Of the mean's departure in standard errors; `level` above one half."""
        return self._upper(1 - level)

    def _upper(self, tail: float) -> float:
        """Departure that a share `tail` exceeds: exact far out, where 1 - tail is 1."""
        parts = [(self.between, self.seeds - 1), (self.within, self.clusters - 1)]
        shares = [(part, -float(special.stdtrit(dof, tail))) for part, dof in parts if part > 0]
        return sum(part * t for part, t in shares) / (self.between + self.within)

    def interval(self, confidence: float, bounds: tuple[float, float] = (-1.0, 1.0)) -> tuple[float, float]:
        """Central interval, cut at `bounds`."""
        if self.error:
            half = self.quantile((1 + confidence) / 2) * self.error
        else:
            half = upper_bound_no_hits(self.clusters, confidence=confidence)
        return max(self.value - half, bounds[0]), min(self.value + half, bounds[1])

    @property
    def p(self) -> float:
        """Two-sided p of no difference: the level at which the interval's end is 0.

        Without scatter the sign test of m clusters: 1 for no difference.
        """
        if not self.error:
            return 1.0 if not self.value else min(2.0 ** (1 - self.clusters), 1.0)
        return self._two_sided(abs(self.value) / self.error)

    def p_beyond(self, margin: float) -> float:
        """Of a difference of `margin` or more either way, p: two one-sided tests (Schuirmann 1987).

        Without scatter: the chance that no cluster of m differs where a share margin - |value| does.
        """
        room = margin - abs(self.value)
        if not self.error:
            return float((1 - min(room, 1.0)) ** self.clusters) if room > 0 else 1.0
        half = self._two_sided(abs(room) / self.error) / 2
        return half if room >= 0 else 1 - half

    def _two_sided(self, departure: float) -> float:
        """The quantile is a mean of two, so its p lies between theirs."""
        parts = ((self.between, self.seeds - 1), (self.within, self.clusters - 1))
        tails = [float(special.stdtr(dof, -departure)) for part, dof in parts if part > 0]
        low, high = (max(tail, _LEAST_TAIL) for tail in (min(tails), max(tails)))
        if high - low <= 1e-12 * high:
            return 2 * high

        def above(log_tail: float) -> float:
            return self._upper(float(np.exp(log_tail))) - departure

        ends = float(np.log(low)) - 1e-6, min(float(np.log(high)) + 1e-6, float(np.log(0.5)))
        return 2 * float(np.exp(optimize.brentq(above, *ends, xtol=1e-10)))

    def detectable(self, *, confidence: float = 0.95, least: float = 0.0, tests: int = 1) -> float:
        """True difference that this design finds with 80 % power, beside others and above a least size.

        The larger of (t_{1-alpha/2k} + t_{.8}) error and, where a difference must also be seen larger than
        `least`, least + t_{.8} error. k = `tests` is the first, hardest step of Holm's. Its error is
        itself measured: with three seeds to about a factor two.
        """
        if not self.error:
            return max(least, upper_bound_no_hits(self.clusters, confidence=confidence))
        reach = self.quantile(POWER) * self.error
        return max(self._upper((1 - confidence) / (2 * tests)) * self.error, least) + reach


def combine(values: ArrayLike, covariance: ArrayLike, clusters: int) -> Combined:
    """The mean over seeds of values measured on the same rows; see the module.

    values       (S,), one for each network
    covariance   (S, S), of resampled clusters, the same draws for every network

    With one seed there is no between-seed variance: its part is 0, and the caller says so.
    """
    theta, sigma = np.asarray(values, dtype=float), np.asarray(covariance, dtype=float)
    S = len(theta)
    if sigma.shape != (S, S) or not S or clusters < 2:
        raise DataError("combine", f"{S} values, a covariance {sigma.shape}, {clusters} clusters do not fit")
    if S == 1:
        return Combined(float(theta[0]), 0.0, max(float(sigma[0, 0]), 0.0), 1, clusters)
    common = (sigma.sum() - np.trace(sigma)) / (S * (S - 1))
    between = float(theta.var(ddof=1)) / S
    # A sum of rounding errors is not a variance: values that agree to the last digit do not scatter.
    between, within = (part if part > 1e-24 else 0.0 for part in (between, max(float(common), 0.0)))
    return Combined(float(theta.mean()), between, within, S, clusters)


# --- many tests ------------------------------------------------------------------------------------------


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Adjust p over a family of tests (Holm 1979): none is falsely below alpha with more chance than alpha.

    None for what was not tested: it is no member of the family.
    """
    tested = sorted((value, i) for i, value in enumerate(p) if value is not None)
    out: list[float | None] = [None] * len(p)
    least = 0.0
    for rank, (value, i) in enumerate(tested):
        least = max(least, min((len(tested) - rank) * value, 1.0))
        out[i] = least
    return out


# --- two networks on the same rows -----------------------------------------------------------------------


class Mcnemar(NamedTuple):
    """Of n rows: found by the first alone, by the second alone, and the exact two-sided p."""

    n: int
    first_only: int
    second_only: int
    p: float

    @property
    def discordance(self) -> float:
        """Share of rows on which the two differ."""
        return (self.first_only + self.second_only) / self.n


def mcnemar_exact(first: ArrayLike, second: ArrayLike) -> Mcnemar:
    """McNemar's (1947) test of two detectors on the same independent rows, by the binomial distribution."""
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape or not a.size:
        raise DataError("mcnemar", f"{a.size} and {b.size} rows are not the same rows")
    only = int((a & ~b).sum()), int((~a & b).sum())
    p = float(distributions.binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0
    return Mcnemar(a.size, *only, p)


def detectable_share(n: int, discordance: float, *, confidence: float = 0.95, tests: int = 1) -> float:
    """Difference of two detection rates that McNemar's test finds with 80 % power on n rows.

    (z_{1-alpha/2k} + z_{.8}) sqrt(discordance / n): 8, 5 and 3 per cent for n = 112, 311 and 869 of which a
    tenth are discordant (Connor 1987, Biometrics 43, 207, to first order).
    """
    z = distributions.norm.isf((1 - confidence) / (2 * tests)) + distributions.norm.ppf(POWER)
    return float(z * np.sqrt(discordance / n))
