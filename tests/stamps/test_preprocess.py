"""What a network sees: the brief's letter, the stretch that keeps arcs, and input that must be refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.stamps.measure import radial_profile, radius_map
from darkhaloscope.stamps.preprocess import Preprocess, asinh_normalize, residual_radial, robust_normalize

KINDS = ("robust", "asinh", "residual_radial")


def _galaxies(n=4, seed=0, noise=0.01, size=64):
    """Round galaxies on noise, each with its own flux."""
    rng = np.random.default_rng(seed)
    r = radius_map((size, size))
    light = np.exp(-r / 3.0) * rng.uniform(0.5, 3.0, (n, 3, 1, 1))
    return (light + rng.normal(0, noise, (n, 3, size, size)) + 0.003).astype(np.float32)


def test_robust_is_the_letter_of_the_brief():
    x = _galaxies()
    outer = radius_map((64, 64)) > 20
    for row in range(len(x)):
        for band in range(3):
            values = x[row, band][outer].astype(np.float64)
            middle = np.median(values)
            sigma = 1.4826 * np.median(np.abs(values - middle))
            expected = np.clip((x[row, band] - middle) / (sigma + 1e-10), -5, 5)
            assert np.allclose(robust_normalize(x)[row, band], expected, atol=1e-4)


def test_the_clip_saturates_cores_and_the_stretch_does_not():
    x = _galaxies()
    core = radius_map((64, 64)) < 3
    assert (robust_normalize(x)[..., core] == 5).all()
    stretched = asinh_normalize(x)[0, 0][core]
    assert len(np.unique(stretched)) == core.sum()


def test_the_stretch_is_linear_in_the_noise_and_ordered_up_to_two_hundred_sigma():
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (3, 64, 64))
    r = radius_map((64, 64))
    x[:, 20:44, 20:44] = np.linspace(0, 200, 24 * 24).reshape(24, 24)
    found = asinh_normalize(x)
    annulus = (r >= 20.8) & (r < 28.8)
    sigma = 1.4826 * np.median(np.abs(x[0][annulus] - np.median(x[0][annulus])))
    assert np.allclose(found[0], np.arcsinh((x[0] - np.median(x[0][annulus])) / sigma), atol=1e-5)
    assert (np.diff(found[0, 20:44, 20:44].ravel()) > 0).all()
    assert found.max() > np.arcsinh(150)


@given(st.floats(1e-3, 1e3), st.floats(-10, 10))
@settings(max_examples=20, deadline=None)
def test_no_kind_depends_on_the_flux_unit_or_the_sky_level(unit, sky):
    x = _galaxies(1).astype(np.float64)
    for kind in KINDS:
        step = Preprocess(kind=kind)
        assert np.allclose(step.apply(x * unit + sky), step.apply(x), atol=1e-3)


def test_a_brighter_arc_stays_brighter_in_asinh_and_not_behind_the_clip():
    x = _galaxies(1, noise=0.01)
    arc = (np.abs(radius_map((64, 64)) - 9) < 1) * 0.2  # twenty sigma
    for kind, grows in (("asinh", True), ("robust", False)):
        step = Preprocess(kind=kind)
        once, twice = step.apply((x + arc).astype(np.float32)), step.apply((x + 2 * arc).astype(np.float32))
        assert bool((twice - once)[..., arc > 0].mean() > 0.1) is grows


def test_the_residual_has_no_profile_left():
    x = _galaxies()
    found = residual_radial(x)
    assert np.abs(radial_profile(found, statistic="median")).max() < 1e-4
    assert np.abs(radial_profile(robust_normalize(x), statistic="median")).max() > 4
    assert np.abs(radial_profile(residual_radial(x, 34.0, 31.5), statistic="median")).max() > 1


def test_the_residual_uses_each_rows_centre():
    x, c = _galaxies(3), np.array([31.5, 33.0, 30.0])
    together = residual_radial(x, c, 31.5)
    for row in range(3):
        assert np.array_equal(together[row], residual_radial(x[row], c[row], 31.5))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_batch(kind):
    x, step = _galaxies(6), Preprocess(kind=kind)
    c = np.array([31.5, 31.5, 32.0, 30.7, 31.5, 33.0])
    kept = x.copy()
    whole = step.apply(x, c, 31.5)
    assert whole.dtype == np.float32
    assert whole.flags.c_contiguous
    assert np.array_equal(x, kept)
    for row in range(6):
        assert np.array_equal(step.apply(x[row : row + 1], c[row : row + 1], 31.5)[0], whole[row])
        assert np.array_equal(step.apply(x[row], c[row], 31.5), whole[row])
    assert np.array_equal(step.apply(x, np.full(6, 31.5)), step.apply(x))
    assert step.apply(x[:0]).shape == (0, 3, 64, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_the_background_ends_at_zero_with_unit_noise(kind):
    x = np.random.default_rng(3).normal(5.0, 0.2, (8, 3, 64, 64)).astype(np.float32)
    found = Preprocess(kind=kind).apply(x)
    assert abs(np.median(found)) < 0.05
    expected = np.std(np.arcsinh(np.random.default_rng(4).normal(size=10_000))) if kind == "asinh" else 1.0
    assert found.std() == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_refused_by_row(kind, value):
    x = _galaxies()
    x[2, 1, 0, 0] = value
    with pytest.raises(DataError, match="train row 2: has pixels"):
        Preprocess(kind=kind).apply(x, where="train")


def test_a_background_without_noise_gives_numbers_all_the_same():
    x = np.zeros((1, 3, 64, 64), np.float32)
    x[..., 30:34, 30:34] = 1.0
    for kind in KINDS:
        assert np.isfinite(Preprocess(kind=kind).apply(x)).all()


@pytest.mark.parametrize("size", [63, 101])
def test_other_sizes_work_too(size):
    for kind in KINDS:
        assert Preprocess(kind=kind).apply(_galaxies(2, size=size)).shape == (2, 3, size, size)


@pytest.mark.parametrize(
    ("start", "change"),
    [
        ({}, {"kind": "asinh"}),
        ({}, {"kind": "residual_radial"}),
        ({"kind": "robust"}, {"clip": 3.0}),
        ({"kind": "residual_radial"}, {"clip": 3.0}),
        ({"kind": "asinh"}, {"clip": 200.0}),
        ({"kind": "asinh"}, {"softening": 3.0}),
        ({"kind": "asinh"}, {"annulus": (0.5, 0.9)}),
    ],
)
def test_every_field_changes_something(start, change):
    x = _galaxies(2, noise=0.002)
    assert not np.array_equal(Preprocess(**start).apply(x), Preprocess(**(start | change)).apply(x))


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "sqrt"},
        {"clip": 0.0},
        {"clip": -5.0},
        {"kind": "asinh", "softening": 0.0},
        {"kind": "asinh", "clip": 5.0},
        {"kind": "asinh", "annulus": (0.9, 0.65)},
        {"kind": "robust", "softening": 2.0},
        {"kind": "residual_radial", "annulus": (0.5, 0.9)},
        {"stretch": 1.0},
    ],
)
def test_a_configuration_that_means_nothing_is_refused(fields):
    with pytest.raises(ValidationError):
        Preprocess(**fields)


def test_an_annulus_outside_the_stamp_is_refused():
    with pytest.raises(DataError, match="no pixels"):
        Preprocess(kind="asinh", annulus=(2.0, 3.0)).apply(_galaxies())


def test_a_preprocess_survives_json():
    step = Preprocess(kind="asinh", softening=2.0, annulus=(0.6, 0.9))
    assert Preprocess.model_validate_json(step.model_dump_json()) == step
