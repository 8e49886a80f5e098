"""Point-spread functions on the pixel grid, and convolution with them.

The survey's PSF is *effective*: the value of a kernel pixel is the response of that pixel to a point source,
so the pixel's own area is already in it. A kernel is therefore sampled at pixel centres, and an image that is
convolved with it must not have been integrated over pixels (see `survey.profiles`).
Position angles are in radians from x (columns) towards y (rows).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import signal

Pixels = NDArray[np.float64]

KERNEL_SIZE = 31
"""Side of a kernel for ordinary objects [pixel]."""
LARGE_KERNEL_SIZE = 63
"""Side of a kernel for bright cores, whose wings are seen further out [pixel]."""


def moffat_kernel(
    fwhm_arcsec: float,
    beta: float,
    *,
    e: float = 0.0,
    pa: float = 0.0,
    pixel_scale: float,
    size: int = KERNEL_SIZE,
) -> Pixels:
    """An elliptical Moffat (1969) effective PSF, point-sampled: the pixel response is included.

    fwhm_arcsec  full width at half maximum of the profile itself, geometric mean of both axes [arcsec]
    beta         wing exponent, > 1; I is proportional to (1 + (r / alpha)^2)^-beta
    e            (a - b) / (a + b), 0 <= e < 1
    pa           position angle of the major axis [rad], x to y
    pixel_scale  [arcsec / pixel]
    size         side [pixel], odd

    Returns (size, size), sum exactly 1 *after* truncation, centred on the middle pixel. ValueError on an even
    size or an impossible shape: both are mistakes of the caller.
    """
    if size % 2 == 0 or size < 3 or not 0.0 <= e < 1.0 or beta <= 1.0 or fwhm_arcsec <= 0.0:
        message = f"no Moffat kernel has fwhm {fwhm_arcsec}, beta {beta}, e {e}, size {size}"
        raise ValueError(message)
    alpha = fwhm_arcsec / pixel_scale / (2.0 * np.sqrt(2.0 ** (1.0 / beta) - 1.0))
    q = (1.0 - e) / (1.0 + e)
    axis = np.arange(size) - size // 2
    dx, dy = axis[None, :], axis[:, None]
    cos, sin = np.cos(pa), np.sin(pa)
    xi, eta = cos * dx + sin * dy, cos * dy - sin * dx
    kernel = (1.0 + (q * xi**2 + eta**2 / q) / alpha**2) ** -beta
    return np.asarray(kernel / kernel.sum())


def convolve(image: ArrayLike, kernel: ArrayLike) -> Pixels:
    """Linear convolution, zero outside the image, same shape: (..., y, x) with (..., k, k).

    Light of objects outside the image is not there to scatter in: paint on a margin of half a kernel.
    """
    pixels, response = np.asarray(image, dtype=np.float64), np.asarray(kernel, dtype=np.float64)
    return np.asarray(signal.fftconvolve(pixels, response, mode="same", axes=(-2, -1)))


def n_eff(kernel: ArrayLike) -> float:
    """Noise-equivalent area 1 / sum p^2 of a kernel that sums to one [pixel]."""
    weights = np.asarray(kernel, dtype=np.float64)
    return float(1.0 / np.sum((weights / weights.sum()) ** 2))


def measure_fwhm(kernel: ArrayLike, pixel_scale: float) -> float:
    """FWHM [arcsec] of the azimuthally averaged profile of a centred kernel, by interpolation in radius."""
    weights = np.asarray(kernel, dtype=np.float64)
    middle = weights.shape[0] // 2
    y, x = np.indices(weights.shape)
    radius = np.hypot(x - middle, y - middle).ravel()
    order = np.argsort(radius)
    # Unique radii, so that interpolation sees a function.
    r, first = np.unique(np.round(radius[order], 6), return_index=True)
    profile = np.add.reduceat(weights.ravel()[order], first) / np.diff(np.append(first, radius.size))
    below = int(np.argmax(profile < 0.5 * profile[0]))
    if below == 0:
        return float("nan")
    half = np.interp(0.5 * profile[0], [profile[below], profile[below - 1]], [r[below], r[below - 1]])
    return float(2.0 * half * pixel_scale)
