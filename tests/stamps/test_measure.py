"""Masks, profiles, the shuffle and the signal-to-noise, each against its definition and a wrong one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.random import stream
from darkhaloscope.stamps.measure import (
    annulus_mask,
    arc_snr,
    arc_snr_mf,
    arc_snr_mf_bands,
    azimuthal_shuffle,
    core_box,
    core_dropout,
    core_flux_share,
    core_mask,
    fill_core,
    letter_center,
    median_and_spread,
    outer_mask,
    radial_profile,
    radius_map,
)

SHAPE = (3, 64, 64)
centers = st.floats(28.0, 35.0)


def _noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _ring(x_center=31.5, y_center=31.5, radius=8.0, width=1.2):
    r = radius_map((64, 64), x_center, y_center)
    return np.stack([amplitude * np.exp(-(((r - radius) / width) ** 2) / 2) for amplitude in (0.5, 1.0, 2.0)])


# geometry


def test_radius_is_measured_from_the_geometric_centre_by_default():
    r = radius_map(SHAPE)
    assert r.shape == (64, 64)
    assert r[31, 31] == r[32, 32] == pytest.approx(np.sqrt(0.5))
    assert np.array_equal(r, r[::-1, ::-1])
    assert radius_map((5, 7))[2, 3] == 0.0
    assert radius_map((5, 7), 6.0, 0.0)[0, 6] == 0.0  # x is the column


def test_each_row_of_a_batch_has_its_own_centre():
    x, y = np.array([31.5, 20.0]), np.array([31.5, 40.25])
    r = radius_map((2, 3, 64, 64), x, y)
    assert r.shape == (2, 64, 64)
    assert np.array_equal(r[1], radius_map(SHAPE, 20.0, 40.25))
    assert radius_map(SHAPE, x, 30.0).shape == (2, 64, 64)


@pytest.mark.parametrize("center", [np.nan, np.inf, np.zeros((2, 2))])
def test_a_centre_that_is_none_is_refused(center):
    with pytest.raises(DataError, match="centre"):
        radius_map(SHAPE, center, 31.5)


def test_the_core_box_is_the_letter_of_the_brief():
    x = _noise(0, 2, 3, 64, 64)
    assert np.array_equal(core_box(x), x[:, :, 27:37, 27:37])
    assert np.shares_memory(core_box(x), x)
    assert core_box(_noise(0, 3, 100, 100)).shape == (3, 10, 10)
    assert np.array_equal(core_box(np.arange(101)[None] * np.ones((101, 1)))[0], np.arange(45, 55))


def test_the_letter_of_the_brief_is_half_a_pixel_off_and_asked_for_by_name():
    middle, letter = core_mask(SHAPE), core_mask(SHAPE, letter_center(64), letter_center(64))
    assert letter_center(64) == 32.0
    assert middle.sum() == 80
    assert letter.sum() == 69
    assert np.array_equal(middle, middle[::-1, ::-1])
    assert not np.array_equal(letter, letter[::-1, ::-1])


@given(centers, centers)
@settings(deadline=None)
def test_masks_part_the_stamp_without_overlap(x, y):
    core, ring = core_mask(SHAPE, x, y), annulus_mask(SHAPE, 5.0, 20.0, x, y)
    rest = annulus_mask(SHAPE, 20.0, 100.0, x, y)
    assert np.array_equal(core.astype(int) + ring + rest, np.ones((64, 64)))
    r = radius_map(SHAPE, x, y)
    assert np.array_equal(outer_mask(SHAPE, x, y), r > 20)
    assert np.array_equal(core_mask(SHAPE, x, y, radius_pix=7.0), r < 7)


# background


def test_median_and_spread_are_those_of_the_masked_pixels():
    x, mask = _noise(1, 2, 3, 64, 64), outer_mask(SHAPE)
    median, spread = median_and_spread(x, mask)
    values = x[:, :, mask]
    assert median.shape == spread.shape == (2, 3, 1, 1)
    assert np.allclose(median[..., 0, 0], np.median(values, axis=-1))
    deviation = np.abs(values - np.median(values, axis=-1, keepdims=True))
    assert np.allclose(spread[..., 0, 0], 1.4826 * np.median(deviation, axis=-1))
    assert spread.mean() == pytest.approx(1.0, abs=0.05)  # MAD of a normal law, made its sigma


def test_background_of_a_row_does_not_depend_on_its_neighbours():
    x, c = _noise(2, 5, 3, 64, 64), np.array([31.5, 31.7, 30.0, 33.2, 31.5])
    median, spread = median_and_spread(x, outer_mask(x.shape, c, c))
    for row in range(5):
        alone = median_and_spread(x[row], outer_mask(SHAPE, c[row], c[row]))
        assert np.array_equal(alone[0], median[row])
        assert np.array_equal(alone[1], spread[row])


def test_background_shows_nan_and_refuses_what_does_not_fit():
    x = _noise(3, 2, 3, 64, 64)
    x[0, 1, 0, 0] = np.nan
    median, _ = median_and_spread(x, outer_mask(SHAPE))
    assert np.isnan(median[0, 1, 0, 0])
    assert np.isfinite(median).sum() == 5
    with pytest.raises(DataError, match="no pixels"):
        median_and_spread(x, outer_mask(SHAPE, radius_pix=99.0))
    with pytest.raises(DataError, match="do not fit"):
        median_and_spread(x, outer_mask(SHAPE, np.full(3, 31.5)))


# the core taken out


@pytest.mark.parametrize(
    ("fill", "expected"),
    [
        ("zero", lambda _x, _r: np.zeros(3)),
        ("outer_median", lambda x, r: np.median(x[:, r > 20], axis=1)),
        ("rest_median", lambda x, r: np.median(x[:, r >= 5], axis=1)),
    ],
)
def test_the_core_is_filled_and_the_rest_untouched(fill, expected):
    x = _noise(4, 3, 64, 64) + 10 * _ring().astype(np.float32)
    r = radius_map(SHAPE, 32.0, 30.5)
    found = fill_core(x, 32.0, 30.5, fill=fill)
    assert found.dtype == x.dtype
    assert np.array_equal(found[:, r >= 5], x[:, r >= 5])
    for band, value in enumerate(expected(x, r)):
        assert np.allclose(found[band, r < 5], value)


def test_core_dropout_is_the_outer_median_around_each_rows_centre():
    x, c = _noise(5, 4, 3, 64, 64), np.array([31.5, 32.0, 30.2, 34.0])
    found = core_dropout(x, c, 31.5)
    for row in range(4):
        assert np.array_equal(found[row], fill_core(x[row], c[row], 31.5, fill="outer_median"))
    assert not np.array_equal(found[3], core_dropout(x)[3])
    wide = core_dropout(x, radius_pix=9.0)
    assert (wide != x).sum() == 12 * core_mask(SHAPE, radius_pix=9.0).sum()


# profile


def test_the_profile_is_the_mean_or_median_of_rings():
    x = np.stack([radius_map((64, 64)), _noise(6, 64, 64)])
    mean, median = radial_profile(x), radial_profile(x, statistic="median")
    assert mean.shape == (2, 32)
    assert np.allclose(mean[0], np.arange(32) + 0.5, atol=0.35)
    r = radius_map((64, 64))
    ring = x[1][(r >= 10) & (r < 11)]
    assert mean[1, 10] == pytest.approx(ring.mean())
    assert median[1, 10] == pytest.approx(np.median(ring))


def test_a_ring_without_pixels_is_nan_and_a_wrong_centre_shows():
    profile = radial_profile(_ring(), edges_pix=[0.0, 0.1, 8.0, 9.0])
    assert np.isnan(profile[:, 0]).all()
    assert np.isfinite(profile[:, 1:]).all()
    off = radial_profile(_ring(), 35.0, 31.5)
    assert off[1].max() < 0.8 * radial_profile(_ring())[1].max()
    with pytest.raises(DataError, match="one centre"):
        radial_profile(_ring(), np.array([31.5, 31.5]))


# the brief's shuffle


@given(centers, centers, st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_the_shuffle_keeps_the_pixels_of_each_bin_and_band(x, y, seed):
    residual = _noise(seed, 3, 64, 64)
    found = azimuthal_shuffle(residual, stream(seed, "test", "shuffle"), x, y)
    r = radius_map(SHAPE, x, y)
    edges = np.linspace(0, r.max(), 9)
    which = np.minimum(np.searchsorted(edges, r, side="right") - 1, 7)
    assert found.dtype == residual.dtype
    for ring in range(8):
        for band in range(3):
            assert np.array_equal(np.sort(found[band, which == ring]), np.sort(residual[band, which == ring]))
    assert (found != residual).mean() > 0.95


def test_the_shuffle_is_its_streams_and_touches_no_global_state():
    residual = _ring()
    state = np.random.get_state()[1].copy()
    first = azimuthal_shuffle(residual, stream(1, "test", "a"))
    assert np.array_equal(first, azimuthal_shuffle(residual, stream(1, "test", "a")))
    assert not np.array_equal(first, azimuthal_shuffle(residual, stream(1, "test", "b")))
    assert not np.array_equal(first, azimuthal_shuffle(residual, stream(1, "test", "a"), n_bins=4))
    assert np.array_equal(state, np.random.get_state()[1])
    assert np.array_equal(residual, _ring())


def test_the_shuffles_known_weakness_is_real():
    """Bands move apart and neighbouring pixels lose each other: a texture feature gives it away."""
    arc = _ring()
    arc *= np.arange(64)[None, None, :] > 31  # half a ring: an arc
    shuffled = azimuthal_shuffle(arc, stream(2, "test", "weakness"))

    def neighbours(x):
        return np.corrcoef(x[1, :, 1:].ravel(), x[1, :, :-1].ravel())[0, 1]

    assert np.corrcoef(arc[0].ravel(), arc[1].ravel())[0, 1] == pytest.approx(1.0)
    assert np.corrcoef(shuffled[0].ravel(), shuffled[1].ravel())[0, 1] < 0.5
    assert neighbours(arc) > 0.8
    assert neighbours(shuffled) < 0.4


# signal-to-noise


def test_peak_and_matched_filter_follow_their_definitions():
    arc, sigma = _ring(), np.array([0.1, 0.2, 0.4])
    invvar = np.broadcast_to(1 / sigma[:, None, None] ** 2, arc.shape)
    assert arc_snr(arc, invvar) == pytest.approx(arc[1].max() / 0.2)
    bands = arc_snr_mf_bands(arc, invvar)
    assert bands == pytest.approx(np.sqrt((arc**2).sum(axis=(1, 2))) / sigma)
    assert arc_snr_mf(arc, invvar) == pytest.approx(np.sqrt((bands**2).sum()))
    batch = arc_snr_mf(np.stack([arc, 2 * arc]), np.stack([invvar, invvar]))
    assert batch == pytest.approx(np.array([1, 2]) * arc_snr_mf(arc, invvar))


def test_masked_pixels_carry_no_signal():
    arc = _ring()
    invvar = np.ones_like(arc)
    invvar[1] = np.where(arc[1] > 0.5, 0.0, 1.0)
    assert arc_snr(arc, invvar) <= 0.5
    invvar[1] = np.where(arc[1] > 0.5, -1.0, 1.0)
    assert arc_snr(arc, invvar) <= 0.5
    assert arc_snr_mf(arc, np.zeros_like(arc)) == 0.0
    assert arc_snr(arc, np.zeros_like(arc)) == 0.0


def test_the_matched_filter_is_the_spread_of_its_own_output():
    """The amplitude fitted to noise scatters by 1/S/N: what the number claims."""
    arc, rng = _ring().astype(np.float32), stream(3, "test", "filter")
    invvar = np.full_like(arc, 4.0)
    amplitudes = []
    for _ in range(400):
        noise = rng.normal(0, 0.5, arc.shape)
        amplitudes.append((noise * arc * invvar).sum() / (arc**2 * invvar).sum())
    assert np.std(amplitudes) == pytest.approx(1 / arc_snr_mf(arc, invvar), rel=0.1)


def test_shares_of_the_core_are_those_of_the_r_band():
    arc = _ring(radius=4.0, width=2.0)
    arc[0], arc[2] = 7.0, 9.0  # of no account
    share, box = core_flux_share(arc)
    r = radius_map((64, 64))
    assert share == pytest.approx(arc[1][r < 5].sum() / arc[1].sum())
    assert box == pytest.approx(arc[1, 27:37, 27:37].sum() / arc[1].sum())
    assert box > share  # its corners reach 7.1 pixels
    shares, _ = core_flux_share(np.stack([arc, arc]), np.array([31.5, 40.0]), 31.5)
    assert shares[0] == pytest.approx(share)
    assert shares[1] < share


def test_an_arc_without_flux_has_no_share():
    share, box = core_flux_share(np.zeros((3, 64, 64), np.float32))
    assert np.isnan(share)
    assert np.isnan(box)
