"""The look of every figure, and the one place where a figure becomes bytes.

Widths are those of a two-column journal (3.4 in and 7 in); no letter is smaller than 6 pt. Colours are told
apart with any common colour vision (Okabe & Ito 2008, the green darkened so that it also stands out on
white), and every line has a dash and a marker of its own besides. The same value gives the same bytes: no
dates, salted ids, fonts that Matplotlib brings, its own defaults and never the reader's. PDF text is text
(Type 42), SVG text is drawn as paths, so that the page looks the same on every machine.
"""

import bisect
import functools
import io
import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, ParamSpec

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, Formatter, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from darkhaloscope.contracts.checks import Status

SINGLE, DOUBLE = 3.4, 7.0
"""Widths of a figure [in]: one column, two."""

TEXT, SMALL = 7.0, 6.2
"""Sizes of letters [pt]."""

FONT = "DejaVu Sans"
"""It comes with Matplotlib, so that a figure has the same letters everywhere."""

INK, QUIET, PALE = "#1b1f24", "#5f666d", "#dfe5ea"
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#00795A", "#CC79A7"
PERMITTED = "#a9c9de"
STATUS_COLOUR = {Status.PASS: BLUE, Status.FAIL: VERMILION, Status.NOT_EVALUATED: QUIET}
STATUS_MARKER = {Status.PASS: "o", Status.FAIL: "X", Status.NOT_EVALUATED: "D"}
STATUS_SIGN = {Status.PASS: "●", Status.FAIL: "✕", Status.NOT_EVALUATED: "◇"}

