"""Singular isothermal ellipsoid in an external shear, as pure functions of arrays.

Conventions of this module. Positions and deflections in arcsec, origin wherever the caller puts it; x grows
with the column, y with the row; angles in radians from +x towards +y. `q` is the minor-to-major axis ratio of
the mass, `phi` the position angle of its **major** axis. Shear is (gamma1, gamma2) = gamma (cos 2 phi_gamma,
sin 2 phi_gamma) about the lens centre and stretches images along phi_gamma, as lenstronomy's ``SHEAR``.
`theta_e` is the intermediate-axis Einstein radius: the convergence is
``theta_e sqrt(q) / (2 sqrt(q^2 x^2 + y^2))`` in the frame of the major axis, so the area inside the critical
curve of an unsheared lens is pi theta_e^2 whatever q. This is lenstronomy's ``EPL`` with gamma = 2.

Everything is written against the Python array API: what has an array namespace comes back in it.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = Any
"""Any array of the Python array API: numpy here, whatever a caller brings elsewhere."""

FloatArray = npt.NDArray[np.float64]

_ROUND = 1e-8
"""Smallest eccentricity used: atan(f u)/f equals u to 1e-17 there, so q = 1 needs no branch."""

CURVE_POINTS = 512
"""Vertices of a caustic polygon: its area is short of the curve's by (2 pi/512)^2/6 = 2.5e-5."""


@dataclass(frozen=True)
class Lens:
    """One deflector: an isothermal ellipsoid and the shear of its surroundings.

    theta_e          Einstein radius, intermediate axis [arcsec], > 0
    q, phi           axis ratio of the mass (0 < q <= 1) and position angle of its major axis [rad]
    gamma1, gamma2   external shear
    x, y             centre [arcsec]; the shear acts about it too
    """

    theta_e: float
    q: float = 1.0
    phi: float = 0.0
    gamma1: float = 0.0
    gamma2: float = 0.0
    x: float = 0.0
    y: float = 0.0


def ellipticity_from_axis(q: float, phi: float) -> tuple[float, float]:
    """(e1, e2) = (1-q)/(1+q) (cos 2 phi, sin 2 phi) of an axis ratio and major-axis angle.

    lenstronomy's ``phi_q2_ellipticity``, and Tractor's ``shape_e1, shape_e2`` up to Tractor's own axes: there
    x runs east and angles run from north, here both run with the pixels.
    """
    e = (1.0 - q) / (1.0 + q)
    return e * math.cos(2.0 * phi), e * math.sin(2.0 * phi)


def axis_from_ellipticity(e1: float, e2: float) -> tuple[float, float]:
    """(q, phi) of an ellipticity: the inverse of `ellipticity_from_axis`, phi in (-pi/2, pi/2]."""
    e = min(math.hypot(e1, e2), 1.0 - 1e-9)
    return (1.0 - e) / (1.0 + e), 0.5 * math.atan2(e2, e1)


def sie_deflection(x: Array, y: Array, *, theta_e: float, q: float, phi: float) -> tuple[Array, Array]:
    """Deflection of a singular isothermal ellipsoid centred on the origin.

    Kormann, Schneider & Bartelmann (1994, A&A 284, 285), eq. 27a, with their f our q, their f' our
    ``sqrt(1-q^2)``, and ``theta_e`` on the intermediate axis; the atan/atanh form is Keeton (2001,
    astro-ph/0102341), eq. 35-36 without a core.

    x, y      position [arcsec], any broadcastable shape
    theta_e   Einstein radius, intermediate axis [arcsec]
    q, phi    axis ratio and position angle of the major axis [rad]; q = 1 is exact

    Returns (alpha_x, alpha_y) [arcsec], shaped like x. The centre itself, where the deflection has no
    direction, gets zero.
    """
    xp = _namespace(x)
    cos, sin = math.cos(phi), math.sin(phi)
    along, across = _turned(x, y, phi)
    f = max(math.sqrt((1.0 - q) * (1.0 + q)), _ROUND)
    psi = xp.sqrt((q * along) ** 2 + across**2)
    slope = f / xp.where(psi == 0.0, xp.ones_like(psi), psi)
    strength = theta_e * math.sqrt(q) / f
    a_along, a_across = strength * xp.atan(slope * along), strength * xp.atanh(slope * across)
    return cos * a_along - sin * a_across, sin * a_along + cos * a_across


