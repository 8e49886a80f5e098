"""Expected calibration error in bins of equal mass, with intervals that hold the true one.

The mean residual r_b (label less probability) of bin b scatters about the true rho_b, so that both the sum
of w_b |r_b| and that of w_b r_b² are biased up, and a bootstrap adds the same bias again. `ece_estimates`
inverts a test instead (Neyman 1937): theta is in the interval where the error that was found is one that rows
drawn again would show, if the true error were theta.

    rho     theta times a direction, which is estimated: a miscalibration of intercept and slope, to first
            order in both, and what departs from it, shrunk by its noise (James & Stein 1961, toward a
            subspace). For the upper end it is moved by one standard error along what scatters most: noise
            that hides an error is along it, and the direction that is left then looks too well measured.
            For the lower end of sum w |rho|, where a bin stands out by three standard errors, it is also that
            of the bins alone that are two from 0: with the others right, noise explains more of what is found
    r       normal about rho. Its covariance is that of whole groups, each of whose departures from a bin's
            mean is divided by sqrt(1 - h), with h its share of the bin (CR2 of Bell & McCaffrey 2002); its
            scale is as sure as the groups make it, f / chi²_f with the f of `freedom_of`
    w       edges of equal mass move with the rows drawn; to first order that is as if the edges stood and the
            masses scattered, which adds theta^k sum dw_b |direction_b|^k
    tails   of Feldman & Cousins (1998, Phys. Rev. D 57, 3873): the whole of alpha above where theta = 0, half
            of it on each side from two standard deviations on. Nothing is spent below where what is found
            cannot be less than theta: the interval always holds it
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special
from scipy import stats as distributions

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.random import stream
from darkhaloscope.stats.prevalence import freedom_of, logits, probabilities
from darkhaloscope.stats.resampling import Counts, Estimate
from darkhaloscope.stats.rows import Rows, Vector, checked_rows

DRAWS = 4000
"""Draws of the statistic that a test compares with: a tail of .025 is known to .0025."""

_LEVELS = 400  # of the scale of the error among the draws
_ROUNDING = 1e-12
_LARGE, _STANDS_OUT = 2.0, 3.0  # standard errors


def ece(prob: ArrayLike, label: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error in bins of equal mass (Naeini, Cooper & Hauskrecht 2015, in our binning).

    Equal probabilities share a bin, so the order of rows does not matter. It is biased up in small samples
    (.06 for a perfect model at n = 300) and dominated by the larger class. Raises DataError where a class is
    empty or a probability lies outside 0 … 1.
    """
    return float(_ece_pair(_binned(prob, label, bins).means())[0])


def ece_debiased(prob: ArrayLike, label: ArrayLike, bins: int = 15, groups: ArrayLike | None = None) -> float:
    """Root of the squared calibration error less what sampling alone gives it; 0 where that is negative.

    Of independent rows sum_b w_b [(y - p)² - y (1 - y)/(n_b - 1)] over bins of at least two rows, binned as
    `ece`. With `groups` sum_b w_b times the mean product of the residuals of two rows of different groups:
    unbiased for the square of their mean however alike the rows of one group are. Raises DataError as `ece`
    does, and where no bin has two rows, or two groups.
    """
    if groups is not None:
        rows = _binned(prob, label, bins, groups)
        found = float(_value(_residuals(rows).square, 2))
        if np.isnan(found):
            raise DataError("ece_debiased", "no bin holds rows of two groups", f"fewer than {bins} bins")
        return found
    found = float(_ece_pair(_binned(prob, label, bins).means())[1])
    if np.isnan(found):
        raise DataError("ece_debiased", "no bin holds two rows", f"fewer than {bins} bins")
    return found


class EceReplicates:
    """`ece` and `ece_debiased` of the same rows again and again, each group so often as it is drawn.

    Rows are sorted once; a replicate is what those functions make of rows repeated (the second without
    groups), to the last bits.
    """

    def __init__(self, prob: ArrayLike, label: ArrayLike, groups: ArrayLike, bins: int = 15) -> None:
        self._rows = _binned(prob, label, bins, groups)

    @property
    def n_groups(self) -> int:
        """How many groups there are."""
        return int(self._rows.group.max()) + 1

    def of(self, counts: Counts) -> Vector:
        """Both, when each group counts so often; NaN where one is then not defined."""
        if not counts.any():
            return np.full(2, np.nan)
        return _ece_pair(self._rows.means(counts[self._rows.group]))


