"""The lens equation, the light and the noise against lenstronomy and against what must hold exactly.

lenstronomy is an oracle here and nowhere imported by the package. Its Sersic profile uses the linear
approximation b_n = 1.9992 n - 0.3271; the reference is given the radius for which both profiles are the same.
"""

import itertools
import math

import numpy as np
import pytest
from scipy import signal

from darkhaloscope.contracts.random import stream
from darkhaloscope.injection.caustics import (
    ImagedRegion,
    caustic,
    critical_curve,
    polygon_area,
)
from darkhaloscope.injection.draw import Host, draw
from darkhaloscope.injection.imaging import shot_noise
from darkhaloscope.injection.lens import (
    Lens,
    convergence,
    deflection,
    ellipticity_from_axis,
    jacobian,
    magnification,
    trace,
)
from darkhaloscope.injection.recipe import Recipe
from darkhaloscope.injection.render import MARGIN_PIX, ArcTask, Frame, Renderer, render_arc
from darkhaloscope.injection.source import Sersic, sersic_source
from darkhaloscope.survey.profiles import sersic_bn
from darkhaloscope.survey.psf import Kernels, moffat_kernel

# lenstronomy evaluates the centre of an isothermal lens, where nothing is defined.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

PIXEL = 0.262
SHEARS = [(0.0, 0.0), (0.05, -0.1), (0.3, 0.0), (0.0, 0.15)]
LENSES = [
    Lens(theta_e, q, phi, g1, g2)
    for theta_e, q, phi, (g1, g2) in itertools.product(
        [0.3, 1.0, 4.0], [0.2, 0.5, 0.8, 0.999], [0.0, 0.7, 2.5], SHEARS
    )
]


@pytest.fixture(scope="module")
def sky():
    return np.random.default_rng(7).uniform(-6, 6, (2, 400))


def oracle(lens):
    lens_model = pytest.importorskip("lenstronomy.LensModel.lens_model")
    e1, e2 = ellipticity_from_axis(lens.q, lens.phi)
    shape = {
        "theta_E": lens.theta_e,
        "gamma": 2.0,
        "e1": e1,
        "e2": e2,
        "center_x": lens.x,
        "center_y": lens.y,
    }
    shear = {"gamma1": lens.gamma1, "gamma2": lens.gamma2, "ra_0": lens.x, "dec_0": lens.y}
    return lens_model.LensModel(["EPL", "SHEAR"]), [shape, shear]


def test_deflection_equals_an_elliptical_power_law_of_slope_two(sky):
    worst = 0.0
    for lens in LENSES:
        model, kwargs = oracle(lens)
        worst = max(worst, np.abs(np.subtract(deflection(*sky, lens), model.alpha(*sky, kwargs))).max())
    assert worst < 1e-10


def test_off_centre_lens_carries_its_shear_along(sky):
    lens = Lens(1.3, 0.7, 0.4, 0.06, -0.03, x=0.21, y=-0.34)
    model, kwargs = oracle(lens)
    assert np.abs(np.subtract(deflection(*sky, lens), model.alpha(*sky, kwargs))).max() < 1e-10


