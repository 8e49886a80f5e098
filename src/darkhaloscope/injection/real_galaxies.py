"""Real galaxies as sources: HST stamps in the format of GalSim's RealGalaxyCatalog, made fit to be lensed.

**What is read.** A catalogue table names an image and a PSF for each galaxy, in FITS files beside it
(Mandelbaum et al. 2012, Rowe et al. 2015). ``galsim_download_cosmos`` puts one at the user's place: F814W,
0.03 arcsec per pixel. Its companions ``…_fits.fits`` (facts) and ``…_selection.fits`` (quality of the
stamps) are read where they are. A galaxy keeps its own colours and redshift: g, r, z and zphot must be
there, in a companion or in a table of the user's.

**What is done to a stamp.** The background that the catalogue states is subtracted. The HST PSF is divided
out in the Fourier domain, and a residual PSF put in its place,

    image^ = stamp^ / psf^ (1 + t) exp(-t),   t = 2 pi^2 sigma^2 f^2,

0.10 arcsec wide (FWHM). At 5 cycles per arcsec it passes what a Gaussian of 0.08 arcsec passes; but it has
no second moment, so that under a wider PSF a galaxy looks as if nothing had been left, to (sigma/width)^4.
At 1.1 arcsec the Gaussian would cost 5e-3 of the peak, this costs 1e-4. In return a point has a ring of
-2.5 % of its peak. Dividing by the PSF raises the noise per pixel: fivefold if 0.08 arcsec were left,
twofold for 0.10. For faint galaxies that is too much: the residual PSF is made wider, up to 0.25 arcsec,
until the noise is a fifth of the galaxy's brightest place. The image has two pixels per stamp pixel and is
sharpened beforehand by what bilinear interpolation between them takes away. It is cleaned of all that is
not the galaxy in the middle (`central_object`), and its flux is made 1.

**Where it stops.** There is no structure below the residual PSF, and some of what is there is the survey's
noise: the fainter the galaxy, the more. What lies beyond the last significant isophote is lost. One band
gives the shape, so a galaxy has no colour gradient.

Angles in arcsec, position angles in radians from +x towards +y, bands g r z.
"""

import csv
import hashlib
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace, device
from astropy.io import fits
from scipy import fft as scipy_fft
from scipy import ndimage

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.injection.lens import Array

FloatArray = npt.NDArray[np.float64]

SIZE_SLOPE = -0.080
"""Of log10 half-light radius with r magnitude [dex/mag]: 100 HST galaxies, priors.md section 4."""

MOST_ENLARGED = 1.5
"""No galaxy is enlarged more for its magnitude: that enlarges its residual PSF and its noise too."""

FINEST_ARCSEC = 0.10
"""FWHM of the PSF that is left in a bright galaxy."""

FINER = 2
"""Pixels of a galaxy per pixel of its stamp."""

_SIGMA_PER_FWHM = 1.0 / 1.88224
"""Of the residual PSF: (1 - u/2) exp(-u) is a half at u = r^2 / (2 sigma^2) = 0.442854."""

_LEAST_FWHM_PIX = 3.0
"""A residual PSF narrower than this, in stamp pixels, would need frequencies that the stamp does not hold."""

_MOST_AMPLIFIED = 10.0
"""Bound on what the deconvolution may multiply a frequency by, for PSFs with holes."""

_SMOOTHING_PIX, _THRESHOLD, _LEAST_PEAK = 3.0, 2.0, 6.0
_GROWN_PIX, _EDGE_PIX = 6.0, 4.0
"""Of `central_object`, in stamp pixels and in units of the smoothed noise."""

_MARGIN_PIX = 30
"""How far beyond its stamp a deconvolved image reaches: the inverse of the HST PSF has long wings."""

_GRAIN_PIX = 0.582
"""Drizzled noise is white noise smoothed by a Gaussian of this sigma: correlations of .478, .229, .051 at
(1,0), (1,1), (2,0), as in GalSim's acs_I_unrot_sci_20_cf.fits."""

_LEAST_CONTRAST, _WIDEST, _WIDTHS = 5.0, 2.5, 12
"""Brightest place over noise, widest residual PSF over the finest, and how many are tried."""

_FROM_BEND = 1.0 / 8.0
"""Of the Gauss rule's error in ``reach^4 bend``. One square has 1/1080 (along the axes) to 1/270 (a line);
but a noisy galaxy has hundreds, and their errors add up. With 1/8 unlensed ones are seen right to 1e-3."""

_FAR_PIX = 1e6
"""Stands for any distance above it: infinite ones times nothing would not be a number."""

_MOMENT_STEPS = 30
_HALF_OF_GAUSSIAN = 2.0 * math.log(2.0)

_TRIES = 64
_KEPT = 256
_SN_LIMIT, _MASK_DISTANCE_PIX, _MASK_SHARE = 10.0, 11.0, 0.8
"""GalSim's cuts on the quality of stamps (COSMOSCatalog, exclusion_level="bad_stamp")."""

_COMPANIONS = ("_fits", "_selection")
_NEEDED = (
    "ident", "gal_filename", "psf_filename", "gal_hdu", "psf_hdu", "pixel_scale", "noise_mean",
    "noise_variance",
)  # fmt: skip
_PHOTOMETRY: dict[str, tuple[str, ...]] = {
    "g": ("g", "mag_g", "hsc_g"),
    "r": ("r", "mag_r", "hsc_r"),
    "z": ("z", "mag_z", "hsc_z"),
    "zphot": ("redshift", "zphot", "z_phot", "photoz"),
}
_SELECTION = (
    "sn_ellip_gauss", "min_mask_dist_pixels", "average_mask_adjacent_pixel_count", "peak_image_pixel_count",
)  # fmt: skip
_REMEDY = "give a table with IDENT, g, r, z and zphot as `photometry`"
_DAMAGE = (
    OSError, TypeError, ValueError, EOFError, IndexError, KeyError, AttributeError, UnboundLocalError,
    fits.VerifyError,
)  # fmt: skip
"""What astropy raises at files and headers that are cut or garbled."""

