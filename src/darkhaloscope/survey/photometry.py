"""What can be measured on a real cutout without a model: centre, shape, fluxes, noise.

Images are (band, y, x) in nmgy; positions 0-based with integer pixel centres; angles in radians, x to y.
Nothing is corrected for the PSF: shapes are as measured, rounder than the galaxy.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from darkhaloscope.survey.noise import pixel_rms_ratio
from darkhaloscope.survey.release import BANDS, gain_from_noise, nominal_gain, sky_nmgy

Image = NDArray[np.floating[Any]]
Numbers = NDArray[np.float64]

MAD_TO_STD = 1.4826
"""The standard deviation of a normal distribution in units of its median absolute deviation."""

CENTRE_SEARCH_PIX = 4.0
"""The target is taken to be the brightest thing this near to the middle."""

APERTURE_ARCSEC = 4.0
"""Radius of the aperture whose flux stands for the total."""

_START_SIGMA_PIX = 2.5
_ROUNDS = 60
_CONVERGED = 1.0e-5
_SOURCE_RADIUS_ARCSEC = 7.0
_FEWEST_BLANK = 200


@dataclass(frozen=True)
class Moments:
    """Adaptive moments: centre [pixel], axis ratio and major axis [rad] of the matched Gaussian."""

    x: float
    y: float
    q: float
    phi: float


def detection_image(image: Image) -> Numbers:
    """Light in r and z together: the deflector's own, in which blue arcs weigh least."""
    return np.asarray(image[1], dtype=np.float64) + np.asarray(image[2], dtype=np.float64)


def find_centre(image: Image) -> tuple[float, float]:
    """(x, y) of the central galaxy: adaptive centroid in r + z.

    It starts at the brightest smoothed pixel near the middle (n - 1) / 2. Where the centroid leaves the
    search radius or does not settle, the middle is returned.
    """
    light = detection_image(image)
    middle_y, middle_x = 0.5 * (light.shape[0] - 1), 0.5 * (light.shape[1] - 1)
    rows, columns = np.indices(light.shape)
    near = np.hypot(rows - middle_y, columns - middle_x) <= CENTRE_SEARCH_PIX
    smooth = np.where(near, ndimage.gaussian_filter(light, 1.0), -np.inf)
    start_y, start_x = np.unravel_index(int(np.argmax(smooth)), light.shape)
    found = adaptive_moments(light, float(start_x), float(start_y))
    if found is None or np.hypot(found.x - middle_x, found.y - middle_y) > CENTRE_SEARCH_PIX:
        return middle_x, middle_y
    return found.x, found.y


def adaptive_moments(light: Numbers, x: float, y: float, *, fixed_centre: bool = False) -> Moments | None:
    """Moments weighted by the Gaussian that they themselves describe (Bernstein & Jarvis 2002, 3.1).

    light         (y, x), background near zero
    x, y          starting centre [pixel]
    fixed_centre  measure the shape about (x, y)

    Returns None where the iteration runs away: no significant light, or an object that does not end.
    """
    rows, columns = np.indices(light.shape, dtype=np.float64)
    cxx, cyy, cxy = _START_SIGMA_PIX**2, _START_SIGMA_PIX**2, 0.0
    widest = (0.25 * min(light.shape)) ** 2
    for _ in range(_ROUNDS):
        dx, dy = columns - x, rows - y
        determinant = cxx * cyy - cxy**2
        exponent = (cyy * dx**2 - 2.0 * cxy * dx * dy + cxx * dy**2) / determinant
        weighted = light * np.exp(-0.5 * np.minimum(exponent, 100.0))
        total = weighted.sum()
        if total <= 0.0:
            return None
        # Twice: the product of a Gaussian with itself has half its variance.
        new = [2.0 * float((weighted * m).sum() / total) for m in (dx * dx, dy * dy, dx * dy, dx, dy)]
        change = max(abs(new[0] - cxx), abs(new[1] - cyy), abs(new[2] - cxy)) / (cxx + cyy)
        cxx, cyy, cxy = new[:3]
        # Light below zero can make both variances negative, whose product is not; then the weight overflows.
        if not (cxx > 0.0 and cyy > 0.0 and cxx * cyy - cxy**2 > 0.05 and max(cxx, cyy) <= widest):
            return None
        if not fixed_centre:
            x, y = x + new[3], y + new[4]
            change = max(change, 0.1 * float(np.hypot(new[3], new[4])))
        if change < _CONVERGED:
            break
    mean, spread = 0.5 * (cxx + cyy), float(np.hypot(0.5 * (cxx - cyy), cxy))
    q = float(np.sqrt((mean - spread) / (mean + spread)))
    return Moments(x=x, y=y, q=q, phi=float(0.5 * np.arctan2(2.0 * cxy, cxx - cyy) % np.pi))


