"""Measurements on real-looking cutouts come back to what was painted."""

import numpy as np
import pytest

from darkhaloscope.survey.painting import paint_target
from darkhaloscope.survey.photometry import (
    adaptive_moments,
    aperture_fluxes,
    blank_pixels,
    blank_sigma_w,
    detection_image,
    find_centre,
    invvar_from_blank,
)
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.profiles import paint_sersic
from darkhaloscope.survey.psf import convolve, moffat_kernel
from darkhaloscope.survey.sky import draw_target

BRICK = {"brickname": "0591m305", "ra_deg": 59.1, "dec_deg": -30.5, "release": "synthetic"}


@pytest.fixture(scope="module")
def sky():
    targets = [
        draw_target(8, f"p{k}", "lrg", None, brick=BRICK, priors=SkyPriors(), size=96) for k in range(60)
    ]
    return [(t, paint_target(8, t)) for t in targets if t.row["flux_r"] > 3.0]


def test_the_centre_comes_back_to_a_tenth_of_a_pixel(sky):
    off = [np.subtract(find_centre(c.image), (t.x_center_pix, t.y_center_pix)) for t, c in sky]
    assert np.median(np.abs(off)) < 0.05
    assert np.percentile(np.abs(off), 90) < 0.15
    # Taking the middle instead would be several times worse.
    assert np.median([abs(t.x_center_pix - 47.5) for t, _ in sky]) > 0.15


@pytest.mark.parametrize("centre", [31.5, 32.0])
def test_both_conventions_of_an_even_cutout_are_told_apart(centre):
    light = paint_sersic(
        (64, 64),
        x_pix=centre,
        y_pix=centre,
        pixel_scale=0.262,
        flux=20.0,
        R_sersic=1.0,
        n_sersic=4.0,
        q=0.7,
        phi=0.3,
    )
    image = np.stack([convolve(light, moffat_kernel(1.1, 3.0, pixel_scale=0.262))] * 3)
    assert find_centre(image) == pytest.approx((centre, centre), abs=0.02)


def test_an_empty_cutout_falls_back_on_its_middle():
    assert find_centre(np.zeros((3, 64, 64))) == (31.5, 31.5)
    assert adaptive_moments(np.zeros((64, 64)), 31.5, 31.5) is None
    assert adaptive_moments(np.ones((64, 64)), 31.5, 31.5) is None


def test_shape_is_that_of_the_light():
    image = convolve(
        paint_sersic(
            (96, 96),
            x_pix=47.0,
            y_pix=48.2,
            pixel_scale=0.262,
            flux=50,
            R_sersic=1.5,
            n_sersic=1.0,
            q=0.6,
            phi=0.5,
        ),
        moffat_kernel(0.9, 3.0, pixel_scale=0.262),
    )
    found = adaptive_moments(image, 47.0, 48.0)
    assert found is not None
    assert (found.x, found.y) == pytest.approx((47.0, 48.2), abs=0.02)
    assert found.phi == pytest.approx(0.5, abs=0.02)
    assert 0.6 < found.q < 0.8


def test_noise_comes_back_from_blank_pixels(sky):
    ratio = [
        blank_sigma_w(c.image, blank_pixels(c.image, *find_centre(c.image), 0.262)) / t.scene.noise.sigma_w
        for t, c in sky
        if t.scene.noise.exposures.min() > 2
    ]
    assert np.median(ratio, axis=0) == pytest.approx(1.0, abs=0.03)


def test_inverse_variance_comes_back_photons_included(sky):
    ratios = []
    for t, c in sky:
        if t.scene.noise.exposures.min() > 2:
            found = invvar_from_blank(c.image, t.scene.noise.sigma_w, 0.262)
            lit = c.image[1] > 6 * t.scene.noise.sigma_w[1]
            ratios.append(np.median((found / np.where(c.invvar > 0, c.invvar, np.nan))[1][lit]))
    assert np.nanmedian(ratios) == pytest.approx(1.0, abs=0.1)


def test_aperture_flux_is_nearly_total():
    light = paint_sersic(
        (96, 96),
        x_pix=47.5,
        y_pix=47.5,
        pixel_scale=0.262,
        flux=5.0,
        R_sersic=0.6,
        n_sersic=1.0,
        q=0.9,
        phi=0.0,
    )
    assert aperture_fluxes(np.stack([light, light, light]), 47.5, 47.5, 0.262) == pytest.approx(5.0, rel=0.01)


def test_noise_that_turns_variances_negative_has_no_moments():
    """Two negative variances have a positive product: NaN, or an axis ratio of 2, passed for a shape."""
    for seed in (332, 2214):
        noise = np.random.default_rng(seed).normal(size=(32, 32))
        assert adaptive_moments(noise, 15.5, 15.5, fixed_centre=True) is None


@pytest.mark.realdata
def test_blank_noise_agrees_with_the_surveys_own_inverse_variance(real_data):
    from darkhaloscope.survey.cutouts import read_real_pixels

    path = real_data / "cutouts" / "ls_dr9_59.1067_-30.4848_grz_256_image_invvar.fits"
    (real,) = read_real_pixels(path)
    blank = blank_pixels(real.image, *find_centre(real.image), 0.262)
    survey = 1 / np.sqrt([np.median(plane[blank]) for plane in real.invvar])
    assert blank_sigma_w(real.image, blank) == pytest.approx(survey, rel=0.05)
    assert detection_image(real.image).shape == (256, 256)
