"""The protocol's metrics on rows of SCORES: each a `Measured` with interval, n, domain and manifest.

`evaluation.samples` says who is a positive, a negative, a contaminant, an anchor. Metrics of simulated arcs
carry `_synth` or `_sim` in their name; those of mock anchors and contaminants begin with `mock_`.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from darkhaloscope.contracts.checks import Findings
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.measured import ArcDomain, HostDomain, Measured
from darkhaloscope.contracts.protocol import Protocol, Strata
from darkhaloscope.contracts.random import stream
from darkhaloscope.evaluation.calibration import ece_as_stated
from darkhaloscope.evaluation.recovery import BINS, OF_THE_IMAGING
from darkhaloscope.evaluation.samples import (
    Run,
    Sample,
    Vector,
    host_domain,
    labelled,
    negatives,
    positives,
    sample_of,
    scored,
)
from darkhaloscope.stats import (
    Estimate,
    auroc_estimate,
    binomial,
    precision_at_recall,
    tpr_at_fpr,
    win_rate,
)

# --- simulated arcs --------------------------------------------------------------------------------------


def synth_metrics(rows: pa.Table, run: Run) -> tuple[Measured, ...]:
    """AUROC, TPR at each operating point, precision at recall, calibration, win rate, AUROC by stratum."""
    pos, neg = positives(rows), negatives(rows)
    if not len(pos) or not len(neg):
        raise DataError("scores", f"hold {len(pos)} simulated arcs and {len(neg)} negatives; both are needed")
    host = host_domain(pos, neg)
    out = [_auroc("auroc_synth", pos, neg, run)]
    if host is HostDomain.MIXED:
        for domain in sorted({*pos.host_domain, *neg.host_domain}):
            ours, theirs = (sample.take(sample.host_domain == domain) for sample in (pos, neg))
            out.append(_stratum(f"auroc_synth_{domain}_hosts", ours, theirs, run, HostDomain(domain)))
    out += [_tpr(fpr, pos, neg, run, host) for fpr in run.protocol.operating_points.fpr]
    out += [_precision(pos, neg, run, host), *ece_as_stated(pos, neg, run), _win_rate(pos, run)]
    return (*out, *_strata(pos, neg, run))


def _auroc(name: str, pos: Sample, neg: Sample, run: Run) -> Measured:
    found = auroc_estimate(*labelled(pos, neg), seed=run.seed, n_boot=run.protocol.statistics.bootstrap)
    detail = f"{len(pos)} arcs, {len(neg)} negatives"
    return run.measured(name, found, host_domain(pos, neg), ArcDomain.SIM, detail=detail)


def fpr_name(fpr: float) -> str:
    """The brief's way to spell a rate in a name: 0.01 is 001."""
    return f"{fpr:f}".rstrip("0").replace(".", "")


def _tpr(fpr: float, pos: Sample, neg: Sample, run: Run, host: HostDomain) -> Measured:
    found = tpr_at_fpr(
        pos.score,
        neg.score,
        fpr,
        pos.group,
        neg.group,
        seed=run.seed,
        n_boot=run.protocol.statistics.bootstrap,
    )
    needs = run.protocol.operating_points.negatives_needed(fpr)
    withheld = f"{len(neg)} negatives, needs {needs}" if len(neg) < needs else ""
    return run.measured(f"tpr_at_fpr_{fpr_name(fpr)}_synth", found, host, ArcDomain.SIM, withheld=withheld)


def _precision(pos: Sample, neg: Sample, run: Run, host: HostDomain) -> Measured:
    recall, boots = run.protocol.precision_at_recall.recall, run.protocol.statistics.bootstrap
    scores, labels, groups = labelled(pos, neg)
    found = precision_at_recall(scores, labels, recall, groups, seed=run.seed, n_boot=boots)
    detail = f"at the prevalence of these rows, {labels.mean():.3g}"
    name = f"precision_at_recall_{round(100 * recall)}_synth"
    return run.measured(name, found, host, ArcDomain.SIM, detail=detail)


def _win_rate(pos: Sample, run: Run) -> Measured:
    """One pair of each host: the interval is a binomial one."""
    control = pos.columns["score_ctrl"]
    paired = pos.take(np.isfinite(control))
    _, first = np.unique(paired.host, return_index=True)
    single = paired.take(first)
    found = win_rate(
        single.score, single.columns["score_ctrl"], confidence=run.protocol.statistics.confidence
    )
    detail = "share of arcs that score above their own control, one pair of each host"
    return run.measured("win_rate_synth", found, host_domain(pos), ArcDomain.SIM, detail=detail)


