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

_ROUND_PIX = 1.5
_MODES = 2  # azimuthal: the ellipticity of a galaxy is m = 2
_AROUND_PIX = 8.0  # beyond the core, where the noise is read off as a function of brightness
_RANGE = (0.01, 5.0)  # of the core's noise over the sky's, in normalised pixels
_LEAST_GRAIN = 1e-6
_PAD_PIX = 8  # mirrored on each side before a stamp is moved


def matched_core(seen: Planes, x_center: float, y_center: float, *, radius_pix: float) -> Planes:
    """A normalised stamp (band, y, x) whose core continues what lies around it, with noise of its own.

    The light in the ring that begins at `radius_pix` is fitted with a slope, rounded at the middle as the PSF
    rounds it, and with harmonic terms up to m = 2, c (r/R)^m cos m phi; both are continued inward. The noise
    is that of the quietest corner, its texture the survey's. A normalisation makes noise depend on brightness
    (asinh: less of it where it is bright), so its strength is read off around the core, as a function of the
    level, and continued too.
    """
    radius = radius_map(seen.shape, x_center, y_center)
    core, rim = radius < radius_pix, (radius >= radius_pix) & (radius < radius_pix + RIM_PIX)
    terms = _terms(seen.shape, radius, x_center, y_center, radius_pix)
    fit, *_ = np.linalg.lstsq(terms[rim], seen[:, rim].T.astype(np.float64), rcond=None)
    light = (terms[core] @ fit).T
    noise, corner = _quietest_corner(seen, core)
    around = (radius >= radius_pix + 1) & (
        radius < radius_pix + _AROUND_PIX
    )  # none with a neighbour in the core
    out = seen.copy()
    out[:, core] = light + np.exp(_log_noise(seen, around, corner, light)) * noise
    return out


def _log_noise(
    seen: Planes, around: NDArray[np.bool_], corner: NDArray[np.bool_], light: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Log of how much stronger the noise is at the core's levels than in a corner, (band, core pixel)."""
    level = _neighbours(seen)
    grain = np.log(np.abs(seen - level) + _LEAST_GRAIN)
    out = np.empty_like(light)
    for band in range(len(seen)):
        x, y = level[band, around].astype(np.float64), grain[band, around]
        slope = np.cov(x, y)[0, 1] / max(float(x.var(ddof=1)), _LEAST_GRAIN)
        strength = y.mean() + slope * (light[band] - x.mean()) - grain[band, corner].mean()
        out[band] = np.clip(strength, *np.log(_RANGE))
    return out


def _terms(
    shape: tuple[int, ...], radius: NDArray[np.float64], xc: float, yc: float, radius_pix: float
) -> NDArray[np.float64]:
    """Of the fit, (y, x, term)."""
    rows, columns = np.mgrid[: shape[-2], : shape[-1]]
    phi, share = np.arctan2(rows - yc, columns - xc), radius / radius_pix
    waves = [wave(m * phi) * share**m for m in range(1, _MODES + 1) for wave in (np.cos, np.sin)]
    rounded = np.hypot(radius, _ROUND_PIX) - np.hypot(radius_pix, _ROUND_PIX)  # the PSF leaves no cusp
    return np.stack([np.ones_like(radius), rounded, *waves], axis=-1)


def _neighbours(seen: Planes) -> Planes:
    """Mean of each pixel's four neighbours; at the border the pixel stands for those it lacks."""
    wide = np.pad(seen, [(0, 0), (1, 1), (1, 1)], mode="edge")
    return np.asarray((wide[:, :-2, 1:-1] + wide[:, 2:, 1:-1] + wide[:, 1:-1, :-2] + wide[:, 1:-1, 2:]) / 4)


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
