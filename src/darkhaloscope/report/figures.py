"""The pictures of a report: one function per figure, values in, bytes out.

Line figures are SVG with their text drawn as paths, so that they look the same on every machine; stamps are
PNG at their own 64 px. The same input gives the same bytes: no dates, salted ids, Matplotlib's own defaults
and never the reader's. Figures are narrow (4.4 in) because two stand side by side on a screen and one on a
phone. Blue circle, vermilion cross and grey open diamond say pass, fail and not evaluated: shape carries the
meaning, colour repeats it (Okabe & Ito 2008).

Pixel cubes are (band, y, x) in g r z, nanomaggies per pixel, y up as in FITS.
"""

import io
import itertools
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any, Self

import numpy as np
from jaxtyping import Float
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pydantic import ConfigDict, Field, PlainSerializer, model_validator

from darkhaloscope.contracts.checks import Bound, Finding, Findings, Status
from darkhaloscope.contracts.config import Frozen
from darkhaloscope.contracts.measured import ArcDomain, HostDomain
from darkhaloscope.stamps.rgb import png, viewer_rgb

INK, QUIET, PALE = "#1b1f24", "#5f666d", "#dfe5ea"
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#00795A"
STATUS_COLOUR = {Status.PASS: BLUE, Status.FAIL: VERMILION, Status.NOT_EVALUATED: QUIET}
STATUS_MARKER = {Status.PASS: "o", Status.FAIL: "X", Status.NOT_EVALUATED: "D"}
STATUS_SIGN = {Status.PASS: "●", Status.FAIL: "✕", Status.NOT_EVALUATED: "◇"}

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

_NO_TRACE_PNG: dict[str, Any] = {"Software": None}
_NO_TRACE_SVG: dict[str, Any] = {"Date": None, "Creator": None}

DECIDING_COUNT = 10
"""Negatives that must lie above a threshold before its false-positive rate says anything (+-60 %)."""

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
    """Points of one ROC curve, both rates rising from 0 to 1."""

    label: str
    fpr: Rates
    tpr: Rates
    n_pos: int
    n_neg: int
    origin: Origin

    @model_validator(mode="after")
    def _is_a_curve(self) -> Self:
        if self.fpr.shape != self.tpr.shape or not np.isfinite([self.fpr, self.tpr]).all():
            message = f"ROC '{self.label}' needs as many finite false as true positive rates"
            raise ValueError(message)
        return self


class CompletenessBin(Shown):
    """k of n arcs found with lo <= theta_E < hi [arcsec]; `hi` None is the overflow bin."""

    lo: float
    hi: float | None
    k: int
    n: int
    value: float | None = None
    low: float | None = None
    high: float | None = None

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


class PairPicture(Shown):
    """One pair: the galaxy with its arc, without, and the arc alone."""

    stamp: PixelCube
    control: PixelCube
    arc: PixelCube
    caption: str = ""
    theta_e_arcsec: float | None = None
    arc_snr_mf: float | None = None
    origin: Origin


class LensPicture(Shown):
    """One lens field, its score, and the share of negatives (percent) that score below it."""

    stamp: PixelCube
    name: str
    score: float | None
    percentile: float | None
    n_negatives: int
    detail: str = ""
    origin: Origin


def pair_png(pair: PairPicture) -> bytes:
    """Stamp, control and arc side by side at one stretch, two white pixels between them."""
    tiles = [viewer_rgb(cube)[::-1] for cube in (pair.stamp, pair.control, pair.arc)]
    gap = np.ones((tiles[0].shape[0], 2, 3))
    return png(np.concatenate([tiles[0], gap, tiles[1], gap, tiles[2]], axis=1))


def pairs_gallery(pairs: Sequence[PairPicture]) -> bytes:
    """The pairs as one picture for a README or a paper: a row each, with theta_E and S/N; PNG."""
    with _house_style():
        figure = Figure(figsize=(4.4, 1.42 * len(pairs) + 0.2), layout="constrained")
        grid = figure.subplots(len(pairs), 3, squeeze=False)
        for row, pair in zip(grid, pairs, strict=True):
            for axes, cube in zip(row, (pair.stamp, pair.control, pair.arc), strict=True):
                axes.imshow(viewer_rgb(cube), origin="lower", interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            row[0].set_ylabel(pair_facts(pair), fontsize=6.5, parse_math=False)
        for axes, title in zip(grid[0], ("with arc", "control", "arc alone"), strict=True):
            axes.set_title(title, fontsize=8)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=220, metadata=_NO_TRACE_PNG)
    return out.getvalue()


class ArmRow(Shown):
    """One host under several arms: the galaxy, with each arm's arc in it, and those arcs alone."""

    control: PixelCube
    stamps: PixelCubes
    arcs: PixelCubes
    facts: str


