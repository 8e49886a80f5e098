"""Gates on the data: does the core of a stamp tell the label, and is that more than the arc's own light?

An arc with a small Einstein radius has half its light within five pixels, so a probe of the core is allowed
to find something. What it must not find is anything on pairs without an arc (sham), or more than in arcs made
by code that shares nothing with ours (leakage excess). The brief's letter is computed beside it, as v1.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.contracts.checks import Finding, Findings
from darkhaloscope.contracts.protocol import Protocol
from darkhaloscope.contracts.random import stream
from darkhaloscope.gates.arrays import PairArrays, PerPair, StampBatch
from darkhaloscope.gates.probes import (
    Design,
    Features,
    ProbeResult,
    core_moments,
    core_pixels,
    letter_auc,
    probe_core,
)
from darkhaloscope.gates.whole_stamp import (
    TEXTURE,
    PixelSums,
    equivalent,
    pixel_check,
    pixel_shift,
    texture_moments,
)
from darkhaloscope.stamps.measure import letter_center
from darkhaloscope.stamps.preprocess import Preprocess, robust_normalize

_SHOWN_REPEATS = 3  # of a probe that is shown but cannot decide: another arm, or too few rows
_BATCH = 512  # stamps preprocessed at a time: 50 MB of pixels

Rows = NDArray[np.intp]
Look = Literal["linear", "nonlinear", "texture"]
"""What a probe is given: pixels of the core, moments of the core, moments of the whole stamp."""


@dataclass(frozen=True)
class _Bench:
    """What every probe of one run shares; features are made once for each set of pairs."""

    protocol: Protocol
    seed: int
    arms: dict[str, Preprocess]
    made: dict[tuple[PairArrays, Look, str], tuple[Features, Features]] = field(default_factory=dict)

    def features(self, pairs: PairArrays, kind: Look, arm: str) -> tuple[Features, Features]:
        """(with arc, without) of each pair."""
        key = (pairs, kind, arm)
        if key not in self.made:
            self.made[key] = (
                self._features(pairs, pairs.stamps, kind, arm),
                self._features(pairs, pairs.controls, kind, arm),
            )
        return self.made[key]

    def _features(self, pairs: PairArrays, pixels: StampBatch, kind: Look, arm: str) -> Features:
        batches = self.seen(pairs, pixels, np.arange(len(pairs)), arm)
        return np.concatenate([look_at(kind, *batch) for batch in batches])

    def seen(
        self, pairs: PairArrays, pixels: StampBatch, rows: Rows, arm: str = "asinh"
    ) -> Iterator[tuple[StampBatch, PerPair, PerPair]]:
        """Preprocessed stamps and their centres, a batch at a time."""
        for start in range(0, len(rows), _BATCH):
            at = rows[start : start + _BATCH]
            xc, yc = pairs.x_center[at], pairs.y_center[at]
            yield self.arms[arm].apply(pixels[at], xc, yc, where=pairs.where), xc, yc

    def probe(
        self,
        pairs: PairArrays,
        kind: Look,
        design: Design,
        *,
        arm: str = "asinh",
        null: bool = False,
        rows: Rows | None = None,
        needs: int = 0,
    ) -> ProbeResult | None:
        """Cross-validated AUROC, or None where the hosts are too few to fill the folds with both classes.

        null   put the controls in the place of the stamps: no arc at all
        rows   the pairs to use; all by default
        needs  pairs below which, or outside the deciding arm, fewer repeats will do
        """
        at = np.arange(len(pairs)) if rows is None else rows
        hosts = pairs.hosts[at]
        if len(set(hosts)) < 2 * self.protocol.leakage_probe.folds:
            return None
        stamps, controls = self.features(pairs, kind, arm)
        return probe_core(
            controls[at] if null else stamps[at],
            controls[at],
            hosts,
            kind="linear" if kind == "linear" else "nonlinear",
            design=design,
            protocol=self.protocol,
            seed=self.seed,
            purpose=f"gates/core {kind} {design}",
            repeats=_SHOWN_REPEATS if null or arm != "asinh" or len(at) < needs else None,
        )


def look_at(kind: Look, seen: StampBatch, xc: PerPair, yc: PerPair) -> Features:
    """Features of preprocessed stamps."""
    match kind:
        case "linear":
            return core_pixels(seen)
        case "nonlinear":
            return core_moments(seen, xc, yc)
        case "texture":
            return texture_moments(seen)


def leakage_findings(
    pairs: PairArrays,
    *,
    protocol: Protocol,
    seed: int,
    sham: PairArrays | None = None,
    trusted: PairArrays | None = None,
    asinh: Preprocess | None = None,
) -> Findings:
    """Every leakage gate of the protocol, and two probes of the whole stamp that are reported.

    pairs     stamps with arcs and their controls
    sham      the same pipeline with zero flux (its `stamps` should equal its `controls` bit for bit)
    trusted   arcs by an independent renderer in other hosts: the reference of the leakage excess
    asinh     the preprocessing in which v2 decides: the brief's clip at 5 sigma saturates cores, hiding leaks

    What cannot be evaluated is NOT_EVALUATED with the rows it needs. About 20 s on one core for 1,000 pairs.
    """
    bench = _Bench(protocol, seed, {"asinh": asinh or Preprocess(kind="asinh"), "robust": Preprocess()})
    return Findings(
        (
            _letter(bench, pairs),
            *_grouped(bench, pairs),
            *_unpaired(bench, pairs),
            _control_identity(bench, sham),
            _sham(bench, sham, "linear"),
            _sham(bench, sham, "nonlinear"),
            _sham_texture(bench, sham),
            _sham_pixels(bench, sham),
            _excess(bench, pairs, trusted),
            _low_overlap(bench, pairs, trusted),
        )
    )


def _letter(bench: _Bench, pairs: PairArrays) -> Finding:
    """v1: robust clip 5 around the brief's centre, folds that ignore hosts."""
    name = "core_lr_auc"
    if len(pairs) < bench.protocol.gate(name).needs_n:
        return bench.protocol.measure(name, None, n=len(pairs), detail="fewer pairs than folds")
    stamps, controls = _brief(pairs.stamps), _brief(pairs.controls)
    value, null = letter_auc(stamps, controls), letter_auc(controls, controls)
    detail = f"sham value on the same rows {null:.3f}"
    limit = bench.protocol.gate(name).warn_below
    if limit is not None and value < limit:
        detail = f"invalid_null: on paired rows its null is not .5; {detail}"
    return bench.protocol.measure(name, value, n=len(pairs), n_clusters=pairs.n_hosts, detail=detail)


