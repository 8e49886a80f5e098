"""The sky viewer's cutout service: what is asked of it for a target, and what an answer is worth.

::

    URL/fits-cutout?…&subimage&invvar&maskbits   native pixels: for each brick that has any, an image and an
                                                 inverse variance of each band, cut at the brick's edge
    URL/fits-cutout?…&maskbits                   the same place resampled; only its mask bits are taken, where
                                                 the native answer brought none
    URL/coadd-psf/?…                             the coadds' PSF at the target, one plane for each band

Answers lie in a cache as they came, each beside a record of what it is worth. Reading them again is a pure
function of those bytes: pixels are never resampled, and whatever is wrong with an answer is a reject code.

What each code means here: **outside_footprint** no image, or nothing but zeros; **truncated** shorter than its
own headers say; **not_fits** an error page or a body that cannot be parsed; **damaged_file** planes that
contradict each other; **wrong_release** a VERSION other than was asked for; **clipped** cut where no brick
ends; **brick_edge** cut where the brick ends; **off_target** another place or another pixel grid, such as a
resampled image; **missing_band**, **missing_map** (mask bits or PSF), **not_finite**; **service_failed** no
answer at all.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from urllib.parse import quote, urlsplit

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from pydantic import ValidationError, field_validator, model_validator

from darkhaloscope.contracts.config import Frozen, tagged
from darkhaloscope.contracts.errors import DataError, StoreError
from darkhaloscope.contracts.store import write_whole
from darkhaloscope.survey.brick_grid import brick_of
from darkhaloscope.survey.bricks import MARGIN_PIX, MAX_SIDE_PIX, SCALE_TOLERANCE, Answer
from darkhaloscope.survey.cutouts import Cutout, ExtraBand, Image
from darkhaloscope.survey.release import (
    BANDS,
    MASK_BITS,
    PIXEL_SCALE_ARCSEC,
    RELEASES,
    SAME_PIX,
    Release,
    find_release,
)

VIEWER = "https://www.legacysurvey.org/viewer"
MAX_ANSWER_PIX = 3000
"""The service cuts larger requests down to this side and does not say so."""
OK = "ok"
"""The verdict on an answer that holds what was asked for."""
WORTH_ANOTHER_TRY = frozenset({"service_failed", "truncated", "not_fits", "damaged_file"})
"""Verdicts that may be the moment's: they are tried again, at once and on the next run."""

_MASK_BAND = "r"
_FITS_BLOCK, _FITS_CARD = 2880, 80
_LARGEST_KERNEL = 511
_FIRST_WITH_REGIONS = 8
_NUMBER_OF_A_HALF = re.compile(r"DR(\d+)(?:\.\d+)?(?:-(north|south))?")


@dataclass(frozen=True)
class Request:
    """One question to the service, without its address.

    kind    what is wanted of the answer: pixels, mask or psf
    path    below the service's address
    query   parameters in alphabetical order; flags carry no value
    """

    kind: Literal["pixels", "mask", "psf"]
    path: str
    query: str

    @property
    def key(self) -> str:
        """Name of the answer in a cache, the same at every address of the service."""
        return hashlib.sha256(f"{self.path}?{self.query}".encode()).hexdigest()


