"""PSF kernels: normalisation, width, wings, orientation; convolution is linear and keeps flux."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkhaloscope.survey.psf import (
    Kernels,
    convolve,
    gaussian_kernel,
    measure_fwhm,
    moffat_kernel,
    n_eff,
    sample_offsets,
)

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


def point_sampled_moffat(fwhm, beta, *, e, pa, size):
    """The kernel as it was before it could be oversampled, written out once more."""
    alpha = fwhm / SCALE / (2.0 * np.sqrt(2.0 ** (1.0 / beta) - 1.0))
    q = (1.0 - e) / (1.0 + e)
    axis = np.arange(size) - size // 2
    dx, dy = axis[None, :], axis[:, None]
    cos, sin = np.cos(pa), np.sin(pa)
    xi, eta = cos * dx + sin * dy, cos * dy - sin * dx
    kernel = (1.0 + (q * xi**2 + eta**2 / q) / alpha**2) ** -beta
    return kernel / kernel.sum()


shapes = st.fixed_dictionaries(
    {
        "fwhm_arcsec": st.floats(0.5, 2.5),
        "e": st.floats(0.0, 0.4),
        "pa": st.floats(0.0, np.pi),
        "size": st.sampled_from([3, 15, 31]),
    }
)


@given(shape=shapes, beta=st.floats(2.2, 4.5))
def test_one_sample_per_pixel_gives_bit_for_bit_what_it_always_gave(shape, beta):
    f, e, pa, size = (shape[name] for name in ("fwhm_arcsec", "e", "pa", "size"))
    expected = point_sampled_moffat(f, beta, e=e, pa=pa, size=size)
    assert np.array_equal(moffat_kernel(beta=beta, pixel_scale=SCALE, **shape), expected)


@given(shape=shapes, oversampling=st.integers(1, 4), moffat=st.booleans())
def test_finer_samples_are_the_same_function_and_whole_pixels_sum_to_one(shape, oversampling, moffat):
    make = moffat_kernel if moffat else gaussian_kernel
    asked = shape | {"pixel_scale": SCALE} | ({"beta": 3.0} if moffat else {})
    fine, native = make(oversampling=oversampling, **asked), make(**asked)
    side = (shape["size"] - 1) * oversampling + 1
    assert fine.shape == (side, side)
    assert fine[::oversampling, ::oversampling].sum() == pytest.approx(1.0, abs=1e-12)
    assert np.allclose(fine[::oversampling, ::oversampling], native, rtol=1e-12, atol=1e-300)
    assert fine.argmax() == side * (side // 2) + side // 2
    assert np.allclose(fine, fine[::-1, ::-1], rtol=1e-12, atol=1e-300)
    # Up to the scale, that is a kernel on pixels of 1/s the width: the same profile, point-sampled.
    finer = make(**(asked | {"pixel_scale": SCALE / oversampling, "size": side}))
    assert np.allclose(fine / fine.max(), finer / finer.max(), rtol=1e-9, atol=1e-300)


def test_finer_samples_are_not_normalised_among_themselves():
    kernel = moffat_kernel(1.1, 3.0, pixel_scale=SCALE, oversampling=2)
    assert kernel.sum() == pytest.approx(4.0, rel=1e-2)


def test_a_gaussian_has_its_width_and_the_smaller_noise_area():
    kernel = gaussian_kernel(1.1, pixel_scale=SCALE, oversampling=4)
    assert measure_fwhm(kernel, SCALE / 4) == pytest.approx(1.1, rel=2e-3)
    native = kernel[::4, ::4]
    assert n_eff(native) == pytest.approx(4 * np.pi * (1.1 / 2.3548 / SCALE) ** 2, rel=1e-3)
    assert n_eff(moffat_kernel(1.1, 3.0, pixel_scale=SCALE)) > 1.5 * n_eff(native)
    flat = gaussian_kernel(1.1, e=0.3, pa=np.pi / 2, pixel_scale=SCALE)
    assert flat[20, 15] > 2 * flat[15, 20]


@pytest.mark.parametrize("bad", [{"size": 30}, {"size": 1}, {"fwhm_arcsec": 0.0}, {"e": 1.0}])
def test_impossible_gaussians_are_refused(bad):
    with pytest.raises(ValueError, match="no Gaussian kernel"):
        gaussian_kernel(**({"fwhm_arcsec": 1.0, "pixel_scale": SCALE} | bad))


def test_a_sampling_below_one_is_refused():
    with pytest.raises(ValueError, match="samples >= 1"):
        moffat_kernel(1.0, 3.0, pixel_scale=SCALE, oversampling=0)
    assert sample_offsets(3, 2).tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]


WIDTHS, BETAS, ES, ANGLES = [1.3, 1.2, 1.1], [2.5, 3.0, 3.5], [0.1, 0.0, 0.05], [0.1, 0.2, 0.3]


def test_kernels_of_all_bands_are_the_kernels_of_each():
    psf = Kernels.moffat(WIDTHS, BETAS, e=ES, pa=ANGLES, pixel_scale=SCALE)
    assert psf.samples.shape == (3, 61, 61)
    assert psf.oversampling == 2
    for b in range(3):
        alone = {"e": ES[b], "pa": ANGLES[b], "pixel_scale": SCALE}
        assert np.array_equal(psf.samples[b], moffat_kernel(WIDTHS[b], BETAS[b], oversampling=2, **alone))
        assert psf.native[b] == pytest.approx(moffat_kernel(WIDTHS[b], BETAS[b], **alone), rel=1e-12)
    round_ = Kernels.gaussian(np.array(WIDTHS), e=0.1, pa=0.2, pixel_scale=SCALE, oversampling=1, size=63)
    assert round_.samples.shape == (3, 63, 63)
    expected = gaussian_kernel(1.1, e=0.1, pa=0.2, pixel_scale=SCALE, size=63)
    assert np.array_equal(round_.samples[2], expected)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        Kernels.moffat(WIDTHS, BETAS[:2], pixel_scale=SCALE)


def test_a_pixelised_psf_is_taken_as_it_is():
    array = np.stack([moffat_kernel(w, 3.0, pixel_scale=SCALE) for w in WIDTHS]).astype(np.float32)
    psf = Kernels.pixelised(array)
    assert psf.oversampling == 1
    assert np.array_equal(psf.native, array)


GOOD = np.stack([moffat_kernel(1.1, 3.0, pixel_scale=SCALE, size=7, oversampling=2)] * 3)


@pytest.mark.parametrize(
    ("samples", "oversampling", "says"),
    [
        (GOOD[:, :-1, :-1], 2, "no PSF: needed"),
        (GOOD[:, 1:, :], 2, "no PSF: needed"),
        (GOOD[0], 2, "no PSF: needed"),
        (GOOD[:0], 2, "no PSF: needed"),
        (GOOD, 0, "no PSF: needed"),
        (GOOD, 4, "no PSF: needed"),  # 13 samples, four to a pixel, are four pixels: no middle one
        (GOOD, 1, "must sum to 1 over whole pixels"),
        (GOOD * 1.002, 2, "must sum to 1 over whole pixels"),
        (GOOD * np.array([1.0, np.nan, 1.0])[:, None, None], 2, "not finite"),
    ],
)
def test_what_is_no_psf_is_refused(samples, oversampling, says):
    assert Kernels(GOOD, 2).native.shape == (3, 7, 7)
    with pytest.raises(ValueError, match=says):
        Kernels(samples, oversampling)


@pytest.mark.realdata
def test_real_coadd_psfs_have_the_stated_noise_area(real_data):
    from darkhaloscope.survey.cutouts import read_psf

    kernels = read_psf(real_data / "cutouts" / "ls_dr9_59.1067_-30.4848_coadd_psf.fits")
    assert [n_eff(kernel) for kernel in kernels] == pytest.approx([62, 52, 52], rel=0.05)
    assert [measure_fwhm(k, SCALE) for k in kernels] == pytest.approx([0.99, 0.87, 0.85], rel=0.12)
