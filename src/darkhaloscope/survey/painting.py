"""From a drawn target to pixels: light on a canvas, the PSF, saturation, noise.

The canvas is wider than the stamp by half a kernel, so that light from outside scatters in. Everything that
passes the PSF is painted as surface brightness (see `survey.profiles`); spikes, halo and bleeding, which are
no part of the PSF model, come after it. The inverse variance holds the photons of everything painted.
"""

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.contracts.random import stream
from darkhaloscope.survey.cutouts import Cutout
from darkhaloscope.survey.lookalikes import Feature, Glare
from darkhaloscope.survey.noise import correlated_noise
from darkhaloscope.survey.populations import FieldNoise, Galaxy, Numbers
from darkhaloscope.survey.profiles import SersicGrid, add_patch, spread_points
from darkhaloscope.survey.psf import convolve, n_eff
from darkhaloscope.survey.release import (
    BANDS,
    MASK_BITS,
    PIXEL_SCALE_ARCSEC,
    gain_from_noise,
    nominal_gain,
    sky_nmgy,
)
from darkhaloscope.survey.sky import Scene, Target

_PATCH_RADII = 6.0  # a companion's patch reaches this many half-light radii
_PATCH_PIX = (12, 40)
_HALO_RADII_ARCSEC = (1.0, 30.0)


def paint_target(seed: int, target: Target) -> Cutout:
    """Paint one target.

    Returns a Cutout of target.size pixels whose row holds the catalogue columns and the survey's depth
    columns. The pixels depend on `seed` and the target alone.
    """
    scene, scale = target.scene, PIXEL_SCALE_ARCSEC
    kernels = scene.psf.kernels(scale)
    pad = kernels.shape[-1] // 2
    centre = (target.x_center_pix + pad, target.y_center_pix + pad)
    canvas = _light(scene, target.size + 2 * pad, centre)
    model = convolve(canvas, kernels)[:, pad : pad + target.size, pad : pad + target.size]
    here = (target.x_center_pix, target.y_center_pix)
    if scene.glare is not None:
        model += _glare(scene.glare, target.size, here)
    saturated = _saturate(model, scene.glare, _saturation(target.full_well_e), here)
    image, invvar = _observe(seed, target, np.maximum(model, 0.0), model)
    invvar[saturated] = 0.0
    return Cutout(
        image=image,
        invvar=invvar,
        mask=_mask(saturated),
        psf=kernels,
        x_center_pix=target.x_center_pix,
        y_center_pix=target.y_center_pix,
        pixel_scale_arcsec=scale,
        row=target.row | _depth_columns(scene, kernels),
    )


def _light(scene: Scene, side: int, centre: tuple[float, float]) -> Numbers:
    """(band, side, side) flux per pixel before the PSF; `centre` is the target's (x, y)."""
    canvas = np.zeros((len(BANDS), side, side))
    for galaxy in scene.galaxies:
        _add_galaxy(canvas, galaxy, centre)
    if scene.stars:
        x = centre[0] + np.array([star.dx for star in scene.stars]) / PIXEL_SCALE_ARCSEC
        y = centre[1] + np.array([star.dy for star in scene.stars]) / PIXEL_SCALE_ARCSEC
        canvas += spread_points((side, side), x, y, np.stack([star.flux for star in scene.stars], axis=1))
    for feature in scene.features:
        canvas += _extended(feature, side, centre)
    return canvas


def _add_galaxy(canvas: Numbers, galaxy: Galaxy, centre: tuple[float, float]) -> None:
    x = centre[0] + galaxy.dx / PIXEL_SCALE_ARCSEC
    y = centre[1] + galaxy.dy / PIXEL_SCALE_ARCSEC
    shape = {"n_sersic": galaxy.sersic_n, "q": galaxy.q, "phi": galaxy.phi, "pixel_scale": PIXEL_SCALE_ARCSEC}
    if galaxy.dx == 0.0 == galaxy.dy:
        grid = SersicGrid.at((canvas.shape[1], canvas.shape[2]), x, y)
        for b in range(len(BANDS)):
            canvas[b] += grid.paint(flux=galaxy.flux[b], R_sersic=galaxy.circular_radius(b), **shape)
        return
    # Small neighbours look alike in all bands: one patch serves three.
    half = int(np.clip(_PATCH_RADII * galaxy.radius_arcsec / PIXEL_SCALE_ARCSEC, *_PATCH_PIX))
    corner = int(np.floor(y)) - half, int(np.floor(x)) - half
    grid = SersicGrid.at((2 * half + 1, 2 * half + 1), x - corner[1], y - corner[0])
    patch = grid.paint(flux=1.0, R_sersic=galaxy.circular_radius(1), **shape)
    for b in range(len(BANDS)):
        add_patch(canvas[b], galaxy.flux[b] * patch, corner)