Columns = dict[str, npt.NDArray[Any]]
Place = tuple[float, float]
_Mask = npt.NDArray[np.bool_]
_Reason = Callable[[int], str]


@dataclass(frozen=True, eq=False)
class PixelGalaxy:
    """A galaxy given by its pixels, of unit flux, placed in the source plane.

    image          (row, column) surface brightness [1/arcsec^2], rows towards +y; the middle of the array is
                   the galaxy's centre, and ``sum(image) pixel_arcsec^2`` is its flux
    pixel_arcsec   side of a pixel, before `magnify`
    x, y           where its centre is [arcsec]
    phi            angle it is turned by, from +x towards +y [rad]
    magnify        factor on its angular size; the flux stays
    flip           whether it is mirrored (y to -y), before it is turned

    Between pixel centres the image is interpolated bilinearly, and falls to zero one pixel outside.
    """

    image: FloatArray
    pixel_arcsec: float
    x: float = 0.0
    y: float = 0.0
    phi: float = 0.0
    magnify: float = 1.0
    flip: bool = False
    _shared: "_Shared | None" = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self._shared is None or self._shared.image is not self.image:
            object.__setattr__(self, "_shared", _Shared(self.image))

    def placed(
        self, *, x: float, y: float, phi: float = 0.0, flip: bool = False, magnify: float = 1.0
    ) -> Self:
        """The same galaxy elsewhere, turned, mirrored or enlarged; the pixels are shared."""
        return replace(self, x=x, y=y, phi=phi, flip=flip, magnify=magnify)

    @property
    def extent(self) -> float:
        """Radius [arcsec] about the centre beyond which there is no light."""
        return self._known.radius_pix * self.pixel_arcsec * self.magnify

    def brightness(self, beta_x: Array, beta_y: Array) -> Array:
        """Surface brightness [1/arcsec^2] at source-plane positions [arcsec], shaped like them."""
        xp = array_namespace(beta_x)
        grid = self._on(beta_x)
        u, v = self._pixels(beta_x, beta_y)
        inside = (u >= 0.0) & (u < grid.columns - 1.0) & (v >= 0.0) & (v < grid.rows - 1.0)
        u, v = xp.where(inside, u, xp.zeros_like(u)), xp.where(inside, v, xp.zeros_like(v))
        left, low = xp.floor(u), xp.floor(v)
        at = xp.astype(low * grid.columns + left, xp.int64)
        u, v = u - left, v - low
        below, above = grid.values[at], grid.values[at + grid.columns]
        below = below + u * (grid.values[at + 1] - below)
        above = above + u * (grid.values[at + (grid.columns + 1)] - above)
        light = (below + v * (above - below)) * (1.0 / self.magnify**2)
        return xp.where(inside, light, xp.zeros_like(light))

    def sampling_error(self, beta_x: Array, beta_y: Array, reach: Array) -> Array:
        """About how wrong [1/arcsec^2] the four-point Gauss rule is for the mean of a square.

        beta_x, beta_y   where the square's middle lands [arcsec]
        reach            how far from there its corners land [arcsec]

        The rule's error is of fourth order, in proportion to ``reach^4 bend``: bend is the sum of the image's
        fourth derivatives, where it is largest within reach. It is no larger than the brightest pixel there.
        """
        xp = array_namespace(beta_x)
        grid = self._on(beta_x)
        u, v = self._pixels(beta_x, beta_y)
        far = xp.clip(reach * (1.0 / (self.pixel_arcsec * self.magnify)), 0.0, _FAR_PIX) + 0.0 * u
        # A window of three blocks reaches at least one block to either side; interpolation takes a pixel.
        level = xp.clip(xp.ceil(xp.log2(xp.clip(far + 1.0, 2.0, _FAR_PIX))) - 1.0, 0.0, grid.top)
        level = xp.astype(level, xp.int64)
        shrink = grid.shrink[level]
        zero = xp.zeros_like(u)
        column = xp.minimum(xp.maximum(xp.floor(u * shrink), zero), grid.last_column[level])
        row = xp.minimum(xp.maximum(xp.floor(v * shrink), zero), grid.last_row[level])
        at = xp.astype(grid.first[level] + row * (grid.last_column[level] + 1.0) + column, xp.int64)
        order = (_FROM_BEND * far**4) * grid.bend[at]
        return xp.minimum(order, grid.peak[at]) * (1.0 / self.magnify**2)

    def _pixels(self, beta_x: Array, beta_y: Array) -> tuple[Array, Array]:
        """(column, row) of positions on the image, with its ring of zeros."""
        scale = 1.0 / (self.pixel_arcsec * self.magnify)
        cos, sin = math.cos(self.phi) * scale, math.sin(self.phi) * scale
        up = -1.0 if self.flip else 1.0
        rows, columns = self.image.shape
        dx, dy = beta_x - self.x, beta_y - self.y
        u = cos * dx + sin * dy + 0.5 * (columns + 1)
        v = (up * cos) * dy - (up * sin) * dx + 0.5 * (rows + 1)
        return u, v

    def _on(self, like: Array) -> "_Grid":
        """The pixels and what is known of them, in the namespace, type and place of an array."""
        return self._known.grid_for(like)

    @property
    def _known(self) -> "_Shared":
        assert self._shared is not None  # noqa: S101 - see __post_init__
        return self._shared


