"""Two samples whose rows share groups: a kernel distance of their features, and plain numbers compared.

Groups (hosts, sky cells) are what is resampled, permuted and left out. What is paired is compared as paired.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats as distributions

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.random import stream
from darkhaloscope.evaluation.separation import Groups, Vector
from darkhaloscope.gates.probes import Features
from darkhaloscope.stats import Draws, Estimate

BLOCKS = 20
"""Blocks of groups of the kernel distance's standard error."""

PERMUTATIONS = 999


# --- kernel distance -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kid:
    """Unbiased kernel distance of two samples in one feature map; it may be negative.

    representation, dimension   the map it belongs to: distances of different maps have different units
    """

    representation: str
    dimension: int
    value: float
    low: float
    high: float
    n: int
    n_clusters: int
    method: str

    def less(self, other: Self) -> float:
        """Its value less that of `other`. DataError for different maps, which nothing relates."""
        mine, theirs = ((k.representation, k.dimension) for k in (self, other))
        if mine != theirs:
            raise DataError("KID", f"of {mine} and of {theirs} are numbers of different units")
        return self.value - other.value

    def estimate(self) -> Estimate:
        """As an estimate."""
        return Estimate(self.value, self.low, self.high, self.n, self.n_clusters, self.method)


def kernel_distance(
    a: Features,
    b: Features,
    groups: tuple[Groups, Groups],
    *,
    representation: str,
    seed: int,
    confidence: float = 0.95,
) -> Kid:
    """KID (Binkowski et al. 2018, section 4): unbiased MMD² with the kernel (x . y/d + 1)³.

    Features are standardised by both samples together, which keeps the mean zero where they do not differ.
    Only pairs of rows in different groups count: with one row to a group this is the U-statistic of Gretton
    et al. (2012, eq. 3). The error is a jackknife over at most 20 blocks of whole groups.
    """
    both = np.concatenate([a, b])
    spread = both.std(axis=0)
    both = (both - both.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    names, member = np.unique(np.concatenate(groups), return_inverse=True)
    rng = stream(seed, "evaluation/kernel_distance", representation)
    k = min(BLOCKS, len(names))
    block = (rng.permutation(len(names)) % k)[member]
    sums, counts = _block_sums(both, member, block, k, len(a))
    value = _mmd(sums.sum(axis=(1, 2)), counts.sum(axis=(1, 2)))
    left_out = np.array(
        [
            _mmd(
                *(
                    x.sum(axis=(1, 2)) - x[:, j].sum(1) - x[:, :, j].sum(1) + x[:, j, j]
                    for x in (sums, counts)
                )
            )
            for j in range(k)
        ]
    )
    error = float(np.sqrt((k - 1) / k * ((left_out - left_out.mean()) ** 2).sum()))
    half = float(distributions.t.ppf((1 + confidence) / 2, k - 1)) * error
    return Kid(
        representation,
        both.shape[1],
        value,
        value - half,
        value + half,
        len(both),
        len(names),
        f"unbiased cubic KID, jackknife over {k} blocks of groups",
    )


def _block_sums(
    x: Features, member: NDArray[np.intp], block: NDArray[np.intp], k: int, n_a: int
) -> tuple[Vector, Vector]:
    """Sums of the kernel over pairs of different groups, and their number: (aa, bb, ab; block, block)."""
    sums, counts = np.zeros((3, k, k)), np.zeros((3, k, k))
    is_a = np.arange(len(x)) < n_a
    for i in range(k):
        rows = np.flatnonzero(block == i)
        kernel = (x[rows] @ x.T / x.shape[1] + 1.0) ** 3
        apart = member[rows, None] != member[None, :]
        for what, mine, theirs in ((0, is_a, is_a), (1, ~is_a, ~is_a), (2, is_a, ~is_a)):
            here = apart & mine[rows, None] & theirs[None, :]
            sums[what, i] = np.bincount(block, weights=(kernel * here).sum(axis=0), minlength=k)
            counts[what, i] = np.bincount(block, weights=here.sum(axis=0), minlength=k)
    return sums, counts


def _mmd(sums: Vector, counts: Vector) -> float:
    means = sums / counts
    return float(means[0] + means[1] - 2 * means[2])


# --- plain numbers ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Contrast:
    """Two distributions of one quantity, compared.

    difference   of medians (unpaired) or mean difference of pairs, A less B, with its interval
    p            permutation p-value: of whole groups (energy distance), or of the signs of pairs (mean)
    energy       energy distance [unit of the quantity]; None for pairs
    """

    paired: bool
    difference: Estimate
    p: float
    energy: float | None


def contrast(
    a: Float[np.ndarray, "row"],
    b: Float[np.ndarray, "row"],
    groups: tuple[Groups, Groups],
    *,
    seed: int,
    purpose: str,
    draws: Draws | None = None,
    permutations: int = PERMUTATIONS,
) -> Contrast:
    """Compare a quantity of two samples, paired where they are the same groups; NaN is left out by row.

    Unpaired: energy distance (Szekely & Rizzo 2013), whose p-value permutes whole groups between the
    samples, and the difference of medians with a cluster bootstrap. Paired: each group's mean of A less its
    mean of B; signs are permuted. DataError where some groups are shared and some are not: neither holds.
    """
    shared, either = set(groups[0]) & set(groups[1]), {*groups[0], *groups[1]}
    known = [np.isfinite(values) for values in (a, b)]
    (own_a, own_b), (a, b) = (
        (side[k] for side, k in zip(pair, known, strict=True)) for pair in (groups, (a, b))
    )
    shuffle = _Shuffle(stream(seed, "evaluation/contrast", purpose), permutations)
    if not shared:
        return _unpaired((a, b), (own_a, own_b), shuffle, draws or Draws(seed))
    if shared != either:
        problem = f"{len(shared)} of {len(either)} groups are in both samples, {min(shared)} for one"
        raise DataError(purpose, problem, "compare those alone, or take them out")
    both = np.array(sorted(set(own_a) & set(own_b)), dtype=str)
    of_a, of_b = np.isin(own_a, both), np.isin(own_b, both)
    return _paired((a[of_a], b[of_b]), (own_a[of_a], own_b[of_b]), shuffle)


def _group_means(values: Vector, groups: Groups) -> Vector:
    number = np.unique(groups, return_inverse=True)[1]
    return np.bincount(number, weights=values) / np.bincount(number)


@dataclass(frozen=True, eq=False)
class _Shuffle:
    """Where permutations come from, and how many."""

    rng: np.random.Generator
    n: int

    def p(self, reached: int) -> float:
        """The p-value when so many permutations reach the observed statistic (it counts as one of them)."""
        return (1 + reached) / (1 + self.n)


def _paired(values: tuple[Vector, Vector], groups: tuple[Groups, Groups], shuffle: _Shuffle) -> Contrast:
    d = _group_means(values[0], groups[0]) - _group_means(values[1], groups[1])
    m = len(d)
    if not m:
        nothing = Estimate(None, None, None, 0, 0, "none", "no pair in which both are known")
        return Contrast(paired=True, difference=nothing, p=1.0, energy=None)
    mean, error = float(d.mean()), float(d.std(ddof=1) / np.sqrt(m)) if m > 1 else float("nan")
    half = float(distributions.t.ppf(0.975, m - 1)) * error if m > 1 else float("nan")
    signs = shuffle.rng.choice([-1.0, 1.0], size=(shuffle.n, m))
    reached = int((np.abs(signs @ d) / m >= abs(mean) * (1 - 1e-12)).sum())
    low, high = (mean - half, mean + half) if np.isfinite(half) else (None, None)
    found = Estimate(mean, low, high, len(values[0]), m, f"mean of pairs, t{m - 1}")
    return Contrast(paired=True, difference=found, p=shuffle.p(reached), energy=None)


def _unpaired(
    values: tuple[Vector, Vector], groups: tuple[Groups, Groups], shuffle: _Shuffle, draws: Draws
) -> Contrast:
    (a, b), both = values, np.concatenate(values)
    names, member = np.unique(np.concatenate(groups), return_inverse=True)
    if not len(a) or not len(b):
        nothing = Estimate(None, None, None, len(both), len(names), "none", "one of the samples is empty")
        return Contrast(paired=False, difference=nothing, p=1.0, energy=None)
    of_a = np.zeros(len(names), bool)
    of_a[member[: len(a)]] = True
    observed = float(distributions.energy_distance(a, b))
    reached = 0
    for _ in range(shuffle.n):
        mine = shuffle.rng.permutation(of_a)[member]
        other = distributions.energy_distance(both[mine], both[~mine])
        reached += other >= observed * (1 - 1e-12)
    difference = _median_difference(a, b, *groups, draws)
    return Contrast(paired=False, difference=difference, p=shuffle.p(reached), energy=observed)


def _median_difference(a: Vector, b: Vector, own_a: Groups, own_b: Groups, draws: Draws) -> Estimate:
    """Medians of resampled groups of each side, on its own."""
    medians = [_resampled_medians(v, g, draws, side) for v, g, side in ((a, own_a, "a"), (b, own_b, "b"))]
    tail = (1 - draws.confidence) / 2
    low, high = np.quantile(medians[0] - medians[1], [tail, 1 - tail])
    value = float(np.median(a) - np.median(b))
    m = len(set(own_a)) + len(set(own_b))
    method = f"difference of medians, cluster bootstrap percentile, B={draws.n_boot}"
    return Estimate(value, float(low), float(high), len(a) + len(b), m, method)


def _resampled_medians(values: Vector, groups: Groups, draws: Draws, side: str) -> Vector:
    number = np.unique(groups, return_inverse=True)[1]
    order = np.argsort(values, kind="stable")
    ranked, of = values[order], number[order]
    rng = stream(draws.seed, "evaluation/medians", side)
    m = int(number.max()) + 1
    out = []
    for _ in range(draws.n_boot):
        counts = np.bincount(rng.integers(m, size=m), minlength=m)[of].cumsum()
        out.append(ranked[np.searchsorted(counts, counts[-1] / 2)])
    return np.array(out)
