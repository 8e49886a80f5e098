"""Core swap: what a model still finds with the arc taken out of the core, and with the arc in the core alone.

Counterfactuals made of the same host's own pixels. With w(r) = 1 / (1 + exp((r - 5 px) / 0.7 px)):

    swapped     control w + stamp (1 - w), the arc taken out of the core    N = 1 - TPR(swapped) / TPR(stamp)
    core only   stamp w + control (1 - w), the arc left in the core alone   S = share of `core only` detected

An arc really has part of its signal in the core, so N and S are read against what a detector that knows only
the signal-to-noise would do: C(mf), fitted to the untouched positives, at the S/N left inside and outside.
Where hardly any of the arc's light lies in the core, as a share and in S/N, nothing but the false-positive
rate is left to expect. N is biased low, because the cut leaves an edge at r = 5 px. The placebo, an unlensed
source of the arc's core flux cut alike, shows that what is left of such a source is not detected. It is as
large as one is seen, and leaves less light at the edge than an arc that crosses it: it does not bound N's
bias. A wider one would leave a ring of its own outside the core, which is no artefact of the cut
(docs/results.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from darkhaloscope.contracts.checks import Finding, Status
from darkhaloscope.contracts.protocol import GATE_INTERVAL_CONFIDENCE, Protocol
from darkhaloscope.gates.arrays import PairArrays, PerPair, StampBatch
from darkhaloscope.gates.detection import OperatingPoint, Predict, both_ends, detected
from darkhaloscope.stamps.measure import radius_map
from darkhaloscope.stats import FEW_CLUSTERS, Draws, cluster_interval, clustered_binomial

CORE_SWAP_GATES = tuple(
    f"core_swap_{name}" for name in ("necessity", "sufficiency", "sufficiency_low_overlap", "placebo_excess")
)


def core_window(pairs: PairArrays, protocol: Protocol) -> StampBatch:
    """w(r): 1 in the core, 0 outside, with a soft edge; (pair, 1, y, x)."""
    radius = radius_map(pairs.stamps.shape, pairs.x_center, pairs.y_center)
    swap = protocol.core_swap
    # Far outside, exp overflows float64 at r > 500 px only: no stamp is that large.
    return np.asarray(1.0 / (1.0 + np.exp((radius - swap.radius_pix) / swap.softness_pix)))[:, None]


@dataclass(frozen=True)
class _Seen:
    """Detections of each pair, and the chance of one that its S/N gives: all of it, in the core, outside."""

    hits: NDArray[np.bool_]
    swapped: NDArray[np.bool_]
    core_only: NDArray[np.bool_]
    expected: PerPair
    expected_in_core: PerPair
    expected_outside: PerPair


@dataclass(frozen=True)
class _Cell:
    label: str
    n: int
    value: float | None
    interval: tuple[float, float] | None
    text: str


def core_swap_findings(
    pairs: PairArrays,
    predict: Predict,
    full: PerPair,
    point: OperatingPoint | None,
    *,
    protocol: Protocol,
    seed: int,
) -> list[Finding]:
    """The four core-swap gates.

    full    scores of the untouched stamps
    point   the threshold; without one nothing is evaluated, and with too few negatives nothing is decided
    """
    if point is None:
        reason = f"no threshold: FPR {protocol.core_swap.fpr_fallback:g} needs more negatives"
        return [protocol.measure(name, None, n=len(pairs), detail=reason) for name in CORE_SWAP_GATES]
    hits = full > point.threshold
    makers = (_arc_taken_out, _arc_in_core_only, _round_source_taken_out)
    swapped, core_only, placebo = (
        detected(pairs, predict, point, partial(make, protocol=protocol)) for make in makers
    )
    seen = _Seen(hits, swapped, core_only, *_curve(hits, pairs))
    draws = Draws(seed, protocol.statistics.bootstrap, GATE_INTERVAL_CONFIDENCE)
    bins = _inner(pairs, protocol)
    necessity = [_necessity(label, pairs.hosts, seen, rows, draws) for label, rows in bins]
    sufficiency = [_sufficiency(label, pairs.hosts, seen, rows) for label, rows in bins]
    low_overlap = _low_overlap(pairs, core_only, point, protocol)
    found = [
        _worst(protocol, "core_swap_necessity", necessity),
        _worst(protocol, "core_swap_sufficiency", sufficiency),
        _worst(protocol, "core_swap_sufficiency_low_overlap", [low_overlap]),
        _placebo(protocol, placebo, pairs, point),
    ]
    return [_at(finding, point) for finding in found]


def _arc_taken_out(pairs: PairArrays, protocol: Protocol) -> StampBatch:
    return np.asarray(pairs.stamps - (pairs.stamps - pairs.controls) * core_window(pairs, protocol))


def _arc_in_core_only(pairs: PairArrays, protocol: Protocol) -> StampBatch:
    return np.asarray(pairs.controls + (pairs.stamps - pairs.controls) * core_window(pairs, protocol))


def _round_source_taken_out(pairs: PairArrays, protocol: Protocol) -> StampBatch:
    """The placebo: an unlensed round source with the arc's flux in the core, cut as the arc is.

    A Gaussian around the target, as wide as a small source is seen.
    """
    radius = radius_map(pairs.controls.shape, pairs.x_center, pairs.y_center)[:, None]
    swap = protocol.core_swap
    inside, blob = radius < swap.radius_pix, np.exp(-0.5 * (radius / swap.placebo_sigma_pix) ** 2)
    flux = ((pairs.stamps - pairs.controls) * inside).sum(axis=(2, 3), keepdims=True)
    source = flux * blob / (blob * inside).sum(axis=(2, 3), keepdims=True)
    return np.asarray(pairs.controls + source * (1.0 - core_window(pairs, protocol)))


def theta_e_bins(pairs: PairArrays, protocol: Protocol) -> list[tuple[str, NDArray[np.bool_]]]:
    """Label and rows of each bin of the protocol, those below, above and unknown included."""
    strata = protocol.strata["theta_e_arcsec"]
    index = strata.assign(pairs.theta_e_arcsec)
    return [(label, index == i) for i, label in enumerate(strata.labels)]


def _at(finding: Finding, point: OperatingPoint) -> Finding:
    """Name the threshold; without enough negatives behind it nothing is decided."""
    detail = f"{finding.detail}; {point.text}"
    status = finding.status if point.enough else Status.NOT_EVALUATED
    return finding.model_copy(update={"detail": detail, "status": status})


def _inner(pairs: PairArrays, protocol: Protocol) -> list[tuple[str, NDArray[np.bool_]]]:
    """The brief's own theta_E bins; a bin without rows is a bin that was not evaluated."""
    bins = theta_e_bins(pairs, protocol)
    return bins[1:-2] if protocol.strata["theta_e_arcsec"].outside else bins