def _brief(pixels: StampBatch) -> Features:
    height, width = pixels.shape[-2:]
    parts = [pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH)]
    centre = letter_center(width), letter_center(height)
    return np.concatenate([core_pixels(robust_normalize(part, *centre)) for part in parts])


def _grouped(bench: _Bench, pairs: PairArrays) -> tuple[Finding, Finding]:
    name, note = "core_lr_auc_grouped", "sham value .500 (identical pairs in one fold)"
    found = [bench.probe(pairs, "linear", "paired", arm=arm) for arm in ("asinh", "robust")]
    deciding, shown = (_report(bench, name, result, len(pairs), note) for result in found)
    return deciding, _reported_only(shown, "robust")


def _unpaired(bench: _Bench, pairs: PairArrays) -> tuple[Finding, Finding]:
    name, note = "core_lr_auc_unpaired", ""
    found = [bench.probe(pairs, "linear", "unpaired", arm=arm) for arm in ("asinh", "robust")]
    null = bench.probe(pairs, "linear", "unpaired", null=True)
    if null is not None:
        note = f"{null.n} rows per class; sham value on the same rows {null.auc:.3f}"
    deciding, shown = (_report(bench, name, result, len(pairs), note) for result in found)
    return deciding, _reported_only(shown, "robust")


def _report(bench: _Bench, name: str, found: ProbeResult | None, n: int, note: str) -> Finding:
    if found is None:
        return bench.protocol.measure(name, None, n=n, detail="fewer hosts than the folds need")
    return bench.protocol.measure(
        name, found.auc, n=n, interval=found.interval, n_clusters=found.n_clusters, detail=note
    )


def _reported_only(finding: Finding, arm: str) -> Finding:
    """The same probe through another preprocessing: shown beside the one that decides."""
    return finding.model_copy(update={"name": f"{finding.name}_{arm}", "decides": False})


def _control_identity(bench: _Bench, sham: PairArrays | None) -> Finding:
    name = "control_identity"
    if sham is None:
        return bench.protocol.measure(name, None, n=0, detail="no sham injections were given")
    differs = (sham.stamps != sham.controls).any(axis=(1, 2, 3))
    examples = tuple(str(key) for key in sham.keys[differs][:3])
    return bench.protocol.measure(name, float(differs.sum()), n=len(sham), examples=examples)


