"""Critical curves and caustics of one lens in closed form, and the region where sources have several images.

Conventions as in `injection.lens`; here the fields of a lens are numbers. Curves are (n, 2) vertices
(arcsec).
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from darkhaloscope.injection.lens import (
    ISOTHERMAL,
    Array,
    FloatArray,
    Lens,
    convergence,
    ellipsoid_deflection,
    is_isothermal,
)

COUNTER_IMAGE_FLOOR = 0.01
"""Magnification under which the inner image of a lens steeper than isothermal counts as vanished: 5 mag."""

CURVE_POINTS = 512
"""Vertices of a caustic polygon: its area is short of the curve's by (2 pi/512)^2/6 = 2.5e-5."""


def critical_curve(lens: Lens, n: int = CURVE_POINTS) -> FloatArray:
    """The tangential critical curve of one lens as (n, 2) vertices, in closed form; the shear is below 1."""
    rays = _Rays(lens, n)
    return rays.image_plane(rays.tangential)


def inner_curve(lens: Lens, n: int = CURVE_POINTS) -> FloatArray:
    """The curve that `cut` is the ray-trace of, as (n, 2) vertices in the image plane.

    gamma < 2   the radial critical curve
    gamma = 2   the centre, n times
    gamma > 2   where the image nearest the centre, fainter the nearer it is, has a magnification of
                -COUNTER_IMAGE_FLOOR
    """
    rays = _Rays(lens, n)
    return rays.image_plane(rays.inner)


def caustic(lens: Lens, n: int = CURVE_POINTS) -> FloatArray:
    """The tangential caustic as (n, 2) source-plane vertices: the ray-traced critical curve."""
    rays = _Rays(lens, n)
    return rays.source_plane(rays.tangential)


def cut(lens: Lens, n: int = CURVE_POINTS) -> FloatArray:
    """The cut as (n, 2) source-plane vertices: sources inside it have one image more near the centre.

    The ray-trace of `inner_curve`. For an isothermal lens that is the limit for rays that pass the singular
    centre, at every angle; shear is nil there. For a shallower one it is the radial caustic. A steeper one
    gives a source anywhere one more image, ever fainter: it counts inside the cut, where it is brighter than
    COUNTER_IMAGE_FLOOR of the source. As gamma falls to 2 that cut ends 1 % inside the isothermal one.
    """
    rays = _Rays(lens, n)
    return rays.source_plane(rays.inner)


@dataclass(frozen=True)
class _Rays:
    """The rays of n even angles about one lens, along which its critical curves have closed forms.

    Along a ray the Hessian of the ellipsoid falls as s = r^-t, so that A = (I - Gamma) - s H with Gamma the
    shear and H the Hessian at r = 1, and det A = 0 is a quadratic in s. In radial and tangential axes
    H = [[(1-t) a_r, (1-t) a_t], [(1-t) a_t, 2 kappa - (1-t) a_r]] with a the deflection and kappa the
    convergence at r = 1; I - Gamma = [[1 - gamma_c, -gamma_s], [-gamma_s, 1 + gamma_c]].
    """

    lens: Lens
    n: int

    @cached_property
    def deflection(self) -> tuple[FloatArray, FloatArray]:
        """(alpha_x, alpha_y) of the ellipsoid at r = 1."""
        cos, sin, _, _ = _circle(self.n)
        return ellipsoid_deflection(cos, sin, self.lens)

    @cached_property
    def determinant(self) -> tuple[float, FloatArray, Array]:
        """(c, b, a) of det A = c - b s + a s^2: c = 1 - |gamma|^2; a is zero for an isothermal lens."""
        lens = self.lens
        cos, sin, cos2, sin2 = _circle(self.n)
        kappa = convergence(cos + lens.x, sin + lens.y, lens)
        shear_c = lens.gamma1 * cos2 + lens.gamma2 * sin2
        c = 1.0 - lens.gamma1**2 - lens.gamma2**2
        b = 2.0 * kappa * (1.0 - shear_c)
        if is_isothermal(lens.gamma):
            return c, b, 0.0
        shear_s = lens.gamma2 * cos2 - lens.gamma1 * sin2
        ax, ay = self.deflection
        a_r, a_t = cos * ax + sin * ay, cos * ay - sin * ax
        shallow = ISOTHERMAL - lens.gamma
        b += 2.0 * shallow * (shear_c * a_r + shear_s * a_t)
        return c, b, shallow * (2.0 * kappa * a_r - shallow * (a_r * a_r + a_t * a_t))

    @cached_property
    def tangential(self) -> FloatArray:
        """Radius of the tangential critical curve: of the outermost image without a determinant."""
        c, b, a = self.determinant
        # The smaller root s without cancellation, upside down: r^t = 1/s.
        return self._radius((b + np.sqrt(b * b - 4.0 * c * a)) / (2.0 * c))

    @cached_property
    def inner(self) -> FloatArray:
        """Radius of `inner_curve`."""
        c, b, a = self.determinant
        if is_isothermal(self.lens.gamma):
            return np.zeros(self.n)
        if self.lens.gamma < ISOTHERMAL:
            return self._radius(2.0 * a / (b + np.sqrt(b * b - 4.0 * c * a)))
        c += 1.0 / COUNTER_IMAGE_FLOOR
        return self._radius((b + np.sqrt(b * b - 4.0 * c * a)) / (2.0 * c))

    def _radius(self, power: FloatArray) -> FloatArray:
        """R of r^t."""
        return power if is_isothermal(self.lens.gamma) else power ** (1.0 / (self.lens.gamma - 1.0))

    def image_plane(self, r: FloatArray) -> FloatArray:
        """(n, 2) positions at distances r from the lens [arcsec]."""
        cos, sin, _, _ = _circle(self.n)
        return np.stack([self.lens.x + r * cos, self.lens.y + r * sin]).T

    def source_plane(self, r: FloatArray) -> FloatArray:
        """(n, 2) ray-traced positions of those; at r = 0, where they depend on the direction, their limit."""
        lens = self.lens
        cos, sin, _, _ = _circle(self.n)
        ax, ay = self.deflection
        if not is_isothermal(lens.gamma):
            fall = r ** (ISOTHERMAL - lens.gamma)
            ax, ay = fall * ax, fall * ay
        x, y = r * cos, r * sin
        bx = (1.0 - lens.gamma1) * x - lens.gamma2 * y - ax
        by = (1.0 + lens.gamma1) * y - lens.gamma2 * x - ay
        return np.stack([lens.x + bx, lens.y + by]).T


