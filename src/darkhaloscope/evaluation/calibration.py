"""Calibration of scores: what a probability is worth, as it is stated and after a fit on the calib split.

Scores are stated at the training prevalence, one half; they are moved to the prevalence at which they are
judged, that of the test rows or of a survey. Calibrators are fitted on calib rows and judged on test rows,
which share no row, target, host or group.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
from scipy import special

from darkhaloscope.contracts.errors import DataError, SplitLeakage
from darkhaloscope.contracts.measured import ArcDomain, HostDomain, Measured
from darkhaloscope.evaluation.calibrators import KINDS, Calibrator, Kind, NotFitted, fit_calibrator
from darkhaloscope.evaluation.recovery import OF_THE_IMAGING, bins_of
from darkhaloscope.evaluation.samples import (
    Run,
    Sample,
    Text,
    Vector,
    host_domain,
    labelled,
    negatives,
    positives,
)
from darkhaloscope.stats import (
    Estimate,
    PriorShift,
    ReliabilityBin,
    at_prevalence,
    brier_skill_estimate,
    clustered_binomial,
    cox,
    ece_estimates,
    effective_n,
    log_score_estimate,
    prevalence_weights,
    reliability_bins,
)

TRAINING_PREVALENCE = 0.5
"""The prevalence at which a network states its probabilities: it is shown as many arcs as other rows."""

PREVALENCES = (1e-4, 1e-3, 1e-2)
"""Prevalences of surveys, at which calibration is published beside that of the rows."""

TOP = (100, 1000)
"""Depths of the ranked list whose stated probability is compared with what was found there."""

NEGATIVES_PER_PREVALENCE = 100
"""Negatives that a Brier skill at prevalence f needs, times f: it rests on false positives as rare as the
arcs, and with fewer of them its interval is too narrow on the side of skill."""

_ROWS_PER_TOP = 10  # a list of K says something of its top only where it is much longer than K
_MOST_TIED = 2  # times K
_INTERCEPT_WITHIN = 0.3
_SLOPE_WITHIN = (0.8, 1.2)
_OWN = ("row_id", "target_id", "host_id", "group")


def _label(kind: Kind) -> str:
    return "raw" if kind == "none" else kind


# --- rows -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Rows:
    """Both classes of one split."""

    score: Vector
    label: Vector
    group: Text
    imaging: Mapping[str, Vector]
    host: HostDomain

    @property
    def share(self) -> float:
        """The prevalence of these rows."""
        return float(self.label.mean())


def _rows(table: pa.Table, what: str) -> _Rows:
    pos, neg = positives(table), negatives(table)
    if not len(pos) or not len(neg):
        raise DataError(what, f"hold {len(pos)} simulated arcs and {len(neg)} negatives; both are needed")
    imaging = {name: np.concatenate([s.columns[name] for s in (pos, neg)]) for name in OF_THE_IMAGING}
    return _Rows(*labelled(pos, neg), imaging, host_domain(pos, neg))


def refuse_common_rows(test: pa.Table, calib: pa.Table) -> None:
    """Raise SplitLeakage where the two tables of SCORES share a row, target, host or group."""
    for name in _OWN:
        common = set(test.column(name).to_pylist()) & set(calib.column(name).to_pylist())
        if common:
            raise SplitLeakage(
                "calibration",
                f"rows to fit on and rows to judge share {len(common)} of {name}: {min(common)}",
                "fit on the calib split, judge on the test split",
            )


def fit_calibrators(
    calib: pa.Table, run: Run, *, prevalence: float = TRAINING_PREVALENCE
) -> tuple[Calibrator | NotFitted, ...]:
    """Every kind, fitted on the simulated arcs and negatives of the calib split; "none" comes first."""
    rows = _rows(calib, "calib scores")
    return tuple(
        fit_calibrator(
            kind, rows.score, rows.label, groups=rows.group, prevalence=prevalence, fitted_on=run.manifests
        )
        for kind in KINDS
    )


def _calibrated(
    test: pa.Table, calib: pa.Table, run: Run, prevalence: float
) -> tuple[_Rows, list[tuple[Kind, Vector | str]]]:
    """Test rows, and their probabilities by each calibrator or why there are none."""
    refuse_common_rows(test, calib)
    rows, out = _rows(test, "test scores"), list[tuple[Kind, Vector | str]]()
    for fitted in fit_calibrators(calib, run, prevalence=prevalence):
        if isinstance(fitted, NotFitted):
            out.append((fitted.kind, f"{fitted.kind} is not fitted: {fitted.why}"))
        else:
            fitted.refuse_seen(rows.group)
            out.append((fitted.kind, fitted.apply(rows.score)))
    return rows, out


# --- measures ---------------------------------------------------------------------------------------------


class _Figure(NamedTuple):
    """One figure, whichever the calibrator: stem of its name, what follows it, and the number."""

    stem: str
    after: str
    estimate: Estimate
    detail: str
    withheld: str = ""
    stratum: str = ""

    def name(self, kind: Kind) -> str:
        return f"calibration_{self.stem}_{_label(kind)}{self.after}_synth{self.stratum}"

    def noted(self, note: str) -> Self:
        return self._replace(detail=f"{note}; {self.detail}")


def calibration_measures(
    test: pa.Table, calib: pa.Table, run: Run, *, prevalence: float = TRAINING_PREVALENCE
) -> tuple[Measured, ...]:
    """Calibration of test rows, as stated ("raw") and by each calibrator fitted on calib rows.

    prevalence   at which the scores are stated

    Of each: at the prevalence of the rows ECE, debiased ECE, Cox intercept and slope, Brier skill, log score,
    the share of arcs among the K highest scores; the last four of the first six also at the prevalences of
    surveys; the slope by seeing. A calibrator that is not fitted has all of them NOT_EVALUATED.
    Intervals take a calibrator as it is: they hold for new test rows, not for another fit.
    `calibration_ece_synth`, which moves no prevalence, is `synth_metrics`'s. Raises SplitLeakage where the
    tables share a row, target, host or group.
    """
    rows, probs = _calibrated(test, calib, run, prevalence)
    own = PriorShift(prevalence, rows.share)
    fitted = [(kind, prob) for kind, prob in probs if not isinstance(prob, str)]
    moved = [at_prevalence(prob, *own) for _, prob in fitted]
    errors = [_ece_estimates(prob, rows.label, rows.group, run) for prob in moved]
    figures = {
        kind: [*_errors(pair, run, rows.share), *_figures(prob, rows, run, own)]
        for (kind, prob), pair in zip(fitted, errors, strict=True)
    }
    lacking = {kind: why for kind, why in probs if isinstance(why, str)}
    out = []
    for kind in KINDS:
        for figure in figures.get(kind) or [_missing(f, lacking[kind]) for f in figures["none"]]:
            name, host, withheld = figure.name(kind), rows.host, figure.withheld
            out.append(
                run.measured(
                    name, figure.estimate, host, ArcDomain.SIM, withheld=withheld, detail=figure.detail
                )
            )
    return tuple(out)


def _missing(figure: _Figure, why: str) -> _Figure:
    none = Estimate(None, None, None, figure.estimate.n, figure.estimate.n_clusters, "none", why)
    return figure._replace(estimate=none, detail="", withheld=why)


def _errors(pair: Sequence[Estimate], run: Run, share: float) -> list[_Figure]:
    note = f"{run.protocol.calibration.bins} bins of equal mass, moved to the prevalence of these rows, "
    return [
        _Figure(stem, "", found, f"{note}{share:.3g}")
        for stem, found in zip(("ece", "ece_debiased"), pair, strict=True)
    ]


def _figures(prob: Vector, rows: _Rows, run: Run, own: PriorShift) -> Iterator[_Figure]:
    """What is measured at each prevalence; among the highest scores; by seeing."""
    note = f"at the prevalence of these rows, {rows.share:.3g}"
    yield from (figure.noted(note) for figure in _at(prob, rows, run, own))
    for now in PREVALENCES:
        effective = effective_n(prevalence_weights(rows.label, now))
        note = f"at prevalence {now:g} by weights, n_eff = {effective:.1f}"
        for figure in _at(prob, rows, run, own._replace(now=now)):
            yield figure.noted(note)._replace(after=f"_at_{_power(now)}")
    for k in TOP:
        yield _top(at_prevalence(prob, *own), rows, run, k)
    yield from _slopes_by_imaging(prob, rows, run, own.was)


def _power(prevalence: float) -> str:
    return f"{prevalence:.0e}".replace("e-0", "e-")


def _at(prob: Vector, rows: _Rows, run: Run, shift: PriorShift) -> Iterator[_Figure]:
    confidence = run.protocol.statistics.confidence
    intercept, slope = cox(prob, rows.label, rows.group, shift=shift, confidence=confidence)
    yield _Figure("intercept", "", intercept, _intercept_band(intercept))
    yield _Figure("slope", "", slope, _slope_band(slope))
    skill = brier_skill_estimate(prob, rows.label, rows.group, shift, confidence=confidence)
    n, needs = int((1 - rows.label).sum()), int(np.ceil(NEGATIVES_PER_PREVALENCE / shift.now))
    few = f"{n} negatives, needs {needs}" if n < needs else ""
    skill = replace(skill, value=None, low=None, high=None, method="none") if few else skill
    yield _Figure("brier_skill", "", skill, "0: no better than the base rate, 1: perfect", few)
    loss = log_score_estimate(prob, rows.label, rows.group, shift, confidence=confidence)
    base = float(special.entr(shift.now) + special.entr(1 - shift.now))
    yield _Figure("log_score", "", loss, f"mean -ln p in nat, {base:.4g} for the base rate")


def _intercept_band(found: Estimate) -> str:
    return _band(found, -_INTERCEPT_WITHIN, _INTERCEPT_WITHIN, f"|a| < {_INTERCEPT_WITHIN:g}")


def _slope_band(found: Estimate) -> str:
    low, high = _SLOPE_WITHIN
    return _band(found, low, high, f"{low:g} < b < {high:g}")


def _band(found: Estimate, low: float, high: float, text: str) -> str:
    if found.value is None:
        return f"{text} is not judged"
    if not low < found.value < high:
        return f"{text}: outside (decides nothing)"
    whole = found.low is not None and found.high is not None and low < found.low and found.high < high
    return f"{text}: inside{'' if whole else ', not with its whole interval'} (decides nothing)"


def _slopes_by_imaging(prob: Vector, rows: _Rows, run: Run, was: float) -> Iterator[_Figure]:
    """Cox slope in each bin of seeing and of depth that holds rows, at the prevalence of the bin's own."""
    for column in OF_THE_IMAGING:
        yield from _slopes_by(column, prob, rows, run, was)


