"""Point-spread functions on the pixel grid, and convolution with them.

The survey's PSF is *effective*: the value of a kernel pixel is the response of that pixel to a point source,
so the pixel's own area is already in it. A kernel is therefore sampled at pixel centres, and an image that is
convolved with it must not have been integrated over pixels (see `survey.profiles`).

The same function can be sampled more finely than once per pixel (`oversampling`). Its values stay responses
of whole native pixels to a point source, at positions between pixel centres: only the samples a whole pixel
apart add up to one.
Position angles are in radians from x (columns) towards y (rows).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import signal

Pixels = NDArray[np.float64]

KERNEL_SIZE = 31
"""Side of a kernel for ordinary objects [pixel]."""
LARGE_KERNEL_SIZE = 63
"""Side of a kernel for bright cores, whose wings are seen further out [pixel]."""


SUM_TOLERANCE = 1e-3
"""How far the sum of a kernel's native samples may be from one."""

_FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))


def moffat_kernel(
    fwhm_arcsec: float,
    beta: float,
    *,
    e: float = 0.0,
    pa: float = 0.0,
    pixel_scale: float,
    size: int = KERNEL_SIZE,
    oversampling: int = 1,
) -> Pixels:
    """An elliptical Moffat (1969) effective PSF, point-sampled: the pixel response is included.

    fwhm_arcsec   full width at half maximum of the profile itself, geometric mean of both axes [arcsec]
    beta          wing exponent, > 1; I is proportional to (1 + (r / alpha)^2)^-beta
    e             (a - b) / (a + b), 0 <= e < 1
    pa            position angle of the major axis [rad], x to y
    pixel_scale   [arcsec / pixel]
    size          side [native pixel], odd
    oversampling  samples per pixel and axis

    Returns (size, size), sum exactly 1 *after* truncation, centred on the middle pixel; with an oversampling
    s, (size - 1) s + 1 samples on a side, of which every s-th falls on a pixel and these sum to 1. ValueError
    on an even size or an impossible shape: both are mistakes of the caller.
    """
    if size % 2 == 0 or size < 3 or not 0.0 <= e < 1.0 or beta <= 1.0 or fwhm_arcsec <= 0.0:
        message = f"no Moffat kernel has fwhm {fwhm_arcsec}, beta {beta}, e {e}, size {size}"
        raise ValueError(message)
    alpha = fwhm_arcsec / pixel_scale / (2.0 * np.sqrt(2.0 ** (1.0 / beta) - 1.0))
    square = _elliptical_square(sample_offsets(size, oversampling), e, pa)
    return _normalised((1.0 + square / alpha**2) ** -beta, oversampling)


def gaussian_kernel(
    fwhm_arcsec: float,
    *,
    e: float = 0.0,
    pa: float = 0.0,
    pixel_scale: float,
    size: int = KERNEL_SIZE,
    oversampling: int = 1,
) -> Pixels:
    """An elliptical Gaussian effective PSF, point-sampled: the pixel response is included.

    No survey's PSF is one: at the same FWHM its noise area is 1.6 to 1.9 times too small. It is here for arms
    that ask what that costs, and for comparisons with codes that know nothing else.

    Arguments, result and errors as of `moffat_kernel`.
    """
    if size % 2 == 0 or size < 3 or not 0.0 <= e < 1.0 or fwhm_arcsec <= 0.0:
        message = f"no Gaussian kernel has fwhm {fwhm_arcsec}, e {e}, size {size}"
        raise ValueError(message)
    sigma = fwhm_arcsec / pixel_scale / _FWHM_PER_SIGMA
    square = _elliptical_square(sample_offsets(size, oversampling), e, pa)
    return _normalised(np.exp(-0.5 * square / sigma**2), oversampling)


def sample_offsets(size: int, oversampling: int = 1) -> Pixels:
    """Where a kernel's samples lie along one side, from the middle one [native pixel].

    size          side [native pixel], odd
    oversampling  samples per pixel, >= 1

    Returns ((size - 1) oversampling + 1,), symmetric about 0. ValueError on anything else.
    """
    if size % 2 == 0 or size < 1 or oversampling < 1:
        message = f"no kernel has size {size} and {oversampling} samples per pixel: size odd, samples >= 1"
        raise ValueError(message)
    half = size // 2 * oversampling
    return np.asarray(np.arange(-half, half + 1) / oversampling)


