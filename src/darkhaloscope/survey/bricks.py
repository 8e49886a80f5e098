"""Coadds of the Legacy Surveys, brick by brick, from a folder or a bucket in the survey's own layout.

::

    ROOT[/REGION]/coadd/AAA/BRICK/legacysurvey-BRICK-{image,invvar,nexp,psfsize}-BAND.fits[.fz]
    ROOT[/REGION]/coadd/AAA/BRICK/legacysurvey-BRICK-maskbits.fits[.fz]

A brick is opened once for all of its targets. Pixels are never resampled: what comes out is a window of the
coadd and where in it the target lies. Whatever keeps a target from having pixels is a reject code.
"""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from numpy.typing import NDArray
from pyarrow import fs

from darkhaloscope.contracts.errors import ConfigError, CredentialsExpired, DataError
from darkhaloscope.survey.cutouts import Cutout, ExtraBand, Image
from darkhaloscope.survey.fits_images import BLOCK, refuse_endless_headers
from darkhaloscope.survey.priors import Psf
from darkhaloscope.survey.psf import moffat_kernel
from darkhaloscope.survey.release import BANDS, PIXEL_SCALE_ARCSEC, SAME_PIX, Release, release_of

SUFFIXES = (".fits.fz", ".fits", ".fits.gz")
MARGIN_PIX = 2
"""A window is this much larger than the stamp on each side, so that the stamp is cropped where all are."""
WHOLE_PLANE_TARGETS = 128
"""From so many targets on, decompressing a plane at once is quicker than tile by tile (measured)."""
MAX_SIDE_PIX = 8192
"""No brick is larger (3600 pixels); a header that says so is damaged."""
SCALE_TOLERANCE = 1.0e-3
_HEADER_BYTES = 20 * BLOCK
"""Every header of a coadd lies within the first of them (the longest known has 5 blocks)."""

Answer = Cutout | str
"""Pixels, or the reject code that says why there are none."""


@dataclass(frozen=True)
class Mirror:
    """Coadds of one release below a folder or a bucket's prefix.

    root      a folder, or an address such as s3://bucket/prefix (``?region=us-west-2``, ``s3://anonymous@…``)
    release   whose folder is read, and whose number every header must bear
    """

    root: str
    release: Release

    def folder_of(self, brick: str) -> str:
        """Path of a brick's folder on its filesystem."""
        return f"{_coadd_folder(self.root, self.release.region)}/{brick[:3]}/{brick}"

    def files_of(self, brick: str) -> dict[str, str]:
        """Paths of a brick's coadds by what they are, e.g. ``image-g``; empty where there is none."""
        folder = self.folder_of(brick)
        with _translated(self.root, folder):
            listing = _listing(self.root, folder)
        found: dict[str, str] = {}
        stem = f"legacysurvey-{brick}-"
        for suffix in reversed(SUFFIXES):  # the compressed one wins where both are there
            found |= {
                info.base_name.removeprefix(stem).removesuffix(suffix): info.path
                for info in listing
                if info.base_name.startswith(stem) and info.base_name.endswith(suffix)
            }
        return found

    def source(self, path: str) -> Any:
        """What astropy can open: a path of this machine, or the bytes of a remote file."""
        files, _ = _filesystem(self.root)
        if isinstance(files, fs.LocalFileSystem):
            return path
        with _translated(self.root, path), files.open_input_stream(path) as stream:
            return io.BytesIO(stream.read())


@lru_cache(maxsize=8)
def _filesystem(root: str) -> tuple[fs.FileSystem, str]:
    """One client per process and root."""
    if "://" not in root:
        return fs.LocalFileSystem(), root.rstrip("/") or "/"
    try:
        files, path = fs.FileSystem.from_uri(root)
    except (OSError, ValueError, NotImplementedError) as error:
        problem = f"is no place to read from: {str(error).splitlines()[0]}"
        raise ConfigError(_without_secrets(root), "", problem, "a folder, or s3://bucket/prefix") from error
    return files, path.rstrip("/")


@lru_cache(maxsize=8)
def _coadd_folder(root: str, region: str) -> str:
    """The coadd folder of one region. A root may hold regions, or be one; it must not be the other one."""
    _, path = _filesystem(root)
    for candidate in (f"{path}/{region}/coadd", f"{path}/coadd"):
        with _translated(root, candidate):
            if _listing(root, candidate):
                return candidate
    where = _without_secrets(root)
    raise DataError(where, f"holds neither {region}/coadd nor coadd", "give the folder of a data release")


def _listing(root: str, folder: str) -> list[Any]:
    files, _ = _filesystem(root)
    return list(files.get_file_info(fs.FileSelector(folder, allow_not_found=True)))