class _Means(NamedTuple):
    """Rows of each bin that holds any, and the means of probability and label there."""

    size: Vector
    prob: Vector
    label: Vector


def _ece_pair(bins: _Means) -> Vector:
    positives = float(bins.size @ bins.label)
    if not 0 < positives < bins.size.sum():
        return np.full(2, np.nan)
    plain = (bins.size * np.abs(bins.label - bins.prob)).sum() / bins.size.sum()
    size, prob, label = (x[bins.size > 1] for x in bins)
    if not len(size):
        return np.array([plain, np.nan])
    square = (label - prob) ** 2 - label * (1 - label) / (size - 1)
    return np.array([plain, np.sqrt(max((size * square).sum() / size.sum(), 0.0))])


class Binned:
    """Rows in ascending order of probability, equal ones in blocks that no bin cuts."""

    def __init__(self, rows: Rows, bins: int) -> None:
        self.order = np.argsort(rows.score, kind="stable")
        p = rows.score[self.order]
        self.first = np.flatnonzero(np.r_[True, p[1:] != p[:-1]]) if len(p) else np.zeros(0, np.intp)
        self.prob, self.bins = p[self.first], bins
        self.label, self.group = rows.positive[self.order].astype(np.float64), rows.group[self.order]

    def bin_of_blocks(self, weight: Vector) -> NDArray[np.intp]:
        """The bin that holds the middle of each block's weight."""
        end = np.cumsum(weight)
        middle = (end - weight / 2) / end[-1]
        return np.asarray(np.minimum((middle * self.bins).astype(np.intp), self.bins - 1))

    def means(self, counts: NDArray[Any] | None = None) -> _Means:
        """Means in each bin when each row counts so often."""
        w = np.ones(len(self.label)) if counts is None else counts.astype(np.float64)
        weight = np.add.reduceat(w, self.first)
        which = self.bin_of_blocks(weight)
        size = np.asarray(np.bincount(which, weight, self.bins), dtype=np.float64)
        used = size > 0
        sums = (weight * self.prob, np.add.reduceat(w * self.label, self.first))
        prob, label = (np.bincount(which, x, self.bins)[used] / size[used] for x in sums)
        return _Means(size[used], prob, label)

    def bin_of_rows(self) -> NDArray[np.intp]:
        """The bin of each row, in the order the rows came in."""
        size = np.diff(np.r_[self.first, len(self.label)])
        out = np.empty(len(self.label), np.intp)
        out[self.order] = np.repeat(self.bin_of_blocks(size.astype(np.float64)), size)
        return out


def _binned(prob: ArrayLike, label: ArrayLike, bins: int, groups: ArrayLike | None = None) -> Binned:
    rows = checked_rows(prob, label, groups)
    if rows.lacks_a_class:
        raise DataError("ece", "calibration needs both classes")
    probabilities(rows.score)
    return Binned(rows, bins)


# --- intervals --------------------------------------------------------------------------------------------


class _Residuals(NamedTuple):
    """Bins, and what groups do to them.

    weight, stated, mean   share of the rows, mean probability, mean residual of each bin
    plain, square          sum w |mean|, and the unbiased estimate of sum w rho² (NaN where no bin tells)
    moves                  (group, 2 bin): departures of the means that each group causes, then of the weights
    alone                  whether a bin holds rows of one group only, so that nothing tells its scatter
    """

    weight: Vector
    stated: Vector
    mean: Vector
    plain: float
    square: float
    moves: NDArray[np.float64]
    alone: bool

    @property
    def covariance(self) -> NDArray[np.float64]:
        return np.asarray(self.moves.T @ self.moves)


