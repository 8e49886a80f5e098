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

Two estimates with different degrees of freedom stand in V: S - 1, and m - 1. Cochran's quantile (in Cochran
& Cox 1957, Experimental Designs, 2nd ed., sec. 4.14) is theirs weighted by their parts,

    (s^2/S t_{S-1} + C^ t_{m-1}) / V

and Satterthwaite's (1946, Biometrics Bull. 2, 110) that of V^2 / ((s^2/S)^2 / (S - 1) + C^^2 / (m - 1))
degrees of freedom. Both are t_{S-1} where seeds are all of the scatter (4.30 for three) and t_{m-1} where
test rows are; between them the first covers up to 97.2 per cent for S = 3, the second down to 91.7. t is two
parts of the first and one of the second, which covers 94.4 to 96.7.

Three seeds agree by chance now and then, and s^2/S then is smaller than the E/S that the bootstrap sees. So
the half-width is never less than that of these networks alone,

    max( t sqrt(V),  t_{m-1} sqrt(C + E/S) )

Coverage by simulation, nominal 95: 94 to 97 per cent for S = 3 and S = 5 where seeds do as much as the rows
do to each network (A >= E); by that floor up to 98.7 and 98.0 where they do nothing at all (A = 0).
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

_NO_VARIANCE = 1e-24

_LEAST_TAIL = 1e-200
"""Below it quantiles lose their digits; a p of that size is none."""


@dataclass(frozen=True)
class Combined:
    """The mean over seeds with the parts of its variance.

    between, within   s^2/S (0 for one seed), and C^
    alone             C + E/S: of these networks, as if there were no others
    seeds, clusters   S and m
    rare              a share of whose exceptions so few clusters hold one that their scatter says little

    For a rare share, and where nothing scatters (both arms right, or wrong, on every row), the half-width is
    at least the share that none of m clusters may show: 1 - (1 - confidence)^(1/m), about 3/m.
    """

    value: float
    between: float
    within: float
    alone: float
    seeds: int
    clusters: int
    rare: bool = False

    @property
    def error(self) -> float:
        """Standard error of the mean over networks, those not trained included."""
        return float(np.sqrt(self.between + self.within))

    def quantile(self, tail: float) -> float:
        """The departure in standard errors that a share `tail` exceeds; see the module."""
        parts, whole = self._parts, self.between + self.within
        cochran = -sum(part * float(special.stdtrit(dof, tail)) for part, dof in parts) / whole
        freedom = 1 / sum((part / whole) ** 2 / dof for part, dof in parts)
        return (2 * cochran - float(special.stdtrit(freedom, tail))) / 3

    @property
    def _parts(self) -> list[tuple[float, int]]:
        """What stands in the variance, each with its degrees of freedom."""
        both = ((self.between, self.seeds - 1), (self.within, self.clusters - 1))
        return [(part, dof) for part, dof in both if part > 0]

    def half_width(self, tail: float) -> float:
        """Of the central interval that leaves `tail` on each side."""
        widths = [0.0]
        if self.error:
            widths.append(self.quantile(tail) * self.error)
        if self.alone:
            widths.append(-float(special.stdtrit(self.clusters - 1, tail)) * float(np.sqrt(self.alone)))
        if self._counts:
            widths.append(upper_bound_no_hits(self.clusters, confidence=1 - 2 * tail))
        return max(widths)

    @property
    def _counts(self) -> bool:
        return self.rare or not (self.error or self.alone)

    def interval(self, confidence: float, bounds: tuple[float, float] = (-1.0, 1.0)) -> tuple[float, float]:
        """Central interval, cut at `bounds`."""
        half = self.half_width((1 - confidence) / 2)
        return max(self.value - half, bounds[0]), min(self.value + half, bounds[1])

    @property
    def p(self) -> float:
        """Two-sided p of no difference: the interval that leaves so much ends at 0."""
        return self._two_sided(abs(self.value))

    def p_beyond(self, margin: float) -> float:
        """Of a difference of `margin` or more either way, p: two one-sided tests (Schuirmann 1987).

        The larger of the two: its interval of 1 - 2p ends at the nearer margin.
        """
        room = margin - abs(self.value)
        half = self._two_sided(abs(room)) / 2
        return half if room >= 0 else 1 - half

    def _two_sided(self, departure: float) -> float:
        """Twice the tail whose half-width is `departure`: the largest of those of its candidates."""
        found = [_LEAST_TAIL]
        if self.error:
            found.append(2 * self._tail(departure / self.error))
        if self.alone:
            found.append(2 * float(special.stdtr(self.clusters - 1, -departure / np.sqrt(self.alone))))
        if self._counts:
            found.append((1 - min(departure, 1.0)) ** self.clusters)
        return min(max(found), 1.0)

    def _tail(self, errors: float) -> float:
        """The tail beyond so many standard errors: between those of the least freedom and of all of it."""
        freedom = [dof for _, dof in self._parts]
        tails = [float(special.stdtr(dof, -errors)) for dof in (min(freedom), sum(freedom))]
        low, high = (max(tail, _LEAST_TAIL) for tail in (min(tails), max(tails)))
        if high - low <= 1e-12 * high:
            return high

        def above(log_tail: float) -> float:
            return self.quantile(float(np.exp(log_tail))) - errors

        ends = float(np.log(low)) - 1e-6, min(float(np.log(high)) + 1e-6, float(np.log(0.5)))
        return float(np.exp(optimize.brentq(above, *ends, xtol=1e-10)))

    def detectable(self, *, confidence: float = 0.95, least: float = 0.0, tests: int = 1) -> float:
        """True difference that this design finds with 80 % power, beside others and above a least size.

        A difference is found where it exceeds both `least` and the half-width (t_{1-alpha/2k} errors for
        k = `tests`, the first and hardest step of Holm's); it does so in 80 % of experiments where the truth
        is larger by t_{.8} errors. The error is itself measured: with three seeds to about a factor two.
        """
        return max(self.half_width((1 - confidence) / (2 * tests)), least) + self.half_width(1 - POWER)


def combine(values: ArrayLike, covariance: ArrayLike, clusters: int, *, rare: bool = False) -> Combined:
    """The mean over seeds of values measured on the same rows; see the module.

    values       (S,), one for each network
    covariance   (S, S), of resampled clusters, the same draws for every network

    With one seed there is no between-seed variance: its part is 0, and the caller says so.
    """
    theta, sigma = np.asarray(values, dtype=float), np.asarray(covariance, dtype=float)
    S = len(theta)
    if sigma.shape != (S, S) or not S or clusters < 2:
        raise DataError("combine", f"{S} values, a covariance {sigma.shape}, {clusters} clusters do not fit")
    alone = float(sigma.sum()) / S**2
    if S == 1:
        between, within = 0.0, alone
    else:
        between = float(theta.var(ddof=1)) / S
        within = float(sigma.sum() - np.trace(sigma)) / (S * (S - 1))
    # A sum of rounding errors is not a variance: values that agree to the last digit do not scatter.
    between, within, alone = (part if part > _NO_VARIANCE else 0.0 for part in (between, within, alone))
    return Combined(float(theta.mean()), between, within, alone, S, clusters, rare)


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
