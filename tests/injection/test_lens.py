import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.injection.caustics import (
    COUNTER_IMAGE_FLOOR,
    CURVE_POINTS,
    ImagedRegion,
    caustic,
    contains,
    critical_curve,
    cut,
    inner_curve,
    polygon_area,
)
from darkhaloscope.injection.lens import (
    ISOTHERMAL,
    Lens,
    axis_from_ellipticity,
    axis_from_tractor,
    convergence,
    deflection,
    ellipticity_from_axis,
    epl_deflection,
    jacobian,
    magnification,
    potential,
    sie_deflection,
    stretch_bound,
    trace,
    tractor_ellipticity,
)

SLOPES = [1.5, 1.8, ISOTHERMAL, 2.2, 2.5]
OFF_CENTRE = Lens(1.3, 0.6, 0.4, 0.06, -0.03, x=0.21, y=-0.34)

# What takes positions and a lens.
FUNCTIONS = {
    "deflection": deflection,
    "trace": trace,
    "potential": potential,
    "convergence": convergence,
    "jacobian": jacobian,
    "stretch_bound": lambda x, y, lens: stretch_bound(x, y, 0.3, lens),
}


@pytest.fixture(scope="module")
def sky():
    return np.random.default_rng(7).uniform(-3, 3, (2, 4, 500))


def some_lenses(n, *, slopes):
    """Fields of n lenses as arrays; the slope a number if there is one only."""
    rng = np.random.default_rng(3)
    gamma = rng.choice(slopes, n) if len(slopes) > 1 else slopes[0]
    return Lens(
        rng.uniform(0.3, 4, n), rng.uniform(0.2, 1, n), rng.uniform(0, 3, n), rng.uniform(-0.2, 0.2, n),
        rng.uniform(-0.2, 0.2, n), rng.uniform(-0.5, 0.5, n), rng.uniform(-0.5, 0.5, n), gamma,
    )  # fmt: skip


def outputs(function, x, y, lens):
    found = function(x, y, lens)
    return found if isinstance(found, tuple) else (found,)


# --- ellipticity


@given(st.floats(0.05, 1.0), st.floats(-10.0, 10.0))
def test_ellipticity_and_axis_are_inverse(q, phi):
    for there, back in [
        (ellipticity_from_axis, axis_from_ellipticity),
        (tractor_ellipticity, axis_from_tractor),
    ]:
        back_q, back_phi = back(*there(q, phi))
        assert back_q == pytest.approx(q, abs=1e-9)
        if q < 0.999:
            assert math.cos(2 * (back_phi - phi)) == pytest.approx(1.0, abs=1e-9)
        assert -math.pi / 2 <= back_phi <= math.pi / 2


def test_ellipticity_has_lenstronomy_s_sign():
    util = pytest.importorskip("lenstronomy.Util.param_util")
    assert ellipticity_from_axis(0.6, 0.7) == pytest.approx(util.phi_q2_ellipticity(0.7, 0.6))


def angle_on_pixels(position_angle_deg, *, east):
    """Angle from +x of a line of that position angle on the sky, by astropy alone; `east` is -1 for left."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.1, 2.2]
    wcs.wcs.crpix = [32.5, 32.5]
    wcs.wcs.cdelt = [east * 0.262 / 3600, 0.262 / 3600]
    centre = SkyCoord(150.1, 2.2, unit="deg")
    end = centre.directional_offset_by(position_angle_deg * units.deg, 3 * units.arcsec)
    (x0, y0), (x1, y1) = wcs.world_to_pixel(centre), wcs.world_to_pixel(end)
    return math.atan2(y1 - y0, x1 - x0)


def ellipse_of_the_catalogue(position_angle_deg, q):
    """(a-b)/(a+b) (cos 2 PA, sin 2 PA): what the Tractor's EllipseE means by shape_e1 and shape_e2."""
    modulus, angle = (1 - q) / (1 + q), 2 * math.radians(position_angle_deg)
    return modulus * math.cos(angle), modulus * math.sin(angle)


