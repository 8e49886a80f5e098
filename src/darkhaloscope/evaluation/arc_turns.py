"""How far an arc stands out: the light of its region among the same region turned.

The null of `arc_light.measure_arcs` is blank sky far out. This one is made where the arc is: a turned region
has the arc's shape and radius, so that it holds what is left of the deflector there, and neighbours.
It needs a region that does not meet itself when it is turned, and light whose place is known: simulated
arcs. A region that is a whole annulus stays itself however it is turned: it has no such null, and is told by
blank annuli.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from darkhaloscope.contracts.random import stream
from darkhaloscope.evaluation.arc_light import deflector_model, null_of, sums_over
from darkhaloscope.evaluation.representations import PerRow, Pixels
from darkhaloscope.survey.release import BANDS

TURNS = 200
"""Random angles of each row."""

MOST_SHARED = 0.25
"""Share of its pixels that a turned region may have in common with the arc's."""

LEAST_TURNS = 20
"""Angles without the arc, below which a region counts as a ring."""

REGION_SHARE = 0.8
"""Of an arc's r light: what its region holds."""


@dataclass(frozen=True, eq=False)
class Turned:
    """What each arc's light is among that of the turned regions.

    snr          of the three bands together, signed: pure noise gives 0 +- 1; NaN for rings
    snr_bands    (row, band)
    turns        angles at which the region met the arc in no more than MOST_SHARED of its pixels
    """

    snr: PerRow
    snr_bands: Float[np.ndarray, "row band"]
    turns: NDArray[np.intp]


def bright_region(arcs: Pixels, share: float = REGION_SHARE) -> Bool[np.ndarray, "row y x"]:
    """The fewest pixels that hold a share of each noiseless arc's light in r; none where it has no light."""
    light = np.maximum(arcs[:, BANDS.index("r")].astype(np.float64), 0.0)
    flat = light.reshape(len(light), -1)
    order = np.argsort(-flat, axis=1, kind="stable")
    ranked = np.take_along_axis(flat, order, axis=1)
    before = np.cumsum(ranked, axis=1) - ranked
    inside = (before < share * flat.sum(axis=1, keepdims=True)) & (ranked > 0)
    region = np.zeros(flat.shape, bool)
    np.put_along_axis(region, order, inside, axis=1)
    return region.reshape(light.shape)


def snr_among_turns(
    stamps: Pixels,
    invvar: Pixels,
    x_center: PerRow,
    y_center: PerRow,
    region: Bool[np.ndarray, "row y x"],
    *,
    seed: int,
    keys: NDArray[np.str_],
) -> Turned:
    """The S/N of each region's light by the null of random angles.

    invvar     1/sigma_w² [1/nmgy²]; pixels with invvar <= 0 are left out
    keys       of the rows: each has random angles of its own

    A ring of the radius of most arcs has room for a few regions only: 200 angles of one row are no 200
    numbers. So the null is that of all rows: median and 1.4826 MAD, per band, of the turned sums over their
    sigma_w, as in blank annuli. Residuals are signed: of noise, max(residual, 0) is light everywhere.
    """
    residual = stamps - deflector_model(stamps, invvar, x_center, y_center)
    _, own = sums_over(residual, invvar, region[:, None] & (invvar > 0.0))
    turns, null = np.zeros(len(stamps), np.intp), [np.empty((0, len(BANDS)))]
    for i, key in enumerate(keys):
        angles = stream(seed, "evaluation/arc_turns", str(key)).uniform(0.0, 2.0 * np.pi, TURNS)
        turned = _turned(region[i], float(x_center[i]), float(y_center[i]), angles)
        clear = turned[(turned & region[i]).sum(axis=(1, 2)) <= MOST_SHARED * region[i].sum()]
        if len(clear) < LEAST_TURNS or not region[i].any():
            continue
        turns[i] = len(clear)
        null.append(_sums_at(residual[i], invvar[i], clear))
    centre, scale = null_of(np.concatenate(null))
    bands = np.where(turns[:, None] > 0, (own - centre) / scale, np.nan)
    return Turned(bands.sum(axis=1) / np.sqrt(bands.shape[1]), bands, turns)


def _turned(
    region: Bool[np.ndarray, "y x"], x: float, y: float, angles: NDArray[np.float64]
) -> Bool[np.ndarray, "angle y x"]:
    """A region turned about (x, y): each pixel asks the nearest one that it came from."""
    dx, dy = np.arange(region.shape[1]) - x, np.arange(region.shape[0])[:, None] - y
    cos, sin = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    column = np.rint(cos * dx + sin * dy + x).astype(np.intp)
    row = np.rint(cos * dy - sin * dx + y).astype(np.intp)
    on = (column >= 0) & (column < region.shape[1]) & (row >= 0) & (row < region.shape[0])
    return np.asarray(on & region[np.where(on, row, 0), np.where(on, column, 0)])


def _sums_at(
    residual: Float[np.ndarray, "band y x"],
    invvar: Float[np.ndarray, "band y x"],
    regions: Bool[np.ndarray, "region y x"],
) -> Float[np.ndarray, "region band"]:
    """Flux over the noise of independent pixels in many regions of one stamp."""
    used = invvar > 0.0
    variance = np.divide(1.0, invvar, out=np.zeros(invvar.shape), where=used)
    weights = regions.reshape(len(regions), -1).astype(np.float64)
    flux, noise = (weights @ v.reshape(len(v), -1).T for v in (residual * used, variance))
    return np.asarray(np.divide(flux, np.sqrt(noise), out=np.full(flux.shape, np.nan), where=noise > 0))
