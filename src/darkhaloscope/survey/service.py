"""The sky viewer's cutout service: what is asked of it for a target, and what an answer is worth.

A target takes two or three questions: native pixels with their inverse variance (`subimage`), the coadd PSF,
and, where the native answer brings no mask bits, the mask bits of a resampled cutout, which are flags and are
carried over to the nearest native pixel. Fluxes are never taken from a resampled answer.

Nothing here touches the network (`survey.fetch` does): an answer is bytes, and a pure function of them is
either pixels or a reject code.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from pydantic import field_validator

from darkhaloscope.contracts.config import Frozen, tagged
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.survey.cutouts import Cutout, ExtraBand, check_kernel
from darkhaloscope.survey.fits_images import NotFits, Truncated, Unit, image_units
from darkhaloscope.survey.release import BANDS, MASK_BITS, PIXEL_SCALE_ARCSEC, RELEASES, SAME_PIX, Release

PUBLIC_URL = "https://www.legacysurvey.org/viewer"
MARGIN_PIX = 4
"""Asked for beyond the stamp on each side, so that a stamp can be centred in what comes."""
SLACK_PIX = 2
"""How far a stamp may be moved to lie inside, as `stamps.crop` does."""
SCALE_TOLERANCE = 1.0e-3
_LARGEST_PIXEL = 1.0e6
"""No pixel of a brick's frame has a larger number."""
OK = "ok"
TRANSIENT = ("truncated", "not_fits", "damaged_file", "service_failed")
"""Verdicts that another day may change: they are asked for again by the next run."""

Kind = Literal["native", "psf", "mask"]


class CutoutService(Frozen):
    """A cutout service and how it is asked. Where it is and how fast does not change what is meant."""

    unfingerprinted: ClassVar[frozenset[str]] = frozenset(
        {"url", "connections", "rate_per_s", "attempts", "timeout_s"}
    )

    release: str
    size: int = tagged(64, "K", "side of the stamps", "pix", ge=32)
    bands: Literal["grz", "griz"] = "grz"
    url: str = PUBLIC_URL
    connections: int = tagged(4, "A", "a shared public service", ge=1, le=64)
    rate_per_s: float = tagged(5.0, "A", "a shared public service", "1/s", gt=0.0)
    attempts: int = tagged(5, "A", "then a target is given up until the next run", ge=1)
    timeout_s: float = tagged(60.0, "A", "a cutout of several bricks takes seconds", "s", gt=0.0)

    @field_validator("release")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in RELEASES:
            message = f"release '{name}' is unknown; known: {', '.join(RELEASES)}"
            raise ValueError(message)
        return name

    @property
    def side(self) -> int:
        """Side of the cutouts asked for [pixel]."""
        return self.size + 2 * MARGIN_PIX


@dataclass(frozen=True)
class Question:
    """One request: path below the service's address, and parameters."""

    kind: Kind
    path: str
    params: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        """Names the answer in a cache, whichever server gives it."""
        return hashlib.sha256(json.dumps([self.path, sorted(self.params)]).encode()).hexdigest()


def question(service: CutoutService, target: Mapping[str, Any], kind: Kind) -> Question:
    """What is asked for a target (ra_deg, dec_deg)."""
    params = {
        "ra": f"{target['ra_deg']:.8f}",
        "dec": f"{target['dec_deg']:.8f}",
        "layer": RELEASES[service.release].layer,
        "bands": service.bands,
    }
    if kind == "psf":
        return Question(kind, "coadd-psf/", tuple(params.items()))
    params |= {"pixscale": f"{PIXEL_SCALE_ARCSEC}", "width": f"{service.side}", "height": f"{service.side}"}
    params |= {"invvar": "", "maskbits": ""} | ({"subimage": ""} if kind == "native" else {})
    return Question(kind, "fits-cutout", tuple(params.items()))


