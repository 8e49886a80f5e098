"""A column of blobs gives what the general reader gives row by row, and names what it cannot read."""

import io
import itertools

import numpy as np
import pyarrow as pa
import pytest

from darkhaloscope.stamps.blocks import Blobs
from darkhaloscope.stamps.stamp import decode_planes, encode_planes

SHAPE = (16, 16)
RNG = np.random.default_rng(3)
CUBES = RNG.normal(size=(9, 3, *SHAPE)).astype("f4")


def blobs(column, prefix="image"):
    return Blobs(column, prefix, SHAPE, where=[f"row {k}" for k in range(len(column))])


def foreign(cube, **missing):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{f"image_{b}": p for b, p in zip("grz", cube, strict=True)} | missing)
    return buffer.getvalue()


def flipped(blob, at):
    return blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]


@pytest.mark.parametrize("pieces", [[9], [4, 5], [1, 7, 1]])
def test_rows_come_out_as_they_went_in_however_the_column_is_cut(pieces):
    whole = [encode_planes("image", cube) for cube in CUBES]
    ends = np.cumsum([0, *pieces])
    column = pa.chunked_array([whole[a:b] for a, b in itertools.pairwise(ends)])
    block = blobs(column).block()
    assert np.array_equal(block.planes, CUBES)
    assert (block.unreadable, block.resized, block.thin) == ({}, frozenset(), frozenset())
    part = blobs(column.slice(2, 5)).block(np.array([4, 0]))
    assert np.array_equal(part.planes, CUBES[[6, 2]])


def test_memory_handed_in_is_used_and_all_of_it_is_written():
    column = pa.array([encode_planes("image", cube) for cube in CUBES])
    desk = np.full((12, 3, *SHAPE), 7, "f4")
    block = blobs(column).block(np.arange(4), desk)
    assert np.shares_memory(block.planes, desk)
    assert np.array_equal(desk[:4], CUBES[:4])


def test_every_kind_of_odd_row_is_told_apart_and_the_others_are_read():
    good = encode_planes("image", CUBES[0])
    flat = CUBES[1].copy()
    flat[1] = 0.0
    rows = {
        0: good,
        1: None,
        2: b"",
        3: good[:-9],
        4: flipped(good, len(good) // 2),  # a pixel: its checksum tells
        5: encode_planes("image", RNG.normal(size=(3, 15, 15)).astype("f4")),
        6: foreign(CUBES[2]),
        7: foreign(flat),
        8: encode_planes("invvar", CUBES[3]),
        9: flipped(good, 3),
    }
    block = blobs(pa.array(list(rows.values()), pa.binary())).block()
    assert set(block.unreadable) == {1, 2, 3, 4, 8, 9}
    assert (block.resized, block.thin) == (frozenset({5}), frozenset({7}))
    assert np.array_equal(block.planes[0], CUBES[0])
    assert np.array_equal(block.planes[6], CUBES[2])
    assert all(np.isnan(block.planes[k]).all() for k in (1, 2, 3, 4, 5, 7, 8, 9))


def test_no_byte_of_a_blob_can_change_unnoticed():
    """Either the row is refused, or it is read as the general reader reads it."""
    blob = encode_planes("arc", CUBES[0])
    changed = [flipped(blob, at) for at in range(0, len(blob), 11)]
    block = blobs(pa.array(changed), "arc").block()
    read = [k for k in range(len(changed)) if k not in block.unreadable]
    assert len(block.unreadable) > 0.9 * len(changed)
    for k in read:
        assert np.array_equal(block.planes[k], CUBES[0])
        assert np.array_equal(decode_planes(changed[k], "arc", where="t"), CUBES[0])


def test_an_empty_column_gives_no_rows():
    assert blobs(pa.array([], pa.binary())).block().planes.shape == (0, 3, *SHAPE)
    nothing = blobs(pa.array([None, None], pa.binary())).block()
    assert set(nothing.unreadable) == {0, 1}
