"""Numbers with their intervals in rows: gates, contaminants by category, arms of an ablation, comparators."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from darkhaloscope.contracts.checks import Bound, Finding, Status
from darkhaloscope.report.figures.canvas import (
    BLUE,
    DOUBLE,
    GREEN,
    INK,
    PALE,
    PERMITTED,
    POINTS_PER_INCH,
    QUIET,
    SINGLE,
    SMALL,
    STATUS_COLOUR,
    STATUS_MARKER,
    VERMILION,
    Look,
    axis_label,
    counted,
    drawn,
    fitted,
    grid_of,
    handle,
    key,
    log_x,
    look,
    note,
    points_of,
)
from darkhaloscope.report.parts import Ranged
from darkhaloscope.report.values import (
    AblationBars,
    Arm,
    ComparatorAuc,
    ComparatorAucs,
    ContaminantRate,
    ContaminantRates,
    Endpoint,
    Gates,
)

NAME_ROOM = 84.0
"""Room for the name of a row [pt]."""

_ROW = 0.19
"""Height of a row [in]; more where several marks share it."""


# --- gates -----------------------------------------------------------------------------------------------


@drawn
def gates(value: Gates) -> Figure:
    """Each gate's value and interval against its bound, one row each, every row on its own scale.

    More than a dozen stand in two columns, read downwards.
    """
    findings = value.findings
    across = 1 if len(findings) <= MOST_GATES_IN_A_COLUMN else 2
    down = math.ceil(len(findings) / across)
    width = across * SINGLE + (across - 1) * (DOUBLE - 2 * SINGLE)
    figure = Figure(figsize=(width, 0.42 * down + 0.1))
    for column in range(across):
        left = (column * (DOUBLE - SINGLE) + 0.02 * SINGLE) / width
        axes = figure.add_axes((left, 0.0, 0.96 * SINGLE / width, 1.0))
        axes.set(xlim=(0, 1), ylim=(-down - 0.1, 0))
        axes.set_axis_off()
        for row, finding in enumerate(findings[column * down : (column + 1) * down]):
            _gate_row(axes, -row - 0.6, finding)
    return figure


MOST_GATES_IN_A_COLUMN = 12

_GATE_WIDTH = 0.96 * SINGLE * POINTS_PER_INCH
_GATE_LEFT = 0.24
"""Where the scales of all rows begin; n stands to the left of it."""


def _gate_row(axes: Axes, y: float, finding: Finding) -> None:
    colour, marker = STATUS_COLOUR[finding.status], STATUS_MARKER[finding.status]
    to_x = _row_scale(finding)
    low, high = finding.bound.low, finding.bound.high
    axes.plot((_GATE_LEFT, 1), (y, y), color=PALE, lw=1)
    permitted = (_GATE_LEFT if low is None else to_x(low), 1.0 if high is None else to_x(high))
    axes.plot(permitted, (y, y), color=PERMITTED, lw=5, solid_capstyle="butt")
    limits = sorted({edge for edge in (low, high) if edge is not None})
    for limit in limits:
        axes.plot((to_x(limit),) * 2, (y - 0.13, y + 0.13), color=INK, lw=1.1)
    _limit_labels(axes, y, limits, to_x)
    if finding.interval is not None:
        axes.plot([to_x(edge) for edge in finding.interval], (y, y), color=colour, lw=1.6)
    if finding.value is not None:
        face = "white" if finding.status is Status.NOT_EVALUATED else colour
        axes.plot(to_x(finding.value), y, marker, color=colour, mfc=face, ms=5, mew=1.0)
    n = "n unrecorded" if finding.n is None else counted(finding.n)
    axes.text(0, y, n, fontsize=SMALL, va="center", color=QUIET)
    words = finding.status.value.replace("_", " ").lower()
    axes.text(1, y + 0.34, words, fontsize=SMALL, va="center", color=colour, ha="right", weight="bold")
    name = finding.name if finding.decides else f"{finding.name} ({finding.version}, does not decide)"
    name = fitted(name, _GATE_WIDTH - 1.25 * points_of(words) - 12)
    shade = INK if finding.decides else QUIET
    axes.text(0, y + 0.34, name, fontsize=SMALL, va="center", color=shade)


def _limit_labels(axes: Axes, y: float, limits: Sequence[float], to_x: Callable[[float], float]) -> None:
    """The bound's numbers under their marks; one text for both where they would touch."""
    texts = [f"{limit:g}".replace("-", "\N{MINUS SIGN}") for limit in limits]
    places = [to_x(limit) for limit in limits]
    if len(limits) == 2 and (places[1] - places[0]) * _GATE_WIDTH < sum(map(points_of, texts)) / 2 + 4:
        texts, places = ["–".join(texts)], [sum(places) / 2]
    for text, x in zip(texts, places, strict=True):
        half = points_of(text) / 2 / _GATE_WIDTH
        inside = min(max(x, _GATE_LEFT + half), 1 - half)
        axes.text(inside, y - 0.19, text, fontsize=SMALL, color=INK, ha="center", va="top")