def _sham(bench: _Bench, sham: PairArrays | None, kind: Literal["linear", "nonlinear"]) -> Finding:
    name = "sham_core_lr_auc" if kind == "linear" else "sham_core_nl_auc"
    if sham is None:
        return bench.protocol.measure(name, None, n=0, detail="no sham injections were given")
    needs = 2 * bench.protocol.gate(name).needs_n  # pairs: half of the hosts serve each class
    found = bench.probe(sham, kind, "unpaired", needs=needs)
    if found is None:
        return _report(bench, name, None, len(sham), "")
    return _report(bench, name, found, found.n, f"{_shown(found)} of each class, on disjoint hosts")


def _sham_texture(bench: _Bench, sham: PairArrays | None) -> Finding:
    """Rings, noise and extremes of the whole stamp: shown, and decides nothing."""
    if sham is None:
        return TEXTURE.measure(None, n=0, detail="no sham injections were given")
    found = bench.probe(sham, "texture", "unpaired", needs=2 * TEXTURE.needs_n)
    return equivalent(TEXTURE, found, n=len(sham), detail="reported until the protocol names it")


def _sham_pixels(bench: _Bench, sham: PairArrays | None) -> Finding:
    """Every pixel's mean, of a random half of the hosts as stamps and the other half as controls."""
    if sham is None:
        return pixel_check(1).measure(None, n=0, detail="no sham injections were given")
    check = pixel_check(int(np.prod(sham.stamps.shape[1:])))
    names, member = np.unique(sham.hosts, return_inverse=True)
    place = stream(bench.seed, "gates/pixels", "halves").permutation(len(names))[member]
    halves = np.flatnonzero(place % 2 == 0), np.flatnonzero(place % 2 == 1)
    n = min(map(len, halves))
    if n < check.needs_n:
        return check.measure(None, n=n, detail="rows of the smaller class")
    positives, negatives = (
        PixelSums.of(seen for seen, _, _ in bench.seen(sham, pixels, rows))
        for pixels, rows in zip((sham.stamps, sham.controls), halves, strict=True)
    )
    value, where = pixel_shift(positives, negatives)
    return check.measure(value, n=n, n_clusters=len(names), detail=f"most in {where}")


_Part = tuple[PairArrays, Rows]


def _excess(bench: _Bench, pairs: PairArrays, trusted: PairArrays | None) -> Finding:
    """E_core: the non-linear probe on our arcs less the same probe on arcs by an independent renderer."""

    def everything(part: PairArrays) -> _Part:
        return part, np.arange(len(part))

    other = None if trusted is None else everything(trusted)
    return _difference(bench, "leakage_excess", everything(pairs), other)


def _low_overlap(bench: _Bench, pairs: PairArrays, trusted: PairArrays | None) -> Finding:
    """The same difference where the arc has hardly any light in the core."""

    def stratum(part: PairArrays) -> _Part:
        return part, np.flatnonzero(part.kappa < bench.protocol.leakage_probe.low_overlap_kappa)

    other = None if trusted is None else stratum(trusted)
    return _difference(bench, "low_overlap_excess", stratum(pairs), other)


def _difference(bench: _Bench, name: str, ours: _Part, trusted: _Part | None) -> Finding:
    """At equal n; the two samples share no host, so their errors add in quadrature."""
    pairs, rows = ours
    if trusted is None:
        alone = bench.probe(pairs, "nonlinear", "paired", rows=rows, needs=len(rows) + 1)
        reason = f"no arcs by an independent renderer in independent hosts were given; ours {_shown(alone)}"
        return bench.protocol.measure(name, None, n=len(rows), detail=reason)
    n = min(len(rows), len(trusted[1]))
    first = bench.probe(pairs, "nonlinear", "paired", rows=rows[:n])
    second = bench.probe(trusted[0], "nonlinear", "paired", rows=trusted[1][:n])
    detail = f"ours {_shown(first)}, independent arcs {_shown(second)}"
    if first is None or second is None:
        return bench.protocol.measure(name, None, n=n, detail=detail)
    excess = first.auc - second.auc
    below = float(np.hypot(first.auc - first.interval[0], second.interval[1] - second.auc))
    over = float(np.hypot(first.interval[1] - first.auc, second.auc - second.interval[0]))
    return bench.protocol.measure(name, excess, n=n, interval=(excess - below, excess + over), detail=detail)


def _shown(result: ProbeResult | None) -> str:
    if result is None:
        return "on too few hosts"
    return f"{result.auc:.3f} [{result.interval[0]:.3f}, {result.interval[1]:.3f}] on {result.n} rows"
