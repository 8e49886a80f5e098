"""Coadd noise: its variance, its correlation, its power on large scales; and real blank pixels."""

import numpy as np
import pytest

from darkhaloscope.survey.noise import (
    autocovariance,
    coadd_taps,
    correlated_noise,
    draw_phases,
    pixel_rms_ratio,
    resampling_weights,
)

DECLARED = (1.0, 0.1122, -0.0762, 0.0269, -0.0035, 0.0003)


def autocorrelation(fields, lag_y, lag_x):
    n = fields.shape[-1]
    a = fields[:, : n - lag_y, : n - lag_x]
    b = fields[:, lag_y:, lag_x:]
    return float((a * b).mean() / (fields**2).mean())


def test_phase_averaged_autocovariance_is_the_declared_one():
    lags = autocovariance()
    assert lags == pytest.approx([0.8934, 0.1003, -0.0680, 0.0240, -0.0032, 0.0003], abs=1e-4)
    assert lags / lags[0] == pytest.approx(DECLARED, abs=2e-4)
    assert lags[0] + 2 * lags[1:].sum() == pytest.approx(1.0, abs=1e-3)


def test_taps_have_unit_sum_and_the_right_variance():
    assert coadd_taps().sum() == pytest.approx(1.0, abs=1e-12)
    assert (coadd_taps() ** 2).sum() == pytest.approx(0.8934, abs=1e-3)
    assert resampling_weights(0.0) == pytest.approx([0, 0, 1, 0, 0, 0], abs=1e-12)


@pytest.fixture(scope="module")
def fields():
    rng = np.random.default_rng(11)
    return np.stack([correlated_noise(np.full((64, 64), 2.0), rng) for _ in range(200)])


def test_pixel_rms_is_893_thousandths_of_sigma_w(fields):
    assert fields.std() / 2.0 == pytest.approx(0.893, abs=0.004)
    assert pixel_rms_ratio() == pytest.approx(0.893, abs=1e-3)


@pytest.mark.parametrize("lag", [1, 2, 3, 4])
def test_simulated_autocorrelation_is_the_declared_one(fields, lag):
    assert autocorrelation(fields, 0, lag) == pytest.approx(DECLARED[lag], abs=0.006)
    assert autocorrelation(fields, lag, 0) == pytest.approx(DECLARED[lag], abs=0.006)
    assert autocorrelation(fields, lag, lag) == pytest.approx(DECLARED[lag] ** 2, abs=0.006)


def test_white_noise_fails_the_same_comparison():
    white = np.random.default_rng(2).standard_normal((200, 64, 64))
    assert abs(autocorrelation(white, 0, 1) - DECLARED[1]) > 0.05


def test_large_scales_keep_the_power_of_sigma_w(fields):
    sums = fields.reshape(200, 4, 16, 4, 16).sum(axis=(2, 4))
    assert sums.var() / (16 * 16 * 4.0) == pytest.approx(1.0, abs=0.06)


def test_sigma_may_vary_over_the_image():
    sigma = np.ones((64, 64))
    sigma[:, 32:] = 3.0
    rng = np.random.default_rng(3)
    many = np.stack([correlated_noise(sigma, rng) for _ in range(100)])
    assert many[:, :, 40:].std() / many[:, :, :24].std() == pytest.approx(3.0, rel=0.03)


def test_a_single_exposure_shows_its_phase():
    rng = np.random.default_rng(4)
    half = np.stack([correlated_noise(np.ones((64, 64)), rng, [(0.0, 0.5)]) for _ in range(60)])
    assert autocorrelation(half, 0, 1) == pytest.approx(0.256, abs=0.02)
    assert autocorrelation(half, 1, 0) == pytest.approx(0.0, abs=0.02)
    assert half.std() == pytest.approx(0.886, abs=0.01)
    two = np.stack([correlated_noise(np.ones((64, 64)), rng, [(0.0, 0.0), (0.0, 0.0)]) for _ in range(60)])
    assert two.std() == pytest.approx(1.0, abs=0.01)
    assert [len(draw_phases(rng, n)) for n in (1, 2)] == [1, 2]


@pytest.mark.realdata
def test_blank_pixels_of_real_galaxies_show_the_declared_noise(real_data):
    from darkhaloscope.survey.photometry import blank_pixels, blank_sigma_w, find_centre

    images = np.load(real_data / "hosts" / "des46_grz_91.npz")["images"]
    rms, correlation = [], []
    for image in images:
        x, y = find_centre(image)
        blank = blank_pixels(image, x, y, 0.263)
        rms.append(blank_sigma_w(image, blank) * pixel_rms_ratio())
        plane = np.where(blank, image[1] - np.median(image[1][blank]), np.nan)
        # Clipped as blank sky: what is left of sources would correlate over any lag.
        plane[np.abs(plane) > 4 * rms[-1][1]] = np.nan
        correlation.append(np.nanmean(plane[:, 1:] * plane[:, :-1]) / np.nanmean(plane**2))
    assert np.median(rms, axis=0) == pytest.approx([0.00254, 0.00378, 0.0112], rel=0.06)
    assert 0.05 < np.median(correlation) < 0.26
