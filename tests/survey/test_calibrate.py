"""Calibration: known noise is recovered, planted artefacts are counted, and silence is spelled out."""

import hashlib

import numpy as np
import pytest
import yaml

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.config import parse
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.injection.nuisance import Nuisances, Track
from darkhaloscope.survey.calibrate import (
    LAGS,
    TRACK_LENGTH_PIX,
    TRACK_PEAK_SIGMA,
    Patch,
    calibrate_files,
    find_tracks,
    measure_cutouts,
    track_cover,
)
from darkhaloscope.survey.noise import autocovariance, correlated_noise, pixel_rms_ratio
from darkhaloscope.survey.profiles import paint_sersic, spread_points
from darkhaloscope.survey.psf import convolve, moffat_kernel
from darkhaloscope.survey.release import BANDS, MASK_BITS

SIGMA_W = np.array([0.0026, 0.0037, 0.0112])
SIGMA_PIX = pixel_rms_ratio() * SIGMA_W
DECLARED = autocovariance() / autocovariance()[0]
GALAXY = convolve(
    np.stack(
        [
            paint_sersic(
                (64, 64), x_pix=31.3, y_pix=31.8, pixel_scale=0.262, flux=flux, R_sersic=0.9, n_sersic=4.0,
                q=0.8, phi=0.6,
            )
            for flux in (2.0, 10.0, 30.0)
        ]
    ),
    np.stack([moffat_kernel(1.15, 3.0, pixel_scale=0.262)] * 3),
)  # fmt: skip


def noise(rng, size=64, *, white=False):
    if white:
        return SIGMA_PIX[:, None, None] * rng.standard_normal((3, size, size))
    return np.stack([correlated_noise(np.full((size, size), s), rng) for s in SIGMA_W])


def stamps(n, seed=0, *, galaxy=True, change=None, weights=True, **rest):
    """n stamps of a galaxy in known noise; `change(k, image)` may alter one in place."""
    rng = np.random.default_rng(seed)
    for k in range(n):
        image = noise(rng, **rest) + (GALAXY if galaxy else 0.0)
        invvar = np.ones_like(image) / SIGMA_W[:, None, None] ** 2 if weights else None
        if change is not None:
            change(k, image, rng)
        yield Patch(image.astype(np.float32), invvar, where=f"stamp {k}")


@pytest.fixture(scope="module")
def quiet():
    return measure_cutouts(stamps(32))


def covers(quantity, value, slack=1.0):
    """Whether the interval, widened by `slack` times its half widths, holds a value."""
    half = slack * (quantity.high - quantity.low) / 2
    middle = (quantity.high + quantity.low) / 2
    return middle - half <= value <= middle + half


def test_the_correlation_of_the_noise_is_recovered(quiet):
    for band in BANDS:
        for lag in (1, 2, 3):
            for axis in "xy":
                found = quiet[f"acf_{band}_{axis}{lag}"]
                assert covers(found, DECLARED[lag], slack=1.8), found
                assert found.high - found.low < 0.025
                assert found.n == 32
        assert quiet[f"acf_{band}_d11"].value == pytest.approx(DECLARED[1] ** 2, abs=0.012)
    assert DECLARED[1:3] == pytest.approx([0.112, -0.076], abs=1e-3)
    assert {lag for lag, _, _ in LAGS} == {"x1", "x2", "x3", "y1", "y2", "y3", "d11"}


def test_white_noise_is_told_apart_from_a_coadd_s():
    white = measure_cutouts(stamps(12, white=True))
    for name in ("acf_r_x1", "acf_r_y1", "acf_z_x2"):
        assert abs(white[name].value) < 0.03
        assert not covers(white[name], DECLARED[int(name[-1])], slack=2.0)


def test_bands_that_share_their_noise_are_told_apart(quiet):
    def share(k, image, rng):
        image[2] += 3.0 * SIGMA_PIX[2] / SIGMA_PIX[1] * image[1]

    assert all(abs(quiet[f"band_correlation_{p}"].value) < 0.01 for p in ("gr", "gz", "rz"))
    shared = measure_cutouts(stamps(10, galaxy=False, change=share))
    assert shared["band_correlation_rz"].value == pytest.approx(3 / np.sqrt(10), abs=0.03)
    assert abs(shared["band_correlation_gr"].value) < 0.03


