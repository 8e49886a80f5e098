"""Two dimensions and distributions: the selection map, and how simulated and real stamps differ."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from darkhaloscope.report.figures.canvas import (
    DOUBLE,
    POINTS_PER_INCH,
    QUIET,
    SINGLE,
    SMALL,
    TEXT,
    Look,
    axis_label,
    counted,
    drawn,
    few_ticks,
    fitted,
    grid_of,
    handle,
    key,
    look,
    note,
    points_of,
)
from darkhaloscope.report.parts import Binning, Counted
from darkhaloscope.report.values import Distribution, Profile, Realism, SelectionMap

COLOURS = "cividis"
"""One lightness and one hue axis, alike without red-green vision (Nunez, Anderton & Renslow 2018)."""

WIDEST_SINGLE = 5
"""Columns of cells that a single column of a journal holds with their k/n."""


@drawn
def selection_map(value: SelectionMap) -> Figure:
    """Found share by two quantities, cells of equal size with value and k/n; hatched: too few rows to say."""
    columns, rows = value.x.size, value.y.size
    width = SINGLE if columns <= WIDEST_SINGLE else DOUBLE
    row_height = min(0.42, max(0.24, 8.5 / rows))
    figure = Figure(figsize=(width, max(row_height * rows + 0.75, 1.7)), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(0, columns), ylim=(0, rows))
    axes.spines[:].set_visible(False)
    room = (width - 1.15) * POINTS_PER_INCH / columns - 3
    lines = _cell_lines([cell for row in value.cells for cell in row], room, row_height * POINTS_PER_INCH)
    scale = ScalarMappable(Normalize(0, 1), colormaps[COLOURS])
    for place, cell in enumerate(cell for row in value.cells for cell in row):
        _cell(axes, (place % columns, place // columns), cell, scale, lines)
    _edges(axes, value.x, value.y, pitch=room + 3, height=figure.get_figheight())
    note(axes, f"n = {value.n:,} arcs", (width - 1.2) * POINTS_PER_INCH)
    bar = figure.colorbar(scale, ax=axes, pad=0.02, aspect=25, fraction=0.05)
    bar.set_label("found share of arcs")
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1])
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set(
            rasterized=False, edgecolor="face"
        )  # Matplotlib makes pixels of it, with seams between
    return figure


def _cell_lines(cells: Sequence[Counted], room: float, height: float) -> int:
    """How many of the two lines (share, k/n) fit into every cell."""
    if max(points_of(f"{cell.k}/{cell.n}") for cell in cells) <= room and height >= 2 * SMALL + 4:
        return 2
    return 1 if points_of("0.00") <= room and height >= SMALL + 2 else 0


def _cell(axes: Axes, at: tuple[int, int], cell: Counted, scale: ScalarMappable, lines: int) -> None:
    edge: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.8}
    if cell.usable and cell.value is not None:
        red, green, blue, _ = scale.to_rgba(np.asarray(cell.value))
        axes.add_patch(Rectangle(at, 1, 1, facecolor=(red, green, blue), **edge))
        ink = "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45 else "black"
        told = [f"{cell.value:.2f}", f"{cell.k}/{cell.n}"][:lines]
    else:
        axes.add_patch(Rectangle(at, 1, 1, facecolor="white", hatch="/////", edgecolor="#b4bcc4", lw=0))
        axes.add_patch(Rectangle(at, 1, 1, fill=False, **edge))
        ink, told = QUIET, [f"{cell.k}/{cell.n}"][: max(lines - 1, 0)]
    box = None if cell.usable else {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    if told:
        axes.text(
            at[0] + 0.5, at[1] + 0.5, "\n".join(told), ha="center", va="center", fontsize=SMALL,
            color=ink, bbox=box, linespacing=1.05,
        )  # fmt: skip


def _edges(axes: Axes, x: Binning, y: Binning, *, pitch: float, height: float) -> None:
    """Ticks at the edges of the cells; `pitch` of a cell [pt], `height` of the figure [in]."""
    widest = max(points_of(mark) for mark in x.marks) + 3
    step = max(1, int(np.ceil(widest / pitch)))
    axes.set_xticks(range(0, x.size + 1, step), x.marks[::step])
    axes.set_yticks(range(y.size + 1), y.marks)
    axes.tick_params(length=2)
    axes.set_xlabel(axis_label(x.quantity, x.unit, pitch * x.size))
    axes.set_ylabel(axis_label(y.quantity, y.unit, 0.9 * POINTS_PER_INCH * height - 30))


# --- realism ---------------------------------------------------------------------------------------------


@drawn
def realism(value: Realism) -> Figure:
    """A panel for each quantity: outlines of histograms, or median and outer quantiles along x."""
    labels = list(dict.fromkeys(sample.label for panel in value.panels for sample in panel.samples))
    figure, panels, room = grid_of(len(value.panels), columns=3, row_height=1.9, extra=0.3)
    for axes, panel in zip(panels, value.panels, strict=True):
        looks = [look(labels.index(sample.label)) for sample in panel.samples]
        if isinstance(panel, Distribution):
            _distribution(axes, panel, looks, room)
        else:
            _profile(axes, panel, looks, room)
        few_ticks(axes, x=4, y=4)
        sizes = [sample.n for sample in panel.samples]
        each = f"n = {' / '.join(f'{n:,}' for n in sizes)}"
        note(axes, each if points_of(each) <= room else counted(*sizes), room)
    handles = [handle(look(i)) for i in range(len(labels))]
    key(figure, handles, labels, width=SINGLE if len(value.panels) == 1 else DOUBLE)
    return figure


def _distribution(axes: Axes, panel: Distribution, looks: Sequence[Look], room: float) -> None:
    for sample, which in zip(panel.samples, looks, strict=True):
        axes.stairs(sample.density, sample.edges, color=which.colour, ls=which.dash, lw=1.2)
    axes.set_ylim(0, None if any(sample.density.any() for sample in panel.samples) else 1)
    axes.set_xlabel(axis_label(panel.quantity, panel.unit, room))
    axes.set_ylabel(fitted(f"share per {panel.unit or 'unit'}", 1.3 * POINTS_PER_INCH, TEXT))


def _profile(axes: Axes, panel: Profile, looks: Sequence[Look], room: float) -> None:
    for sample, which in zip(panel.samples, looks, strict=True):
        axes.fill_between(sample.x, sample.low, sample.high, color=which.colour, alpha=0.15, lw=0)
        axes.plot(sample.x, sample.median, color=which.colour, ls=which.dash, lw=1.2)
    axes.set_xlabel(axis_label(panel.x_quantity, panel.x_unit, room))
    axes.set_ylabel(axis_label(panel.quantity, panel.unit, 1.3 * POINTS_PER_INCH))
