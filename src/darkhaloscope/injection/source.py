"""Background sources: surface brightness at source-plane positions, and nothing else.

Ray-tracing, sampling, PSF, flux bookkeeping and noise are paid for in `injection.imaging`; a new morphology
is a `Morphology` and its place in `Source.parts`. Positions in arcsec in the lens's frame, angles in radians
from +x towards +y, fluxes in nanomaggies, bands g r z. Total fluxes are normalised analytically in the source
plane: an intrinsic magnitude means the same whatever the lens does.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace
from scipy import special

from darkhaloscope.injection.lens import Array
from darkhaloscope.survey.release import to_nmgy

FloatArray = npt.NDArray[np.float64]

UNSEEN_FLUX = 5e-5
"""Share of a source's light that is left out at its rim."""

_NOTHING = 1e-30
"""Keeps logarithms of squared radii finite, [local unit^2]."""

_BLIND = 10.0
"""Squares that do not resolve a source at all come in numbers: each counts as so many times its error."""

_GRAINY = 8.0
"""A shape of any kind may have structure everywhere, as noise has: the errors of its many squares add up."""

_FIRST = np.zeros(1, dtype=np.intp)

DISC_INDEX, BULGE_INDEX = 1.0, 4.0
"""Sersic indices of the two-component source: an exponential disc and a de Vaucouleurs bulge."""


class Morphology(Protocol):
    """A shape of unit flux; what a new kind of source has to supply."""

    @property
    def x(self) -> float:
        """Centre in the source plane [arcsec]."""

    @property
    def y(self) -> float:
        """Centre in the source plane [arcsec]."""

    @property
    def extent(self) -> float:
        """Radius about the centre beyond which there is no light worth a ray [arcsec]."""

    def brightness(self, beta_x: Array, beta_y: Array) -> Array:
        """Surface brightness [1/arcsec^2] at source-plane positions [arcsec], shaped like them."""

    def sampling_error(self, beta_x: Array, beta_y: Array, reach: Array) -> Array:
        """About how wrong [1/arcsec^2] the four-point Gauss rule is for the mean of a square.

        beta_x, beta_y   where the square's middle lands [arcsec]
        reach            how far from there its corners land [arcsec]
        """


@dataclass(frozen=True)
class Sersic:
    """An elliptical Sersic profile of unit flux; index 0.5 is a Gaussian.

    R_sersic   half-light radius, circularised sqrt(ab) [arcsec]: lenstronomy's R_sersic
    n_sersic   index
    q, phi     axis ratio and major-axis angle [rad]
    x, y       centre [arcsec]
    """

    R_sersic: float
    n_sersic: float
    q: float = 1.0
    phi: float = 0.0
    x: float = 0.0
    y: float = 0.0

    def brightness(self, beta_x: Array, beta_y: Array) -> Array:
        """Surface brightness [1/arcsec^2] at source-plane positions [arcsec], shaped like them."""
        return self._alone.brightness(*self._alone.local(beta_x, beta_y, _FIRST), _FIRST)

    @cached_property
    def _alone(self) -> "SersicStack":
        return SersicStack.of([self])


class Stack(Protocol):
    """Shapes of one kind, evaluated together: `shape` (n,) says to which the positions (..., n) belong.

    Each has local coordinates, centred and in units of its own.

    """

    @property
    def extent(self) -> Array:
        """Radius beyond which there is no light worth a ray [local unit]."""

    @property
    def unit(self) -> Array:
        """Smallest number of arcsec that one local unit spans in any direction."""

    def on(self, xp: Any, dtype: Any, device: Any) -> "Stack":
        """The same in another array namespace."""

    def seen_from(self, x: Array, y: Array, phi: Array) -> "Stack":
        """The same in source-plane frames with origins (x, y) [arcsec], turned by phi [rad], one a shape."""

    def local(self, beta_x: Array, beta_y: Array, shape: Array) -> tuple[Array, Array]:
        """Local coordinates of source-plane positions [arcsec]."""

    def brightness(self, u: Array, v: Array, shape: Array) -> Array:
        """Surface brightness [1/arcsec^2] at local coordinates."""

    def sampling_error(self, u: Array, v: Array, reach: Array, shape: Array, least: float) -> Array:
        """As `Morphology.sampling_error`, locally; never below `least` times the brightness."""