@pytest.mark.parametrize("position_angle_deg", [0.0, 20.0, 45.0, 90.0, 135.0, 170.0])
def test_the_tractor_s_ellipticity_lies_along_its_position_angle_on_the_pixels(position_angle_deg):
    phi = angle_on_pixels(position_angle_deg, east=-1)
    shape = ellipse_of_the_catalogue(position_angle_deg, 0.6)
    assert tractor_ellipticity(0.6, phi) == pytest.approx(shape, abs=1e-6)
    q, back = axis_from_tractor(*shape)
    assert q == pytest.approx(0.6)
    assert math.cos(2 * (back - phi)) == pytest.approx(1.0, abs=1e-9)


def test_an_image_with_east_to_the_right_has_other_angles():
    phi = angle_on_pixels(20.0, east=+1)
    assert tractor_ellipticity(0.6, phi) != pytest.approx(ellipse_of_the_catalogue(20.0, 0.6), abs=0.05)


# --- arrays


@pytest.mark.parametrize("gamma", SLOPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shape_and_precision_of_the_positions_are_kept(sky, gamma, dtype):
    x, y = sky.astype(dtype)
    numbers = replace(OFF_CENTRE, gamma=gamma)
    strong = Lens(*(np.float64(v) for v in vars(numbers).values()))
    arrays = some_lenses(500, slopes=[gamma])
    for name, function in FUNCTIONS.items():
        for lens in (numbers, strong, arrays):
            for value in outputs(function, x, y, lens):
                assert value.dtype == dtype, name
                assert value.shape == x.shape, name


@pytest.mark.parametrize("slopes", [[ISOTHERMAL], SLOPES, [1.8]], ids=["isothermal", "mixed", "shallow"])
def test_many_lenses_at_once_have_the_bits_of_each_alone(sky, slopes):
    """Whatever else is in the batch, the flattest lens with the longest series among it."""
    lenses = some_lenses(500, slopes=slopes)
    x, y = sky
    for name, function in FUNCTIONS.items():
        together = outputs(function, x, y, lenses)
        for i in range(0, 500, 23):
            alone = Lens(*(v if isinstance(v, float) else float(v[i]) for v in vars(lenses).values()))
            for one, all_ in zip(outputs(function, x[:, i], y[:, i], alone), together, strict=True):
                if len(slopes) > 1 and alone.gamma == ISOTHERMAL:  # the series there, the closed form here
                    np.testing.assert_allclose(one, all_[:, i], rtol=1e-11, err_msg=name)
                else:
                    assert np.array_equal(one, all_[:, i]), (name, alone)


@pytest.mark.parametrize("gamma", SLOPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 5e-6)])
def test_torch_gives_what_numpy_gives(sky, gamma, dtype, tolerance):
    torch = pytest.importorskip("torch")
    x, y = sky.astype(dtype)
    tx, ty = torch.tensor(x), torch.tensor(y)
    lenses = some_lenses(500, slopes=[gamma])
    tensors = Lens(*(v if isinstance(v, float) else torch.tensor(v) for v in vars(lenses).values()))
    for name, function in FUNCTIONS.items():
        for one, other in [
            (replace(OFF_CENTRE, gamma=gamma), replace(OFF_CENTRE, gamma=gamma)),
            (lenses, tensors),
        ]:
            for ours, theirs in zip(
                outputs(function, x, y, one), outputs(function, tx, ty, other), strict=True
            ):
                assert theirs.dtype == getattr(torch, dtype), name
                error = np.abs(theirs.numpy() - ours) / np.maximum(1.0, np.abs(ours))
                assert error.max() < tolerance, (name, error.max())


def test_single_precision_is_good_to_a_hundredth_of_a_milliarcsecond(sky):
    x, y = sky.astype(np.float32)
    for gamma, q in itertools.product(SLOPES, [0.2, 0.7, 1.0]):
        lens = Lens(1.0, q, 0.3, gamma=gamma)
        exact = deflection(x.astype(float), y.astype(float), lens)
        assert np.abs(np.subtract(deflection(x, y, lens), exact)).max() < 1e-5


def test_numbers_are_positions_too():
    for gamma in SLOPES:
        lens = replace(OFF_CENTRE, gamma=gamma)
        x, y = trace(0.7, -0.4, lens)
        (ax,), (ay,) = trace(np.array([0.7]), np.array([-0.4]), lens)
        assert (x, y) == pytest.approx((ax, ay), abs=1e-14)


