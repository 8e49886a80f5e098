"""A hundred compact and cuspy sources at folds and cusps of the caustic against the converged reference."""

import numpy as np
import pytest
from benchmarks.reference import hard_systems
from tests.science.converged import compare, ours, references

from darkhaloscope.injection.caustics import ImagedRegion
from darkhaloscope.injection.render import Renderer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]


@pytest.fixture(scope="module")
def systems():
    return hard_systems(100, seed=1)


@pytest.fixture(scope="module")
def truth(systems):
    return references(systems)


def test_hard_arcs_are_right_to_five_thousandths(systems, truth):
    assert truth[1].max() < 1e-4
    found = compare(ours(systems), *truth)
    assert found.error.max() < 5e-3
    assert found.flux.max() < 3e-3


def test_the_sources_are_as_hard_as_they_are_called(systems):
    shapes = [s.truth.source.parts[0].shape for s in systems]
    assert min(shape.R_sersic for shape in shapes) < 0.12
    assert max(shape.n_sersic for shape in shapes) >= 4.0
    images = [
        int(ImagedRegion(s.truth.lens).images(shape.x, shape.y)[0])
        for s, shape in zip(systems, shapes, strict=True)
    ]
    assert min(images.count(2), images.count(4)) > 20


def test_shallow_refinement_fails_on_them(systems, truth):
    found = compare(ours(systems, renderer=Renderer(tolerance=0.05)), *truth)
    assert found.error.max() > 5e-3


def test_what_comes_out_does_not_depend_on_company(systems):
    together, alone = ours(systems[:24]), [ours([s])[0] for s in systems[:24]]
    np.testing.assert_array_equal(together, alone)
