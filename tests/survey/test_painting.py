"""Painted stamps: flux, noise, inverse variance, saturation, and the look-alikes."""

import dataclasses

import numpy as np
import pytest
from scipy.special import gammainc

from darkhaloscope.survey.painting import paint_target
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.psf import n_eff
from darkhaloscope.survey.release import MASK_BITS, gain_from_noise
from darkhaloscope.survey.sky import draw_target

PRIORS = SkyPriors()
BRICK = {"brickname": "0591m305", "ra_deg": 59.1, "dec_deg": -30.5, "release": "synthetic"}


def quiet(priors=PRIORS):
    """No neighbours and no residual background, so that sums are the host's."""
    return priors.model_copy(
        update={
            "companions": priors.companions.model_copy(update={"per_arcmin2": 0.0}),
            "stars": priors.stars.model_copy(update={"per_arcmin2": 0.0}),
            "noise": priors.noise.model_copy(update={"offset": 0.0, "gradient": 0.0}),
        }
    )


def target(name="t", kind="lrg", category=None, priors=PRIORS, *, size=64):
    return draw_target(3, name, kind, category, brick=BRICK, priors=priors, size=size)


def test_painting_is_deterministic_and_seeded():
    first, again = (paint_target(3, target()) for _ in range(2))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.invvar, again.invvar)
    assert not np.array_equal(first.image, paint_target(4, target()).image)


@pytest.mark.parametrize("size", [64, 101])
def test_a_stamp_has_its_size_and_its_target_in_the_middle(size):
    cutout = paint_target(3, target(size=size))
    assert cutout.image.shape == cutout.invvar.shape == (3, size, size)
    assert cutout.mask.shape == (size, size)
    assert abs(cutout.x_center_pix - (size - 1) / 2) <= 0.5
    assert cutout.psf.sum(axis=(1, 2)) == pytest.approx(1.0)


def noiseless(t):
    noise = dataclasses.replace(t.scene.noise, sigma_pix=t.scene.noise.sigma_pix * 1e-9)
    return dataclasses.replace(t, scene=dataclasses.replace(t.scene, noise=noise))


def test_stamps_hold_the_catalogue_flux():
    for k in range(30):
        t = target(f"f{k}", priors=quiet(), size=161)
        host = t.scene.galaxies[0]
        share = paint_target(3, noiseless(t)).image.sum(axis=(1, 2)) / host.flux
        # What lies outside a circle of 21 arcsec, by the profile itself.
        n, radii = host.sersic_n, np.array([host.circular_radius(band) for band in range(3)])
        inside = gammainc(2 * n, (2 * n - 1 / 3) * (21 / radii) ** (1 / n))
        assert share == pytest.approx(inside, abs=0.012)
        assert [t.row[f"flux_{band}"] for band in "grz"] == pytest.approx(host.flux.tolist())


def test_the_host_stands_at_its_stored_centre():
    t = next(t for t in (target(f"c{k}", priors=quiet()) for k in range(50)) if t.row["flux_r"] > 30)
    light = paint_target(3, t).image[1]
    y, x = np.indices(light.shape)
    near = np.exp(-0.5 * ((x - t.x_center_pix) ** 2 + (y - t.y_center_pix) ** 2) / 9.0)
    assert (light * near * (x - t.x_center_pix)).sum() / (light * near).sum() == pytest.approx(0.0, abs=0.05)
    assert (light * near * (y - t.y_center_pix)).sum() / (light * near).sum() == pytest.approx(0.0, abs=0.05)


def test_inverse_variance_is_white_equivalent_and_holds_the_hosts_photons():
    priors = quiet()
    many = priors.model_copy(update={"noise": priors.noise.model_copy(update={"few_exposures": 0})})
    blank, bright = [], []
    for k in range(60):
        t = target(f"v{k}", priors=many)
        seen, true = paint_target(3, t), paint_target(3, noiseless(t)).image
        chi = (seen.image - true) * np.sqrt(seen.invvar)
        share = true * seen.invvar / float(gain_from_noise(t.scene.noise.sigma_w[1], band="r", n_exposures=5))
        blank += chi[1][share[1] < 0.01].tolist()
        bright += chi[1][share[1] > 0.2].tolist()
    assert len(bright) > 2000
    assert np.std(blank) == pytest.approx(0.893, abs=0.01)
    assert np.std(bright) == pytest.approx(0.893, abs=0.03)


def test_host_photons_raise_the_variance_by_flux_over_gain():
    t = target(priors=quiet())
    seen, true = paint_target(3, t), paint_target(3, noiseless(t)).image
    noise = t.scene.noise
    for b, band in enumerate("grz"):
        gain = gain_from_noise(noise.sigma_w[b], band=band, n_exposures=noise.exposures[b])
        excess = 1 / seen.invvar[b] - noise.sigma_w[b] ** 2
        assert excess == pytest.approx(np.maximum(true[b], 0) / gain, abs=1e-12)


