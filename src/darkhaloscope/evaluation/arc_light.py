"""The light of arcs where nobody knows the truth: measured on what is left of a stamp without its deflector.

The deflector is a profile in elliptical rings, of one ellipse per stamp (adaptive moments of r and z
together, where blue arcs weigh least), set by the fainter side of each ring: its lower quartile, plus what
noise puts between a quartile and the middle. Under seeing of an arcsecond arcs and counter-images cover most
of their rings, and a median would take in most of their light. A complete Einstein ring is taken for the
deflector. Of noise the model leaves noise: residuals are signed, and blank sky gives zero on the average. A
sum of max(residual, 0) gives several sigma on noise alone.

Simulated arcs are measured in the same way: both sides of a comparison lose the same share of their light.
"""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.special import ndtri

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.random import stream
from darkhaloscope.evaluation.representations import PerRow, Pixels
from darkhaloscope.stamps.measure import annulus_mask, median_and_spread, outer_mask
from darkhaloscope.survey.noise import pixel_rms_ratio
from darkhaloscope.survey.photometry import MAD_TO_STD, adaptive_moments, detection_image
from darkhaloscope.survey.release import BANDS, PIXEL_SCALE_ARCSEC

LEAST_RADIUS_PIX = 3.0
"""No model of a deflector is good at its cusp: what lies nearer to the middle is never arc light."""

FAINTER_SHARE = 0.25
"""Quantile of a ring that is set by the deflector alone: arcs may cover the other three quarters."""

COLOUR_SNR = 3.0
"""Least S/N of both bands for a colour: fainter ratios are noise, and negative ones have no magnitude."""

BLANK_RINGS_PIX = ((20.0, 24.0), (24.0, 28.0), (28.0, 32.0))
"""Where the null of the S/N is measured: beyond every arc, still within the stamp."""

_FLATTEST = 0.3  # a flatter fit has followed an arc
_RING_PIX = 1.0
_CORRECTIONS = 3


def deflector_model(
    stamps: Pixels, invvar: Pixels | None, x_center: PerRow, y_center: PerRow
) -> NDArray[np.float64]:
    """The deflector of each stamp [nmgy], shaped like `stamps`.

    invvar   1/sigma_w² [1/nmgy²]; without it, and where it is 0, the noise is that of the pixels beyond 20 px
    """
    sky, spread = median_and_spread(stamps, outer_mask(stamps.shape, x_center, y_center))
    noise = np.broadcast_to(spread, stamps.shape).astype(np.float64)
    if invvar is not None:
        np.divide(pixel_rms_ratio(), np.sqrt(np.maximum(invvar, 0.0)), out=noise, where=invvar > 0.0)
    out = np.empty(stamps.shape)
    for i, stamp in enumerate(stamps):
        radius = _elliptical_radius(stamp - sky[i], float(x_center[i]), float(y_center[i]))
        out[i] = _profile_model(stamp, noise[i], radius)
    return out


def _profile_model(
    planes: Float[np.ndarray, "band y x"],
    noise: Float[np.ndarray, "band y x"],
    radius: Float[np.ndarray, "y x"],
) -> NDArray[np.float64]:
    """A profile that falls all the way is met exactly at its nodes, steep as it is.

    The median of a ring is then the light at its median radius, not at the mean; between the nodes the asinh
    of the light in units of its noise is interpolated (PCHIP: no overshoot). From there on rings are flat,
    and the quartile of what is left, less the normal one, corrects the profile.
    """
    flat, sigma = (x.reshape(len(planes), -1).astype(np.float64) for x in (planes, noise))
    r = radius.ravel()
    order = np.argsort(r, kind="stable")
    edges = np.arange(0.0, r[order[-1]] + _RING_PIX, _RING_PIX)
    cuts = np.searchsorted(r[order], edges[1:-1])
    rings = [ring for ring in np.split(order, cuts) if len(ring)]
    at = np.array([np.median(r[ring]) for ring in rings])
    inside = np.clip(r, at[0], at[-1])
    scale = np.median(sigma, axis=1, keepdims=True) + np.finfo(np.float32).tiny
    medians = np.stack([np.median(flat[:, ring], axis=1) for ring in rings], axis=1)
    bent = PchipInterpolator(at, np.arcsinh(medians / scale), axis=1)(inside)
    model = np.asarray(np.sinh(bent) * scale)
    below = ndtri(FAINTER_SHARE) * np.stack([np.median(sigma[:, ring], axis=1) for ring in rings])
    for _ in range(_CORRECTIONS):
        rest = flat - model
        left = np.stack([_quartile(rest[:, ring]) for ring in rings]) - below
        model += np.stack([np.interp(inside, at, line) for line in left.T])
    return model.reshape(planes.shape)


