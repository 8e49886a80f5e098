"""Matching positions on the sphere, by a tree on unit vectors; never by rounding coordinates.

Positions are in degrees, separations in arcsec. A separation follows from the chord between unit vectors,
2 arcsin(chord / 2), which keeps full precision at any distance; the tree needs no care at the poles or where
right ascension begins again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from darkhaloscope.contracts.errors import DataError

Numbers = NDArray[np.float64]
Indices = NDArray[np.int64]

ARCSEC = np.pi / 648000.0
"""In radians."""
WIDE_ARCSEC = 600.0
"""How far off a whole table is looked for."""
_BIN_ARCSEC = 4.0
_FEWEST = 3


class SkyTree:
    """Positions [deg] that others are matched with."""

    def __init__(self, ra_deg: ArrayLike, dec_deg: ArrayLike) -> None:
        self._points = unit_vectors(ra_deg, dec_deg)
        self._tree = cKDTree(self._points) if len(self._points) else None

    def __len__(self) -> int:
        return len(self._points)

    def nearest(self, ra_deg: ArrayLike, dec_deg: ArrayLike) -> tuple[Indices, Numbers]:
        """Index of the nearest position and its separation [arcsec]; -1 and infinity in an empty tree."""
        points = unit_vectors(ra_deg, dec_deg)
        if self._tree is None:
            return np.full(len(points), -1, dtype=np.int64), np.full(len(points), np.inf)
        chord, index = self._tree.query(points)
        return np.asarray(index, dtype=np.int64), _separation(chord)

    def pairs_within(
        self, ra_deg: ArrayLike, dec_deg: ArrayLike, radius_arcsec: float
    ) -> tuple[Indices, Indices]:
        """(i, j): every position i that is asked for with every j of the tree within the radius."""
        points = unit_vectors(ra_deg, dec_deg)
        if self._tree is None:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        lists = self._tree.query_ball_point(points, _chord(radius_arcsec), return_sorted=True)
        counts = [len(found) for found in lists]
        first = np.repeat(np.arange(len(points)), counts)
        second = np.fromiter((j for found in lists for j in found), dtype=np.int64, count=sum(counts))
        return first.astype(np.int64), second

    def near(self, ra_deg: ArrayLike, dec_deg: ArrayLike, radius_arcsec: float) -> NDArray[np.bool_]:
        """Whether any position of the tree lies within the radius."""
        return np.asarray(self.nearest(ra_deg, dec_deg)[1] <= radius_arcsec)


def unit_vectors(ra_deg: ArrayLike, dec_deg: ArrayLike) -> Numbers:
    """(n, 3) points on the unit sphere; DataError naming the first position that is none."""
    ra, dec = (np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in (ra_deg, dec_deg))
    bad = ~(np.isfinite(ra) & (np.abs(dec) <= 90.0))
    if bad.any():
        k = int(np.argmax(bad))
        raise DataError(f"position {k}", f"is not on the sphere (ra {ra[k]}, dec {dec[k]})")
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)


def groups_within(ra_deg: ArrayLike, dec_deg: ArrayLike, radius_arcsec: float) -> Indices:
    """Number of the group of each position: friends of friends within the radius."""
    tree = SkyTree(ra_deg, dec_deg)
    first, second = tree.pairs_within(ra_deg, dec_deg, radius_arcsec)
    links = coo_array((np.ones(first.size, dtype=np.int8), (first, second)), shape=(len(tree), len(tree)))
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)


@dataclass(frozen=True)
class Agreement:
    """How a table's positions lie to a reference: matches within the radius, and their median offset."""

    n: int
    matched: int
    offset_arcsec: tuple[float, float]


