"""Lines: training, ranking, calibration, completeness along one quantity."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation, Transform

from darkhaloscope.report.figures.canvas import (
    BLUE,
    DOUBLE,
    INK,
    PALE,
    POINTS_PER_INCH,
    QUIET,
    SINGLE,
    SMALL,
    Look,
    axis_label,
    counted,
    drawn,
    few_ticks,
    grid_of,
    handle,
    key,
    log_x,
    look,
    note,
    panel,
    points_of,
)
from darkhaloscope.report.values import (
    Completeness,
    CompletenessBin,
    History,
    Reliability,
    ReliabilityCurve,
    Roc,
    RocCurve,
    SelectionCurve,
    SelectionCurves,
    SelectionPoint,
)

DECIDING_COUNT = 10
"""Negatives that must lie above a threshold before its false-positive rate says anything (+-60 %)."""

MOST_MARKS = 40
"""Epochs beyond which a training curve is a line alone."""

_CHANCE: dict[str, Any] = {"color": QUIET, "lw": 0.8, "ls": (0, (1, 2))}


# --- training --------------------------------------------------------------------------------------------


@drawn
def training_loss(history: History) -> Figure:
    """Loss by epoch on the training and select splits."""
    figure, axes = panel("epoch", "loss (mean per row)")
    _history(figure, axes, history, {"train_loss": "train", "select_loss": "select"})
    return figure


@drawn
def training_auroc(history: History) -> Figure:
    """AUROC by epoch on the select split, whole stamp and core masked."""
    figure, axes = panel("epoch", "AUROC, select split (probability)")
    columns = {"select_auroc": "whole stamp", "select_core_masked_auroc": "core masked (r < 5 px)"}
    _history(figure, axes, history, columns)
    axes.axhline(0.5, **_CHANCE)
    axes.set_ylim(min(0.45, axes.get_ylim()[0]), 1.0)
    return figure


def _history(figure: Figure, axes: Axes, history: History, columns: dict[str, str]) -> None:
    handles, labels = [], []
    for index, (column, label) in enumerate(columns.items()):
        points = [(e.epoch, getattr(e, column)) for e in history.epochs if getattr(e, column) is not None]
        if points:
            x, y = zip(*points, strict=True)
            which, few = look(index), len(x) <= MOST_MARKS
            marker = which.marker if few else "none"
            axes.plot(x, y, color=which.colour, ls=which.dash, marker=marker, ms=2.2, lw=1.3)
            handles.append(handle(which, marker=few))
            labels.append(label)
    if history.best_epoch is not None:
        rule = axes.axvline(history.best_epoch, color=QUIET, lw=0.8, ls=(0, (4, 2)))
        handles.append(rule)
        labels.append(f"kept: epoch {history.best_epoch}")
    if not axes.lines:
        axes.set_ylim(0, 1)
    few_ticks(axes, whole=True)
    sizes = [f"{'unrecorded' if n is None else f'{n:,}'} {split}" for n, split in _splits(history)]
    note(axes, f"n = {', '.join(sizes)}")
    if handles:
        key(figure, handles, labels, width=SINGLE)


def _splits(history: History) -> tuple[tuple[int | None, str], ...]:
    return (history.n_train, "train"), (history.n_select, "select")


# --- ranking ---------------------------------------------------------------------------------------------


@drawn
def roc(value: Roc) -> Figure:
    """True against false positive rate. The diagonal is chance.

    Shaded: rates that fewer than ten of the largest pool of negatives would reach, where no curve says
    anything. A curve is pale where fewer than ten of its own negatives lie above.
    """
    figure, axes = _roc(value, 0.0)
    axes.set(xlim=(-0.01, 1))
    few_ticks(axes)
    axes.plot((0, 1), (0, 1), **_CHANCE)
    return figure


@drawn
def roc_log(value: Roc) -> Figure:
    """As `roc`, with a logarithmic false positive rate."""
    n_neg = _pool(value)
    left = min(1e-2, 0.3 / n_neg) if n_neg else 1e-2
    figure, axes = _roc(value, left)
    log_x(axes, left, 1.0)
    chance = np.geomspace(left, 1.0, 100)
    axes.plot(chance, chance, **_CHANCE)
    told = f"< {DECIDING_COUNT} of {n_neg:,} negatives"
    silent = np.log(_silent(n_neg) / left) / np.log(1 / left)
    room = silent * 0.75 * SINGLE * POINTS_PER_INCH
    if room > points_of(told):
        axes.text(left * 1.15, 1.0, told, color=QUIET, fontsize=SMALL, va="top")
    return figure


def _pool(value: Roc) -> int:
    return max(curve.n_neg for curve in value.curves)


def _silent(n_neg: int) -> float:
    return min(1.0, DECIDING_COUNT / n_neg) if n_neg else 1.0


def _roc(value: Roc, left: float) -> tuple[Figure, Axes]:
    figure, axes = panel("false positive rate (share)", "true positive rate (share)", height=2.7)
    axes.set_ylim(0, 1.02)
    axes.axvspan(left, _silent(_pool(value)), color=PALE, lw=0, zorder=0)
    for index, curve in enumerate(value.curves):
        _roc_line(axes, curve, look(index), left)
    labels = [f"{curve.label}, n = {curve.n_pos:,} + {curve.n_neg:,}" for curve in value.curves]
    handles = [handle(look(index)) for index in range(len(labels))]
    key(figure, handles, labels, width=SINGLE)
    return figure, axes


def _roc_line(axes: Axes, curve: RocCurve, which: Look, left: float) -> None:
    x, silent = np.maximum(curve.fpr, left), _silent(curve.n_neg)
    last = int((x <= silent).sum())  # both parts hold this point: a gap would look like missing data
    for part, pale in ((slice(max(last - 1, 0), None), False), (slice(0, last), True)):
        axes.plot(
            x[part], curve.tpr[part], color=which.colour, ls=which.dash, lw=1.4, alpha=0.4 if pale else 1.0
        )


# --- calibration -----------------------------------------------------------------------------------------


@drawn
def reliability(value: Reliability) -> Figure:
    """Observed share against stated probability, a curve for each calibrator; below, rows by probability."""
    counts = [curve for curve in value.curves if curve.probabilities is not None]
    figure = Figure(figsize=(SINGLE, 3.6 if counts else 2.9), layout="constrained")
    grid = figure.subplots(
        2 if counts else 1, sharex=True, squeeze=False, height_ratios=(3, 1) if counts else None
    )
    axes = grid[0, 0]
    axes.plot((0, 1), (0, 1), **_CHANCE)
    for index, curve in enumerate(value.curves):
        _reliability_line(axes, curve, look(index))
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="observed share of positives")
    note(axes, f"n = {value.n_pos:,} positives, {value.n_neg:,} negatives")
    if counts:
        _how_many(grid[1, 0], value)
    grid[-1, 0].set_xlabel("stated probability")
    looks = [look(index) for index in range(len(value.curves))]
    key(
        figure,
        [handle(which, marker=True) for which in looks],
        [c.label for c in value.curves],
        width=SINGLE,
    )
    return figure


def _reliability_line(axes: Axes, curve: ReliabilityCurve, which: Look) -> None:
    for cell in curve.bins:
        if cell.interval is not None:
            axes.vlines(cell.probability, *cell.interval, color=which.colour, lw=1.0)
    points = [(cell.probability, cell.value) for cell in curve.bins if cell.value is not None]
    x, y = [point[0] for point in points], [point[1] for point in points]
    axes.plot(x, y, color=which.colour, ls=which.dash, marker=which.marker, ms=3, lw=1.0)


def _how_many(axes: Axes, value: Reliability) -> None:
    for index, curve in enumerate(value.curves):
        if curve.probabilities is not None:
            which, held = look(index), curve.probabilities
            axes.stairs(held.counts, held.edges, color=which.colour, ls=which.dash, lw=1.1)
    axes.set(ylabel="rows (count)", yscale="symlog", ylim=(0, None))
    top = max(max(c.probabilities.counts) for c in value.curves if c.probabilities is not None)
    axes.set_yticks([0, 10 if top < 100 else 10 ** int(np.log10(top))])
    axes.minorticks_off()


# --- completeness ----------------------------------------------------------------------------------------


@drawn
def completeness(value: Completeness) -> Figure:
    """Found share of arcs by Einstein radius with its interval and k/n; hollow: too few rows to say."""
    bins = value.bins
    width = SINGLE if len(bins) <= 20 else DOUBLE
    figure, axes = panel("Einstein radius [arcsec]", "found share of arcs", width=width)
    pitch = (width - 0.6) * POINTS_PER_INCH / len(bins)
    for x, cell in enumerate(bins):
        if cell.interval is not None:
            axes.vlines(x, *cell.interval, color=BLUE, lw=1.4)
        if cell.value is not None:
            face = BLUE if cell.sufficient else "white"
            axes.plot(x, cell.value, "o", color=BLUE, mfc=face, ms=4)
    tallies = [f"{cell.k}/{cell.n}" for cell in bins]
    floor = _tally(axes, tallies, pitch)
    _edge_ticks(axes, bins, pitch)
    axes.set(xlim=(-0.6, len(bins) - 0.4), ylim=(floor, 1.04))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.axhline(0.0, color=PALE, lw=0.8, zorder=0)
    note(axes, counted(sum(cell.n for cell in bins)))
    return figure


def _tally(axes: Axes, tallies: Sequence[str], pitch: float) -> float:
    """k/n below each point, upright where it would not fit across; returns the floor of the axes."""
    widest = max(points_of(text) for text in tallies)
    if widest > pitch and pitch < SMALL + 2:
        return -0.04  # too many bins even for upright text: the table has k and n
    across = widest <= pitch
    height = (SMALL + 7 if across else widest + 6) / (1.7 * POINTS_PER_INCH)
    floor = -height / (1 - height)
    for x, text in enumerate(tallies):
        axes.text(
            x, floor * 0.62, text, ha="center", va="center", fontsize=SMALL, color=QUIET,
            rotation="horizontal" if across else "vertical",
        )  # fmt: skip
    return floor


def _edge_ticks(axes: Axes, bins: Sequence[CompletenessBin], pitch: float) -> None:
    """Bins of equal width whose edges carry the labels; an open end is infinity."""
    edges = [*(cell.lo for cell in bins), bins[-1].hi]
    labels = ["∞" if edge is None else f"{edge:.4g}" for edge in edges]
    room = max(points_of(text) for text in labels) + 3
    step = max(1, int(np.ceil(room / pitch)))
    axes.set_xticks([x - 0.5 for x in range(0, len(edges), step)], labels[::step])


# --- selection curves ------------------------------------------------------------------------------------


@drawn
def selection_curves(value: SelectionCurves) -> Figure:
    """Found share along each quantity: points with intervals, fitted line and its band; hollow: too few."""
    quantities = list(dict.fromkeys(curve.quantity for curve in value.curves))
    labels = list(dict.fromkeys(curve.label for curve in value.curves))
    figure, panels, room = grid_of(len(quantities), columns=2, row_height=2.3, extra=0.3)
    for axes, quantity in zip(panels, quantities, strict=True):
        curves = [curve for curve in value.curves if curve.quantity == quantity]
        axes.set_xlabel(axis_label(quantity, curves[0].unit, room))
        axes.set_ylabel("found share of arcs")
        _limits(axes, curves)
        for place, curve in enumerate(curves):
            aside = 2.5 * (place - (len(curves) - 1) / 2)
            _selection_line(axes, curve, look(labels.index(curve.label)), aside)
        axes.set(ylim=(-0.03, 1.03), yticks=[0, 0.25, 0.5, 0.75, 1.0])
        note(axes, counted(*(sum(p.n for p in curve.points) for curve in curves)), room)
    handles: list[Any] = [handle(look(i), line=False, marker=True) for i in range(len(labels))]
    if any(curve.fit is not None for curve in value.curves):
        handles.append((Patch(color=PALE), handle(Look(INK, "-", "none"))))
        labels.append("fit and its band")
    key(figure, handles, labels, width=SINGLE if len(quantities) == 1 else DOUBLE)
    return figure


def _limits(axes: Axes, curves: Sequence[SelectionCurve]) -> None:
    xs = [x for c in curves for p in c.points for x in (p.x, p.lo, p.hi) if x is not None]
    xs += [float(x) for c in curves if c.fit is not None for x in c.fit.x[[0, -1]]]
    if all(curve.log_x for curve in curves):
        xs = [x for x in xs if x > 0]
        log_x(axes, min(xs) / 1.1, max(xs) * 1.1)
        return
    pad = 0.04 * (max(xs) - min(xs)) or 0.5
    axes.set_xlim(min(xs) - pad, max(xs) + pad)
    few_ticks(axes)


def _selection_line(axes: Axes, curve: SelectionCurve, which: Look, aside: float) -> None:
    """Fit and points; the points `aside` [pt] of their x, so that several curves can be told apart."""
    if curve.fit is not None:
        fit = curve.fit
        axes.fill_between(fit.x, fit.low, fit.high, color=which.colour, alpha=0.15, lw=0)
        axes.plot(fit.x, fit.value, color=which.colour, ls=which.dash, lw=1.2)
    shift = ScaledTranslation(aside / POINTS_PER_INCH, 0, axes.figure.dpi_scale_trans)
    for point in curve.points:
        _selection_point(axes, point, which, axes.transData + shift)


def _selection_point(axes: Axes, point: SelectionPoint, which: Look, place: Transform) -> None:
    if point.value is None:
        return
    if point.interval is not None:
        axes.vlines(point.x, *point.interval, color=which.colour, lw=1.1, transform=place)
    if point.lo is not None and point.hi is not None:
        axes.hlines(point.value, point.lo, point.hi, color=which.colour, lw=0.6)
    face = which.colour if point.sufficient else "white"
    drawing: dict[str, Any] = {"color": which.colour, "mfc": face, "ms": 3.8, "transform": place}
    axes.plot(point.x, point.value, which.marker, **drawing)