def _residuals(binned: Binned) -> _Residuals:
    which = np.unique(binned.bin_of_rows()[binned.order], return_inverse=True)[1]
    bins, m, n = int(which.max()) + 1, int(binned.group.max()) + 1, len(which)

    def by_cell(column: Vector) -> NDArray[np.float64]:
        return np.asarray(np.bincount(binned.group * bins + which, column, m * bins).reshape(m, bins))

    prob = np.repeat(binned.prob, np.diff(np.r_[binned.first, n]))
    rows, sums = by_cell(np.ones(n)), by_cell(binned.label - prob)
    size = rows.sum(axis=0)
    weight, mean = size / n, sums.sum(axis=0) / size
    between = size**2 - (rows**2).sum(axis=0)
    known = between > 0
    products = np.divide(sums.sum(axis=0) ** 2 - (sums**2).sum(axis=0), between, where=known, out=0 * size)
    square = float(weight @ products / weight[known].sum()) if known.any() else float("nan")
    others = np.sqrt(1 - rows / size, where=rows < size, out=np.ones_like(rows))
    moves = (sums - rows * mean) / size / others
    shares = np.sqrt(m / max(m - 1, 1)) * (rows - rows.sum(axis=1, keepdims=True) * weight) / n
    stated = np.bincount(which, prob, bins) / size
    return _Residuals(
        weight, stated, mean, float(weight @ np.abs(mean)), square, np.c_[moves, shares], not known.all()
    )


def _value(power_sum: float, k: int) -> float:
    return float(max(power_sum, 0.0) ** (1 / k)) if np.isfinite(power_sum) else float("nan")


def ece_estimates(
    prob: ArrayLike,
    label: ArrayLike,
    groups: ArrayLike | None,
    bins: int = 15,
    *,
    confidence: float = 0.95,
) -> tuple[Estimate, Estimate]:
    """`ece` and `ece_debiased` over groups, each with the interval of what it would be in all rows there are.

    None where a class is empty. No interval where a bin holds rows of one group only, or where no residual
    departs from its bin's. See the module.
    """
    rows = checked_rows(prob, label, groups)
    probabilities(rows.score)
    if rows.lacks_a_class:
        why = "one of the classes is empty"
        none = Estimate(None, None, None, len(rows.score), rows.n_groups, "none", why)
        return none, none
    found = _residuals(Binned(rows, bins))
    plain, debiased = (_estimate(found, k, rows, confidence) for k in (1, 2))
    return plain, debiased


def _estimate(found: _Residuals, k: int, rows: Rows, confidence: float) -> Estimate:
    n, m = len(rows.score), rows.n_groups
    value = _value(found.plain if k == 1 else found.square, k)
    if found.alone or not (np.abs(found.moves[:, : len(found.mean)]) > _ROUNDING).any():
        why = "a bin holds rows of one group only" if found.alone else "the residuals of a bin do not differ"
        return Estimate(None if np.isnan(value) else value, None, None, n, m, "none", f"no interval: {why}")
    broad, wide, narrow = _directions(found)
    test = _Test(found, k, 1 - confidence, broad)
    low, high = test.low(), _Test(found, k, 1 - confidence, wide).high()
    if k == 1 and low > 0 and narrow is not None:
        low = min(low, _Test(found, k, 1 - confidence, narrow).low())
    return Estimate(value, min(low, value), max(high, value), n, m, f"inverted test, t{test.freedom:.3g}")


class _Test:
    """Whether sum w |r|^k is one that a true error theta would show, k = 1 or 2, at level alpha."""

    def __init__(self, found: _Residuals, k: int, alpha: float, towards: Vector) -> None:
        w, bins = found.weight, len(found.mean)
        r = found.mean if found.mean.any() else towards
        self._w, self._k, self._alpha = w, k, alpha
        self._found = found.plain if k == 1 else found.square
        covariance = found.covariance
        self._towards = towards / _value(float(w @ np.abs(towards) ** k), k)
        slope = np.r_[w * k * np.abs(r) ** (k - 1) * np.sign(r), np.abs(r) ** k]
        self.freedom = float(freedom_of(found.moves @ slope[:, None], max(len(found.moves) - 1, 1))[0])
        normals, levels = _normals(bins)
        values, vectors = np.linalg.eigh(covariance)
        errors = _scales(levels, self.freedom)[:, None] * (
            normals @ (vectors * np.sqrt(np.maximum(values, 0))).T
        )
        self._errors, self._masses = errors[:, :bins], errors[:, bins:] @ np.abs(self._towards) ** k
        self._noise = float(w @ np.diag(covariance)[:bins]) if k == 2 else 0.0
        self._at_zero = float(self._shown(0.0).mean())

    def _shown(self, theta: float) -> Vector:
        """The statistic in rows drawn again, less what noise alone adds to a square."""
        residuals = theta * self._towards + self._errors
        residuals = np.abs(residuals) if self._k == 1 else residuals**2
        return np.asarray(residuals @ self._w + theta**self._k * self._masses - self._noise)

    def _margins(self, theta: float) -> tuple[float, float]:
        """By how much the share of draws at least, and at most, as large exceeds its tail."""
        shown = self._shown(theta)
        low, high = _tails(float((shown.mean() - self._at_zero) / shown.std()), self._alpha)
        possible = float((shown < theta**self._k).mean())
        low, high = min(low, possible), max(high, self._alpha - possible)
        return float((shown >= self._found).mean()) - high, float((shown <= self._found).mean()) - low

    def low(self) -> float:
        """The least theta that is not rejected."""
        return self._end(0)

    def high(self) -> float:
        """The largest, 1 at most."""
        return self._end(1)

    def _end(self, side: int) -> float:
        sign = 1 if side == 0 else -1
        at_0, at_1 = (sign * self._margins(theta)[side] for theta in (0.0, 1.0))
        if at_0 >= 0 or at_1 <= 0:
            return 0.0 if at_0 >= 0 else 1.0
        return float(optimize.brentq(lambda x: sign * self._margins(x)[side], 0.0, 1.0, xtol=1e-5))


