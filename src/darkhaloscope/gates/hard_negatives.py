"""Hard negatives: whether their texture gives them away, and how often a model takes one for a lens.

A negative that differs from a galaxy by its texture teaches texture. So each kind is first looked at by a
probe that sees nothing but texture between 5 and 14 px, of the negatives against untouched controls: what
lies at frequencies that the PSF does not pass. The light of an arc leaves its photon noise there, so what the
probe finds of arcs themselves is told beside it. A kind above .60 fails and is labelled so wherever its
figures stand.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.measured import ArcDomain, HostDomain, Measured
from darkhaloscope.contracts.protocol import Protocol
from darkhaloscope.gates.arrays import PairArrays, PerPair, StampBatch
from darkhaloscope.gates.detection import OperatingPoint, Predict
from darkhaloscope.gates.probes import Features, ProbeResult, probe_core
from darkhaloscope.stamps.measure import OUTER_RADIUS_PIX, radius_map
from darkhaloscope.stats import Estimate, auroc_estimate, clustered_binomial, tpr_at_fpr

ARTEFACT_BOUND = 0.60
"""A probe of texture must not tell a hard negative from a control better than this (AUROC)."""

ARTEFACT_PAIRS = 300
"""Pairs below which the probe decides nothing: its AUROC scatters by .05 there."""

LEAST_PAIRS = 20
"""Pairs below which nothing is told of a kind."""

WITHIN_FPR = 0.1
"""Share of the hard negatives above the threshold at which recall among them is told."""

_FIGURES = ("artefact_auc", "auroc", "tpr_at_fpr_01", "fpr")
_RING_PIX = (5.0, 14.0)
_LAGS_PIX = (1, 2, 3)
_PASSED = 0.35
_REPEATS = 3
_CROSS = "cross-validation by host"
_TINY = 1e-12


def artefact_features(stamps: StampBatch) -> Features:
    """Texture between 5 and 14 px: what lies beyond .35 cycles per pixel, (row, 15 for three bands).

    A PSF with a FWHM of four pixels passes a ten-thousandth there: light that the PSF has seen leaves nothing
    but its photon noise. Per band: log variance over that of the sky beyond 20 px, and correlation of pixels
    1, 2 and 3 apart; and the correlation of each two bands. Rings are around the middle of the stamp.
    """
    radius = radius_map(stamps.shape)
    ring, sky = (radius >= _RING_PIX[0]) & (radius < _RING_PIX[1]), radius > OUTER_RADIUS_PIX
    fine = _fine(stamps)
    inside = fine[..., ring]
    power = (inside**2).mean(axis=-1)
    quiet = np.median(fine[..., sky] ** 2, axis=-1)
    parts = [np.log((power + _TINY * quiet + _TINY) / (quiet + _TINY))]
    parts += [_neighbours(fine, ring, lag) / (power + _TINY) for lag in _LAGS_PIX]
    bands = [
        (inside[:, a] * inside[:, b]).mean(axis=-1) / np.sqrt(power[:, a] * power[:, b] + _TINY**2)
        for a, b in combinations(range(stamps.shape[1]), 2)
    ]
    return np.concatenate([*parts, np.stack(bands, axis=1)], axis=1)


def _fine(stamps: StampBatch) -> NDArray[np.float64]:
    """What a stamp holds beyond the frequencies that a PSF passes, in units of its own noise."""
    height, width = stamps.shape[-2:]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    kept = np.fft.rfft2(stamps.astype(np.float64)) * (frequency > _PASSED)
    fine = np.fft.irfft2(kept, s=(height, width))
    scale = np.median(np.abs(fine), axis=(-2, -1), keepdims=True)
    return np.asarray(fine / np.maximum(scale, np.finfo(np.float32).tiny))


def _neighbours(fine: NDArray[np.float64], where: NDArray[np.bool_], lag: int) -> NDArray[np.float64]:
    """Mean product of pixels `lag` apart in x and in y, both of them within the ring; (row, band)."""
    across = (fine[..., lag:] * fine[..., :-lag])[..., where[:, lag:] & where[:, :-lag]]
    down = (fine[..., lag:, :] * fine[..., :-lag, :])[..., where[lag:] & where[:-lag]]
    return np.asarray((across.mean(axis=-1) + down.mean(axis=-1)) / 2)


def artefact_probe(
    stamps: StampBatch, pairs: PairArrays, *, protocol: Protocol, seed: int, kind: str
) -> ProbeResult | None:
    """AUROC of texture between some stamps and the controls of the same pairs; None with too few hosts."""
    if pairs.n_hosts < 2 * protocol.leakage_probe.folds:
        return None
    return probe_core(
        artefact_features(stamps),
        artefact_features(pairs.controls),
        pairs.hosts,
        kind="nonlinear",
        design="paired",
        protocol=protocol,
        seed=seed,
        purpose=f"gates/artefacts {kind}",
        repeats=_REPEATS,
        confidence=protocol.statistics.confidence,
    )


@dataclass(frozen=True)
class Source:
    """What the figures of a suite carry: seeds, manifests, and what the hosts are."""

    seeds: tuple[int, ...]
    manifests: tuple[str, ...]
    host_domain: HostDomain


@dataclass(frozen=True, eq=False)
class HardSuite:
    """Figures of every kind of hard negative on one model.

    pairs     arcs and their controls
    hard      by kind: rows of `pairs` that have one, and its stamps
    point     the survey's threshold, or None where there are too few negatives to set one
    """

    pairs: PairArrays
    hard: Mapping[str, tuple[NDArray[np.intp], StampBatch]]
    predict: Predict
    point: OperatingPoint | None
    protocol: Protocol
    seed: int
    source: Source

    def measured(self) -> tuple[Measured, ...]:
        """For each kind: artefact probe, AUROC, recall among them, and false positives at the threshold.

        Named hardneg_sim_KIND_artefact_auc, …_auroc, …_tpr_at_fpr_01, …_fpr.
        """
        found: list[Measured] = []
        for kind, (rows, stamps) in self.hard.items():
            found += self._of_kind(kind, rows, stamps) if len(rows) >= LEAST_PAIRS else self._few(kind, rows)
        return tuple(found)

    def _few(self, kind: str, rows: NDArray[np.intp]) -> list[Measured]:
        nothing = Estimate(None, None, None, len(rows), self.pairs.take(rows).n_hosts, "none")
        reason = f"{len(rows)} pairs; at least {LEAST_PAIRS} are needed"
        return [self._figure(f"{kind}_{name}", nothing, reason) for name in _FIGURES]

    @cached_property
    def _arc_scores(self) -> PerPair:
        return np.asarray(self.predict(self.pairs.stamps, self.pairs.x_center, self.pairs.y_center))

    def _of_kind(self, kind: str, rows: NDArray[np.intp], stamps: StampBatch) -> list[Measured]:
        some = self.pairs.take(rows)
        artefact = self._artefact(kind, some, stamps)
        label = f"{kind} fails its artefact probe" if artefact.status is Status.FAIL else ""
        arcs = self._arc_scores[rows]
        scores = np.asarray(self.predict(stamps, some.x_center, some.y_center))
        auroc = auroc_estimate(
            np.concatenate([arcs, scores]),
            np.repeat([1, 0], len(rows)),
            np.concatenate([some.hosts, some.hosts]),
            seed=self.seed,
            n_boot=self.protocol.statistics.bootstrap,
        )
        recall = tpr_at_fpr(
            arcs, scores, WITHIN_FPR, some.hosts, some.hosts,
            seed=self.seed, n_boot=self.protocol.statistics.bootstrap,
        )  # fmt: skip
        return [
            artefact,
            self._figure(f"{kind}_auroc", auroc, label),
            self._figure(f"{kind}_tpr_at_fpr_01", recall, label),
            self._taken_for_lenses(kind, some, scores, label),
        ]

    def _artefact(self, kind: str, some: PairArrays, stamps: StampBatch) -> Measured:
        found = artefact_probe(stamps, some, protocol=self.protocol, seed=self.seed, kind=kind)
        arcs = artefact_probe(some.stamps, some, protocol=self.protocol, seed=self.seed, kind="arcs")
        if found is None or arcs is None:
            nothing = Estimate(None, None, None, len(some), some.n_hosts, _CROSS)
            return self._figure(f"{kind}_artefact_auc", nothing, "fewer hosts than the folds need")
        estimate = Estimate(found.auc, *found.interval, found.n, found.n_clusters, _CROSS)
        verdict = Status.PASS if found.auc <= ARTEFACT_BOUND else Status.FAIL
        if len(some) < ARTEFACT_PAIRS:
            verdict = Status.NOT_EVALUATED
        detail = f"must not exceed {ARTEFACT_BOUND:g}; arcs against the same controls {arcs.auc:.3f}"
        if verdict is Status.NOT_EVALUATED:
            detail += f"; {len(some)} of the {ARTEFACT_PAIRS} pairs it needs"
        return self._figure(f"{kind}_artefact_auc", estimate, detail, verdict)

    def _taken_for_lenses(self, kind: str, some: PairArrays, scores: PerPair, label: str) -> Measured:
        name = f"{kind}_fpr"
        if self.point is None:
            nothing = Estimate(None, None, None, len(some), some.n_hosts, "clopper-pearson")
            return self._figure(name, nothing, "too few negatives to set a threshold")
        hits = scores > self.point.threshold
        found = clustered_binomial(hits, some.hosts, method="clopper-pearson")
        status = Status.PASS if self.point.enough else Status.NOT_EVALUATED
        detail = "; ".join(part for part in (label, self.point.text) if part)
        return self._figure(name, found, detail, status)

    def _figure(self, name: str, found: Estimate, detail: str = "", status: Status = Status.PASS) -> Measured:
        return Measured(
            name=f"hardneg_sim_{name}",
            value=found.value,
            low=found.low,
            high=found.high,
            method=found.method,
            n=found.n,
            n_clusters=found.n_clusters,
            host_domain=self.source.host_domain,
            arc_domain=ArcDomain.SIM,
            seeds=self.source.seeds,
            manifests=self.source.manifests,
            status=Status.NOT_EVALUATED if found.value is None else status,
            detail="; ".join(part for part in (detail, found.detail) if part),
        )
