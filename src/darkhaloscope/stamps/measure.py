"""What is measured on a stamp: radii, masks, profiles, the brief's shuffle, the S/N of an arc.

Conventions: arrays are (..., band, y, x) or (..., y, x); pixel positions are 0-based with integer pixel
centres. A centre is a number, or one number per row of the leading batch axis; None means the geometric
centre (size - 1)/2, which is 31.5 for 64 pixels. All radii are in pixels.

The brief measures from h // 2 = 32, half a pixel off the geometric centre. What must follow its letter
(gates v1) asks for it by name: `core_box`, `letter_center`.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.survey.photometry import MAD_TO_STD
from darkhaloscope.survey.release import BANDS

CORE_RADIUS_PIX = 5.0
CORE_BOX_PIX = 10
OUTER_RADIUS_PIX = 20.0
SHUFFLE_BINS = 8
FOOTPRINT_SIGMAS = 1e-3

Center = float | ArrayLike | None
Bool = NDArray[np.bool_]
Real = NDArray[np.floating[Any]]
CoreFill = Literal["zero", "outer_median", "rest_median"]

_R = BANDS.index("r")


def letter_center(size: int) -> float:
    """The centre the brief measures from: size // 2, half a pixel beyond the middle of an even stamp."""
    return float(size // 2)


def core_box(x: NDArray[Any]) -> NDArray[Any]:
    """The brief's core: the middle 10 x 10 pixels, ``x[..., 27:37, 27:37]`` of 64 (a view)."""
    rows, columns = (
        slice(length // 2 - CORE_BOX_PIX // 2, length // 2 + CORE_BOX_PIX // 2) for length in x.shape[-2:]
    )
    return x[..., rows, columns]


def radius_map(
    shape: tuple[int, ...], x_center_pix: Center = None, y_center_pix: Center = None
) -> NDArray[np.float64]:
    """Distance of each pixel from the centre [pix].

    shape   any shape that ends in (y, x)

    Returns (y, x), or (n, y, x) where a centre has n numbers. Raises DataError for a centre that is NaN or
    has more than one axis.
    """
    dx, dy = _offsets(shape, x_center_pix, y_center_pix)
    return np.hypot(dx, dy)


def _offsets(
    shape: tuple[int, ...], x_center_pix: Center, y_center_pix: Center
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    height, width = shape[-2:]
    xc, yc = _center(x_center_pix, width), _center(y_center_pix, height)
    return np.arange(width) - xc[..., None, None], np.arange(height)[:, None] - yc[..., None, None]


def _radius_squared(
    shape: tuple[int, ...], x_center_pix: Center, y_center_pix: Center
) -> NDArray[np.float64]:
    """Enough to compare radii with, at a fifth of the time."""
    dx, dy = _offsets(shape, x_center_pix, y_center_pix)
    return np.asarray(dx**2 + dy**2)


def _center(center: Center, length: int) -> NDArray[np.float64]:
    value = np.asarray((length - 1) / 2 if center is None else center, dtype=np.float64)
    if value.ndim > 1 or not np.isfinite(value).all():
        raise DataError("stamp", f"a centre must be finite and on one axis at most, not {value.shape}")
    return value


def core_mask(
    shape: tuple[int, ...],
    x_center_pix: Center = None,
    y_center_pix: Center = None,
    *,
    radius_pix: float = CORE_RADIUS_PIX,
) -> Bool:
    """Pixels with r < radius_pix, shaped like `radius_map`."""
    return np.asarray(_radius_squared(shape, x_center_pix, y_center_pix) < radius_pix**2)


def outer_mask(
    shape: tuple[int, ...],
    x_center_pix: Center = None,
    y_center_pix: Center = None,
    *,
    radius_pix: float = OUTER_RADIUS_PIX,
) -> Bool:
    """Pixels with r > radius_pix: the brief's background, shaped like `radius_map`."""
    return np.asarray(_radius_squared(shape, x_center_pix, y_center_pix) > radius_pix**2)


def annulus_mask(
    shape: tuple[int, ...],
    inner_pix: float,
    outer_pix: float,
    x_center_pix: Center = None,
    y_center_pix: Center = None,
) -> Bool:
    """Pixels with inner_pix <= r < outer_pix, shaped like `radius_map`."""
    square = _radius_squared(shape, x_center_pix, y_center_pix)
    return np.asarray((square >= inner_pix**2) & (square < outer_pix**2))


def median_and_spread(x: Real, mask: Bool) -> tuple[Real, Real]:
    """Median and 1.4826 x median absolute deviation of the masked pixels, per band.

    x      (..., y, x)
    mask   (y, x), or (n, y, x) for x (n, ..., y, x)

    Returns two arrays (..., 1, 1) of x's type; NaN where a masked pixel is NaN. Raises DataError for an empty
    mask, or one that does not fit x.
    """
    median = np.empty((*x.shape[:-2], 1), dtype=x.dtype)
    spread = np.empty_like(median)
    for rows, values in _sorted_values(x, mask):
        median[rows] = middle = _middle(values)
        spread[rows] = MAD_TO_STD * _middle_departure(values, middle)
    return median[..., None], spread[..., None]


def median_within(x: Real, mask: Bool) -> Real:
    """The median of `median_and_spread` alone, (..., 1, 1)."""
    median = np.empty((*x.shape[:-2], 1), dtype=x.dtype)
    for rows, values in _sorted_values(x, mask):
        median[rows] = _middle(values)
    return median[..., None]


def _sorted_values(x: Real, mask: Bool) -> Iterator[tuple[Any, Real]]:
    """(row, masked pixels from the least up): sorting once is what both medians cost."""
    flat = _flat(x)
    for rows, pixels in _by_mask(mask, x):
        values = np.take(flat[rows], pixels, axis=-1)
        if not values.shape[-1]:
            raise DataError("stamp", "has no pixels in the region the background is measured in")
        values.sort(axis=-1)
        yield rows, values


def _middle(values: Real) -> Real:
    """Median of sorted values along the last axis, which is kept; NaN, which sorts to the end, wins."""
    n = values.shape[-1]
    middle = (values[..., (n - 1) // 2] + values[..., n // 2]) / 2
    return np.asarray(np.where(np.isnan(values[..., -1]), np.nan, middle)[..., None], dtype=values.dtype)


def _middle_departure(values: Real, middle: Real) -> Real:
    """Median of |values - middle| for sorted values.

    The k values nearest to the middle lie side by side, so the k-th departure is the least over windows of k
    of the departure of the window's farther end.
    """
    n = values.shape[-1]
    below, above = middle - values, values - middle

    def departure(k: int) -> Real:
        ends = np.maximum(below[..., : n - k + 1], above[..., k - 1 :])
        return np.asarray(ends.min(axis=-1, keepdims=True))

    low, high = (n - 1) // 2 + 1, n // 2 + 1
    return departure(low) if low == high else (departure(low) + departure(high)) / 2


def _by_mask(mask: Bool, x: Real) -> Iterator[tuple[Any, NDArray[np.intp]]]:
    """(row, flat pixel indices): row by row, which keeps the medians in the processor's cache."""
    if mask.ndim == 3 and (x.ndim < 3 or len(mask) != len(x)):
        raise DataError("stamp", f"{len(mask)} centres do not fit pixels of shape {x.shape}")
    if mask.ndim == 3:
        yield from ((row, np.flatnonzero(m)) for row, m in enumerate(mask))
        return
    pixels = np.flatnonzero(mask)
    yield from ((row, pixels) for row in (range(len(x)) if x.ndim > 3 else (...,)))


def centers_by_row(
    shape: tuple[int, ...], x_center_pix: Center, y_center_pix: Center
) -> Iterator[tuple[Any, float, float]]:
    """(row index, x, y) for pixels of `shape`; a single index ... where all rows share one centre."""
    xc, yc = np.broadcast_arrays(_center(x_center_pix, shape[-1]), _center(y_center_pix, shape[-2]))
    if xc.ndim and (len(shape) < 3 or len(xc) != shape[0]):
        raise DataError("stamp", f"{len(xc)} centres do not fit pixels of shape {shape}")
    if xc.size == 1 or len({*zip(xc.ravel(), yc.ravel(), strict=True)}) == 1:
        yield ..., float(xc.flat[0]), float(yc.flat[0])
        return
    for row, (x, y) in enumerate(zip(xc, yc, strict=True)):
        yield row, float(x), float(y)


def fill_core(
    x: Real,
    x_center_pix: Center = None,
    y_center_pix: Center = None,
    *,
    radius_pix: float = CORE_RADIUS_PIX,
    fill: CoreFill = "zero",
) -> Real:
    """A copy of `x` with the core r < radius_pix replaced, band by band.

    x      (..., band, y, x); one row per centre on the leading axis where centres are arrays
    fill   "zero" (in normalised pixels: the background), "outer_median" (of r > 20, the brief's core
           dropout), "rest_median" (of r >= radius_pix, which holds the arc)
    """
    core = _expand(core_mask(x.shape, x_center_pix, y_center_pix, radius_pix=radius_pix), x.ndim)
    if fill == "zero":
        return np.where(core, x.dtype.type(0), x)
    inner = OUTER_RADIUS_PIX if fill == "outer_median" else np.nextafter(radius_pix, 0.0)
    outside = outer_mask(x.shape, x_center_pix, y_center_pix, radius_pix=inner)
    return np.where(core, median_within(x, outside), x)


def core_dropout(
    x: Real,
    x_center_pix: Center = None,
    y_center_pix: Center = None,
    *,
    radius_pix: float = CORE_RADIUS_PIX,
) -> Real:
    """The brief's core dropout: r < radius_pix filled with the median of r > 20, band by band.

    Apply it after normalisation, and to both members of a pair: filled before, it would shift nothing but
    leave a disc of another noise level as a cue.
    """
    return fill_core(x, x_center_pix, y_center_pix, radius_pix=radius_pix, fill="outer_median")


def _expand(mask: Bool, ndim: int) -> Bool:
    """(n, y, x) to (n, 1, …, y, x), so that it broadcasts against pixels of `ndim` axes."""
    if mask.ndim == 2:
        return mask
    return mask.reshape(mask.shape[0], *(1,) * (ndim - 3), *mask.shape[1:])


def radial_profile(
    x: Real,
    x_center_pix: float | None = None,
    y_center_pix: float | None = None,
    *,
    edges_pix: ArrayLike | None = None,
    statistic: Literal["mean", "median"] = "mean",
) -> NDArray[np.float64]:
    """Mean or median in rings, per band.

    x           (..., y, x), one centre for all of it
    edges_pix   ring edges, increasing; ring i holds edges[i] <= r < edges[i + 1]. Default: one pixel wide, to
                half the width

    Returns (..., rings); NaN for a ring without pixels.
    """
    edges = (
        np.arange(x.shape[-1] // 2 + 1.0) if edges_pix is None else np.asarray(edges_pix, dtype=np.float64)
    )
    reduce: Callable[..., Any] = np.mean if statistic == "mean" else np.median
    profile = np.full((*x.shape[:-2], len(edges) - 1), np.nan)
    for ring, pixels in rings(x.shape, edges, x_center_pix, y_center_pix):
        profile[..., ring] = reduce(_flat(x)[..., pixels].astype(np.float64, copy=False), axis=-1)
    return profile


def rings(
    shape: tuple[int, ...],
    edges_pix: ArrayLike,
    x_center_pix: float | None = None,
    y_center_pix: float | None = None,
) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Number and flat pixel indices (row by row) of each ring that holds a pixel."""
    radius = radius_map(shape, x_center_pix, y_center_pix)
    if radius.ndim != 2:
        raise DataError("stamp", "rings are drawn around one centre at a time")
    edges = np.asarray(edges_pix, dtype=np.float64)
    which = np.searchsorted(edges, radius.ravel(), side="right") - 1
    for ring in range(len(edges) - 1):
        pixels = np.flatnonzero(which == ring)
        if pixels.size:
            yield ring, pixels


def _flat(x: NDArray[Any]) -> NDArray[Any]:
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def azimuthal_shuffle(
    residual: Real,
    rng: np.random.Generator,
    x_center_pix: float | None = None,
    y_center_pix: float | None = None,
    *,
    n_bins: int = SHUFFLE_BINS,
) -> Real:
    """The brief's hard negative HN0: an arc's pixels moved at random within radial bins.

    residual   stamp minus control (band, y, x)
    rng        the stream of this row: a batch is shuffled row by row, each with its own stream
    n_bins     bins of equal width from the centre to the farthest corner

    Returns a shuffled copy; add it to the control. Each band is permuted on its own, so the pixels of each
    bin and band, and with them the flux, are kept exactly.

    Known weakness: pixels are moved after the PSF, and otherwise in each band, so what results is white noise
    without colour that no telescope could record, and bins of 5.7 pixels do not keep the radial profile. A
    single texture feature tells it from an arc: a high score against HN0 does not show that shapes were
    learned.
    """
    radius = radius_map(residual.shape, x_center_pix, y_center_pix)
    edges = np.linspace(0.0, radius.max(), n_bins + 1)
    edges[-1] = np.inf
    source = _flat(residual)
    shuffled = source.copy()
    for _, pixels in rings(residual.shape, edges, x_center_pix, y_center_pix):
        shuffled[:, pixels] = rng.permuted(source[:, pixels], axis=1)
    return shuffled.reshape(residual.shape)


def arc_snr(arc: Real, invvar: Real) -> NDArray[np.float64]:
    """The brief's ``arc_snr``: the largest a/sigma_w of a single pixel in r.

    arc      noiseless flux of the arc [nmgy], (..., band, y, x)
    invvar   white-equivalent 1/sigma_w² [1/nmgy²], host photons included, shaped like arc; pixels with
             invvar <= 0 are masked

    Returns (...,); 0 where every pixel is masked.
    """
    return np.asarray(arc_snr_bands(arc[..., _R : _R + 1, :, :], invvar[..., _R : _R + 1, :, :])[..., 0])


def arc_snr_bands(arc: Real, invvar: Real) -> NDArray[np.float64]:
    """The largest a/sigma_w of a single pixel, per band, as for `arc_snr`. Returns (..., band)."""
    usable = np.maximum(invvar.astype(np.float64), 0.0)
    return np.asarray((arc * np.sqrt(usable)).max(axis=(-2, -1)))


def arc_snr_sum_bands(arc: Real, invvar: Real) -> NDArray[np.float64]:
    """Arc flux over the noise of all usable pixels, per band: sum a / sqrt(sum sigma_w²), as for `arc_snr`.

    The first system's ``arc_snr_sum``: blank sky dilutes it, so it lies below any sensible aperture's S/N.
    Returns (..., band); 0 where every pixel is masked.
    """
    usable = invvar > 0.0
    variance = np.divide(1.0, invvar, out=np.zeros(invvar.shape), where=usable).sum(axis=(-2, -1))
    total = (arc * usable).sum(axis=(-2, -1), dtype=np.float64)
    return np.asarray(np.divide(total, np.sqrt(variance), out=np.zeros_like(total), where=variance > 0.0))


def arc_snr_mf_bands(arc: Real, invvar: Real) -> NDArray[np.float64]:
    """Matched-filter S/N of an arc of known shape, per band: sqrt(sum a²/sigma_w²), as for `arc_snr`.

    sigma_w is white-equivalent: the sum then equals the one with the full covariance of the coadd's pixels.
    Putting the rms of blank pixels in its place would raise it by 12 %. Returns (..., band).
    """
    usable = np.maximum(invvar.astype(np.float64), 0.0)
    return np.asarray(np.sqrt((arc.astype(np.float64) ** 2 * usable).sum(axis=(-2, -1))))


def arc_snr_mf(arc: Real, invvar: Real) -> NDArray[np.float64]:
    """Matched-filter S/N of the three bands together, added in quadrature. Returns (...,)."""
    return np.asarray(np.sqrt((arc_snr_mf_bands(arc, invvar) ** 2).sum(axis=-1)))


def arc_footprint(arc: Real, invvar: Real) -> Bool:
    """Pixels where a noiseless arc is above 1e-3 of the pixel noise: where light is added at all.

    arc, invvar   (..., band, y, x) [nmgy], [1/nmgy²]; a masked pixel (invvar <= 0) counts as the quietest of
                  its plane, so that an arc runs on across it

    Outside, a stamp is its control, bit for bit. What is left out there is a hundredth of a faint arc's flux
    and a millionth of its squared S/N. Returns booleans shaped like arc; a plane that is masked everywhere
    has no footprint.
    """
    weight = np.where(invvar > 0.0, invvar, invvar.max(axis=(-2, -1), keepdims=True)).astype(np.float64)
    return np.asarray(arc * np.sqrt(np.maximum(weight, 0.0)) > FOOTPRINT_SIGMAS)


def core_flux_share(
    arc: Real, x_center_pix: Center = None, y_center_pix: Center = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How much of an arc's r-band flux lies in the core: (kappa_r5, kappa_box).

    arc   noiseless, PSF-convolved flux (..., band, y, x)

    kappa_r5 counts r < 5 around the target, kappa_box the brief's box [27:37]², whose corners reach 7.1
    pixels from the middle. Each (...,), NaN for an arc without flux.
    """
    plane = arc[..., _R, :, :].astype(np.float64)
    total = plane.sum(axis=(-2, -1))
    total = np.where(total > 0, total, np.nan)
    core = _expand(core_mask(arc.shape, x_center_pix, y_center_pix), plane.ndim)
    return (plane * core).sum(axis=(-2, -1)) / total, core_box(plane).sum(axis=(-2, -1)) / total