def aperture_fluxes(image: Image, x: float, y: float, pixel_scale: float) -> Numbers:
    """Flux per band [nmgy] inside the aperture, whatever lies in it; pixels count by their centres."""
    rows, columns = np.indices(image.shape[1:])
    inside = np.hypot(rows - y, columns - x) * pixel_scale <= APERTURE_ARCSEC
    return np.asarray(image[:, inside].sum(axis=1), dtype=np.float64)


def blank_pixels(image: Image, x: float, y: float, pixel_scale: float) -> NDArray[np.bool_]:
    """Pixels away from sources, (y, x).

    Outside the target's 7 arcsec (less in a small image), and below 2.5 sigma in every band smoothed over
    1.5 pixels, with two pixels of margin.
    """
    rows, columns = np.indices(image.shape[1:])
    reach = min(_SOURCE_RADIUS_ARCSEC / pixel_scale, 0.4 * min(image.shape[1:]))
    blank = np.hypot(rows - y, columns - x) > reach
    for _ in range(2):
        lit = np.zeros_like(blank)
        for plane in image:
            smooth = ndimage.gaussian_filter(np.asarray(plane, dtype=np.float64), 1.5)
            level, sigma = _robust(smooth[blank])
            lit |= smooth > level + 2.5 * sigma
        kept = (np.hypot(rows - y, columns - x) > reach) & ~ndimage.binary_dilation(lit, iterations=2)
        if kept.sum() < _FEWEST_BLANK:
            break
        blank = kept
    return np.asarray(blank)


def _robust(values: Numbers) -> tuple[float, float]:
    """Median and 1.4826 MAD."""
    level = float(np.median(values))
    return level, MAD_TO_STD * float(np.median(np.abs(values - level)))


def blank_sigma_w(image: Image, blank: NDArray[np.bool_]) -> Numbers:
    """White-equivalent noise per band [nmgy]: the robust rms of blank pixels over 0.893.

    Resampling has correlated the pixels and lowered their rms by that much.
    """
    rms = [_robust(np.asarray(plane, dtype=np.float64)[blank])[1] for plane in image]
    return np.asarray(rms) / pixel_rms_ratio()


def invvar_from_blank(image: Image, sigma_w: Numbers, pixel_scale: float) -> Numbers:
    """Inverse variance with the photons of what the image shows.

    sigma_w   white-equivalent noise of blank pixels per band [nmgy]

    The light is smoothed first and counts where it is significant, so that the weights do not follow the
    noise of single pixels. The gain is that of the band's nominal exposures at this depth.
    """
    invvar = np.empty(image.shape, dtype=np.float64)
    for b, band in enumerate(BANDS):
        gain = gain_from_noise(
            sigma_w[b], band=band, n_exposures=_exposures(band, float(sigma_w[b])), pixel_scale=pixel_scale
        )
        light = ndimage.gaussian_filter(np.asarray(image[b], dtype=np.float64), 1.0)
        light = np.where(light > sigma_w[b], light, 0.0)
        invvar[b] = 1.0 / (sigma_w[b] ** 2 + light / gain)
    return invvar


def _exposures(band: str, sigma_w: float) -> float:
    """How many nominal exposures have this noise from their sky."""
    return max(1.0, sky_nmgy(band) / (sigma_w**2 * nominal_gain(band, 1)))