class Cache:
    """Answers on disk by the hash of their question: a body, and a record with its checksum and verdict.

    The record is written last and whole; a body without one was never acknowledged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def record_path(self, asked: Question) -> Path:
        """Where the record is."""
        return self.folder / asked.key[:2] / f"{asked.key}.json"

    def body_path(self, asked: Question) -> Path:
        """Where the body is."""
        return self.folder / asked.key[:2] / f"{asked.key}.fits"

    def verdict(self, asked: Question) -> str | None:
        """What became of a question; None where it was never answered, or its body has changed since."""
        try:
            record = json.loads(self.record_path(asked).read_bytes())
            verdict = str(record["verdict"])
            if (
                verdict == OK
                and hashlib.sha256(self.body_path(asked).read_bytes()).hexdigest() != record["sha256"]
            ):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return verdict

    def body(self, asked: Question) -> bytes:
        """The bytes of an answer whose verdict is ok."""
        return self.body_path(asked).read_bytes()


class _Refused(Exception):
    """Carries a reject code out of the reading of an answer."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def judge(service: CutoutService, target: Mapping[str, Any], kind: Kind, body: bytes) -> str:
    """The verdict on an answer of status 200: ok, or a reject code."""
    try:
        if kind == "native":
            _native(service, target, body)
        elif kind == "psf":
            _psf(service, body)
        else:
            _mask_plane(body)
    except _Refused as refused:
        return refused.code
    return OK


def brings_mask(body: bytes) -> bool:
    """Whether a native answer already holds mask bits."""
    return any(_kind_of(header) == "maskbits" for header, _ in _units(body))


def read_answers(service: CutoutService, target: Mapping[str, Any], cache: Path) -> Cutout | str:
    """Pixels of a target from the answers in a cache, or the reject code that says why there are none.

    A Cutout's row holds brickname, release; its PSF is the coadd's own. Raises DataError where the target was
    never asked for.
    """
    kept = Cache(cache)
    try:
        native = _native(service, target, _ok_body(kept, question(service, target, "native")))
        psf = _psf(service, _ok_body(kept, question(service, target, "psf")))
        mask = native.mask
        if mask is None:
            answer = _ok_body(kept, question(service, target, "mask"))
            mask = _nearest(_mask_plane(answer), native)
    except _Refused as refused:
        return refused.code
    invvar = native.planes["invvar"]
    for band in BANDS:
        mask[invvar[band] <= 0.0] |= MASK_BITS[f"ALLMASK_{band.upper()}"]
    return Cutout(
        image=np.stack([native.planes["image"][band] for band in BANDS]).astype(np.float32),
        invvar=np.stack([invvar[band] for band in BANDS]).astype(np.float32),
        mask=mask,
        psf=np.stack([psf[band] for band in BANDS]),
        x_center_pix=native.x,
        y_center_pix=native.y,
        pixel_scale_arcsec=PIXEL_SCALE_ARCSEC,
        row={"brickname": native.brick, "release": service.release},
        extra={
            band: ExtraBand(native.planes["image"][band], invvar[band], psf[band])
            for band in service.bands
            if band not in BANDS
        },
    )


def _ok_body(kept: Cache, asked: Question) -> bytes:
    verdict = kept.verdict(asked)
    if verdict is None:
        raise DataError(
            str(kept.folder), f"holds no answer to {asked.path} {dict(asked.params)}", "fetch it first"
        )
    if verdict != OK:
        raise _Refused(verdict)
    return kept.body(asked)


@dataclass(frozen=True, eq=False)
class _Native:
    """Native pixels of one brick around a target."""

    brick: str
    x: float
    y: float
    planes: Mapping[str, Mapping[str, NDArray[Any]]]
    mask: NDArray[np.int32] | None
    wcs: WCS


def _units(body: bytes) -> list[Unit]:
    try:
        return image_units(body, "answer")
    except NotFits:
        raise _Refused("not_fits") from None
    except Truncated:
        raise _Refused("truncated") from None
    except DataError:
        raise _Refused("damaged_file") from None


def _kind_of(header: fits.Header) -> str:
    return str(header.get("IMAGETYP", "image")).strip().lower()


