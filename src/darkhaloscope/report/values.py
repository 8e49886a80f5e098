"""What a figure is drawn from: one frozen value for each kind of figure, whoever measured it.

A value carries all that is printed: numbers, counts, units, the method of its intervals, the origin of the
pixels. NaN becomes None, which is drawn as absent; a shape that cannot be drawn is refused where it is made.
Intervals are whatever `method` says, never computed here. Shares and probabilities lie in [0, 1].

Pixel cubes are (band, y, x) in g r z, nanomaggies per pixel, y up as in FITS.
"""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from darkhaloscope.contracts.checks import Finding
from darkhaloscope.report.parts import (
    Binning,
    Counted,
    Fit,
    Histogram,
    Origin,
    PixelCube,
    PixelCubes,
    Ranged,
    Rates,
    Shown,
    refuse,
)

# --- training and ranking --------------------------------------------------------------------------------


class Epoch(Shown):
    """One line of a training history; None where nothing was measured."""

    epoch: int
    train_loss: float | None = None
    select_loss: float | None = None
    select_auroc: float | None = None
    select_core_masked_auroc: float | None = None
    lr: float | None = None

    @property
    def has_number(self) -> bool:
        """Whether a loss or an AUROC was measured."""
        told = (self.train_loss, self.select_loss, self.select_auroc, self.select_core_masked_auroc)
        return any(number is not None for number in told)


class History(Shown):
    """The training of one seed. `best_epoch` is the one whose weights were kept."""

    epochs: tuple[Epoch, ...] = Field(min_length=1)
    best_epoch: int | None = None
    seed: int
    n_train: int | None = None
    n_select: int | None = None
    origin: Origin


class RocCurve(Shown):
    """Points of one ROC curve, both rates rising from 0 to 1. Simulated arcs and real ones are two curves."""

    label: str
    fpr: Rates
    tpr: Rates
    n_pos: int
    n_neg: int
    origin: Origin

    @model_validator(mode="after")
    def _is_a_curve(self) -> Self:
        wrong = self.fpr.shape != self.tpr.shape or not np.isfinite([self.fpr, self.tpr]).all()
        refuse(wrong, f"ROC '{self.label}' needs as many finite false as true positive rates")
        return self


class Roc(Shown):
    """The ROC curves of one figure."""

    curves: tuple[RocCurve, ...] = Field(min_length=1)


class ReliabilityBin(Ranged):
    """One bin of stated probabilities: their mean, and the observed share of positives as `value`."""

    probability: float = Field(ge=0, le=1)
    n: int = Field(ge=0)


class ReliabilityCurve(Shown):
    """One calibrator: its bins, and how many rows it gave which probability."""

    label: str
    bins: tuple[ReliabilityBin, ...] = Field(min_length=1)
    probabilities: Histogram | None = None


class Reliability(Shown):
    """Observed share against stated probability, for one calibrator or several, on the same rows.

    prevalence   share of positives that the probabilities are stated for; None: that of the rows
    """

    curves: tuple[ReliabilityCurve, ...] = Field(min_length=1)
    n_pos: int
    n_neg: int
    prevalence: float | None = None
    method: str
    origin: Origin


# --- selection function ----------------------------------------------------------------------------------


class CompletenessBin(Counted):
    """k of n arcs found with lo <= theta_E < hi [arcsec]; `hi` None is the overflow bin."""

    lo: float
    hi: float | None

    @property
    def label(self) -> str:
        """``1–1.5``, ``≥ 3``."""
        return f"≥ {self.lo:g}" if self.hi is None else f"{self.lo:g}–{self.hi:g}"


class Completeness(Shown):
    """Found share of arcs by Einstein radius, at one threshold whose source is named."""

    bins: tuple[CompletenessBin, ...] = Field(min_length=1)
    threshold_source: str
    method: str = "Jeffreys 95 %"
    origin: Origin