PALETTE = (BLUE, VERMILION, GREEN, INK, PURPLE)
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (4, 1.5)),
    (0, (1, 1.2)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (8, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

POINTS_PER_INCH = 72.0
_DPI = 300
_NO_TRACE: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
_OURS = {
    "svg.hashsalt": "darkhaloscope",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "font.family": FONT,
    "font.size": TEXT,
    "mathtext.fontset": "dejavusans",
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.labelsize": TEXT,
    "axes.titlesize": TEXT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "hatch.linewidth": 0.5,
    "hatch.color": "#9aa3ab",
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "legend.handlelength": 2.6,
    "figure.constrained_layout.h_pad": 0.04,
    "figure.constrained_layout.w_pad": 0.04,
}

Given = ParamSpec("Given")


class Look(NamedTuple):
    """Colour, dash and marker of one line."""

    colour: str
    dash: Any
    marker: str


def look(index: int) -> Look:
    """The look of the line at `index`: the first thirty differ in colour or dash, the first five in both."""
    return Look(
        PALETTE[index % len(PALETTE)],
        _DASHES[(index % len(PALETTE) + index // len(PALETTE)) % len(_DASHES)],
        _MARKERS[index % len(_MARKERS)],
    )


def house_style() -> AbstractContextManager[None]:
    """Matplotlib's defaults plus ours, so that a reader's own matplotlibrc changes nothing."""
    context: AbstractContextManager[None] = style.context(["default", _OURS])
    return context


def drawn(draw: Callable[Given, Figure]) -> Callable[Given, Figure]:
    """A figure function that works in the house's style whatever the reader's is."""

    @functools.wraps(draw)
    def inside(*given: Given.args, **named: Given.kwargs) -> Figure:
        with house_style():
            return draw(*given, **named)

    return inside


def rendered(figure: Figure, kind: str) -> bytes:
    """A figure as ``svg``, ``pdf`` or ``png`` (300 dots per inch), its canvas as it was made."""
    out = io.BytesIO()
    with house_style():
        figure.savefig(out, format=kind, dpi=_DPI, metadata=_NO_TRACE[kind])
    return out.getvalue()


# --- text ------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Text from outside on one line, never read as mathematics."""
    return " ".join(text.split()).replace("$", r"\$")


@functools.lru_cache(maxsize=4096)
def _printed(text: str, size: float) -> float:
    if not text.strip():
        return 0.0
    return float(TextPath((0, 0), text, size=size, prop=FontProperties(family=FONT)).get_extents().width)


def points_of(text: str, size: float = SMALL) -> float:
    """Width of a plain text [pt], a little generously."""
    return 1.03 * _printed(text, size) + 1.0


def fitted(text: str, room: float, size: float = SMALL) -> str:
    """`plain(text)`, its middle left out where it is wider than `room` [pt]."""
    line = " ".join(text.split())
    if points_of(plain(line), size) <= room:
        return plain(line)
    fits = bisect.bisect_right(
        range(1, len(line)), room, key=lambda kept: points_of(_shortened(line, kept), size)
    )
    return _shortened(line, fits) if fits else "…"


def _shortened(line: str, kept: int) -> str:
    """So many letters of a line: two thirds from its beginning, the others from its end."""
    tail = kept // 3
    return plain(f"{line[: kept - tail].rstrip()}…{line[len(line) - tail :].lstrip()}")


def axis_label(quantity: str, unit: str, room: float) -> str:
    """``Einstein radius [arcsec]``, on two lines where one of `room` [pt] is too short for it.

    A quantity without a unit says by its name what it is.
    """
    whole = f"{quantity} [{unit}]" if unit else quantity
    if points_of(plain(whole), TEXT) <= room:
        return plain(whole)
    if unit:
        return f"{fitted(quantity, room, TEXT)}\n{fitted(f'[{unit}]', room, TEXT)}"
    words = quantity.split()
    cuts = (k for k in range(len(words), 0, -1) if points_of(plain(" ".join(words[:k])), TEXT) <= room)
    cut = next(cuts, 0)
    first, rest = " ".join(words[:cut]), " ".join(words[cut:])
    return f"{plain(first)}\n{fitted(rest, room, TEXT)}" if first and rest else fitted(quantity, room, TEXT)


def several(count: int, one: str, more: str = "") -> str:
    """``1 pair``, ``3 pairs``."""
    return f"{count:,} {one if count == 1 else more or f'{one}s'}"


def counted(*numbers: int) -> str:
    """``n = 1,225`` or, from several, ``n = 980–1,225``; from ten million on three digits of it."""
    low, high = (f"{n:,}" if n < 1e7 else f"{n:.3g}" for n in (min(numbers), max(numbers)))
    return f"n = {low}" if low == high else f"n = {low}–{high}"


# --- axes ------------------------------------------------------------------------------------------------


def panel(x_label: str, y_label: str, *, width: float = SINGLE, height: float = 2.5) -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x_label, ylabel=y_label)
    return figure, axes


def note(axes: Axes, text: str, room: float = SINGLE * POINTS_PER_INCH * 0.8) -> None:
    """A quiet line above the axes, at its right end: n, mostly."""
    axes.set_title(fitted(text, room), loc="right", fontsize=SMALL, color=QUIET, pad=3)


def key(figure: Figure, handles: Sequence[Any], labels: Sequence[str], *, width: float) -> None:
    """A legend above all axes, as many columns as fit. Nothing is hidden behind it."""
    room = width * POINTS_PER_INCH - 10
    handle = 2.6 * SMALL + 14
    texts = [fitted(label, room - handle) or " " for label in labels]
    widest = max(points_of(text) for text in texts) + handle
    figure.legend(
        handles,
        [f" {text}" for text in texts],  # a label that begins with an underscore would be left out
        loc="outside upper left",
        ncols=max(1, min(len(texts), int(room // widest))),
        columnspacing=1.2,
        handletextpad=0.4,
        borderaxespad=0.2,
    )


def handle(which: Look, *, line: bool = True, marker: bool = False, **more: Any) -> Line2D:
    """What stands for a look in a legend."""
    drawing: dict[str, Any] = {
        "color": which.colour,
        "ls": which.dash if line else "none",
        "marker": which.marker if marker else "none",
        "ms": 3.5,
        "lw": 1.3,
    }
    return Line2D([], [], **(drawing | more))


def few_ticks(axes: Axes, *, x: int = 5, y: int = 5, whole: bool = False) -> None:
    """At most so many intervals between ticks; whole numbers along x if asked."""
    for axis, most in ((axes.xaxis, x), (axes.yaxis, y)):
        axis.set_major_locator(MaxNLocator(most, integer=whole and axis is axes.xaxis))
        axis.set_major_formatter(_Even())


class _Even(Formatter):
    """Ticks with equal decimals, and never a factor of ten standing aside."""

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """All ticks of an axis at once."""
        ticks = [float(value) for value in values]
        steps = [b - a for a, b in itertools.pairwise(sorted(ticks)) if b > a]
        step, most = min(steps, default=1.0), max(map(abs, ticks), default=0.0)
        digits = next((d for d in range(5) if abs(step - round(step, d)) < 1e-3 * step), None)
        shape = f".{digits}f"
        if digits is None or most >= 1e5:
            shape = f".{max(2, math.ceil(math.log10(max(most / step, 1.0))) + 1)}g"
        texts = (f"{x:{shape}}" for x in ticks)
        return [text.replace("-", "\N{MINUS SIGN}") for text in texts]

    def __call__(self, x: float, pos: int | None = None) -> str:
        """One tick alone."""
        del pos
        return self.format_ticks([x])[0]


def log_x(axes: Axes, low: float, high: float, *, most: int = 6) -> None:
    """A logarithmic x axis from `low` to `high` with few ticks: 1-2-5, or decades, or every n-th decade."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [m * 10.0**d for d, m in itertools.product(decades, (1, 2, 5))]
    ticks = [t for t in fine if low * 0.999 <= t <= high * 1.001]
    if len(ticks) > most:
        whole = [10.0**d for d in decades if low * 0.999 <= 10.0**d <= high * 1.001]
        ticks = (
            whole[:: math.ceil(len(whole) / most)]
            if len(whole) > 1
            else ticks[:: math.ceil(len(ticks) / most)]
        )
    wide = high / low > 1e3
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _power(x) if wide else f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _power(x: float) -> str:
    return rf"$10^{{{round(math.log10(x))}}}$"


def grid_of(
    count: int, *, columns: int, row_height: float, extra: float = 0.0
) -> tuple[Figure, list[Axes], float]:
    """A figure with `count` axes in rows of at most `columns`; one alone is a single column wide.

    Returns the figure, its axes, and the room for text above each [pt].
    """
    across = min(count, columns)
    width = SINGLE if across == 1 else DOUBLE
    down = math.ceil(count / across)
    figure = Figure(figsize=(width, row_height * down + extra), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, list(axes[:count]), width * POINTS_PER_INCH / across * 0.72
