"""Many blobs at once: a column of stamps as one array, without a step for each row but its checksums.

A row whose bytes fit the frame of its size (`stamps.frames`) holds its pixels where the frame says; every
other row (foreign archives, other sizes, damage) goes through `decode_planes`, which reads or refuses it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from darkhaloscope.contracts.errors import StampError
from darkhaloscope.stamps.frames import frame
from darkhaloscope.stamps.stamp import decode_planes, decode_stamp
from darkhaloscope.survey.release import BANDS

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Block:
    """Planes of many rows, and what is wrong with those that have none.

    planes     (n, band, y, x) float32; NaN in the rows named below
    unreadable why a blob is no stamp, by row
    resized    rows whose planes have another size
    thin       images that lack a band, or hold a constant one
    """

    planes: NDArray[np.float32]
    unreadable: dict[int, str]
    resized: frozenset[int]
    thin: frozenset[int]


class Blobs:
    """A column of blobs that hold the planes ``prefix_g, prefix_r, prefix_z``, decoded some rows at a time.

    blobs   binary column, e.g. ``ctrl_stamp_npz`` of a shard
    shape   (y, x) of the planes
    where   what an error message calls each row
    """

    def __init__(
        self, blobs: pa.ChunkedArray | pa.Array, prefix: str, shape: tuple[int, int], *, where: Sequence[str]
    ) -> None:
        self.prefix, self.shape, self.where = prefix, shape, where
        self._column = _one_chunk(blobs)
        self._frame = frame(prefix, shape)
        self._data, self._offsets = _bytes_of(self._column)
        self._view = memoryview(self._data.data)
        self._framed, self._checksums = self._framed_rows()

    def __len__(self) -> int:
        return len(self._column)

    def block(self, rows: NDArray[np.intp] | None = None, out: NDArray[np.float32] | None = None) -> Block:
        """The planes of some rows (all by default), every checksum verified.

        out   where to put the planes, (at least n, band, y, x); without it they get memory of their own

        A constant band of an image is not looked for where the frame fits: the caller sees the pixels.
        """
        rows = np.arange(len(self)) if rows is None else rows
        shape = (len(rows), len(BANDS), *self.shape)
        planes = np.empty(shape, dtype=np.float32) if out is None else out[: len(rows)]
        rest = [k for k, row in enumerate(rows.tolist()) if not self._copied(row, planes[k])]
        unreadable: dict[int, str] = {}
        resized, thin = set(), set()
        for k in rest:
            planes[k] = np.nan
            try:
                found, bands = self._one(int(rows[k]))
            except StampError as error:
                unreadable[k] = error.problem
                continue
            if bands < len(BANDS):
                thin.add(k)
            elif found.shape[1:] != self.shape:
                resized.add(k)
            else:
                planes[k] = found
        return Block(planes, unreadable, frozenset(resized), frozenset(thin))

    def _framed_rows(self) -> tuple[list[bool], list[list[int]]]:
        """Whether the bytes of each row outside planes and checksums are the frame's; and its checksums."""
        template = np.frombuffer(self._frame.template, np.uint8)
        framed: NDArray[np.bool_] = np.diff(self._offsets) == len(template)
        rows = np.flatnonzero(framed)
        if len(rows) == len(framed):
            blobs = self._data[self._offsets[0] : self._offsets[-1]].reshape(-1, len(template))
        else:
            parts = [self._data[at : at + len(template)] for at in self._offsets[rows]]
            blobs = np.stack(parts) if parts else np.empty((0, len(template)), np.uint8)
        for part in self._frame.fixed:
            framed[rows] &= (blobs[:, part] == template[part]).all(axis=1)
        told = np.zeros((len(framed), len(BANDS)), dtype="<u4")
        for band, (local, listed) in enumerate(self._frame.checksums):
            framed[rows] &= (blobs[:, local : local + 4] == blobs[:, listed : listed + 4]).all(axis=1)
            told[rows, band] = np.ascontiguousarray(blobs[:, local : local + 4]).view("<u4")[:, 0]
        return framed.tolist(), told.tolist()

    def _copied(self, row: int, planes: NDArray[np.float32]) -> bool:
        """Copy a framed row's pixels into `planes`; False if it has no frame or a checksum does not match."""
        if not self._framed[row]:
            return False
        start = int(self._offsets[row])
        blob = self._view[start : start + len(self._frame.template)]
        return self._frame.copy(blob, self._checksums[row], planes)

    def _one(self, row: int) -> tuple[NDArray[np.float32], int]:
        """The planes of one blob by the general reader, and how many bands it has."""
        blob, where = self._column[row].as_py(), self.where[row]
        if self.prefix != "image":
            return decode_planes(blob, self.prefix, where=where), len(BANDS)
        found, bandset = decode_stamp(blob, where=where, allow_missing=True)
        return found, len(bandset)


def _one_chunk(blobs: pa.ChunkedArray | pa.Array) -> pa.BinaryArray:
    """The column as one array; copied only where it comes in pieces."""
    if not isinstance(blobs, pa.ChunkedArray):
        return blobs
    return blobs.chunk(0) if blobs.num_chunks == 1 else blobs.combine_chunks()


def _bytes_of(column: pa.BinaryArray) -> tuple[Bytes, NDArray[np.int64]]:
    """All bytes of a binary column, and the n + 1 offsets of its rows in them. No copy."""
    _, offsets, data = column.buffers()
    kind: Any = np.int64 if pa.types.is_large_binary(column.type) else np.int32
    if offsets is None or data is None:
        return np.empty(0, np.uint8), np.zeros(len(column) + 1, np.int64)
    all_offsets = np.frombuffer(offsets, dtype=kind)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(data, dtype=np.uint8), all_offsets
