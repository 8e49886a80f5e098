"""PSF models of single exposures as PSFEx writes them (Bertin 2011): images that vary across a CCD.

A file holds one image for each term of a polynomial in the position on the CCD,

    P(x, y) = sum_k x'^i y'^j image_k,   x' = (X - POLZERO1) / POLSCAL1,   i + j <= POLDEG1,

with i running fastest: 1, x, x^2, y, xy, y^2 for degree 2. One sample of an image is PSF_SAMP pixels of the
CCD wide. PSFEx fits its samples to pixels of stars, so the model is an **effective** PSF: the response of a
whole CCD pixel is in it, at any PSF_SAMP, and nothing that is convolved with it may be integrated over pixels
again (GalSim: ``method="no_pixel"``).

X and Y are SExtractor's, in which the middle of the first pixel is 1. Here positions are counted from 0, as
everywhere in this package.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.survey.psf import KERNEL_SIZE, Kernels, Pixels, sample_offsets

_FIRST_PIXEL = 1.0
"""SExtractor's coordinate of the middle of the first pixel."""

_SPLINE_ORDER = 5
_DAMAGE = (
    OSError, TypeError, ValueError, EOFError, IndexError, KeyError, AttributeError, UnboundLocalError,
    fits.VerifyError,
)  # fmt: skip
"""What astropy raises at cards that are cut or garbled; the last but one where a column's format is."""

_COLUMN = "PSF_MASK"
_POSITION = re.compile(r"([XY])\w*IMAGE")


Header = dict[str, Any]