def _elliptical_square(axis: Pixels, e: float, pa: float) -> Pixels:
    """Squared elliptical radius [pixel^2] on the square of an axis; its circle of equal area is r."""
    q = (1.0 - e) / (1.0 + e)
    dx, dy = axis[None, :], axis[:, None]
    cos, sin = np.cos(pa), np.sin(pa)
    xi, eta = cos * dx + sin * dy, cos * dy - sin * dx
    return np.asarray(q * xi**2 + eta**2 / q)


def _normalised(samples: Pixels, oversampling: int) -> Pixels:
    return np.asarray(samples / samples[::oversampling, ::oversampling].sum())


@dataclass(frozen=True, eq=False)
class Kernels:
    """The effective PSF of every band at one place, in whatever form it came.

    samples        (band, k, k), k = (size - 1) oversampling + 1 with size [native pixel] odd; the middle
                   sample is the PSF's centre; the pixel response is included
    oversampling   samples per native pixel and axis; every such one falls on a pixel, and these sum to 1

    ValueError for anything else, saying what it is.
    """

    samples: Pixels
    oversampling: int = 1

    def __post_init__(self) -> None:
        shape, step = self.samples.shape, self.oversampling
        if step < 1 or len(shape) != 3 or shape[0] < 1 or shape[1] != shape[2] or not _is_odd(shape[1], step):
            message = (
                f"kernels of shape {shape} with {step} samples per pixel are no PSF:"
                " needed (band, k, k), k = (size - 1) * oversampling + 1, size odd"
            )
            raise ValueError(message)
        if not np.all(np.isfinite(self.samples)):
            message = "kernels that are not finite everywhere are no PSF"
            raise ValueError(message)
        sums = self.native.sum(axis=(1, 2), dtype=np.float64)
        if np.any(np.abs(sums - 1.0) > SUM_TOLERANCE):
            message = f"kernels must sum to 1 over whole pixels, not to {sums.round(4).tolist()}"
            raise ValueError(message)

    @property
    def native(self) -> Pixels:
        """The samples that fall on whole pixels: (band, size, size)."""
        return self.samples[:, :: self.oversampling, :: self.oversampling]

    @classmethod
    def moffat(
        cls,
        fwhm_arcsec: Sequence[float] | Pixels,
        beta: Sequence[float] | Pixels,
        *,
        e: ArrayLike = 0.0,
        pa: ArrayLike = 0.0,
        pixel_scale: float,
        oversampling: int = 2,
        size: int = KERNEL_SIZE,
    ) -> Self:
        """Moffat kernels, one per entry of `fwhm_arcsec`; `e` and `pa` likewise or one for all bands."""
        shapes = zip(fwhm_arcsec, beta, *_per_band(len(fwhm_arcsec), e, pa), strict=True)
        grid = {"size": size, "oversampling": oversampling}
        made = [moffat_kernel(f, b, e=k, pa=p, pixel_scale=pixel_scale, **grid) for f, b, k, p in shapes]
        return cls(np.stack(made), oversampling)

    @classmethod
    def gaussian(
        cls,
        fwhm_arcsec: Sequence[float] | Pixels,
        *,
        e: ArrayLike = 0.0,
        pa: ArrayLike = 0.0,
        pixel_scale: float,
        oversampling: int = 2,
        size: int = KERNEL_SIZE,
    ) -> Self:
        """Gaussian kernels, one per entry of `fwhm_arcsec`; `e` and `pa` likewise or one for all bands."""
        shapes = zip(fwhm_arcsec, *_per_band(len(fwhm_arcsec), e, pa), strict=True)
        grid = {"size": size, "oversampling": oversampling}
        made = [gaussian_kernel(f, e=k, pa=p, pixel_scale=pixel_scale, **grid) for f, k, p in shapes]
        return cls(np.stack(made), oversampling)

    @classmethod
    def pixelised(cls, array: ArrayLike) -> Self:
        """Kernels as a file gives them on the pixel grid: (band, k, k), k odd, each sums to one."""
        return cls(np.asarray(array, dtype=np.float64))


def _is_odd(k: int, oversampling: int) -> bool:
    """Whether k samples are an odd number of pixels, each sampled so often."""
    return (k - 1) % (2 * oversampling) == 0


def _per_band(n: int, *values: ArrayLike) -> list[list[float]]:
    return [np.broadcast_to(np.asarray(value, dtype=np.float64), (n,)).tolist() for value in values]


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
