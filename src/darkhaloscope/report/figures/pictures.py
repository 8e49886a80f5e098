"""Stamps as pictures: pairs, examples by category, one host under several arms."""

import math

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from darkhaloscope.report.figures.canvas import (
    DOUBLE,
    POINTS_PER_INCH,
    QUIET,
    SINGLE,
    SMALL,
    TEXT,
    drawn,
    fitted,
    several,
)
from darkhaloscope.report.values import ArmsGallery, Examples, Lenses, PairPicture, Pairs, pair_facts
from darkhaloscope.stamps.rgb import png, viewer_rgb

EXAMPLES_ACROSS, LENSES_ACROSS = 10, 6


def pair_png(pair: PairPicture) -> bytes:
    """Stamp, control and arc side by side at one stretch, two white pixels between them."""
    tiles = [viewer_rgb(cube)[::-1] for cube in (pair.stamp, pair.control, pair.arc)]
    gap = np.ones((tiles[0].shape[0], 2, 3))
    return png(np.concatenate([tiles[0], gap, tiles[1], gap, tiles[2]], axis=1))


@drawn
def pairs(value: Pairs) -> Figure:
    """A row for each pair: with arc, control, arc alone; theta_E and S/N beside it."""
    figure = Figure(figsize=(SINGLE, 1.06 * len(value.pairs) + 0.3), layout="constrained")
    grid = figure.subplots(len(value.pairs), 3, squeeze=False)
    for row, pair in zip(grid, value.pairs, strict=True):
        for axes, cube in zip(row, (pair.stamp, pair.control, pair.arc), strict=True):
            _tile(axes, cube)
        row[0].set_ylabel(fitted(pair_facts(pair), 72.0, SMALL), fontsize=SMALL)
    for axes, title in zip(grid[0], ("with arc", "control", "arc alone"), strict=True):
        axes.set_title(title, fontsize=TEXT, pad=3)
    figure.supxlabel(f"n = {several(len(value.pairs), 'pair')}", fontsize=SMALL, color=QUIET)
    return figure


@drawn
def examples(value: Examples) -> Figure:
    """Stamps in reading order; a category's name stands over its first stamp and begins every row."""
    stamps = [example for group in value.by_category.values() for example in group]
    across = min(len(stamps), EXAMPLES_ACROSS)
    width = DOUBLE if across > EXAMPLES_ACROSS // 2 else SINGLE
    side = (width - 0.1) / max(across, 4)
    down = math.ceil(len(stamps) / across)
    figure = Figure(figsize=(width, (side + 0.14) * down + 0.2), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).ravel()
    last = ""
    for place, (axes, example) in enumerate(zip(grid, stamps, strict=False)):
        _tile(axes, example.stamp)
        if example.category != last or place % across == 0:
            room = side * POINTS_PER_INCH - 4
            axes.set_title(fitted(example.category, room), fontsize=SMALL, pad=2, loc="left")
        last = example.category
    for axes in grid[len(stamps) :]:
        axes.set_visible(False)
    sorts = several(len(value.by_category), "category", "categories")
    told = f"n = {several(len(stamps), 'stamp')} in {sorts}"
    figure.supxlabel(told, fontsize=SMALL, color=QUIET)
    return figure


@drawn
def lenses(value: Lenses) -> Figure:
    """Lens fields with their name, their score, and the share of negatives below it."""
    across = min(len(value.lenses), LENSES_ACROSS)
    width = SINGLE if across <= LENSES_ACROSS // 2 else DOUBLE
    side = (width - 0.1) / max(across, 3)
    down = math.ceil(len(value.lenses) / across)
    figure = Figure(figsize=(width, (side + 0.3) * down + 0.2), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).ravel()
    room = side * POINTS_PER_INCH - 4
    for axes, lens in zip(grid, value.lenses, strict=False):
        _tile(axes, lens.stamp)
        axes.set_title(fitted(lens.name, room), fontsize=SMALL, pad=2)
        score = "not scored" if lens.score is None else f"score {lens.score:.3f}"
        above = "" if lens.score is None or lens.percentile is None else f", > {lens.percentile:.1f} %"
        axes.set_xlabel(fitted(score + above, room), fontsize=SMALL, labelpad=2)
    for axes in grid[len(value.lenses) :]:
        axes.set_visible(False)
    figure.supxlabel(f"n = {several(len(value.lenses), 'field')}", fontsize=SMALL, color=QUIET)
    return figure


@drawn
def arms(value: ArmsGallery) -> Figure:
    """Hosts as rows; the galaxy, every arm's stamp and every arm's arc alone as columns."""
    titles = ["host", *value.arms, *(f"{arm} arc" for arm in value.arms)]
    figure = Figure(figsize=(1.3 * len(titles) + 0.5, 1.33 * len(value.rows) + 0.5), layout="constrained")
    grid = figure.subplots(len(value.rows), len(titles), squeeze=False)
    for axes_row, row in zip(grid, value.rows, strict=True):
        for axes, cube in zip(axes_row, (row.control, *row.stamps, *row.arcs), strict=True):
            _tile(axes, cube)
        axes_row[0].set_ylabel(row.facts, fontsize=SMALL, parse_math=False)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(fitted(title, 1.25 * POINTS_PER_INCH, 8), fontsize=8)
    floor = (
        f"hosts passed over below S/N {value.least_snr:g}" if value.least_snr > 0 else "no host passed over"
    )
    told = f"arcs simulated; S/N matched-filter, three bands; {floor}"
    figure.supxlabel(told, fontsize=SMALL, color=QUIET)
    return figure


def _tile(axes: Axes, cube: Float[np.ndarray, "3 y x"]) -> None:
    axes.imshow(viewer_rgb(cube), origin="lower", interpolation="none")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
