"""Cutouts: pixels, noise, mask and PSF of one target with its catalogue row; and real ones from files.

Files of four kinds are read. An **NPZ** holds ``images`` (n, 3, y, x) or (3, y, x), bands g r z, in
nanomaggies; beside it, scalar or one per row: ``ra``, ``dec``, ``z``, ``sigma_v``, ``name``, ``pixscale``,
``units``, and arrays ``invvar`` like the images and ``psf`` (3, k, k) or (n, 3, k, k). An **HDF5** file holds
the same (and ``maskbits`` (n, y, x)), or what `stamps.export` writes. A **FITS** file holds a cube whose
``BANDS`` say which plane is which, or one plane per extension, told apart by ``BAND`` and ``IMAGETYP``
(image, invvar, maskbits or psf). An **index.csv** names FITS files beside it, one per row. Pixels are never
resampled and the pixel scale is kept as it is. A file that says it is in another unit or at another
zero-point is refused: what its numbers mean is for its owner to say.

The target's centre is the reference position of the WCS where that lies near the middle (a cutout server
centres it there), otherwise an adaptive centroid of the galaxy near the middle: an even cutout may centre on
(n - 1) / 2 or n / 2, and guessing costs half a pixel.

A file that cannot be read raises DataError; a row whose pixels cannot be used carries a reject code.
"""

import gzip
import io
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import NDArray

from darkhaloscope.contracts.errors import DataError, SchemaMismatch
from darkhaloscope.survey.catalogs import number_in, read_published, text_in
from darkhaloscope.survey.fits_images import MAX_PIXELS, Unit, image_units
from darkhaloscope.survey.release import BANDS, PIXEL_SCALE_ARCSEC, ZERO_POINT

Image = NDArray[np.floating[Any]]

CENTRED_PIX = 2.0
"""A WCS reference nearer than this to the middle of the image is the target."""

MAX_FILE_BYTES = 4 * 2**30
"""The most an NPZ may say it inflates to: 5,000 cutouts of 256 pixels. More are several files."""

ZERO_TOLERANCE = 1.0e-3
"""Magnitudes by which a file's zero-point may differ from nanomaggies'."""
LEAST_SCALE_ARCSEC, MOST_SCALE_ARCSEC = 0.01, 2.0
"""As the table of stamps allows."""

MAX_INFLATED_BYTES = 2**28
"""The most a gzipped FITS file may inflate to; one plane of a whole brick has 52 MB."""

_PER_ROW = ("ra", "dec", "z", "sigma_v", "name")
_LIMITS = {"ra": (0.0, 360.0), "dec": (-90.0, 90.0), "z": (0.0, np.inf), "sigma_v": (0.0, np.inf)}


@dataclass(frozen=True, eq=False)
class ExtraBand:
    """A band beyond g r z (i, where a release has it): image, invvar (y, x), PSF (k, k); units as Cutout."""

    image: Image
    invvar: Image
    psf: Image


@dataclass(frozen=True, eq=False)
class Cutout:
    """Pixels around one target, in whatever size they came.

    image, invvar   [nmgy], [1/nmgy^2] white-equivalent with host photons, float (band, y, x), bands g r z
    mask            mask bits, int32 (y, x)
    psf             effective PSF, (band, k, k), k odd, each sums to one
    x_center_pix, y_center_pix   the target, 0-based [pix]
    pixel_scale_arcsec           [arcsec/pix]
    row             catalogue columns of the STAMPS table
    extra           further bands by name
    """

    image: Image
    invvar: Image
    mask: NDArray[np.int32]
    psf: Image
    x_center_pix: float
    y_center_pix: float
    pixel_scale_arcsec: float
    row: dict[str, Any]
    extra: Mapping[str, ExtraBand] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class RealPixels:
    """One image as its file gives it; what the file does not say is None.

    where    file and row, as an error calls it
    mask     mask bits (y, x)
    centre   (x, y) of the target [pixel], where the file's WCS says it
    facts    ra_deg, dec_deg, z, sigma_v_kms, name, release, brickname, target_id, where known
    """

    where: str
    index: int
    image: Image
    invvar: Image | None
    psf: Image | None
    pixel_scale_arcsec: float
    centre: tuple[float, float] | None
    wcs: WCS | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    mask: NDArray[np.int32] | None = None