def _quartile(values: Float[np.ndarray, "band pixel"]) -> NDArray[np.float64]:
    """FAINTER_SHARE of each row, unbiased for normal noise, few pixels or many (Hyndman & Fan 1996, 9).

    np.quantile takes ten times as long for a hundred numbers.
    """
    ranked, last = np.sort(values, axis=1), values.shape[1] - 1
    place = min(max(FAINTER_SHARE * (last + 1.25) - 0.625, 0.0), float(last))
    low = int(place)
    high = min(low + 1, last)
    return np.asarray(ranked[:, low] + (place - low) * (ranked[:, high] - ranked[:, low]))


def _elliptical_radius(
    light: Float[np.ndarray, "band y x"], x_center: float, y_center: float
) -> NDArray[np.float64]:
    """Radius of the circle with the area of the ellipse through each pixel; round where no shape is found."""
    dx, dy = np.arange(light.shape[2]) - x_center, np.arange(light.shape[1])[:, None] - y_center
    shape = adaptive_moments(detection_image(light), x_center, y_center, fixed_centre=True)
    if shape is None:
        return np.asarray(np.hypot(dx, dy))
    q, cos, sin = max(shape.q, _FLATTEST), np.cos(shape.phi), np.sin(shape.phi)
    return np.asarray(np.sqrt(q * (cos * dx + sin * dy) ** 2 + (cos * dy - sin * dx) ** 2 / q))


def arc_region(
    shape: tuple[int, ...], x_center: PerRow, y_center: PerRow, theta_e: PerRow, fwhm: PerRow
) -> Bool[np.ndarray, "row y x"]:
    """Pixels within a seeing FWHM of the Einstein radius, none nearer to the middle than 3 px.

    theta_e, fwhm   [arcsec]. Raises DataError where one is unknown (NaN).
    """
    if not (np.isfinite(theta_e).all() and np.isfinite(fwhm).all()):
        raise DataError("arc region", "needs theta_E and the PSF's FWHM of every row", "drop the others")
    rows = [
        annulus_mask(
            shape[-2:],
            max((radius - width) / PIXEL_SCALE_ARCSEC, LEAST_RADIUS_PIX),
            (radius + width) / PIXEL_SCALE_ARCSEC,
            x,
            y,
        )
        for radius, width, x, y in zip(theta_e, fwhm, x_center, y_center, strict=True)
    ]
    return np.stack(rows) if rows else np.zeros((0, *shape[-2:]), bool)


def only_arcs(
    stamps: Pixels,
    invvar: Pixels | None,
    x_center: PerRow,
    y_center: PerRow,
    region: Bool[np.ndarray, "row y x"],
    *,
    seed: int,
    keys: NDArray[np.str_],
) -> Float[np.ndarray, "row band y x"]:
    """Stamps of nothing but their arc: the residual within the region, fresh white noise of the sky around.

    Zeros around it would leave nothing to normalise by; a row's own sky would bring its texture back in. The
    noise has the rms of the row's own pixels beyond 20 px, from a stream keyed by the row.
    """
    residual = stamps - deflector_model(stamps, invvar, x_center, y_center)
    around = _fresh_noise(stamps, x_center, y_center, seed, keys)
    return np.where(region[:, None], residual, around).astype(np.float32)


def only_deflector(
    stamps: Pixels,
    invvar: Pixels | None,
    x_center: PerRow,
    y_center: PerRow,
    *,
    seed: int,
    keys: NDArray[np.str_],
) -> Float[np.ndarray, "row band y x"]:
    """The model of each deflector in fresh white noise of its sky: a host as it would be without its arc."""
    model = deflector_model(stamps, invvar, x_center, y_center)
    return (model + _fresh_noise(stamps, x_center, y_center, seed, keys)).astype(np.float32)


def _fresh_noise(
    stamps: Pixels, x_center: PerRow, y_center: PerRow, seed: int, keys: NDArray[np.str_]
) -> NDArray[np.float64]:
    _, spread = median_and_spread(stamps, outer_mask(stamps.shape, x_center, y_center))
    shape = stamps.shape[1:]
    noise = [stream(seed, "evaluation/arc_light noise", str(key)).standard_normal(shape) for key in keys]
    return np.asarray(np.stack(noise) * spread) if noise else np.zeros(stamps.shape)