class SelectionMap(Shown):
    """Found share of arcs by two quantities. `cells` holds a row for each bin of y, lowest first."""

    x: Binning
    y: Binning
    cells: tuple[tuple[Counted, ...], ...] = Field(min_length=1)
    threshold_source: str
    method: str
    origin: Origin

    @model_validator(mode="after")
    def _cells_fill_the_bins(self) -> Self:
        found = {len(row) for row in self.cells}
        wrong = len(self.cells) != self.y.size or found != {self.x.size}
        refuse(
            wrong, f"{self.y.size} rows of {self.x.size} cells are needed, {len(self.cells)} of {found} given"
        )
        return self

    @property
    def n(self) -> int:
        """Arcs in all cells."""
        return sum(cell.n for row in self.cells for cell in row)


class SelectionPoint(Counted):
    """Found share of the arcs of one bin, drawn at `x` (their mean, say); lo, hi are the bin's edges."""

    x: float
    lo: float | None = None
    hi: float | None = None


class SelectionCurve(Shown):
    """Found share of arcs by one quantity, with the smooth line that was fitted to it, if one was."""

    label: str
    quantity: str = Field(min_length=1)
    unit: str = ""
    points: tuple[SelectionPoint, ...] = Field(min_length=1)
    fit: Fit | None = None
    log_x: bool = False
    threshold_source: str
    method: str
    origin: Origin

    @model_validator(mode="after")
    def _logs_exist(self) -> Self:
        low = [p.x for p in self.points] + ([] if self.fit is None else [float(self.fit.x[0])])
        refuse(self.log_x and min(low) <= 0, f"'{self.label}': a logarithmic axis needs x above 0")
        return self


class SelectionCurves(Shown):
    """The selection curves of one figure: a panel for each quantity, in order of first mention."""

    curves: tuple[SelectionCurve, ...] = Field(min_length=1)


# --- rates, arms, realism --------------------------------------------------------------------------------


class ContaminantRate(Counted):
    """How many look-alikes of one category lie above one threshold (``p > 0.5``)."""

    category: str
    threshold: str


class ContaminantRates(Shown):
    """False positive rates of look-alikes by category and threshold, all of one host domain."""

    rows: tuple[ContaminantRate, ...] = Field(min_length=1)
    method: str = "Clopper-Pearson 95 %"
    origin: Origin


class SeedValue(Shown):
    """What one training seed gave; None where only that it was trained is told."""

    seed: int
    value: float | None = None


Judged = Literal["significant", "differs", "equivalent", "inconclusive", ""]
"""What a difference came to; empty where none was judged."""


class Arm(Ranged):
    """One arm of an ablation at one endpoint: its value over seeds, or its difference, and each seed's own.

    remark   stands in the row of an arm that has no value
    """

    arm: str
    n: int
    seeds: tuple[SeedValue, ...] = ()
    verdict: Judged = ""
    remark: str = ""


class Endpoint(Shown):
    """One endpoint of an ablation for every arm.

    reference   the value that bars are drawn from: 0 for differences
    least       the least difference from it that counts, where one was stated beforehand
    """

    quantity: str = Field(min_length=1)
    unit: str = ""
    arms: tuple[Arm, ...] = Field(min_length=1)
    reference: float | None = None
    least: float | None = Field(default=None, gt=0)
    method: str
    origin: Origin


class AblationBars(Shown):
    """Arms by endpoints: every endpoint has the same arms in the same order.

    lacking   endpoints that could not be compared, each with its reason
    """

    endpoints: tuple[Endpoint, ...] = Field(min_length=1)
    reference_label: str = "reference"
    lacking: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _same_arms(self) -> Self:
        named = {tuple(arm.arm for arm in endpoint.arms) for endpoint in self.endpoints}
        refuse(len(named) > 1, "every endpoint of an ablation needs the same arms in the same order")
        return self

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms' names, in order."""
        return tuple(arm.arm for arm in self.endpoints[0].arms)


class Distribution(Shown):
    """How one quantity is distributed in two or more samples (one is drawn too)."""

    quantity: str = Field(min_length=1)
    unit: str = ""
    samples: tuple[Histogram, ...] = Field(min_length=1)