# --- deflection


def test_major_axis_of_the_mass_pulls_along_the_minor_one_less():
    """At equal radius the deflection on the major axis is smaller: mass there lies further out."""
    along, _ = sie_deflection(np.array([1.0]), np.array([0.0]), theta_e=1.0, q=0.5, phi=0.0)
    _, across = sie_deflection(np.array([0.0]), np.array([1.0]), theta_e=1.0, q=0.5, phi=0.0)
    assert along[0] < across[0]


@pytest.mark.parametrize("gamma", SLOPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_centre_itself_is_not_deflected(gamma, dtype):
    centre = np.zeros(1, dtype)
    for q in (1.0, 0.4):
        lens = Lens(4.0, q, 0.3, 0.1, gamma=gamma)
        assert deflection(centre, centre, lens) == (0.0, 0.0)
        assert potential(centre, centre, lens) == 0.0


@given(st.floats(-1e-3, 1e-3), st.floats(-1e-3, 1e-3), st.floats(0.2, 1.0), st.sampled_from(SLOPES))
def test_deflection_is_finite_however_near_the_centre(x, y, q, gamma):
    for dtype in (np.float32, np.float64):
        place = np.array([x], dtype), np.array([y], dtype)
        assert np.isfinite(deflection(*place, Lens(1.0, q, 0.3, gamma=gamma))).all()


def test_the_series_of_slope_two_is_the_isothermal_ellipsoid(sky):
    for q in (0.2, 0.5, 0.9, 1.0):
        shape = {"theta_e": 1.7, "q": q, "phi": 0.4}
        series, closed = epl_deflection(*sky, gamma=2.0, **shape), sie_deflection(*sky, **shape)
        assert np.abs(np.subtract(series, closed)).max() < 5e-12


@pytest.mark.parametrize("gamma", SLOPES)
def test_a_round_power_law_has_the_deflection_of_its_mass(sky, gamma):
    radius = np.hypot(*sky)
    expected = sky * 1.2 ** (gamma - 1) * radius ** (1 - gamma)
    np.testing.assert_allclose(deflection(*sky, Lens(1.2, gamma=gamma)), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("gamma", SLOPES)
def test_potential_has_the_deflection_as_gradient_and_that_the_jacobian(sky, gamma):
    lens, step = replace(OFF_CENTRE, gamma=gamma), 1e-4
    x, y = (v[np.hypot(sky[0] - lens.x, sky[1] - lens.y) > 0.3] for v in sky)
    sides = (x + step, y), (x - step, y), (x, y + step), (x, y - step)
    right, left, up, down = (potential(*side, lens) for side in sides)
    gradient = np.stack([right - left, up - down]) / (2 * step)
    np.testing.assert_allclose(gradient, deflection(x, y, lens), atol=1e-6)
    right, left, up, down = (np.stack(trace(*side, lens)) for side in sides)
    (xx, yx), (xy, yy) = (right - left) / (2 * step), (up - down) / (2 * step)
    a_xx, a_xy, a_yy = jacobian(x, y, lens)
    np.testing.assert_allclose([xx, yx, xy, yy], [a_xx, a_xy, a_xy, a_yy], atol=3e-6)
    np.testing.assert_allclose(2 - a_xx - a_yy, 2 * convergence(x, y, lens), rtol=1e-10)


@pytest.mark.parametrize(
    ("lens", "says"),
    [
        (Lens(1.0, 0.19, gamma=1.8), "axis ratio of 0.19"),
        (Lens(1.0, np.array([0.7, 0.1]), gamma=2.2), "axis ratio of 0.1"),
        (Lens(1.0, math.nan, gamma=2.2), "axis ratio of nan"),
        (Lens(1.0, 0.7, gamma=3.0), "gamma = 3"),
        (Lens(1.0, 0.7, gamma=1.0), "gamma = 1"),
    ],
)
def test_a_power_law_whose_series_is_not_kept_is_refused(lens, says):
    with pytest.raises(DataError, match=says):
        deflection(np.ones(2), np.ones(2), lens)


# --- growth of lengths


def largest_growth(lens, x, y, side, *, clear=0.25, n=41):
    """Largest singular value of A over a grid in the square, at least `clear` sides from the lens."""
    offset = side * np.linspace(-0.5, 0.5, n)
    gx, gy = (v.ravel() for v in np.meshgrid(x + offset, y + offset))
    far = np.hypot(gx - lens.x, gy - lens.y) >= clear * side
    a_xx, a_xy, a_yy = jacobian(gx[far], gy[far], lens)
    mean, spread = 0.5 * (a_xx + a_yy), np.hypot(0.5 * (a_xx - a_yy), a_xy)
    return float((np.abs(mean) + spread).max())


LENSES = st.builds(
    lambda q, phi, shear, angle, gamma: Lens(
        1.0, q, phi, shear * math.cos(angle), shear * math.sin(angle), 0.1, -0.2, gamma
    ),
    st.floats(0.2, 1.0), st.floats(0.0, 3.2), st.floats(0.0, 0.3), st.floats(0.0, 6.3),
    st.sampled_from([2.0, 2.0, 1.5, 1.8, 2.2, 2.5]),
)  # fmt: skip


@given(LENSES, st.floats(-2.5, 2.5), st.floats(-2.5, 2.5), st.floats(0.01, 2.0))
def test_no_length_in_a_square_grows_more_than_the_bound(lens, x, y, side):
    bound = stretch_bound(np.array([x]), np.array([y]), side, lens)[0]
    assert largest_growth(lens, x, y, side) <= bound * (1 + 1e-9)


def test_the_convergence_at_the_middle_of_the_square_would_be_no_bound():
    lens, side = Lens(1.0, 0.3), 0.4
    x, y = np.array([0.35]), np.array([0.1])
    at_centre = max(1.0, 2 * convergence(x, y, lens)[0] - 1)
    assert largest_growth(lens, 0.35, 0.1, side) > 1.5 * at_centre
    assert largest_growth(lens, 0.35, 0.1, side) <= stretch_bound(x, y, side, lens)[0] * (1 + 1e-9)


@pytest.mark.parametrize(("gamma", "loose"), [(2.0, 1.01), (1.5, 2.4), (1.8, 1.7), (2.2, 1.3), (2.5, 1.9)])
def test_the_bound_is_not_much_larger_than_the_growth(gamma, loose):
    rng = np.random.default_rng(5)
    for _ in range(200):
        lens = Lens(1.0, rng.uniform(0.2, 1), rng.uniform(0, 3), gamma=gamma)
        x, y = rng.uniform(-1.0, 1.0, 2)
        if max(abs(x), abs(y)) > 0.2:  # the square does not hold the centre
            bound = stretch_bound(np.array([x]), np.array([y]), 0.2, lens)[0]
            assert bound <= loose * max(1.0, largest_growth(lens, x, y, 0.2))


def test_each_square_may_have_its_own_side():
    x, side = np.linspace(0.3, 2.0, 9), np.linspace(0.1, 0.9, 9)
    together = stretch_bound(x, x, side, OFF_CENTRE)
    alone = [stretch_bound(x[i : i + 1], x[i : i + 1], float(side[i]), OFF_CENTRE)[0] for i in range(9)]
    assert together.tolist() == alone


# --- curves


def determinant(lens, curve):
    a_xx, a_xy, a_yy = jacobian(curve[:, 0], curve[:, 1], lens)
    # Relative to its terms: the radial curve of a nearly isothermal lens passes where they are huge.
    return (a_xx * a_yy - a_xy**2) / (1.0 + a_xx**2 + a_yy**2)


CURVED = [
    Lens(theta_e, q, 0.7, g1, g2, 0.3, -0.2, gamma)
    for theta_e, q, (g1, g2), gamma in itertools.product(
        [0.5, 3.0], [0.2, 0.6, 1.0], [(0.0, 0.0), (0.1, -0.05), (-0.3, 0.1)], SLOPES
    )
]


def test_neither_critical_curve_has_a_determinant():
    for lens in CURVED:
        assert np.abs(determinant(lens, critical_curve(lens))).max() < 1e-10
        if lens.gamma < ISOTHERMAL:
            inner = inner_curve(lens)
            assert np.abs(determinant(lens, inner)).max() < 1e-10
            a_xx, _, a_yy = jacobian(inner[:, 0], inner[:, 1], lens)
            assert (a_xx + a_yy < 0).all()  # the tangential eigenvalue is negative inside its own curve


def test_a_critical_curve_turned_by_ten_degrees_has_a_determinant():
    lens = Lens(1.0, 0.6, 0.7, 0.1, gamma=1.8)
    for curve in (critical_curve, inner_curve):
        turned = curve(replace(lens, phi=0.7 + math.radians(10)))
        assert np.abs(determinant(lens, turned)).max() > 1e-2


def test_inner_image_of_a_steep_lens_has_the_floor_s_magnification_on_the_inner_curve():
    for lens in CURVED:
        if lens.gamma > ISOTHERMAL:
            inner = inner_curve(lens)
            mu = magnification(inner[:, 0], inner[:, 1], lens)
            np.testing.assert_allclose(mu, -COUNTER_IMAGE_FLOOR, rtol=1e-9)
            nearer = [lens.x, lens.y] + 0.7 * (inner - [lens.x, lens.y])
            assert (np.abs(magnification(nearer[:, 0], nearer[:, 1], lens)) < COUNTER_IMAGE_FLOOR).all()


def test_curves_of_the_source_plane_are_the_ray_trace_of_those_of_the_image_plane():
    for lens in CURVED:
        for source, image in ((caustic, critical_curve), (cut, inner_curve)):
            if not (image is inner_curve and lens.gamma == ISOTHERMAL):  # a point without a direction
                np.testing.assert_allclose(source(lens), np.transpose(trace(*image(lens).T, lens)), atol=1e-9)


def test_the_cut_of_an_isothermal_lens_is_the_ray_trace_of_a_tiny_circle():
    lens = replace(OFF_CENTRE, q=0.3)
    angle = 2 * math.pi * np.arange(CURVE_POINTS) / CURVE_POINTS
    circle = lens.x + 1e-9 * np.cos(angle), lens.y + 1e-9 * np.sin(angle)
    np.testing.assert_allclose(cut(lens), np.transpose(trace(*circle, lens)), atol=1e-7)


def test_isothermal_curves_are_the_closed_form_and_the_limit_from_both_sides():
    lens = replace(OFF_CENTRE, gamma1=0.1)
    x, y = critical_curve(lens).T - [[lens.x], [lens.y]]
    angle = np.arctan2(y, x)
    along = lens.gamma1 * np.cos(2 * angle) + lens.gamma2 * np.sin(2 * angle)
    psi_hat = np.hypot(lens.q * np.cos(angle - lens.phi), np.sin(angle - lens.phi))
    r = lens.theta_e * math.sqrt(lens.q) / psi_hat * (1 - along) / (1 - lens.gamma1**2 - lens.gamma2**2)
    np.testing.assert_allclose(np.hypot(x, y), r, rtol=1e-13)
    for gamma in (ISOTHERMAL - 1e-9, ISOTHERMAL + 1e-9):
        for curve in (critical_curve, caustic, inner_curve, cut):
            # From above the inner image is let go at the floor, a hundredth of theta_E from the centre.
            floor = curve in (inner_curve, cut) and gamma > ISOTHERMAL
            atol = 2 * COUNTER_IMAGE_FLOOR * lens.theta_e if floor else 1e-6
            np.testing.assert_allclose(curve(replace(lens, gamma=gamma)), curve(lens), atol=atol)


def test_points_in_a_polygon_are_counted_by_crossings():
    square = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
    x, y = np.array([1.0, 3.0, -1.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0, 3.0, -1.0])
    assert contains(square, x, y).tolist() == [True, False, False, False, False]
    assert polygon_area(square) == 4.0


def test_points_in_a_star_are_those_on_the_inner_side_of_its_edge():
    angle = 2 * math.pi * np.arange(9) / 9
    radius = np.where(np.arange(9) % 3 == 0, 2.0, 0.6)
    star = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    x, y = np.random.default_rng(2).uniform(-2, 2, (2, 3000))
    inside = np.zeros(3000, dtype=bool)
    for (x1, y1), (x2, y2) in zip(star, np.roll(star, -1, axis=0), strict=True):
        # In the triangle of the middle and an edge: both coordinates positive, their sum below one.
        u, v = np.linalg.solve(np.array([[x1, x2], [y1, y2]]), np.stack([x, y]))
        inside |= (u >= 0) & (v >= 0) & (u + v < 1)
    assert np.array_equal(contains(star, x, y), inside)


def test_round_lens_images_twice_inside_theta_e_and_once_outside():
    region = ImagedRegion(Lens(1.3))
    assert region.images(np.array([0.3, 1.2, 1.4]), np.zeros(3)).tolist() == [2, 2, 1]
    assert region.area == pytest.approx(math.pi * 1.3**2, rel=1e-4)


def test_strong_shear_makes_naked_cusps_of_three_images():
    region = ImagedRegion(Lens(1.0, 0.30, 0.0, -0.15, 0.0))
    counts = region.images(*np.random.default_rng(1).uniform(-2, 2, (2, 4000)))
    assert set(counts.tolist()) == {1, 2, 3, 4}


@given(
    st.floats(0.35, 1.0), st.floats(0, 3.2), st.floats(0, 0.15), st.floats(0, 3.2), st.sampled_from(SLOPES)
)
def test_region_is_inside_its_box_and_at_least_as_large_as_each_curve(q, phi, shear, angle, gamma):
    lens = Lens(
        1.0, q, phi, shear * math.cos(2 * angle), shear * math.sin(2 * angle), 0.4, -0.7, gamma
    )  # fmt: skip
    region = ImagedRegion(lens)
    x_low, x_high, y_low, y_high = region.box
    for curve in (region.cut, region.caustic):
        (left, bottom), (right, top) = curve.min(axis=0), curve.max(axis=0)
        assert x_low - 1e-12 <= left <= right <= x_high + 1e-12
        assert y_low - 1e-12 <= bottom <= top <= y_high + 1e-12
    larger = max(polygon_area(region.cut), polygon_area(region.caustic))
    assert larger * (1 - 1e-4) <= region.area <= (x_high - x_low) * (y_high - y_low)


def spans(polygon, y):
    """Intervals of x that lie inside a polygon at height y."""
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
    cuts = (y0 > y) != (y1 > y)
    ends = x0[cuts] + (y - y0[cuts]) * (x1[cuts] - x0[cuts]) / (y1[cuts] - y0[cuts])
    return np.sort(ends).reshape(-1, 2)


def union_area(lens, n=1 << 13, rows=2001):
    """Area of the union of finely drawn curves, row by row."""
    curves = cut(lens, n), caustic(lens, n)
    top = max(np.abs(curve[:, 1] - lens.y).max() for curve in curves)
    total = 0.0
    for y in lens.y + top * (2 * (np.arange(rows) + 0.5) / rows - 1):
        covered = np.concatenate([spans(curve, y) for curve in curves])
        last = -np.inf
        for left, right in covered[np.argsort(covered[:, 0])]:
            total += max(0.0, right - max(left, last))
            last = max(last, right)
    return total * 2 * top / rows


@pytest.mark.parametrize(
    "lens",
    [
        Lens(1.0, 0.30, 0.0, -0.15, 0.0, x=5.0),  # naked cusps
        Lens(1.0, 0.35, 0.4, 0.15, 0.0, x=0.3, y=-0.2),
        Lens(1.0, 0.8, 0.4, 0.05, 0.05),
        Lens(1.0, 0.30, 0.0, -0.15, 0.0, gamma=2.2),
        Lens(1.0, 0.5, 0.0, -0.15, 0.0, gamma=1.7),
    ],
)
def test_area_is_that_of_finer_curves_to_half_a_thousandth(lens):
    assert ImagedRegion(lens).area == pytest.approx(union_area(lens), rel=5e-4)
    assert ImagedRegion(lens).area != pytest.approx(1.002 * union_area(lens), rel=5e-4)