@cache
def _normals(bins: int) -> tuple[NDArray[np.float64], Vector]:
    """Normal numbers (draw, 2 bins), each row with its opposite, and a level of 0 … 1 for each draw."""
    rng = stream(0, "stats/calibration_error", str(bins))
    half = rng.normal(size=(DRAWS // 2, 2 * bins))
    return np.r_[half, -half], rng.permutation(
        np.repeat((np.arange(_LEVELS) + 0.5) / _LEVELS, DRAWS // _LEVELS)
    )


def _scales(levels: Vector, freedom: float) -> Vector:
    """Error over estimated error at each level, where the variance has so many degrees of freedom."""
    each, at = np.unique(levels, return_inverse=True)
    return np.asarray(np.sqrt(freedom / distributions.chi2.ppf(each, freedom))[at])


def _directions(found: _Residuals) -> tuple[Vector, Vector, Vector | None]:
    """True residuals, (bin,), to a factor: as estimated, moved along what scatters most, and of few bins.

    The last is None where no bin stands out. See the module.
    """
    w, p, r = found.weight, found.stated, found.mean
    covariance = found.covariance[: len(r), : len(r)]
    slopes = (p * (1 - p))[:, None] * np.c_[np.ones(len(p)), logits(p)[0]]
    root = np.sqrt(w)
    onto = slopes @ np.linalg.pinv(root[:, None] * slopes) * root
    smooth, apart = onto @ r, np.eye(len(w)) - onto
    rest, noise = r - smooth, np.maximum(np.diag(apart @ covariance @ apart.T), 0.0)
    size = float(w @ rest**2)
    broad = smooth + max(1 - float(w @ noise) / size, 0.0) * rest if size > 0 else smooth
    narrow = np.where(np.abs(r) > _LARGE * np.sqrt(np.diag(covariance)), r, 0.0)
    stands_out = narrow.any() and bool((np.abs(rest) > _STANDS_OUT * np.sqrt(noise)).any())
    broad = next(np.asarray(x) for x in (broad, r, np.ones_like(r)) if x.any())
    values, vectors = np.linalg.eigh(root[:, None] * covariance * root)
    most = vectors[:, -1] / root * np.sqrt(values[-1])
    wide = broad + (most if most @ (w * broad) >= 0 else -most)
    return broad, np.asarray(wide), narrow if stands_out else None


def _tails(moved: float, alpha: float) -> tuple[float, float]:
    """What Feldman & Cousins (1998) leave below and above for a normal mean `moved` that is not negative."""
    far, near = (float(-special.ndtri(tail)) for tail in (alpha / 2, alpha))
    if moved >= far or moved <= 0:
        return (alpha / 2, alpha / 2) if moved > 0 else (0.0, alpha)

    def below(d: float) -> float:
        # Equal likelihood ratios at both ends, to the best mean that is not negative: 0 at the lower one.
        return float(special.ndtr(-moved / 2 - d**2 / (2 * moved)))

    if below(near) < _ROUNDING:
        return 0.0, alpha
    d = optimize.brentq(lambda x: special.ndtr(x) - below(x) - (1 - alpha), near, far)
    return below(d), float(special.ndtr(-d))
