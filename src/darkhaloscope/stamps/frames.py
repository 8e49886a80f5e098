"""What stands around the pixels of a stored stamp: the same bytes for every stamp of a size.

`write_npz` puts headers before each plane and a directory behind them all. Only the checksums in them depend
on the pixels. A blob whose other bytes are those of its frame holds its planes where the frame says, and
nothing need be parsed; any other blob is left to the general reader.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from darkhaloscope.contracts.random import stream
from darkhaloscope.stamps.npz import write_npz
from darkhaloscope.survey.release import BANDS

_LEAST_SIDE, _LARGEST_SIDE = 4, 512


@dataclass(frozen=True, eq=False)
class Frame:
    """The bytes around the planes ``prefix_g, prefix_r, prefix_z`` of one size.

    template   a whole blob
    shape      (y, x) of a plane
    planes     where the pixels of each plane begin
    headers    where the checked bytes of each plane begin: its NPY header, then its pixels
    checksums  where its checksum stands: in the local header, and in the directory
    fixed      the bytes that are the same for every blob
    """

    template: bytes
    shape: tuple[int, int]
    planes: tuple[int, ...]
    headers: tuple[int, ...]
    checksums: tuple[tuple[int, int], ...]
    fixed: tuple[slice, ...]

    @property
    def plane_bytes(self) -> int:
        """Bytes of one plane's pixels."""
        return 4 * self.shape[0] * self.shape[1]

    @functools.cached_property
    def _fixed_bytes(self) -> tuple[tuple[int, int, bytes], ...]:
        return tuple((part.start, part.stop, self.template[part]) for part in self.fixed)

    @functools.cached_property
    def parts(self) -> tuple[tuple[int, int, int, int, int, int], ...]:
        """For each plane: checked bytes from, pixels from, to; where they go, from, to."""
        size = self.plane_bytes
        places = zip(self.headers, self.planes, strict=True)
        return tuple((h, p, p + size, k * size, (k + 1) * size, k) for k, (h, p) in enumerate(places))

    def fits(self, view: memoryview) -> bool:
        """Whether the bytes outside pixels and checksums are the frame's, and both checksums agree."""
        if len(view) != len(self.template):
            return False
        same = all(view[start:stop] == part for start, stop, part in self._fixed_bytes)
        return same and all(view[a : a + 4] == view[b : b + 4] for a, b in self.checksums)

    def told(self, view: memoryview) -> tuple[int, ...]:
        """The checksums that a blob states."""
        return tuple(int.from_bytes(view[at : at + 4], "little") for at, _ in self.checksums)

    def copy(self, view: memoryview, told: tuple[int, ...] | list[int], out: NDArray[np.float32]) -> bool:
        """Copy the pixels of a blob that fits into `out` (band, y, x); False if a checksum does not match."""
        target = memoryview(out.reshape(-1).view(np.uint8).data)
        for checked, start, end, to, to_end, band in self.parts:
            if isal_zlib.crc32(view[checked:end]) != told[band]:
                return False
            target[to:to_end] = view[start:end]
        return True


@functools.lru_cache(maxsize=64)
def frame(prefix: str, shape: tuple[int, int]) -> Frame:
    """Found by looking, so that only `write_npz` knows the format: marked planes are written and sought."""
    rng = stream(1, "stamps/frame", prefix)
    marks = [rng.integers(0, 256, (*shape, 4), dtype=np.uint8).view("<f4")[..., 0] for _ in BANDS]
    blob = write_npz({f"{prefix}_{band}": mark for band, mark in zip(BANDS, marks, strict=True)})
    planes = tuple(blob.index(mark.tobytes()) for mark in marks)
    size = marks[0].nbytes
    headers = tuple(blob.rindex(np.lib.format.MAGIC_PREFIX, 0, plane) for plane in planes)
    checked = (blob[h : p + size] for h, p in zip(headers, planes, strict=True))
    sums = [isal_zlib.crc32(part).to_bytes(4, "little") for part in checked]
    places = tuple((blob.index(s), blob.rindex(s)) for s in sums)
    holes = sorted([(p, p + size) for p in planes] + [(at, at + 4) for pair in places for at in pair])
    edges = [0, *(edge for hole in holes for edge in hole), len(blob)]
    fixed = tuple(slice(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a)
    return Frame(blob, shape, planes, headers, places, fixed)


@functools.lru_cache(maxsize=256)
def frame_of_length(prefix: str, length: int) -> Frame | None:
    """The frame of square planes whose blobs are that long; None where there is none."""
    around = len(frame(prefix, (_LEAST_SIDE, _LEAST_SIDE)).template) - len(BANDS) * 4 * _LEAST_SIDE**2
    side = math.isqrt(max(length - around, 0) // (4 * len(BANDS)))
    if not _LEAST_SIDE <= side <= _LARGEST_SIDE:
        return None
    found = frame(prefix, (side, side))
    return found if len(found.template) == length else None