Curve = Callable[[PerPair], PerPair]


def _curve(hits: NDArray[np.bool_], pairs: PairArrays) -> tuple[PerPair, PerPair, PerPair]:
    """C(mf) fitted to untouched positives (logistic in ln mf), at the S/N of all, of the core, of the rest.

    NaN where the table does not give the arc's S/N in the core.
    """
    mf, core = pairs.arc_snr_mf, np.minimum(pairs.arc_snr_mf_core, pairs.arc_snr_mf)
    known = np.isfinite(mf) & np.isfinite(core) & (mf > 0)
    rest = np.sqrt(np.maximum(mf**2 - core**2, 0.0))
    curve = _fit_curve(hits[known], mf[known])
    whole, inner, outer = (np.where(known, curve(x), np.nan) for x in (mf, core, rest))
    return whole, inner, outer


def _fit_curve(hits: NDArray[np.bool_], mf: PerPair) -> Curve:
    rate = float(hits.mean()) if len(hits) else float("nan")
    if len(set(hits.tolist())) < 2:
        return lambda x: np.full(len(x), rate)
    model = LogisticRegression(C=100.0).fit(np.log(mf)[:, None], hits)
    if model.coef_[0, 0] <= 0:  # a detector that does not care for S/N: nothing to expect of the part left
        return lambda x: np.full(len(x), rate)
    return lambda x: np.asarray(
        model.predict_proba(np.log(np.maximum(np.nan_to_num(x), 1e-3))[:, None])[:, 1]
    )