def arms_gallery(rows: Sequence[ArmRow], arms: Sequence[str], *, least_snr: float) -> bytes:
    """Hosts as rows; the galaxy, every arm's stamp and every arm's arc alone as columns; PNG."""
    titles = ["host", *arms, *(f"{arm} arc" for arm in arms)]
    with _house_style():
        figure = Figure(figsize=(1.3 * len(titles) + 0.5, 1.33 * len(rows) + 0.5), layout="constrained")
        grid = figure.subplots(len(rows), len(titles), squeeze=False)
        for axes_row, row in zip(grid, rows, strict=True):
            for axes, cube in zip(axes_row, (row.control, *row.stamps, *row.arcs), strict=True):
                axes.imshow(viewer_rgb(cube), origin="lower", interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            axes_row[0].set_ylabel(row.facts, fontsize=5.5, parse_math=False)
        for axes, title in zip(grid[0], titles, strict=True):
            axes.set_title(title, fontsize=8)
        floor = f"hosts passed over below S/N {least_snr:g}" if least_snr > 0 else "no host passed over"
        figure.supxlabel(f"arcs simulated; S/N matched-filter, three bands; {floor}", fontsize=6, color=QUIET)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=150, metadata=_NO_TRACE_PNG)
    return out.getvalue()


def pair_facts(pair: PairPicture) -> str:
    """``θE 1.24″, S/N 18``: what the arc of a pair is."""
    facts = []
    if pair.theta_e_arcsec is not None:
        facts.append(f"θE {pair.theta_e_arcsec:.2f}″")
    if pair.arc_snr_mf is not None:
        facts.append(f"S/N {pair.arc_snr_mf:.3g}")
    return ", ".join(facts)


def training_loss(history: History) -> bytes:
    """Loss by epoch on the training and select splits; SVG."""
    with _house_style():
        figure, axes = _panel("epoch", "loss")
        _curve(axes, history, "train_loss", "train", (INK, "-"))
        _curve(axes, history, "select_loss", "select", (VERMILION, "--"))
        _kept(axes, history)
        return _svg(figure)


def training_auroc(history: History) -> bytes:
    """AUROC by epoch on the select split, whole stamp and core masked; SVG."""
    with _house_style():
        figure, axes = _panel("epoch", "AUROC, select split")
        _curve(axes, history, "select_auroc", "whole stamp", (BLUE, "-"))
        _curve(axes, history, "select_core_masked_auroc", "core masked (r < 5 px)", (VERMILION, "--"))
        axes.axhline(0.5, color=QUIET, lw=0.8, ls=":")
        axes.set_ylim(min(0.45, axes.get_ylim()[0]), 1.0)
        _kept(axes, history)
        return _svg(figure)


def _curve(axes: Axes, history: History, column: str, label: str, look: tuple[str, str]) -> None:
    points = [(e.epoch, getattr(e, column)) for e in history.epochs if getattr(e, column) is not None]
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=look[0], ls=look[1], marker="o", ms=2.2, lw=1.4, label=label)