def test_noise_is_measured_in_nmgy_and_against_its_weights(quiet):
    for band, sigma in zip(BANDS, SIGMA_PIX, strict=True):
        assert quiet[f"sigma_pix_{band}"].value == pytest.approx(sigma, rel=0.02)
        assert quiet[f"noise_ratio_{band}"].value == pytest.approx(0.893, abs=0.01)
    assert quiet["noise_ratio_scatter"].value < 0.012  # every stamp has the same
    ratios = np.random.default_rng(3).normal(1.0, 0.05, 24)

    def louder(k, image, rng):
        image *= ratios[k]

    found = measure_cutouts(stamps(24, galaxy=False, change=louder))
    assert found["noise_ratio_scatter"].value == pytest.approx(0.893 * ratios.std(), rel=0.15)
    bare = measure_cutouts(stamps(10, weights=False))
    assert bare["noise_ratio"].status is Status.NOT_EVALUATED
    assert "inverse variance" in bare["noise_ratio"].detail


def test_the_sky_s_offset_and_slope_are_measured_without_the_noise(quiet):
    assert quiet["sky_offset"].value < 0.02
    offset = np.random.default_rng(4).normal(0.0, 0.10, (40, 3))
    slope = np.random.default_rng(5).normal(0.0, 0.15, (40, 3, 2))
    ramp = np.linspace(-0.5, 0.5, 64)

    def tilt(k, image, rng):
        for b in range(3):
            plane = offset[k, b] + slope[k, b, 0] * ramp[None, :] + slope[k, b, 1] * ramp[:, None]
            image[b] += SIGMA_PIX[b] * plane

    found = measure_cutouts(stamps(40, galaxy=False, change=tilt))
    assert found["sky_offset"].value == pytest.approx(offset.std(), rel=0.12)
    assert found["sky_gradient"].value == pytest.approx(slope.std(), rel=0.15)
    assert covers(found["sky_offset_r"], 0.10, slack=1.5)
    assert found["sky_offset"].unit == "sigma_pix"


# Cosmic rays


def ray(rng, image, band):
    cover = track_cover(
        (64, 64),
        x=rng.uniform(0, 63),
        y=rng.uniform(0, 63),
        angle=rng.uniform(0, np.pi),
        length_pix=rng.uniform(*TRACK_LENGTH_PIX),
    )
    image[band] += np.exp(rng.uniform(*np.log(TRACK_PEAK_SIGMA))) * SIGMA_PIX[band] * cover


def test_planted_cosmic_rays_are_counted():
    planted = []

    def plant(k, image, rng):
        for b in range(3):
            if rng.random() < 0.10:
                planted.append(b)
                ray(rng, image, b)

    found = measure_cutouts(stamps(80, seed=6, change=plant))
    rate = found["cosmic_ray_rate"]
    assert rate.low < len(planted) / 240 < rate.high
    assert rate.value == pytest.approx(len(planted) / 240, rel=0.15)
    assert not rate.low < 2 * len(planted) / 240 < rate.high
    assert found["cosmic_ray_efficiency"].value > 0.85
    for b, band in enumerate(BANDS):
        one = found[f"cosmic_ray_rate_{band}"]
        assert one.low < planted.count(b) / 80 < one.high


def test_without_cosmic_rays_none_is_found_and_the_bound_is_printed(quiet):
    rate = quiet["cosmic_ray_rate"]
    trials = 3 * 32 * quiet["cosmic_ray_efficiency"].value
    assert (rate.value, rate.low) == (0.0, 0.0)
    assert rate.high == pytest.approx(3.0 / trials, rel=0.02)
    assert f"none in {trials:.4g}" in rate.detail
    assert f"upper bound 3/{trials:.4g} = " in str(rate)


@pytest.mark.parametrize("fwhm", [0.76, 0.9, 1.3])
def test_stars_in_one_band_are_no_cosmic_rays(fwhm):
    rng = np.random.default_rng(7)
    kernel = moffat_kernel(fwhm, 3.0, pixel_scale=0.262)
    dead = np.zeros((3, 64, 64), bool)
    sigma = np.broadcast_to(SIGMA_PIX[:, None, None], (3, 64, 64))
    tracks = 0
    for _ in range(25):
        image = noise(rng)
        x, y = rng.uniform(3, 60, (2, 8))
        peak = np.exp(rng.uniform(np.log(5), np.log(200), 8))
        flux = peak * SIGMA_PIX[1] / kernel.max()
        image[1] += convolve(spread_points((64, 64), x, y, flux), kernel)
        tracks += sum(len(points) for points in find_tracks(image, sigma, dead))
    assert tracks <= 1  # of 200 stars


