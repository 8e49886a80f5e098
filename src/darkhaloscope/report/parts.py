"""What the values of figures are built from: the base class, origins, numbers with intervals, bins.

NaN becomes None, which is drawn as absent; a shape that cannot be drawn is refused where it is made. Shares
and probabilities lie in [0, 1].
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Self

import numpy as np
from jaxtyping import Float
from pydantic import ConfigDict, Field, PlainSerializer, model_validator

from darkhaloscope.contracts.checks import Findings
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

    @property
    def has_number(self) -> bool | None:
        """Whether there is a measured number in it; None for a value whose parts say so themselves."""
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return tuple(_plain(item) for item in value) if isinstance(value, (list, tuple, Findings)) else value


def refuse(wrong: bool, message: str) -> None:  # noqa: FBT001 - read as a sentence where it is called
    """Raise ValueError, which a validator turns into its own, where something is wrong."""
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
    told = list(_measured_parts(value))
    return bool(told) and not any(told)


def _measured_parts(value: Any) -> Iterator[bool]:
    if isinstance(value, tuple):
        for item in value:
            yield from _measured_parts(item)
    elif isinstance(value, Shown):
        own = value.has_number
        if own is not None:
            yield own
            return
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
        refuse(one, "an interval has two ends or none")
        if self.low is not None and self.high is not None:
            refuse(self.low > self.high, f"the interval [{self.low}, {self.high}] is upside down")
        return self

    @property
    def has_number(self) -> bool:
        """Whether there is a number."""
        return self.value is not None

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
        refuse(self.k > self.n, f"k = {self.k} of n = {self.n}")
        shares = [v for v in (self.value, self.low, self.high) if v is not None]
        refuse(any(not 0.0 <= v <= 1.0 for v in shares), "a share lies between 0 and 1")
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
        refuse(None in inner, f"{self.quantity}: only the first and the last edge may be open")
        refuse(any(a >= b for a, b in pairwise(known)), f"{self.quantity}: edges must rise")
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
        refuse(
            not finite or self.x.size < 2, "a fit needs as many finite x, value, low and high, two or more"
        )
        refuse(bool((np.diff(self.x) <= 0).any()), "the x of a fit must rise")
        refuse(bool((self.low > self.high).any()), "a band's low end lies above its high end")
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
        refuse(self.edges.shape != (len(self.counts) + 1,), f"'{self.label}' needs one edge more than counts")
        rising = bool(np.isfinite(self.edges).all() and (np.diff(self.edges) > 0).all())
        refuse(not rising, f"the edges of '{self.label}' must be finite and rise")
        refuse(min(self.counts) < 0, f"a count of '{self.label}' is negative")
        refuse(sum(self.counts) > self.n, f"'{self.label}' counts {sum(self.counts)} of {self.n} rows")
        return self

    @property
    def has_number(self) -> bool:
        """Whether a row was counted."""
        return self.n > 0

    @property
    def density(self) -> Float[np.ndarray, " bin"]:
        """Share of all rows per unit of the quantity; 0 where there are none."""
        widths = np.diff(self.edges)
        density: Float[np.ndarray, " bin"] = np.array(self.counts, np.float64) / (max(self.n, 1) * widths)
        return density