@dataclass(frozen=True)
class ImagedRegion:
    """Where a source has more than one image: inside the tangential caustic, the cut, or both.

    lens   one lens, its fields numbers
    """

    lens: Lens

    @cached_property
    def caustic(self) -> FloatArray:
        """(n, 2) vertices of the tangential caustic [arcsec]."""
        return self._rays.source_plane(self._rays.tangential)

    @cached_property
    def cut(self) -> FloatArray:
        """(n, 2) vertices of the cut [arcsec]."""
        return self._rays.source_plane(self._rays.inner)

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """(x_low, x_high, y_low, y_high) [arcsec] around both curves."""
        # A lens looks the same from behind: both curves are their own mirror images through its centre.
        (x1, y1), (x2, y2) = (np.abs(curve).max(axis=0) for curve in self._centred)
        half_x, half_y = float(max(x1, x2)), float(max(y1, y2))
        return self.lens.x - half_x, self.lens.x + half_x, self.lens.y - half_y, self.lens.y + half_y

    @cached_property
    def area(self) -> float:
        """Area of the union of both curves [arcsec^2]."""
        cut_, caustic_ = self._centred
        if np.sum(caustic_ * caustic_, axis=1).max() <= np.sum(cut_ * cut_, axis=1).min():
            return polygon_area(cut_)
        # Both are star-shaped about the lens centre: the union's boundary at an angle is the farther one.
        angle = math.pi * (np.arange(2 * CURVE_POINTS) + 0.5) / (2 * CURVE_POINTS)
        outer = np.maximum(_reach(cut_, angle), _reach(caustic_, angle))
        return float(math.pi * np.mean(outer * outer))

    def images(self, x: Array, y: Array) -> npt.NDArray[np.int16]:
        """Number of images of point sources at (x, y): 1 + (inside the cut) + 2 (inside the caustic).

        The image at the maximum of the arrival time, central and demagnified, is not counted: a singular
        isothermal lens has none, a shallower one has it wherever a source is inside the cut. 3 means a naked
        cusp.
        """
        inside_cut, inside_caustic = contains(self.cut, x, y), contains(self.caustic, x, y)
        return np.asarray(1 + inside_cut + 2 * inside_caustic, dtype=np.int16)

    @cached_property
    def _rays(self) -> _Rays:
        return _Rays(self.lens, CURVE_POINTS)

    @cached_property
    def _centred(self) -> tuple[FloatArray, FloatArray]:
        """Cut and caustic about the lens."""
        centre = np.array([self.lens.x, self.lens.y])
        return self.cut - centre, self.caustic - centre


def contains(polygon: FloatArray, x: Array, y: Array) -> npt.NDArray[np.bool_]:
    """Whether points lie inside a closed polygon (n, 2), by counting crossings of the ray towards +x.

    x, y   (m,) positions; returns (m,) booleans. Points on an edge may fall to either side.
    """
    px, py = np.atleast_1d(x), np.atleast_1d(y)
    qx, qy = np.concatenate([polygon, polygon[:1]]).T
    above = qy[:, None] > py
    # Few edges reach from one side of a point's level to the other; only these are looked at.
    edge, point = np.divmod(np.flatnonzero(above[1:] != above[:-1]), px.size)
    x0, y0, x1, y1 = qx[edge], qy[edge], qx[edge + 1], qy[edge + 1]
    crossed = px[point] < x0 + (py[point] - y0) * (x1 - x0) / (y1 - y0)
    return np.asarray(np.bincount(point[crossed], minlength=px.size) % 2 == 1)


def polygon_area(polygon: FloatArray) -> float:
    """Area of a simple closed polygon (n, 2), by the shoelace formula."""
    x, y = polygon[:, 0], polygon[:, 1]
    twice = np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) + x[-1] * y[0] - x[0] * y[-1]
    return 0.5 * abs(float(twice))


@lru_cache(maxsize=8)
def _circle(n: int) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Cosine and sine of n even angles, and of twice these."""
    angle = 2.0 * math.pi * np.arange(n) / n
    found = np.cos(angle), np.sin(angle), np.cos(2.0 * angle), np.sin(2.0 * angle)
    for values in found:
        values.flags.writeable = False
    return found


def _reach(curve: FloatArray, angle: FloatArray) -> FloatArray:
    """Distance of a star-shaped curve around the origin in each direction."""
    around, radius = np.arctan2(curve[:, 1], curve[:, 0]), np.hypot(curve[:, 0], curve[:, 1])
    return np.asarray(np.interp(angle, around, radius, period=2.0 * math.pi))