def test_the_same_track_in_two_bands_or_spread_by_the_psf_is_none():
    rng = np.random.default_rng(8)
    sigma = np.broadcast_to(SIGMA_PIX[:, None, None], (3, 64, 64))
    dead = np.zeros((3, 64, 64), bool)
    line = track_cover((64, 64), x=20.0, y=40.0, angle=0.3, length_pix=12.0)
    spread = convolve(line, moffat_kernel(1.1, 3.0, pixel_scale=0.262))
    counts = []
    for shape, bands in ((line, [1]), (line, [0, 1]), (spread / spread.max(), [1])):
        image = noise(rng)
        for b in bands:
            image[b] += 20.0 * SIGMA_PIX[b] * shape
        counts.append([len(points) for points in find_tracks(image, sigma, dead)])
    assert counts == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    image = noise(rng)
    image[1] += 20.0 * SIGMA_PIX[1] * line
    dead[1, 30:50, 10:30] = True
    assert not find_tracks(image, sigma, dead)[1].size


def test_the_tracks_planted_here_are_those_that_the_nuisances_draw():
    track = Track("r", x=20.3, y=40.1, angle=0.7, length_pix=11.0, peak=9.0)
    mine = track_cover((64, 50), x=20.3, y=40.1, angle=0.7, length_pix=11.0)
    assert np.array_equal(mine, track.cover((64, 50)))
    prior = Nuisances()
    assert (prior.cosmic_ray_length_pix.low, prior.cosmic_ray_length_pix.high) == TRACK_LENGTH_PIX
    assert (prior.cosmic_ray_peak.low, prior.cosmic_ray_peak.high) == TRACK_PEAK_SIGMA


def test_a_psf_as_sharp_as_a_track_makes_the_search_impossible():
    class Sharp(Patch):
        psf = np.stack([moffat_kernel(0.5, 3.0, pixel_scale=0.262)] * 3)

    sharp = [Sharp(patch.image, patch.invvar) for patch in stamps(3)]
    found = measure_cutouts(sharp)["cosmic_ray_rate"]
    assert found.status is Status.NOT_EVALUATED
    assert "sharper" in found.detail


# Losses


def test_strips_missing_bands_and_saturation_are_counted():
    def lose(k, image, rng):
        if k < 3:
            image[k % 3, :, 20:22] = 0.0
        if k == 5:
            image[2] = 0.0
        if k == 6:
            image[0] = np.nan

    mask = np.zeros((64, 64), np.int32)
    lit = mask.copy()
    lit[3, 3] = MASK_BITS["SATUR_R"]
    patches = [
        Patch(p.image, p.invvar, mask=lit if k < 4 else mask, where=p.where)
        for k, p in enumerate(stamps(20, change=lose))
    ]
    found = measure_cutouts(patches)
    expected = {"strip_rate": 3 / 20, "missing_band_rate": 2 / 20, "saturated_rate": 4 / 20}
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value)
        assert 0 < found[name].low < value < found[name].high
    weighed = [Patch(p.image, p.invvar.copy()) for p in stamps(10)]
    weighed[0].invvar[1, 40] = 0.0
    assert measure_cutouts(weighed)["strip_rate"].value == pytest.approx(0.1)


def test_what_cannot_be_measured_says_why():
    found = measure_cutouts(stamps(3, weights=False))
    assert found["saturated_rate"].status is Status.NOT_EVALUATED
    assert "mask" in found["saturated_rate"].detail
    assert found["trail_rate"].status is Status.NOT_EVALUATED
    assert found["sky_offset"].status is Status.NOT_EVALUATED
    assert found["acf_r_x1"].low is None  # three stamps are no sample
    assert "mask" in found["strip_rate"].detail
    for quantity in found.quantities:
        assert (quantity.value is None) == (quantity.status is Status.NOT_EVALUATED)
        assert quantity.value is not None or quantity.detail, quantity.name
        assert quantity.what
    dead = [Patch(np.zeros((3, 64, 64)))]
    assert measure_cutouts(dead)["missing_band_rate"].value == 1.0
    assert measure_cutouts(dead)["acf_g_x1"].status is Status.NOT_EVALUATED


def test_a_large_cutout_counts_as_the_stamps_it_is_made_of():
    rng = np.random.default_rng(9)
    found = measure_cutouts([Patch(noise(rng, 192))])
    assert (found.n_cutouts, found.n_stamps) == (1, 9)
    efficiency = found["cosmic_ray_efficiency"].value
    assert found["cosmic_ray_rate"].n == round(27 * efficiency)
    assert found["acf_r_x1"].value == pytest.approx(DECLARED[1], abs=0.02)
    assert "tiles" in found["acf_r_x1"].method
    halves = measure_cutouts([Patch(noise(rng, 192))], stamp_pix=96)
    assert (halves.n_stamps, halves.stamp_pix) == (4, 96)