def read_real_pixels(path: Path, *, pixel_scale: float | None = None) -> Iterator[RealPixels]:
    """The images of one file, in order.

    pixel_scale   [arcsec/pix], for files that do not say; by default the survey's

    Raises DataError naming the file: absent, truncated, no image, pickled, a band that is not there.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(str(path), "there is no such file")
    scale = PIXEL_SCALE_ARCSEC if pixel_scale is None else pixel_scale
    if path.suffix == ".npz":
        yield from _npz_rows(path, scale)
    elif path.suffix in (".h5", ".hdf5"):
        yield from _hdf5_rows(path, scale)
    elif path.suffix == ".csv":
        yield from _indexed(path, scale)
    elif ".fits" in path.suffixes or ".fit" in path.suffixes:
        yield _fits_image(path, scale)
    else:
        problem = "is no .npz, .fits, .h5 or index.csv"
        raise DataError(str(path), problem, "see `dhs survey cutouts --help`")


def read_psf(path: Path) -> Image:
    """A PSF file: g r z kernels (3, k, k), k odd, normalised to one. FITS as cutouts, NPZ key ``psf``."""
    path = Path(path)
    if not path.is_file():
        raise DataError(str(path), "there is no such file")
    if path.suffix == ".npz":
        arrays = _load_npz(path)
        if "psf" not in arrays:
            raise DataError(str(path), "holds no array 'psf'", f"has {', '.join(arrays) or 'nothing'}")
        return check_psf(arrays["psf"], str(path))
    planes = _planes(path, _open_fits(path)).get("image", {})
    return check_psf(_stack(planes, str(path)), str(path))


def check_psf(kernels: NDArray[Any], where: str) -> Image:
    """Kernels normalised to one; DataError unless they are (3, k, k), k odd, finite, of positive sum."""
    if kernels.ndim != 3 or kernels.shape[0] != len(BANDS):
        problem = f"holds a PSF of shape {kernels.shape}"
        raise DataError(where, problem, "needed: (3, k, k) for g r z, k odd")
    return np.stack([check_kernel(kernel, where) for kernel in kernels])


def check_kernel(kernel: NDArray[Any], where: str) -> Image:
    """One kernel normalised to one; DataError unless it is (k, k), k odd, finite, of positive sum."""
    shape = kernel.shape
    if kernel.ndim != 2 or shape[0] != shape[1] or shape[0] % 2 == 0:
        raise DataError(where, f"holds a PSF of shape {shape}", "needed: (k, k), k odd")
    with np.errstate(invalid="ignore", over="ignore"):
        values = np.asarray(kernel, dtype=np.float64)
        total = float(values.sum())
    if not np.isfinite(total) or total <= 0.0:
        raise DataError(where, "holds a PSF that is not finite or sums to nothing")
    return np.asarray(values / total)


def _load_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        if zipfile.is_zipfile(path):
            _refuse_bomb(path)
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded as archive:
                return {name: archive[name] for name in archive.files}
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(str(path), "holds an array larger than the memory", "split the file") from error
    except Exception as error:  # zipfile and numpy's header parser raise many types on damaged bytes
        if "pickle" in str(error).lower():
            raise DataError(str(path), "holds pickled objects, which are never loaded") from error
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(str(path), f"is truncated or no NPZ: {cause}") from error
    raise DataError(str(path), "is a bare array, no NPZ", "save it with numpy.savez(..., images=array)")


def _refuse_bomb(path: Path) -> None:
    """DataError for an archive that says it inflates to more than the bound, before any of it is inflated."""
    with zipfile.ZipFile(path) as archive:
        declared = sum(member.file_size for member in archive.infolist())
    if declared > MAX_FILE_BYTES:
        problem = f"declares {declared} bytes, more than the {MAX_FILE_BYTES} a file may have"
        raise DataError(str(path), problem, "split the file")


def _npz_rows(path: Path, scale: float) -> Iterator[RealPixels]:
    arrays, where = _load_npz(path), str(path)
    if "images" not in arrays:
        raise DataError(where, "holds no array 'images'", f"has {', '.join(arrays) or 'nothing'}")
    images = _with_rows(arrays["images"], 4, "images", where)
    _check_units(arrays.get("units"), where)
    n = images.shape[0]
    if images.shape[1] != len(BANDS):
        raise DataError(where, f"'images' has shape {arrays['images'].shape}", "needed: (n, 3, y, x), g r z")
    invvar = _matching(arrays, "invvar", images.shape, where)
    psf = _with_rows(arrays["psf"], 4, "psf", where) if "psf" in arrays else None
    if psf is not None and len(psf) not in (1, n):
        raise DataError(where, f"'psf' has {len(psf)} rows for {n} images")
    facts = {key: _one_per_row(arrays, key, n, where) for key in _PER_ROW}
    given = _one_per_row(arrays, "pixscale", n, where)
    for k in range(n):
        here = f"{where} row {k}"
        yield RealPixels(
            where=here,
            index=k,
            image=images[k],
            invvar=None if invvar is None else invvar[k],
            psf=None if psf is None else check_psf(psf[k if len(psf) > 1 else 0], here),
            pixel_scale_arcsec=float(given[k]) if given is not None else scale,
            centre=None,
            facts=_row_facts({key: None if v is None else v[k] for key, v in facts.items()}, here),
        )


def _with_rows(array: NDArray[Any], ndim: int, name: str, where: str) -> NDArray[Any]:
    if array.dtype.kind not in "fiu" or array.ndim not in (ndim - 1, ndim):
        raise DataError(where, f"'{name}' is {array.dtype} {array.shape}, no image (3, y, x) or (n, 3, y, x)")
    return array if array.ndim == ndim else array[None]


def _matching(
    arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...], where: str
) -> NDArray[Any] | None:
    if name not in arrays:
        return None
    found = _with_rows(arrays[name], 4, name, where)
    if found.shape != shape:
        raise DataError(where, f"'{name}' has shape {found.shape}, the images {shape}")
    return found


def _check_units(units: NDArray[Any] | None, where: str) -> None:
    if units is not None and not str(units.ravel()[0]).strip().lower().startswith(("nanomagg", "nmgy")):
        raise DataError(where, f"is in '{units.ravel()[0]}'", "convert to nanomaggies, AB zero-point 22.5")


def _one_per_row(arrays: Mapping[str, NDArray[Any]], key: str, n: int, where: str) -> NDArray[Any] | None:
    if key not in arrays:
        return None
    values = np.atleast_1d(arrays[key])
    if values.shape not in ((1,), (n,)):
        raise DataError(where, f"'{key}' has shape {values.shape} for {n} images")
    return np.broadcast_to(values, (n,))


def _row_facts(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    names = {"ra": "ra_deg", "dec": "dec_deg", "z": "z", "sigma_v": "sigma_v_kms"}
    facts: dict[str, Any] = {}
    for key, column in names.items():
        if values[key] is None:
            continue
        try:
            number = float(values[key])
        except ValueError as error:
            raise DataError(where, f"'{key}' is '{values[key]}', no number") from error
        facts[column] = number if np.isfinite(number) else None
        low, high = _LIMITS.get(key, (-np.inf, np.inf))
        if not (low <= number <= high or np.isnan(number)):
            raise DataError(where, f"'{key}' is {number:g}", f"within [{low:g}, {high:g}]")
    if values["name"] is not None:
        facts["name"] = str(values["name"])
    return facts


def _open_fits(path: Path) -> list[Unit]:
    """Headers and data of every unit that holds an image."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = file.read(MAX_INFLATED_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(str(path), "is truncated or no gzip file") from error
        if len(data) > MAX_INFLATED_BYTES:
            raise DataError(str(path), f"inflates to more than {MAX_INFLATED_BYTES} bytes", "give a cutout")
    units = image_units(data, str(path))
    if not units:
        raise DataError(str(path), "holds no image")
    return units