def _necessity(
    label: str, hosts: NDArray[np.str_], seen: _Seen, rows: NDArray[np.bool_], draws: Draws
) -> _Cell:
    """N - N_phys of one bin, with an interval over hosts."""
    usable = rows & np.isfinite(seen.expected)
    n = int(usable.sum())
    if not n or not seen.hits[usable].any():
        return _Cell(label, n, None, None, f"{label}: nothing detected (n={n})")
    columns = (seen.swapped, seen.hits, seen.expected_outside, seen.expected)
    parts = np.stack([column[usable].astype(float) for column in columns])

    def excess(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore", divide="ignore"):
            swap, full, rest, whole = parts @ weights.T
            return np.asarray(rest / whole - swap / full)

    value = float(excess(np.ones((1, n)))[0])
    groups = np.unique(hosts[usable], return_inverse=True)[1]
    interval = None
    if (
        groups.max() + 1 >= FEW_CLUSTERS
    ):  # with fewer, the interval is made for shares, and this may be negative
        interval = both_ends(*cluster_interval(excess, groups, draws)[:2])
    necessity = 1.0 - parts[0].sum() / parts[1].sum()
    return _Cell(label, n, value, interval, f"{label}: N={necessity:.3f}, N-N_phys={value:.3f} (n={n})")


def _sufficiency(label: str, hosts: NDArray[np.str_], seen: _Seen, rows: NDArray[np.bool_]) -> _Cell:
    """S - S_phys of one bin, with the interval of S."""
    usable = rows & np.isfinite(seen.expected_in_core)
    cell = _share(label, hosts, seen.core_only, usable)
    if cell.value is None or cell.interval is None:
        return cell
    expected = float(seen.expected_in_core[usable].mean())
    value, (low, high) = cell.value - expected, cell.interval
    text = f"{label}: S={cell.value:.3f}, S-S_phys={value:.3f} (n={cell.n})"
    return _Cell(label, cell.n, value, (low - expected, high - expected), text)


def _low_overlap(
    pairs: PairArrays, core_only: NDArray[np.bool_], point: OperatingPoint, protocol: Protocol
) -> _Cell:
    """S less the false-positive rate, of arcs with hardly any light in the core."""
    share = pairs.kappa < protocol.leakage_probe.low_overlap_kappa
    faint = pairs.arc_snr_mf_core < protocol.core_swap.low_overlap_snr
    cell = _share("all", pairs.hosts, core_only, share & faint)
    if cell.value is None or cell.interval is None:
        return cell
    value, (low, high) = cell.value - point.fpr, cell.interval
    text = f"S={cell.value:.3f}, less FPR {value:.3f} (n={cell.n}, {share.sum()} whatever their S/N)"
    return _Cell("all", cell.n, value, (low - point.fpr, high - point.fpr), text)


def _share(
    label: str, hosts: NDArray[np.str_], core_only: NDArray[np.bool_], rows: NDArray[np.bool_]
) -> _Cell:
    found = clustered_binomial(
        core_only[rows], hosts[rows], method="clopper-pearson", confidence=GATE_INTERVAL_CONFIDENCE
    )
    n, shown = int(rows.sum()), "-" if found.value is None else f"{found.value:.3f}"
    return _Cell(label, n, found.value, both_ends(found.low, found.high), f"{label}: S={shown} (n={n})")


def _worst(protocol: Protocol, name: str, cells: Sequence[_Cell]) -> Finding:
    """One finding for a gate that must hold in every bin: a failure, else a short bin, else the worst."""
    found = [protocol.measure(name, cell.value, n=cell.n, interval=cell.interval) for cell in cells]
    failed = [f for f in found if f.status is Status.FAIL]
    short = [f for f in found if f.status is Status.NOT_EVALUATED]
    if short and not failed:
        worst = min(short, key=lambda f: f.n or 0)
    else:
        worst = max(failed or found, key=lambda f: f.interval[1] if f.interval else -np.inf)
    return worst.model_copy(update={"detail": ", ".join(cell.text for cell in cells)})


def _placebo(
    protocol: Protocol, placebo: NDArray[np.bool_], pairs: PairArrays, point: OperatingPoint
) -> Finding:
    found = clustered_binomial(placebo, pairs.hosts, confidence=GATE_INTERVAL_CONFIDENCE)
    interval = both_ends(found.low, found.high)
    return protocol.measure(
        "core_swap_placebo_excess",
        None if found.value is None else found.value - point.fpr,
        n=len(pairs),
        n_clusters=pairs.n_hosts,
        interval=None if interval is None else (interval[0] - point.fpr, interval[1] - point.fpr),
        detail="detected share of unlensed round sources of the arc's core flux, cut alike, less the FPR",
    )