def _row_scale(finding: Finding) -> Callable[[float], float]:
    """The map from a gate's own values to the row's part of [0, 1]."""
    bound: Bound = finding.bound
    marks = [m for m in (bound.low, bound.high, finding.value, *(finding.interval or ())) if m is not None]
    low, high = min(marks), max(marks)
    pad = 0.25 * (high - low) or 0.25 * abs(high) or 0.5
    return lambda value: _GATE_LEFT + (1 - _GATE_LEFT) * (value - low + pad) / (high - low + 2 * pad)


# --- contaminants ----------------------------------------------------------------------------------------


@drawn
def contaminants(value: ContaminantRates) -> Figure:
    """Rate by category with its interval, a mark for each threshold; an arrow at 3/n: none was hit."""
    categories = list(dict.fromkeys(row.category for row in value.rows))
    thresholds = list(dict.fromkeys(row.threshold for row in value.rows))
    figure, axes, offsets = _table("category", categories, len(thresholds))
    left = _lowest(value.rows)
    log_x(axes, left, 1.15, most=5)
    for row in value.rows:
        y = -categories.index(row.category) + offsets[thresholds.index(row.threshold)]
        _rate(axes, y, row, look(thresholds.index(row.threshold)), left)
    sizes = {c: [row.n for row in value.rows if row.category == c] for c in categories}
    _beside(axes, [counted(*sizes[category]) for category in categories])
    axes.set_xlabel("false positive rate (share above the threshold)")
    handles = [handle(look(i), line=False, marker=True) for i in range(len(thresholds))]
    key(figure, handles, thresholds, width=SINGLE)
    return figure


def no_hits_bound(n: int) -> float:
    """3/n, the one-sided 95 % bound on a rate that n trials never hit; at most 1."""
    return min(1.0, 3.0 / n) if n else 1.0


def _lowest(rows: Sequence[ContaminantRate]) -> float:
    ends = [no_hits_bound(row.n) / 3 if row.k == 0 else row.low or row.value for row in rows if row.n]
    lowest = min((end for end in ends if end), default=0.1)
    return float(10.0 ** math.floor(math.log10(min(lowest, 0.3))))


def _rate(axes: Axes, y: float, row: ContaminantRate, which: Look, left: float) -> None:
    if not row.n or row.value is None:
        return
    face = which.colour if row.sufficient else "white"
    if row.k == 0:
        bound = no_hits_bound(row.n)
        arrow = {"arrowstyle": "-|>", "color": which.colour, "lw": 0.9, "mutation_scale": 5, "shrinkA": 0}
        axes.annotate("", (max(bound / 4, left), y), (bound, y), arrowprops=arrow)
        axes.plot(bound, y, "|", color=which.colour, ms=5, mew=1.2)
        return
    if row.interval is not None:
        low, high = row.interval
        axes.hlines(y, max(low, left), high, color=which.colour, lw=1.1)
    axes.plot(row.value, y, which.marker, color=which.colour, mfc=face, ms=3.8, mew=0.9)


# --- comparators -----------------------------------------------------------------------------------------