def test_convergence_and_jacobian_equal_the_oracle(sky):
    for lens in LENSES[::7]:
        model, kwargs = oracle(lens)
        f_xx, f_xy, f_yx, f_yy = model.hessian(*sky, kwargs)
        a_xx, a_xy, a_yy = jacobian(*sky, lens)
        np.testing.assert_allclose([a_xx, a_xy, a_yy], [1 - f_xx, -f_xy, 1 - f_yy], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(convergence(*sky, lens), model.kappa(*sky, kwargs), rtol=1e-6)
        np.testing.assert_allclose(f_xy, f_yx, atol=1e-9)


def test_deflection_is_curl_free_and_its_divergence_is_twice_kappa(sky):
    step = 1e-4
    x, y = sky
    for lens in LENSES[::5]:
        (right, up_of_x), (left, down_of_x) = deflection(x + step, y, lens), deflection(x - step, y, lens)
        (up, top), (down, bottom) = deflection(x, y + step, lens), deflection(x, y - step, lens)
        away = np.hypot(x, y) > 0.3
        curl = (up_of_x - down_of_x - up + down) / (2 * step)
        divergence = (right - left + top - bottom) / (2 * step)
        assert np.abs(curl[away]).max() < 1e-6
        np.testing.assert_allclose(divergence[away], 2 * convergence(x, y, lens)[away], rtol=1e-4)


def test_round_lens_is_the_limit_and_exact(sky):
    round_lens, nearly = Lens(1.2, 1.0), Lens(1.2, 1 - 1e-9)
    radius = np.hypot(*sky)
    np.testing.assert_allclose(deflection(*sky, round_lens), 1.2 * sky / radius, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(deflection(*sky, nearly), deflection(*sky, round_lens), atol=1e-8)
    np.testing.assert_allclose(magnification(*sky, round_lens), 1 / (1 - 1.2 / radius), rtol=1e-10)


@pytest.mark.parametrize("beta", [0.01, 0.2, 0.7, 0.99])
def test_point_source_on_a_round_lens_is_magnified_by_two_theta_e_over_beta(beta):
    lens = Lens(1.0)
    images = np.array([1 + beta, beta - 1])
    total = np.abs(magnification(images, np.zeros(2), lens)).sum()
    assert total == pytest.approx(2 * lens.theta_e / beta, rel=1e-12)


def test_mean_convergence_inside_the_critical_curve_is_one():
    for q in (0.3, 0.7, 1.0):
        lens = Lens(1.4, q, 0.3)
        assert polygon_area(critical_curve(lens, 4096)) == pytest.approx(math.pi * 1.4**2, rel=1e-5)


def test_critical_curve_has_no_determinant_and_maps_onto_the_caustic():
    for lens in LENSES:
        curve = critical_curve(lens)
        a_xx, a_xy, a_yy = jacobian(curve[:, 0], curve[:, 1], lens)
        assert np.abs(a_xx * a_yy - a_xy**2).max() < 1e-10
        np.testing.assert_allclose(
            caustic(lens), np.transpose(trace(curve[:, 0], curve[:, 1], lens)), atol=1e-12
        )


@pytest.mark.parametrize(
    "lens",
    [
        Lens(1.0, 0.5, 0.4, 0.10, 0.05),
        Lens(1.7, 1.0),
        Lens(0.8, 0.35, 0.2, 0.15 * math.cos(1), 0.15 * math.sin(1)),
        Lens(1.0, 0.30, 0.0, -0.15, 0.0),  # naked cusps
        Lens(1.0, 0.99, 0.0, 0.15, 0.0, x=0.3, y=-0.2),
    ],
)
def test_area_of_the_imaged_region_equals_the_accepted_fraction(lens):
    region = ImagedRegion(lens)
    x_low, x_high, y_low, y_high = region.box
    # A regular grid of points: its error falls faster than that of random ones.
    side = 250
    x = x_low + (np.arange(side) + 0.5) / side * (x_high - x_low)
    y = y_low + (np.arange(side) + 0.5) / side * (y_high - y_low)
    inside = sum(np.count_nonzero(region.images(x, np.full(side, row)) > 1) for row in y)
    accepted = inside / side**2 * (x_high - x_low) * (y_high - y_low)
    assert accepted == pytest.approx(region.area, rel=5e-3)
    assert accepted != pytest.approx(1.05 * region.area, rel=5e-3)


def test_number_of_images_agrees_with_a_solver_of_the_lens_equation():
    solver_module = pytest.importorskip("lenstronomy.LensModel.Solver.lens_equation_solver")
    rng = np.random.default_rng(11)
    recipe, found = Recipe(), {2: 0, 4: 0}
    for i in range(40):
        lens = draw(Host(0.5, 0.6, 0.3), recipe, seed=5, task=f"solve-{i}").lens
        region = ImagedRegion(lens)
        # Half of the positions inside the small caustic, where a solver has more to find.
        box = region.caustic if i % 2 else region.cut
        x, y = rng.uniform(box.min(axis=0), box.max(axis=0), (200, 2)).T
        expected = region.images(x, y)
        inside = (expected == 4) if i % 2 else (expected == 2)
        j = int(np.flatnonzero(inside)[0])
        model, kwargs = oracle(lens)
        solver = solver_module.LensEquationSolver(model)
        ix, iy = solver.image_position_from_source(
            x[j], y[j], kwargs, min_distance=0.04 * lens.theta_e, search_window=5 * lens.theta_e,
            precision_limit=1e-8, num_iter_max=200,
        )  # fmt: skip
        # The singular centre swallows a root of zero flux; solvers may report it.
        real = np.abs(model.magnification(ix, iy, kwargs)) > 1e-3
        margin = min(_distance(region.cut, x[j], y[j]), _distance(region.caustic, x[j], y[j]))
        if margin > 0.01 * lens.theta_e:
            assert np.count_nonzero(real) == expected[j]
            found[int(expected[j])] += 1
    assert min(found.values()) >= 10


def _distance(curve, x, y):
    return float(np.hypot(curve[:, 0] - x, curve[:, 1] - y).min())


def oracle_light(part, band=0):
    """lenstronomy's light model and arguments for one part, with its flux in a band."""
    light_model = pytest.importorskip("lenstronomy.LightModel.light_model")
    shape = part.shape
    n, (e1, e2) = shape.n_sersic, ellipticity_from_axis(shape.q, shape.phi)
    radius = shape.R_sersic * ((1.9992 * n - 0.3271) / sersic_bn(n)) ** n
    sersic = light_model.LightModel(["SERSIC_ELLIPSE"])
    light = {"amp": 1.0, "R_sersic": radius, "n_sersic": n, "e1": e1, "e2": e2}
    light |= {"center_x": shape.x, "center_y": shape.y}
    light["amp"] = part.flux_nmgy[band] / sersic.total_flux([light])[0]
    return lambda bx, by: sersic.surface_brightness(bx, by, [light])


def mean_brightness(x, y, side, *, lens, part, brightness, reaches, refined):
    """Mean over squares of `side` at (x, y), by lenstronomy; near the source, finer and finer."""
    model, kwargs = oracle(lens)
    bx, by = model.ray_shooting(x, y, kwargs)
    value = brightness(bx, by)
    if reaches:
        distance = np.hypot(bx - part.shape.x, by - part.shape.y)
        near = np.flatnonzero(distance < reaches[0] * part.shape.R_sersic + side)
        offset = np.stack(np.meshgrid(*[((np.arange(refined) + 0.5) / refined - 0.5) * side] * 2))
        fine = np.stack([x[near], y[near]])[:, :, None, None] + offset[:, None]
        fine = mean_brightness(
            fine[0].ravel(), fine[1].ravel(), side / refined, lens=lens, part=part, brightness=brightness,
            reaches=reaches[1:], refined=refined,
        )  # fmt: skip
        value[near] = fine.reshape(near.size, -1).mean(axis=1)
    return value


def reference(lens, source, frame, fwhm, *, beta=3.0, supersampling=9, refined=9):
    """An arc from lenstronomy's ray-shooting and light, finely sampled; read at pixel centres, band 0.

    Cells within 3 half-light radii of a part's centre are sampled `refined` times more finely, the innermost
    again. The effective PSF is evaluated on the fine grid and the fine image read at the pixel centres: the
    pixel response is in the PSF and nowhere else.
    """
    n = (frame.shape[0] + 2 * MARGIN_PIX) * supersampling
    axis = (np.arange(n) + 0.5) / supersampling - 0.5 - MARGIN_PIX
    x, y = np.meshgrid((axis - frame.x_center_pix) * PIXEL, (axis - frame.y_center_pix) * PIXEL)
    side = PIXEL / supersampling
    parts = [
        mean_brightness(
            x.ravel(), y.ravel(), side, lens=lens, part=part, brightness=oracle_light(part),
            reaches=(3.0, 0.3), refined=refined,
        )
        for part in source.parts
    ]  # fmt: skip
    image = np.sum(parts, axis=0).reshape(n, n) * side**2
    at_pixels = slice(supersampling // 2, None, supersampling)
    kernel = moffat_kernel(fwhm, beta, pixel_scale=side, size=31 * supersampling)
    kernel /= kernel[at_pixels, at_pixels].sum()
    seen = signal.fftconvolve(image, kernel, mode="same")[at_pixels, at_pixels]
    return seen[MARGIN_PIX:-MARGIN_PIX, MARGIN_PIX:-MARGIN_PIX], image.sum()


def collect_light(lens, source, frame):
    """Light on the cells of the stamp and its margin: (layer, rows, columns)."""
    renderer = Renderer()
    psf = renderer.respond(
        Kernels.pixelised(np.stack([moffat_kernel(1.1, 3.0, pixel_scale=PIXEL)] * 3)), frame.shape
    )
    return renderer.collect(renderer.batch([ArcTask(lens, source, frame, psf)]))[0, :, 1:-1, 1:-1]


def compare(lens, source, fwhm):
    """Worst error over peak, and relative error of the flux, of our arc against the reference."""
    frame = Frame((64, 64), 31.7, 31.4, PIXEL)
    kernel = moffat_kernel(fwhm, 3.0, pixel_scale=PIXEL)
    ours = render_arc(lens, source, frame, np.stack([kernel] * 3))
    theirs, flux = reference(lens, source, frame, fwhm)
    return np.abs(ours.image[0] - theirs).max() / theirs.max(), ours.flux_nmgy[0] / flux - 1


@pytest.mark.slow
@pytest.mark.parametrize("index", range(10))
def test_arcs_of_the_default_prior_equal_the_oracle_s(index):
    truth = draw(Host(0.5, 0.75, 0.3), Recipe(), seed=3, task=f"oracle-{index}")
    error, flux = compare(truth.lens, truth.source, (0.75, 1.1, 1.4)[index % 3])
    assert error < 4e-3  # 2e-3 but for the sharpest PSF
    assert abs(flux) < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize(("size", "n"), [(0.1, 1.0), (0.1, 4.0), (0.3, 4.0)])
def test_compact_and_cuspy_sources_on_a_fold_equal_the_oracle_s(size, n):
    lens = Lens(1.1, 0.7, 0.5, 0.04, 0.02)
    x, y = 0.98 * caustic(lens)[90]
    source = sersic_source(Sersic(size, n, 0.7, 1.0, float(x), float(y)), (23.0, 23.0, 23.0))
    error, flux = compare(lens, source, 1.0)
    assert error < 3e-3
    assert abs(flux) < 2e-3


def test_counting_the_pixel_twice_would_fail_the_comparison():
    truth = draw(Host(0.5, 0.75, 0.3), Recipe(), seed=3, task="oracle-1")
    frame = Frame((64, 64), 31.7, 31.4, PIXEL)
    kernel = moffat_kernel(1.1, 3.0, pixel_scale=PIXEL)
    image = render_arc(truth.lens, truth.source, frame, np.stack([kernel] * 3)).image[0]
    light = collect_light(truth.lens, truth.source, frame).sum(axis=0)
    binned = light.reshape(72, 2, 72, 2).sum(axis=(1, 3)) * truth.source.flux_nmgy[0]
    twice = signal.fftconvolve(binned, kernel, mode="same")[MARGIN_PIX:-MARGIN_PIX, MARGIN_PIX:-MARGIN_PIX]
    assert twice.sum() == pytest.approx(image.sum(), rel=1e-3)
    assert np.abs(twice - image).max() / image.max() > 0.015


def test_far_from_the_lens_the_source_is_seen_as_it_is():
    frame = Frame((128, 128), 63.5, 63.5, PIXEL)
    source = sersic_source(Sersic(0.4, 1.0, 0.7, 0.4, 9.0, 3.0), (22.0, 21.0, 20.0))
    kernel = np.stack([moffat_kernel(f, 3.0, pixel_scale=PIXEL) for f in (1.3, 1.1, 1.0)])
    arc = render_arc(Lens(1e-4, 0.8), source, frame, kernel)
    np.testing.assert_allclose(arc.flux_nmgy / source.flux_nmgy, 1.0, rtol=1e-3)
    np.testing.assert_allclose(arc.image.sum(axis=(1, 2)), source.flux_nmgy, rtol=2e-3)


@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.1, 0.2), (0.25, 0.25), (0.5, 0.5), (0.26, -0.49)])
def test_a_point_of_light_is_the_psf_moved_to_its_place(offset):
    """Wherever it falls within a pixel; laid on the nearest cell instead it would miss by several percent."""
    column, row = 33.7 + offset[0], 32.6 + offset[1]
    place = (column - 31.5) * PIXEL, (row - 31.5) * PIXEL
    source = sersic_source(Sersic(0.004, 1.0, 1.0, 0.0, *place), (22.5, 22.5, 22.5))
    fwhm, beta = 1.1, 3.0
    kernel = moffat_kernel(fwhm, beta, pixel_scale=PIXEL)
    image = render_arc(Lens(1e-9), source, Frame((64, 64), 31.5, 31.5, PIXEL), np.stack([kernel] * 3)).image[
        0
    ]
    y, x = np.indices(image.shape)
    alpha = fwhm / PIXEL / (2 * math.sqrt(2 ** (1 / beta) - 1))
    moved = kernel.max() * (1 + ((x - column) ** 2 + (y - row) ** 2) / alpha**2) ** -beta
    near = np.hypot(x - column, y - row) < 12
    assert np.abs(image - moved)[near].max() / moved.max() < 2e-3
    slope = np.gradient(moved, axis=1)
    assert abs(((image - moved) * slope)[near].sum() / (slope**2)[near].sum()) < 1e-3