def deflection(x: Array, y: Array, lens: Lens) -> tuple[Array, Array]:
    """Total deflection of ellipsoid and shear at (x, y) [arcsec], shaped like x."""
    dx, dy = x - lens.x, y - lens.y
    ax, ay = sie_deflection(dx, dy, theta_e=lens.theta_e, q=lens.q, phi=lens.phi)
    return ax + lens.gamma1 * dx + lens.gamma2 * dy, ay + lens.gamma2 * dx - lens.gamma1 * dy


def trace(x: Array, y: Array, lens: Lens) -> tuple[Array, Array]:
    """Source-plane position beta = theta - alpha(theta) [arcsec] of an image-plane position."""
    ax, ay = deflection(x, y, lens)
    return x - ax, y - ay


def convergence(x: Array, y: Array, lens: Lens) -> Array:
    """Convergence kappa of the ellipsoid at (x, y); the shear has none. Infinite at the centre."""
    psi = isothermal_radius(x - lens.x, y - lens.y, q=lens.q, phi=lens.phi)
    return 0.5 * lens.theta_e * math.sqrt(lens.q) / psi


def isothermal_radius(x: Array, y: Array, *, q: float, phi: float) -> Array:
    """Radius sqrt(q^2 x^2 + y^2) in the frame of the major axis [arcsec]: kappa falls with it."""
    along, across = _turned(x, y, phi)
    return _namespace(x).sqrt((q * along) ** 2 + across**2)


def jacobian(x: Array, y: Array, lens: Lens) -> tuple[Array, Array, Array]:
    """(A_xx, A_xy, A_yy) of A = d beta / d theta at (x, y).

    An isothermal lens stretches along the tangent only: its part of A is -2 kappa t t^T with t the unit
    tangent, whatever q (Kormann et al. 1994, section 3).
    """
    dx, dy = x - lens.x, y - lens.y
    stretch = 2.0 * convergence(x, y, lens) / (dx * dx + dy * dy)
    a_xx = 1.0 - stretch * dy * dy - lens.gamma1
    a_yy = 1.0 - stretch * dx * dx + lens.gamma1
    return a_xx, stretch * dx * dy - lens.gamma2, a_yy


def magnification(x: Array, y: Array, lens: Lens) -> Array:
    """Signed point magnification 1/det A at (x, y); negative where parity flips."""
    a_xx, a_xy, a_yy = jacobian(x, y, lens)
    return 1.0 / (a_xx * a_yy - a_xy * a_xy)


def critical_curve(lens: Lens, n: int = CURVE_POINTS) -> FloatArray:
    """The tangential critical curve as (n, 2) vertices, in closed form.

    With gamma_c the shear's component along the ray at angle phi, det A = 0 at
    ``r_c = theta_e sqrt(q)/psi_hat (1 - gamma_c)/(1 - gamma^2)``: from
    A = [[1-gamma_c, -gamma_s], [-gamma_s, 1-2 kappa+gamma_c]] in radial and tangential axes. Holds for
    gamma < 1. The radial critical curve of an isothermal lens is the point at its centre.
    """
    angle, psi_hat = _rays(lens, n)
    along = lens.gamma1 * np.cos(2.0 * angle) + lens.gamma2 * np.sin(2.0 * angle)
    shear2 = lens.gamma1**2 + lens.gamma2**2
    r = lens.theta_e * math.sqrt(lens.q) / psi_hat * (1.0 - along) / (1.0 - shear2)
    return np.stack([lens.x + r * np.cos(angle), lens.y + r * np.sin(angle)], axis=1)


def caustic(lens: Lens, n: int = CURVE_POINTS) -> FloatArray:
    """The tangential caustic as (n, 2) source-plane vertices: the ray-traced critical curve."""
    curve = critical_curve(lens, n)
    bx, by = trace(curve[:, 0], curve[:, 1], lens)
    return np.stack([bx, by], axis=1)


def cut(lens: Lens, n: int = CURVE_POINTS) -> FloatArray:
    """The cut as (n, 2) source-plane vertices: sources inside it have one image more near the centre.

    The limit of the ray-trace for rays that pass the singular centre, at every angle; shear is nil there.
    """
    angle, _ = _rays(lens, n)
    ax, ay = sie_deflection(np.cos(angle), np.sin(angle), theta_e=lens.theta_e, q=lens.q, phi=lens.phi)
    return np.stack([lens.x - ax, lens.y - ay], axis=1)


