"""Unlensed light through a PSF against GalSim, an oracle here and nowhere imported by the package.

GalSim draws in Fourier space from closed forms: it shares neither the rays nor the cells of our renderer.
"""

import math

import numpy as np
import pytest

from darkhaloscope.injection.lens import Lens
from darkhaloscope.injection.render import Frame, render_arc
from darkhaloscope.injection.source import Clump, Sersic, clumpy_source, sersic_source, two_component_source
from darkhaloscope.survey.psf import Kernels

galsim = pytest.importorskip("galsim")

PIXEL = 0.262
NO_LENS = Lens(1e-9)
FRAME = Frame((64, 64), 31.7, 31.2, PIXEL)
PARAMS = galsim.GSParams(
    folding_threshold=1e-4, maxk_threshold=1e-5, kvalue_accuracy=1e-7, maximum_fft_size=16384
)


def profile(shape):
    """A Sersic of ours as GalSim's: its half-light radius is circularised too, its shear keeps the area."""
    light = galsim.Sersic(n=shape.n_sersic, half_light_radius=shape.R_sersic, flux=1.0, gsparams=PARAMS)
    return light.shear(q=shape.q, beta=shape.phi * galsim.radians).shift(shape.x, shape.y)


def drawn(light, fwhm):
    """GalSim's picture on our pixels: the effective PSF holds the pixel, so none is added."""
    seen = galsim.Convolve(light, galsim.Gaussian(fwhm=fwhm, gsparams=PARAMS), gsparams=PARAMS)
    offset = (FRAME.x_center_pix - 31.5) * PIXEL, (FRAME.y_center_pix - 31.5) * PIXEL
    return seen.shift(*offset).drawImage(nx=64, ny=64, scale=PIXEL, method="no_pixel").array


def compared(source, light, fwhm=1.1):
    """Worst difference over peak, and the flux's relative one."""
    kernels = Kernels.gaussian([fwhm] * 3, pixel_scale=PIXEL, size=45)
    ours = render_arc(NO_LENS, source, FRAME, kernels).image[1]
    theirs = drawn(light, fwhm) * source.flux_nmgy[1]
    return np.abs(ours - theirs).max() / theirs.max(), ours.sum() / theirs.sum() - 1


@pytest.mark.parametrize("n", [0.5, 1.0, 2.5, 4.0])
@pytest.mark.parametrize(("radius", "q"), [(0.08, 1.0), (0.2, 0.4), (0.6, 0.7)])
def test_unlensed_sersic_galaxies_equal_galsim_s(n, radius, q):
    shape = Sersic(radius, n, q, 0.6, 0.31, -0.17)
    error, flux = compared(sersic_source(shape, (23.0, 22.5, 22.0)), profile(shape))
    assert error < 1e-3
    assert abs(flux) < 3e-3


def test_a_major_axis_turned_the_wrong_way_fails_the_comparison():
    shape = Sersic(0.4, 1.0, 0.5, 0.6)
    mirrored = Sersic(0.4, 1.0, 0.5, -0.6)
    error, _ = compared(sersic_source(shape, (23.0, 22.5, 22.0)), profile(mirrored))
    assert error > 0.05


def test_a_galaxy_of_several_parts_equals_the_sum_of_galsim_s():
    disc = Sersic(0.4, 1.0, 0.6, 1.1, 0.2, 0.1)
    source = two_component_source(
        disc, (24.0, 23.0, 22.5), bulge_share=0.3, bulge_size=0.3, bulge_redder=(0.35, 0.3)
    )
    share = [part.flux_nmgy[1] / source.flux_nmgy[1] for part in source.parts]
    light = sum(
        (f * profile(p.shape) for f, p in zip(share[1:], source.parts[1:], strict=True)),
        share[0] * profile(disc),
    )
    error, flux = compared(source, light)
    assert error < 1e-3
    assert abs(flux) < 3e-3


def test_clumps_are_gaussians_of_their_sigma():
    base, clump = Sersic(0.3, 1.0, 0.8, 0.2), Clump(0.25, -0.2, 0.05, (0.3, 0.2, 0.15))
    source = clumpy_source(base, (23.0, 22.5, 22.0), [clump], g_over_r=1.08)
    spot = galsim.Gaussian(sigma=0.05, gsparams=PARAMS).shift(0.25, -0.2)
    light = 0.8 * profile(base) + 0.2 * spot
    assert source.flux_nmgy[1] == pytest.approx(1.0)
    error, _ = compared(source, light)
    assert error < 1e-3
    wider, _ = compared(source, 0.8 * profile(base) + 0.2 * galsim.Gaussian(sigma=0.2).shift(0.25, -0.2))
    assert wider > 5e-3


@pytest.mark.parametrize("fwhm", [0.75, 1.1, 1.6])
def test_a_moffat_psf_is_galsim_s_inside_its_kernel(fwhm):
    beta, size = 3.0, 63
    kernel = Kernels.moffat([fwhm], [beta], pixel_scale=PIXEL, size=size)
    light = galsim.Moffat(beta=beta, fwhm=fwhm, gsparams=PARAMS)
    theirs = light.drawImage(nx=2 * size - 1, ny=2 * size - 1, scale=PIXEL / 2, method="no_pixel").array * 4
    ours = kernel.samples[0]
    assert np.abs(ours * theirs[::2, ::2].sum() - theirs).max() / theirs.max() < 1e-4
    assert math.isclose(kernel.native.sum(), 1.0, rel_tol=1e-12)