def _offsets(side: int, centre: tuple[float, float]) -> tuple[Numbers, Numbers]:
    """Offsets (dx, dy) of the pixels of a square from a centre (x, y) [arcsec]."""
    axis = np.arange(side, dtype=np.float64)
    dx, dy = (axis - centre[0]) * PIXEL_SCALE_ARCSEC, (axis - centre[1]) * PIXEL_SCALE_ARCSEC
    return dx[None, :], dy[:, None]


def _extended(feature: Feature, side: int, centre: tuple[float, float]) -> Numbers:
    shape = feature.shape(*_offsets(side, centre))
    if feature.ridge is not None:
        return np.asarray(feature.ridge[:, None, None] * shape * PIXEL_SCALE_ARCSEC**2)
    flux = np.zeros(len(BANDS)) if feature.flux is None else feature.flux
    return np.asarray(flux[:, None, None] * shape / shape.sum())


def _glare(glare: Glare, side: int, centre: tuple[float, float]) -> Numbers:
    """Four diffraction spikes along the pixel axes, and a halo that falls as r^-2; all bands alike."""
    dx, dy = _offsets(side, centre)
    radius = np.hypot(dx, dy)
    along = np.cos(glare.angle) * dx + np.sin(glare.angle) * dy
    across = np.cos(glare.angle) * dy - np.sin(glare.angle) * dx
    spikes = np.zeros_like(radius)
    sigma = 0.5 * glare.width_arcsec / np.sqrt(2.0 * np.log(2.0))
    for length, width in ((along, across), (across, along)):
        fade = 1.0 / (1.0 + np.exp((np.abs(length) - glare.length_arcsec) / 0.5))
        core = np.maximum(np.abs(length), 1.0)
        spikes += fade * core**-glare.slope * np.exp(-0.5 * (width / sigma) ** 2)
    inner, outer = _HALO_RADII_ARCSEC
    halo = PIXEL_SCALE_ARCSEC**2 / (radius**2 + inner**2) / (2.0 * np.pi * np.log(outer / inner))
    share = spikes / spikes.sum()
    return np.asarray(glare.spike_flux[:, None, None] * share + glare.halo_flux[:, None, None] * halo)


def _saturation(full_well_e: float) -> Numbers:
    """Flux per pixel [nmgy] at which one nominal exposure reaches the full well, per band."""
    return np.array([full_well_e / nominal_gain(band, 1) - sky_nmgy(band) for band in BANDS])


def _saturate(
    model: Numbers, glare: Glare | None, level: Numbers, centre: tuple[float, float]
) -> NDArray[np.bool_]:
    """Clip the model at saturation in place, bleed along columns; returns which pixels are lost, per band."""
    lost = model > level[:, None, None]
    if glare is not None:
        rows, columns = np.indices(model.shape[1:])
        for b, peak in enumerate(model.max(axis=(1, 2)) / level):
            if peak <= 1.0:
                continue
            tall = np.abs(rows - centre[1]) <= glare.bleed_reach_pix * (1.0 + np.log2(peak))
            lost[b] |= tall & (np.abs(columns - centre[0]) <= 0.5 * glare.bleed_pix)
    model[...] = np.where(lost, level[:, None, None], model)
    return np.asarray(lost)


def _mask(saturated: NDArray[np.bool_]) -> NDArray[np.int32]:
    mask = np.zeros(saturated.shape[1:], dtype=np.int32)
    for b, band in enumerate(BANDS):
        mask[saturated[b]] |= MASK_BITS[f"SATUR_{band.upper()}"]
    return mask


def _observe(seed: int, target: Target, photons: Numbers, model: Numbers) -> tuple[Numbers, Numbers]:
    """(image, invvar): correlated noise of sky, read-out and photons, and the residual background."""
    noise = target.scene.noise
    rng = stream(seed, "survey/pixels", target.target_id)
    image, invvar = np.empty_like(model), np.empty_like(model)
    for b, band in enumerate(BANDS):
        gain = gain_from_noise(noise.sigma_w[b], band=band, n_exposures=noise.exposures[b])
        variance = noise.sigma_w[b] ** 2 + photons[b] / gain
        image[b] = model[b] + correlated_noise(np.sqrt(variance), rng, noise.phases[b])
        image[b] += _background(noise, b, target.size)
        invvar[b] = 1.0 / variance
    return image, invvar


def _background(noise: FieldNoise, band: int, side: int) -> Numbers:
    """What sky subtraction left behind: an offset and a plane."""
    ramp = np.linspace(-0.5, 0.5, side)
    along_y, along_x = noise.gradient[band]
    return np.asarray(noise.offset[band] + along_y * ramp[:, None] + along_x * ramp[None, :])


def _depth_columns(scene: Scene, kernels: Numbers) -> dict[str, float | int]:
    columns: dict[str, float | int] = {}
    for b, band in enumerate(BANDS):
        columns[f"psfsize_{band}"] = float(scene.psf.size_arcsec[b])
        columns[f"psfdepth_{band}"] = float(1.0 / (scene.noise.sigma_w[b] ** 2 * n_eff(kernels[b])))
        columns[f"nexp_{band}"] = int(scene.noise.exposures[b])
    return columns
