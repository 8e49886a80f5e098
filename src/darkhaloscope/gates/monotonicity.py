"""Whether recall falls for bright arcs: a model that has learnt something else than arcs may lose them.

Adjacent two-sigma tests over eight bins would fail one right model in six. Here one statistic looks at all
bins: twice the log-likelihood that is lost when the recalls are made non-decreasing (isotonic regression).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy
from sklearn.isotonic import IsotonicRegression

from darkhaloscope.contracts.checks import Finding, Status
from darkhaloscope.contracts.protocol import Protocol
from darkhaloscope.contracts.random import stream
from darkhaloscope.gates.arrays import PairArrays, PerPair
from darkhaloscope.gates.detection import OperatingPoint

NAME = "bright_arc_monotonicity"
_ROUNDING = 1e-9

Counts = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Monotone:
    """p of the test, its statistic, and recall and number of arcs in each bin."""

    p: float
    statistic: float
    recall: NDArray[np.float64]
    n: Counts


def isotonic_test(
    hits: NDArray[np.bool_],
    snr: PerPair,
    hosts: NDArray[np.str_],
    *,
    bins: int,
    replicates: int,
    rng: np.random.Generator,
) -> Monotone:
    """P of "recall does not fall with S/N", in bins of equal numbers.

    Null: the isotonic fit to these arcs. In each replicate the arcs of one host share one uniform number, the
    most that their detections can depend on each other: p is never too small for it.
    """
    which = _bins(snr, bins)
    n = np.bincount(which, minlength=bins)
    k = np.bincount(which, weights=hits, minlength=bins)
    fitted = _isotonic(k, n)
    seen = _lost(k, n, fitted)
    _, member = np.unique(hosts, return_inverse=True)
    m = int(member.max()) + 1
    reached = 0
    for _ in range(replicates):
        drawn = rng.random(m)[member] < fitted[which]
        k_rep = np.bincount(which, weights=drawn, minlength=bins)
        reached += _lost(k_rep, n, _isotonic(k_rep, n)) >= seen - _ROUNDING
    return Monotone((1 + reached) / (1 + replicates), seen, k / np.maximum(n, 1), n)


def _bins(snr: PerPair, bins: int) -> NDArray[np.intp]:
    """Number of each arc's bin, faintest first."""
    rank = np.empty(len(snr), np.intp)
    rank[np.argsort(snr, kind="stable")] = np.arange(len(snr))
    return rank * bins // len(snr)


def _isotonic(k: NDArray[Any], n: NDArray[Any]) -> NDArray[np.float64]:
    share = k / np.maximum(n, 1)
    fit = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(
        np.arange(len(n)), share, sample_weight=n + 1e-12
    )
    return np.asarray(fit, dtype=float)


def _lost(k: NDArray[Any], n: NDArray[Any], fitted: NDArray[np.float64]) -> float:
    """Twice the log-likelihood of the bins' own recalls over that of the fit."""

    def likelihood(p: NDArray[np.float64]) -> float:
        return float((xlogy(k, p) + xlogy(n - k, 1.0 - p)).sum())

    return 2.0 * (likelihood(k / np.maximum(n, 1)) - likelihood(fitted))


def monotonicity_finding(
    pairs: PairArrays, full: PerPair, point: OperatingPoint | None, *, protocol: Protocol, seed: int
) -> Finding:
    """The gate `bright_arc_monotonicity`: scores of untouched stamps at the core swap's threshold."""
    known = np.isfinite(pairs.arc_snr_mf) & (pairs.arc_snr_mf > 0)
    n = int(known.sum())
    if point is None or n < protocol.monotonicity.bins:
        reason = "no threshold" if point is None else "fewer arcs than bins"
        return protocol.measure(NAME, None, n=n, detail=reason)
    found = isotonic_test(
        full[known] > point.threshold,
        pairs.arc_snr_mf[known],
        pairs.hosts[known],
        bins=protocol.monotonicity.bins,
        replicates=protocol.monotonicity.replicates,
        rng=stream(seed, "gates/monotonicity", "null"),
    )
    recalls = ", ".join(f"{recall:.3f}" for recall in found.recall)
    detail = (
        f"recall by S/N, faintest first: {recalls} (likelihood ratio {found.statistic:.2f}); {point.text}"
    )
    measured = protocol.measure(NAME, found.p, n=n, n_clusters=len(set(pairs.hosts[known])), detail=detail)
    status = measured.status if point.enough else Status.NOT_EVALUATED
    return measured.model_copy(update={"status": status})
