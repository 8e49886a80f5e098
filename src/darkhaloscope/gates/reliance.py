"""Gates on a model: does it look at the core, or at the arc?

A model is a `predict` callable from raw stamps to scores. The brief's letter (core masked with zeros,
azimuthally shuffled hard negatives) is reported; what decides are the counterfactuals of `gates.core_swap`.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from darkhaloscope.contracts.checks import Finding, Findings, Status
from darkhaloscope.contracts.measured import ArcDomain, HostDomain, Measured
from darkhaloscope.contracts.protocol import Protocol
from darkhaloscope.contracts.random import stream
from darkhaloscope.gates.arrays import PairArrays, PerPair, StampBatch
from darkhaloscope.gates.core_swap import CORE_SWAP_GATES, core_swap_findings, theta_e_bins
from darkhaloscope.gates.detection import Maker, OperatingPoint, Predict, both_ends, detected, operating_point
from darkhaloscope.gates.monotonicity import NAME as MONOTONICITY
from darkhaloscope.gates.monotonicity import monotonicity_finding
from darkhaloscope.stamps.measure import azimuthal_shuffle, radius_map
from darkhaloscope.stats import auroc, auroc_estimate, clustered_binomial

BRIEF_RING = (15.0, 20.0, 0.01)
"""The brief's ring: radius [pix], twice its squared width [pix^2], peak [nmgy]."""


def reliance_findings(
    pairs: PairArrays,
    predict: Predict,
    *,
    protocol: Protocol,
    seed: int,
    negatives: Float[np.ndarray, "row"] | None = None,
) -> Findings:
    """core_masked_drop and hardneg_auroc (v1), the core-swap gates and bright_arc_monotonicity (v2).

    negatives   scores of clean stamps without an arc that set the threshold; the pairs' own controls if None

    The model is asked six times for each pair. Pairs without an arc (sham) leave nothing to rely on: every
    gate is then NOT_EVALUATED.
    """
    if not (pairs.stamps != pairs.controls).any():
        return Findings(
            protocol.measure(name, None, n=len(pairs), detail="no pair holds an arc: nothing to detect")
            for name in ("core_masked_drop", "hardneg_auroc", *CORE_SWAP_GATES, MONOTONICITY)
        )
    full = predict(pairs.stamps, pairs.x_center, pairs.y_center)
    control = predict(pairs.controls, pairs.x_center, pairs.y_center)
    point = operating_point(control if negatives is None else negatives, protocol)
    return Findings(
        (
            _masked_drop(pairs, predict, full, control, protocol),
            _hard_negatives(pairs, predict, full, protocol, seed),
            *core_swap_findings(pairs, predict, full, point, protocol=protocol, seed=seed),
            monotonicity_finding(pairs, full, point, protocol=protocol, seed=seed),
        )
    )


def _masked_drop(
    pairs: PairArrays, predict: Predict, full: PerPair, control: PerPair, protocol: Protocol
) -> Finding:
    masked = predict(pairs.stamps, pairs.x_center, pairs.y_center, core_masked=True)
    masked_control = predict(pairs.controls, pairs.x_center, pairs.y_center, core_masked=True)

    def drop(rows: NDArray[np.bool_]) -> float:
        whole = auroc(full[rows], control)
        return (whole - auroc(masked[rows], masked_control)) / whole if whole > 0 else float("nan")

    bins = ", ".join(
        f"{label}: {drop(rows):.3f} (n={rows.sum()})"
        for label, rows in theta_e_bins(pairs, protocol)
        if rows.any()
    )
    everything = np.ones(len(pairs), dtype=bool)
    detail = f"by theta_E {bins}"
    return protocol.measure(
        "core_masked_drop", drop(everything), n=len(pairs), n_clusters=pairs.n_hosts, detail=detail
    )


