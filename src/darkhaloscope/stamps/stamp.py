"""The stamp, and the NPZ bytes it is stored as.

Conventions: bands are always g, r, z, in this order; arrays are (band, y, x); pixel positions are 0-based
with integer pixel centres. Fluxes are nanomaggies, inverse variances 1/nanomaggies².

A blob is an NPZ archive (`stamps.npz`). We read what the contract allows: stored, deflated or gzip-wrapped,
per-band keys ``image_g, image_r, image_z``, or the legacy key ``img``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Float32, Int32
from numpy.typing import NDArray

from darkhaloscope.contracts.errors import StampError
from darkhaloscope.stamps.frames import frame_of_length
from darkhaloscope.stamps.npz import Blob, read_npz, shown, write_npz
from darkhaloscope.survey.release import BANDS, SAME_PIX

STAMP_SIZE = 64

StampArray = Float32[np.ndarray, "band y x"]
Mask = Int32[np.ndarray, "y x"]

_LEGACY_KEY = "img"
_MASK_KEY = "maskbits"
_CROP_SLACK_PIX = 2
_PSF_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Stamp:
    """Pixels in three bands around one target, with everything needed to add light to them.

    image                flux [nmgy], float32 (band, y, x)
    invvar               white-equivalent inverse variance [1/nmgy²], host photons included, shaped like image
    mask                 mask bits, int32 (y, x)
    psf                  effective PSF per band (pixel response included), float32 (band, k, k), k odd, sum 1
    x_center_pix, y_center_pix   the target [pix]
    pixel_scale_arcsec   [arcsec/pix]
    where                what an error message calls this stamp

    Raises StampError where the parts do not fit together.
    """

    image: StampArray
    invvar: StampArray
    mask: Mask
    psf: StampArray
    x_center_pix: float
    y_center_pix: float
    pixel_scale_arcsec: float
    where: str = field(default="stamp", repr=False)

    def __post_init__(self) -> None:
        shape = self.image.shape
        if self.image.ndim != 3 or shape[0] != len(BANDS):
            raise StampError(self.where, f"an image must be (3, y, x), not {shape}")
        if self.invvar.shape != shape or self.mask.shape != shape[1:]:
            raise StampError(
                self.where, f"image {shape}, invvar {self.invvar.shape} and mask {self.mask.shape} do not fit"
            )
        kernel = self.psf.shape
        if self.psf.ndim != 3 or kernel[0] != len(BANDS) or kernel[1] != kernel[2] or kernel[1] % 2 == 0:
            raise StampError(self.where, f"a PSF must be (3, k, k) with k odd, not {kernel}")
        sums = self.psf.sum(axis=(1, 2), dtype=np.float64)
        if not np.all(np.abs(sums - 1.0) < _PSF_SUM_TOLERANCE):
            raise StampError(self.where, f"PSF kernels must sum to 1, not {sums.round(4).tolist()}")
        inside = 0 <= self.x_center_pix <= shape[2] - 1 and 0 <= self.y_center_pix <= shape[1] - 1
        if not inside or not self.pixel_scale_arcsec > 0:
            raise StampError(self.where, "the target must lie on the stamp and the pixel scale be positive")

    @classmethod
    def from_row(cls, row: Mapping[str, Any], *, where: str) -> Self:
        """The stamp in one row of STAMPS; StampError naming `where` if a blob is not what it should be."""
        return cls(
            image=decode_planes(row["stamp_npz"], where=where),
            invvar=decode_planes(row["invvar_npz"], "invvar", where=where),
            mask=decode_mask(row["mask_npz"], where=where),
            psf=decode_planes(row["psf_npz"], "psf", where=where),
            x_center_pix=float(row["x_center_pix"]),
            y_center_pix=float(row["y_center_pix"]),
            pixel_scale_arcsec=float(row["pixel_scale_arcsec"]),
            where=where,
        )

    def to_row(self) -> dict[str, Any]:
        """The columns of STAMPS that hold pixels and their geometry."""
        return {
            "stamp_npz": encode_planes("image", self.image),
            "invvar_npz": encode_planes("invvar", self.invvar),
            "mask_npz": encode_mask(self.mask),
            "psf_npz": encode_planes("psf", self.psf),
            "x_center_pix": self.x_center_pix,
            "y_center_pix": self.y_center_pix,
            "pixel_scale_arcsec": self.pixel_scale_arcsec,
        }


def crop(
    cube: NDArray[Any], size: int, x: float, y: float, *, where: str = "cutout"
) -> tuple[NDArray[Any], float, float]:
    """Cut a square out of the last two axes, without resampling.

    cube   (..., y, x)
    size   pixels on a side
    x, y   position of the target in `cube` [pix], any fraction of a pixel

    Returns (a copy (..., size, size), x and y of the target in it). The target ends within half a pixel of
    the middle (size - 1)/2; of an even size, a target on a pixel centre ends on size // 2. A box that would
    stick out by up to two pixels is moved inside; farther is a StampError.
    """
    starts = [
        _crop_start(position, size, length, where)
        for position, length in ((x, cube.shape[-1]), (y, cube.shape[-2]))
    ]
    x0, y0 = starts
    cut = cube[..., y0 : y0 + size, x0 : x0 + size].copy()
    return cut, float(x - x0), float(y - y0)


def _crop_start(position: float, size: int, length: int, where: str) -> int:
    if length < size:
        raise StampError(where, f"is {length} pixels wide, smaller than the {size} to be cut out")
    if not np.isfinite(position):
        raise StampError(where, "the position of the target is not a number")
    wanted = int(np.ceil(position - size / 2 - SAME_PIX))
    start = min(max(wanted, 0), length - size)
    if abs(start - wanted) > _CROP_SLACK_PIX:
        raise StampError(where, f"a box of {size} pixels around {position:.1f} leaves the {length} pixels")
    return start


def encode_planes(prefix: str, cube: Float[np.ndarray, "band y x"]) -> bytes:
    """A stored NPZ of the planes ``prefix_g, prefix_r, prefix_z``, float32. StampError if there are not 3."""
    if cube.ndim != 3 or cube.shape[0] != len(BANDS) or cube.dtype.kind != "f":
        raise StampError(f"{prefix} to be stored", f"must be floats (3, y, x), not {cube.dtype} {cube.shape}")
    planes = cube.astype("<f4")
    return write_npz({f"{prefix}_{band}": plane for band, plane in zip(BANDS, planes, strict=True)})


def with_planes(blob: Blob, planes: Mapping[str, NDArray[Any]]) -> bytes:
    """A blob with further planes beside its own, float32, under names such as ``image_i``."""
    held = read_npz(blob, where="stamp to be stored")
    return write_npz(held | {name: np.asarray(plane, dtype="<f4") for name, plane in planes.items()})


def encode_mask(mask: NDArray[np.integer[Any]]) -> bytes:
    """A stored NPZ of one plane ``maskbits``, int32 (y, x)."""
    if mask.ndim != 2 or mask.dtype.kind not in "iu":
        raise StampError("mask to be stored", f"must be integers (y, x), not {mask.dtype} {mask.shape}")
    return write_npz({_MASK_KEY: mask.astype("<i4")})


def decode_planes(
    blob: Blob | None, prefix: str = "image", *, where: str, require_finite: bool = False
) -> StampArray:
    """The planes ``prefix_g, prefix_r, prefix_z`` of a blob, as float32 (band, y, x).

    where            what an error message calls the blob, e.g. ``"part-00003.parquet row 17"``
    require_finite   refuse NaN and infinity, which are otherwise passed on

    All three bands must be there; a constant plane of an *image* counts as absent (a zero-filled band is how
    missing data hide). Raises StampError.
    """
    cube = _framed(blob, prefix)
    if cube is None:
        cube, bandset = _planes(read_npz(blob, where=where), prefix, where)
        if len(bandset) < len(BANDS):
            raise StampError(where, f"has no usable band {', '.join(_absent(bandset))} of '{prefix}'")
    return _finite(cube, prefix, where) if require_finite else cube


def decode_stamp(
    blob: Blob | None, *, where: str, allow_missing: bool = False, require_finite: bool = False
) -> tuple[StampArray, str]:
    """The image of a stamp and the bands it really has, e.g. ``"grz"`` or ``"r"``.

    allow_missing    return a stamp with absent or constant bands; these are NaN in the array, which no later
                     step can take for sky, and not named in the bandset
    require_finite   refuse NaN and infinity in the bands that are there

    Raises StampError naming `where`.
    """
    cube, bandset = _planes(read_npz(blob, where=where), "image", where)
    if not bandset or (len(bandset) < len(BANDS) and not allow_missing):
        raise StampError(where, f"has no usable band {', '.join(_absent(bandset))}")
    if require_finite:
        _finite(cube[[BANDS.index(band) for band in bandset]], "image", where)
    return cube, bandset


def decode_mask(blob: Blob | None, *, where: str) -> Mask:
    """The mask bits of a blob, as int32 (y, x). Raises StampError."""
    arrays = read_npz(blob, where=where)
    plane = arrays.get(_MASK_KEY)
    if plane is None or plane.ndim != 2 or plane.dtype.kind not in "iub":
        raise StampError(where, f"holds no integers (y, x) named '{_MASK_KEY}' ({_inventory(arrays)})")
    bits = plane.astype(np.int32)
    if not np.array_equal(bits, plane):
        raise StampError(where, f"'{_MASK_KEY}' holds numbers that do not fit into 32 bits")
    return bits


def _framed(blob: Blob | None, prefix: str) -> StampArray | None:
    """The planes of a blob as `encode_planes` writes it; None for any other, and where a band is constant."""
    if blob is None:
        return None
    view = memoryview(blob).cast("B")
    frame = frame_of_length(prefix, len(view))
    if frame is None or not frame.fits(view):
        return None
    cube = np.empty((len(BANDS), *frame.shape), dtype=np.float32)
    if not frame.copy(view, frame.told(view), cube):
        return None
    return None if prefix == "image" and any(map(_is_constant, cube)) else cube


def _planes(arrays: Mapping[str, NDArray[Any]], prefix: str, where: str) -> tuple[StampArray, str]:
    """The cube (absent planes NaN) and the bands that are there."""
    names = [f"{prefix}_{band}" for band in BANDS]
    found = [arrays.get(name) for name in names]
    is_image = prefix == "image"
    if is_image and _LEGACY_KEY in arrays and all(plane is None for plane in found):
        found = _legacy_planes(arrays[_LEGACY_KEY], where)
    layouts = {(plane.shape, plane.dtype.kind) for plane in found if plane is not None}
    if not layouts:
        raise StampError(where, f"holds none of {', '.join(names)} ({_inventory(arrays)})")
    shape, kind = layouts.pop()
    if layouts or len(shape) != 2 or kind != "f":
        raise StampError(where, f"must hold '{prefix}' as floats (y, x) of one size ({_inventory(arrays)})")
    cube = np.empty((len(BANDS), *shape), dtype=np.float32)
    bandset = ""
    for k, plane in enumerate(found):
        if plane is None or (is_image and _is_constant(plane)):
            cube[k] = np.nan
            continue
        _to_float32(plane, cube[k], names[k], where)
        bandset += BANDS[k]
    return cube, bandset


def _to_float32(plane: NDArray[Any], target: NDArray[np.float32], name: str, where: str) -> None:
    if plane.dtype.itemsize <= target.itemsize:
        target[:] = plane
        return
    with np.errstate(over="ignore"):
        target[:] = plane
    if np.isinf(target).sum() > np.isinf(plane).sum():
        raise StampError(where, f"'{name}' holds numbers too large for float32")


def _legacy_planes(array: NDArray[Any], where: str) -> list[NDArray[Any] | None]:
    """The key of old files: (3, y, x), or (y, x) in r alone."""
    if array.ndim == 2:
        return [array if band == "r" else None for band in BANDS]
    if array.ndim == 3 and array.shape[0] == len(BANDS):
        return list(array)
    raise StampError(where, f"'{_LEGACY_KEY}' must be (3, y, x) or (y, x), not {array.shape}")


def _is_constant(plane: NDArray[Any]) -> bool:
    first = plane.item(0)  # a float of Python: comparing two of numpy's takes as long as copying the plane
    if plane.item(plane.shape[1] - 1) != first and isfinite(first):
        return False  # nearly every real plane is told by its first row's ends
    return bool(np.isnan(plane).all() or (plane == first).all())


def _absent(bandset: str) -> list[str]:
    return [band for band in BANDS if band not in bandset]


def _inventory(arrays: Mapping[str, NDArray[Any]]) -> str:
    held = ", ".join(f"{shown(name)} {array.dtype} {array.shape}" for name, array in arrays.items())
    return f"it holds {held or 'nothing'}"


def _finite(cube: StampArray, prefix: str, where: str) -> StampArray:
    bad = cube.size - int(np.count_nonzero(np.isfinite(cube)))
    if bad:
        raise StampError(where, f"'{prefix}' has {bad} pixels that are NaN or infinite")
    return cube
