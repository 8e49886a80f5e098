"""The selection function, by bins: which share of the arcs that are there is found, at a stated threshold."""

from dataclasses import dataclass

import pyarrow as pa

from darkhaloscope.contracts.measured import ArcDomain, HostDomain, Measured
from darkhaloscope.contracts.protocol import Protocol
from darkhaloscope.evaluation.samples import Run, Sample, host_domain, negatives, positives
from darkhaloscope.gates.detection import OperatingPoint, point_at
from darkhaloscope.stats import binomial, clustered_binomial, effective_rows

FEWEST_EFFECTIVE = 30.0
"""Effective rows below which a bin is called insufficient."""


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


@dataclass(frozen=True)
class CompletenessBin:
    """k found of n arcs in one bin; `measured` holds the share with its Jeffreys interval."""

    label: str
    k: int
    n: int
    measured: Measured


def completeness(
    rows: pa.Table, run: Run, threshold: OperatingPoint, *, column: str = "theta_e_arcsec"
) -> tuple[CompletenessBin, ...]:
    """Share of simulated arcs found, by the protocol's bins of `column`, with those below, above and unknown.

    Hosts are the clusters: the interval is that of n / deff rows (its n_eff is in the detail). A bin
    with fewer than 30 effective rows is NOT_EVALUATED; so are all where too few negatives set the threshold.
    """
    pos, strata = positives(rows), run.protocol.strata[column]
    index = strata.assign(pos.columns[column])
    whole = host_domain(pos)
    bins = []
    for i, label in enumerate(strata.labels):
        part = pos.take(index == i)
        host = host_domain(part) if len(part) else whole
        name = f"completeness_sim {column} {label}"
        bins.append(_bin(name, label, part, run, threshold=threshold, host=host))
    return tuple(bins)


def _bin(
    name: str, label: str, pos: Sample, run: Run, *, threshold: OperatingPoint, host: HostDomain
) -> CompletenessBin:
    hits = pos.score > threshold.threshold
    found = clustered_binomial(hits, pos.host, confidence=run.protocol.statistics.confidence)
    withheld = "" if threshold.enough else "too few negatives set the threshold"
    effective = effective_rows(hits, pos.host)
    if effective < FEWEST_EFFECTIVE:
        withheld = f"insufficient: {effective:.0f} effective rows, needs {FEWEST_EFFECTIVE:.0f}"
    measured = run.measured(
        name,
        found,
        host,
        ArcDomain.SIM,
        withheld=withheld,
        detail=threshold.text,
    )
    return CompletenessBin(label, int(hits.sum()), len(pos), measured)