def _kept(axes: Axes, history: History) -> None:
    if history.best_epoch is not None:
        label = f"kept: epoch {history.best_epoch}"
        axes.axvline(history.best_epoch, color=QUIET, lw=0.8, ls=(0, (4, 2)), label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def roc(curves: Sequence[RocCurve], *, log_x: bool = False) -> bytes:
    """True against false positive rate; SVG. The diagonal is chance.

    Shaded: rates that fewer than ten of the negatives would reach, where the curve says nothing.
    """
    n_neg = max((curve.n_neg for curve in curves), default=0)
    silent = min(1.0, DECIDING_COUNT / n_neg) if n_neg else 1.0
    with _house_style():
        figure, axes = _panel("false positive rate", "true positive rate")
        left = min(1e-2, 0.3 / n_neg) if n_neg else 1e-2
        looks = itertools.cycle(((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (INK, (0, (1, 1)))))
        for curve, (colour, line) in zip(curves, looks, strict=False):
            x = np.maximum(curve.fpr, left if log_x else 0.0)
            axes.plot(x, curve.tpr, ls=line, color=colour, lw=1.6, label=curve.label.replace("$", r"\$"))
        axes.axvspan(left if log_x else 0.0, silent, color=PALE, lw=0, zorder=0)
        chance = np.geomspace(left, 1.0, 100) if log_x else np.array([0.0, 1.0])
        axes.plot(chance, chance, color=QUIET, lw=0.8, ls=":")
        axes.set(ylim=(0, 1.02), xlim=(left, 1) if log_x else (-0.01, 1))
        if log_x:
            axes.set_xscale("log")
            note = f"< {DECIDING_COUNT} of {n_neg:,} negatives"
            axes.text(left * 1.25, 0.97, note, color=QUIET, fontsize=7, va="top")
        if len(curves) > 1 and not log_x:
            axes.legend(loc="lower right")
        return _svg(figure)


def completeness(table: Completeness) -> bytes:
    """Found share of arcs by Einstein radius with its interval and k/n under each point; SVG."""
    with _house_style():
        figure, axes = _panel("Einstein radius [arcsec]", "found share of arcs")
        for x, cell in enumerate(table.bins):
            axes.text(x, -0.055, f"{cell.k}/{cell.n}", ha="center", va="center", fontsize=6.5, color=QUIET)
            if cell.value is None:
                continue
            if cell.low is not None and cell.high is not None:
                axes.vlines(x, cell.low, cell.high, color=BLUE, lw=1.6)
            axes.plot(x, cell.value, "o", color=BLUE, ms=4.5)
        axes.axhline(0.0, color=PALE, lw=0.8, zorder=0)
        slanted = 30 if len(table.bins) > 6 else 0
        axes.set_xticks(range(len(table.bins)), [cell.label for cell in table.bins], rotation=slanted)
        axes.set(xlim=(-0.6, len(table.bins) - 0.4), ylim=(-0.11, 1.04))
        return _svg(figure)


def gates(findings: Sequence[Finding]) -> bytes:
    """Each gate's value and interval against its bound, one row each, every row on its own scale; SVG."""
    with _house_style():
        figure = Figure(figsize=(4.4, 0.48 * len(findings) + 0.1))
        axes = figure.add_axes((0.02, 0.0, 0.96, 1.0))
        axes.set(xlim=(0, 1), ylim=(-len(findings), 0))
        axes.set_axis_off()
        for row, finding in enumerate(findings):
            _gate_row(axes, -row - 0.56, finding)
        return _svg(figure)


def _gate_row(axes: Axes, y: float, finding: Finding) -> None:
    colour, marker = STATUS_COLOUR[finding.status], STATUS_MARKER[finding.status]
    to_x = _row_scale(finding)
    low, high = finding.bound.low, finding.bound.high
    axes.plot((0, 1), (y, y), color=PALE, lw=1)
    permitted = (0.0 if low is None else to_x(low), 1.0 if high is None else to_x(high))
    axes.plot(permitted, (y, y), color="#a9c9de", lw=5, solid_capstyle="butt")
    for limit in {edge for edge in (low, high) if edge is not None}:
        axes.plot((to_x(limit),) * 2, (y - 0.15, y + 0.15), color=INK, lw=1.1)
        axes.text(to_x(limit), y - 0.17, f"{limit:g}", fontsize=6.5, color=INK, ha="center", va="top")
    if finding.interval is not None:
        axes.plot([to_x(edge) for edge in finding.interval], (y, y), color=colour, lw=1.6)
    if finding.value is not None:
        face = "white" if finding.status is Status.NOT_EVALUATED else colour
        axes.plot(to_x(finding.value), y, marker, color=colour, mfc=face, ms=6, mew=1.1)
    name = finding.name if finding.decides else f"{finding.name} ({finding.version}, does not decide)"
    axes.text(
        0,
        y + 0.32,
        name,
        fontsize=7.5,
        va="center",
        color=INK if finding.decides else QUIET,
        parse_math=False,
    )
    words = finding.status.value.replace("_", " ").lower()
    axes.text(1, y + 0.32, words, fontsize=7.5, va="center", color=colour, ha="right", weight="bold")


def _row_scale(finding: Finding) -> Any:
    """The map from a gate's own values to the row's [0, 1]."""
    bound: Bound = finding.bound
    marks = [m for m in (bound.low, bound.high, finding.value, *(finding.interval or ())) if m is not None]
    low, high = min(marks), max(marks)
    pad = 0.25 * (high - low) or 0.25 * abs(high) or 0.5
    return lambda value: (value - low + pad) / (high - low + 2 * pad)


def _house_style() -> AbstractContextManager[None]:
    """Matplotlib's defaults plus ours, so that a reader's own matplotlibrc changes nothing."""
    ours = {
        "svg.hashsalt": "darkhaloscope",
        "svg.fonttype": "path",
        "font.size": 8,
        "axes.edgecolor": QUIET,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": QUIET,
        "ytick.color": QUIET,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
        "legend.fontsize": 7.5,
    }
    context: AbstractContextManager[None] = style.context(["default", ours])
    return context


def _panel(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.4, 3.1), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x_label, ylabel=y_label)
    return figure, axes


def _svg(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata=_NO_TRACE_SVG)
    return out.getvalue()