def _without_secrets(root: str) -> str:
    """An address as it may be printed."""
    scheme, mark, rest = root.partition("://")
    return scheme + mark + rest.rpartition("@")[2] if mark else root


@contextmanager
def _translated(root: str, path: str) -> Iterator[None]:
    """A filesystem's errors as ours; expired credentials stop everything."""
    try:
        yield
    except OSError as error:
        text = str(error)
        where = _without_secrets(root) if path == root else f"{_without_secrets(root)} {path}"
        if "expired" in text.lower() or _session_has_expired(root):
            message = f"{where}: the credentials have expired: renew them, then run the same command again"
            raise CredentialsExpired(message) from error
        raise DataError(where, f"cannot be read: {text.splitlines()[0]}") from error


def _session_has_expired(root: str) -> bool:
    """Whether a listing says so: a refused object says nothing of why, its answer has no body."""
    files, path = _filesystem(root)
    if isinstance(files, fs.LocalFileSystem):
        return False
    try:
        _listing(root, path)
    except OSError as error:
        return "expired" in str(error).lower()
    return False


@dataclass(frozen=True)
class _Place:
    """A target on its brick: number among the targets, pixel position, window."""

    number: int
    x: float
    y: float
    window: tuple[slice, slice]


class _Damaged(Exception):
    """A coadd that cannot be trusted."""


def read_brick(
    mirror: Mirror, brick: str, ra_deg: Sequence[float], dec_deg: Sequence[float], *, size: int, bands: str
) -> list[Answer]:
    """Pixels of the targets of one brick, in their order.

    ra_deg, dec_deg   targets [deg]
    size              side of the stamps to be made [pixel]; windows are a little larger
    bands             ``grz``, or ``griz`` to have i beside them

    A Cutout's row holds brickname, release, psfsize_* [arcsec] and nexp_*; its PSF is a Moffat of the FWHM
    that the psfsize maps give at the target. Reject codes: no_brick, missing_band (no such file, or no
    exposure at the target), missing_map (no maskbits, nexp or psfsize), damaged_file, wrong_release,
    brick_edge.
    """
    n = len(ra_deg)
    files = mirror.files_of(brick)
    code = _what_is_absent(files, bands)
    if code is not None:
        return [code] * n
    try:
        frame = _read_frame(mirror, brick, files[f"image-{bands[0]}"])
        if frame.release is not mirror.release:
            return ["wrong_release"] * n
        places = _places(frame, np.asarray(ra_deg), np.asarray(dec_deg), size)
        planes = {
            key: _read_windows(mirror, files[key], frame.shape, places, brick) for key in _wanted(bands)
        }
    except _Damaged:
        return ["damaged_file"] * n
    answers: list[Answer] = ["brick_edge"] * n
    for k, place in enumerate(places):
        answers[place.number] = _cutout(mirror, brick, {key: p[k] for key, p in planes.items()}, place, bands)
    return answers


def _wanted(bands: str) -> list[str]:
    kinds = ("image", "invvar", "nexp", "psfsize")
    return ["maskbits", *(f"{kind}-{band}" for band in bands for kind in kinds)]


def _what_is_absent(files: Mapping[str, str], bands: str) -> str | None:
    if not files:
        return "no_brick"
    if any(f"{kind}-{band}" not in files for band in bands for kind in ("image", "invvar")):
        return "missing_band"
    return "missing_map" if any(key not in files for key in _wanted(bands)) else None


@dataclass(frozen=True)
class _Frame:
    """What the coadds of a brick share."""

    wcs: WCS
    shape: tuple[int, int]
    release: Release | None


def _read_frame(mirror: Mirror, brick: str, path: str) -> _Frame:
    with _opened(mirror, path) as unit:
        header = unit.header
        _refuse_other_brick(header, brick)
        try:
            wcs = WCS(header, naxis=2)
            steps = np.abs(np.linalg.eigvals(wcs.pixel_scale_matrix)) * 3600.0
            release = release_of(int(header.get("DRVERSIO", -1)))
        except Exception as error:  # astropy and wcslib raise many types on a broken header
            raise _Damaged(path) from error
        if not np.all(np.abs(steps / PIXEL_SCALE_ARCSEC - 1.0) < SCALE_TOLERANCE):
            raise _Damaged(path)
        return _Frame(wcs, tuple(unit.shape), release)


def _refuse_other_brick(header: fits.Header, brick: str) -> None:
    """A file under another brick's name would put every stamp in the wrong place."""
    named = str(header.get("BRICK", header.get("BRICKNAM", brick))).strip()
    if named != brick:
        raise _Damaged(named)


