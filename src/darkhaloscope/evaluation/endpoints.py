"""What is compared between arms: the endpoints of one network, as functions of how often each group counts.

Endpoints that are made of the same rows stand in one `Panel`; where a threshold comes from:

    arcs          test arcs against test negatives: auroc_synth; tpr_at_fpr_…_synth, whose threshold is set
                  on the test negatives, anew in each replicate; auroc_synth_core_masked and
                  core_masked_drop_synth, the core (r < 5 px) hidden; calibration_ece_synth
    detections    detection_at_fpr_…_sim: test arcs, one of each host, above the threshold that the network's
                  own calib negatives set; they are resampled too, so the threshold's error is in it
    look-alikes   contaminant_fpr_…, by class above the protocol's probabilities: no threshold is set
    anchors       anchor_recall_at_…: anchors among the k best of the test negatives

Names of mock contaminants and anchors begin with `mock_`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.measured import ArcDomain, HostDomain
from darkhaloscope.contracts.protocol import Protocol
from darkhaloscope.evaluation.metrics import fpr_name
from darkhaloscope.evaluation.samples import (
    Sample,
    Text,
    Vector,
    host_domain,
    negatives,
    positives,
    sample_of,
    scored,
)
from darkhaloscope.stats import Auroc, ByCounts, EceReplicates, RocMeasure, TprAtFpr, roc_by_counts


@dataclass(frozen=True)
class Network:
    """Scores of one trained network.

    test, calib, lookalikes   SCORES of a split, and of contaminants, mock anchors and known lenses
    manifests                 of the scores of the splits, and of the look-alikes
    """

    seed: int
    test: pa.Table
    calib: pa.Table
    lookalikes: pa.Table
    manifests: tuple[str, ...]
    lookalike_manifests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Endpoint:
    """One number.

    least              the least difference that counts, by the protocol; None where it states none
    higher_is_better   which way is good
    """

    name: str
    least: float | None
    higher_is_better: bool
    arc: ArcDomain


@dataclass(frozen=True, eq=False)
class Panel:
    """Endpoints that are made of the same rows of one network.

    lacks     for each endpoint why these rows do not define it; empty if they do
    groups    of the rows, each once, sorted
    make      the values as a function of how often each group of a sorted superset of `groups` counts
    hits, at  of shares at fixed thresholds: (endpoint, row), and each row's place in `groups`
    """

    endpoints: tuple[Endpoint, ...]
    lacks: tuple[str, ...]
    groups: Text
    n: int
    host: HostDomain
    make: Callable[[Text], ByCounts]
    manifests: tuple[str, ...]
    detail: str = ""
    hits: NDArray[np.bool_] | None = None
    at: NDArray[np.intp] | None = None


def common_rate(calibs: Iterator[pa.Table], protocol: Protocol) -> float | None:
    """The lowest of the protocol's false-positive rates that the negatives of every calib split can set."""
    fewest = min((len(negatives(rows)) for rows in calibs), default=0)
    rules = protocol.operating_points
    return min((fpr for fpr in rules.fpr if fewest >= rules.negatives_needed(fpr)), default=None)


def panels(network: Network, protocol: Protocol, rate: float | None) -> dict[str, Panel]:
    """All endpoints of a network by the name of their panel; `rate` is that of the detections.

    Raises DataError for a test split without arcs or without negatives.
    """
    pos, neg = positives(network.test), negatives(network.test)
    if not len(pos) or not len(neg):
        raise DataError("scores", f"hold {len(pos)} simulated arcs and {len(neg)} negatives; both are needed")
    found = {"arcs": _arcs(network, pos, neg, protocol), "detections": _detections(network, protocol, rate)}
    return found | dict(_contaminants(network, protocol)) | dict(_anchors(network, neg, protocol))


def _places(universe: Text, *groups: Text) -> NDArray[np.intp]:
    return np.searchsorted(universe, np.concatenate(groups))


# --- arcs ------------------------------------------------------------------------------------------------


def core_hidden(rows: pa.Table) -> pa.Table:
    """SCORES whose scores are those with the core hidden."""
    for view in ("score", "score_ctrl"):
        place = rows.schema.get_field_index(view)
        rows = rows.set_column(place, view, rows.column(f"{view}_core_masked"))
    return rows