class CutoutService(Frozen):
    """Which cutouts are wanted, and how the service that has them is to be asked."""

    unfingerprinted: ClassVar[frozenset[str]] = frozenset(
        {"url", "connections", "rate_per_s", "attempts", "timeout_s", "backoff_s"}
    )

    release: str
    bands: Literal["grz", "griz"] = "grz"
    size: int = tagged(
        64, "K", "side of the brief's stamps", "pix", ge=32, le=MAX_ANSWER_PIX - 2 * MARGIN_PIX
    )
    url: str = tagged(VIEWER, "K", "the Legacy Surveys' public viewer")
    connections: int = tagged(4, "A", "requests under way at once; a public service is shared", ge=1, le=64)
    rate_per_s: float = tagged(8.0, "A", "requests begun per second, repeats included", "1/s", gt=0.0)
    attempts: int = tagged(5, "A", "times a request is sent before it counts as failed", ge=1)
    timeout_s: float = tagged(60.0, "A", "longest that one attempt may take in all", "s", gt=0.0)
    backoff_s: float = tagged(
        1.0, "A", "wait before the second attempt; doubles, and up to as much again at random", "s", ge=0.0
    )

    @field_validator("release")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in RELEASES:
            message = f"'{name}' is unknown; known: {', '.join(RELEASES)}"
            raise ValueError(message)
        return name

    @field_validator("url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            message = "must be an address such as " + VIEWER
            raise ValueError(message)
        return url.rstrip("/")

    @model_validator(mode="after")
    def _has_its_bands(self) -> Self:
        if "i" in self.bands and not find_release(self.release).has_i:
            message = f"{self.release} has no i band"
            raise ValueError(message)
        return self

    @property
    def box(self) -> int:
        """Side that is asked for [pixel]: a stamp on a target at any fraction of a pixel fits inside."""
        return self.size + 2 * MARGIN_PIX

    def request(self, kind: Literal["pixels", "mask", "psf"], ra_deg: float, dec_deg: float) -> Request:
        """The question for one target [deg]."""
        place = {"ra": f"{ra_deg:.7f}", "dec": f"{dec_deg:.7f}", "layer": find_release(self.release).layer}
        if kind == "psf":
            return Request(kind, "coadd-psf/", _query(place | {"bands": self.bands}))
        place["pixscale"] = f"{PIXEL_SCALE_ARCSEC:g}"
        if kind == "mask":
            # Turned against the brick's grid by up to a degree or two at high declination, hence wider.
            side = min(self.box + 2 * (2 + self.box // 64), MAX_ANSWER_PIX)
            flags: tuple[str, ...] = ("maskbits",)
            place["bands"] = _MASK_BAND
        else:
            side, flags = self.box, ("invvar", "maskbits", "subimage")
            place["bands"] = self.bands
        return Request(kind, "fits-cutout", _query(place | {"width": str(side), "height": str(side)}, *flags))


def _query(parameters: Mapping[str, str], *flags: str) -> str:
    items = [f"{name}={quote(value, safe='')}" for name, value in parameters.items()]
    return "&".join(sorted([*items, *flags]))


class Kept(Frozen):
    """The record of one answer.

    request    path and query
    url        the service's address
    status     HTTP status, 0 where nothing came
    sha256     of the body
    verdict    ``ok`` or a reject code
    final      whether the verdict is about the sky rather than about the moment
    maskbits   whether an answer with pixels brings its mask
    note       what a person may want to know of a failure
    """

    request: str
    url: str
    status: int
    sha256: str
    verdict: str
    final: bool
    maskbits: bool = False
    note: str = ""

    def stands_for(self, service: CutoutService) -> bool:
        """Whether the answer need not be asked for again. What one address refuses, another may give."""
        refused = self.verdict == "service_failed"
        return self.final and (not refused or self.url == service.url)


@dataclass(frozen=True)
class AnswerCache:
    """Answers by request below a folder, in two levels of subfolders.

    A body is written before its record, each of them whole or not at all: what has a record is there.
    """

    folder: Path

    def _path(self, key: str, suffix: str) -> Path:
        return self.folder / key[:2] / key[2:4] / f"{key}{suffix}"

    def record(self, request: Request) -> Kept | None:
        """The record of a request's answer, or None where there is none that can be read."""
        try:
            kept = Kept.model_validate_json(self._path(request.key, ".json").read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValidationError):
            return None
        return kept if kept.request == f"{request.path}?{request.query}" else None

    def body(self, request: Request, record: Kept) -> bytes | None:
        """The body that a record is about, or None if it is no longer the same bytes."""
        try:
            body = self._path(request.key, ".body").read_bytes()
        except FileNotFoundError:
            return None
        return body if hashlib.sha256(body).hexdigest() == record.sha256 else None

    def keep(self, request: Request, record: Kept, body: bytes) -> None:
        """Store an answer; StoreError where the folder cannot be written."""
        try:
            write_whole(self._path(request.key, ".body"), body)
            write_whole(self._path(request.key, ".json"), record.model_dump_json(indent=1).encode())
        except OSError as error:
            problem = f"cannot be written: {error.strerror}"
            raise StoreError(str(self.folder), problem, "what was stored before is kept") from error


class _Refused(Exception):
    """An answer that does not hold what was asked for."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def judge(
    service: CutoutService, target: Mapping[str, Any], request: Request, body: bytes
) -> tuple[str, bool]:
    """What a body is worth: ``ok`` or a reject code, and whether it brings mask bits with its pixels."""
    try:
        if request.kind == "psf":
            _read_kernels(service, body)
        elif request.kind == "mask":
            _read_mask(service, target, body)
        else:
            return OK, _read_native(service, target, body).mask is not None
    except _Refused as refused:
        return refused.code, False
    return OK, False


def read_answers(service: CutoutService, target: Mapping[str, Any], cache: Path) -> Answer:
    """Pixels of one target from the answers that lie in a cache, or the reject code that says why not.

    target   a row of TARGETS: target_id, ra_deg, dec_deg [deg], brickname (may be null)
    cache    the folder that `survey.fetch.fetch_answers` filled

    The Cutout's row holds brickname and release. Its mask is MASKBITS, and ALLMASK where a band has no
    weight; its PSF is the coadds' own, normalised. Raises DataError where an answer was never fetched.
    """
    if not _has_position(target):
        return "off_target"
    answers = _Answers(service, target, AnswerCache(cache))
    try:
        native = _read_native(service, target, answers.body("pixels"))
        mask = native.mask
        if mask is None:
            mask = _onto(native, *_read_mask(service, target, answers.body("mask")))
        kernels = _read_kernels(service, answers.body("psf"))
        return _cutout(service, native, mask, kernels)
    except _Refused as refused:
        return refused.code


def _has_position(target: Mapping[str, Any]) -> bool:
    return target["ra_deg"] is not None and target["dec_deg"] is not None


@dataclass(frozen=True)
class _Answers:
    """The kept answers for one target."""

    service: CutoutService
    target: Mapping[str, Any]
    cache: AnswerCache

    def body(self, kind: Literal["pixels", "mask", "psf"]) -> bytes:
        """The body of an answer that is worth reading; _Refused with its code for any other."""
        request = self.service.request(kind, self.target["ra_deg"], self.target["dec_deg"])
        record = self.cache.record(request)
        if record is None:
            raise DataError(
                str(self.cache.folder),
                f"holds no answer ({kind}) for target '{self.target.get('target_id', '?')}'",
                "fetch these targets first, with the same release, size and bands",
            )
        if record.verdict != OK:
            raise _Refused(record.verdict)
        body = self.cache.body(request, record)
        if body is None:
            raise _Refused("damaged_file")
        return body


@dataclass(frozen=True, eq=False)
class _Unit:
    """One image of a FITS body, and what its header says; None where it says nothing."""

    kind: str
    band: str
    bands: str
    brick: str | None
    corner: tuple[int, int] | None
    version: str | None
    tan: tuple[float, ...] | None
    data: NDArray[Any] | None


@contextmanager
def _parsing() -> Iterator[None]:
    """Foreign code on foreign bytes: damaged headers make astropy raise nearly anything."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _Refused:
        raise
    except Exception as error:
        raise _Refused("not_fits") from error


def _read_units(body: bytes) -> list[_Unit]:
    """Every unit of a body that is an image, its data in the machine's byte order."""
    _check_length(body)
    with _parsing(), fits.open(io.BytesIO(body), memmap=False) as units:
        return [_unit(unit) for unit in units if unit.is_image]


def _check_length(body: bytes) -> None:
    """_Refused for a body that is no FITS file or shorter than its headers say; nothing is allocated."""
    if body and not body.startswith(b"SIMPLE  ="[: len(body)]):
        raise _Refused("not_fits")
    at = 0
    while at < len(body) or at == 0:
        if at and not body.startswith(b"XTENSION"[: len(body) - at], at):
            raise _Refused("not_fits")
        sizes, at = _header_sizes(body, at)
        at += -(-_data_bytes(sizes) // _FITS_BLOCK) * _FITS_BLOCK
        if at > len(body):
            raise _Refused("truncated")


def _header_sizes(body: bytes, start: int) -> tuple[dict[bytes, int], int]:
    """The numbers of a header that say how long its data are, and where these begin."""
    sizes: dict[bytes, int] = {}
    for at in range(start, len(body) - _FITS_CARD + 1, _FITS_CARD):
        name = body[at : at + 8].rstrip()
        if name == b"END":
            begin = start + -(-(at + _FITS_CARD - start) // _FITS_BLOCK) * _FITS_BLOCK
            if begin > len(body):
                break
            return sizes, begin
        if name in (b"BITPIX", b"PCOUNT", b"GCOUNT") or name.startswith(b"NAXIS"):
            try:
                sizes[name] = int(body[at + 10 : at + _FITS_CARD].split(b"/")[0])
            except ValueError as error:
                raise _Refused("not_fits") from error
    raise _Refused("truncated")


def _data_bytes(sizes: Mapping[bytes, int]) -> int:
    axes = sizes.get(b"NAXIS", -1)
    bits = abs(sizes.get(b"BITPIX", 0))
    if not 0 <= axes <= 9 or bits not in (8, 16, 32, 64):
        raise _Refused("not_fits")
    lengths = [sizes.get(b"NAXIS%d" % (k + 1), -1) for k in range(axes)]
    further, groups = sizes.get(b"PCOUNT", 0), sizes.get(b"GCOUNT", 1)
    if min([*lengths, further, groups], default=0) < 0:
        raise _Refused("not_fits")
    pixels = 1 if axes else 0
    for length in lengths:
        pixels *= length
    return bits // 8 * groups * (further + pixels)


def _unit(unit: Any) -> _Unit:
    header = unit.header
    corner = None
    if "BRICK_X0" in header:
        corner = (int(header["BRICK_X0"]), int(header["BRICK_Y0"]))
    data = None
    if unit.shape:
        if max(unit.shape) > MAX_SIDE_PIX or len(unit.shape) > 3:
            raise _Refused("not_fits")
        data = np.asarray(unit.data)
        data = data.astype(data.dtype.newbyteorder("="))
    return _Unit(
        kind=_text(header, "IMAGETYP", "image").lower(),
        band=_text(header, "BAND", "").lower(),
        bands=_text(header, "BANDS", "").lower(),
        brick=_text(header, "BRICK", "") or None,
        corner=corner,
        version=_text(header, "VERSION", "") or None,
        tan=_tan(header),
        data=data,
    )


def _text(header: fits.Header, key: str, default: str) -> str:
    return str(header.get(key, default)).strip()


def _tan(header: fits.Header) -> tuple[float, ...] | None:
    """CRVAL, CRPIX and CD of a tangent plane."""
    if not _text(header, "CTYPE1", "").startswith("RA---TAN"):
        return None
    names = ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD1_2", "CD2_1", "CD2_2")
    values = tuple(float(header[name]) for name in names)
    return values if np.all(np.isfinite(values)) else None


def _check_release(units: Sequence[_Unit], release: Release) -> None:
    """_Refused unless every VERSION, and there is one, names the release's number and half of the sky."""
    versions = {unit.version for unit in units if unit.version is not None}
    if not versions or not all(_is_release(version, release) for version in versions):
        raise _Refused("wrong_release")


def _is_release(version: str, release: Release) -> bool:
    found = _NUMBER_OF_A_HALF.fullmatch(version)
    if found is None or int(found[1]) != release.number:
        return False
    if found[2] is None:  # the first releases were of one half each and did not name it
        return release.number < _FIRST_WITH_REGIONS
    return found[2] == release.region


def _native_grid(tan: tuple[float, ...] | None) -> WCS:
    """The tangent plane of a native grid, north up; _Refused for any other grid."""
    if tan is None:
        raise _Refused("off_target")
    step = PIXEL_SCALE_ARCSEC / 3600.0
    if not np.allclose(tan[4:], (-step, 0.0, 0.0, step), rtol=0.0, atol=SCALE_TOLERANCE * step):
        raise _Refused("off_target")
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = tan[:2], tan[2:4]
    wcs.wcs.cd = np.reshape(tan[4:], (2, 2))
    with _parsing():
        wcs.wcs.set()
    return wcs


@dataclass(frozen=True, eq=False)
class _Piece:
    """What an answer holds of one brick: its planes, all on one grid, and where the target lies on it."""

    brick: str
    planes: Mapping[tuple[str, str], NDArray[Any]]
    wcs: WCS
    corner: tuple[int, int]
    brick_side: tuple[int, int]
    shape: tuple[int, int]
    x: float
    y: float

    def margin(self) -> float:
        """Distance of the target from the nearest border of the piece [pixel]; negative outside."""
        height, width = self.shape
        return min(self.x + 0.5, width - 0.5 - self.x, self.y + 0.5, height - 0.5 - self.y)

    def fault(self, size: int) -> str | None:
        """Why a stamp cannot be cut from it, or None."""
        if not self.margin() >= 0.0:
            return "off_target"
        spans = zip((self.y, self.x), self.shape, self.corner[::-1], self.brick_side[::-1], strict=True)
        codes = {_span_fault(position, size, *rest) for position, *rest in spans}
        return next((code for code in ("clipped", "brick_edge") if code in codes), None)

    def windows(self, size: int) -> tuple[slice, slice]:
        """Rows and columns of the stamp with the margin that every reader leaves it."""
        return _window(self.y, size, self.shape[0]), _window(self.x, size, self.shape[1])


def _first_pixel(position: float, size: int) -> int:
    """Where a stamp around a position begins, as `stamps.stamp.crop` has it."""
    return int(np.ceil(position - size / 2 - SAME_PIX))


def _window(position: float, size: int, length: int) -> slice:
    wanted = _first_pixel(position, size)
    return slice(max(wanted - MARGIN_PIX, 0), min(wanted + size + MARGIN_PIX, length))


def _span_fault(position: float, size: int, length: int, corner: int, brick_side: int) -> str | None:
    """Why a stamp does not fit along one axis: it sticks out over the brick's edge, or over another cut."""
    wanted = _first_pixel(position, size)
    if (wanted < 0 and corner > 0) or (wanted + size > length and corner + length < brick_side):
        return "clipped"
    moved = min(max(wanted, 0), length - size) - wanted
    return "brick_edge" if length < size or abs(moved) > MARGIN_PIX else None


def _pieces(service: CutoutService, target: Mapping[str, Any], body: bytes) -> list[_Piece]:
    """The bricks of a native answer, the target's own first, then by how far inside the target lies."""
    units = _read_units(body)
    _check_release(units, find_release(service.release))
    units = [unit for unit in units if unit.data is not None]
    if not units:
        raise _Refused("outside_footprint")
    if any(unit.brick is None or unit.corner is None or np.ndim(unit.data) != 2 for unit in units):
        raise _Refused("off_target")
    bricks = dict.fromkeys(str(unit.brick) for unit in units)
    pieces = [_piece(brick, [unit for unit in units if unit.brick == brick], target) for brick in bricks]
    own = target.get("brickname") or str(brick_of(target["ra_deg"], target["dec_deg"]).name[0])
    return sorted(pieces, key=lambda piece: (piece.brick != own, -piece.margin()))


def _piece(brick: str, units: Sequence[_Unit], target: Mapping[str, Any]) -> _Piece:
    first = units[0]
    planes = {(unit.kind, unit.band): np.asarray(unit.data) for unit in units}
    grids = {(unit.corner, unit.tan, np.shape(unit.data)) for unit in units}
    if len(grids) > 1 or len(planes) < len(units):
        raise _Refused("damaged_file")
    wcs = _native_grid(first.tan)
    corner, shape = first.corner or (0, 0), np.shape(first.data)
    # A brick's reference is its centre, so the answer says itself how large the brick is.
    sides = [2.0 * (crpix + start) - 1.0 for crpix, start in zip((first.tan or ())[2:4], corner, strict=True)]
    if any(
        abs(side - round(side)) > SCALE_TOLERANCE or start < 0 or start + length > round(side)
        for side, start, length in zip(sides, corner, shape[::-1], strict=True)
    ):
        raise _Refused("damaged_file")
    x, y = (float(v) for v in wcs.world_to_pixel_values(target["ra_deg"], target["dec_deg"]))
    return _Piece(brick, planes, wcs, corner, (round(sides[0]), round(sides[1])), (shape[0], shape[1]), x, y)


@dataclass(frozen=True, eq=False)
class _Native:
    """Native pixels around a target: planes by band, and mask bits where the answer brought them."""

    piece: _Piece
    windows: tuple[slice, slice]
    image: Mapping[str, Image]
    invvar: Mapping[str, Image]
    mask: NDArray[np.int32] | None


def _read_native(service: CutoutService, target: Mapping[str, Any], body: bytes) -> _Native:
    """The stamp's pixels with their margin, from the target's own brick where they fit in it."""
    pieces = _pieces(service, target, body)
    faults = [piece.fault(service.size) for piece in pieces]
    if None not in faults:
        raise _Refused(faults[0] or "")
    piece = pieces[faults.index(None)]
    planes = _planes_of(piece, service)
    windows = piece.windows(service.size)
    cut = {key: np.asarray(plane[windows], dtype=np.float32) for key, plane in planes.items()}
    image, invvar = ({band: cut[kind, band] for band in service.bands} for kind in ("image", "invvar"))
    _check_pixels(image, invvar)
    mask = next((plane for (kind, _), plane in piece.planes.items() if kind == "maskbits"), None)
    return _Native(piece, windows, image, invvar, None if mask is None else _as_bits(mask[windows]))


def _planes_of(piece: _Piece, service: CutoutService) -> dict[tuple[str, str], NDArray[Any]]:
    keys = [(kind, band) for band in service.bands for kind in ("image", "invvar")]
    if any(key not in piece.planes for key in keys):
        raise _Refused("missing_band")
    return {key: piece.planes[key] for key in keys}


def _check_pixels(image: Mapping[str, Image], invvar: Mapping[str, Image]) -> None:
    """_Refused for planes that are not numbers or hold nothing."""
    if not all(np.isfinite(plane).all() for planes in (image, invvar) for plane in planes.values()):
        raise _Refused("not_finite")
    blank = [not image[band].any() or not (invvar[band] > 0.0).any() for band in image]
    if all(blank):
        raise _Refused("outside_footprint")
    if any(blank):
        raise _Refused("missing_band")


def _as_bits(plane: NDArray[Any]) -> NDArray[np.int32]:
    """Mask bits as integers; _Refused for numbers that are none."""
    with np.errstate(invalid="ignore"):
        bits = plane.astype(np.int32)
    if not np.array_equal(bits, plane):
        raise _Refused("damaged_file")
    return bits


def _read_mask(
    service: CutoutService, target: Mapping[str, Any], body: bytes
) -> tuple[NDArray[np.int32], WCS]:
    """The mask bits of a resampled answer, and the grid they are on."""
    units = _read_units(body)
    _check_release(units, find_release(service.release))
    unit = next((u for u in units if u.kind == "maskbits" and np.ndim(u.data) == 2), None)
    if unit is None or unit.data is None:
        raise _Refused("missing_map")
    wcs = _native_grid(unit.tan)
    height, width = unit.data.shape
    x, y = (float(v) for v in wcs.world_to_pixel_values(target["ra_deg"], target["dec_deg"]))
    if not max(abs(x - 0.5 * (width - 1)), abs(y - 0.5 * (height - 1))) <= 1.0:
        raise _Refused("off_target")
    if min(height, width) < service.box:
        raise _Refused("clipped")
    return _as_bits(unit.data), wcs


def _onto(native: _Native, bits: NDArray[np.int32], wcs: WCS) -> NDArray[np.int32]:
    """Mask bits at the native pixels: each takes those of the nearest pixel of the other grid."""
    rows, columns = native.windows
    y, x = np.mgrid[rows, columns]
    column, row = wcs.world_to_pixel_values(*native.piece.wcs.pixel_to_world_values(x, y))
    column, row = np.rint(column).astype(np.intp), np.rint(row).astype(np.intp)
    inside = (row >= 0) & (row < bits.shape[0]) & (column >= 0) & (column < bits.shape[1])
    if not inside.all():
        raise _Refused("missing_map")
    return np.asarray(bits[row, column])


def _read_kernels(service: CutoutService, body: bytes) -> dict[str, Image]:
    """The PSF of each band (k, k), k odd and the same in all, each of sum one."""
    units = [unit for unit in _read_units(body) if unit.data is not None]
    found = {unit.band: np.asarray(unit.data, dtype=np.float64) for unit in units}
    if any(band not in found for band in service.bands):
        raise _Refused("missing_map")
    kernels = {band: found[band] for band in service.bands}
    for kernel in kernels.values():
        if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
            raise _Refused("missing_map")
        total = kernel.sum() if kernel.shape[0] <= _LARGEST_KERNEL else np.nan
        if not (np.isfinite(total) and np.isfinite(kernel).all() and total > 0.0):
            raise _Refused("missing_map")
    side = max(kernel.shape[0] for kernel in kernels.values())
    return {band: _padded(kernel / kernel.sum(), side) for band, kernel in kernels.items()}


def _padded(kernel: Image, side: int) -> Image:
    return np.pad(kernel, (side - kernel.shape[0]) // 2)


def _cutout(
    service: CutoutService, native: _Native, mask: NDArray[np.int32], kernels: Mapping[str, Image]
) -> Cutout:
    piece, (rows, columns) = native.piece, native.windows
    mask = mask.copy()
    for band, invvar in native.invvar.items():
        mask[invvar <= 0.0] |= MASK_BITS[f"ALLMASK_{band.upper()}"]
    return Cutout(
        image=np.stack([native.image[band] for band in BANDS]),
        invvar=np.stack([native.invvar[band] for band in BANDS]),
        mask=mask,
        psf=np.stack([kernels[band] for band in BANDS]),
        x_center_pix=piece.x - columns.start,
        y_center_pix=piece.y - rows.start,
        pixel_scale_arcsec=float(np.sqrt(abs(np.linalg.det(piece.wcs.pixel_scale_matrix)))) * 3600.0,
        row={"brickname": piece.brick, "release": service.release},
        extra={
            band: ExtraBand(native.image[band], native.invvar[band], kernels[band])
            for band in service.bands
            if band not in BANDS
        },
    )
