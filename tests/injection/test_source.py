import numpy as np
import pytest

from darkhaloscope.injection.source import (
    Clump,
    Sersic,
    SersicStack,
    clumpy_source,
    sersic_source,
    two_component_source,
)
from darkhaloscope.survey.release import to_magnitude


def grid(half=12.0, n=1201):
    axis = np.linspace(-half, half, n)
    return *np.meshgrid(axis, axis), (axis[1] - axis[0]) ** 2


def test_brightness_integrates_to_the_intrinsic_magnitudes():
    x, y, cell = grid()
    source = sersic_source(Sersic(0.6, 1.0, 0.6, 0.4, 0.3, -0.2), (24.5, 24.0, 23.2))
    light = source.brightness(x, y)
    assert light.shape == (3, *x.shape)
    np.testing.assert_allclose(to_magnitude(light.sum(axis=(1, 2)) * cell), [24.5, 24.0, 23.2], atol=2e-3)


def test_half_the_light_lies_within_the_ellipse_of_the_half_light_radius():
    x, y, _ = grid()
    shape = Sersic(0.6, 1.0, 0.5, 0.0)
    light = shape.brightness(x, y)
    inside = np.hypot(x * np.sqrt(0.5), y / np.sqrt(0.5)) < 0.6
    assert light[inside].sum() / light.sum() == pytest.approx(0.5, abs=5e-3)


def test_two_components_keep_the_total_colours_and_make_a_gradient():
    x, y, _ = grid()
    disc = Sersic(0.8, 1.0, 0.7, 0.3)
    mag = (24.3, 24.0, 23.6)
    source = two_component_source(disc, mag, bulge_share=0.3, bulge_size=0.3, bulge_redder=(0.35, 0.30))
    np.testing.assert_allclose(to_magnitude(source.flux_nmgy), mag, atol=1e-12)
    in_disc, in_bulge = (np.array(part.flux_nmgy) for part in source.parts)
    assert in_bulge[1] / source.flux_nmgy[1] == pytest.approx(0.3)
    colours = [-np.diff(to_magnitude(flux)) for flux in (in_disc, in_bulge)]
    np.testing.assert_allclose(colours[1] - colours[0], [0.35, 0.30], atol=1e-12)
    light = source.brightness(x, y)
    centre, outskirts = np.hypot(x, y) < 0.2, np.abs(np.hypot(x, y) - 1.5) < 0.2
    g_r = [to_magnitude(light[0][m].sum()) - to_magnitude(light[1][m].sum()) for m in (centre, outskirts)]
    assert g_r[0] > g_r[1] + 0.05
    assert source.model == "disc+bulge B/T=0.30"


@pytest.mark.parametrize("n", [0.5, 0.8, 1.0, 2.5, 4.0])
@pytest.mark.parametrize("reach", [0.003, 0.03, 0.3])
def test_stated_sampling_error_is_about_the_true_one_or_more(n, reach):
    """The four-point Gauss rule against the mean over a square whose half diagonal is `reach`."""
    shape = Sersic(0.2, n, 0.5, 0.4)
    stack, first = SersicStack.of([shape]), np.zeros(1, dtype=int)
    rng = np.random.default_rng(3)
    x, y = rng.normal(0, 0.3, (2, 200))
    side = reach * np.sqrt(2)
    node, weight = np.polynomial.legendre.leggauss(60)
    sub = np.meshgrid(0.5 * side * node, 0.5 * side * node)
    fine = shape.brightness(x[:, None, None] + sub[0], y[:, None, None] + sub[1])
    mean = np.einsum("nij,i,j->n", fine, weight, weight) / 4
    gauss = np.meshgrid(*[np.array([-0.5, 0.5]) / np.sqrt(3) * side] * 2)
    rule = shape.brightness(x[:, None, None] + gauss[0], y[:, None, None] + gauss[1]).mean(axis=(1, 2))
    u, v = stack.local(x, y, first)
    stated = stack.sampling_error(u, v, np.full(200, reach) / stack.unit, first, 0.0)
    true = np.abs(mean - rule)
    told = true > 1e-12 * mean.max()  # the rest is rounding
    ratio = (true / stated)[told]
    assert told.sum() > 5
    assert ratio.max() < 3
    assert np.percentile(ratio, 95) < 1.5
    assert true.max() < stated.max() * 1.5


def test_stacked_shapes_are_each_their_own():
    shapes = [Sersic(0.2, 1.0, 0.5, 0.4, 0.1, 0.0), Sersic(0.4, 3.0, 0.9, 1.2, -0.2, 0.3)]
    stack = SersicStack.of(shapes)
    x, y = np.random.default_rng(5).normal(0, 0.4, (2, 4, 50))
    which = np.arange(50) % 2
    together = stack.brightness(*stack.local(x, y, which), which)
    for k, shape in enumerate(shapes):
        np.testing.assert_array_equal(together[:, which == k], shape.brightness(x, y)[:, which == k])


def test_clumps_that_outshine_their_galaxy_are_refused():
    base = Sersic(0.3, 1.0)
    with pytest.raises(ValueError, match="outshine"):
        clumpy_source(base, (25.0, 25.0, 25.0), [Clump(0.0, 0.0, 0.03, (0.2, 0.05, 0.05))], g_over_r=1.0)