def strata_of(protocol: Protocol) -> dict[str, Strata]:
    """The protocol's bins, and ours of depth and of the matched filter's S/N."""
    return dict(protocol.strata) | {name: BINS[name] for name in ("arc_snr_mf", "depth_r_mag")}


def _strata(pos: Sample, neg: Sample, run: Run) -> list[Measured]:
    """AUROC by bins. Seeing and depth cut the negatives too; what only an arc has does not."""
    host = host_domain(pos, neg)
    out = []
    for name, strata in strata_of(run.protocol).items():
        where_pos, where_neg = strata.assign(pos.columns[name]), strata.assign(neg.columns[name])
        for i, label in enumerate(strata.labels):
            part = pos.take(where_pos == i)
            against = neg.take(where_neg == i) if name in OF_THE_IMAGING else neg
            if len(part) or len(against) != len(neg):
                out.append(_stratum(f"auroc_synth {name} {label}", part, against, run, host))
    return out


def _stratum(name: str, pos: Sample, neg: Sample, run: Run, host: HostDomain) -> Measured:
    """AUROC of a part of the rows; `host` is the domain of all of them, for a part that is empty."""
    if len(pos) and len(neg):
        return _auroc(name, pos, neg, run)
    empty = Estimate(None, None, None, len(pos), 0, "none", f"{len(pos)} arcs and {len(neg)} negatives")
    found = host_domain(pos, neg) if len(pos) or len(neg) else host
    return run.measured(name, empty, found, ArcDomain.SIM)


# --- contaminants and anchors ----------------------------------------------------------------------------


def contaminant_metrics(rows: pa.Table, run: Run) -> tuple[Measured, ...]:
    """Share of look-alikes of each category above each probability, with Clopper-Pearson intervals.

    Categories with fewer rows than the protocol's minimum are NOT_EVALUATED; absent ones are listed so.
    """
    kept, rules = scored(rows), run.protocol.contaminants
    kept = kept.filter(
        pc.and_(pc.equal(kept.column("kind"), "contaminant"), pc.is_null(kept.column("arc_domain")))
    )
    category, everything = np.asarray(kept.column("category").to_pylist(), dtype=object), sample_of(kept)
    out = []
    for name, least in rules.minima.items():
        part = everything.take(category == name)
        for domain in sorted(set(part.host_domain)) or [HostDomain.SIM]:
            own = part.take(part.host_domain == domain)
            lacks = f"{len(own)} of category {name}, needs {least}" if len(own) < least else ""
            out += [
                _contaminant(name, own, p, HostDomain(domain), run, lacks=lacks) for p in rules.thresholds
            ]
    return tuple(out)


def _contaminant(
    category: str, part: Sample, p: float, domain: HostDomain, run: Run, *, lacks: str
) -> Measured:
    n, k = len(part), int((part.score > p).sum())
    found = binomial(k, n, method="clopper-pearson", confidence=run.protocol.statistics.confidence)
    detail = f"no hits: the rate is below 3/n = {3 / n:.2g}" if n and not k else f"{k} of {n}"
    prefix = "" if domain is HostDomain.REAL else "mock_"
    name = f"{prefix}contaminant_fpr_{category}_p{round(100 * p)}"
    return run.measured(name, found, domain, ArcDomain.NONE, withheld=lacks, detail=detail)


def anchor_metrics(rows: pa.Table, pool: pa.Table, run: Run) -> tuple[Measured, ...]:
    """Recall of anchors among the k best of a background pool, and how high the pool puts them.

    rows   SCORES with anchors (arc_domain real or nature), less those of a known theta_E below the minimum
    pool   SCORES whose negatives are the background: survey-representative parents

    Recall at k says nothing without the size of the pool (ranking 300 at random recalls a third at k = 100):
    below the protocol's minimum it is NOT_EVALUATED and the ranks stand in its detail. The share of the pool
    above the median anchor is defined for any pool.
    """
    kept, background = scored(rows), negatives(pool)
    out: list[Measured] = []
    for arc in (ArcDomain.REAL, ArcDomain.NATURE):
        wanted = pc.fill_null(pc.equal(kept.column("arc_domain"), arc.value), fill_value=False)
        anchors = sample_of(kept.filter(wanted))
        small = anchors.columns["theta_e_arcsec"] < run.protocol.anchor_recall.theta_e_min_arcsec
        anchors = anchors.take(~small)
        if not len(anchors):
            continue
        # Real lenses are ranked among real galaxies only: a place among simulated ones is no measurement.
        real = background.host_domain == HostDomain.REAL.value
        against = background.take(real) if arc is ArcDomain.REAL else background
        if len(against):
            out += _anchors(anchors, against, arc, int(small.sum()), run)
        else:
            reason = f"no {'real ' if arc is ArcDomain.REAL else ''}galaxy without an arc to rank among"
            none = Estimate(None, None, None, len(anchors), len(anchors), "none", reason)
            out += [run.measured(name, none, host_domain(anchors), arc) for name in _anchor_names(arc, run)]
    return tuple(out)