class _Shared:
    """What the placed copies of a galaxy share, made once. Of all this a pickle holds the image alone."""

    def __init__(self, image: FloatArray) -> None:
        if np.ndim(image) != 2 or not np.size(image) or not np.all(np.isfinite(image)):
            message = f"a galaxy's image is two-dimensional and finite; this one has shape {np.shape(image)}"
            raise ValueError(message)
        self.image = image
        self._moved: dict[tuple[str, str, str], _Grid] = {}

    @cached_property
    def radius_pix(self) -> float:
        return _radius(self.image)

    @cached_property
    def grid(self) -> "_Grid":
        return _Grid.of(self.image)

    def grid_for(self, like: Array) -> "_Grid":
        if isinstance(like, (np.ndarray, np.generic)) and like.dtype == np.float64:
            return self.grid
        xp, where = array_namespace(like), device(like)
        key = (xp.__name__, str(like.dtype), str(where))
        if key not in self._moved:
            self._moved[key] = self.grid.on(xp, like.dtype, where)
        return self._moved[key]

    def __reduce__(self) -> tuple[type["_Shared"], tuple[FloatArray]]:
        return _Shared, (self.image,)


@dataclass(frozen=True, eq=False)
class _Grid:
    """An image with a ring of zeros, flat, and pyramids of what is largest near a place.

    values        (rows * columns,)
    peak, bend    largest |image| and sum of its |fourth derivatives| [per pixel^4] in blocks, of all levels
    first         (level,) where a level begins
    last_row, last_column    (level,) its shape less one
    shrink        (level,) blocks per pixel

    Level k has blocks of 2^(k+1) pixels; each tells of itself and its eight neighbours.
    """

    rows: int
    columns: int
    top: int
    values: Array
    peak: Array
    bend: Array
    first: Array
    last_row: Array
    last_column: Array
    shrink: Array

    @classmethod
    def of(cls, image: FloatArray) -> "_Grid":
        values = np.pad(np.asarray(image, dtype=np.float64), 1)
        peaks, bends = _pyramid(np.abs(values)), _pyramid(_bend(values))
        sizes = np.array([p.size for p in peaks])
        return cls(
            rows=values.shape[0],
            columns=values.shape[1],
            top=len(peaks) - 1,
            values=values.ravel(),
            peak=np.concatenate([p.ravel() for p in peaks]),
            bend=np.concatenate([b.ravel() for b in bends]),
            first=(np.cumsum(sizes) - sizes).astype(np.float64),
            last_row=np.array([p.shape[0] - 1.0 for p in peaks]),
            last_column=np.array([p.shape[1] - 1.0 for p in peaks]),
            shrink=0.5 ** np.arange(1.0, len(peaks) + 1.0),
        )

    def on(self, xp: Any, dtype: Any, where: Any) -> "_Grid":
        """The same in another array namespace."""
        names = ("values", "peak", "bend", "first", "last_row", "last_column", "shrink")
        moved = {name: xp.asarray(getattr(self, name), dtype=dtype, device=where) for name in names}
        return replace(self, **moved)


def _bend(values: FloatArray) -> FloatArray:
    """|I_xxxx| + 2 |I_xxyy| + |I_yyyy| by differences between pixels [per pixel^4]."""
    second, fourth = (1.0, -2.0, 1.0), (1.0, -4.0, 6.0, -4.0, 1.0)
    along = np.abs(ndimage.correlate1d(values, fourth, axis=1, mode="constant"))
    across = np.abs(ndimage.correlate1d(values, fourth, axis=0, mode="constant"))
    mixed = ndimage.correlate1d(values, second, axis=0, mode="constant")
    mixed = np.abs(ndimage.correlate1d(mixed, second, axis=1, mode="constant"))
    return np.asarray(along + 2.0 * mixed + across)


