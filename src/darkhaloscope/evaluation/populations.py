"""Populations: completeness averaged over them, and their numbers inferred from what was found.

Injections are drawn from one distribution, lenses come from another: w = p_population / p_injected turns the
average over the former into one over the latter (importance sampling, self-normalised; Hesterberg 1995).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.contracts.measured import ArcDomain, Measured
from darkhaloscope.evaluation.recovery import Recovery
from darkhaloscope.evaluation.samples import Run
from darkhaloscope.gates.detection import OperatingPoint
from darkhaloscope.injection.population import effective_sample_size
from darkhaloscope.stats import Draws, Estimate
from darkhaloscope.stats.resampling import Counts, intervals
from darkhaloscope.stats.rows import Vector

LEAST_ESS = 400.0
"""Effective sample size below which no average over a population is given."""


@dataclass(frozen=True)
class Prior:
    """A population that completeness is averaged over, as weights of the injected arcs.

    natural       weighted by how often nature makes such a lens (velocity dispersions and volumes)
    counts_tilt   added to the slope of the source counts, dex per magnitude in r
    """

    name: str
    about: str
    natural: bool = False
    counts_tilt: float = 0.0

    def weights(self, recovery: Recovery) -> Vector:
        """One weight for each arc; 0 where it takes no part."""
        base = recovery.weight if self.natural else np.ones(len(recovery))
        if not self.counts_tilt:
            return np.asarray(base, dtype=np.float64)
        magnitude = recovery.facts["source_mag_r"]
        known = np.isfinite(magnitude)
        tilt = 10.0 ** (self.counts_tilt * (np.where(known, magnitude, 0.0) - np.nanmean(magnitude)))
        return np.asarray(base * np.where(known, tilt, 0.0))


TILT = 0.1

PRIORS = (
    Prior("injected", "as they were drawn: theta_E uniform, sources by their counts"),
    Prior("population", "velocity dispersions and volumes of nature, sources by their counts", natural=True),
    Prior(
        "population_bright",
        "the same, source counts flatter by .1 dex per mag",
        natural=True,
        counts_tilt=-TILT,
    ),
    Prior(
        "population_faint",
        "the same, source counts steeper by .1 dex per mag",
        natural=True,
        counts_tilt=TILT,
    ),
)


def averages(
    recovery: Recovery,
    run: Run,
    threshold: OperatingPoint,
    parts: Mapping[str, NDArray[np.bool_]] | None = None,
) -> tuple[Measured, ...]:
    """Completeness averaged over each of `PRIORS`, and how it changes with the slope of the source counts.

    sum(w found) / sum(w), with intervals over sky cells. Below an effective sample size of 400 it is
    NOT_EVALUATED.

    parts   rows by name, for averages within each of them as well
    """
    out = []
    for part, rows in ({"": np.ones(len(recovery), dtype=bool)} | dict(parts or {})).items():
        some = recovery.take(rows)
        out += [_average(some, prior, run, threshold, part) for prior in PRIORS]
    return (*out, _sensitivity(recovery, run, threshold))


def _average(recovery: Recovery, prior: Prior, run: Run, threshold: OperatingPoint, part: str) -> Measured:
    name = f"completeness_sim_{prior.name}" + (f" {part}" if part else "")
    weights = prior.weights(recovery) if len(recovery) else np.zeros(0)
    if not weights.sum() > 0:
        none = Estimate(None, None, None, len(recovery), 0, "none", "no arc was drawn from such a population")
        return run.measured(name, none, recovery.domain, ArcDomain.SIM)
    ess = effective_sample_size(weights)
    estimate = weighted_share(recovery, weights, run.seed, run.protocol.statistics.bootstrap)
    withheld = "" if threshold.enough else "too few negatives set the threshold"
    if ess < LEAST_ESS:
        withheld = f"effective sample size {ess:.0f}, needs {LEAST_ESS:.0f}"
    detail = f"{prior.about}; effective sample size {ess:.0f}; {threshold.text}"
    return run.measured(name, estimate, recovery.domain, ArcDomain.SIM, withheld=withheld, detail=detail)


def weighted_share(recovery: Recovery, weights: Vector, seed: int, n_boot: int) -> Estimate:
    """sum(w found) / sum(w) with an interval over sky cells."""
    return _over_cells(recovery, [weights], lambda shares: shares[0], Draws(seed, n_boot))


def _over_cells(
    recovery: Recovery, weights: Sequence[Vector], of: Callable[[list[float]], float], draws: Draws
) -> Estimate:
    """A function of the shares under some weights, with an interval over sky cells."""
    group = np.unique(recovery.group, return_inverse=True)[1]
    m = int(group.max()) + 1
    totals = [np.bincount(group, weights=w, minlength=m) for w in weights]
    hits = [np.bincount(group, weights=w * recovery.found, minlength=m) for w in weights]

    def value(counts: Counts) -> Vector:
        sums = [(counts @ hit, counts @ total) for hit, total in zip(hits, totals, strict=True)]
        if min(total for _, total in sums) <= 0:
            return np.array([np.nan])
        return np.array([of([float(hit / total) for hit, total in sums])])

    whole = float(value(np.ones(m, np.int32))[0])
    found = intervals(value, m, draws, bounds=(-np.inf, np.inf))[0]
    return Estimate(whole, found.low, found.high, len(recovery), m, found.method, found.detail)


def _sensitivity(recovery: Recovery, run: Run, threshold: OperatingPoint) -> Measured:
    """How much the population's completeness changes with the slope of the source counts."""
    name = "completeness_sim_counts_sensitivity"
    bright, faint = (
        Prior(name, "", natural=True, counts_tilt=tilt).weights(recovery) for tilt in (-TILT, TILT)
    )
    if not (bright.sum() > 0 and faint.sum() > 0):
        none = Estimate(None, None, None, len(recovery), 0, "none", "no arc was drawn from a population")
        return run.measured(name, none, recovery.domain, ArcDomain.SIM)
    draws = Draws(run.seed, run.protocol.statistics.bootstrap)
    found = _over_cells(recovery, [bright, faint], lambda c: (c[1] - c[0]) / (2 * TILT), draws)
    lacking = min(effective_sample_size(w) for w in (bright, faint))
    withheld = "" if lacking >= LEAST_ESS else f"effective sample size {lacking:.0f}, needs {LEAST_ESS:.0f}"
    detail = f"per dex per mag of the counts' slope; {threshold.text}"
    return run.measured(name, found, recovery.domain, ArcDomain.SIM, withheld=withheld, detail=detail)