@dataclass(frozen=True, eq=False)
class SersicStack:
    """Many Sersic profiles as arrays, one entry each.

    Local coordinates run along the axes and are scaled so that the profile is
    ``exp(log_peak - (u^2 + v^2)^power)``: ellipses become circles.

    ux, uy, u0       u = ux x + uy y + u0 of a source-plane position [arcsec]; vx, vy, v0 likewise
    half_light       half-light radius
    steepest         radius below which the slope does not rise any more, for cores flatter than exponential
    steepness        the slope there
    """

    extent: Array
    unit: Array
    ux: Array
    uy: Array
    u0: Array
    vx: Array
    vy: Array
    v0: Array
    power: Array
    log_peak: Array
    half_light: Array
    steepest: Array
    steepness: Array

    @classmethod
    def of(cls, shapes: Sequence[Sersic]) -> "SersicStack":
        """The stack of some profiles, in their order."""
        radius, n, q, phi, x, y = np.array(
            [(s.R_sersic, s.n_sersic, s.q, s.phi, s.x, s.y) for s in shapes], dtype=np.float64
        ).T
        half_light = special.gammaincinv(2.0 * n, 0.5) ** n
        length = radius / half_light
        along, across = np.sqrt(q) / length, 1.0 / (np.sqrt(q) * length)
        cos, sin = np.cos(phi), np.sin(phi)
        ux, uy, vx, vy = along * cos, along * sin, -across * sin, across * cos
        return cls(
            extent=special.gammaincinv(2.0 * n, 1.0 - UNSEEN_FLUX) ** n,
            unit=1.0 / across,
            ux=ux,
            uy=uy,
            u0=-(ux * x + uy * y),
            vx=vx,
            vy=vy,
            v0=-(vx * x + vy * y),
            power=0.5 / n,
            # The flux of exp(-(r/length)^(1/n)) is pi length^2 Gamma(2n + 1).
            log_peak=-np.log(np.pi * length**2) - special.gammaln(2.0 * n + 1.0),
            half_light=half_light,
            steepest=np.where(n < 1.0, 0.7 * half_light, 0.0),
            steepness=(0.7 * half_light) ** (1.0 / n - 1.0) / n,
        )

    def on(self, xp: Any, dtype: Any, device: Any) -> "SersicStack":
        """The same in another array namespace."""
        moved = [xp.asarray(getattr(self, f.name), dtype=dtype, device=device) for f in fields(self)]
        return SersicStack(*moved)

    def seen_from(self, x: Array, y: Array, phi: Array) -> "SersicStack":
        """The same in source-plane frames with origins (x, y) [arcsec], turned by phi [rad], one a shape."""
        xp = array_namespace(x)
        cos, sin = xp.cos(phi), xp.sin(phi)
        return replace(
            self,
            ux=self.ux * cos + self.uy * sin,
            uy=self.uy * cos - self.ux * sin,
            u0=self.u0 + self.ux * x + self.uy * y,
            vx=self.vx * cos + self.vy * sin,
            vy=self.vy * cos - self.vx * sin,
            v0=self.v0 + self.vx * x + self.vy * y,
        )

    def local(self, beta_x: Array, beta_y: Array, shape: Array) -> tuple[Array, Array]:
        """Local coordinates of source-plane positions [arcsec]."""
        u = self.ux[shape] * beta_x + self.uy[shape] * beta_y + self.u0[shape]
        return u, self.vx[shape] * beta_x + self.vy[shape] * beta_y + self.v0[shape]

    def brightness(self, u: Array, v: Array, shape: Array) -> Array:
        """Surface brightness [1/arcsec^2] at local coordinates."""
        xp = array_namespace(u)
        return xp.exp(self.log_peak[shape] - _raised(xp, u * u + v * v, self.power[shape]))

    def sampling_error(self, u: Array, v: Array, reach: Array, shape: Array, least: float) -> Array:
        """About how wrong [1/arcsec^2] the four-point Gauss rule is for the mean of a square.

        The rule's error is of fourth order: with r the nearest radius within reach R and s = -dlnI/dr there,
        ``I R^4 (s^4 + 6 s^3/r + 15 s^2/r^2 + 15 s/r^3) / 450``, the fourth derivative of an exponential in
        the plane; at most I itself. Where the centre is within reach, half the reach stands for r: the
        expression becomes of first order in R, which is what a cusp leaves. A core flatter than an
        exponential (n < 1) has curvature where it has no slope: the slope near the half-light radius stands
        for it. A square larger than the source may hide it anywhere. Where the rule is blind, as in the
        squeezed
        image next to the centre of a lens, many squares err together: they count `_BLIND` times more.
        """
        xp = array_namespace(u)
        power = self.power[shape]
        hidden = 0.5 * xp.minimum(reach, self.half_light[shape])
        near = xp.maximum(xp.sqrt(u * u + v * v) - reach, hidden)
        ratio = reach / near
        exponent = _raised(xp, near * near, power)
        slope = xp.where(near < self.steepest[shape], self.steepness[shape], 2.0 * power * exponent / near)
        fall = slope * reach
        order = fall * (fall * fall * (fall + 6.0 * ratio) + 15.0 * ratio * ratio * (fall + ratio)) / 450.0
        share = xp.where(order < 1.0, order, 1.0)
        if least > 0.0:
            share = xp.where(share > least, share, least)
        return xp.exp(self.log_peak[shape] - exponent) * (share + _BLIND * share * share)