@dataclass(frozen=True, eq=False)
class PsfexModel:
    """The PSF of one CCD of one exposure.

    terms           images of the polynomial's terms, (term, y, x), sides odd
    degree          of the polynomial
    zero, scale     (x, y) of its arguments, in SExtractor's coordinates [pixel]
    step_pix        PSF_SAMP: distance of the images' samples [pixel of the CCD]
    fwhm_pix        PSF_FWHM, None where the file does not say [pixel]
    where           what an error calls it
    """

    terms: NDArray[np.float64]
    degree: int
    zero: tuple[float, float]
    scale: tuple[float, float]
    step_pix: float
    fwhm_pix: float | None
    where: str

    def at(self, x_pix: float, y_pix: float) -> Pixels:
        """The model at a place of the CCD, on its own samples, (y, x), as it stands in the file.

        x_pix, y_pix   0-based position on the image that the model was made for [pixel]. Outside that image
                       the polynomial runs on; the file does not know where it ends.
        """
        x = (x_pix + _FIRST_PIXEL - self.zero[0]) / self.scale[0]
        y = (y_pix + _FIRST_PIXEL - self.zero[1]) / self.scale[1]
        powers = [x**i * y**j for j in range(self.degree + 1) for i in range(self.degree + 1 - j)]
        return np.asarray(np.tensordot(powers, self.terms, axes=1))

    def kernel(self, x_pix: float, y_pix: float, *, size: int = KERNEL_SIZE, oversampling: int = 1) -> Pixels:
        """The effective PSF at a place of the CCD, on the CCD's pixels.

        x_pix, y_pix   as of `at`
        size           side [native pixel], odd; beyond the model's own border the kernel is zero
        oversampling   samples per pixel and axis

        The model's middle sample is the kernel's; between samples a quintic spline is followed. A Lanczos-3
        interpolation is wrong by up to 8e-3 of peak where a 0.75 arcsec Moffat is sampled once per pixel, the
        spline by 2e-3, and by less where the model is sampled better.
        Returns (k, k), k = (size - 1) oversampling + 1; samples on whole pixels sum to 1 after truncation.
        DataError where the model has no positive flux; ValueError for an even size.
        """
        model = self.at(x_pix, y_pix)
        offsets = sample_offsets(size, oversampling) / self.step_pix
        places = np.meshgrid(*(side // 2 + offsets for side in model.shape), indexing="ij")
        samples = ndimage.map_coordinates(model, places, order=_SPLINE_ORDER, mode="constant")
        flux = samples[::oversampling, ::oversampling].sum()
        if not flux > 0.0:
            place = f"its PSF at x {x_pix:g}, y {y_pix:g} sums to {flux:.3g}"
            raise DataError(self.where, place, "is that position on this CCD?")
        return np.asarray(samples / flux)


def psfex_kernels(
    models: Sequence[PsfexModel],
    positions: Sequence[tuple[float, float]],
    *,
    size: int = KERNEL_SIZE,
    oversampling: int = 1,
) -> Kernels:
    """The PSF of one target in several bands: a model and the target's (x, y) on its CCD [pixel] for each."""
    pairs = zip(models, positions, strict=True)
    made = [model.kernel(x, y, size=size, oversampling=oversampling) for model, (x, y) in pairs]
    return Kernels(np.stack(made), oversampling)


def read_psfex(path: Path, *, extension: int = 1) -> PsfexModel:
    """The model in one extension of a PSFEx file.

    DataError naming the file if it is absent, truncated, no FITS file, if it holds no PSFEx model there, or
    one that depends on anything but the position.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(str(path), "there is no such file")
    header, terms = _open(path, extension)
    where = f"{path}[{extension}]"
    degree, axes = _polynomial(header, where)
    expected = (degree + 1) * (degree + 2) // 2
    if terms.ndim != 3 or len(terms) != expected or any(side % 2 == 0 for side in terms.shape[1:]):
        problem = f"{_COLUMN} has shape {terms.shape}"
        raise DataError(where, problem, f"a polynomial of degree {degree} needs ({expected}, y, x), y x odd")
    if not np.all(np.isfinite(terms)):
        raise DataError(where, f"{_COLUMN} is not finite everywhere")
    zero = tuple(_number(header, f"POLZERO{k}", where) if k else 0.0 for k in axes)
    scale = tuple(_number(header, f"POLSCAL{k}", where) if k else 1.0 for k in axes)
    step = _number(header, "PSF_SAMP", where)
    if not step > 0.0 or 0.0 in scale:
        raise DataError(where, f"PSF_SAMP = {step:g}, POLSCAL = {scale} cannot be divided by")
    fwhm = _number(header, "PSF_FWHM", where) if "PSF_FWHM" in header else None
    return PsfexModel(terms, degree, (zero[0], zero[1]), (scale[0], scale[1]), step, fwhm, where)


def _open(path: Path, extension: int) -> tuple[Header, NDArray[np.float64]]:
    """Header of one extension and the images in its only row."""
    try:
        with warnings.catch_warnings():
            # A short file is only warned about on opening; reading its table below is what fails.
            warnings.simplefilter("ignore")
            with fits.open(path, memmap=False) as units:
                tables = [k for k, u in enumerate(units) if _COLUMN in _columns(u)]
                if extension not in tables:
                    have = f"such tables there: {', '.join(map(str, tables)) or 'none'}"
                    raise DataError(str(path), f"extension {extension} holds no column {_COLUMN}", have)
                unit = units[extension]
                if len(unit.data) != 1:
                    problem = f"extension {extension} has {len(unit.data)} rows, a PSFEx model has one"
                    raise DataError(str(path), problem)
                return dict(unit.header), np.array(unit.data[_COLUMN][0], dtype=np.float64)
    except _DAMAGE as error:
        raise DataError(str(path), "is truncated, damaged or no FITS file") from error


def _columns(unit: Any) -> list[str]:
    return [str(name).upper() for name in unit.columns.names] if isinstance(unit, fits.BinTableHDU) else []


def _polynomial(header: Header, where: str) -> tuple[int, tuple[int, int]]:
    """Degree, and which axis of the polynomial is x and which is y; 0 for an axis it does not know."""
    names = {k: str(header[f"POLNAME{k}"]).strip().upper() for k in range(1, 10) if f"POLNAME{k}" in header}
    count = header.get("POLNAXIS", len(names))
    if count == 0:
        return 0, (0, 0)
    found = [_POSITION.fullmatch(name) for name in names.values()]
    letters = [match[1] for match in found if match]
    # The order of terms is that of the axes, so y before x would be another polynomial.
    if count != 2 or letters != ["X", "Y"] or header.get("POLNGRP", 1) != 1:
        said = ", ".join(names.values()) or "nothing"
        raise DataError(where, f"the PSF depends on {said}", "needed: X_IMAGE and Y_IMAGE, in one group")
    degree = _number(header, "POLDEG1", where)
    if degree != int(degree) or degree < 0:
        raise DataError(where, f"POLDEG1 = {degree:g} is no degree of a polynomial")
    return int(degree), (1, 2)


def _number(header: Header, key: str, where: str) -> float:
    value = header.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise DataError(where, f"header key {key} is {'absent' if value is None else repr(value)}, no number")
    return float(value)