@drawn
def comparators(value: ComparatorAucs) -> Figure:
    """Probe AUC of each comparator with its interval; the band is what counts as equivalent to chance."""
    names = list(dict.fromkeys(row.comparator for row in value.rows))
    features = list(dict.fromkeys(row.features for row in value.rows))
    figure, axes, offsets = _table("comparator", [_told(value.rows, n) for n in names], len(features))
    axes.axvspan(0.5 - value.margin, 0.5 + value.margin, color=PALE, lw=0, zorder=0)
    axes.axvline(0.5, color=QUIET, lw=0.8, ls=(0, (1, 2)))
    for row in value.rows:
        y = -names.index(row.comparator) + offsets[features.index(row.features)]
        _mark(axes, y, row, look(features.index(row.features)))
    sizes = {name: [row.n for row in value.rows if row.comparator == name] for name in names}
    _beside(axes, [counted(*sizes[name]) for name in names])
    ends = [e for row in value.rows for e in (row.value, row.low, row.high) if e is not None]
    ends += [0.5 - value.margin, 0.5 + value.margin]
    axes.set_xlim(max(0.0, min(ends) - 0.03), min(1.0, max(ends) + 0.03) if max(ends) < 1 else 1.01)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("AUC of the probe (probability)")
    handles: list[Any] = [handle(look(i), line=False, marker=True) for i in range(len(features))]
    handles.append(Patch(color=PALE))
    key(figure, handles, [*features, f"0.5 ± {value.margin:g}"], width=SINGLE)
    return figure


def _told(rows: Sequence[ComparatorAuc], name: str) -> str:
    what = next(row.what for row in rows if row.comparator == name)
    return fitted(f"{name} {what}".strip(), NAME_ROOM)


def _mark(axes: Axes, y: float, row: Ranged, which: Look, *, size: float = 3.8) -> None:
    if row.interval is not None:
        axes.hlines(y, *row.interval, color=which.colour, lw=1.1)
    if row.value is not None:
        axes.plot(row.value, y, which.marker, color=which.colour, ms=size, ls="none")


# --- ablation --------------------------------------------------------------------------------------------

ENDPOINTS_ACROSS = 3

VERDICT_LOOKS = {
    "": Look(BLUE, "-", "o"),
    "significant": Look(BLUE, "-", "o"),
    "differs": Look(VERMILION, "-", "^"),
    "equivalent": Look(GREEN, "-", "s"),
    "inconclusive": Look(INK, "-", "D"),
}
"""A colour and a shape for each verdict; a mark that shows nothing is hollow."""

_REMARK_SHARE = 0.6
"""Of the room above a panel: what a remark in a row may take."""


@drawn
def ablation(value: AblationBars) -> Figure:
    """A panel for each endpoint, a row for each arm: bar from the reference, interval, every seed a point.

    The band is what does not count; the mark of a difference is its verdict's.
    """
    arms, count = value.arms, len(value.endpoints)
    across = min(count, ENDPOINTS_ACROSS)
    height = max(_ROW * 1.25 * len(arms) + 0.62, 1.2)
    figure, panels, room = grid_of(count, columns=ENDPOINTS_ACROSS, row_height=height, extra=0.2)
    names = [fitted(arm, NAME_ROOM) for arm in arms]
    for place, (axes, endpoint) in enumerate(zip(panels, value.endpoints, strict=True)):
        if endpoint.reference is not None:
            axes.axvline(endpoint.reference, color=INK, lw=0.8, ls=_REFERENCE_DASH, zorder=3)
        if endpoint.least is not None:
            middle = endpoint.reference or 0.0
            axes.axvspan(middle - endpoint.least, middle + endpoint.least, color=PALE, lw=0, zorder=0)
        for row, arm in enumerate(endpoint.arms):
            _bar(axes, -row, arm, endpoint.reference, room * _REMARK_SHARE)
        axes.set(ylim=(-len(arms) + 0.4, 0.6), xlabel=axis_label(endpoint.quantity, endpoint.unit, room))
        axes.set_yticks([-i for i in range(len(arms))], names if place % across == 0 else [""] * len(arms))
        axes.tick_params(axis="y", length=0)
        if place % across == 0:
            axes.set_ylabel("arm")
        axes.set_xlim(*_span(endpoint))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        note(axes, counted(*(arm.n for arm in endpoint.arms)), room)
    handles, labels = _ablation_key(value)
    key(figure, handles, labels, width=SINGLE if count == 1 else 2 * SINGLE)
    return figure


