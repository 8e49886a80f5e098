"""Two hundred arcs of the default prior, integrated until converged by another's physics, against ours."""

import numpy as np
import pytest
from benchmarks.reference import default_systems
from tests.science.converged import compare, kernels, ours, references

from darkhaloscope.injection.render import Renderer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]


@pytest.fixture(scope="module")
def systems():
    return default_systems(200, seed=1)


@pytest.fixture(scope="module")
def truth(systems):
    return references(systems)


def test_the_reference_has_converged_by_itself(truth):
    _, change = truth
    assert change.max() < 1e-4


def test_arcs_of_the_default_prior_are_right_to_a_thousandth(systems, truth):
    found = compare(ours(systems), *truth)
    assert np.percentile(found.error, 99) < 1e-3
    assert found.error.max() < 5e-3
    assert found.flux.max() < 3e-3


def test_kernels_known_at_their_pixels_alone_do_nearly_as_well(systems, truth):
    """The error of not knowing a Moffat between its pixels, over the prior's seeing."""
    found = compare(ours(systems, psf=lambda s: kernels(s, oversampling=1)), *truth)
    assert np.percentile(found.error, 99) < 1e-3
    assert found.error.max() < 5e-3


def test_a_lax_integration_fails(systems, truth):
    found = compare(ours(systems, renderer=Renderer(tolerance=0.05)), *truth)
    assert np.percentile(found.error, 99) > 1e-3


def test_a_psf_that_is_a_tenth_too_wide_fails(systems, truth):
    images = ours(systems[:20], psf=lambda s: _wider(s, 1.1))
    assert np.median(compare(images, truth[0][:20], truth[1][:20]).error) > 0.05


def test_pixelised_kernels_are_band_limited_as_the_reference_s(systems):
    some = systems[:25]
    found = compare(ours(some, psf=lambda s: kernels(s, oversampling=1)), *references(some, native=True))
    assert found.error.max() < 1e-3


def _wider(system, factor):
    made = kernels(system)
    psf = system.psf
    return type(made).moffat(
        factor * psf.fwhm_arcsec,
        psf.beta,
        e=psf.ellipticity,
        pa=psf.angle,
        pixel_scale=0.262,
        size=psf.kernel_size,
    )
