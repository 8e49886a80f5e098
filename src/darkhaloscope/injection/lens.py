"""Elliptical power-law lenses in an external shear, as pure functions of arrays.

Conventions of this module. Positions and deflections in arcsec, origin wherever the caller puts it; x grows
with the column, y with the row; angles in radians from +x towards +y. `q` is the minor-to-major axis ratio of
the mass, `phi` the position angle of its **major** axis. The shear (gamma1, gamma2), its modulus times
(cos 2 phi_gamma, sin 2 phi_gamma), acts about the lens centre and stretches images along phi_gamma, as
lenstronomy's ``SHEAR``.
`gamma`, without an index, is the slope of the density in three dimensions, 2 for isothermal mass; formulas
write t = gamma - 1 for the slope of the convergence. `theta_e` is the intermediate-axis Einstein radius: with
psi = sqrt(q^2 x^2 + y^2) in the frame of the major axis the convergence is
``(3 - gamma)/2 (theta_e sqrt(q)/psi)^(gamma - 1)``, so the area inside the critical curve of an unsheared
isothermal lens is pi theta_e^2 whatever q. This is lenstronomy's ``EPL``.

**One lens or many.** Functions of positions take and return arrays of any array-API namespace (numpy, torch)
in the precision of `x`, which is floating. Parameters, the fields of a `Lens` among them, are numbers or
arrays that broadcast against the positions: (4, n) positions may belong to n lenses. What depends on
parameters alone is computed in their own shape and precision before it meets a position. An array of lenses
gives, in numpy, the bits that its lenses give one at a time; only a slope of 2 among others, which takes the
series of all slopes, agrees with the closed form to 1e-12.

**Ellipticity** has two conventions beside (q, phi), both with the modulus (1-q)/(1+q) = (a-b)/(a+b):
lenstronomy's (e1, e2), whose angle is our phi, and the Tractor's (shape_e1, shape_e2), whose angle runs on
the sky from north through east. On an image with north up and east left, as the survey's, x grows to the
west, the Tractor's angle is phi - 90 degrees and both components change sign.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from darkhaloscope.contracts.errors import DataError

Array = Any
"""An array of any array-API namespace."""

Parameter = Any
"""A number, or an array that broadcasts against the positions."""

FloatArray = npt.NDArray[np.float64]

ISOTHERMAL = 2.0
"""The slope that, given as a number, takes the closed form of the isothermal ellipsoid."""

LEAST_Q = 0.2
"""Flattest power law whose series is summed, to 1e-12 in 72 terms. An isothermal lens knows no such bound."""

_ROUND = 1e-16
"""Squared eccentricity of a circle: atan(f u)/f equals u to 1e-17 there, so q = 1 needs no branch."""

_CORE = 1e-30
"""Added to psi^2 [arcsec^2]: a core of 1e-15 arcsec gives the centre its zero deflection without a branch."""

_SERIES = 1e-12
"""Truncation error of the angular series, relative to its sum; in float32, a tenth of the rounding error."""


@dataclass(frozen=True)
class Lens:
    """One deflector, or an array of them: an elliptical power law and the shear of its surroundings.

    theta_e          Einstein radius, intermediate axis [arcsec], > 0
    q, phi           axis ratio of the mass (0 < q <= 1) and position angle of its major axis [rad]
    gamma1, gamma2   external shear, of modulus < 1
    x, y             centre [arcsec]; the shear acts about it too
    gamma            slope of the density in three dimensions, 1 < gamma < 3; other than 2 needs q >= 0.2

    Each a number, or an array that broadcasts against the positions.
    """

    theta_e: Parameter
    q: Parameter = 1.0
    phi: Parameter = 0.0
    gamma1: Parameter = 0.0
    gamma2: Parameter = 0.0
    x: Parameter = 0.0
    y: Parameter = 0.0
    gamma: Parameter = ISOTHERMAL


def ellipticity_from_axis(q: float, phi: float) -> tuple[float, float]:
    """(e1, e2) = (1-q)/(1+q) (cos 2 phi, sin 2 phi) of an axis ratio and major-axis angle.

    lenstronomy's ``phi_q2_ellipticity``. Angles run with the pixels, from +x towards +y.
    """
    e = (1.0 - q) / (1.0 + q)
    return e * math.cos(2.0 * phi), e * math.sin(2.0 * phi)


def axis_from_ellipticity(e1: float, e2: float) -> tuple[float, float]:
    """(q, phi) of an ellipticity: the inverse of `ellipticity_from_axis`, phi in [-pi/2, pi/2]."""
    e = min(math.hypot(e1, e2), 1.0 - 1e-9)
    return (1.0 - e) / (1.0 + e), 0.5 * math.atan2(e2, e1)


def tractor_ellipticity(q: float, phi: float) -> tuple[float, float]:
    """(shape_e1, shape_e2) that the Tractor's catalogue gives an axis ratio and major-axis angle.

    (a-b)/(a+b) (cos 2 PA, sin 2 PA) with PA counted from north through east (tractor.ellipses, EllipseE);
    phi counts from +x towards +y on an image with north along +y and east along -x, so PA = phi - pi/2.
    """
    e1, e2 = ellipticity_from_axis(q, phi)
    return 0.0 - e1, 0.0 - e2


def axis_from_tractor(shape_e1: float, shape_e2: float) -> tuple[float, float]:
    """(q, phi) on such an image of a Tractor ellipticity: the inverse of `tractor_ellipticity`."""
    return axis_from_ellipticity(0.0 - shape_e1, 0.0 - shape_e2)


def sie_deflection(
    x: Array, y: Array, *, theta_e: Parameter, q: Parameter, phi: Parameter
) -> tuple[Array, Array]:
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
    cos, sin = _direction(phi)
    f = _root((1.0 - q) * (1.0 + q) + _ROUND)
    strength = theta_e * _root(q) / f
    along, across = _turned(x, y, cos, sin)
    squeezed = _weak(q, x) * along
    slope = _weak(f, x) / xp.sqrt(squeezed * squeezed + across * across + _CORE)
    strength = _weak(strength, x)
    a_along, a_across = strength * xp.atan(slope * along), strength * xp.atanh(slope * across)
    return _turned_back(a_along, a_across, cos, sin)


def epl_deflection(
    x: Array, y: Array, *, theta_e: Parameter, q: Parameter, phi: Parameter, gamma: Parameter
) -> tuple[Array, Array]:
    """Deflection of an elliptical power law centred on the origin.

    Tessore & Metcalf (2015, A&A 580, A79), eq. 22 and 23, with their b our ``theta_e sqrt(q)`` and R our psi:
    a Fourier series in the elliptical angle, with coefficients of the parameters alone, that is summed by
    Clenshaw's recurrence in three real operations per term.

    x, y      position [arcsec], any broadcastable shape
    theta_e   Einstein radius, intermediate axis [arcsec]
    q, phi    axis ratio and position angle of the major axis [rad]; q = 1 is exact
    gamma     slope of the density in three dimensions, 1 < gamma < 3

    Returns (alpha_x, alpha_y) [arcsec], shaped like x. The centre itself gets zero, whatever the slope.
    Raises DataError for an axis ratio under LEAST_Q, or a slope, given as a number, out of range.
    """
    xp = _namespace(x)
    cos, sin = _direction(phi)
    t = gamma - 1.0
    strength, size2 = _weak(2.0 / (1.0 + q), x), _weak(theta_e * theta_e * q, x)
    along, across = _turned(x, y, cos, sin)
    squeezed = _weak(q, x) * along
    xx, yy = squeezed * squeezed, across * across
    psi2 = xx + yy + _CORE
    twice_cos = 2.0 * (xx - yy) / psi2
    # Backwards: sum_n c_n exp(2 i n angle) = b_0 - b_1 exp(-2 i angle), b_n = c_n + 2 cos b_(n+1) - b_(n+2).
    b0: Array = 0.0
    b1: Array = 0.0
    for coefficient in reversed(list(_coefficients(q, t, _truncation(xp, x)))):
        b0, b1 = _weak(coefficient, x) + twice_cos * b0 - b1, b0
    # |alpha| goes as psi^(1-t): psi^-t here, the rest in the coordinates.
    fall = strength * _power(size2 / psi2, t)
    return _turned_back(fall * squeezed * (b0 - b1), fall * across * (b0 + b1), cos, sin)


def aligned(lens: Lens) -> Lens:
    """The lens in its own frame: centred on the origin, its major axis along x."""
    phi = 2.0 * lens.phi
    cos, sin = _direction(phi)
    gamma1, gamma2 = _turned(lens.gamma1, lens.gamma2, cos, sin)
    return Lens(lens.theta_e, lens.q, 0.0, gamma1, gamma2, gamma=lens.gamma)


def deflection(x: Array, y: Array, lens: Lens) -> tuple[Array, Array]:
    """Total deflection of ellipsoid and shear at (x, y) [arcsec], shaped like x."""
    dx, dy = _shifted(x, lens.x), _shifted(y, lens.y)
    ax, ay = ellipsoid_deflection(dx, dy, lens)
    gamma1, gamma2 = _weak(lens.gamma1, x), _weak(lens.gamma2, x)
    return ax + gamma1 * dx + gamma2 * dy, ay + gamma2 * dx - gamma1 * dy


def trace(x: Array, y: Array, lens: Lens) -> tuple[Array, Array]:
    """Source-plane position beta = theta - alpha(theta) [arcsec] of an image-plane position."""
    ax, ay = deflection(x, y, lens)
    return x - ax, y - ay


def potential(x: Array, y: Array, lens: Lens) -> Array:
    """Lensing potential [arcsec^2] at (x, y), zero at the centre; its gradient is `deflection`.

    That of the ellipsoid is homogeneous of degree 3 - gamma, hence (theta . alpha)/(3 - gamma) (Tessore &
    Metcalf 2015, eq. 15).
    """
    dx, dy = _shifted(x, lens.x), _shifted(y, lens.y)
    ax, ay = ellipsoid_deflection(dx, dy, lens)
    gamma1, gamma2 = _weak(lens.gamma1, x), _weak(lens.gamma2, x)
    shear = 0.5 * gamma1 * (dx * dx - dy * dy) + gamma2 * dx * dy
    return (dx * ax + dy * ay) / _weak(3.0 - lens.gamma, x) + shear


def convergence(x: Array, y: Array, lens: Lens) -> Array:
    """Convergence kappa of the ellipsoid at (x, y); the shear has none. Infinite at the centre."""
    psi = isothermal_radius(_shifted(x, lens.x), _shifted(y, lens.y), q=lens.q, phi=lens.phi)
    size = lens.theta_e * _root(lens.q)
    if is_isothermal(lens.gamma):
        return _weak(0.5 * size, x) / psi
    ratio = _weak(size, x) / psi
    return _weak(0.5 * (3.0 - lens.gamma), x) * _power(ratio * ratio, lens.gamma - 1.0)


def isothermal_radius(x: Array, y: Array, *, q: Parameter, phi: Parameter) -> Array:
    """Radius sqrt(q^2 x^2 + y^2) in the frame of the major axis [arcsec]: kappa falls with it."""
    along, across = _turned(x, y, *_direction(phi))
    squeezed = _weak(q, x) * along
    return _namespace(x).sqrt(squeezed * squeezed + across * across)


def jacobian(x: Array, y: Array, lens: Lens) -> tuple[Array, Array, Array]:
    """(A_xx, A_xy, A_yy) of A = d beta / d theta at (x, y).

    The ellipsoid's shear follows from its deflection and convergence (Tessore & Metcalf 2015, eq. 17, as
    corrected). An isothermal lens stretches along the tangent only: its part of A is -2 kappa t t^T with t
    the unit tangent, whatever q (Kormann et al. 1994, section 3).
    """
    dx, dy = _shifted(x, lens.x), _shifted(y, lens.y)
    gamma1, gamma2 = _weak(lens.gamma1, x), _weak(lens.gamma2, x)
    r2 = dx * dx + dy * dy
    stretch = 2.0 * convergence(x, y, lens) / r2
    h_xx, h_xy, h_yy = stretch * dy * dy, -stretch * dx * dy, stretch * dx * dx
    if not is_isothermal(lens.gamma):
        ax, ay = ellipsoid_deflection(dx, dy, lens)
        shallow = _weak(ISOTHERMAL - lens.gamma, x) / r2
        plus, cross = shallow * (dx * ax - dy * ay), shallow * (dx * ay + dy * ax)
        h_xx, h_xy, h_yy = h_xx + plus, h_xy + cross, h_yy - plus
    return 1.0 - h_xx - gamma1, -h_xy - gamma2, 1.0 - h_yy + gamma1


def magnification(x: Array, y: Array, lens: Lens) -> Array:
    """Signed point magnification 1/det A at (x, y); negative where parity flips."""
    a_xx, a_xy, a_yy = jacobian(x, y, lens)
    return 1.0 / (a_xx * a_yy - a_xy * a_xy)


def stretch_bound(x: Array, y: Array, side: Parameter, lens: Lens) -> Array:
    """Upper bound on how much a length grows from image to source plane within squares about (x, y).

    x, y   centres of the squares [arcsec]
    side   their sides [arcsec], along x and y

    Returns, shaped like x, a bound on the largest singular value of A over each square. The convergence is
    singular at the lens centre: there it counts as at a distance of at least a quarter of `side`, and the
    bound holds for the square less the disc of that radius.

    Let k = (theta_e sqrt(q)/psi)^t at the smallest psi of the square. Where t <= 1 the ellipsoid's potential
    is convex (seen in its Hessian for q >= 0.05, not proven): no eigenvalue of the Hessian is below zero or
    above 2 kappa = (2 - t) k. Where t > 1 it exceeds these by (t - 1)|alpha|/r at most, and |alpha|/r is at
    most k psi/r times its value on the minor axis for k = 1. That value's series is convex in t term by term:
    it lies under (2 - t)/(1+q) + t/(2q), the straight line between its limits at t = 0 and 2. The shear adds
    its modulus. The bound is never below 1. Beyond that it is exact for an isothermal lens without shear and
    at most 2.4 times too large for gamma from 1.5 to 2.5.
    """
    xp = _namespace(x)
    dx, dy = _shifted(x, lens.x), _shifted(y, lens.y)
    edge_x, edge_y, psi2 = _nearest(dx, dy, side, lens)
    psi2 = xp.clip(psi2, _weak((0.25 * lens.q * side) ** 2, x), None)
    size2, shear = lens.theta_e**2 * lens.q, _root(lens.gamma1**2 + lens.gamma2**2)
    k = _weak(size2, x) / psi2
    if is_isothermal(lens.gamma):
        return xp.clip(xp.sqrt(k) - 1.0, 1.0, None) + _weak(shear, x)
    t = lens.gamma - 1.0
    k = _power(k, t)
    steep = 0.5 * (t - 1.0 + abs(t - 1.0)) * ((2.0 - t) / (1.0 + lens.q) + 0.5 * t / lens.q)
    r2 = xp.clip(edge_x * edge_x + edge_y * edge_y, _weak((0.25 * side) ** 2, x), None)
    excess = _weak(steep, x) * k * xp.sqrt(psi2 / r2)
    return xp.clip(_weak(2.0 - t, x) * k - 1.0, 1.0, None) + excess + _weak(shear, x)


def ellipsoid_deflection(dx: Array, dy: Array, lens: Lens) -> tuple[Array, Array]:
    """Deflection of the mass alone at a position relative to its centre."""
    if is_isothermal(lens.gamma):
        return sie_deflection(dx, dy, theta_e=lens.theta_e, q=lens.q, phi=lens.phi)
    return epl_deflection(dx, dy, theta_e=lens.theta_e, q=lens.q, phi=lens.phi, gamma=lens.gamma)


def _coefficients(q: Parameter, t: Parameter, truncation: float) -> Iterator[Parameter]:
    """c_n of the angular series: prod_k -f (2k-2+t)/(2k+2-t), k = 1..n, f = (1-q)/(1+q); of the parameters.

    As many as the smallest q needs, |c_n| being at most f^n. A lens that needs fewer gets zeros for the
    rest: its deflection does not depend on what else is in the batch.
    """
    least = float(q) if _is_number(q) else float(array_namespace(q).min(q))
    if not least >= LEAST_Q:
        problem = f"an axis ratio of {least:g} with a slope other than isothermal"
        raise DataError("elliptical power law", problem, f"q >= {LEAST_Q}, or gamma = {ISOTHERMAL}")
    if _is_number(t) and not 0.0 < t < 2.0:
        raise DataError("elliptical power law", f"a slope gamma = {t + 1.0:g}", "1 < gamma < 3")
    f = (1.0 - q) / (1.0 + q)
    limit = truncation * (1.0 - f)
    largest = (1.0 - least) / (1.0 + least) * (1.0 + 1e-6)  # f may be rounded to the parameters' precision
    power: Parameter = f
    coefficient: Parameter = 1.0
    yield coefficient
    for n in range(1, 1 + _term_count(largest, truncation)):
        coefficient = coefficient * (-f * (2.0 * n - 2.0 + t) / (2.0 * n + 2.0 - t))
        yield coefficient * (power > limit)
        power = power * f


def _term_count(f: float, truncation: float) -> int:
    """How many powers of f are above the truncation error that the rest of them add up to."""
    return 0 if f <= 0.0 else math.ceil(math.log(truncation * (1.0 - f)) / math.log(f))


def _truncation(xp: Any, x: Array) -> float:
    return max(_SERIES, 0.1 * float(xp.finfo(x.dtype).eps)) if hasattr(x, "dtype") else _SERIES


def _nearest(dx: Array, dy: Array, side: Parameter, lens: Lens) -> tuple[Array, Array, Array]:
    """The point nearest to the lens of squares about (dx, dy), and the smallest psi^2 in them.

    psi^2 is a convex quadratic form with its minimum at the lens, so over a square it is least on an edge
    that faces the lens: at the point of that edge's line where the form is least, or the end next to it. In
    the lens's own frame that is the square's nearest point.
    """
    xp = _namespace(dx)
    cos, sin = _direction(lens.phi)
    q2 = lens.q * lens.q
    if _is_number(lens.phi) and lens.phi == 0.0:
        half = _weak(0.5 * side, dx)
        edge_x, edge_y = (xp.clip(xp.abs(d) - half, 0.0, None) for d in (dx, dy))
        return edge_x, edge_y, _weak(q2, dx) * edge_x * edge_x + edge_y * edge_y
    xx, yy, xy = q2 * cos * cos + sin * sin, q2 * sin * sin + cos * cos, (q2 - 1.0) * cos * sin
    half = _weak(0.5 * side, dx)
    along_x, along_y = _weak(xy / xx, dx), _weak(xy / yy, dx)
    xx, yy, xy = _weak(xx, dx), _weak(yy, dx), _weak(2.0 * xy, dx)
    edge_x, edge_y = dx - xp.clip(dx, -half, half), dy - xp.clip(dy, -half, half)
    foot_y = dy - xp.clip(dy + along_y * edge_x, -half, half)
    foot_x = dx - xp.clip(dx + along_x * edge_y, -half, half)
    psi2 = xp.minimum(
        xx * edge_x * edge_x + xy * edge_x * foot_y + yy * foot_y * foot_y,
        xx * foot_x * foot_x + xy * foot_x * edge_y + yy * edge_y * edge_y,
    )
    return edge_x, edge_y, psi2


def _shifted(x: Array, origin: Parameter) -> Array:
    return x if _is_number(origin) and origin == 0.0 else x - _weak(origin, x)


def _turned_back(along: Array, across: Array, cos: Parameter, sin: Parameter) -> tuple[Array, Array]:
    """Components along x and y of a vector given along and across an axis: undoes `_turned`."""
    if _is_number(sin) and sin == 0.0 < cos:
        return along, across
    cos, sin = _weak(cos, along), _weak(sin, along)
    return cos * along - sin * across, sin * along + cos * across


def _turned(x: Array, y: Array, cos: Parameter, sin: Parameter) -> tuple[Array, Array]:
    """Coordinates along and across an axis of that direction; along x nothing is to be done."""
    if _is_number(sin) and sin == 0.0 < cos:
        return x, y
    cos, sin = _weak(cos, x), _weak(sin, x)
    return cos * x + sin * y, cos * y - sin * x


def _direction(phi: Parameter) -> tuple[Parameter, Parameter]:
    """(cos, sin) of a parameter. Of a number by numpy too: an array of it has the same bits."""
    if _is_number(phi):
        return float(np.cos(phi)), float(np.sin(phi))
    xp = array_namespace(phi)
    return xp.cos(phi), xp.sin(phi)


def _root(value: Parameter) -> Parameter:
    return math.sqrt(value) if _is_number(value) else array_namespace(value).sqrt(value)


def _power(square: Array, t: Parameter) -> Array:
    """The t-th power of a square's root.

    By a logarithm: NumPy's own power rounds differently with the length of a loop and for an exponent of 0.5.
    """
    xp = _namespace(square)
    return xp.exp(_weak(0.5 * t, square) * xp.log(square))


def _weak(value: Parameter, like: Array) -> Parameter:
    """A parameter that takes the precision of the positions, as a Python number does."""
    if _is_number(value):
        return float(value)  # numpy's float64 is a number too, but a strong one
    dtype = getattr(like, "dtype", value.dtype)
    return value if value.dtype == dtype else array_namespace(value).astype(value, dtype)


def is_isothermal(gamma: Parameter) -> bool:
    """Whether a slope is the number that takes the closed form; an array never does."""
    return _is_number(gamma) and bool(gamma == ISOTHERMAL)


def _is_number(value: Parameter) -> bool:
    return isinstance(value, (int, float))


def _namespace(array: Array) -> Any:
    """The array namespace of positions; plain numbers are numpy's."""
    return np if _is_number(array) else array_namespace(array)
