"""The bricks of the Legacy Surveys: rows of 0.25 deg in declination, an even number of equal bricks in each.

A row's bricks are as many as keep a brick no wider than 0.25 deg on the sky at the row's edge nearest to the
equator; each pole is one brick. Names follow from centres, ids count from 1, south to north and eastwards.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.survey.release import Numbers, brick_name

BRICK_SIDE_DEG = 0.25


@dataclass(frozen=True, eq=False)
class Bricks:
    """Bricks of some positions, all arrays of one length.

    name             e.g. 0591m305
    brickid          the Tractor's BRICKID
    ra_deg, dec_deg  centres: the reference positions of the coadds' WCS [deg]
    """

    name: NDArray[np.str_]
    brickid: NDArray[np.int32]
    ra_deg: Numbers
    dec_deg: Numbers


def brick_of(ra_deg: ArrayLike, dec_deg: ArrayLike) -> Bricks:
    """The brick in whose primary area each position [deg] lies. DataError for a position off the sphere."""
    ra, dec = (np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in (ra_deg, dec_deg))
    bad = ~(np.isfinite(ra) & (np.abs(dec) <= 90.0))
    if bad.any():
        k = int(np.argmax(bad))
        raise DataError(f"position {k}", f"is not on the sphere (ra {ra[k]}, dec {dec[k]})")
    columns, first = _rows()
    row = np.floor((dec + 90.0) / BRICK_SIDE_DEG + 0.5).astype(np.int64)
    column = np.minimum(np.floor((ra % 360.0) * columns[row] / 360.0).astype(np.int64), columns[row] - 1)
    return _bricks(row, column, columns, first)


def brick_area_deg2(dec_deg: ArrayLike) -> Numbers:
    """Primary area [deg^2] of the bricks whose centres have these declinations [deg]."""
    dec = np.atleast_1d(np.asarray(dec_deg, dtype=np.float64))
    columns, _ = _rows()
    row = np.round((dec + 90.0) / BRICK_SIDE_DEG).astype(np.int64)
    half = 0.5 * BRICK_SIDE_DEG
    south, north = (np.radians(np.clip(dec + side, -90.0, 90.0)) for side in (-half, half))
    return np.asarray(360.0 / columns[row] * np.degrees(np.sin(north) - np.sin(south)))


@cache
def _rows() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bricks in each row, and how many lie south of it."""
    dec = -90.0 + BRICK_SIDE_DEG * np.arange(round(180.0 / BRICK_SIDE_DEG) + 1)
    widest = np.cos(np.radians(np.abs(dec) - 0.5 * BRICK_SIDE_DEG))
    columns = (2 * np.ceil(0.5 * 360.0 / BRICK_SIDE_DEG * widest)).astype(np.int64)
    columns[[0, -1]] = 1
    return columns, np.concatenate([[0], np.cumsum(columns)])


def _bricks(
    row: NDArray[np.int64], column: NDArray[np.int64], columns: NDArray[np.int64], first: NDArray[np.int64]
) -> Bricks:
    ra = (column + 0.5) * 360.0 / columns[row]
    dec = np.asarray(-90.0 + BRICK_SIDE_DEG * row, dtype=np.float64)
    names = np.array([brick_name(a, d) for a, d in zip(ra, dec, strict=True)], dtype="U8")
    return Bricks(names, (first[row] + column + 1).astype(np.int32), ra, dec)
