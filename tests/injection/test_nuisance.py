"""Domain randomisation: one realisation per pair, rates as configured, units of noise, nothing smoothed."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy import stats as distributions

from darkhaloscope.contracts.config import canonical, parse
from darkhaloscope.contracts.errors import ConfigError
from darkhaloscope.contracts.random import stream
from darkhaloscope.injection import nuisance
from darkhaloscope.injection.imaging import add_to
from darkhaloscope.injection.nuisance import (
    BrightStar,
    Imaging,
    Nuisances,
    Rate,
    Strip,
    Track,
    Trail,
    apply_nuisances,
    arc_psf,
    draw_nuisances,
    saturation_level,
    shift_image,
    star_light,
)
from darkhaloscope.stamps.stamp import Stamp
from darkhaloscope.survey.noise import correlated_noise, pixel_rms_ratio
from darkhaloscope.survey.psf import moffat_kernel
from darkhaloscope.survey.release import BANDS, MASK_BITS

SIGMA_W = np.array([0.0026, 0.0037, 0.0112])
FWHM = (1.29, 1.18, 1.11)
ALWAYS = Nuisances(
    **{
        name: Rate(per_stamp=1.0)
        for name in Nuisances().rates()
        if name != "missing_band_rate"
    }
)  # fmt: skip
QUIET = {name: Rate(per_stamp=0.0) for name in Nuisances().rates()}


def draw(prior=None, task="t#0", seed=1, shape=(64, 64), nexp=(5, 5, 5), **rest):
    prior = Nuisances() if prior is None else prior
    return draw_nuisances(
        prior, seed=seed, task=task, nexp=nexp, psf_fwhm_arcsec=FWHM, shape=shape, **rest
    )  # fmt: skip


def blank_stamp(size=64, seed=0, sigma_w=SIGMA_W):
    """Blank sky: correlated noise and the inverse variance that belongs to it."""
    rng = np.random.default_rng(seed)
    image = np.stack([correlated_noise(np.full((size, size), s), rng) for s in sigma_w])
    invvar = np.ones_like(image) / sigma_w[:, None, None] ** 2
    psf = np.stack([moffat_kernel(f / 1.06, 3.0, pixel_scale=0.262) for f in FWHM])
    return Stamp(
        image=image.astype(np.float32),
        invvar=invvar.astype(np.float32),
        mask=np.zeros((size, size), np.int32),
        psf=psf.astype(np.float32),
        x_center_pix=(size - 1) / 2,
        y_center_pix=(size - 1) / 2,
        pixel_scale_arcsec=0.262,
    )


@pytest.fixture(scope="module")
def stamp():
    return blank_stamp()


# One realisation per pair


def test_a_pair_differs_by_its_arc_and_by_nothing_else(host_row):
    host = Stamp.from_row(host_row(0), where="host")
    arc = np.zeros(host.image.shape)
    arc[:, 20:30, 35:40] = 0.02
    for k in range(20):
        imaging = draw(ALWAYS, task=f"t#{k}")
        control = apply_nuisances(host, imaging, where="t")
        lit = add_to(control.image, arc, arc != 0)
        dark = arc == 0
        assert np.array_equal(lit[dark], control.image[dark])
        difference = lit.astype(np.float64) - control.image.astype(np.float64)
        assert np.abs(difference - arc).max() <= 2 * np.spacing(np.abs(lit).max())
    other = apply_nuisances(host, draw(ALWAYS, task="t#99"), where="t")
    assert np.abs(other.image[dark] - control.image[dark]).max() > 1e-3  # two realisations would show


def test_what_is_drawn_depends_neither_on_order_nor_on_company(stamp):
    tasks = [f"t#{k}" for k in range(12)]
    forwards = {task: draw(ALWAYS, task) for task in tasks}
    backwards = {task: draw(ALWAYS, task) for task in reversed(tasks)}
    assert forwards == backwards
    one = apply_nuisances(stamp, forwards["t#3"], where="t")
    [apply_nuisances(stamp, imaging, where="t") for imaging in forwards.values()]
    two = apply_nuisances(stamp, pickle.loads(pickle.dumps(backwards["t#3"])), where="t")
    for name in ("image", "invvar", "mask"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert draw(ALWAYS, "t#3", seed=2) != forwards["t#3"]


def test_every_nuisance_has_a_stream_of_its_own(monkeypatch, stamp):
    used = []

    def spy(seed, purpose, target):
        used.append((seed, purpose, target))
        return stream(seed, purpose, target)

    monkeypatch.setattr(nuisance, "stream", spy)
    apply_nuisances(stamp, draw(ALWAYS), where="t")
    assert len(used) == len(set(used)) > 12
    assert {seed for seed, _, _ in used} == {1}
    assert {target for _, _, target in used} == {"t#0"}
    assert all(purpose.startswith("nuisance/") for _, purpose, _ in used)
    first = [stream(*key).random() for key in used]
    assert len(set(first)) == len(first)


def test_the_rate_of_one_nuisance_leaves_the_others_alone():
    for k in range(30):
        plain = draw(Nuisances(**QUIET), f"t#{k}")
        streaked = draw(Nuisances(**QUIET | {"cosmic_ray_rate": Rate(per_stamp=1.0)}), f"t#{k}")
        assert replace(streaked, cosmic_rays=()) == plain
        assert [ray.band for ray in streaked.cosmic_rays] == list(BANDS)


def test_no_imaging_leaves_the_stamp_alone(stamp):
    assert apply_nuisances(stamp, Imaging.none(), where="t") is stamp
    assert Imaging.none().flags == ""
    assert arc_psf(stamp.psf, Imaging.none()) is stamp.psf


# Rates


def hits(prior, happened, n=3000, **rest):
    return sum(happened(draw(prior, f"t#{k}", shape=(24, 24), **rest)) for k in range(n))


EVENTS = {
    "cosmic_ray_rate": (lambda i: len(i.cosmic_rays), 3),
    "trail_rate": (lambda i: i.trail is not None, 1),
    "star_rate": (lambda i: i.star is not None, 1),
    "strip_rate": (lambda i: i.strip is not None, 1),
    "blob_rate": (lambda i: i.blob is not None, 1),
    "missing_band_rate": (lambda i: i.missing is not None, 1),
}


def test_rates_come_out_as_configured_and_doubled_ones_do_not():
    n, rate = 3000, 0.06
    prior = Nuisances(**QUIET | {name: Rate(per_stamp=rate) for name in EVENTS})
    double = Nuisances(**QUIET | {name: Rate(per_stamp=2 * rate) for name in EVENTS})
    found = dict.fromkeys(EVENTS, 0)
    wrong = dict(found)
    for k in range(n):
        once, twice = (draw(p, f"t#{k}", shape=(30, 30)) for p in (prior, double))
        for name, (count, _) in EVENTS.items():
            found[name] += count(once)
            wrong[name] += count(twice)
            assert count(twice) >= count(once)  # common random numbers: a higher rate only adds
    for name, (_, per_stamp) in EVENTS.items():
        low, high = distributions.binom.interval(0.9999, n * per_stamp, rate)
        assert low <= found[name] <= high, name
        assert not low <= wrong[name] <= high, name


def test_a_single_exposure_lets_more_cosmic_rays_through_than_three():
    prior = Nuisances(
        **QUIET | {"cosmic_ray_rate": Rate(per_stamp=0.01), "cosmic_ray_rate_single": Rate(per_stamp=0.16)}
    )
    counts = [hits(prior, lambda i: len(i.cosmic_rays), n=1500, nexp=(n, n, n)) / 4500 for n in (1, 2, 3, 8)]
    assert counts == pytest.approx([0.16, 0.04, 0.01, 0.01], rel=0.25)


def test_rates_without_a_measurement_are_named():
    assert set(Nuisances().unmeasured()) == set(EVENTS) | {"cosmic_ray_rate_single"}
    text = "des46_grz_91.npz sha256:0123, 3 of 46 stamps"
    measured = Nuisances(strip_rate=Rate(per_stamp=0.07, measured=text))
    assert "strip_rate" not in measured.unmeasured()
    assert text in str(measured.strip_rate)
    for name in Nuisances().rates():
        basis = Nuisances.model_fields[name].json_schema_extra["basis"]
        assert "measured: none" in basis, name


def test_a_file_may_give_a_rate_with_or_without_its_measurement():
    data = {"trail_rate": 0.004, "blob_rate": {"per_stamp": 0.1, "measured": "here, n = 70"}}
    read = parse(data, Nuisances, "test")
    assert read.trail_rate == Rate(per_stamp=0.004)
    assert read.blob_rate.is_measured
    assert parse(canonical(read), Nuisances, "test") == read
    for wrong in ({"trail_rate": 1.4}, {"trail_rate": -0.1}, {"trail_rates": 0.1}, {"trail_rate": True}):
        with pytest.raises(ConfigError, match="trail_rate"):
            parse(wrong, Nuisances, "test")


CHANGED = {
    "psf_fwhm_common": 0.1,
    "psf_fwhm_band": 0.1,
    "psf_ellipticity": {"scale": 0.05, "high": 0.2},
    "noise_ratio": {"mean": 0.8, "sd": 0.05, "low": 0.7, "high": 1.0},
    "sky_offset": 0.3,
    "sky_gradient": 0.3,
    "zero_point_common": 0.1,
    "zero_point_band": 0.1,
    "registration_arcsec": 0.1,
    "cosmic_ray_rate": 0.0,
    "cosmic_ray_rate_single": 0.0,
    "cosmic_ray_length_pix": {"low": 4.0, "high": 5.0},
    "cosmic_ray_peak": {"low": 8.0, "high": 9.0},
    "trail_rate": 0.0,
    "trail_peak": {"low": 3.0, "high": 4.0},
    "star_rate": 0.0,
    "star_beyond_arcsec": {"low": 1.0, "high": 2.0},
    "strip_rate": 0.0,
    "strip_width_pix": [7, 9],
    "blob_rate": 0.0,
    "blob_r": {"low": 21.0, "high": 22.0},
    "blob_beyond_arcsec": 7.0,
    "blob_g_r": {"mean": 0.2, "sd": 0.1, "low": 0.0, "high": 1.0},
    "blob_r_z": {"mean": 0.2, "sd": 0.1, "low": 0.0, "high": 1.0},
    "blob_radius": {"median": 1.0, "sigma": 0.1, "low": 0.1, "high": 3.0},
    "blob_q": {"low": 0.1, "high": 0.2},
    "missing_band_rate": 1.0,
    "missing_band_mode": "zero",
    "star": {"r": {"low": 9.0, "high": 9.5}},
}
STAR = {
    "r": {"low": 9.0, "high": 9.5},
    "slope": 2.2,
    "share": 0.2,
    "width_pix": 5.0,
    "angle_scatter_deg": 20.0,
    "length_arcsec": 30.0,
    "halo_share": 0.1,
    "bleed_pix": {"low": 5.0, "high": 6.0},
    "bleed_reach_pix": 20.0,
}


def test_every_field_changes_what_is_drawn():
    assert set(CHANGED) == set(Nuisances.model_fields)
    base = canonical(ALWAYS)

    def drawn(data):
        return [draw(parse(data, Nuisances, "test"), f"t#{k}", nexp=(1, 4, 4)) for k in range(4)]

    reference = drawn(base)
    for name, value in CHANGED.items():
        assert drawn(base | {name: value}) != reference, name
    assert set(STAR) == set(type(Nuisances().star).model_fields)
    for name, value in STAR.items():
        assert drawn(base | {"star": base["star"] | {name: value}}) != reference, name


# Registration


def high_power(field, low=0.25, high=0.40):
    """Power at spatial frequencies within [low, high) cycles per pixel along an axis, edges left out."""
    inner = field[8:-8, 8:-8] * np.outer(np.hanning(field.shape[0] - 16), np.hanning(field.shape[1] - 16))
    power = np.abs(np.fft.fft2(inner)) ** 2
    along = np.abs(np.fft.fftfreq(inner.shape[0]))
    keep = (along >= low) & (along < high)
    return power[keep].sum() + power[:, keep].sum()


def bilinear(field, dx, dy):
    along = (1 - dx) * field + dx * np.roll(field, 1, axis=1)
    return (1 - dy) * along + dy * np.roll(along, 1, axis=0)


def test_registration_keeps_flux_and_does_not_smooth():
    rng = np.random.default_rng(5)
    noise = [correlated_noise(np.ones((96, 96)), rng) for _ in range(6)]
    before = sum(high_power(field) for field in noise)
    kept = sum(high_power(shift_image(field, 0.08, -0.08)) for field in noise) / before
    smoothed = sum(high_power(bilinear(field, 0.08, 0.08)) for field in noise) / before
    assert kept == pytest.approx(1.0, abs=0.03)
    assert smoothed < 0.9
    star = np.pad(moffat_kernel(1.11, 3.0, pixel_scale=0.262), 20)
    for dx, dy in ((0.08, -0.03), (-0.4, 0.3), (1.3, -2.2)):
        moved = shift_image(star, dx, dy)
        assert moved.sum() == pytest.approx(1.0, abs=1e-3)
        y, x = np.indices(moved.shape)
        centre = [(moved * axis).sum() / moved.sum() - (len(star) - 1) / 2 for axis in (x, y)]
        assert centre == pytest.approx([dx, dy], abs=0.021)
    assert shift_image(star, 0.0, 0.0) == pytest.approx(star, abs=1e-15)


def test_pixels_from_outside_keep_the_edge_and_weights_stay_weights(stamp):
    flat = replace(stamp, image=np.full_like(stamp.image, 3.0))
    moved = apply_nuisances(flat, Imaging(shift_pix=((0.6, -0.2),) * 3), where="t")
    assert moved.image == pytest.approx(3.0, abs=1e-5)
    lost = stamp.invvar.copy()
    lost[1, 30, 30] = 0.0
    mask = stamp.mask.copy()
    mask[30, 30] = MASK_BITS["ALLMASK_R"]
    mask[10, 10] = MASK_BITS["GALAXY"]
    moved = apply_nuisances(
        replace(stamp, invvar=lost, mask=mask), Imaging(shift_pix=((0.1, 0.1),) * 3), where="t"
    )
    assert np.argwhere(moved.invvar[1] == 0.0).tolist() == [[30, 30], [30, 31], [31, 30], [31, 31]]
    assert (moved.invvar[[0, 2]] > 0.0).all()
    assert np.array_equal(moved.mask & MASK_BITS["ALLMASK_R"] != 0, moved.invvar[1] == 0.0)
    assert (moved.mask & MASK_BITS["GALAXY"] != 0).sum() == 1  # a galaxy's mask is on the sky, not in a band


def test_bands_are_registered_each_on_its_own_and_as_widely_as_configured():
    shifts = np.array([draw(task=f"t#{k}").shift_pix for k in range(1500)])
    assert shifts.std(axis=0) == pytest.approx(0.02 / 0.262, rel=0.06)
    flat = shifts.reshape(-1, 6)
    assert np.abs(np.corrcoef(flat.T) - np.eye(6)).max() < 0.1
    wide = np.array(draw(pixel_scale_arcsec=0.131).shift_pix)
    assert wide == pytest.approx(2 * np.array(draw().shift_pix))


# Light, noise and losses


def test_a_cosmic_ray_is_in_units_of_the_blank_pixels_noise():
    peak, sigma_pix = 20.0, pixel_rms_ratio() * SIGMA_W
    for size in (32, 64):
        stamp = blank_stamp(size)
        # A galaxy that a standard deviation of the stamp would take for noise.
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        bright = stamp.image + np.float32(1.0) * np.exp(-np.hypot(x, y) / 3).astype(np.float32)
        stamp = replace(stamp, image=bright)
        for b, band in enumerate(BANDS):
            ray = Track(band, x=20.3, y=9.6, angle=0.5, length_pix=12.0, peak=peak)
            after = apply_nuisances(stamp, Imaging(cosmic_rays=(ray,)), where="t")
            added = after.image.astype(float) - stamp.image
            assert added[b].max() == pytest.approx(peak * sigma_pix[b], rel=0.01)
            assert added.min() > -1e-6
            assert not np.delete(added, b, axis=0).any()
            assert np.array_equal(after.mask, stamp.mask)  # nobody has noticed it
            assert (added[b] > 0.3 * added[b].max()).sum() < 2.2 * 12  # no PSF has widened it


def test_drawn_tracks_have_the_configured_lengths_and_peaks():
    prior = Nuisances(**QUIET | {"cosmic_ray_rate": Rate(per_stamp=1.0)})
    rays = [ray for k in range(400) for ray in draw(prior, f"t#{k}").cosmic_rays]
    length, peak = (np.array([getattr(ray, name) for ray in rays]) for name in ("length_pix", "peak"))
    assert distributions.kstest(length, distributions.uniform(3, 22).cdf).pvalue > 1e-3
    assert distributions.kstest(peak, distributions.loguniform(5, 50).cdf).pvalue > 1e-3
    assert distributions.kstest(peak, distributions.loguniform(5, 60).cdf).pvalue < 1e-3
    assert all(ray.cover((64, 64)).max() == 1.0 for ray in rays[:50])


def test_a_trail_crosses_the_stamp_as_wide_as_the_seeing():
    trail = Trail("z", x=30.0, y=20.0, angle=0.0, fwhm_pix=4.0, peak=5.0)
    cover = trail.cover((64, 64))
    assert (cover[20] == 1.0).all()
    assert cover[[18, 22]] == pytest.approx(0.5)
    drawn = draw(Nuisances(**QUIET | {"trail_rate": Rate(per_stamp=1.0)}))
    assert drawn.trail.fwhm_pix == pytest.approx(FWHM[BANDS.index(drawn.trail.band)] / 0.262)


@pytest.mark.parametrize("scale", [1.03, 1.5])
def test_more_noise_means_more_variance_by_the_square_of_the_scale(scale):
    ratio = []
    for k in range(12):
        stamp = blank_stamp(128, seed=k)
        after = apply_nuisances(stamp, Imaging(task=str(k), noise_scale=(scale,) * 3), where="t")
        assert np.array_equal(after.invvar, stamp.invvar)
        ratio.append(after.image.var(axis=(1, 2)) / stamp.image.var(axis=(1, 2)))
    assert np.mean(ratio) == pytest.approx(scale**2, rel=0.02)
    assert np.mean(ratio) != pytest.approx(scale, rel=0.02)
    # Bands must not share the noise that is added.
    added = (after.image - stamp.image).reshape(3, -1)
    assert np.abs(np.corrcoef(added) - np.eye(3)).max() < 0.05


def test_noise_cannot_be_taken_away_but_the_weights_can_claim_more_of_it(stamp):
    after = apply_nuisances(stamp, Imaging(noise_scale=(0.9, 1.0, 1.0)), where="t")
    assert np.array_equal(after.image, stamp.image)
    assert after.invvar[0] == pytest.approx(0.81 * stamp.invvar[0], rel=1e-6)
    assert np.array_equal(after.invvar[1:], stamp.invvar[1:])


def test_zero_points_multiply_the_image_and_divide_the_weights(stamp):
    after = apply_nuisances(stamp, Imaging(flux_scale=(1.02, 1.0, 0.99)), where="t")
    for b, f in enumerate((1.02, 1.0, 0.99)):
        assert after.image[b] == pytest.approx(f * stamp.image[b], rel=1e-6)
        assert after.invvar[b] == pytest.approx(stamp.invvar[b] / f**2, rel=1e-6)
    scales = np.array([draw(task=f"t#{k}").flux_scale for k in range(1500)])
    mags = -2.5 * np.log10(scales)
    assert mags.std(axis=0) == pytest.approx(np.hypot(0.010, 0.004), rel=0.06)
    assert np.corrcoef(mags.T)[0, 2] == pytest.approx(0.004**2 / (0.010**2 + 0.004**2), abs=0.08)


def test_the_sky_left_behind_is_an_offset_and_a_plane(stamp):
    sky = ((0.1, 0.4, 0.0), (0.0, 0.0, -0.2), (0.0, 0.0, 0.0))
    added = apply_nuisances(stamp, Imaging(sky=sky), where="t").image - stamp.image
    sigma_pix = pixel_rms_ratio() * SIGMA_W
    assert added[0].mean() == pytest.approx(0.1 * sigma_pix[0], rel=0.01)
    assert (added[0, :, -1] - added[0, :, 0]).mean() == pytest.approx(0.4 * sigma_pix[0], rel=0.01)
    assert (added[1, -1] - added[1, 0]).mean() == pytest.approx(-0.2 * sigma_pix[1], rel=0.01)
    assert not added[2].any()


def bright_star(x=32.0, y=70.0, flux=4000.0, **changed):
    form = dict(
        angle=0.0, length_arcsec=20.0, width_arcsec=0.5, slope=1.6, spike_share=0.01, halo_share=0.003,
        bleed_pix=2.0, bleed_reach_pix=5.0,
    )  # fmt: skip
    colours = (0.5 * flux, flux, 1.6 * flux)
    return BrightStar(x=x, y=y, flux=colours, fwhm_arcsec=FWHM, **form | changed)


def test_a_star_s_light_is_its_flux_however_little_of_it_the_stamp_sees():
    star = bright_star(x=450.0, y=450.0, length_arcsec=8.0)
    whole = star_light(star, 1, (901, 901)).sum() / star.flux[1]
    assert whole == pytest.approx(1.0 + star.spike_share + star.halo_share, abs=1e-3)
    near = star_light(bright_star(x=32.0, y=90.0, length_arcsec=8.0), 1, (64, 64))
    far = star_light(bright_star(x=450.0, y=450.0, length_arcsec=8.0), 1, (901, 901))
    assert near == pytest.approx(far[360:424, 418:482], rel=1e-9)


def test_spikes_and_saturation_are_the_same_in_all_bands(stamp):
    imaging = Imaging(star=bright_star(y=62.0, flux=40000.0))
    after = apply_nuisances(stamp, imaging, where="t")
    assert imaging.flags == "spike"
    added = after.image.astype(float) - stamp.image
    for b, band in enumerate(BANDS):
        lost = after.mask & MASK_BITS[f"SATUR_{band.upper()}"] != 0
        assert lost.any()
        assert np.array_equal(lost, after.invvar[b] == 0.0)
        assert after.image[b][lost] == pytest.approx(saturation_level(band), rel=1e-6)
        # The bleed runs down the star's column, and the spike shows in every band at the same place.
        assert lost[:, 32].sum() > lost[:, 20].sum()
        assert added[b, 10:30, 32].mean() > 1.5 * added[b, 10:30, 26].mean()
        assert (after.invvar[b] <= stamp.invvar[b]).all()
    faint = apply_nuisances(stamp, Imaging(star=bright_star(y=75.0, flux=50.0)), where="t")
    assert not faint.mask.any()


def test_a_star_s_photons_are_in_the_noise_and_in_the_weights():
    stamp = blank_stamp(64, seed=2)
    star = bright_star(y=68.0, flux=8000.0)
    light = star_light(star, 2, (64, 64))
    chi = []
    for k in range(30):
        after = apply_nuisances(stamp, Imaging(task=str(k), star=star), where="t")
        noise = after.image[2].astype(float) - stamp.image[2] - light
        seen = (light > 0.03) & (after.invvar[2] > 0)
        photons = 1 / after.invvar[2][seen].astype(float) - 1 / stamp.invvar[2][seen]
        chi.append((noise[seen] ** 2 / photons).mean())
    assert np.mean(chi) == pytest.approx(pixel_rms_ratio() ** 2, rel=0.08)


def test_a_bad_strip_is_filled_from_its_neighbours_and_counts_no_more(stamp):
    ramp = np.broadcast_to(np.arange(64, dtype=np.float32), (3, 64, 64)).copy()
    for axis in ("x", "y"):
        image = ramp if axis == "x" else ramp.transpose(0, 2, 1).copy()
        noisy = image.copy()
        inside = (slice(None), slice(20, 23)) if axis == "x" else (slice(20, 23), slice(None))
        noisy[1][inside] = 99.0
        after = apply_nuisances(
            replace(stamp, image=noisy), Imaging(strip=Strip("r", axis, start=20, width=3)), where="t"
        )
        assert after.image == pytest.approx(image, abs=1e-4)
        lost = np.zeros((64, 64), bool)
        lost[inside] = True
        assert np.array_equal(after.invvar[1] == 0, lost)
        assert (after.invvar[[0, 2]] > 0).all()
        assert np.array_equal(after.mask, lost * MASK_BITS["ALLMASK_R"])
    edge = apply_nuisances(
        replace(stamp, image=ramp), Imaging(strip=Strip("g", "x", start=0, width=2)), where="t"
    )
    assert (edge.image[0, :, :2] == 2.0).all()


def test_a_missing_band_is_a_reject_code_or_a_band_of_zeros(stamp):
    prior = Nuisances(**QUIET | {"missing_band_rate": Rate(per_stamp=1.0)})
    assert apply_nuisances(stamp, draw(prior), where="t") == "missing_band"
    prior = Nuisances(
        **QUIET | {"missing_band_rate": Rate(per_stamp=1.0), "missing_band_mode": "zero"}
    )  # fmt: skip
    imaging = draw(prior)
    b = BANDS.index(imaging.missing)
    after = apply_nuisances(stamp, imaging, where="t")
    assert not after.image[b].any()
    assert not after.invvar[b].any()
    assert (after.mask & MASK_BITS[f"ALLMASK_{BANDS[b].upper()}"] != 0).all()
    assert imaging.flux_scale[b] == 0.0  # so that no arc shines in a band that is not there
    assert (np.delete(after.invvar, b, axis=0) > 0).all()
    assert imaging.flags == f"missing_band:{imaging.missing}"


def test_a_blob_lies_outside_the_target_s_reach_and_keeps_its_flux(stamp):
    prior = Nuisances(**QUIET | {"blob_rate": Rate(per_stamp=1.0), "blob_r": {"low": 19.0, "high": 19.5}})
    radius, share = [], []
    for k in range(60):
        blob = draw(prior, f"t#{k}").blob
        radius.append(np.hypot(blob.x - 31.5, blob.y - 31.5) * 0.262)
        if 20 < blob.x < 44 and 20 < blob.y < 44:
            after = apply_nuisances(stamp, Imaging(blob=blob), where="t")
            share.append((after.image - stamp.image).sum(axis=(1, 2)) / blob.flux)
    assert min(radius) > 3.0
    assert np.mean(share) == pytest.approx(1.0, abs=0.06)
    assert draw(prior, shape=(16, 16)).blob is None  # no room


def test_flags_name_events_and_their_bands():
    imaging = Imaging(
        cosmic_rays=(Track("r", 1.0, 1.0, 0.0, 5.0, 9.0),),
        star=bright_star(),
        strip=Strip("g", "x", start=3, width=1),
        shift_pix=((0.1, 0.1),) * 3,
    )
    assert imaging.flags == "cosmic_ray:r,spike,strip:g"
    assert Imaging(shift_pix=((0.1, 0.1),) * 3, sky=((0.1, 0.0, 0.0),) * 3).flags == ""


# The arc's PSF


def shape_of(kernel):
    """FWHM (geometric mean), ellipticity and angle of the elliptical Moffat nearest to a kernel."""
    y, x = np.indices(kernel.shape) - kernel.shape[0] // 2

    def model(p):
        u, v = np.cos(p[4]) * x + np.sin(p[4]) * y, np.cos(p[4]) * y - np.sin(p[4]) * x
        return p[0] * (1 + (u / p[1]) ** 2 + (v / p[2]) ** 2) ** -p[3]

    found = optimize.least_squares(
        lambda p: (model(p) - kernel).ravel() / kernel.max(), [kernel.max(), 4.2, 3.9, 3.0, 0.6]
    )
    _, a, b, beta, angle = found.x
    a, b = abs(a), abs(b)
    if a < b:
        a, b, angle = b, a, angle + np.pi / 2
    return 2 * np.sqrt(2 ** (1 / beta) - 1) * np.sqrt(a * b), (a - b) / (a + b), angle % np.pi


@pytest.mark.parametrize("fwhm", [0.80, 1.10, 1.60])
@pytest.mark.parametrize("scale", [0.93, 1.04])
def test_the_arc_s_psf_is_wider_by_the_factor_drawn(fwhm, scale):
    psf = np.stack([moffat_kernel(fwhm, 3.0, pixel_scale=0.262)] * 3).astype(np.float32)
    imaging = Imaging(fwhm_scale=(scale, 1.0, 1.0), ellipticity=((0.0, 0.0), (0.0, 0.0), (0.05, 0.7)))
    bent = arc_psf(psf, imaging)
    assert bent.sum(axis=(1, 2)) == pytest.approx([1.0, 1.0, 1.0], abs=1e-6)
    before = shape_of(psf[0])[0]
    assert shape_of(bent[0])[0] / before == pytest.approx(scale, rel=0.005)
    assert np.array_equal(bent[1], psf[1])
    width, e, angle = shape_of(bent[2])
    assert width / before == pytest.approx(1.0, rel=0.005)
    assert e == pytest.approx(0.05, abs=0.002)
    assert angle == pytest.approx(0.7, abs=0.03)
    y, x = np.indices(bent[0].shape) - 15
    assert [(bent[0] * axis).sum() for axis in (x, y)] == pytest.approx([0.0, 0.0], abs=1e-6)


def test_the_psf_s_errors_are_as_large_as_configured():
    draws = [draw(task=f"t#{k}") for k in range(1500)]
    scale = np.log([imaging.fwhm_scale for imaging in draws])
    assert scale.std(axis=0) == pytest.approx(np.hypot(0.03, 0.015), rel=0.06)
    assert np.corrcoef(scale.T)[0, 1] == pytest.approx(0.8, abs=0.04)
    e = np.array([imaging.ellipticity for imaging in draws])[..., 0].ravel()
    assert distributions.kstest(e, distributions.rayleigh(scale=0.010).cdf).pvalue > 1e-3
    ratio = np.array([imaging.noise_scale for imaging in draws]).ravel()
    assert ratio.std() == pytest.approx(0.015 / 0.905, rel=0.05)
    assert ratio.mean() == pytest.approx(1.0, abs=0.002)


# Anything that can be drawn


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(12, 48),
    nexp=st.tuples(*[st.integers(0, 9)] * 3),
    mode=st.sampled_from(["reject", "zero"]),
    jitter=st.floats(0.0, 0.5),
    lost=st.integers(0, 40),
)
def test_whatever_is_drawn_gives_usable_pixels(seed, size, nexp, mode, jitter, lost):  # noqa: PLR0917
    rates = {name: Rate(per_stamp=0.6) for name in Nuisances().rates()}
    prior = Nuisances(**rates, missing_band_mode=mode, registration_arcsec=jitter, sky_offset=jitter)
    rng = np.random.default_rng(seed)
    stamp = blank_stamp(size, seed)
    stamp.invvar[rng.integers(0, 3, lost), rng.integers(0, size, lost), rng.integers(0, size, lost)] = 0.0
    stamp.mask[rng.integers(0, size, lost), rng.integers(0, size, lost)] = 0x4 | 0x1000
    imaging = draw(prior, seed=seed, shape=(size, size), nexp=nexp)
    after = apply_nuisances(stamp, imaging, where="t")
    if isinstance(after, str):
        assert (after, mode) == ("missing_band", "reject")
        return
    assert np.isfinite(after.image).all()
    assert np.isfinite(after.invvar).all()
    assert (after.invvar >= 0).all()
    assert (after.mask & stamp.mask == stamp.mask).all()
    assert ((after.invvar == 0) >= (stamp.invvar == 0)).all()
    assert after.image.dtype == after.invvar.dtype == np.float32
    assert arc_psf(stamp.psf, imaging).sum(axis=(1, 2)) == pytest.approx([1.0] * 3, abs=1e-5)
    assert np.array_equal(stamp.image, blank_stamp(size, seed).image)  # the host's own pixels are left alone


def test_a_band_without_a_single_weight_is_left_without_noise():
    stamp = blank_stamp(32)
    stamp.invvar[1] = 0.0
    after = apply_nuisances(stamp, draw(ALWAYS, shape=(32, 32)), where="t")
    assert np.isfinite(after.image).all()
    assert not after.invvar[1].any()