def test_a_small_source_on_a_round_lens_has_the_magnification_of_a_point():
    frame = Frame((64, 64), 31.2, 31.9, PIXEL)
    source = sersic_source(Sersic(0.02, 1.0, 1.0, 0.0, 0.5, 0.0), (23.0, 23.0, 23.0))
    light = collect_light(Lens(1.0), source, frame)
    assert light.sum() == pytest.approx(2.0 / 0.5, rel=5e-3)


def test_flux_does_not_depend_on_the_psf_nor_on_where_the_pixels_lie():
    truth = draw(Host(0.5, 0.75, 0.3), Recipe(), seed=3, task="oracle-4")
    sums = []
    for x, y, fwhm in [(31.5, 31.5, 0.8), (31.93, 31.11, 1.1), (31.25, 31.75, 1.7)]:
        kernel = moffat_kernel(fwhm, 3.0, pixel_scale=PIXEL)
        arc = render_arc(truth.lens, truth.source, Frame((64, 64), x, y, PIXEL), np.stack([kernel] * 3))
        sums.append([arc.flux_nmgy[0], arc.image[0].sum()])
    np.testing.assert_allclose(sums, np.full((3, 2), sums[0][0]), rtol=4e-3)


def test_arc_turns_with_the_pixels():
    """A quarter turn of the lens, the source and the frame is a quarter turn of the image."""
    kernel = np.stack([moffat_kernel(1.0, 3.0, pixel_scale=PIXEL)] * 3)
    lens, turned = Lens(1.2, 0.6, 0.3, 0.05, 0.02), Lens(1.2, 0.6, 0.3 + math.pi / 2, -0.05, -0.02)
    source = sersic_source(Sersic(0.2, 1.5, 0.5, 0.8, 0.15, -0.3), (23.0, 23.0, 23.0))
    rolled = sersic_source(Sersic(0.2, 1.5, 0.5, 0.8 + math.pi / 2, 0.3, 0.15), (23.0, 23.0, 23.0))
    image = render_arc(lens, source, Frame((64, 64), 31.2, 30.9, PIXEL), kernel).image[0]
    other = render_arc(turned, rolled, Frame((64, 64), 63 - 30.9, 31.2, PIXEL), kernel).image[0]
    # (x, y) -> (-y, x): rows become columns, read backwards.
    np.testing.assert_allclose(other, image.T[:, ::-1], atol=5e-6 * image.max())


