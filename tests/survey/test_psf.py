"""PSF kernels: normalisation, width, wings, orientation; convolution is linear and keeps flux."""

import numpy as np
import pytest

from darkhaloscope.survey.psf import convolve, measure_fwhm, moffat_kernel, n_eff

SCALE = 0.262


@pytest.mark.parametrize("fwhm", [0.75, 1.1, 2.0])
@pytest.mark.parametrize("beta", [2.3, 3.0, 4.5])
def test_kernel_sums_to_one_after_truncation_and_has_its_width(fwhm, beta):
    kernel = moffat_kernel(fwhm, beta, pixel_scale=SCALE)
    assert kernel.shape == (31, 31)
    assert kernel.sum() == pytest.approx(1.0, abs=1e-12)
    assert measure_fwhm(kernel, SCALE) == pytest.approx(fwhm, rel=0.02)


def test_wings_make_the_noise_area_larger_than_a_gaussian_of_the_same_width():
    kernel = moffat_kernel(1.11, 3.0, pixel_scale=SCALE)
    gaussian = 4 * np.pi * (1.11 / 2.355 / SCALE) ** 2
    assert 1.5 < n_eff(kernel) / gaussian < 1.9
    assert n_eff(moffat_kernel(1.11, 2.3, pixel_scale=SCALE)) > n_eff(kernel)


def test_major_axis_lies_at_the_position_angle():
    kernel = moffat_kernel(1.2, 3.0, e=0.2, pa=0.7, pixel_scale=SCALE)
    y, x = np.indices(kernel.shape) - 15.0
    window = np.exp(-0.5 * (x**2 + y**2) / 9.0)
    xx, yy, xy = ((kernel * window * m).sum() for m in (x * x, y * y, x * y))
    assert 0.5 * np.arctan2(2 * xy, xx - yy) == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("bad", [{"size": 30}, {"beta": 1.0}, {"fwhm_arcsec": 0.0}, {"e": 1.0}])
def test_impossible_kernels_are_refused(bad):
    asked = {"fwhm_arcsec": 1.0, "beta": 3.0, "pixel_scale": SCALE} | bad
    with pytest.raises(ValueError, match="no Moffat kernel"):
        moffat_kernel(**asked)


def test_convolution_is_linear_does_not_wrap_and_keeps_flux():
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 40, 40))
    kernel = moffat_kernel(1.0, 3.0, pixel_scale=SCALE)
    assert convolve(a + 2 * b, kernel) == pytest.approx(convolve(a, kernel) + 2 * convolve(b, kernel))
    point = np.zeros((64, 64))
    point[32, 32] = 1.0
    assert convolve(point, kernel).sum() == pytest.approx(1.0)
    edge = np.zeros((64, 64))
    edge[32, 0] = 1.0
    assert convolve(edge, kernel)[:, 40:] == pytest.approx(0.0, abs=1e-12)
    cube = np.stack([a, b, a])
    kernels = np.stack([kernel, kernel.T, kernel])
    assert convolve(cube, kernels)[1] == pytest.approx(convolve(b, kernel.T))


@pytest.mark.realdata
def test_real_coadd_psfs_have_the_stated_noise_area(real_data):
    from darkhaloscope.survey.cutouts import read_psf

    kernels = read_psf(real_data / "cutouts" / "ls_dr9_59.1067_-30.4848_coadd_psf.fits")
    assert [n_eff(kernel) for kernel in kernels] == pytest.approx([62, 52, 52], rel=0.05)
    assert [measure_fwhm(k, SCALE) for k in kernels] == pytest.approx([0.99, 0.87, 0.85], rel=0.12)
