"""What a figure is drawn from: one frozen value for each kind of figure, whoever measured it.

A value carries all that is printed: numbers, counts, units, the method of its intervals, the origin of the
pixels. NaN becomes None, which is drawn as absent; a shape that cannot be drawn is refused where it is made.
Intervals are whatever `method` says, never computed here. Shares and probabilities lie in [0, 1].

Pixel cubes are (band, y, x) in g r z, nanomaggies per pixel, y up as in FITS.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Self

import numpy as np
from jaxtyping import Float
from pydantic import ConfigDict, Field, PlainSerializer, model_validator

from darkhaloscope.contracts.checks import Finding, Findings
from darkhaloscope.contracts.config import Frozen
from darkhaloscope.contracts.measured import ArcDomain, HostDomain

HOST_WORDS = {
    HostDomain.REAL: "real",
    HostDomain.SIM: "synthetic",
    HostDomain.NATURE: "mock",
    HostDomain.MIXED: "partly real",
}
ARC_WORDS = {
    ArcDomain.REAL: "real",
    ArcDomain.SIM: "simulated",
    ArcDomain.NATURE: "mock",
    ArcDomain.NONE: "none",
}

PixelCube = Annotated[Float[np.ndarray, "3 y x"], Field(exclude=True, repr=False)]
"""g r z, nanomaggies per pixel; left out of the JSON twin."""

PixelCubes = Annotated[tuple[Float[np.ndarray, "3 y x"], ...], Field(exclude=True, repr=False)]


def _listed(points: Float[np.ndarray, " point"]) -> list[float]:
    return [round(float(point), 6) for point in points]


Rates = Annotated[Float[np.ndarray, " point"], PlainSerializer(_listed), Field(repr=False)]


class Shown(Frozen):
    """A value that is shown: takes NumPy scalars and any sequence, turns NaN into None, refuses the rest."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: _plain(value) for name, value in data.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return tuple(_plain(item) for item in value) if isinstance(value, (list, tuple, Findings)) else value


def _refuse(wrong: bool, message: str) -> None:  # noqa: FBT001 - read as a sentence where it is called
    if wrong:
        raise ValueError(message)


class Origin(Shown):
    """What the pixels behind a figure are, and the manifests that hold them."""

    host_domain: HostDomain
    arc_domain: ArcDomain
    manifests: tuple[str, ...] = Field(min_length=1)

    @property
    def tag(self) -> str:
        """For a table cell: ``host synthetic · arc simulated``."""
        return domain_tag(self.host_domain, self.arc_domain)

    @property
    def sentence(self) -> str:
        """For a caption: says whether host, arc or both are real."""
        return domain_sentence(self.host_domain, self.arc_domain)


def domain_tag(host: HostDomain, arc: ArcDomain) -> str:
    """What host and arc are, in four words."""
    return f"host {HOST_WORDS[host]} · " + ("no arc" if arc is ArcDomain.NONE else f"arc {ARC_WORDS[arc]}")


def domain_sentence(host: HostDomain, arc: ArcDomain) -> str:
    """What host and arc are, as a sentence; `nature` is never called real."""
    galaxies = f"galaxies are {HOST_WORDS[host]}"
    if host is HostDomain.REAL and arc is ArcDomain.REAL:
        return "Host and arc are both real."
    if arc is ArcDomain.NONE:
        return f"The {galaxies}; there are no arcs."
    if host is HostDomain.REAL:
        return f"The {galaxies}, the arcs are {ARC_WORDS[arc]}."
    if arc is ArcDomain.REAL or host is HostDomain.MIXED:
        return f"The {galaxies}; the arcs are {ARC_WORDS[arc]}."
    return f"Neither is real: the {galaxies}, the arcs are {ARC_WORDS[arc]}."


def origins(value: Any) -> tuple[Origin, ...]:
    """Every origin inside a value, each once, in the order of its fields."""
    return tuple(dict.fromkeys(_origins(value)))


def _origins(value: Any) -> Iterator[Origin]:
    if isinstance(value, Origin):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _origins(item)
    elif isinstance(value, Shown):
        for name in type(value).model_fields:
            yield from _origins(getattr(value, name))


def manifests_of(value: Any) -> tuple[str, ...]:
    """Every manifest inside a value, each once."""
    return tuple(dict.fromkeys(m for origin in origins(value) for m in origin.manifests))


def says_nothing(value: Shown) -> bool:
    """Whether nothing in a value was measured, so that drawing it would give empty axes."""
    parts = list(_measured_parts(value))
    return bool(parts) and not any(parts)


def _measured_parts(value: Any) -> Iterator[bool]:
    if isinstance(value, Ranged):
        yield value.value is not None
    elif isinstance(value, (Histogram, QuantileBand)):
        yield value.n > 0
    elif isinstance(value, Epoch):
        yield any(
            getattr(value, name) is not None
            for name in type(value).model_fields
            if name not in ("epoch", "lr")
        )
    elif isinstance(value, tuple):
        for item in value:
            yield from _measured_parts(item)
    elif isinstance(value, Shown):
        for name in type(value).model_fields:
            yield from _measured_parts(getattr(value, name))


# --- numbers with their intervals ------------------------------------------------------------------------


class Ranged(Shown):
    """A number with its interval; None where nothing was measured. An interval has both ends or none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _interval_has_two_ends(self) -> Self:
        one = (self.low is None) != (self.high is None)
        _refuse(one, "an interval has two ends or none")
        if self.low is not None and self.high is not None:
            _refuse(self.low > self.high, f"the interval [{self.low}, {self.high}] is upside down")
        return self

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends, or None."""
        return None if self.low is None or self.high is None else (self.low, self.high)