def _slopes_by(column: str, prob: Vector, rows: _Rows, run: Run, was: float) -> Iterator[_Figure]:
    strata = bins_of(run.protocol)[column]
    where = strata.assign(rows.imaging[column])
    for i, label in enumerate(strata.labels):
        inside = where == i
        if not inside.any():
            continue
        y, group = rows.label[inside], rows.group[inside]
        share = float(y.mean())
        # A bin of one class has no prevalence to move to; `cox` says so, at any.
        shift = PriorShift(was, share if 0 < share < 1 else was)
        found = cox(prob[inside], y, group, shift=shift, confidence=run.protocol.statistics.confidence).slope
        detail = f"{int(y.sum())} arcs, {int((1 - y).sum())} negatives; {_slope_band(found)}"
        yield _Figure("slope", "", found, detail, stratum=f" {column} {label}")


def _top(prob: Vector, rows: _Rows, run: Run, k: int) -> _Figure:
    """Share of arcs among the K highest scores, with what the probabilities state of it.

    The list is ranked by the raw score, so that it is the same for every calibrator; rows that tie with the
    K-th are in it.
    """
    n = len(rows.score)
    needs = _ROWS_PER_TOP * k
    none = Estimate(None, None, None, n, len(set(rows.group)), "none")
    if n < needs:
        return _Figure(f"top_{k}", "", none, "", f"{n} rows, needs {needs}")
    top = rows.score >= np.partition(rows.score, -k)[-k]
    if top.sum() > _MOST_TIED * k:
        return _Figure(f"top_{k}", "", none, "", f"{int(top.sum())} rows tie at the {k}th score")
    found = clustered_binomial(
        rows.label[top], rows.group[top], confidence=run.protocol.statistics.confidence, few=True
    )
    stated = float(prob[top].mean())
    within = found.low is not None and found.high is not None and found.low <= stated <= found.high
    detail = (
        f"observed share of arcs among the {int(top.sum())} highest scores of {n}, {stated:.4g} stated: "
        f"{'inside' if within else 'outside'} its interval; at the prevalence of these rows, {rows.share:.3g}"
    )
    return _Figure(f"top_{k}", "", found, detail)


