"""What the figures of a run show: selection function, calibration, examples, as values to draw."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.contracts.measured import ArcDomain, HostDomain
from darkhaloscope.contracts.protocol import Strata
from darkhaloscope.contracts.random import stream
from darkhaloscope.contracts.store import Dataset
from darkhaloscope.contracts.tables import CATEGORIES
from darkhaloscope.evaluation.calibration import reliability as measured_reliability
from darkhaloscope.evaluation.recovery import UNITS, Cell, Recovery, bins_of, cell_of, cells
from darkhaloscope.evaluation.samples import negatives, positives
from darkhaloscope.evaluation.selection import TABLES, with_known_facts
from darkhaloscope.evaluation.surface import Axis, Design, fit_surface
from darkhaloscope.pipeline.results import Results
from darkhaloscope.report.parts import Binning, Counted, Fit, Histogram, Origin
from darkhaloscope.report.values import (
    Example,
    Reliability,
    ReliabilityBin,
    ReliabilityCurve,
    SelectionCurve,
    SelectionMap,
    SelectionPoint,
)
from darkhaloscope.stamps.stamp import decode_planes

QUANTITIES = {
    "theta_e_arcsec": "Einstein radius",
    "arc_snr_mf": "matched-filter S/N of the arc",
    "theta_e_over_fwhm": "Einstein radius over PSF FWHM",
    "psf_fwhm_arcsec": "PSF FWHM, r",
    "depth_r_mag": "5σ point-source depth, r AB",
    "source_mag_r": "source magnitude, r AB",
    "host_mag_r": "host magnitude, r AB",
}
"""The facts of a recovery in words."""

METHOD = "Jeffreys 95 % over hosts"
FIT_METHOD = "penalised splines, 95 % band of the posterior over sky cells"
FIT_POINTS = 60
FEWEST_FITTED = 100
PER_CATEGORY = 3
_LOGARITHMIC = frozenset({"arc_snr_mf"})
_PROBABILITY_BINS = 20


def selection_maps(run: Results) -> tuple[SelectionMap, ...]:
    """Found shares by two facts at a time."""
    if run.recovery is None or run.threshold is None:
        return ()
    return tuple(_map(run, run.recovery, *by) for by in TABLES if len(by) == 2)


def _map(run: Results, recovery: Recovery, x: str, y: str) -> SelectionMap:
    bins = bins_of(run.protocol)
    found = {cell.labels: cell for cell in cells(recovery, {x: bins[x], y: bins[y]})}
    columns, rows = (_shown_labels(bins[name], recovery.facts[name]) for name in (x, y))
    empty = cell_of(recovery.take(np.zeros(0, np.intp)), ("", ""))
    grid = [[_counted(found.get((column, row), empty)) for column in columns] for row in rows]
    return SelectionMap(
        x=_binning(x, bins[x], recovery.facts[x]),
        y=_binning(y, bins[y], recovery.facts[y]),
        cells=tuple(tuple(row) for row in grid),
        threshold_source=_threshold(run),
        method=METHOD,
        origin=_origin(run, recovery),
    )


def _shown_labels(strata: Strata, values: NDArray[np.float64]) -> list[str]:
    """Labels of the bins of known values, without an outer one that is empty."""
    labels = list(strata.labels[:-1])
    below, above = (values < strata.edges[0]).any(), (values >= strata.edges[-1]).any()
    return labels[0 if below else 1 : len(labels) if above else -1]


def _binning(name: str, strata: Strata, values: NDArray[np.float64]) -> Binning:
    edges: list[float | None] = list(strata.edges)
    if (values < strata.edges[0]).any():
        edges.insert(0, None)
    if (values >= strata.edges[-1]).any():
        edges.append(None)
    return Binning(quantity=QUANTITIES[name], unit=UNITS[name], edges=tuple(edges))


def _counted(cell: Cell) -> Counted:
    found = cell.estimates["jeffreys"]
    return Counted(
        value=found.value, low=found.low, high=found.high, k=cell.k, n=cell.n, sufficient=cell.enough
    )


def selection_curves(run: Results) -> tuple[SelectionCurve, ...]:
    """Found share by each fact, in bins and as a smooth line."""
    if run.recovery is None or run.threshold is None:
        return ()
    found = (_curve_of(run, run.recovery, name) for name in QUANTITIES)
    return tuple(curve for curve in found if curve is not None)


def _curve_of(run: Results, recovery: Recovery, name: str) -> SelectionCurve | None:
    values, strata = recovery.facts[name], bins_of(run.protocol)[name]
    index, points = strata.assign(values), []
    for k in range(len(strata.labels) - 1):
        inside = index == k
        if inside.any():
            cell = _counted(cell_of(recovery.take(inside), (strata.labels[k],)))
            lo = strata.edges[k - 1] if k else float(values[inside].min())
            hi = strata.edges[k] if k < len(strata.edges) else float(values[inside].max())
            points.append(SelectionPoint(**cell.model_dump(), x=float(values[inside].mean()), lo=lo, hi=hi))
    if not points:
        return None
    return SelectionCurve(
        label="simulated arcs",
        quantity=QUANTITIES[name],
        unit=UNITS[name],
        points=tuple(points),
        fit=_fit(recovery, name, run.experiment.seed),
        log_x=name in _LOGARITHMIC,
        threshold_source=_threshold(run),
        method=METHOD,
        origin=_origin(run, recovery),
    )


def _fit(recovery: Recovery, name: str, seed: int) -> Fit | None:
    """A smooth line by one fact alone; None where too few rows or one outcome leave nothing to fit."""
    known = with_known_facts(recovery)
    values = known.facts[name]
    if len(known) < FEWEST_FITTED or not 0 < known.found.sum() < len(known) or np.ptp(values) == 0:
        return None
    log = name in _LOGARITHMIC
    axis = Axis.spanning(name, values, scale="log" if log else "linear", rising=log)
    rng = stream(seed, "report/selection curve", name)
    surface = fit_surface(Design(joint=(axis,)), known.facts, known.found, known.group, rng=rng)
    ends = (axis.low, axis.high)
    x = np.geomspace(*ends, FIT_POINTS) if log else np.linspace(*ends, FIT_POINTS)
    value, low, high = surface.at({name: x})
    return Fit(x=x, value=value, low=low, high=high, method=FIT_METHOD)


def _threshold(run: Results) -> str:
    return "" if run.threshold is None else f"calib split: {run.threshold.text}"


def _origin(run: Results, recovery: Recovery) -> Origin:
    return run.origin(recovery.domain, ArcDomain.SIM, *run.tested)


def reliability(run: Results) -> Reliability | None:
    """Observed against stated probability, raw and by each calibrator that could be fitted."""
    pos, neg = positives(run.test), negatives(run.test)
    found = measured_reliability(run.test, run.split_scores("calib"), run.figures_of_test)
    curves = [
        ReliabilityCurve(
            label=one.calibrator,
            bins=tuple(
                ReliabilityBin(probability=b.p_mean, value=b.observed, low=b.low, high=b.high, n=b.n)
                for b in one.bins
            ),
            probabilities=_histogram(np.concatenate([pos.score, neg.score]), one.host_domain, run)
            if one.calibrator == "raw"
            else None,
        )
        for one in found
        if one.bins
    ]
    if not curves:
        return None
    return Reliability(
        curves=tuple(curves),
        n_pos=len(pos),
        n_neg=len(neg),
        prevalence=found[0].prevalence,
        method="bins of equal mass, intervals over sky cells",
        origin=run.origin(found[0].host_domain, ArcDomain.SIM, *run.tested),
    )


def _histogram(scores: NDArray[np.float64], host: HostDomain, run: Results) -> Histogram:
    counts, edges = np.histogram(scores, bins=_PROBABILITY_BINS, range=(0.0, 1.0))
    return Histogram(
        label="all test rows",
        edges=edges,
        counts=tuple(int(c) for c in counts),
        n=len(scores),
        origin=run.origin(host, ArcDomain.SIM, *run.tested),
    )


def examples(run: Results) -> tuple[Example, ...]:
    """A few hosts and look-alikes of each category, the same ones every time."""
    found: list[Example] = []
    for dataset in run.sources.values():
        found += _examples(run, dataset, "host", ("lrg",))
    if run.lookalikes is not None:
        for category in CATEGORIES:
            found += _examples(run, run.lookalikes, category, ("contaminant",))
    return tuple(found)


def _examples(run: Results, dataset: Dataset, category: str, kinds: Sequence[str]) -> list[Example]:
    facts = dataset.read(["target_id", "kind", "category", "reject", "host_domain"]).to_pylist()
    of = [row for row in facts if row["kind"] in kinds and category in ("host", row["category"])]
    fit = [row for row in of if row["reject"] is None]
    fit.sort(key=lambda row: stream(run.experiment.seed, "report/examples", row["target_id"]).random())
    wanted = {row["target_id"]: row for row in fit[:PER_CATEGORY]}
    found = []
    for shard in dataset.keys if wanted else ():
        for row in dataset.read_shard(shard, ["target_id", "stamp_npz"]).to_pylist():
            if row["target_id"] in wanted:
                origin = Origin(
                    host_domain=HostDomain(wanted[row["target_id"]]["host_domain"]),
                    arc_domain=ArcDomain.NONE,
                    manifests=(dataset.fingerprint,),
                )
                stamp = decode_planes(row["stamp_npz"], where=row["target_id"])
                found.append(Example(stamp=stamp, category=category, caption=row["target_id"], origin=origin))
    return found