@contextmanager
def _opened(mirror: Mirror, path: str) -> Iterator[Any]:
    """The unit of a coadd that holds its image; _Damaged for anything that cannot be one."""
    try:
        with warnings.catch_warnings():
            # astropy only warns of a file that is shorter than its header says.
            warnings.filterwarnings("error", message=".*truncated.*", category=AstropyUserWarning)
            warnings.filterwarnings("ignore", category=fits.verify.VerifyWarning)
            source = mirror.source(path)
            _refuse_endless_headers(source, path)
            with fits.open(source, memmap=True) as units:
                yield _coadd_in(units, path)
    except (DataError, CredentialsExpired, _Damaged):
        raise
    except Exception as error:  # damaged files make astropy raise nearly anything
        raise _Damaged(path) from error


def _refuse_endless_headers(source: Any, path: str) -> None:
    if isinstance(source, io.BytesIO):
        head = source.getbuffer()[:_HEADER_BYTES].tobytes()
    else:
        with Path(source).open("rb") as file:
            head = file.read(_HEADER_BYTES)
    try:
        refuse_endless_headers(head, path)
    except DataError as error:
        raise _Damaged(path) from error


def _coadd_in(units: fits.HDUList, path: str) -> Any:
    unit = next((u for u in units if u.is_image and len(u.shape) == 2), None)
    if unit is None or not 0 < max(unit.shape) <= MAX_SIDE_PIX:
        raise _Damaged(path)
    return unit


def _places(frame: _Frame, ra: NDArray[Any], dec: NDArray[Any], size: int) -> list[_Place]:
    """Targets whose window lies on the image; those of the edge are left out."""
    x, y = (np.atleast_1d(v) for v in frame.wcs.world_to_pixel_values(ra, dec))
    places = []
    for number, (px, py) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
        window = tuple(
            _window(position, size, length) for position, length in zip((py, px), frame.shape, strict=True)
        )
        if None not in window:
            places.append(_Place(number, px, py, window))  # type: ignore[arg-type]
    return places


def _window(position: float, size: int, length: int) -> slice | None:
    """Pixels around a position, cut at the edge; None where a stamp does not fit by more than the margin."""
    if not np.isfinite(position):
        return None
    wanted = int(np.ceil(position - size / 2 - SAME_PIX))
    start = min(max(wanted, 0), length - size)
    if length < size or abs(start - wanted) > MARGIN_PIX:
        return None
    return slice(max(wanted - MARGIN_PIX, 0), min(wanted + size + MARGIN_PIX, length))


def _read_windows(
    mirror: Mirror, path: str, shape: tuple[int, int], places: Sequence[_Place], brick: str
) -> list[NDArray[Any]]:
    """The windows of one plane; copies, so that the plane can go."""
    with _opened(mirror, path) as unit:
        _refuse_other_brick(unit.header, brick)
        if tuple(unit.shape) != shape:
            raise _Damaged(path)
        pixels = unit.data if len(places) >= WHOLE_PLANE_TARGETS else unit.section
        return [np.array(pixels[place.window]) for place in places]


def _cutout(
    mirror: Mirror, brick: str, planes: Mapping[str, NDArray[Any]], place: _Place, bands: str
) -> Answer:
    rows, columns = place.window
    x, y = place.x - columns.start, place.y - rows.start
    centre = round(y), round(x)
    sizes = {band: float(planes[f"psfsize-{band}"][centre]) for band in bands}
    if not all(size > 0.0 for size in sizes.values()):
        return "missing_band"
    row: dict[str, Any] = {"brickname": brick, "release": mirror.release.name}
    row |= {f"psfsize_{band}": sizes[band] for band in BANDS}
    row |= {f"nexp_{band}": int(planes[f"nexp-{band}"][centre]) for band in BANDS}
    return Cutout(
        image=_stack(planes, "image"),
        invvar=_stack(planes, "invvar"),
        mask=planes["maskbits"].astype(np.int32),
        psf=np.stack([_kernel(sizes[band]) for band in BANDS]),
        x_center_pix=x,
        y_center_pix=y,
        pixel_scale_arcsec=PIXEL_SCALE_ARCSEC,
        row=row,
        extra={
            band: ExtraBand(planes[f"image-{band}"], planes[f"invvar-{band}"], _kernel(sizes[band]))
            for band in bands
            if band not in BANDS
        },
    )


def _stack(planes: Mapping[str, NDArray[Any]], kind: str) -> Image:
    return np.stack([np.asarray(planes[f"{kind}-{band}"], dtype=np.float32) for band in BANDS])


@lru_cache(maxsize=4096)
def _kernel(psfsize_arcsec: float) -> Image:
    """The PSF of a size that the survey's map gives."""
    facts = Psf()
    return moffat_kernel(
        psfsize_arcsec / facts.size_over_moffat, facts.beta.mean, pixel_scale=PIXEL_SCALE_ARCSEC
    )
