"""Checks of a drawn figure that need no eye.

Is every text whole, apart from the others, and large enough? Is every axis named?
"""

import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from darkhaloscope.report.figures.canvas import house_style

DPI = 300
"""Of the paper's PNG; coarser, hinting moves letters by as much as a tenth of their width."""

SLACK = 1.5
"""Pixels by which boxes may touch: antialiasing."""


def texts_of(figure):
    """(text, box in pixels) of every text that is seen."""
    figure.set_dpi(DPI)
    with house_style():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        unseen = set()
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                seen = (
                    {id(tick) for tick in axis._update_ticks()}
                    if axes.get_visible() and axes.axison
                    else set()
                )
                for tick in (*axis.majorTicks, *axis.minorTicks):
                    if id(tick) not in seen:
                        unseen |= {id(tick.label1), id(tick.label2)}
            if not axes.get_visible():
                unseen |= {id(text) for text in axes.findobj(Text)}
            if not axes.axison:
                unseen |= {id(text) for axis in (axes.xaxis, axes.yaxis) for text in axis.findobj(Text)}
        return [
            (text, text.get_window_extent(renderer))
            for text in figure.findobj(Text)
            if text.get_visible() and text.get_text().strip() and id(text) not in unseen
        ]


def faults(figure):
    """What is clipped, what overlaps, what is too small: a sentence each."""
    found, canvas = [], figure.bbox
    texts = texts_of(figure)
    for text, box in texts:
        if (
            box.x0 < canvas.x0 - SLACK
            or box.y0 < canvas.y0 - SLACK
            or box.x1 > canvas.x1 + SLACK
            or box.y1 > canvas.y1 + SLACK
        ):
            found.append(f"clipped: {text.get_text()!r} {box.extents} in {canvas.extents}")
        if text.get_fontsize() < 6:
            found.append(f"small: {text.get_text()!r} at {text.get_fontsize()} pt")
    for (a, box_a), (b, box_b) in itertools.combinations(texts, 2):
        across = min(box_a.x1, box_b.x1) - max(box_a.x0, box_b.x0)
        down = min(box_a.y1, box_b.y1) - max(box_a.y0, box_b.y0)
        if across > SLACK and down > SLACK:
            found.append(f"overlap: {a.get_text()!r} and {b.get_text()!r}")
    return found


def unnamed_axes(figure):
    """Axes with tick labels and no label of their own."""
    seen = {id(text) for text, _ in texts_of(figure)}
    return [
        f"axes {number}: {name}"
        for number, axes in enumerate(figure.axes)
        for name, axis in (("x", axes.xaxis), ("y", axes.yaxis))
        if any(id(t) in seen and t.get_text().strip() for t in axis.get_ticklabels())
        and not axis.get_label().get_text().strip()
        and not any(
            shared is not axes and shared.xaxis.get_label().get_text() for shared in _sharing(axes, name)
        )
    ]


def _sharing(axes, name):
    return axes.get_shared_x_axes().get_siblings(axes) if name == "x" else []
