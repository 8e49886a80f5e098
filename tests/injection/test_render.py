import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from darkhaloscope.injection.draw import Host, draw
from darkhaloscope.injection.lens import Lens, trace
from darkhaloscope.injection.recipe import Deflection, HybridShapes, Recipe
from darkhaloscope.injection.render import ArcTask, Frame, Renderer, render_arc
from darkhaloscope.injection.source import Part, Sersic, Source, sersic_source
from darkhaloscope.survey.distributions import Normal
from darkhaloscope.survey.psf import Kernels

PIXEL = 0.262
FRAME = Frame((64, 64), 31.7, 31.2, PIXEL)
KERNELS = Kernels.moffat([1.25, 1.1, 1.0], [3.0, 3.0, 3.0], pixel_scale=PIXEL)
NATIVE = Kernels.moffat([1.25, 1.1, 1.0], [3.0, 3.0, 3.0], pixel_scale=PIXEL, oversampling=1)
SLOPES = Deflection(slope=Normal(mean=2.08, sd=0.18, low=1.7, high=2.5))
RECIPES = {"sersic": Recipe(), "hybrid": Recipe(shapes=HybridShapes()), "epl": Recipe(deflection=SLOPES)}


def truths(kind, n):
    return [draw(Host(0.5, 0.75, 0.3), RECIPES[kind], seed=3, task=f"{kind}-{k}") for k in range(n)]


def tasks(found, renderer, kernels=NATIVE):
    response = renderer.respond(kernels, FRAME.shape)
    return [ArcTask(t.lens, t.source, FRAME, response) for t in found]


def worst(ours, theirs):
    return max(
        float(np.abs(a.image - b.image).max() / np.abs(b.image).max())
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("kind", RECIPES)
def test_an_arc_does_not_depend_on_its_company(kind):
    renderer = Renderer()
    many = tasks(truths(kind, 30), renderer)
    together = renderer.render(many)
    for arc, task in zip(together, many, strict=True):
        alone = renderer.render([task])[0]
        np.testing.assert_array_equal(arc.image, alone.image)
        np.testing.assert_array_equal(arc.flux_nmgy, alone.flux_nmgy)
    backwards = Renderer(stamps_at_once=5).render(many[::-1])[::-1]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(together, backwards, strict=True))


@pytest.mark.parametrize("kind", RECIPES)
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-6), ("float32", 3e-4)])
def test_pytorch_renders_what_numpy_renders(kind, precision, tolerance):
    torch = pytest.importorskip("torch")
    from array_api_compat import torch as xp

    found, plain = truths(kind, 10), Renderer(dtype=getattr(np, precision))
    other = Renderer(xp=xp, dtype=getattr(torch, precision), device="cpu", stamps_at_once=4)
    for kernels in (NATIVE, KERNELS):
        here, there = plain.render(tasks(found, plain, kernels)), other.render(tasks(found, other, kernels))
        assert worst(there, here) < tolerance
        for a, b in zip(there, here, strict=True):
            np.testing.assert_allclose(a.flux_nmgy, b.flux_nmgy, rtol=1e-4)


def test_stamps_of_all_kinds_may_be_mixed():
    renderer = Renderer()
    mixed = [t for kind in RECIPES for t in tasks(truths(kind, 3), renderer)]
    wide = Frame((91, 101), 50.2, 44.9, PIXEL)
    mixed[1::2] = [replace(t, frame=wide, psf=renderer.respond(KERNELS, wide.shape)) for t in mixed[1::2]]
    for arc, task in zip(renderer.render(mixed), mixed, strict=True):
        assert arc.image.shape == (3, *task.frame.shape)
        np.testing.assert_array_equal(arc.image, renderer.render([task])[0].image)


def test_light_is_linear_in_flux_and_bands_have_their_own():
    truth = truths("sersic", 1)[0]
    once = render_arc(truth.lens, truth.source, FRAME, NATIVE)
    parts = tuple(
        Part(p.shape, tuple(f * k for f, k in zip(p.flux_nmgy, (2, 3, 0), strict=True)))
        for p in truth.source.parts
    )
    scaled = render_arc(truth.lens, replace(truth.source, parts=parts), FRAME, NATIVE)
    for band, factor in enumerate((2, 3, 0)):
        np.testing.assert_allclose(scaled.image[band], factor * once.image[band], rtol=1e-6, atol=1e-9)
    assert not scaled.image[2].any()