def _arcs(network: Network, pos: Sample, neg: Sample, protocol: Protocol) -> Panel:
    rules, recall = protocol.operating_points, protocol.significance.recall
    scores, groups = np.concatenate([pos.score, neg.score]), np.concatenate([pos.group, neg.group])
    labels = np.repeat([1.0, 0.0], [len(pos), len(neg)])
    masked = core_hidden(network.test)
    hidden_pos, hidden_neg = positives(masked), negatives(masked)
    hidden = np.concatenate([hidden_pos.score, hidden_neg.score])
    unseen = "" if (len(hidden_pos), len(hidden_neg)) == (len(pos), len(neg)) else "rows lack the hidden view"
    measures: list[RocMeasure] = [Auroc(), *(TprAtFpr(fpr) for fpr in rules.fpr)]
    endpoints, lacks = [Endpoint("auroc_synth", recall, True, ArcDomain.SIM)], [""]
    for fpr in rules.fpr:
        needs = rules.negatives_needed(fpr)
        endpoints.append(Endpoint(f"tpr_at_fpr_{fpr_name(fpr)}_synth", recall, True, ArcDomain.SIM))
        lacks.append(f"{len(neg)} negatives, needs {needs}" if len(neg) < needs else "")
    endpoints += [
        Endpoint("auroc_synth_core_masked", recall, True, ArcDomain.SIM),
        Endpoint("core_masked_drop_synth", None, False, ArcDomain.SIM),
        Endpoint("calibration_ece_synth", None, False, ArcDomain.SIM),
    ]

    def make(universe: Text) -> ByCounts:
        at = _places(universe, groups)
        full = roc_by_counts(scores, labels, at, measures)
        errors, present = EceReplicates(scores, labels, at, protocol.calibration.bins), np.unique(at)
        core = roc_by_counts(hidden, labels, at, [Auroc()]) if not unseen else lambda _: np.array([np.nan])

        def of(counts: NDArray[np.int32]) -> Vector:
            seen, masked = full(counts), core(counts)
            return np.concatenate([seen, masked, 1 - masked / seen[:1], errors.of(counts[present])[:1]])

        return of

    return Panel(
        endpoints=tuple(endpoints),
        lacks=(*lacks, unseen, unseen, ""),
        groups=np.unique(groups),
        n=len(scores),
        host=host_domain(pos, neg),
        make=make,
        manifests=network.manifests,
        detail=f"{len(pos)} arcs, {len(neg)} negatives",
    )


def one_per_host(rows: pa.Table) -> Sample:
    """Test arcs, the first of each host by `row_id`."""
    arcs = positives(rows.sort_by("row_id"))
    return arcs.take(np.sort(np.unique(arcs.host, return_index=True)[1]))


def _detections(network: Network, protocol: Protocol, rate: float | None) -> Panel:
    """`stats.TprAtFpr` with the calib negatives for negatives is recall above the threshold that they set."""
    single, calib = one_per_host(network.test), negatives(network.calib)
    fpr = max(protocol.operating_points.fpr) if rate is None else rate
    needs = protocol.operating_points.negatives_needed(fpr)
    name = f"detection_at_fpr_{fpr_name(fpr)}_sim"

    def make(universe: Text) -> ByCounts:
        return roc_by_counts(
            np.concatenate([single.score, calib.score]),
            np.repeat([1.0, 0.0], [len(single), len(calib)]),
            _places(universe, single.group, calib.group),
            [TprAtFpr(fpr)],
        )

    return Panel(
        endpoints=(Endpoint(name, protocol.significance.recall, True, ArcDomain.SIM),),
        lacks=("" if rate is not None else f"{len(calib)} calib negatives, needs {needs}",),
        groups=np.unique(np.concatenate([single.group, calib.group])),
        n=len(single),
        host=host_domain(single),
        make=make,
        manifests=network.manifests,
        detail=f"one arc of each of {len(single)} hosts, {len(calib)} calib negatives",
    )


# --- look-alikes -----------------------------------------------------------------------------------------


def _contaminants(network: Network, protocol: Protocol) -> Iterator[tuple[str, Panel]]:
    kept, rules = scored(network.lookalikes), protocol.contaminants
    kept = kept.filter(
        pc.and_(pc.equal(kept.column("kind"), "contaminant"), pc.is_null(kept.column("arc_domain")))
    )
    category, everything = np.asarray(kept.column("category").to_pylist(), dtype=object), sample_of(kept)
    for name, least in rules.minima.items():
        part = everything.take(category == name)
        for domain in sorted(set(part.host_domain)) or [HostDomain.SIM.value]:
            own = part.take(part.host_domain == domain)
            lacks = f"{len(own)} of category {name}, needs {least}" if len(own) < least else ""
            yield (
                f"{domain} {name}",
                _contaminant(network, name, own, HostDomain(domain), protocol, lacks=lacks),
            )