def _kind_of(header: fits.Header) -> str:
    return str(header.get("IMAGETYP", header.get("IMTYPE", "image"))).strip().lower()


def _planes(path: Path, units: list[Unit]) -> dict[str, dict[str, NDArray[Any]]]:
    """Planes by type (image, invvar, psf) and band."""
    planes: dict[str, dict[str, NDArray[Any]]] = {}
    for number, (header, data) in enumerate(units):
        kind = _kind_of(header)
        if kind == "maskbits":
            continue
        _refuse_other_units(header, str(path))
        if data.dtype.kind != "f":
            raise DataError(str(path), f"extension {number} holds {data.dtype}, where fluxes are floats")
        if data.ndim == 3:
            bands = str(header.get("BANDS", "")).strip().lower()
            if len(bands) != data.shape[0]:
                raise DataError(str(path), f"BANDS = '{bands}' does not name the {data.shape[0]} planes")
            planes.setdefault(kind, {}).update(zip(bands, data, strict=True))
        elif data.ndim == 2 and "BAND" in header:
            planes.setdefault(kind, {})[str(header["BAND"]).strip().lower()] = data
        else:
            problem = f"extension {number} is {data.ndim}-dimensional and names no band"
            raise DataError(str(path), problem, "needed: a cube with BANDS, or planes with BAND")
    return planes