def shuffled_negatives(pairs: PairArrays, *, seed: int) -> StampBatch:
    """The brief's hard negative HN0 of each pair: its control plus its arc, shuffled in azimuth."""
    out = np.empty_like(pairs.controls)
    for i, key in enumerate(pairs.keys):
        arc = pairs.stamps[i] - pairs.controls[i]
        rng = stream(seed, "gates/hard_negative", str(key))
        out[i] = pairs.controls[i] + azimuthal_shuffle(arc, rng, pairs.x_center[i], pairs.y_center[i])
    return out


def _hard_negatives(
    pairs: PairArrays, predict: Predict, full: PerPair, protocol: Protocol, seed: int
) -> Finding:
    shuffled = predict(shuffled_negatives(pairs, seed=seed), pairs.x_center, pairs.y_center)
    found = auroc_estimate(
        np.concatenate([full, shuffled]),
        np.repeat([1, 0], len(pairs)),
        np.concatenate([pairs.hosts, pairs.hosts]),
        seed=seed,
        n_boot=protocol.statistics.bootstrap,
    )
    return protocol.measure(
        "hardneg_auroc",
        found.value,
        n=len(pairs),
        n_clusters=pairs.n_hosts,
        interval=both_ends(found.low, found.high),
        detail="positives against their own azimuthal shuffle",
    )


def ring_on_anything(
    pairs: PairArrays,
    predict: Predict,
    point: OperatingPoint,
    *,
    seed: int,
    seeds: tuple[int, ...],
    manifests: tuple[str, ...],
    host_domain: HostDomain,
) -> tuple[Measured, ...]:
    """How often a control becomes a detection when a smooth ring is drawn on it: reported, without a bound.

    `ring_on_anything_sim_brief` draws the brief's ring, 0.01 nmgy exp(-(r - 15)^2 / 20) in every band;
    `ring_on_anything_sim_random` rings of random radius, width, colour and shape, of the same mean peak;
    `ring_on_anything_sim_none` is the same controls untouched.
    """
    rings: dict[str, Maker] = {
        "none": lambda some: some.controls,
        "brief": lambda some: some.controls + _brief_ring(some),
        "random": lambda some: some.controls + _random_rings(some, seed),
    }
    out = []
    for name, make in rings.items():
        hits = detected(pairs, predict, point, make)
        found = clustered_binomial(hits, pairs.hosts, method="clopper-pearson")
        out.append(
            Measured(
                name=f"ring_on_anything_sim_{name}",
                value=found.value,
                low=found.low,
                high=found.high,
                method=found.method,
                n=found.n,
                n_clusters=found.n_clusters,
                host_domain=host_domain,
                arc_domain=ArcDomain.NONE if name == "none" else ArcDomain.SIM,
                seeds=seeds,
                manifests=manifests,
                status=Status.PASS if point.enough else Status.NOT_EVALUATED,
                detail=point.text,
            )
        )
    return tuple(out)


def _brief_ring(pairs: PairArrays) -> StampBatch:
    radius_pix, twice_width2, peak = BRIEF_RING
    radius = radius_map(pairs.controls.shape, pairs.x_center, pairs.y_center)[:, None]
    return np.asarray(peak * np.exp(-((radius - radius_pix) ** 2) / twice_width2))


def _random_rings(pairs: PairArrays, seed: int) -> StampBatch:
    rings = np.empty_like(pairs.controls)
    lines, columns = np.mgrid[: rings.shape[-2], : rings.shape[-1]]
    for i, key in enumerate(pairs.keys):
        rng = stream(seed, "gates/ring", str(key))
        q, phi = rng.uniform(0.6, 1.0), rng.uniform(0.0, np.pi)
        dx, dy = columns - pairs.x_center[i], lines - pairs.y_center[i]
        along, across = dx * np.cos(phi) + dy * np.sin(phi), dy * np.cos(phi) - dx * np.sin(phi)
        radius = np.hypot(along * np.sqrt(q), across / np.sqrt(q))
        shape = np.exp(-0.5 * ((radius - rng.uniform(4.0, 20.0)) / rng.uniform(1.5, 4.0)) ** 2)
        rings[i] = BRIEF_RING[2] * rng.uniform(0.3, 1.7, size=(len(rings[i]), 1, 1)) * shape
    return rings
