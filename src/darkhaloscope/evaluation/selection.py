"""The selection function: which share of the arcs that are there is found, at a stated threshold.

    C(x) = P(in the parent sample) · P(score > t | x, in it) · P(kept by inspection)

The middle factor is measured here, from injections into hosts that the network has not seen: as counts in
cells, as two smooth surfaces, as averages over populations. The other factors are numbers from elsewhere that
the file keeps apart; a factor that was not measured is not taken to be one.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from scipy import stats as distributions

from darkhaloscope.contracts.measured import ArcDomain, Measured
from darkhaloscope.contracts.protocol import Protocol
from darkhaloscope.contracts.random import stream
from darkhaloscope.evaluation.recovery import (
    BINS,
    FEWEST_EFFECTIVE,
    Cell,
    Recovery,
    bins_of,
    cells,
)
from darkhaloscope.evaluation.samples import Run, negatives
from darkhaloscope.evaluation.surface import Axis, Design, Surface, fit_surface, poisson_binomial
from darkhaloscope.gates.detection import OperatingPoint, point_at
from darkhaloscope.stats import Estimate, binomial
from darkhaloscope.stats.rows import Vector

FEWEST_CELLS = 460
"""Held-out sky cells below which the coverage of the surface is told and decides nothing."""

FOLDS = 5

FEWEST_ROWS = 300
"""Injections below which no surface is fitted."""


def detection_threshold(calibration: pa.Table, protocol: Protocol) -> OperatingPoint | None:
    """The threshold at the lowest of the protocol's rates that the negatives of `calibration` can set.

    With too few for any rate, the brief's lowest fixed probability is the threshold: no rate is promised, and
    the text gives the share of the negatives above it with its Clopper-Pearson interval. None without any.
    """
    scores, rules = negatives(calibration).score, protocol.operating_points
    able = [fpr for fpr in sorted(rules.fpr) if len(scores) >= rules.negatives_needed(fpr)]
    if able:
        return point_at(scores, able[0], protocol)
    if not len(scores):
        return None
    fixed, n = min(protocol.contaminants.thresholds), len(scores)
    above = binomial(int((scores > fixed).sum()), n, method="clopper-pearson")
    rate = f"FPR {above.value:.2g} [{above.low:.2g}, {above.high:.2g}] of {n} negatives"
    text = f"p > {fixed:g}, fixed beforehand; {rate}"
    return OperatingPoint(fixed, float(above.value or 0.0), n, enough=True, text=text)


# --- cells -----------------------------------------------------------------------------------------------


TABLES: tuple[tuple[str, ...], ...] = (
    ("theta_e_arcsec",),
    ("arc_snr_mf",),
    ("theta_e_over_fwhm",),
    ("psf_fwhm_arcsec",),
    ("depth_r_mag",),
    ("source_mag_r",),
    ("host_mag_r",),
    ("theta_e_arcsec", "arc_snr_mf"),
    ("theta_e_over_fwhm", "arc_snr_mf"),
    ("theta_e_arcsec", "source_mag_r"),
)
"""By which facts cells are cut."""


@dataclass(frozen=True)
class CompletenessBin:
    """k found of n arcs in one bin; `measured` holds the share with its Jeffreys interval."""

    label: str
    k: int
    n: int
    measured: Measured


def completeness(
    recovery: Recovery, run: Run, threshold: OperatingPoint, *, column: str = "theta_e_arcsec"
) -> tuple[CompletenessBin, ...]:
    """Share of simulated arcs found, by the bins of one fact, with those below, above and unknown.

    Hosts are the clusters: the interval is that of n / deff rows (its n_eff is in the detail). A bin
    with fewer than 30 effective rows is NOT_EVALUATED; so are all where too few negatives set the threshold.
    """
    strata = bins_of(run.protocol)[column]
    out = []
    for cell in cells(recovery, {column: strata}, run.protocol.statistics.confidence):
        name = f"completeness_sim {column} {cell.labels[0]}"
        measured = run.measured(
            name,
            cell.estimates["jeffreys"],
            recovery.domain,
            ArcDomain.SIM,
            withheld=_withheld(cell, threshold),
            detail=threshold.text,
        )
        out.append(CompletenessBin(cell.labels[0], cell.k, cell.n, measured))
    return tuple(out)


def _withheld(cell: Cell, threshold: OperatingPoint) -> str:
    if not cell.enough:
        return f"insufficient: {cell.effective:.0f} effective rows, needs {FEWEST_EFFECTIVE:.0f}"
    return "" if threshold.enough else "too few negatives set the threshold"


# --- surfaces --------------------------------------------------------------------------------------------


def visibility_design(recovery: Recovery) -> Design:
    """What the arc looks like: S/N and theta_E over the seeing together, depth and host magnitude added.

    The share never falls with S/N. It may turn with theta_E over the seeing: a larger arc of the same S/N is
    fainter per pixel.
    """
    facts = recovery.facts
    return Design(
        joint=(
            Axis.spanning("arc_snr_mf", facts["arc_snr_mf"], scale="log", splines=9, rising=True),
            Axis.spanning("theta_e_over_fwhm", facts["theta_e_over_fwhm"], splines=7),
        ),
        added=_added(recovery, ("depth_r_mag", "host_mag_r")),
    )


def intrinsic_design(recovery: Recovery) -> Design:
    """What the lens and the source are: theta_E and source magnitude together, seeing and depth added.

    Monotone in neither: at one magnitude a larger arc is spread thinner, and bright arcs can be missed.
    """
    facts = recovery.facts
    return Design(
        joint=(
            Axis.spanning("theta_e_arcsec", facts["theta_e_arcsec"], splines=7),
            Axis.spanning("source_mag_r", facts["source_mag_r"], splines=7),
        ),
        added=_added(recovery, ("psf_fwhm_arcsec", "depth_r_mag")),
    )


DESIGNS = {"visibility": visibility_design, "intrinsic": intrinsic_design}
_SPLINES_ADDED = 5


def _added(recovery: Recovery, names: tuple[str, ...]) -> tuple[Axis, ...]:
    """The axes along which the rows differ."""
    out = []
    for name in names:
        values = recovery.facts[name]
        low, high = np.quantile(values, [0.01, 0.99])
        if low < high:
            out.append(Axis.spanning(name, values, splines=_SPLINES_ADDED))
    return tuple(out)


def with_known_facts(recovery: Recovery) -> Recovery:
    """The rows in which every fact is known: what a surface can be fitted to."""
    known = np.all([np.isfinite(values) for values in recovery.facts.values()], axis=0)
    return recovery.take(known & (recovery.facts["arc_snr_mf"] > 0))


def surface_of(recovery: Recovery, design: Design, seed: int) -> Surface:
    """The fitted surface; clusters are sky cells, and a host lies in one."""
    return fit_surface(
        design, recovery.facts, recovery.found, recovery.group, rng=stream(seed, "selection/surface", "draws")
    )


@dataclass(frozen=True, eq=False)
class Coverage:
    """How a surface foretells sky cells that it has not seen.

    tails              where the number found in each cell lies in its predictive distribution
    covered            share of cells inside the central 95 %, with its Clopper-Pearson interval
    p                  of that count, were the coverage 95 % (binomial test)
    log_density        mean log predictive probability of a cell's count under the surface
    log_density_bins   the same under the shares of bins of S/N, with no smoothness: what it must beat
    """

    tails: Vector
    covered: Estimate
    p: float
    log_density: float
    log_density_bins: float


def held_out_coverage(recovery: Recovery, design: Design, seed: int, confidence: float = 0.95) -> Coverage:
    """Fit on four fifths of the sky cells and foretell the others, each fifth in turn.

    The design's ends are those of all rows: what was found plays no part in them.
    """
    names = np.unique(recovery.group)
    fold_of = dict(
        zip(names, stream(seed, "selection/folds", "cells").permutation(len(names)) % FOLDS, strict=True)
    )
    fold = np.array([fold_of[name] for name in recovery.group])
    rng = stream(seed, "selection/coverage", "tails")
    tails, density, plain = [], [], []
    for k in range(FOLDS):
        seen = recovery.take(fold != k)
        surface, shares = surface_of(seen, design, seed), _BinnedShares(seen)
        for name in names[[fold_of[n] == k for n in names]]:
            cell = recovery.take(recovery.group == name)
            tail, log_p = surface.foretell(cell.facts, cell.found, rng)
            tails.append(tail)
            density.append(log_p)
            plain.append(shares.log_density(cell))
    u, edge = np.array(tails), (1 - confidence) / 2
    inside = int(((u > edge) & (u < 1 - edge)).sum())
    covered = binomial(inside, len(u), method="clopper-pearson", confidence=confidence)
    p = float(distributions.binomtest(inside, len(u), confidence).pvalue)
    return Coverage(u, covered, p, float(np.mean(density)), float(np.mean(plain)))


def surface_coverage(recovery: Recovery, run: Run) -> tuple[Measured, ...]:
    """Coverage of held-out sky cells as a figure; below 460 cells it is told and decides nothing.

    None at all where there are fewer rows or cells than five fits need.
    """
    known = with_known_facts(recovery)
    name, m = "selection_surface_coverage_sim", len(set(known.group))
    if len(known) < FEWEST_ROWS or m < 2 * FOLDS or not 0 < known.found.sum() < len(known):
        lacks = f"{len(known)} arcs in {m} sky cells; {FEWEST_ROWS} in {2 * FOLDS} are needed"
        none = Estimate(None, None, None, len(known), m, "none", lacks)
        return (run.measured(name, none, recovery.domain, ArcDomain.SIM),)
    found = held_out_coverage(known, visibility_design(known), run.seed)
    covered = replace(found.covered, n_clusters=m)
    few = f"{m} sky cells, needs {FEWEST_CELLS}" if m < FEWEST_CELLS else ""
    detail = (
        f"of randomised 95 % intervals; p = {found.p:.2g} were it .95; mean log predictive probability of a "
        f"cell {found.log_density:.3f}, of bins of S/N {found.log_density_bins:.3f}"
    )
    return (run.measured(name, covered, recovery.domain, ArcDomain.SIM, withheld=few, detail=detail),)


class _BinnedShares:
    """The share in bins of S/N, half a row of each outcome added: a baseline without smoothness."""

    def __init__(self, recovery: Recovery) -> None:
        self._strata = BINS["arc_snr_mf"]
        index = self._strata.assign(recovery.facts["arc_snr_mf"])
        size = len(self._strata.labels)
        n = np.bincount(index, minlength=size)
        self._share = (np.bincount(index, weights=recovery.found, minlength=size) + 0.5) / (n + 1.0)

    def log_density(self, cell: Recovery) -> float:
        shares = self._share[self._strata.assign(cell.facts["arc_snr_mf"])]
        return float(np.log(poisson_binomial(shares)[int(cell.found.sum())]))