def _contaminant(
    network: Network, category: str, part: Sample, domain: HostDomain, protocol: Protocol, *, lacks: str
) -> Panel:
    prefix = "" if domain is HostDomain.REAL else "mock_"
    at = protocol.contaminants.thresholds
    hits = np.array([part.score > p for p in at])
    groups, place_of = np.unique(part.group, return_inverse=True)

    def make(universe: Text) -> ByCounts:
        place = _places(universe, part.group)

        def of(counts: NDArray[np.int32]) -> Vector:
            weight = counts.take(place)
            return np.asarray(hits @ weight / weight.sum() if weight.any() else np.full(len(at), np.nan))

        return of

    fpr = protocol.significance.fpr
    names = [f"{prefix}contaminant_fpr_{category}_p{round(100 * p)}" for p in at]
    return Panel(
        endpoints=tuple(Endpoint(name, fpr, False, ArcDomain.NONE) for name in names),
        lacks=(lacks,) * len(at),
        groups=groups,
        n=len(part),
        host=domain,
        make=make,
        manifests=network.lookalike_manifests or network.manifests,
        hits=hits,
        at=place_of,
    )


def _anchors(network: Network, pool: Sample, protocol: Protocol) -> Iterator[tuple[str, Panel]]:
    rules, kept = protocol.anchor_recall, scored(network.lookalikes)
    for arc in (ArcDomain.REAL, ArcDomain.NATURE):
        wanted = pc.fill_null(pc.equal(kept.column("arc_domain"), arc.value), fill_value=False)
        anchors = sample_of(kept.filter(wanted))
        anchors = anchors.take(~(anchors.columns["theta_e_arcsec"] < rules.theta_e_min_arcsec))
        if not len(anchors):
            continue
        # Real lenses are ranked among real galaxies only: a place among simulated ones is no measurement.
        real = pool.host_domain == HostDomain.REAL.value
        yield (
            f"{arc} anchors",
            _recall(network, anchors, pool.take(real) if arc is ArcDomain.REAL else pool, arc, protocol),
        )


def _recall(network: Network, anchors: Sample, pool: Sample, arc: ArcDomain, protocol: Protocol) -> Panel:
    rules = protocol.anchor_recall
    lacks = [f"pool {len(pool)}, needs {rules.pool_min}"] if len(pool) < rules.pool_min else []
    lacks += (
        [f"{len(anchors)} anchors, needs {rules.anchors_min}"] if len(anchors) < rules.anchors_min else []
    )
    prefix = "anchor" if arc is ArcDomain.REAL else "mock_anchor"
    names = [f"{prefix}_recall_at_{k}" for k in rules.k]
    return Panel(
        endpoints=tuple(Endpoint(name, protocol.significance.recall, True, arc) for name in names),
        lacks=(", ".join(lacks),) * len(names),
        groups=np.unique(np.concatenate([anchors.group, pool.group])),
        n=len(anchors),
        host=host_domain(anchors),
        make=lambda universe: recall_by_counts(anchors, pool, rules.k, universe),
        manifests=(*network.lookalike_manifests, *network.manifests),
        detail=f"{len(anchors)} anchors among {len(pool)}",
    )


def recall_by_counts(anchors: Sample, pool: Sample, depths: tuple[int, ...], universe: Text) -> ByCounts:
    """Share of anchors among the k best of a pool and the anchors, in a replicate that repeats both.

    An anchor that is drawn w times takes w places, one after the other; the pool's rows of equal score are
    below it.
    """
    order, pool_order = np.argsort(-anchors.score, kind="stable"), np.argsort(-pool.score, kind="stable")
    higher = np.searchsorted(-pool.score[pool_order], -anchors.score[order], side="left")
    own, theirs = (
        _places(universe, anchors.group)[order],
        _places(universe, pool.group)[pool_order],
    )

    def of(counts: NDArray[np.int32]) -> Vector:
        weight = counts.take(own).astype(np.int64)
        above = np.r_[0, np.cumsum(counts.take(theirs), dtype=np.int64)][higher]
        before = above + np.cumsum(weight) - weight
        total = weight.sum()
        if not total:
            return np.full(len(depths), np.nan)
        return np.array([np.clip(k - before, 0, weight).sum() / total for k in depths])

    return of