def _native(service: CutoutService, target: Mapping[str, Any], body: bytes) -> _Native:
    units = _units(body)
    if not units:
        raise _Refused("outside_footprint")
    for header, _ in units:
        _refuse_other_release(header, RELEASES[service.release])
    if any("BRICK" not in header or pixels.ndim != 2 for header, pixels in units):
        raise _Refused("not_native")
    by_brick: dict[str, list[Unit]] = {}
    for header, pixels in units:
        by_brick.setdefault(str(header["BRICK"]).strip(), []).append((header, pixels))
    answers = [_native_or_code(service, target, brick, group) for brick, group in by_brick.items()]
    found = [answer for answer in answers if isinstance(answer, _Native)]
    if not found:
        codes = [answer for answer in answers if isinstance(answer, str)]
        raise _Refused(min(codes, key=_NEAREST_TO_A_STAMP.index))
    own = [native for native in found if native.brick == target.get("brickname")]
    return min(own or found, key=_eccentricity)


def _native_or_code(
    service: CutoutService, target: Mapping[str, Any], brick: str, units: list[Unit]
) -> "_Native | str":
    try:
        return _one_brick(service, target, brick, units)
    except _Refused as refused:
        return refused.code


_NEAREST_TO_A_STAMP = (
    "clipped",
    "not_finite",
    "missing_band",
    "truncated",
    "brick_edge",
    "not_native",
    "damaged_file",
    "outside_footprint",
    "off_target",
)
"""Of several bricks none of which gives a stamp, the code that says most is given."""


def _eccentricity(native: _Native) -> float:
    height, width = native.planes["image"]["r"].shape
    return float(max(abs(native.x - 0.5 * (width - 1)), abs(native.y - 0.5 * (height - 1))))


def _one_brick(service: CutoutService, target: Mapping[str, Any], brick: str, units: list[Unit]) -> _Native:
    planes: dict[str, dict[str, NDArray[Any]]] = {"image": {}, "invvar": {}}
    mask = None
    for header, pixels in units:
        if _kind_of(header) == "maskbits":
            mask = _as_bits(pixels)
        elif _kind_of(header) in planes:
            planes[_kind_of(header)][str(header.get("BAND", "")).strip().lower()] = pixels
    if planes["image"].keys() - planes["invvar"].keys():
        raise _Refused("truncated")
    if any(band not in planes["image"] for band in service.bands):
        raise _Refused("missing_band")
    shapes = {plane.shape for kind in planes.values() for plane in kind.values()}
    if len(shapes) > 1 or (mask is not None and mask.shape not in shapes):
        raise _Refused("damaged_file")
    wcs = _native_wcs(units[0][0])
    _refuse_clipped(units[0][0], units[0][1].shape, service)
    x, y = _place(wcs, target, shapes.pop(), service)
    _refuse_blank(planes, service.bands)
    return _Native(brick, x, y, planes, mask, wcs)


def _native_wcs(header: fits.Header) -> WCS:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wcs = WCS(header, naxis=2)
        matrix = wcs.pixel_scale_matrix * 3600.0 / PIXEL_SCALE_ARCSEC
    except Exception as error:  # wcslib raises many types on a broken header
        raise _Refused("damaged_file") from error
    if not np.allclose(matrix, [[-1.0, 0.0], [0.0, 1.0]], atol=SCALE_TOLERANCE):
        raise _Refused("not_native")
    return wcs


def _place(
    wcs: WCS, target: Mapping[str, Any], shape: tuple[int, ...], service: CutoutService
) -> tuple[float, float]:
    """The target's pixel; refused where a stamp around it leaves the image."""
    x, y = (float(v) for v in wcs.world_to_pixel_values(target["ra_deg"], target["dec_deg"]))
    if not (np.isfinite(x) and np.isfinite(y)):
        raise _Refused("off_target")
    for position, length in ((x, shape[1]), (y, shape[0])):
        wanted = int(np.ceil(position - service.size / 2 - SAME_PIX))
        start = min(max(wanted, 0), length - service.size)
        if not 0 <= position <= length - 1:
            raise _Refused("off_target")
        if length < service.size or abs(start - wanted) > SLACK_PIX:
            raise _Refused("brick_edge")
    return x, y