def _refuse_other_units(header: fits.Header, where: str) -> None:
    """Pixels at another zero-point would be taken for other fluxes."""
    unit = str(header.get("BUNIT", "nanomaggy")).strip().lower().replace(" ", "")
    if not unit.replace("1/", "").startswith(("nanomagg", "nmgy", "arcsec")):
        raise DataError(where, f"is in '{header['BUNIT']}'", "convert to nanomaggies, AB zero-point 22.5")
    for key in ("MAGZERO", "ZEROPT", "MAGZPT"):
        try:
            zero = float(header.get(key, ZERO_POINT))
        except (TypeError, ValueError) as error:
            raise DataError(where, f"{key} is '{header[key]}', no number") from error
        if abs(zero - ZERO_POINT) > ZERO_TOLERANCE:
            remedy = f"multiply by 10^(0.4 ({ZERO_POINT} - {zero:g})) and say so in {key}"
            raise DataError(where, f"has the zero-point {zero:g}, not {ZERO_POINT}", remedy)


def _mask_of(units: list[Unit], shape: tuple[int, ...], where: str) -> NDArray[np.int32] | None:
    for header, data in units:
        if _kind_of(header) == "maskbits":
            return _bits(data, shape, where)
    return None


def _bits(data: NDArray[Any], shape: tuple[int, ...], where: str) -> NDArray[np.int32]:
    if data.shape != shape[-2:] or data.dtype.kind not in "iu":
        problem = f"maskbits are {data.dtype} {data.shape}, the image is {tuple(shape[-2:])}"
        raise DataError(where, problem, "needed: integers like the image")
    return np.asarray(data, dtype=np.int32)


def _stack(planes: Mapping[str, NDArray[Any]], where: str) -> Image:
    missing = [band for band in BANDS if band not in planes]
    if missing:
        raise DataError(
            where, f"has no band {', '.join(missing)}", f"bands there: {', '.join(planes) or 'none'}"
        )
    shapes = {planes[band].shape for band in BANDS}
    if len(shapes) > 1:
        raise DataError(where, f"its bands differ in shape: {sorted(shapes)}")
    with np.errstate(invalid="ignore"):  # a NaN of another bit pattern is a NaN
        return np.stack([np.asarray(planes[band], dtype=np.float64) for band in BANDS])


