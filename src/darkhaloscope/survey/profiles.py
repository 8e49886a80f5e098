"""Sersic surface brightness, and its flux on the pixels of a stamp.

Conventions: x is the column, y the row, both increasing; the position angle `phi` of the major axis is in
radians from x towards y. **`R_sersic` is the circularised half-light radius sqrt(a b)** (lenstronomy's
product average): half of the flux lies within the ellipse whose semi-axes are a = R_sersic / sqrt(q) and
b = R_sersic sqrt(q). Tractor's ``shape_r`` and the R_e of the priors are the semi-*major* axis a: use
`circularised` and `semi_major` to go from one to the other.

The survey's PSF is an *effective* one: it contains the pixel response. What is to be convolved with it is
therefore the surface brightness itself, not its integral over pixels, which would count the pixel twice.
Sampled once per pixel a cuspy profile aliases, so light near the centre is sampled finely and each sample is
laid on the pixel grid with the weights of a Lanczos interpolator: the transpose of interpolating the PSF
between its pixels, hence right for any PSF that the pixels sample well.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Pixels = NDArray[np.float64]

LANCZOS_ORDER = 3
_BLEND_PIX = (3.0, 8.0)  # fine samples only inside the first radius, one per pixel outside the second
_RADIAL_NODES = 20
_ANGULAR_NODES = 40
_CUSP_POWER = 4  # r = r_max u^4 turns exp(-b r^(1/n)) into a smooth function of u for n up to 6


def sersic_bn(n: float) -> float:
    """b_n of the Sersic law: the exact root of P(2n, b) = 1/2 (Ciotti 1991, eq. 4), for any n > 0."""
    return float(special.gammaincinv(2.0 * n, 0.5))


def circularised(semi_major: float, q: float) -> float:
    """The circularised radius sqrt(ab) of an ellipse of semi-major axis `semi_major` and axis ratio q."""
    return semi_major * float(np.sqrt(q))


def semi_major(R_sersic: float, q: float) -> float:
    """The semi-major axis a of an ellipse of circularised radius `R_sersic` and axis ratio q."""
    return R_sersic / float(np.sqrt(q))


def elliptical_radius(dx: ArrayLike, dy: ArrayLike, *, q: float, phi: float) -> Pixels:
    """Circularised radius sqrt(q xi^2 + eta^2 / q) of offsets from the centre; unit of dx and dy."""
    u, v = np.asarray(dx, dtype=np.float64), np.asarray(dy, dtype=np.float64)
    cos, sin = np.cos(phi), np.sin(phi)
    xi, eta = cos * u + sin * v, cos * v - sin * u
    return np.asarray(np.sqrt(q * xi**2 + eta**2 / q))


def sersic_brightness(radius: ArrayLike, *, flux: float, R_sersic: float, n_sersic: float) -> Pixels:
    """Surface brightness of a Sersic (1963) profile of total flux `flux` at a circularised radius.

    Sersic law as in Graham & Driver (2005), eq. 1, normalised to the flux out to infinity (their eq. 4).

    radius     circularised radius, the unit of R_sersic
    flux       total flux, any unit
    R_sersic   circularised half-light radius sqrt(ab) [arcsec], > 0
    n_sersic   index, > 0

    Returns [flux / arcsec^2], shaped like radius. The centre (radius 0) is finite.
    """
    b = sersic_bn(n_sersic)
    log_total = special.gammaln(2.0 * n_sersic + 1.0) - 2.0 * n_sersic * np.log(
        b
    )  # 2 n Gamma(2n) = Gamma(2n+1)
    amplitude = flux / (np.pi * R_sersic**2 * np.exp(log_total))
    ratio = np.asarray(radius, dtype=np.float64) / R_sersic
    return np.asarray(amplitude * np.exp(-b * ratio ** (1.0 / n_sersic)))


def sersic(
    x: ArrayLike,
    y: ArrayLike,
    *,
    flux: float,
    R_sersic: float,
    n_sersic: float,
    q: float = 1.0,
    phi: float = 0.0,
    x0: float = 0.0,
    y0: float = 0.0,
) -> Pixels:
    """Surface brightness of an elliptical Sersic profile at points; total flux `flux`.

    x, y      positions [arcsec], broadcastable
    flux      total flux out to infinity, any unit
    R_sersic  circularised half-light radius sqrt(ab) [arcsec]
    n_sersic  index; q axis ratio minor/major in (0, 1]; phi major axis [rad], x to y
    x0, y0    centre [arcsec]

    Returns [flux / arcsec^2], the broadcast shape of x and y.
    """
    u, v = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    radius = elliptical_radius(u - x0, v - y0, q=q, phi=phi)
    return sersic_brightness(radius, flux=flux, R_sersic=R_sersic, n_sersic=n_sersic)


@cache
def _polar_nodes() -> tuple[Pixels, Pixels, Pixels]:
    """Offsets and areas of the fine samples around a centre [pixel, pixel, pixel^2], blend applied."""
    node, weight = np.polynomial.legendre.leggauss(_RADIAL_NODES)
    u, weight = 0.5 * (node + 1.0), 0.5 * weight
    r = _BLEND_PIX[1] * u**_CUSP_POWER
    dr = _BLEND_PIX[1] * _CUSP_POWER * u ** (_CUSP_POWER - 1) * weight
    step = 2.0 * np.pi / _ANGULAR_NODES
    # Turning successive rings by the golden angle keeps the samples off common spokes.
    angle = step * np.arange(_ANGULAR_NODES)[None, :] + 2.39996 * np.arange(_RADIAL_NODES)[:, None]
    area = (r * dr * _blend(r))[:, None] * step * np.ones_like(angle)
    return (r[:, None] * np.cos(angle)).ravel(), (r[:, None] * np.sin(angle)).ravel(), area.ravel()


def _blend(r: Pixels) -> Pixels:
    """Share of the light at r [pixel] that the fine samples carry: 1 inside, 0 outside, smooth between."""
    inner, outer = _BLEND_PIX
    t = np.clip((r - inner) / (outer - inner), 0.0, 1.0)
    return np.asarray(1.0 - t**3 * (10.0 - 15.0 * t + 6.0 * t**2))


def lanczos(t: ArrayLike, order: int = LANCZOS_ORDER) -> Pixels:
    """The Lanczos window sinc(t) sinc(t / order), zero from |t| = order on; t in pixels."""
    u = np.asarray(t, dtype=np.float64)
    return np.where(np.abs(u) < order, np.sinc(u) * np.sinc(u / order), 0.0)


def spread_weights(position: ArrayLike, n: int, first: int = 0) -> Pixels:
    """Weights with which a point source is laid on n pixels of one axis so that an effective PSF is moved.

    position  0-based coordinate of each point [pixel], shape (k,)
    n         number of pixels, the first of which has coordinate `first`

    Returns (n, k). A point further than the Lanczos order from every pixel has weights zero; those of points
    inside sum to one, so flux is kept. Convolved with a PSF of FWHM 3 pixels the peak is right to 0.2 %.
    """
    where = np.asarray(position, dtype=np.float64)
    low = np.floor(where).astype(np.int64)
    taps = np.arange(1 - LANCZOS_ORDER, LANCZOS_ORDER + 1)[:, None]
    weight = lanczos(where - low - taps)
    weight /= weight.sum(axis=0)
    # Six pixels take part for each point: fill them in a frame wide enough for those that fall outside.
    row = np.clip(low - first + taps, -1, n) + 1
    frame = np.zeros((n + 2, where.size))
    frame[row, np.arange(where.size)] = weight
    return frame[1:-1]


def spread_points(shape: tuple[int, int], x: ArrayLike, y: ArrayLike, flux: ArrayLike) -> Pixels:
    """Lay point fluxes on a pixel grid, ready for convolution with an effective PSF.

    shape  (n_y, n_x); x, y 0-based pixel coordinates, shape (k,); flux shape (..., k)

    Returns (..., n_y, n_x) flux per pixel; it may be slightly negative around a point (Lanczos lobes).
    """
    rows, columns = spread_weights(y, shape[0]), spread_weights(x, shape[1])
    amount = np.asarray(flux, dtype=np.float64)
    return np.asarray((amount[..., None, :] * rows) @ columns.T)


@dataclass(frozen=True)
class SersicGrid:
    """Where a profile centred at (x_pix, y_pix) is sampled; made once, painted once per band."""

    shape: tuple[int, int]
    corner: tuple[int, int]  # (y, x) of the fine patch's first pixel
    pixel_dx: Pixels
    pixel_dy: Pixels
    pixel_share: Pixels  # what the one-per-pixel samples carry
    rows: Pixels
    columns: Pixels

    @classmethod
    def at(cls, shape: tuple[int, int], x_pix: float, y_pix: float) -> "SersicGrid":
        """Samples for a centre in 0-based pixel coordinates; the centre may lie outside the shape."""
        dy = np.arange(shape[0], dtype=np.float64)[:, None] - y_pix
        dx = np.arange(shape[1], dtype=np.float64)[None, :] - x_pix
        share = 1.0 - _blend(np.hypot(dx, dy))
        fine_x, fine_y, _ = _polar_nodes()
        half = int(np.ceil(_BLEND_PIX[1])) + LANCZOS_ORDER
        corner = int(np.floor(y_pix)) - half, int(np.floor(x_pix)) - half
        size = 2 * half + 2
        return cls(
            shape=shape,
            corner=corner,
            pixel_dx=dx,
            pixel_dy=dy,
            pixel_share=share,
            rows=spread_weights(y_pix + fine_y, size, corner[0]),
            columns=spread_weights(x_pix + fine_x, size, corner[1]),
        )

    def paint(
        self, *, pixel_scale: float, flux: float, R_sersic: float, n_sersic: float, q: float, phi: float
    ) -> Pixels:
        """Flux per pixel of one profile, for an effective PSF; arguments as `paint_sersic`."""
        fine_x, fine_y, area = _polar_nodes()
        scale = {"flux": flux, "R_sersic": R_sersic / pixel_scale, "n_sersic": n_sersic}
        outer = elliptical_radius(self.pixel_dx, self.pixel_dy, q=q, phi=phi)
        image = sersic_brightness(outer, **scale) * self.pixel_share
        inner = elliptical_radius(fine_x, fine_y, q=q, phi=phi)
        patch = (self.rows * (sersic_brightness(inner, **scale) * area)) @ self.columns.T
        add_patch(image, patch, self.corner)
        return image


def add_patch(image: Pixels, patch: Pixels, corner: tuple[int, int]) -> None:
    """Add a patch to an image in place; what falls outside the image is dropped.

    corner  (y, x) of the patch's first pixel in the image, may be negative
    """
    low = [max(0, c) for c in corner]
    high = [min(n, c + p) for n, c, p in zip(image.shape, corner, patch.shape, strict=True)]
    if low[0] >= high[0] or low[1] >= high[1]:
        return
    window = patch[low[0] - corner[0] : high[0] - corner[0], low[1] - corner[1] : high[1] - corner[1]]
    image[low[0] : high[0], low[1] : high[1]] += window


def paint_sersic(
    shape: tuple[int, int],
    *,
    x_pix: float,
    y_pix: float,
    pixel_scale: float,
    flux: float,
    R_sersic: float,
    n_sersic: float,
    q: float,
    phi: float,
) -> Pixels:
    """Flux per pixel of an elliptical Sersic profile before the PSF.

    shape         (n_y, n_x)
    x_pix, y_pix  centre, 0-based, pixel centres at integers
    pixel_scale   [arcsec / pixel]
    flux          total out to infinity; the part inside the stamp is right to better than 0.5 %
    R_sersic      circularised half-light radius sqrt(ab) [arcsec]; q, phi as in `sersic`

    Returns (n_y, n_x), unit of flux per pixel, meant for convolution with an effective PSF: near the centre
    single pixels are those of a band-limited image, not the integral over the pixel.
    """
    grid = SersicGrid.at(shape, x_pix, y_pix)
    return grid.paint(pixel_scale=pixel_scale, flux=flux, R_sersic=R_sersic, n_sersic=n_sersic, q=q, phi=phi)