def _refuse_clipped(header: fits.Header, shape: tuple[int, ...], service: CutoutService) -> None:
    """Smaller than asked for although the brick goes on: the service cut it without a word."""
    for axis, length in ((1, shape[1]), (2, shape[0])):
        start = round(_number(header, f"BRICK_{'XY'[axis - 1]}0"))
        # A brick's reference pixel is its middle, so the cutout tells how large the brick is.
        brick = round(2.0 * (_number(header, f"CRPIX{axis}") + start) - 1.0)
        if length < service.side - 1 and start > 0 and start + length < brick:
            raise _Refused("clipped")


def _number(header: fits.Header, key: str) -> float:
    try:
        value = float(header.get(key, 0.0))
    except (TypeError, ValueError):
        value = np.nan
    if not abs(value) < _LARGEST_PIXEL:
        raise _Refused("damaged_file")
    return value


def _refuse_blank(planes: Mapping[str, Mapping[str, NDArray[Any]]], bands: str) -> None:
    for band in bands:
        if not (np.isfinite(planes["image"][band]).all() and np.isfinite(planes["invvar"][band]).all()):
            raise _Refused("not_finite")
    blank = [not planes["image"][band].any() for band in bands]
    if all(blank):
        raise _Refused("outside_footprint")
    if any(blank):
        raise _Refused("missing_band")


def _refuse_other_release(header: fits.Header, release: Release) -> None:
    """VERSION reads like DR9-south; a version that does not say is taken at its word."""
    said = re.search(
        r"DR\s*(\d+)(?:\.\d+)?(?:[\s_-]*(north|south))?", str(header.get("VERSION", "")), re.IGNORECASE
    )
    if said is None:
        return
    if int(said[1]) != release.number or (said[2] or release.region).lower() != release.region:
        raise _Refused("wrong_release")


def _psf(service: CutoutService, body: bytes) -> dict[str, NDArray[Any]]:
    """Kernels by band: square, odd, each summing to one."""
    planes: dict[str, NDArray[Any]] = {}
    for header, pixels in _units(body):
        bands = str(header.get("BANDS" if pixels.ndim == 3 else "BAND", "")).strip().lower()
        planes |= dict(zip(bands, pixels if pixels.ndim == 3 else pixels[None], strict=False))
    if any(band not in planes for band in service.bands):
        raise _Refused("missing_map")
    try:
        return {band: check_kernel(planes[band], f"coadd PSF {band}") for band in service.bands}
    except DataError:
        raise _Refused("missing_map") from None


def _mask_plane(body: bytes) -> tuple[NDArray[np.int32], WCS]:
    for header, pixels in _units(body):
        if _kind_of(header) == "maskbits" and pixels.ndim == 2:
            try:
                return _as_bits(pixels), WCS(header, naxis=2)
            except _Refused:
                raise
            except Exception as error:  # wcslib raises many types on a broken header
                raise _Refused("damaged_file") from error
    raise _Refused("missing_map")


def _as_bits(pixels: NDArray[Any]) -> NDArray[np.int32]:
    bits = np.asarray(pixels)
    if bits.dtype.kind not in "iu" and not np.array_equal(bits, np.trunc(bits)):
        raise _Refused("damaged_file")
    return bits.astype(np.int32)


def _nearest(plane: tuple[NDArray[np.int32], WCS], native: _Native) -> NDArray[np.int32]:
    """Mask bits at the nearest pixel of another grid; pixels beyond it bear none."""
    bits, wcs = plane
    shape = native.planes["image"]["r"].shape
    rows, columns = np.indices(shape)
    ra, dec = native.wcs.pixel_to_world_values(columns, rows)
    x, y = (np.rint(v) for v in wcs.world_to_pixel_values(ra, dec))
    inside = (x >= 0) & (x < bits.shape[1]) & (y >= 0) & (y < bits.shape[0])
    found = np.zeros(shape, dtype=np.int32)
    found[inside] = bits[y[inside].astype(int), x[inside].astype(int)]
    return found