def _raised(xp: Any, square: Array, power: Array) -> Array:
    """square^power, at zero too. NumPy's own power rounds differently with the length of a loop."""
    return xp.exp(power * xp.log(square + _NOTHING))


@dataclass(frozen=True, eq=False)
class Alone:
    """A stack of one shape of any kind; local coordinates are offsets from its centre in arcsec.

    frame   origin (x, y) [arcsec] and turn [rad] of the source-plane positions it is handed
    """

    shape: Morphology
    extent: Array
    unit: Array
    frame: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def on(self, xp: Any, dtype: Any, device: Any) -> "Alone":
        """The same in another array namespace; the shape itself follows the arrays it is handed."""
        moved = [xp.asarray(a, dtype=dtype, device=device) for a in (self.extent, self.unit)]
        return Alone(self.shape, moved[0], moved[1], self.frame)

    def seen_from(self, x: Array, y: Array, phi: Array) -> "Alone":
        """The same in a source-plane frame with its origin at (x, y) [arcsec], turned by phi [rad]."""
        return replace(self, frame=(float(x[0]), float(y[0]), float(phi[0])))

    def local(self, beta_x: Array, beta_y: Array, shape: Array) -> tuple[Array, Array]:  # noqa: ARG002 - the stack's signature
        """Offsets from the centre [arcsec]."""
        x, y, phi = self.frame
        cos, sin = math.cos(phi), math.sin(phi)
        u = cos * beta_x - sin * beta_y + (x - self.shape.x)
        return u, sin * beta_x + cos * beta_y + (y - self.shape.y)

    def brightness(self, u: Array, v: Array, shape: Array) -> Array:  # noqa: ARG002 - the stack's signature
        """Surface brightness [1/arcsec^2] at offsets from the centre."""
        return self.shape.brightness(u + self.shape.x, v + self.shape.y)

    def sampling_error(self, u: Array, v: Array, reach: Array, shape: Array, least: float) -> Array:  # noqa: ARG002 - the stack's signature
        """As `Morphology.sampling_error`; `least` concerns wide wings, which no such shape has."""
        return _GRAINY * self.shape.sampling_error(u + self.shape.x, v + self.shape.y, reach)


def stacked(shapes: Sequence[Sersic | Morphology]) -> Iterator[tuple[npt.NDArray[np.intp], Stack]]:
    """Shapes sorted into stacks of one kind: (places in `shapes`, stack)."""
    smooth = [k for k, shape in enumerate(shapes) if isinstance(shape, Sersic)]
    if smooth:
        yield np.array(smooth), SersicStack.of([s for s in shapes if isinstance(s, Sersic)])
    for k, shape in enumerate(shapes):
        if not isinstance(shape, Sersic):
            yield np.array([k]), Alone(shape, np.array([shape.extent]), np.ones(1))


@dataclass(frozen=True)
class Part:
    """One morphology with its total flux in each band [nmgy]."""

    shape: Sersic | Morphology
    flux_nmgy: tuple[float, ...]