def _pyramid(values: FloatArray) -> list[FloatArray]:
    levels: list[FloatArray] = []
    blocks = values
    while not levels or max(blocks.shape) > 1:
        rows, columns = blocks.shape
        blocks = np.pad(blocks, ((0, rows % 2), (0, columns % 2)))
        blocks = blocks.reshape(blocks.shape[0] // 2, 2, blocks.shape[1] // 2, 2).max(axis=(1, 3))
        levels.append(ndimage.maximum_filter(blocks, size=3, mode="constant"))
    return levels


def _radius(image: FloatArray) -> float:
    """Distance [pixel] from the middle to the farthest place that interpolation lights."""
    row, column = np.nonzero(image)
    if not row.size:
        return 0.0
    middle = 0.5 * (np.array(image.shape) - 1.0)
    return float(np.hypot(np.abs(row - middle[0]) + 1.0, np.abs(column - middle[1]) + 1.0).max())


@dataclass(frozen=True, eq=False)
class Postage:
    """What a catalogue holds of one galaxy.

    stamp, psf     (row, column); the PSF is effective, the pixel's response is in it
    background     to be subtracted from the stamp
    noise          rms per pixel of the stamp
    pixel_arcsec   side of a pixel of both
    """

    stamp: FloatArray
    psf: FloatArray
    background: float
    noise: float
    pixel_arcsec: float


@dataclass(frozen=True, eq=False)
class Portrait:
    """A galaxy made fit to lens.

    galaxy              of unit flux, in the middle of the source plane
    half_light_arcsec   of the ellipse that holds half of the light, sqrt(ab)
    axis_ratio          of that ellipse
    residual_arcsec     FWHM of the PSF that is left in it
    """

    galaxy: PixelGalaxy
    half_light_arcsec: float
    axis_ratio: float
    residual_arcsec: float


def portray(postage: Postage, *, clean: bool = True) -> Portrait:
    """Deconvolve, sample finely, clean and normalise one galaxy.

    clean   False keeps every pixel as it is, background, noise and neighbours too, about the stamp's middle,
            and leaves the narrowest residual PSF: for comparisons

    Raises ValueError where the stamp holds no object, or stamp or PSF no light.
    """
    if not postage.psf.sum() > 0.0:
        message = f"its PSF sums to {postage.psf.sum():.3g}"
        raise ValueError(message)
    finest = max(FINEST_ARCSEC, _LEAST_FWHM_PIX * postage.pixel_arcsec)
    if clean:
        stamp = postage.stamp - postage.background
        found = central_object(stamp, postage.noise)
        view = _Deconvolved(stamp, postage, found.centre, _centroid(postage.psf))
        fwhm = view.affordable(finest, found.peak / _LEAST_CONTRAST)
        image = _cropped(view.image(fwhm) * view.resampled(found.mask))
    else:
        fwhm = finest
        image = _Deconvolved(postage.stamp, postage).image(fwhm)
    light, pixel = float(image.sum()), postage.pixel_arcsec / FINER
    if not light > 0.0:
        message = f"its light sums to {light:.3g}"
        raise ValueError(message)
    q, radius = _shape(image)
    return Portrait(PixelGalaxy(image / (light * pixel**2), pixel), radius * pixel, q, fwhm)


@dataclass(frozen=True, eq=False)
class CentralObject:
    """The galaxy that a stamp is about.

    mask     (row, column): 1 where its light is, 0 where it is not
    centre   (x, y) of its centroid, from the stamp's middle [pixel]
    peak     its brightest place, smoothed over 3 pixels
    """

    mask: FloatArray
    centre: Place
    peak: float


def central_object(stamp: FloatArray, noise: float) -> CentralObject:
    """Which pixels belong to the object in the middle of a stamp.

    stamp   (row, column), background-subtracted
    noise   rms per pixel

    The stamp is smoothed with a Gaussian of 3 pixels. What is connected above twice the smoothed noise is an
    object; the one with most light in the middle quarter is the galaxy. It is grown by 6 pixels, but not into
    what is nearer to another object, and fades to nothing over the outermost 4, also at the stamp's edge.
    A neighbour that touches it stays with it; COSMOS's stamps had theirs replaced by noise.

    What is kept: 95-99 % of an exponential disc and 74-82 % of a de Vaucouleurs profile, whose wings drown;
    half-light radii come out right to 2-7 % and 17-30 % small (known profiles of 22 to 25.5 mag under noise
    like COSMOS's). Of 99 of its galaxies .95 to 1.01 of MAG_AUTO's flux is kept, in the median from I < 23 to
    I > 25.5.

    Raises ValueError where nothing stands out by six times the smoothed noise.
    """
    smooth = ndimage.gaussian_filter(stamp, _SMOOTHING_PIX, mode="constant")
    level = noise * _GRAIN_PIX / math.hypot(_GRAIN_PIX, _SMOOTHING_PIX)
    labels, n = ndimage.label(smooth > _THRESHOLD * level)
    middle = tuple(slice(side // 4, side - side // 4) for side in stamp.shape)
    light = np.zeros(n + 1)
    light[1:] = ndimage.sum_labels(smooth[middle], labels[middle], np.arange(1, n + 1))
    own = (labels == np.argmax(light)) & (labels > 0)
    peak = smooth[own].max(initial=0.0)
    if peak < _LEAST_PEAK * level:
        message = "no object stands out of the noise in the middle of its stamp"
        raise ValueError(message)
    near, others = ndimage.distance_transform_edt(~own), (labels > 0) & ~own
    kept = near <= _GROWN_PIX
    if others.any():
        kept &= near < ndimage.distance_transform_edt(~others)
    depth = ndimage.distance_transform_edt(np.pad(kept, 1))[1:-1, 1:-1]
    mask = np.where(kept, np.sin(0.5 * math.pi * np.minimum((depth - 0.5) / _EDGE_PIX, 1.0)) ** 2, 0.0)
    return CentralObject(mask, _centroid(np.where(own, smooth, 0.0)), float(peak))


def _centroid(image: FloatArray) -> Place:
    row, column = (np.arange(side) - 0.5 * (side - 1) for side in image.shape)
    light = image.sum()
    return float((image @ column).sum() / light), float((row @ image).sum() / light)


class _Deconvolved:
    """A stamp with another PSF instead of its own, on finer pixels.

    centre       (x, y) of the images' middle, from the stamp's [pixel]
    psf_centre   which place of the PSF's image leaves light where it is, from the image's middle [pixel]

    Images are (k, k), k odd, reach 30 stamp pixels beyond the stamp, and hold light per stamp pixel.
    """

    def __init__(
        self, stamp: FloatArray, postage: Postage, centre: Place = (0.0, 0.0), psf_centre: Place = (0.0, 0.0)
    ) -> None:
        self.stamp, self.postage, self.centre = stamp, postage, centre
        side, reach = max(stamp.shape), max(postage.psf.shape)
        self.half = FINER * (side // 2 + _MARGIN_PIX)
        n = scipy_fft.next_fast_len(side + max(reach, 2 * _MARGIN_PIX + 2), real=True)
        self.n = n + n % 2
        self.fy = np.asarray(np.fft.fftfreq(self.n), dtype=np.float64)[:, None]
        self.fx = np.asarray(np.fft.rfftfreq(self.n), dtype=np.float64)[None, :]
        psf = postage.psf / postage.psf.sum()
        self.blur = scipy_fft.rfft2(psf, s=(self.n, self.n)) * _moved(psf.shape, self.fy, self.fx, psf_centre)
        self.square = self.fx * self.fx + self.fy * self.fy

    def gain(self, fwhm_arcsec: float) -> FloatArray:
        """Factor on the stamp's frequencies, without its phase."""
        sigma = _SIGMA_PER_FWHM * fwhm_arcsec / self.postage.pixel_arcsec
        t = 2.0 * math.pi**2 * sigma**2 * self.square
        left = (1.0 + t) * np.exp(-t)
        gain = left / np.maximum(np.abs(self.blur), left / _MOST_AMPLIFIED)
        # The highest frequency does not know its phase.
        return np.asarray(np.where((np.abs(self.fy) < 0.5) & (self.fx < 0.5), gain, 0.0))

    def affordable(self, finest_arcsec: float, noise: float) -> float:
        """The narrowest residual PSF [arcsec] that leaves this noise per pixel, or the widest there is."""
        stretch = 4.0 * math.pi**2 * _GRAIN_PIX**2
        power = (stretch / math.pi) * np.exp(-stretch * self.square)
        power[:, 1:] *= 2.0
        widths = finest_arcsec * np.geomspace(1.0, _WIDEST, _WIDTHS)
        rms = ((w, math.sqrt((self.gain(w) ** 2 * power).sum()) / self.n) for w in widths.tolist())
        return next((w for w, left in rms if left * self.postage.noise <= noise), float(widths[-1]))

    def image(self, fwhm_arcsec: float) -> FloatArray:
        """The image with a residual PSF of this width."""
        # Bilinear interpolation between finer pixels is a convolution with a triangle: taken out beforehand.
        sharpen = (np.sinc(self.fx / FINER) * np.sinc(self.fy / FINER)) ** -2.0
        phase = _moved(self.stamp.shape, self.fy, self.fx, self.centre) * np.exp(-1j * np.angle(self.blur))
        spectrum = scipy_fft.rfft2(self.stamp, s=(self.n, self.n)) * phase * self.gain(fwhm_arcsec) * sharpen
        n, low = FINER * self.n, self.n // 2
        fine = np.zeros((n, n // 2 + 1), dtype=np.complex128)
        fine[:low, :low], fine[-low:, :low] = spectrum[:low, :low], spectrum[-low:, :low]
        image = scipy_fft.irfft2(fine, s=(n, n)) * FINER**2
        width = 2 * self.half + 1
        return np.asarray(np.roll(image, (self.half, self.half), axis=(0, 1))[:width, :width])

    def resampled(self, mask: FloatArray) -> FloatArray:
        """A mask of stamp pixels on the finer pixels."""
        offset = np.arange(-self.half, self.half + 1) / FINER
        rows = offset + 0.5 * (mask.shape[0] - 1) + self.centre[1]
        columns = offset + 0.5 * (mask.shape[1] - 1) + self.centre[0]
        places = np.meshgrid(rows, columns, indexing="ij")
        return np.asarray(ndimage.map_coordinates(mask, places, order=1, mode="constant"))


def _moved(
    shape: tuple[int, ...], fy: FloatArray, fx: FloatArray, centre: Place
) -> npt.NDArray[np.complex128]:
    """Phases that bring a place (x, y) from the middle of an array to its first pixel."""
    row, column = 0.5 * (shape[0] - 1) + centre[1], 0.5 * (shape[1] - 1) + centre[0]
    return np.asarray(np.exp(2j * np.pi * (fy * row + fx * column)))


def _cropped(image: FloatArray) -> FloatArray:
    """The smallest part with the same middle that holds all that is not zero."""
    middle = len(image) // 2
    lit = np.abs(np.argwhere(image != 0.0) - middle)
    reach = int(lit.max()) if lit.size else 0
    return image[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]


def _shape(image: FloatArray) -> tuple[float, float]:
    """Axis ratio and circularised half-light radius [pixel] of the light about the middle.

    Axes are those of adaptive moments, of the elliptical Gaussian that fits best (Bernstein & Jarvis 2002);
    the radius sqrt(ab) is that of the similar ellipse with half the flux.
    """
    axis = np.arange(len(image), dtype=np.float64) - len(image) // 2
    x, y = np.meshgrid(axis, axis)
    moments = np.eye(2) * max(_half_light(image, np.hypot(x, y)), 2.0) ** 2 / _HALF_OF_GAUSSIAN
    for _ in range(_MOMENT_STEPS):
        weight = image * np.exp(-0.5 * _within(moments, x, y))
        xx, xy, yy = ((weight * square).sum() for square in (x * x, x * y, y * y))
        found = 2.0 / weight.sum() * np.array([[xx, xy], [xy, yy]])
        # Noise can make an ellipse without a width; the one before it stands.
        if not np.linalg.eigvalsh(found)[0] > 1.0:
            break
        moments = found
    small, large = np.sqrt(np.linalg.eigvalsh(moments))
    radius = np.sqrt(_within(moments, x, y) * (small * large))
    return float(small / large), _half_light(image, radius)


def _within(moments: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Squared radius in units of the ellipse that second moments make."""
    (a, b), (_, c) = np.linalg.inv(moments)
    return np.asarray(a * x * x + 2.0 * b * x * y + c * y * y)


def _half_light(image: FloatArray, radius: FloatArray) -> float:
    """The radius within which half of the light lies."""
    order = np.argsort(radius, axis=None)
    growth = np.cumsum(image.ravel()[order])
    return float(radius.ravel()[order][np.argmax(growth >= 0.5 * growth[-1])])


@dataclass(frozen=True)
class GalaxyFacts:
    """What is known of one galaxy of a catalogue.

    index               its row, from 0
    ident               the catalogue's name of it
    mag                 its own g, r, z [AB mag]
    z                   its redshift
    half_light_arcsec   sqrt(ab), of the cleaned and deconvolved image
    axis_ratio          of that image
    residual_arcsec     FWHM of the PSF that is left in it
    pixel_arcsec        of the stamp
    image, psf          files and numbers of their HDUs
    """

    index: int
    ident: str
    mag: tuple[float, float, float]
    z: float
    half_light_arcsec: float
    axis_ratio: float
    residual_arcsec: float
    pixel_arcsec: float
    image: tuple[str, int]
    psf: tuple[str, int]


@dataclass(frozen=True, eq=False)
class RealGalaxyCatalog:
    """A catalogue of real galaxies; `open` makes one.

    path, photometry   the catalogue table and the user's table, absolute
    clean              see `portray`
    columns            the catalogue table, by lower-case name
    ident              (n,) the catalogue's names
    mag                (n, 3) g r z [AB mag]
    z                  (n,) redshifts
    objections         by row: why the tables forbid its use
    fingerprint        SHA-256 of the tables, and of the sizes of the image files (not of their gigabytes:
                       pixels changed in place go unnoticed)

    Images are read when a galaxy is first wanted, and some are kept. A galaxy is usable if neither the tables
    nor its images object. Pickled, a catalogue is its path: each process opens its own files.
    """

    path: Path
    photometry: Path | None
    clean: bool
    columns: Columns = field(repr=False)
    ident: tuple[str, ...] = field(repr=False)
    mag: FloatArray = field(repr=False)
    z: FloatArray = field(repr=False)
    objections: Mapping[int, str] = field(repr=False)
    fingerprint: str

    @classmethod
    def open(
        cls, path: str | Path, *, photometry: str | Path | None = None, clean: bool = True
    ) -> "RealGalaxyCatalog":
        """Read a catalogue's tables.

        path         its FITS table, or the folder that holds one
        photometry   FITS or CSV table with IDENT and what the catalogue lacks of g, r, z [AB mag] and zphot;
                     where both have a column, this one counts
        clean        see `portray`

        DataError naming the file if it is absent, ambiguous or damaged, if a column is missing, or if no row
        can be used.
        """
        path = _catalog_file(Path(path))
        own = None if photometry is None else Path(photometry).absolute()
        tables = _Tables.read(path, own)
        photometric = tables.photometric()
        objections = tables.objections(photometric)
        if len(objections) == len(photometric):
            reason = next((f", the first because {reason}" for reason in objections.values()), "")
            raise DataError(str(path), f"not one of its {len(photometric)} galaxies can be used{reason}")
        return cls(
            path=path,
            photometry=own,
            clean=clean,
            columns=tables.main.columns,
            ident=tuple(tables.idents),
            mag=photometric[:, :3],
            z=photometric[:, 3],
            objections=objections,
            fingerprint=tables.fingerprint(),
        )

    def __len__(self) -> int:
        return len(self.ident)

    def __reduce__(self) -> tuple[Callable[..., "RealGalaxyCatalog"], tuple[Path, Path | None, bool]]:
        return _reopened, (self.path, self.photometry, self.clean)

    def facts(self, index: int) -> GalaxyFacts:
        """What is known of one galaxy; DataError where it is unusable."""
        portrait, main = self._portrait(index), self.columns
        g, r, z = self.mag[index].tolist()
        return GalaxyFacts(
            index=int(index),
            ident=self.ident[index],
            mag=(g, r, z),
            z=float(self.z[index]),
            half_light_arcsec=portrait.half_light_arcsec,
            axis_ratio=portrait.axis_ratio,
            residual_arcsec=portrait.residual_arcsec,
            pixel_arcsec=float(main["pixel_scale"][index]),
            image=(str(main["gal_filename"][index]).strip(), int(main["gal_hdu"][index])),
            psf=(str(main["psf_filename"][index]).strip(), int(main["psf_hdu"][index])),
        )

    def galaxy(self, index: int) -> PixelGalaxy:
        """One galaxy, in the middle of the source plane; DataError where it is unusable."""
        return self._portrait(index).galaxy

    def objection(self, index: int) -> str | None:
        """Why a galaxy is unusable, None where it is not; its images are read."""
        try:
            self._portrait(index)
        except DataError as error:
            return error.problem
        return None

    @cached_property
    def unusable(self) -> dict[int, str]:
        """Every galaxy that is not usable, and why. Reads every image, a hundred a second."""
        reasons = ((index, self.objection(index)) for index in range(len(self)))
        return {index: reason for index, reason in reasons if reason is not None}

    def choose(
        self,
        rng: np.random.Generator,
        *,
        z_min: float,
        r_mag: float,
        share: tuple[float, float] = (0.0, 1.0),
    ) -> int | None:
        """One usable galaxy beyond a redshift, any as likely as any other; None if there is none.

        z_min    its redshift is above this
        r_mag    magnitude that it shall have: galaxies that this would enlarge by more than 1.5 are left out
        share    part of the catalogue to choose from: each galaxy has its place in [0, 1), from its name

        The choice depends on the state of `rng`, the tables and the images alone; the catalogue's selection
        weights are not used.
        """
        z, factor = self.z[self._candidates], self.size_factor(self._candidates, r_mag)
        place = self._places[self._candidates]
        wanted = (z > z_min) & (factor <= MOST_ENLARGED) & (place >= share[0]) & (place < share[1])
        pool = self._candidates[wanted]
        if not pool.size:
            return None
        # Only reading tells whether an image can be used, and there are too many to read them all.
        drawn = (int(index) for index in pool[rng.integers(pool.size, size=_TRIES)])
        return next((index for index in drawn if self.objection(index) is None), None)

    def size_factor(self, index: Any, r_mag: float, *, slope: float = SIZE_SLOPE) -> Any:
        """Factor on the angular size of galaxies that shall have another r magnitude than their own.

        The median size follows log10 R = slope r + constant; a galaxy keeps its deviation from it.
        """
        return 10.0 ** (slope * (r_mag - self.mag[index, 1]))

    @cached_property
    def _candidates(self) -> npt.NDArray[np.intp]:
        """Rows that no table objects to."""
        return np.setdiff1d(np.arange(len(self)), np.fromiter(self.objections, dtype=np.intp))

    @cached_property
    def _places(self) -> FloatArray:
        """Each galaxy's place in [0, 1): a hash of its name, so that it is the same in every catalogue."""
        marks = (hashlib.sha256(f"source\x1f{ident}".encode()).digest() for ident in self.ident)
        return np.array([int.from_bytes(mark[:6], "big") / 2**48 for mark in marks])

    @cached_property
    def _portrait(self) -> Callable[[int], Portrait]:
        return lru_cache(maxsize=_KEPT)(self._made)

    def _made(self, index: int) -> Portrait:
        if not 0 <= index < len(self):
            message = f"{self.path} has no galaxy {index}, it has {len(self)}"
            raise IndexError(message)
        where = f"{self.path} galaxy {self.ident[index]}"
        if index in self.objections:
            raise DataError(where, self.objections[index])
        main, folder = self.columns, self.path.parent
        images = []
        for kind in ("gal", "psf"):
            file = folder / str(main[f"{kind}_filename"][index]).strip()
            images.append(self._files.image(file, int(main[f"{kind}_hdu"][index]), where))
        postage = Postage(
            stamp=images[0],
            psf=images[1],
            background=float(main["noise_mean"][index]),
            noise=math.sqrt(main["noise_variance"][index]),
            pixel_arcsec=float(main["pixel_scale"][index]),
        )
        try:
            return portray(postage, clean=self.clean)
        except ValueError as error:
            raise DataError(where, str(error)) from error

    @cached_property
    def _files(self) -> "_ImageFiles":
        return _ImageFiles()


def _reopened(path: Path, photometry: Path | None, clean: bool) -> RealGalaxyCatalog:  # noqa: FBT001 - as pickle gives it
    return RealGalaxyCatalog.open(path, photometry=photometry, clean=clean)


class _ImageFiles:
    """FITS files of images, kept open; a forked process opens its own, for a shared one has one position."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, Path], Any] = {}
        self._lock = threading.Lock()

    def image(self, path: Path, hdu: int, where: str) -> FloatArray:
        """The image in one HDU, (row, column); DataError that says what is wrong with it."""
        what = f"HDU {hdu} of {path.name}"
        if hdu < 0:
            raise DataError(where, f"{what} does not exist")
        with self._lock, warnings.catch_warnings():
            # A short file is warned about and then fails where it ends.
            warnings.simplefilter("ignore")
            try:
                key = (os.getpid(), path)
                if key not in self._open:
                    self._open[key] = fits.open(path, memmap=False)
                unit = self._open[key][hdu]
                image = np.array(unit.data, dtype=np.float64)
                del unit.data
            except _DAMAGE as error:
                raise DataError(where, f"{what} cannot be read: {error}") from error
        if image.ndim != 2 or not image.size or not np.all(np.isfinite(image)):
            raise DataError(where, f"{what} is no finite image, its shape is {image.shape}")
        return image


@dataclass(frozen=True, eq=False)
class _Table:
    """One table: its file and its columns by lower-case name."""

    path: Path
    columns: Columns

    @classmethod
    def read(cls, path: Path) -> Self:
        """DataError naming the file where it is absent or no table."""
        if not path.is_file():
            raise DataError(str(path), "there is no such file")
        try:
            columns = _csv_columns(path) if path.suffix.lower() == ".csv" else _fits_columns(path)
        except _DAMAGE as error:
            raise DataError(str(path), f"cannot be read as a table: {error}") from error
        return cls(path, columns)

    def numbers(self, name: str) -> FloatArray:
        """One column as numbers; DataError naming it where it holds others."""
        try:
            return np.asarray(self.columns[name], dtype=np.float64)
        except (ValueError, TypeError) as error:
            raise DataError(str(self.path), f"column '{name}' holds what is no number: {error}") from error

    def rows_of(self, idents: list[str]) -> npt.NDArray[np.intp]:
        """Which row speaks of each galaxy, -1 where none does. A table without IDENT goes row by row."""
        if "ident" not in self.columns:
            size = len(next(iter(self.columns.values()), ()))
            if size != len(idents):
                problem = f"has {size} rows and no IDENT, the catalogue has {len(idents)} rows"
                raise DataError(str(self.path), problem)
            return np.arange(size)
        names = _names(self.columns["ident"])
        place = {name: row for row, name in enumerate(names)}
        if len(place) != len(names):
            raise DataError(str(self.path), "names a galaxy twice: IDENT must be unique")
        return np.array([place.get(name, -1) for name in idents], dtype=np.intp)


@dataclass(frozen=True, eq=False)
class _Tables:
    """A catalogue's tables: the main one, companions in GalSim's naming, and the user's."""

    main: _Table
    facts: _Table | None
    selection: _Table | None
    photometry: _Table | None

    @classmethod
    def read(cls, path: Path, photometry: Path | None) -> Self:
        main = _Table.read(path)
        lacking = [name.upper() for name in _NEEDED if name not in main.columns]
        if lacking:
            problem = f"lacks the columns {', '.join(lacking)}"
            raise DataError(str(path), problem, "is it a catalogue in GalSim's RealGalaxyCatalog format?")
        beside = [path.with_name(f"{path.stem}{suffix}.fits") for suffix in _COMPANIONS]
        facts, selection = (_Table.read(file) if file.is_file() else None for file in beside)
        own = None if photometry is None else _Table.read(photometry)
        if own is not None and "ident" not in own.columns:
            raise DataError(str(own.path), "lacks the column IDENT", _REMEDY)
        return cls(main, facts, selection, own)

    @cached_property
    def idents(self) -> list[str]:
        return _names(self.main.columns["ident"])

    @property
    def folder(self) -> Path:
        return self.main.path.parent

    def photometric(self) -> FloatArray:
        """(n, 4) of g, r, z, zphot; NaN where a table is silent, DataError for missing columns."""
        found = {name: self._column(name) for name in _PHOTOMETRY}
        missing = [name for name, values in found.items() if values is None]
        if missing:
            problem = f"lacks the columns {', '.join(missing)}: sources need their own colours and redshifts"
            raise DataError(str(self.main.path), problem, _REMEDY)
        return np.stack([values for values in found.values() if values is not None], axis=1)

    def _column(self, name: str) -> FloatArray | None:
        for table in (self.photometry, self.facts, self.main):
            # A bare "z" in a survey's table may be a redshift; in the user's it is what we asked for.
            aliases = _PHOTOMETRY[name] if table is self.photometry else _PHOTOMETRY[name][1:]
            alias = next((a for a in aliases if table is not None and a in table.columns), None)
            if table is not None and alias is not None:
                rows = table.rows_of(self.idents)
                return np.where(rows >= 0, table.numbers(alias)[rows], np.nan)
        return None

    @cached_property
    def image_files(self) -> dict[str, int | None]:
        """Sizes of the image files by name, None of those that are absent."""
        columns = (self.main.columns[f"{kind}_filename"] for kind in ("gal", "psf"))
        names = sorted({name for column in columns for name in _names(column)})
        paths = {name: self.folder / name for name in names}
        return {name: path.stat().st_size if path.is_file() else None for name, path in paths.items()}

    def fingerprint(self) -> str:
        mark = hashlib.sha256()
        for role, table in (("", self.main), ("fits", self.facts), ("selection", self.selection)):
            mark.update(f"\x1f{role}\x1f".encode() + (b"" if table is None else table.path.read_bytes()))
        if self.photometry is not None:
            mark.update(b"\x1fphotometry\x1f" + self.photometry.path.read_bytes())
        for name, size in self.image_files.items():
            mark.update(f"\x1f{name}={size}".encode())
        return mark.hexdigest()

    def objections(self, photometric: FloatArray) -> dict[int, str]:
        """By row, what forbids its use."""
        found: dict[int, str] = {}
        for bad, reason in (*self._unknown(photometric), *self._incomplete(), *self._poor()):
            for row in np.flatnonzero(bad).tolist():
                found.setdefault(row, reason(row))
        return dict(sorted(found.items()))

    def _unknown(self, photometric: FloatArray) -> Iterator[tuple[_Mask, _Reason]]:
        for name, values in zip(_PHOTOMETRY, photometric.T, strict=True):
            # Beyond these are the codes of tables for what was not measured.
            low, high = (0.0, 20.0) if name == "zphot" else (5.0, 40.0)
            yield ~((values > low) & (values < high)), _said(f"its {name} is {{:g}}", values)

    def _incomplete(self) -> Iterator[tuple[_Mask, _Reason]]:
        for name in ("pixel_scale", "noise_variance"):
            values = self.main.numbers(name)
            yield ~((values > 0.0) & (values < np.inf)), _said(f"its {name.upper()} is {{:g}}", values)
        mean = self.main.numbers("noise_mean")
        yield ~np.isfinite(mean), _said("its NOISE_MEAN is {:g}", mean)
        absent = {name for name, size in self.image_files.items() if size is None}
        for kind in ("gal", "psf"):
            names = np.array(_names(self.main.columns[f"{kind}_filename"]))
            yield np.isin(names, list(absent)), _said("the file {} is not there", names)

    def _poor(self) -> Iterator[tuple[_Mask, _Reason]]:
        """GalSim's cuts on the quality of stamps."""
        if "stamp_flux" in self.main.columns:
            flux = self.main.numbers("stamp_flux")
            yield ~(flux > 0.0), _said("its stamp sums to {:g}", flux)
        if self.selection is None:
            return
        lacking = [name for name in _SELECTION if name not in self.selection.columns]
        if lacking:
            raise DataError(str(self.selection.path), f"lacks the columns {', '.join(lacking)}")
        rows = self.selection.rows_of(self.idents)
        yield rows < 0, _said(f"{self.selection.path.name} does not know it", rows)
        sn, distance, beside, peak = (self.selection.numbers(name)[rows] for name in _SELECTION)
        yield ~(sn >= _SN_LIMIT), _said(f"its stamp has a S/N of {{:.1f}}, below {_SN_LIMIT:g}", sn)
        bright = beside / np.where(peak == 0.0, 1e-5, peak)
        masked = ~((distance > _MASK_DISTANCE_PIX) | (bright < _MASK_SHARE))
        yield masked, _said("something bright was masked {:.0f} pixels from its middle", distance)


def _said(sentence: str, values: npt.NDArray[Any]) -> _Reason:
    return lambda row: sentence.format(values[row])


def _names(column: npt.NDArray[Any]) -> list[str]:
    return [str(value).strip() for value in column.tolist()]


def _fits_columns(path: Path) -> Columns:
    with warnings.catch_warnings():
        # A short file is warned about and then fails where it ends.
        warnings.simplefilter("ignore")
        with fits.open(path, memmap=False) as units:
            tables = [unit.data for unit in units if isinstance(unit, fits.BinTableHDU)]
            if not tables:
                message = "there is no table in it"
                raise ValueError(message)
            return {str(name).lower(): np.array(tables[0][name]) for name in tables[0].names}


def _csv_columns(path: Path) -> Columns:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header, *rows = [row for row in csv.reader(file) if row]
    table = zip(*rows, strict=True) if rows else [() for _ in header]
    columns = {name.strip().lower(): list(values) for name, values in zip(header, table, strict=True)}
    return {
        # An empty cell is a value that nobody knows.
        name: np.array([value.strip() or "nan" for value in values])
        for name, values in columns.items()
    }


def _catalog_file(path: Path) -> Path:
    """The catalogue table itself, as an absolute path."""
    if path.is_file():
        return path.absolute()
    if not path.is_dir():
        remedy = "the catalogue's FITS file or its folder; `galsim_download_cosmos` fetches one"
        raise DataError(str(path), "there is no such file or folder", remedy)
    tables = [f for f in sorted(path.glob("real_galaxy_catalog*.fits")) if not f.stem.endswith(_COMPANIONS)]
    if len(tables) != 1:
        names = ", ".join(file.name for file in tables) or "none"
        problem = f"holds {len(tables)} files real_galaxy_catalog….fits ({names}), needed is one"
        raise DataError(str(path), problem, "name the file itself")
    return tables[0].absolute()