def _fits_image(path: Path, scale: float) -> RealPixels:
    units, where = _open_fits(path), str(path)
    _refuse_several_bricks(units, where)
    planes = _planes(path, units)
    image = _stack(planes.get("image", {}), where)
    invvar = _stack(planes["invvar"], where) if "invvar" in planes else None
    if invvar is not None and invvar.shape != image.shape:
        raise DataError(where, f"invvar {invvar.shape} does not fit the image {image.shape}")
    psf = check_psf(_stack(planes["psf"], where), where) if "psf" in planes else None
    header = units[0][0]
    wcs, scale = _sky_of(header, scale, where)
    facts: dict[str, Any] = {"release": str(header.get("VERSION", "unknown")).strip() or "unknown"}
    if "BRICK" in header:
        facts["brickname"] = str(header["BRICK"]).strip()
    centre = _reference_pixel(wcs, image.shape[1:])
    mask = _mask_of(units, image.shape, where)
    return RealPixels(where, 0, image, invvar, psf, scale, centre, wcs, facts, mask)


def _refuse_several_bricks(units: list[Unit], where: str) -> None:
    """Native cutouts of several bricks in one file are several images of the same place."""
    bricks = sorted({str(header["BRICK"]).strip() for header, _ in units if "BRICK" in header})
    if len(bricks) > 1:
        problem = f"holds the pixels of {len(bricks)} bricks ({', '.join(bricks)})"
        raise DataError(where, problem, "keep one, or use `dhs survey fetch`")


def _sky_of(header: fits.Header, scale: float, where: str) -> tuple[WCS | None, float]:
    """The WCS and its pixel scale [arcsec], or the scale that was given."""
    if "CRVAL1" not in header:
        return None, scale
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wcs = WCS(header, naxis=2)
            found = float(np.mean(proj_plane_pixel_scales(wcs))) * 3600.0
    except Exception as error:  # wcslib raises many types on a broken header
        raise DataError(where, f"has a WCS that cannot be used: {str(error).splitlines()[0]}") from error
    if not LEAST_SCALE_ARCSEC <= found <= MOST_SCALE_ARCSEC:
        raise DataError(where, f"has pixels of {found:g} arcsec by its WCS, which no cutout has")
    return wcs, found


def _hdf5_rows(path: Path, scale: float) -> Iterator[RealPixels]:
    """Rows one by one: a file of many stamps is never in memory as a whole."""
    where = str(path)
    try:
        with h5py.File(path, "r") as file:
            yield from _rows_of(_Arrays(file, where), scale, where)
    except DataError:
        raise
    except Exception as error:  # HDF5 raises OSError, KeyError, RuntimeError and more on damaged files
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(where, f"is no readable HDF5 file: {cause}") from error