def check_positions(
    ra_deg: ArrayLike,
    dec_deg: ArrayLike,
    reference: SkyTree,
    *,
    where: str,
    radius_arcsec: float = 2.0,
) -> Agreement:
    """Refuse a table that lies beside its reference as a whole; return how well it agrees.

    Raises DataError with the median offset where more rows agree on one shift (up to 10 arcmin) than lie at
    their place, or naming the unit where the positions fit as hours or radians. A table that simply has few
    counterparts passes: that is for the caller to judge.
    """
    ra, dec = (np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in (ra_deg, dec_deg))
    row, east, north = _offsets(ra, dec, reference)
    near = np.hypot(east, north) <= radius_arcsec
    at_home = np.unique(row[near]).size
    shift = _common_shift(east, north)
    if shift is not None:
        dx, dy, count = shift
        if np.hypot(dx, dy) > radius_arcsec and count > at_home:
            problem = (
                f"lies beside its reference: {count} of {len(ra)} positions are off by the same "
                f'median {dx:+.1f}" east and {dy:+.1f}" north ({np.hypot(dx, dy) / 60.0:.2f}\'), '
                f'{at_home} lie within {radius_arcsec:g}"'
            )
            raise DataError(where, problem, "correct the positions at their source")
    if at_home < max(_FEWEST, len(ra) // 20):
        _refuse_other_units(ra, dec, reference, where, radius_arcsec)
    median = (float(np.median(east[near])), float(np.median(north[near]))) if near.any() else (0.0, 0.0)
    return Agreement(len(ra), at_home, median)


def _offsets(ra: Numbers, dec: Numbers, reference: SkyTree) -> tuple[Indices, Numbers, Numbers]:
    """Row, east and north of every pair within the wide radius [arcsec], in the plane at the reference."""
    first, second = reference.pairs_within(ra, dec, WIDE_ARCSEC)
    mine, theirs = unit_vectors(ra, dec)[first], reference._points[second]  # noqa: SLF001 - the tree's own module
    theirs_dec = np.arcsin(np.clip(theirs[:, 2], -1.0, 1.0))
    theirs_ra = np.arctan2(theirs[:, 1], theirs[:, 0])
    east_axis = np.stack([-np.sin(theirs_ra), np.cos(theirs_ra), np.zeros_like(theirs_ra)], axis=1)
    north_axis = np.stack(
        [
            -np.sin(theirs_dec) * np.cos(theirs_ra),
            -np.sin(theirs_dec) * np.sin(theirs_ra),
            np.cos(theirs_dec),
        ],
        axis=1,
    )
    difference = mine - theirs
    return (
        first,
        np.einsum("ij,ij->i", difference, east_axis) / ARCSEC,
        np.einsum("ij,ij->i", difference, north_axis) / ARCSEC,
    )


def _common_shift(east: Numbers, north: Numbers) -> tuple[float, float, int] | None:
    """The shift that most pairs share, and how many: chance pairs spread, true ones pile up in a bin."""
    if east.size < _FEWEST:
        return None
    best: tuple[float, float, int] | None = None
    for half in (0.0, 0.5):  # a pile on the edge of four bins stands in the middle of one shifted by half
        bins = np.stack([np.floor(v / _BIN_ARCSEC + half) for v in (east, north)], axis=1)
        _, inverse, counts = np.unique(bins, axis=0, return_inverse=True, return_counts=True)
        inside = inverse.ravel() == int(np.argmax(counts))
        dx, dy = float(np.median(east[inside])), float(np.median(north[inside]))
        close = np.hypot(east - dx, north - dy) <= _BIN_ARCSEC
        found = float(np.median(east[close])), float(np.median(north[close])), int(close.sum())
        if best is None or found[2] > best[2]:
            best = found
    return best if best is not None and best[2] >= _FEWEST else None


def _refuse_other_units(
    ra: Numbers, dec: Numbers, reference: SkyTree, where: str, radius_arcsec: float
) -> None:
    readings: dict[str, Callable[[], tuple[Numbers, Numbers]]] = {
        "hours of right ascension": lambda: (15.0 * ra, dec),
        "radians": lambda: (np.degrees(ra), np.degrees(dec)),
        "declination first": lambda: (dec, ra),
    }
    for words, reading in readings.items():
        a, d = reading()
        if np.all(np.abs(d) <= 90.0) and np.all((a >= -180.0) & (a <= 360.0)):
            hits = int(np.sum(reference.near(a, d, radius_arcsec)))
            if hits >= max(_FEWEST, len(ra) // 10):
                problem = f"fits its reference only when read as {words} ({hits} of {len(ra)} positions)"
                raise DataError(where, problem, "give right ascension and declination in degrees")


def _separation(chord: ArrayLike) -> Numbers:
    return np.asarray(2.0 * np.arcsin(np.clip(0.5 * np.asarray(chord), 0.0, 1.0)) / ARCSEC)


def _chord(radius_arcsec: float) -> float:
    return float(2.0 * np.sin(0.5 * radius_arcsec * ARCSEC))