def test_kernels_at_pixels_and_between_them_agree_where_pixels_hold_the_psf():
    found, renderer = truths("sersic", 10), Renderer()
    fine, native = (renderer.render(tasks(found, renderer, k)) for k in (KERNELS, NATIVE))
    assert worst(native, fine) < 1e-3
    sharp = [Kernels.moffat([0.6] * 3, [3.0] * 3, pixel_scale=PIXEL, oversampling=n) for n in (1, 2)]
    assert worst(*(renderer.render(tasks(found, renderer, k)) for k in sharp)) > 1e-3


def test_registration_moves_an_arc_by_what_it_says():
    truth, renderer = truths("sersic", 1)[0], Renderer()
    shift = [(0.4, -0.3), (0.0, 0.0), (-0.7, 0.2)]
    psf = renderer.respond(KERNELS, FRAME.shape, shift_pix=shift)
    moved = renderer.render([ArcTask(truth.lens, truth.source, FRAME, psf)])[0].image
    for band, (dx, dy) in enumerate(shift):
        there = replace(FRAME, x_center_pix=FRAME.x_center_pix + dx, y_center_pix=FRAME.y_center_pix + dy)
        expected = render_arc(truth.lens, truth.source, there, KERNELS).image[band]
        assert np.abs(moved[band] - expected).max() / expected.max() < 1e-3
    other = render_arc(truth.lens, truth.source, FRAME, KERNELS).image[0]
    assert np.abs(moved[0] - other).max() / other.max() > 0.02


def test_other_samplings_of_a_psf_are_refused():
    thrice = Kernels.moffat([1.0], [3.0], pixel_scale=PIXEL, oversampling=3)
    with pytest.raises(ValueError, match="3 samples per pixel"):
        Renderer().respond(thrice, FRAME.shape)


@dataclass(frozen=True)
class Gaussian:
    """A user's own morphology: brightness, extent, and how coarsely it may be sampled."""

    sigma: float
    x: float
    y: float

    @property
    def extent(self):
        return 5.0 * self.sigma

    def brightness(self, beta_x, beta_y):
        square = (beta_x - self.x) ** 2 + (beta_y - self.y) ** 2
        return np.exp(-0.5 * square / self.sigma**2) / (2 * math.pi * self.sigma**2)

    def sampling_error(self, beta_x, beta_y, reach):
        near = np.maximum(np.hypot(beta_x - self.x, beta_y - self.y) - reach, 0.0)
        brightest = np.exp(-0.5 * (near / self.sigma) ** 2) / (2 * math.pi * self.sigma**2)
        return brightest * np.minimum(1.0, (reach / self.sigma) ** 4 / 100)


def test_a_new_morphology_needs_its_brightness_and_its_grain():
    lens = Lens(1.2, 0.7, 0.4, 0.03, -0.02)
    flux = (0.5, 0.4, 0.3)
    own = Source((Part(Gaussian(0.1, 0.15, -0.1), flux),), "gaussian")
    known = Source(
        (Part(Sersic(0.1 * math.sqrt(2 * math.log(2)), 0.5, 1.0, 0.0, 0.15, -0.1), flux),), "sersic"
    )
    ours, theirs = (render_arc(lens, source, FRAME, KERNELS) for source in (own, known))
    assert worst([ours], [theirs]) < 1e-3
    np.testing.assert_allclose(ours.flux_nmgy, theirs.flux_nmgy, rtol=1e-3)


def test_every_ray_of_a_brute_force_grid_is_accounted_for():
    """Twenty thousand rays a pixel's breadth apart tell the same magnification."""
    lens, shape = Lens(1.4, 0.6, 0.9, 0.05, 0.03, x=0.1, y=-0.05), Sersic(0.25, 1.0, 0.5, 0.3, 0.2, 0.1)
    axis = (np.arange(64 * 16) + 0.5) / 16 - 0.5
    x, y = np.meshgrid((axis - FRAME.x_center_pix) * PIXEL, (axis - FRAME.y_center_pix) * PIXEL)
    total = shape.brightness(*trace(x, y, lens)).sum() * (PIXEL / 16) ** 2
    arc = render_arc(lens, sersic_source(shape, (22.5, 22.5, 22.5)), FRAME, KERNELS)
    assert arc.flux_nmgy[1] == pytest.approx(total, rel=1e-3)