class _Arrays:
    """The arrays of an HDF5 file; what is asked for is read."""

    def __init__(self, file: Any, where: str) -> None:
        self.file, self.where = file, where

    def __contains__(self, name: str) -> bool:
        return name in self.file

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an array; DataError where it is none."""
        found = self.file[name]
        if not hasattr(found, "shape"):
            raise DataError(self.where, f"'{name}' is no array")
        return tuple(found.shape)

    def row(self, name: str, k: int) -> NDArray[Any]:
        """One row of an array of many."""
        found = self.file[name]
        if int(np.prod(found.shape[1:], dtype=object)) > MAX_PIXELS:
            raise DataError(self.where, f"'{name}' has rows of {found.shape[1:]}, which no stamp has")
        return np.asarray(found[k])

    def text(self, name: str, k: int) -> str:
        """One string."""
        value = self.file[name][k]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


_HDF5_NUMBERS = {
    "ra_deg": ("ra_deg", "ra"),
    "dec_deg": ("dec_deg", "dec"),
    "z": ("z",),
    "sigma_v_kms": ("sigma_v_kms", "sigma_v"),
}
_HDF5_TEXTS = ("target_id", "name", "release", "brickname")


def _rows_of(arrays: _Arrays, scale: float, where: str) -> Iterator[RealPixels]:
    if "images" not in arrays:
        raise DataError(where, "holds no array 'images'", f"has {', '.join(arrays.file) or 'nothing'}")
    shape = arrays.shape("images")
    if len(shape) != 4 or shape[1] != len(BANDS) or arrays.file["images"].dtype.kind not in "fiu":
        raise DataError(where, f"'images' has shape {shape}", "needed: numbers (n, 3, y, x), g r z")
    units = arrays.file["images"].attrs.get("units")
    _check_units(np.array([units]) if units is not None else None, where)
    for name, wanted in (("invvar", shape), ("maskbits", (shape[0], *shape[2:]))):
        if name in arrays and arrays.shape(name) != wanted:
            raise DataError(where, f"'{name}' has shape {arrays.shape(name)}, the images {shape}")
    columns = [*(n for names in _HDF5_NUMBERS.values() for n in names), *_HDF5_TEXTS]
    for name in (*columns, "psf", "x_center_pix", "y_center_pix", "pixel_scale_arcsec"):
        if name in arrays and arrays.shape(name)[:1] != shape[:1]:
            raise DataError(where, f"'{name}' has shape {arrays.shape(name)} for {shape[0]} images")
    for k in range(shape[0]):
        yield _hdf5_row(arrays, k, shape, scale, f"{where} row {k}")


def _hdf5_row(arrays: _Arrays, k: int, shape: tuple[int, ...], scale: float, where: str) -> RealPixels:
    facts: dict[str, Any] = {}
    for column, names in _HDF5_NUMBERS.items():
        name = next((n for n in names if n in arrays), None)
        if name is not None:
            number = float(arrays.row(name, k))
            facts[column] = number if np.isfinite(number) else None
    for name in _HDF5_TEXTS:
        if name in arrays and arrays.text(name, k):
            facts[name] = arrays.text(name, k)
    if "pixel_scale_arcsec" in arrays:
        scale = float(arrays.row("pixel_scale_arcsec", k))
    centre = None
    if "x_center_pix" in arrays and "y_center_pix" in arrays:
        centre = (float(arrays.row("x_center_pix", k)), float(arrays.row("y_center_pix", k)))
    return RealPixels(
        where=where,
        index=k,
        image=arrays.row("images", k),
        invvar=arrays.row("invvar", k) if "invvar" in arrays else None,
        psf=check_psf(arrays.row("psf", k), where) if "psf" in arrays else None,
        pixel_scale_arcsec=float(arrays.row("pixel_scale_arcsec", k))
        if "pixel_scale_arcsec" in arrays
        else scale,
        centre=centre,
        facts=facts,
        mask=_bits(arrays.row("maskbits", k), shape, where) if "maskbits" in arrays else None,
    )


def _indexed(path: Path, scale: float) -> Iterator[RealPixels]:
    """The FITS files that an index.csv names, in its order, with what it knows of each."""
    table = read_published(path)
    file = table.column("file", "path", "filename")
    if file is None:
        raise SchemaMismatch(str(path), "lacks the column 'file'", "an index names one FITS file per row")
    for number, row in enumerate(table.rows):
        name = text_in(row, file) or ""
        target = path.parent / name
        if target.suffix.lower() in (".png", ".jpg", ".jpeg"):
            problem = f"names the picture '{name}': a picture holds no fluxes"
            raise DataError(table.at(number + 1), problem, "export with --as fits or hdf5")
        if not target.resolve().is_relative_to(path.parent.resolve()):
            raise DataError(
                table.at(number + 1), f"names '{name}', which lies outside the folder of the index"
            )
        (real,) = read_real_pixels(target, pixel_scale=scale)
        facts: dict[str, Any] = {column: text_in(row, table.column(column)) for column in _HDF5_TEXTS}
        for column in _HDF5_NUMBERS:
            facts[column] = number_in(row, table.column(column), table.at(number + 1))
        known = {key: value for key, value in facts.items() if value is not None}
        yield replace(real, index=number, facts=real.facts | known)


def _reference_pixel(wcs: WCS | None, shape: tuple[int, ...]) -> tuple[float, float] | None:
    if wcs is None:
        return None
    x, y = (float(value) - 1.0 for value in wcs.wcs.crpix)
    off = max(abs(x - 0.5 * (shape[1] - 1)), abs(y - 0.5 * (shape[0] - 1)))
    return (x, y) if off <= CENTRED_PIX else None