def _anchor_names(arc: ArcDomain, run: Run) -> tuple[str, ...]:
    prefix = "anchor" if arc is ArcDomain.REAL else "mock_anchor"
    recalls = (f"{prefix}_recall_at_{k}" for k in run.protocol.anchor_recall.k)
    return (*recalls, f"{prefix}_median_rank_share")


def _anchors(anchors: Sample, pool: Sample, arc: ArcDomain, dropped: int, run: Run) -> Iterable[Measured]:
    rules, n, n_pool = run.protocol.anchor_recall, len(anchors), len(pool)
    above = n_pool - np.searchsorted(np.sort(pool.score), anchors.score, side="right")
    order = np.argsort(above, kind="stable")
    ranks = above[order] + np.arange(1, n + 1)
    draws = _redrawn(above[order], n_pool, run)
    *recalls, rank_share = _anchor_names(arc, run)
    notes = [f"{n_pool} in the pool, {n} anchors, ranks {_ranks(ranks)}"]
    notes += [f"{dropped} with theta_E below {rules.theta_e_min_arcsec:g} arcsec left out"] if dropped else []
    lacks = [f"pool {n_pool}, needs {rules.pool_min}"] if n_pool < rules.pool_min else []
    lacks += [f"{n} anchors, needs {rules.anchors_min}"] if n < rules.anchors_min else []
    host = host_domain(anchors)
    for name, k in zip(recalls, rules.k, strict=True):
        found = _percentiles(float((ranks <= k).mean()), (draws <= k).mean(axis=1), n, run)
        detail = "; ".join(
            [*notes, f"k is FPR {k / n_pool:.2g}, at most {min(1.0, k / n):.2g} can be recalled"]
        )
        if lacks:
            found = Estimate(None, None, None, n, n, "none")
        yield run.measured(name, found, host, arc, withheld=", ".join(lacks), detail=detail)
    share = (np.median(draws, axis=1) - (n + 1) / 2) / n_pool
    median = _percentiles(float(np.median(above)) / n_pool, np.maximum(share, 0.0), n, run)
    detail = "; ".join([*notes, "share of the pool above the median anchor"])
    few = f"{n} anchors, needs {rules.anchors_min}" if n < rules.anchors_min else ""
    yield run.measured(rank_share, median, host, arc, withheld=few, detail=detail)


def _redrawn(above: NDArray[np.intp], n_pool: int, run: Run) -> NDArray[np.int64]:
    """Ranks of resampled anchors in a resampled pool, (replicate, anchor), ascending.

    above   pool rows above each anchor, ascending. Resampling the pool changes how many of its rows lie
            between neighbouring anchors: one multinomial of the segments. Anchors are one to a host.
    """
    rng = stream(run.seed, "evaluation/anchors", "resamples")
    segments = np.diff(np.concatenate([[0], above, [n_pool]])) / n_pool
    boots, n = run.protocol.statistics.bootstrap, len(above)
    counts = rng.multinomial(n_pool, segments / segments.sum(), size=boots)[:, :-1].cumsum(axis=1)
    drawn = np.sort(rng.integers(n, size=(boots, n)), axis=1)
    return np.asarray(np.take_along_axis(counts, drawn, axis=1) + np.arange(1, n + 1))


def _percentiles(value: float, draws: Vector, n: int, run: Run) -> Estimate:
    tail = 50 * (1 - run.protocol.statistics.confidence)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Estimate(value, float(low), float(high), n, n, f"bootstrap of anchors and pool, B={len(draws)}")


def _ranks(ranks: NDArray[np.int64]) -> str:
    low, middle, high = np.percentile(ranks, [0, 50, 100]).astype(int)
    return f"{low} to {high} (median {middle})"


# --- findings --------------------------------------------------------------------------------------------


def performance_findings(measured: Sequence[Measured], protocol: Protocol) -> Findings:
    """The brief's gate on AUROC as a finding; NOT_EVALUATED where it was not measured."""
    for figure in measured:
        if figure.name == "auroc_synth":
            interval = None if figure.low is None or figure.high is None else (figure.low, figure.high)
            found = protocol.measure(
                "auroc_synth",
                figure.value,
                n=figure.n,
                interval=interval,
                n_clusters=figure.n_clusters,
                detail=figure.detail,
            )
            return Findings((found,))
    return Findings((protocol.check("auroc_synth").not_evaluated("auroc_synth was not measured"),))