class Counted(Ranged):
    """A share k of n. `sufficient` is False where too few (effective) rows stand behind it."""

    k: int = Field(ge=0)
    n: int = Field(ge=0)
    sufficient: bool = True

    @model_validator(mode="after")
    def _k_is_part_of_n(self) -> Self:
        _refuse(self.k > self.n, f"k = {self.k} of n = {self.n}")
        shares = [v for v in (self.value, self.low, self.high) if v is not None]
        _refuse(any(not 0.0 <= v <= 1.0 for v in shares), "a share lies between 0 and 1")
        return self

    @property
    def usable(self) -> bool:
        """Whether there is a value with enough behind it."""
        return self.sufficient and self.value is not None


class Binning(Shown):
    """The bins of one quantity by their edges; None at the first or last place leaves that end open."""

    quantity: str = Field(min_length=1)
    unit: str = ""
    edges: tuple[float | None, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _edges_rise(self) -> Self:
        inner = self.edges[1:-1]
        known = [edge for edge in self.edges if edge is not None]
        _refuse(None in inner, f"{self.quantity}: only the first and the last edge may be open")
        _refuse(any(a >= b for a, b in pairwise(known)), f"{self.quantity}: edges must rise")
        return self

    @property
    def size(self) -> int:
        """How many bins there are."""
        return len(self.edges) - 1

    @property
    def marks(self) -> tuple[str, ...]:
        """What stands at each edge; an open end is infinity."""
        text = ["∞" if edge is None else f"{edge:.4g}" for edge in self.edges]
        if self.edges[0] is None:
            text[0] = "\N{MINUS SIGN}∞"
        return tuple(text)


class Fit(Shown):
    """A smooth line with its band, as points; `method` says what was fitted and what the band is."""

    x: Rates
    value: Rates
    low: Rates
    high: Rates
    method: str

    @model_validator(mode="after")
    def _is_a_band(self) -> Self:
        same = len({self.x.shape, self.value.shape, self.low.shape, self.high.shape}) == 1
        finite = same and bool(np.isfinite([self.x, self.value, self.low, self.high]).all())
        _refuse(
            not finite or self.x.size < 2, "a fit needs as many finite x, value, low and high, two or more"
        )
        _refuse(bool((np.diff(self.x) <= 0).any()), "the x of a fit must rise")
        _refuse(bool((self.low > self.high).any()), "a band's low end lies above its high end")
        return self


class Histogram(Shown):
    """Counts between rising edges, under a label. n is of all rows, those outside the edges too."""

    label: str
    edges: Rates
    counts: tuple[int, ...] = Field(min_length=1)
    n: int
    origin: Origin

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        _refuse(
            self.edges.shape != (len(self.counts) + 1,), f"'{self.label}' needs one edge more than counts"
        )
        rising = bool(np.isfinite(self.edges).all() and (np.diff(self.edges) > 0).all())
        _refuse(not rising, f"the edges of '{self.label}' must be finite and rise")
        _refuse(min(self.counts) < 0, f"a count of '{self.label}' is negative")
        _refuse(sum(self.counts) > self.n, f"'{self.label}' counts {sum(self.counts)} of {self.n} rows")
        return self

    @property
    def density(self) -> Float[np.ndarray, " bin"]:
        """Share of all rows per unit of the quantity; 0 where there are none."""
        widths = np.diff(self.edges)
        density: Float[np.ndarray, " bin"] = np.array(self.counts, np.float64) / (max(self.n, 1) * widths)
        return density


# --- training and ranking --------------------------------------------------------------------------------


class Epoch(Shown):
    """One line of a training history; None where nothing was measured."""

    epoch: int
    train_loss: float | None = None
    select_loss: float | None = None
    select_auroc: float | None = None
    select_core_masked_auroc: float | None = None
    lr: float | None = None


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
        _refuse(wrong, f"ROC '{self.label}' needs as many finite false as true positive rates")
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
        _refuse(
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
        _refuse(self.log_x and min(low) <= 0, f"'{self.label}': a logarithmic axis needs x above 0")
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
    """What one training seed gave."""

    seed: int
    value: float


class Arm(Ranged):
    """One arm of an ablation at one endpoint: its value over seeds, and each seed's own."""

    arm: str
    n: int
    seeds: tuple[SeedValue, ...] = ()


class Endpoint(Shown):
    """One endpoint of an ablation for every arm; `reference` is the value bars are drawn from."""

    quantity: str = Field(min_length=1)
    unit: str = ""
    arms: tuple[Arm, ...] = Field(min_length=1)
    reference: float | None = None
    method: str
    origin: Origin


class AblationBars(Shown):
    """Arms by endpoints: every endpoint has the same arms in the same order."""

    endpoints: tuple[Endpoint, ...] = Field(min_length=1)
    reference_label: str = "reference"

    @model_validator(mode="after")
    def _same_arms(self) -> Self:
        named = {tuple(arm.arm for arm in endpoint.arms) for endpoint in self.endpoints}
        _refuse(len(named) > 1, "every endpoint of an ablation needs the same arms in the same order")
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
        _refuse(not finite, f"'{self.label}' needs as many finite x, low, median and high, two or more")
        ordered = bool(((self.low <= self.median) & (self.median <= self.high)).all())
        _refuse(not ordered, f"the quantiles of '{self.label}' cross")
        return self


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