def test_depth_columns_follow_the_tractors_meaning():
    t = target()
    cutout = paint_target(3, t)
    area = n_eff(cutout.psf[1])
    assert cutout.row["psfdepth_r"] == pytest.approx(1 / (t.scene.noise.sigma_w[1] ** 2 * area))
    assert cutout.row["psfsize_r"] == pytest.approx(1.06 * t.scene.psf.fwhm_arcsec[1])


def test_bright_things_get_the_large_kernel():
    spike = target("s0", "contaminant", "spike")
    assert paint_target(3, spike).psf.shape == (3, 63, 63)
    assert {paint_target(3, target(f"k{k}")).psf.shape[-1] for k in range(12)} <= {31, 63}


def test_stars_saturate_per_band_and_say_so():
    cutouts = [paint_target(3, target(f"s{k}", "contaminant", "spike")) for k in range(24)]
    bits = MASK_BITS["SATUR_G"] | MASK_BITS["SATUR_R"] | MASK_BITS["SATUR_Z"]
    flagged = [c for c in cutouts if (c.mask & bits).any()]
    assert len(flagged) >= 12
    for c in flagged:
        for b, band in enumerate("GRZ"):
            lost = (c.mask & MASK_BITS[f"SATUR_{band}"]) > 0
            assert np.all(c.invvar[b][lost] == 0.0)
            assert np.all(c.invvar[b][~lost] > 0.0)
        assert c.image.max() < 60.0


def test_spikes_run_along_the_pixel_axes_in_all_bands():
    t = next(
        t
        for t in (target(f"s{k}", "contaminant", "spike", quiet()) for k in range(40))
        if t.row["flux_r"] > 3000
    )
    image = paint_target(3, t).image
    y, x = np.indices(image.shape[1:])
    dx, dy = x - t.x_center_pix, y - t.y_center_pix
    ring = (np.hypot(dx, dy) > 18) & (np.hypot(dx, dy) < 28)
    on, off = ring & (np.abs(dy) < 1), ring & (np.abs(np.abs(dx) - np.abs(dy)) < 3)
    for plane in image:
        assert np.median(plane[on]) > 1.5 * np.median(plane[off])


@pytest.mark.parametrize("category", ["ring", "spiral", "merger", "spike"])
def test_look_alikes_are_finite_bright_and_labelled(category):
    for k in range(6):
        t = target(f"{category}{k}", "contaminant", category)
        cutout = paint_target(3, t)
        assert np.all(np.isfinite(cutout.image))
        assert cutout.row["category"] == category
        assert cutout.row["host_domain"] == "sim"
        assert cutout.row["arc_domain"] is None
        inner = np.hypot(*(np.indices((64, 64)) - 31.5)) < 15
        signal = (
            np.nansum(cutout.image[1][inner]) * np.sqrt(np.median(cutout.invvar[1])) / np.sqrt(inner.sum())
        )
        assert signal > 20


@pytest.mark.parametrize("category", ["ring", "spiral"])
def test_rings_and_spirals_are_catalogued_whole(category):
    for k in range(6):
        t = target(f"w{k}", "contaminant", category, quiet(), size=128)
        # A core of n=4 keeps a few per cent outside the stamp.
        share = paint_target(3, noiseless(t)).image.sum(axis=(1, 2)) / [t.row[f"flux_{b}"] for b in "grz"]
        assert share == pytest.approx(0.99, abs=0.02)


def azimuthal(shape, radius):
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    return shape(radius * np.cos(angle), radius * np.sin(angle))


def test_rings_close_and_are_concentric_with_their_core():
    for k in range(10):
        t = target(f"r{k}", "contaminant", "ring", quiet())
        feature = t.scene.features[0]
        axis = np.linspace(-8, 8, 161)
        light = feature.shape(axis[None, :], axis[:, None])
        profile = [azimuthal(feature.shape, r).max() for r in np.linspace(0.1, 6, 60)]
        assert light[80, 80] < 0.2 * light.max()
        ridge = np.linspace(0.1, 6, 60)[int(np.argmax(profile))]
        assert 0.8 < ridge < 5.2
        along = np.array([light[y, x] for y, x in zip(*np.nonzero(light > 0.05 * light.max()), strict=True)])
        assert along.size > 100
        angles = np.arctan2(*(axis[i] for i in np.nonzero(light > 0.1 * light.max())))
        assert np.histogram(angles, 12, (-np.pi, np.pi))[0].min() > 0


def test_spirals_have_arms_and_mergers_share_a_colour():
    spiral = target("p1", "contaminant", "spiral", quiet())
    smooth, lit = spiral.scene.features
    assert smooth.flux[1] > 0 < lit.flux[1]
    assert np.ptp(np.log10(smooth.flux / lit.flux)[[1, 2]]) < 1e-9
    assert lit.flux[0] / lit.flux[1] > smooth.flux[0] / smooth.flux[1]
    for k in range(8):
        merger = target(f"m{k}", "contaminant", "merger", quiet())
        colours = [-2.5 * np.log10(g.flux[0] / g.flux[1]) for g in merger.scene.galaxies]
        assert len(colours) in (2, 3)
        assert np.ptp(colours) <= 0.2 + 1e-9