class QuantileBand(Shown):
    """Median and outer quantiles of a quantity along x for one sample; `levels` are those of low and high."""

    label: str
    x: Rates
    low: Rates
    median: Rates
    high: Rates
    levels: tuple[float, float] = (0.16, 0.84)
    n: int
    origin: Origin

    @model_validator(mode="after")
    def _is_a_band(self) -> Self:
        parts = (self.x, self.low, self.median, self.high)
        same = len({part.shape for part in parts}) == 1
        finite = same and self.x.size > 1 and bool(np.isfinite(parts).all())
        refuse(not finite, f"'{self.label}' needs as many finite x, low, median and high, two or more")
        ordered = bool(((self.low <= self.median) & (self.median <= self.high)).all())
        refuse(not ordered, f"the quantiles of '{self.label}' cross")
        return self

    @property
    def has_number(self) -> bool:
        """Whether a row stands behind it."""
        return self.n > 0


class Profile(Shown):
    """A quantity along x (a radius, say) in two or more samples, as bands of quantiles."""

    quantity: str = Field(min_length=1)
    unit: str = ""
    x_quantity: str = Field(min_length=1)
    x_unit: str = ""
    samples: tuple[QuantileBand, ...] = Field(min_length=1)


class Realism(Shown):
    """How simulated and real stamps differ, quantity by quantity: a panel each."""

    panels: tuple[Distribution | Profile, ...] = Field(min_length=1)


class ComparatorAuc(Ranged):
    """AUC of a probe that tells two samples apart: comparator (``R3``), what they are, by which features."""

    comparator: str
    what: str = ""
    features: str
    n: int
    origin: Origin


class ComparatorAucs(Shown):
    """Probe AUC of each comparator; `margin` is the excess over one half that still counts as equivalent."""

    rows: tuple[ComparatorAuc, ...] = Field(min_length=1)
    margin: float = Field(gt=0, lt=0.5)
    method: str


class Gates(Shown):
    """Findings against their bounds, in the order they are drawn."""

    findings: tuple[Finding, ...] = Field(min_length=1)
    origin: Origin | None = None


# --- pictures --------------------------------------------------------------------------------------------


class PairPicture(Shown):
    """One pair: the galaxy with its arc, without, and the arc alone."""

    stamp: PixelCube
    control: PixelCube
    arc: PixelCube
    caption: str = ""
    theta_e_arcsec: float | None = None
    arc_snr_mf: float | None = None
    origin: Origin


class Pairs(Shown):
    """The pairs of one figure."""

    pairs: tuple[PairPicture, ...] = Field(min_length=1)


class Example(Shown):
    """One stamp of a category (``host``, ``ring``, ``spiral``)."""

    stamp: PixelCube
    category: str
    caption: str = ""
    origin: Origin


class Examples(Shown):
    """Stamps by category; the categories stand in order of first mention."""

    examples: tuple[Example, ...] = Field(min_length=1)

    @property
    def by_category(self) -> dict[str, tuple[Example, ...]]:
        """The stamps of each category."""
        names = dict.fromkeys(example.category for example in self.examples)
        return {name: tuple(e for e in self.examples if e.category == name) for name in names}


class LensPicture(Shown):
    """One lens field, its score, and the share of negatives (percent) that score below it."""

    stamp: PixelCube
    name: str
    score: float | None
    percentile: float | None
    n_negatives: int
    detail: str = ""
    origin: Origin


class Lenses(Shown):
    """The lens fields of one figure."""

    lenses: tuple[LensPicture, ...] = Field(min_length=1)


class ArmRow(Shown):
    """One host under several arms: the galaxy, with each arm's arc in it, and those arcs alone."""

    control: PixelCube
    stamps: PixelCubes
    arcs: PixelCubes
    facts: str


class ArmsGallery(Shown):
    """Hosts by arms. `least_snr`: hosts whose first arm's arc is fainter were passed over; 0: none."""

    rows: tuple[ArmRow, ...] = Field(min_length=1)
    arms: tuple[str, ...] = Field(min_length=1)
    least_snr: float = 0.0


def pair_facts(pair: PairPicture) -> str:
    """``θE 1.24″, S/N 18``: what the arc of a pair is."""
    facts = []
    if pair.theta_e_arcsec is not None:
        facts.append(f"θE {pair.theta_e_arcsec:.2f}″")
    if pair.arc_snr_mf is not None:
        facts.append(f"S/N {pair.arc_snr_mf:.3g}")
    return ", ".join(facts)