# --- expected calibration error ---------------------------------------------------------------------------


def ece_as_stated(pos: Sample, neg: Sample, run: Run) -> list[Measured]:
    """ECE and debiased ECE of scores as they are stated, whatever the prevalence of the rows."""
    scores, labels, groups = labelled(pos, neg)
    note = (
        f"{run.protocol.calibration.bins} bins of equal mass, "
        f"at the prevalence of these rows, {labels.mean():.3g}"
    )
    names = ("calibration_ece_synth", "calibration_ece_debiased_synth")
    found = _ece_estimates(scores, labels, groups, run)
    return [
        run.measured(name, estimate, host_domain(pos, neg), ArcDomain.SIM, detail=note)
        for name, estimate in zip(names, found, strict=True)
    ]


def _ece_estimates(prob: Vector, labels: Vector, groups: Text, run: Run) -> tuple[Estimate, Estimate]:
    rules = run.protocol
    return ece_estimates(prob, labels, groups, rules.calibration.bins, confidence=rules.statistics.confidence)


# --- for a figure -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reliability:
    """Stated against observed by one calibrator, at the prevalence of the rows; `why` there are no bins."""

    name: str
    calibrator: str
    prevalence: float
    bins: tuple[ReliabilityBin, ...]
    host_domain: HostDomain
    arc_domain: ArcDomain = ArcDomain.SIM
    why: str = ""


def reliability(
    test: pa.Table, calib: pa.Table, run: Run, *, prevalence: float = TRAINING_PREVALENCE
) -> tuple[Reliability, ...]:
    """Bins of equal mass of the test rows for "raw" and each calibrator; see `calibration_measures`."""
    rows, probs = _calibrated(test, calib, run, prevalence)
    own, rules = PriorShift(prevalence, rows.share), run.protocol
    out = []
    for kind, prob in probs:
        bins: tuple[ReliabilityBin, ...] = ()
        if not isinstance(prob, str):
            bins = reliability_bins(
                at_prevalence(prob, *own),
                rows.label,
                rows.group,
                rules.calibration.bins,
                confidence=rules.statistics.confidence,
            )
        why = prob if isinstance(prob, str) else ""
        name = f"reliability_{_label(kind)}_synth"
        out.append(Reliability(name, _label(kind), rows.share, bins, rows.host, why=why))
    return tuple(out)