def test_input_that_does_not_fit_is_refused_with_its_name():
    image = next(stamps(1)).image
    for wrong in (
        Patch(image[:2], where="two bands"),
        Patch(image, np.ones((3, 5, 5)), where="small weights"),
        Patch(image, mask=np.zeros((5, 5), np.int32), where="small mask"),
    ):
        with pytest.raises(DataError, match=wrong.where):
            measure_cutouts([wrong])
    with pytest.raises(DataError, match="no cutout"):
        measure_cutouts([])
    with pytest.raises(DataError, match="acf_r_x9"):
        measure_cutouts(stamps(1))["acf_r_x9"]


# Files and the snippet


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    def plant(k, image, rng):
        if k % 3 == 0:
            ray(rng, image, 1)

    path = tmp_path_factory.mktemp("cutouts") / "mine.npz"
    patches = list(stamps(24, seed=10, change=plant))
    np.savez(path, images=np.stack([p.image for p in patches]), invvar=np.stack([p.invvar for p in patches]))
    return path


@pytest.fixture(scope="module")
def measured(file):
    return calibrate_files([file])


def test_a_snippet_states_what_its_rates_were_measured_on(file, measured):
    found = measured
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert [(f.name, f.sha256, f.n_cutouts) for f in found.files] == [("mine.npz", digest, 24)]
    text = found.to_yaml()
    data = yaml.safe_load(text)
    prior = parse(data["recipe"]["imaging"], Nuisances, "snippet")
    assert prior.cosmic_ray_rate.per_stamp == pytest.approx(found["cosmic_ray_rate"].value, rel=1e-3)
    assert digest[:16] in prior.cosmic_ray_rate.measured
    assert "24 cutouts" in prior.cosmic_ray_rate.measured
    assert "cosmic_ray_rate" not in prior.unmeasured()
    assert {"strip_rate", "trail_rate", "star_rate", "blob_rate"} <= set(prior.unmeasured())
    assert prior.noise_ratio.mean == pytest.approx(0.893, abs=0.01)
    assert prior.sky_offset == pytest.approx(found["sky_offset"].value, abs=1e-4)
    for line in ("strip_rate: none in 24", "trail_rate: NOT_EVALUATED", "acf_r_x1 = 0."):
        assert line in text
    assert digest in text


def test_measuring_again_gives_the_same_numbers(file, measured):
    again = calibrate_files([str(file)])
    assert again == measured
    assert str(again) == str(measured)


def test_a_file_that_cannot_be_read_stops_the_measurement(file, tmp_path):
    with pytest.raises(DataError, match=r"gone\.npz"):
        calibrate_files([file, tmp_path / "gone.npz"])


@pytest.mark.realdata
def test_real_des_galaxies_have_the_noise_of_the_priors(real_data):
    found = calibrate_files([real_data / "hosts" / "des46_grz_91.npz"], 0.263)
    expected = {"x1": 0.123, "x2": -0.047, "x3": 0.036, "y1": 0.134, "y2": -0.059, "y3": 0.045, "d11": 0.032}
    for lag, value in expected.items():
        assert found[f"acf_r_{lag}"].value == pytest.approx(value, abs=0.03), lag
    assert [found[f"sigma_pix_{band}"].value for band in BANDS] == pytest.approx(
        [0.00254, 0.00378, 0.0112], rel=0.05
    )
    assert found["cosmic_ray_rate"].value == 0.0
    assert found["cosmic_ray_rate"].high < 0.02
    assert found["noise_ratio"].status is Status.NOT_EVALUATED


@pytest.mark.realdata
def test_a_real_legacy_surveys_cutout_has_the_noise_of_the_priors(real_data):
    path = real_data / "cutouts" / "ls_dr9_59.1067_-30.4848_grz_256_image_invvar.fits"
    found = calibrate_files([path])
    expected = {
        "g": (0.123, -0.070, 0.036, 0.107, -0.075, 0.033, 0.014),
        "r": (0.116, -0.072, 0.038, 0.120, -0.063, 0.034, 0.019),
        "z": (0.109, -0.070, 0.025, 0.130, -0.096, 0.026, 0.016),
    }
    for band, values in expected.items():
        got = [found[f"acf_{band}_{lag}"].value for lag, _, _ in LAGS]
        assert got == pytest.approx(values, abs=0.03), band
    ratios = [found[f"noise_ratio_{band}"].value for band in BANDS]
    assert ratios == pytest.approx([0.915, 0.907, 0.894], abs=0.02)
    assert found["cosmic_ray_rate"].value == 0.0
    stripes = calibrate_files([real_data / "cutouts" / "ls_bad_pixels_missing_band.fits"])
    assert stripes["missing_band_rate"].value > 0.3
    assert stripes["cosmic_ray_rate"].status is Status.NOT_EVALUATED
