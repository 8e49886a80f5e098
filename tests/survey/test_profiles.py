"""Sersic light: its total, its radii, and its pixels against a brute-force effective PSF."""

import numpy as np
import pytest
from scipy import integrate, signal

from darkhaloscope.survey.profiles import (
    SersicGrid,
    add_patch,
    circularised,
    elliptical_radius,
    paint_sersic,
    semi_major,
    sersic,
    sersic_bn,
    sersic_brightness,
    spread_points,
    spread_weights,
)
from darkhaloscope.survey.psf import convolve, moffat_kernel

SCALE = 0.262


@pytest.mark.parametrize(("n", "expected"), [(0.5, 0.693147), (1.0, 1.678347), (4.0, 7.669249)])
def test_bn_is_the_exact_root(n, expected):
    assert sersic_bn(n) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n", [0.5, 1.0, 2.5, 4.0, 6.0])
def test_total_flux_is_analytic_and_half_lies_within_the_radius(n):
    def within(limit):
        def ring(u):  # r = u^8 tames the cusp
            r = u**8
            light = sersic_brightness(r, flux=3.0, R_sersic=0.7, n_sersic=n)
            return 2 * np.pi * r * float(light) * 8 * u**7

        return integrate.quad(ring, 0, limit ** (1 / 8), limit=400, epsabs=1e-10)[0]

    assert within(0.7) == pytest.approx(1.5, rel=1e-6)
    assert within(3e4) == pytest.approx(3.0, rel=1e-4)


def test_radius_is_circularised_and_the_major_axis_runs_from_x_to_y():
    q, phi = 0.4, 0.6
    a = semi_major(1.0, q)
    on_major = elliptical_radius(a * np.cos(phi), a * np.sin(phi), q=q, phi=phi)
    on_minor = elliptical_radius(-a * q * np.sin(phi), a * q * np.cos(phi), q=q, phi=phi)
    assert on_major == pytest.approx(1.0)
    assert on_minor == pytest.approx(1.0)
    assert circularised(a, q) == pytest.approx(1.0)


def test_ellipticity_keeps_the_total():
    axis = (np.arange(801) - 400) * 0.02
    light = sersic(axis[None, :], axis[:, None], flux=2.0, R_sersic=0.6, n_sersic=1.0, q=0.5, phi=1.1)
    assert light.sum() * 0.02**2 == pytest.approx(2.0, rel=2e-3)


@pytest.mark.parametrize(
    ("n", "radius", "q"), [(4.2, 0.9, 0.78), (6.0, 0.25, 0.4), (1.0, 0.6, 0.25), (0.5, 0.4, 0.8)]
)
def test_painted_flux_inside_the_stamp_is_right_to_half_a_percent(n, radius, q):
    place = {"x_pix": 31.8, "y_pix": 31.08}
    shape = {"flux": 1.0, "R_sersic": radius, "n_sersic": n, "q": q, "phi": 0.7}
    painted = paint_sersic((64, 64), pixel_scale=SCALE, **place, **shape).sum()
    large = paint_sersic((1024, 1024), pixel_scale=SCALE, x_pix=511.8, y_pix=511.08, **shape)
    assert painted == pytest.approx(large[480:544, 480:544].sum(), abs=1e-6)
    assert large.sum() == pytest.approx(1.0, abs=5e-3)


def brute_force(x0, y0, *, n, radius, q, fwhm, factor=15, size=31):
    """Fine light, fine effective PSF, read at pixel centres: no code shared with the painter."""
    side = 48 * factor
    axis = (np.arange(side) - factor // 2) / factor
    shape = {"flux": 1.0, "R_sersic": radius, "n_sersic": n, "q": q, "phi": 0.7}
    fine = np.zeros((side, side))
    inner = (np.arange(9) + 0.5) / 9 - 0.5
    for dx in inner if n > 2 else [0.0]:
        for dy in inner if n > 2 else [0.0]:
            fine += sersic(
                (axis + dx / factor - x0)[None, :] * SCALE,
                (axis + dy / factor - y0)[:, None] * SCALE,
                **shape,
            )
    fine *= (SCALE / factor) ** 2 / (81 if n > 2 else 1)
    reach = (np.arange(size * factor) - (size * factor) // 2) / factor * SCALE
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / 3.0) - 1))
    kernel = (1 + (reach[None, :] ** 2 + reach[:, None] ** 2) / alpha**2) ** -3.0
    kernel /= kernel.sum()
    seen = signal.fftconvolve(fine, kernel, mode="same") * factor**2
    return seen[factor // 2 :: factor, factor // 2 :: factor]


@pytest.mark.parametrize(
    ("n", "radius", "q", "fwhm"), [(4.2, 0.9, 0.78, 0.8), (1.0, 0.5, 0.3, 1.1), (6.0, 0.5, 0.6, 1.1)]
)
def test_convolved_pixels_are_those_of_an_effective_psf(n, radius, q, fwhm):
    x0, y0 = 23.8, 23.13
    truth = brute_force(x0, y0, n=n, radius=radius, q=q, fwhm=fwhm)
    painted = paint_sersic(
        (48, 48), x_pix=x0, y_pix=y0, pixel_scale=SCALE, flux=1.0, R_sersic=radius, n_sersic=n, q=q, phi=0.7
    )
    seen = convolve(painted, moffat_kernel(fwhm, 3.0, pixel_scale=SCALE))
    assert np.abs(seen - truth)[8:-8, 8:-8].max() < 0.006 * truth.max()
    # Integrating over the pixel again would lower the peak by several times that.
    twice = convolve(painted, convolve(np.pad([[1.0]], 15), moffat_kernel(fwhm, 3.0, pixel_scale=SCALE)))
    box = np.full((3, 3), 1 / 9)  # a crude extra smoothing, as a control on the test's own sharpness
    assert np.abs(convolve(twice, box) - truth)[8:-8, 8:-8].max() > 0.02 * truth.max()


def test_a_point_is_laid_with_its_flux_and_place():
    image = spread_points((32, 32), [12.3], [17.8], [2.0])
    y, x = np.indices(image.shape)
    assert image.sum() == pytest.approx(2.0)
    assert (image * x).sum() / 2.0 == pytest.approx(12.3, abs=0.02)
    assert (image * y).sum() / 2.0 == pytest.approx(17.8, abs=0.02)
    weights = spread_weights(np.array([3.0, -2.5, 40.0]), 16)
    assert weights[:, 0] == pytest.approx(np.eye(16)[3])
    assert np.all(weights[:, 2] == 0.0)


def test_centre_may_lie_outside_and_patches_are_cut_at_the_edge():
    grid = SersicGrid.at((20, 20), -6.0, 30.0)
    light = grid.paint(pixel_scale=SCALE, flux=1.0, R_sersic=1.0, n_sersic=1.0, q=1.0, phi=0.0)
    assert np.all(np.isfinite(light))
    assert 0.0 < light.sum() < 0.5
    image = np.zeros((4, 4))
    add_patch(image, np.ones((3, 3)), (-2, 2))
    assert image.sum() == 2.0
    add_patch(image, np.ones((3, 3)), (9, 9))
    assert image.sum() == 2.0