@dataclass(frozen=True, eq=False)
class ArcLight:
    """Signed light of the arc region of each row.

    brightness   mean r surface brightness [nmgy/arcsec²]
    g_r, r_z     colours [mag], NaN where a band has S/N < 3
    snr          of the three bands together, signed: pure noise gives 0 +- 1
    snr_bands    (row, band)
    """

    brightness: PerRow
    g_r: PerRow
    r_z: PerRow
    snr: PerRow
    snr_bands: Float[np.ndarray, "row band"]

    def spread_over(self, n: int, rows: NDArray[np.intp]) -> Self:
        """These rows at the given places of n, NaN in all others."""
        spread = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, values in spread.items():
            whole = np.full((n, *values.shape[1:]), np.nan)
            whole[rows] = values
            spread[name] = whole
        return type(self)(**spread)


def measure_arcs(
    stamps: Pixels,
    invvar: Pixels,
    x_center: PerRow,
    y_center: PerRow,
    region: Bool[np.ndarray, "row y x"],
) -> ArcLight:
    """The light of each arc region, and its S/N against blank annuli.

    invvar   1/sigma_w² [1/nmgy²], host photons included; pixels with invvar <= 0 are left out

    A sum of residuals over its sigma_w has not a spread of 1: the rings' quartiles took part of the noise and
    pixels are correlated. So the same sums are made in rings of blank sky of all rows (r > 20 px); their
    median and 1.4826 MAD, per band, are the null that an S/N is told by.
    """
    residual = stamps - deflector_model(stamps, invvar, x_center, y_center)
    used = region[:, None] & (invvar > 0.0)
    flux, z = sums_over(residual, invvar, used)
    null = [
        sums_over(residual, invvar, ring[:, None] & (invvar > 0.0))[1]
        for ring in (annulus_mask(stamps.shape, *edges, x_center, y_center) for edges in BLANK_RINGS_PIX)
    ]
    centre, scale = null_of(np.concatenate(null))
    snr = (z - centre) / scale
    r = BANDS.index("r")
    area = used[:, r].sum(axis=(1, 2)) * PIXEL_SCALE_ARCSEC**2
    brightness = np.divide(flux[:, r], area, out=np.full(len(flux), np.nan), where=area > 0)
    return ArcLight(
        brightness=brightness,
        g_r=_colour(flux, snr, r - 1, r),
        r_z=_colour(flux, snr, r, r + 1),
        snr=snr.sum(axis=1) / np.sqrt(snr.shape[1]),
        snr_bands=snr,
    )


def null_of(
    sums: Float[np.ndarray, "sum band"],
) -> tuple[Float[np.ndarray, " band"], Float[np.ndarray, " band"]]:
    """Median and 1.4826 MAD of sums that hold no arc, by band; NaN where there is none."""
    if not np.isfinite(sums).any():
        return np.full(sums.shape[1], np.nan), np.full(sums.shape[1], np.nan)
    centre = np.nanmedian(sums, axis=0)
    return centre, MAD_TO_STD * np.nanmedian(np.abs(sums - centre), axis=0)


def sums_over(
    residual: NDArray[np.float64], invvar: Pixels, used: Bool[np.ndarray, "row band y x"]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Flux, and flux over the noise of independent pixels; (row, band), NaN without pixels."""
    flux = (residual * used).sum(axis=(2, 3))
    variance = np.divide(1.0, invvar, out=np.zeros(invvar.shape), where=used).sum(axis=(2, 3))
    some = variance > 0
    z = np.divide(flux, np.sqrt(variance), out=np.full(flux.shape, np.nan), where=some)
    return np.where(some, flux, np.nan), z


def _colour(flux: NDArray[np.float64], snr: NDArray[np.float64], blue: int, red: int) -> PerRow:
    seen = (snr[:, blue] >= COLOUR_SNR) & (snr[:, red] >= COLOUR_SNR) & (flux > 0)[:, [blue, red]].all(axis=1)
    ratio = np.divide(flux[:, blue], flux[:, red], out=np.ones(len(flux)), where=seen)
    return np.where(seen, -2.5 * np.log10(ratio), np.nan)