@dataclass(frozen=True)
class ImagedRegion:
    """Where a source has more than one image: inside the tangential caustic, the cut, or both."""

    lens: Lens

    @cached_property
    def caustic(self) -> FloatArray:
        """(n, 2) vertices of the tangential caustic [arcsec]."""
        return caustic(self.lens)

    @cached_property
    def cut(self) -> FloatArray:
        """(n, 2) vertices of the cut [arcsec]."""
        return cut(self.lens)

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """(x_low, x_high, y_low, y_high) [arcsec] around both curves."""
        both = np.concatenate([self.caustic, self.cut])
        (x_low, y_low), (x_high, y_high) = both.min(axis=0), both.max(axis=0)
        return float(x_low), float(x_high), float(y_low), float(y_high)

    @cached_property
    def area(self) -> float:
        """Area of the union of both curves [arcsec^2].

        Both are star-shaped about the lens centre, so the union's boundary at an angle is the farther of the
        two; where one lies inside the other this is the other's own area.
        """
        angle = 2.0 * math.pi * (np.arange(4 * CURVE_POINTS) + 0.5) / (4 * CURVE_POINTS)
        centre = np.array([self.lens.x, self.lens.y])
        outer = np.maximum(_reach(self.cut - centre, angle), _reach(self.caustic - centre, angle))
        return float(math.pi * np.mean(outer**2))

    def images(self, x: Array, y: Array) -> npt.NDArray[np.int16]:
        """Number of images of point sources at (x, y): 1 + (inside the cut) + 2 (inside the caustic).

        The central image of a singular lens has no flux and is not counted. 3 means a naked cusp.
        """
        inside_cut, inside_caustic = contains(self.cut, x, y), contains(self.caustic, x, y)
        return np.asarray(1 + inside_cut + 2 * inside_caustic, dtype=np.int16)


def contains(polygon: FloatArray, x: Array, y: Array) -> npt.NDArray[np.bool_]:
    """Whether points lie inside a closed polygon (n, 2), by counting crossings of the ray towards +x.

    x, y   (m,) positions; returns (m,) booleans. Points on an edge may fall to either side.
    """
    px, py = np.atleast_1d(x)[:, None], np.atleast_1d(y)[:, None]
    x0, y0 = polygon[:, 0], polygon[:, 1]
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    rise = np.where(y1 == y0, 1.0, y1 - y0)  # a level edge is never crossed, whatever it is divided by
    crossed = ((y0 > py) != (y1 > py)) & (px < x0 + (py - y0) * (x1 - x0) / rise)
    return np.asarray(np.count_nonzero(crossed, axis=1) % 2 == 1)


def polygon_area(polygon: FloatArray) -> float:
    """Area of a simple closed polygon (n, 2), by the shoelace formula."""
    x, y = polygon[:, 0], polygon[:, 1]
    return float(0.5 * abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)))


def _rays(lens: Lens, n: int) -> tuple[FloatArray, FloatArray]:
    angle = 2.0 * math.pi * np.arange(n) / n
    psi_hat = np.sqrt(lens.q**2 * np.cos(angle - lens.phi) ** 2 + np.sin(angle - lens.phi) ** 2)
    return angle, psi_hat


def _reach(curve: FloatArray, angle: FloatArray) -> FloatArray:
    """Distance of a curve around the origin in each direction; zero where it winds too little to have one."""
    around = np.unwrap(np.arctan2(curve[:, 1], curve[:, 0]))
    step = 1.0 if around[-1] > around[0] else -1.0
    around = step * around
    order = np.argsort(around, kind="stable")
    radius = np.hypot(curve[:, 0], curve[:, 1])[order]
    return np.asarray(np.interp(step * angle, around[order], radius, period=2.0 * math.pi))


def _turned(x: Array, y: Array, phi: float) -> tuple[Array, Array]:
    """Coordinates along and across an axis at angle phi."""
    cos, sin = math.cos(phi), math.sin(phi)
    return cos * x + sin * y, cos * y - sin * x


def _namespace(array: Array) -> Any:
    """The array namespace of an argument; plain numbers are numpy's."""
    found = getattr(array, "__array_namespace__", None)
    return np if found is None else found()