_REFERENCE_DASH = (0, (4, 2))


def _bar(axes: Axes, y: float, arm: Arm, reference: float | None, room: float) -> None:
    which = VERDICT_LOOKS[arm.verdict]
    if arm.value is None:
        if arm.remark:
            white = {"boxstyle": "square,pad=0.15", "fc": "white", "ec": "none"}
            words: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "bbox": white}
            axes.text(0.03, y, fitted(arm.remark, room), fontsize=SMALL, color=QUIET, zorder=6, **words)
        return
    start = 0.0 if reference is None else reference
    axes.barh(y, arm.value - start, left=start, height=0.5, color=PERMITTED, lw=0, zorder=1)
    for seed in arm.seeds:
        if seed.value is not None:
            axes.plot(seed.value, y, "o", color=INK, mfc="white", ms=2, mew=0.6, zorder=5)
    if arm.interval is not None:
        axes.hlines(y, *arm.interval, color=which.colour, lw=1.2, zorder=4)
    face = "white" if arm.verdict == "inconclusive" else which.colour
    axes.plot(arm.value, y, which.marker, color=which.colour, mfc=face, ms=4, mew=0.9, zorder=4)


def _ablation_key(value: AblationBars) -> tuple[list[Any], list[str]]:
    """What stands for each mark that is drawn, with its words."""
    arms = [arm for endpoint in value.endpoints for arm in endpoint.arms]
    told = {arm.verdict for arm in arms if arm.value is not None} or {""}
    handles: list[Any] = []
    for verdict, which in VERDICT_LOOKS.items():
        if verdict in told:
            face = "white" if verdict == "inconclusive" else which.colour
            handles.append(handle(which, line=False, marker=True, ms=4, mfc=face, mew=0.9))
    labels: list[str] = [verdict or "value and interval" for verdict in VERDICT_LOOKS if verdict in told]
    if any(seed.value is not None for arm in arms for seed in arm.seeds):
        handles.append(handle(Look(INK, "none", "o"), line=False, marker=True, ms=2, mfc="white", mew=0.6))
        labels.append("one seed")
    if any(endpoint.least is not None for endpoint in value.endpoints):
        handles.append(Patch(color=PALE))
        labels.append("too small to count")
    if any(endpoint.reference is not None for endpoint in value.endpoints):
        handles.append(handle(Look(INK, _REFERENCE_DASH, "none"), lw=0.8))
        labels.append(value.reference_label)
    return handles, labels


def _span(endpoint: Endpoint) -> tuple[float, float]:
    middle = 0.0 if endpoint.reference is None else endpoint.reference
    least = endpoint.least or 0.0
    known = [middle - least, middle + least]
    for arm in endpoint.arms:
        known += [v for v in (arm.value, arm.low, arm.high) if v is not None]
        known += [seed.value for seed in arm.seeds if seed.value is not None]
    pad = 0.06 * (max(known) - min(known)) or 0.5
    return min(known) - pad, max(known) + pad


# --- rows ------------------------------------------------------------------------------------------------


def _table(label: str, names: Sequence[str], marks: int) -> tuple[Figure, Axes, list[float]]:
    """Axes with a named row for each name, room for some marks in each; and the marks' offsets."""
    pitch = max(_ROW, 0.08 * marks)
    figure = Figure(figsize=(SINGLE, max(pitch * len(names) + 0.75, 1.4)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks([-i for i in range(len(names))], [fitted(name, NAME_ROOM) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(-len(names) + 0.4, 0.6), ylabel=label)
    for row in range(len(names) - 1):
        axes.axhline(-row - 0.5, color=PALE, lw=0.5, zorder=0)
    spread = 0.62 * (marks - 1) / max(marks, 1)
    return figure, axes, [spread / 2 - spread * i / max(marks - 1, 1) for i in range(marks)]


def _beside(axes: Axes, texts: Sequence[str]) -> None:
    """A quiet text at the right end of each row."""
    for row, text in enumerate(texts):
        axes.text(
            1.02, -row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=SMALL, color=QUIET
        )