def test_photon_noise_has_the_coadd_s_variance_per_pixel_and_in_large_sums():
    arc, gain = np.full((3, 1048, 1048), 0.01), np.array([1.1e4, 2.2e4, 2.3e4])
    noise = shot_noise(arc, gain, stream(1, "test", "flat"))[:, 12:-12, 12:-12]
    expected = 0.01 / gain
    np.testing.assert_allclose(noise.var(axis=(1, 2)), 0.798 * expected, rtol=0.02)
    # A sum over 8x8 pixels has nearly all of the large-scale power: 0.988 of it, the rest crosses its edge.
    sums = noise.reshape(3, 128, 8, 128, 8).sum(axis=(2, 4))
    assert np.mean(sums.var(axis=(1, 2)) / (64 * expected)) == pytest.approx(1.0, rel=0.02)
    assert np.abs(noise.mean(axis=(1, 2)) / np.sqrt(expected)).max() < 0.01


def test_photon_noise_follows_the_arc():
    """Many realisations under one arc: the variance lies where the light is and sums to 0.798 a/G."""
    truth = draw(Host(0.5, 0.75, 0.3), Recipe(), seed=3, task="oracle-4")
    kernel = np.stack([moffat_kernel(1.1, 3.0, pixel_scale=PIXEL)] * 3)
    arc = render_arc(truth.lens, truth.source, Frame((64, 64), 31.5, 31.5, PIXEL), kernel).image
    arc, gain, n = np.clip(arc, 0, None), np.full(3, 2.0e4), 600
    draws = [shot_noise(arc, gain, stream(2, "test", str(k))) for k in range(n)]
    variance = np.mean(np.square(draws), axis=0)
    assert variance.sum() == pytest.approx(0.798 * arc.sum() / gain[0], rel=0.02)
    # A filter of unit variance would put 25 % more variance on every pixel.
    assert variance.sum() != pytest.approx(arc.sum() / gain[0], rel=0.1)
    assert np.corrcoef(variance.ravel(), arc.ravel())[0, 1] > 0.95