# --- the population behind what was found -----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Inferred:
    """Number of lenses in each bin, from those that were found.

    value, sigma   expected number of lenses in such a survey, and its standard error
    sigma_here     standard error of the number in this very survey: that lenses are found by chance, not that
                   they are there by chance
    found          how many were found
    completeness   that they were divided by, and its standard error
    """

    value: Vector
    sigma: Vector
    sigma_here: Vector
    found: NDArray[np.int64]
    completeness: Vector
    completeness_sigma: Vector


def infer_numbers(
    found_values: ArrayLike, recovery: Recovery, weights: ArrayLike, *, name: str, edges: ArrayLike
) -> Inferred:
    """How many lenses there are by one fact, corrected for what the finder misses.

    found_values   the fact of each lens that was found
    recovery       injections that say how many are found
    weights        of the injections: at one value of the fact they must be distributed as the lenses are
    edges          of the bins, rising

    N = n_found / C in each bin. Within a bin the injections follow the lenses' own slope, which is that of
    the numbers first inferred. The variance of the expected number is n / C² (Poisson) + (n / C²)² var C,
    that of the number in this survey n (1 - C) / C² + (n / C²)² var C; var C is over sky cells. Where no
    injection was found, C has no lower bound above zero and N is NaN. Errors grow with the number itself, so
    pulls of few lenses lean to the negative.
    """
    limits = np.asarray(edges, dtype=np.float64)
    values, w = recovery.facts[name], np.asarray(weights, dtype=np.float64)
    inside = (values >= limits[0]) & (values < limits[-1])
    some, w = recovery.take(inside), w[inside]
    n, _ = np.histogram(np.asarray(found_values, dtype=np.float64), limits)
    first = _divided(n, some, w, name, limits)
    return _divided(n, some, w * _tilt(first.value, some.facts[name], w, limits), name, limits)


def _divided(
    n: NDArray[np.int64], recovery: Recovery, weights: Vector, name: str, limits: Vector
) -> Inferred:
    which = np.searchsorted(limits, recovery.facts[name], side="right") - 1
    shares = [_share_and_error(recovery.take(which == k), weights[which == k]) for k in range(len(n))]
    c, error = np.array(shares).T
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(c > 0, n / c, np.nan)
        # A bin with no lens found still has one's uncertainty.
        chance, shared = np.maximum(n, 1) / c**2, (n / c**2) ** 2 * error**2
        sigma, here = np.sqrt(chance + shared), np.sqrt(chance * (1 - c) + shared)
    nothing = ~(c > 0)
    sigma[nothing] = here[nothing] = np.nan
    return Inferred(value, sigma, here, n, c, error)


def _tilt(numbers: Vector, values: Vector, weights: Vector, limits: Vector) -> Vector:
    """How much steeper the lenses run along the fact than the injections, from bin to bin, at some values."""
    injected, _ = np.histogram(values, limits, weights=weights)
    known = np.isfinite(numbers) & (numbers > 0) & (injected > 0)
    if known.sum() < 2:
        return np.ones(len(values))
    middle = ((limits[1:] + limits[:-1]) / 2)[known]
    ratio = np.log(numbers[known] / injected[known])
    slopes = np.diff(ratio) / np.diff(middle)
    ends = np.array([limits[0], limits[-1]])
    outer = ratio[[0, -1]] + slopes[[0, -1]] * (ends - middle[[0, -1]])
    return np.exp(np.interp(values, np.r_[ends[0], middle, ends[1]], np.r_[outer[0], ratio, outer[1]]))


def _share_and_error(recovery: Recovery, weights: Vector) -> tuple[float, float]:
    """A weighted share and its standard error over sky cells (linearised ratio)."""
    total = weights.sum()
    if not total > 0:
        return 0.0, float("nan")
    share = float(weights @ recovery.found / total)
    _, group = np.unique(recovery.group, return_inverse=True)
    residual = np.bincount(group, weights=weights * (recovery.found - share))
    m = len(residual)
    variance = m / max(m - 1, 1) * float((residual**2).sum()) / total**2
    return share, float(np.sqrt(variance))