@dataclass(frozen=True)
class Source:
    """A background galaxy: parts that add up, each with its own colours.

    parts    morphologies with their fluxes
    model    what the source is made of, in words that go into the table
    """

    parts: tuple[Part, ...]
    model: str

    def brightness(self, beta_x: FloatArray, beta_y: FloatArray) -> FloatArray:
        """Surface brightness [nmgy/arcsec^2] in every band: (band, ...) over the positions [arcsec]."""
        bands = [np.asarray(part.flux_nmgy) for part in self.parts]
        shapes = [part.shape.brightness(beta_x, beta_y) for part in self.parts]
        shone = [np.multiply.outer(f, s) for f, s in zip(bands, shapes, strict=True)]
        return np.asarray(np.sum(shone, axis=0))

    @property
    def flux_nmgy(self) -> FloatArray:
        """Total intrinsic flux per band [nmgy], shape (band,)."""
        return np.asarray(np.sum([part.flux_nmgy for part in self.parts], axis=0, dtype=np.float64))


@dataclass(frozen=True)
class Clump:
    """A star-forming region: a round Gaussian in the source plane.

    x, y        its centre [arcsec]
    sigma       [arcsec]
    flux_nmgy   per band
    """

    x: float
    y: float
    sigma: float
    flux_nmgy: tuple[float, ...]

    @property
    def shape(self) -> Sersic:
        """The Gaussian as the Sersic profile of index 1/2 that it is."""
        return Sersic(self.sigma * math.sqrt(2.0 * math.log(2.0)), 0.5, x=self.x, y=self.y)


def sersic_source(shape: Sersic, mag: Sequence[float]) -> Source:
    """One Sersic profile with intrinsic magnitudes g, r, z."""
    flux = tuple(float(f) for f in to_nmgy(np.asarray(mag, dtype=np.float64)))
    return Source((Part(shape, flux),), "sersic")


def two_component_source(
    disc: Sersic,
    mag: Sequence[float],
    *,
    bulge_share: float,
    bulge_size: float,
    bulge_redder: tuple[float, float],
) -> Source:
    """An exponential disc with a de Vaucouleurs bulge of its own, redder colours: a real colour gradient.

    disc           the disc; its index is set to 1
    mag            total intrinsic magnitudes g, r, z: the two parts together have these
    bulge_share    bulge over total flux in r
    bulge_size     bulge over disc half-light radius
    bulge_redder   bulge minus disc colour in (g-r, r-z) [mag]
    """
    total = np.asarray(to_nmgy(np.asarray(mag, dtype=np.float64)))
    # Bulge over disc flux in each band, from its value in r and the colour difference.
    tint = np.array([10.0 ** (-0.4 * bulge_redder[0]), 1.0, 10.0 ** (0.4 * bulge_redder[1])])
    ratio = bulge_share / (1.0 - bulge_share) * tint
    in_disc = total / (1.0 + ratio)
    shape = {"q": disc.q, "phi": disc.phi, "x": disc.x, "y": disc.y}
    parts = (
        Part(Sersic(disc.R_sersic, DISC_INDEX, **shape), tuple(in_disc.tolist())),
        Part(Sersic(bulge_size * disc.R_sersic, BULGE_INDEX, **shape), tuple((total - in_disc).tolist())),
    )
    return Source(parts, f"disc+bulge B/T={bulge_share:.2f}")


def clumpy_source(base: Sersic, mag: Sequence[float], clumps: Sequence[Clump], *, g_over_r: float) -> Source:
    """A Sersic profile with star-forming clumps: gen7. The clumps' light is taken out of the profile's.

    base       the smooth light; in g its half-light radius is `g_over_r` times larger: bluer outwards
    mag        total intrinsic magnitudes g, r, z: smooth light and clumps together have these
    clumps     must be fainter than the whole in every band

    The parts share one frame and are lensed alike. Raises ValueError where clumps outshine the galaxy.
    """
    total = np.asarray(to_nmgy(np.asarray(mag, dtype=np.float64)))
    smooth = total - np.sum([c.flux_nmgy for c in clumps], axis=0)
    if not np.all(smooth > 0.0):
        message = f"clumps of {(total - smooth).tolist()} nmgy outshine a galaxy of {total.tolist()} nmgy"
        raise ValueError(message)
    g, *rest = smooth.tolist()
    wide = replace(base, R_sersic=g_over_r * base.R_sersic)
    parts = [Part(base, (0.0, *rest)), Part(wide, (g, *(0.0 for _ in rest)))]
    parts += [Part(clump.shape, clump.flux_nmgy) for clump in clumps]
    return Source(tuple(parts), f"sersic+{len(clumps)} clumps")
