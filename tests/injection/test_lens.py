import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkhaloscope.injection.lens import (
    ImagedRegion,
    Lens,
    axis_from_ellipticity,
    contains,
    deflection,
    ellipticity_from_axis,
    polygon_area,
    sie_deflection,
)


@given(st.floats(0.05, 1.0), st.floats(-10.0, 10.0))
def test_ellipticity_and_axis_are_inverse(q, phi):
    back_q, back_phi = axis_from_ellipticity(*ellipticity_from_axis(q, phi))
    assert back_q == pytest.approx(q, abs=1e-9)
    if q < 0.999:
        assert math.cos(2 * (back_phi - phi)) == pytest.approx(1.0, abs=1e-9)
    assert -math.pi / 2 <= back_phi <= math.pi / 2


def test_ellipticity_has_lenstronomy_s_sign():
    util = pytest.importorskip("lenstronomy.Util.param_util")
    assert ellipticity_from_axis(0.6, 0.7) == pytest.approx(util.phi_q2_ellipticity(0.7, 0.6))


def test_major_axis_of_the_mass_pulls_along_the_minor_one_less():
    """At equal radius the deflection on the major axis is smaller: mass there lies further out."""
    along, _ = sie_deflection(np.array([1.0]), np.array([0.0]), theta_e=1.0, q=0.5, phi=0.0)
    _, across = sie_deflection(np.array([0.0]), np.array([1.0]), theta_e=1.0, q=0.5, phi=0.0)
    assert along[0] < across[0]


def test_the_centre_itself_is_not_deflected():
    for q in (1.0, 0.4):
        assert deflection(np.zeros(1), np.zeros(1), Lens(1.0, q)) == (0.0, 0.0)


def test_shape_and_precision_of_the_input_are_kept():
    x = np.ones((2, 3), dtype=np.float32)
    ax, ay = deflection(x, 0.5 * x, Lens(1.0, 0.7, 0.2, 0.01, 0.02))
    assert ax.shape == ay.shape == (2, 3)
    assert ax.dtype == ay.dtype == np.float32


def test_points_in_a_polygon_are_counted_by_crossings():
    square = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
    x, y = np.array([1.0, 3.0, -1.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0, 3.0, -1.0])
    assert contains(square, x, y).tolist() == [True, False, False, False, False]
    assert polygon_area(square) == 4.0


def test_round_lens_images_twice_inside_theta_e_and_once_outside():
    region = ImagedRegion(Lens(1.3))
    assert region.images(np.array([0.3, 1.2, 1.4]), np.zeros(3)).tolist() == [2, 2, 1]
    assert region.area == pytest.approx(math.pi * 1.3**2, rel=1e-4)


def test_strong_shear_makes_naked_cusps_of_three_images():
    region = ImagedRegion(Lens(1.0, 0.30, 0.0, -0.15, 0.0))
    counts = region.images(*np.random.default_rng(1).uniform(-2, 2, (2, 4000)))
    assert set(counts.tolist()) == {1, 2, 3, 4}


@given(st.floats(0.35, 1.0), st.floats(0, 3.2), st.floats(0, 0.15), st.floats(0, 3.2))
def test_region_is_inside_its_box_and_at_least_as_large_as_each_curve(q, phi, gamma, angle):
    lens = Lens(1.0, q, phi, gamma * math.cos(2 * angle), gamma * math.sin(2 * angle))
    region = ImagedRegion(lens)
    x_low, x_high, y_low, y_high = region.box
    larger = max(polygon_area(region.cut), polygon_area(region.caustic))
    assert larger * (1 - 1e-4) <= region.area <= (x_high - x_low) * (y_high - y_low)
