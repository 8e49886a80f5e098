"""What may be done to the two members of a pair alike: a core that is gone without an edge, a move, noise.

Arrays are (band, y, x) of one stamp, or (n, band, y, x) where a function says so. Nothing here draws: what is
random comes in as a number or as an array, keyed by the caller.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.stamps.measure import OUTER_RADIUS_PIX, annulus_mask, median_and_spread, radius_map

Planes = NDArray[np.floating[Any]]

RIM_PIX = 3.0
"""Width of the ring beyond the core that the fill continues."""

_MODES = 2  # azimuthal: the ellipticity of a galaxy is m = 2
_LEAST, _MOST = 0.2, 5.0  # of the core's noise over the sky's, in normalised pixels
_PAD_PIX = 8  # mirrored on each side before a stamp is moved


def matched_core(seen: Planes, x_center: float, y_center: float, *, radius_pix: float) -> Planes:
    """A normalised stamp (band, y, x) whose core continues what lies around it, with noise of its own.

    The light in the ring that begins at `radius_pix` is fitted with a slope and with harmonic terms up to
    m = 2, c (r/R)^m cos m phi, which are continued inward. The noise is that of the quietest corner, its
    texture the survey's, scaled to what scatters between neighbours in the ring.
    """
    radius = radius_map(seen.shape, x_center, y_center)
    core, rim = radius < radius_pix, (radius >= radius_pix) & (radius < radius_pix + RIM_PIX)
    terms = _terms(seen.shape, radius, x_center, y_center, radius_pix)
    fit, *_ = np.linalg.lstsq(terms[rim], seen[:, rim].T.astype(np.float64), rcond=None)
    noise, corner = _quietest_corner(seen, core)
    grain = np.abs(_grain(seen))
    quiet = np.maximum(np.median(grain[:, corner], axis=1), np.finfo(np.float32).tiny)
    scale = np.clip(np.median(grain[:, rim], axis=1) / quiet, _LEAST, _MOST)
    out = seen.copy()
    out[:, core] = (terms[core] @ fit).T + scale[:, None] * noise
    return out


def _terms(
    shape: tuple[int, ...], radius: NDArray[np.float64], xc: float, yc: float, radius_pix: float
) -> NDArray[np.float64]:
    """Of the fit, (y, x, term)."""
    rows, columns = np.mgrid[: shape[-2], : shape[-1]]
    phi, share = np.arctan2(rows - yc, columns - xc), radius / radius_pix
    waves = [wave(m * phi) * share**m for m in range(1, _MODES + 1) for wave in (np.cos, np.sin)]
    return np.stack([np.ones_like(radius), radius - radius_pix, *waves], axis=-1)


def _grain(seen: Planes) -> Planes:
    """Each pixel less the mean of its four neighbours (those across the border: the pixel itself)."""
    wide = np.pad(seen, [(0, 0), (1, 1), (1, 1)], mode="edge")
    around = wide[:, :-2, 1:-1] + wide[:, 2:, 1:-1] + wide[:, 1:-1, :-2] + wide[:, 1:-1, 2:]
    return seen - around / 4


def _quietest_corner(seen: Planes, core: NDArray[np.bool_]) -> tuple[Planes, NDArray[np.bool_]]:
    """Pixels of the corner that scatters least, laid out as the core is, less their median; and which."""
    ys, xs = np.flatnonzero(core.any(axis=1)), np.flatnonzero(core.any(axis=0))
    inside = core[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    height, width = inside.shape
    corners = []
    for rows in (slice(height), slice(-height, None)):
        for columns in (slice(width), slice(-width, None)):
            values = seen[:, rows, columns][:, inside]
            corners.append((values - np.median(values, axis=1, keepdims=True), rows, columns))
    quiet, rows, columns = min(corners, key=lambda corner: float(corner[0].std(axis=1).sum()))
    where = np.zeros_like(core)
    where[rows, columns] = inside
    return quiet, where


def moved(stamps: Planes, dx_pix: float, dy_pix: float) -> Planes:
    """Stamps (n, band, y, x) moved by a part of a pixel: phases turn, so noise keeps its power."""
    pad = [(0, 0)] * (stamps.ndim - 2) + [(_PAD_PIX, _PAD_PIX)] * 2
    wide = np.pad(stamps, pad, mode="symmetric")
    height, width = wide.shape[-2:]
    turn = np.exp(-2j * np.pi * (np.fft.fftfreq(height)[:, None] * dy_pix + np.fft.rfftfreq(width) * dx_pix))
    out = np.fft.irfft2(np.fft.rfft2(wide) * turn, s=(height, width))
    return np.asarray(out[..., _PAD_PIX:-_PAD_PIX, _PAD_PIX:-_PAD_PIX], dtype=stamps.dtype)


def band_noise(control: Planes, x_center: float, y_center: float) -> Planes:
    """Scatter of each band's background in one stamp, (band, 1, 1) [nmgy]."""
    half = min(control.shape[-2:]) / 2
    mask = annulus_mask(control.shape, OUTER_RADIUS_PIX, half, x_center, y_center)
    return median_and_spread(control, mask)[1]
