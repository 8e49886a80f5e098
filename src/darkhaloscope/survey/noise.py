"""Noise of a coadd: white in electrons, correlated by the Lanczos resampling that made the coadd.

Two measures of the same noise, never to be mixed: `sigma_w` = 1 / sqrt(invvar), the white-equivalent noise
that the survey stores, and the rms of blank pixels, `PIXEL_RMS_RATIO` times smaller. Filtering white noise of
sigma_w with weights that sum to one keeps the power on large scales, which is what photometry feels.
"""

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.survey.profiles import LANCZOS_ORDER, lanczos

Pixels = NDArray[np.float64]

_HALF_WIDTH = 12  # the square root of the spectrum decays by a factor of three per pixel or faster
_PHASE_STEPS = 200


def resampling_weights(phase: float) -> Pixels:
    """The 2 x 3 weights of Lanczos-3 interpolation at sub-pixel phase in [0, 1), sum 1; pixels -2 to 3."""
    weight = lanczos(phase - np.arange(1 - LANCZOS_ORDER, LANCZOS_ORDER + 1))
    return np.asarray(weight / weight.sum())


@cache
def autocovariance() -> Pixels:
    """Autocovariance of resampled unit white noise along one axis, lags 0 to 5, averaged over the phase."""
    phases = (np.arange(_PHASE_STEPS) + 0.5) / _PHASE_STEPS
    total = np.zeros(2 * LANCZOS_ORDER)
    for phase in phases:
        weight = resampling_weights(float(phase))
        total += np.correlate(weight, weight, mode="full")[2 * LANCZOS_ORDER - 1 :]
    return np.asarray(total / _PHASE_STEPS)


def pixel_rms_ratio() -> float:
    """Rms of blank pixels over sigma_w: 0.893 for many exposures at random phases (0.798 in variance)."""
    return float(autocovariance()[0])


@cache
def coadd_taps() -> Pixels:
    """Symmetric filter of one axis whose output has the phase-averaged autocovariance; DC gain 1 to 0.1 %."""
    n = 256
    lags = autocovariance()
    frequency = 2.0 * np.pi * np.arange(n) / n
    power = lags[0] + 2.0 * sum(c * np.cos(j * frequency) for j, c in enumerate(lags) if j)
    taps = np.fft.fftshift(np.fft.ifft(np.sqrt(power)).real)
    kept = taps[n // 2 - _HALF_WIDTH : n // 2 + _HALF_WIDTH + 1]
    return np.asarray(kept / kept.sum())


@lru_cache(maxsize=16)
def _band_matrix(n: int, taps: tuple[float, ...]) -> Pixels:
    """(n, n + len(taps) - 1): row i holds the taps from column i on."""
    matrix = np.zeros((n, n + len(taps) - 1))
    for i in range(n):
        matrix[i, i : i + len(taps)] = taps
    return matrix


def correlate(field: ArrayLike, taps_y: Pixels, taps_x: Pixels) -> Pixels:
    """Filter a field with one set of taps per axis, without wrapping.

    field  (y, x), with len(taps) - 1 more rows and columns than the result

    Returns (y - len(taps_y) + 1, x - len(taps_x) + 1).
    """
    values = np.asarray(field, dtype=np.float64)
    rows = _band_matrix(values.shape[0] - len(taps_y) + 1, tuple(taps_y))
    columns = _band_matrix(values.shape[1] - len(taps_x) + 1, tuple(taps_x))
    return np.asarray(rows @ values @ columns.T)


def draw_phases(rng: np.random.Generator, n_exposures: int) -> list[tuple[float, float]]:
    """Sub-pixel phases (y, x) of each exposure, for coadds of too few for their average to hold."""
    return [(float(rng.random()), float(rng.random())) for _ in range(n_exposures)]


def correlated_noise(
    sigma_w: ArrayLike, rng: np.random.Generator, phases: Sequence[tuple[float, float]] = ()
) -> Pixels:
    """Noise of a coadd whose white-equivalent sigma may vary over the image.

    sigma_w  (y, x) [any unit]; beyond the edge the edge value goes on
    phases   sub-pixel phase (y, x) of each exposure; empty for the average over many exposures

    Returns (y, x), unit of sigma_w. The variance of a pixel is 0.798 sigma_w^2 (between 0.6 and 1 for given
    phases), that of a sum over many pixels sigma_w^2 per pixel.
    """
    sigma = np.asarray(sigma_w, dtype=np.float64)
    if not phases:
        return _filtered(sigma, rng, coadd_taps(), coadd_taps())
    spread = sigma * np.sqrt(len(phases))
    exposures = [_filtered(spread, rng, resampling_weights(y), resampling_weights(x)) for y, x in phases]
    return np.asarray(sum(exposures) / len(phases))


def _filtered(sigma: Pixels, rng: np.random.Generator, taps_y: Pixels, taps_x: Pixels) -> Pixels:
    before_y, before_x = (len(taps_y) - 1) // 2, (len(taps_x) - 1) // 2
    margin = ((before_y, len(taps_y) - 1 - before_y), (before_x, len(taps_x) - 1 - before_x))
    wide = np.pad(sigma, margin, mode="edge")
    return correlate(wide * rng.standard_normal(wide.shape), taps_y, taps_x)
