"""Hard negatives: light where no lens puts it, with everything else as in the pair it comes from."""

import numpy as np
import pytest

from darkhaloscope.contracts.tables import HARD_NEGATIVES, SKY_KINDS
from darkhaloscope.injection.hard_negatives import (
    InjectHardNegatives,
    Place,
    images_of,
    images_turned,
    images_unlensed,
    phases_drawn_anew,
    reshaped,
    shuffled_in_rings,
)
from darkhaloscope.injection.inject import RENDERER, Inject
from darkhaloscope.injection.lens import Lens
from darkhaloscope.injection.recipe import Recipe
from darkhaloscope.injection.render import ArcTask, Frame
from darkhaloscope.injection.source import Part, Sersic, Source
from darkhaloscope.stamps.measure import azimuthal_shuffle
from darkhaloscope.stamps.stamp import decode_planes
from darkhaloscope.survey.psf import Kernels, moffat_kernel

RNG = np.random.default_rng
MIDDLE = Place(40.0, 38.0)
SIZE = 80


def blob(x, y, *, sx=1.5, sy=1.5):
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return np.exp(-0.5 * (((columns - x) / sx) ** 2 + ((rows - y) / sy) ** 2)).astype(np.float32)


def layers(light):
    """The same light in three layers of another brightness each."""
    return np.stack([light, 2 * light, 5 * light])


def ring(radius=20.0, width=1.5):
    distance, _ = MIDDLE.polar((SIZE, SIZE))
    return np.exp(-0.5 * ((distance - radius) / width) ** 2).astype(np.float32)


def moments(light):
    rows, columns = np.mgrid[: light.shape[0], : light.shape[1]]
    weight = light / light.sum()
    x, y = (weight * columns).sum(), (weight * rows).sum()
    return x, y, (weight * (columns - x) ** 2).sum(), (weight * (rows - y) ** 2).sum()


ARC = layers(blob(58, 38, sx=1.2, sy=5.0) + 0.4 * blob(28, 38, sx=1.0, sy=2.0))
"""A tangential arc right of the deflector and its counter-image, both upright."""


@pytest.mark.parametrize("make", [
    lambda light: shuffled_in_rings(light, MIDDLE, RNG(0)),
    lambda light: phases_drawn_anew(light, MIDDLE, RNG(0)),
    lambda light: images_turned(light, MIDDLE, 1),
    lambda light: images_turned(light, MIDDLE, 2),
])  # fmt: skip
def test_flux_is_kept_in_every_layer_and_colours_with_it(make):
    made = make(ARC)
    assert made.dtype == ARC.dtype
    assert (made >= 0).all()
    np.testing.assert_allclose(made.sum(axis=(1, 2)), ARC.sum(axis=(1, 2)), rtol=2e-3)
    np.testing.assert_allclose(made[2], 5 * made[0], rtol=1e-4, atol=1e-5)


def test_hn1_keeps_each_ring_s_values_and_destroys_the_arc():
    made = shuffled_in_rings(ARC, MIDDLE, RNG(1))
    distance, angle = MIDDLE.polar(ARC.shape)
    for radius in (10, 18, 24):
        here = (distance // 2).astype(int) == radius // 2
        np.testing.assert_array_equal(np.sort(made[0][here]), np.sort(ARC[0][here]))
    right = np.abs(angle) < np.pi / 2
    share = made[0][right & (distance > 14)].sum() / made[0][distance > 14].sum()
    assert share == pytest.approx(0.5, abs=0.15)
    assert ARC[0][right].sum() > 0.8 * ARC[0].sum()


def test_hn2_keeps_the_power_of_each_ring_and_moves_its_phases():
    made = phases_drawn_anew(ARC, MIDDLE, RNG(2))

    def powers(light):
        distance, angle = MIDDLE.polar(light.shape)
        on = np.abs(distance - 18) < 1
        return np.abs([np.sum(light[on] * np.exp(1j * m * angle[on])) for m in range(5)])

    before, after = powers(ARC[0]), powers(made[0])
    assert after[0] == pytest.approx(before[0], rel=0.1)
    # Light that is nowhere negative cannot keep every amplitude under every set of phases.
    np.testing.assert_allclose(after[1:], before[1:], atol=0.35 * before[0])
    others = [phases_drawn_anew(ARC, MIDDLE, RNG(seed))[0] for seed in range(3)]
    assert np.corrcoef(others[0].ravel(), others[1].ravel())[0, 1] < 0.8


def test_hn3_turns_a_tangential_arc_into_a_radial_streak_in_its_place():
    main = layers(blob(58, 38, sx=1.2, sy=5.0))
    x, y, xx, yy = moments(main[0])
    turned = moments(images_turned(main, MIDDLE, 1)[0])
    np.testing.assert_allclose(turned, (x, y, yy, xx), atol=0.02)
    assert yy > 10 * xx


def test_hn5_bends_an_arc_away_from_the_deflector():
    distance, angle = MIDDLE.polar((SIZE, SIZE))
    arc = ring() * (np.abs(angle) < np.radians(45))
    middle, ends = np.abs(angle) < np.radians(10), np.abs(angle) > np.radians(30)

    def radius(light, where):
        return (light * distance)[where].sum() / light[where].sum()

    assert radius(arc, middle) == pytest.approx(radius(arc, ends), abs=0.3)
    made = images_turned(layers(arc), MIDDLE, 2)[0]
    assert radius(made, ends) > radius(made, middle) + 4


def test_four_quarters_are_none():
    np.testing.assert_array_equal(images_turned(ARC, MIDDLE, 4), ARC)


def test_images_are_told_apart_and_a_ring_is_cut():
    assert len(images_of(ARC[0], MIDDLE)) == 2
    pieces = images_of(ring(), MIDDLE)
    assert len(pieces) == 4
    assert sum(map(len, pieces)) == SIZE * SIZE
    made = images_turned(layers(ring()), MIDDLE, 2)[0]
    assert np.corrcoef(made.ravel(), ring().ravel())[0, 1] < 0.5  # a ring left whole would be itself again


def test_hn4_puts_the_source_where_the_images_were():
    source = layers(blob(45, 41, sx=1.0, sy=1.0))
    made = images_unlensed(ARC, MIDDLE, source, (45.0, 41.0))
    np.testing.assert_allclose(made.sum(axis=(1, 2)), ARC.sum(axis=(1, 2)), rtol=1e-3)
    peaks = {
        tuple(np.unravel_index(part.argmax(), part.shape)) for part in (made[0][:, :43], made[0][:, 43:])
    }
    assert peaks == {(38, 28), (38, 58 - 43)}
    assert moments(made[0][:, 43:])[3] == pytest.approx(1.0, abs=0.05)  # round again: no longer 25


def task_of(theta_e=1.5, y=0.1):
    frame = Frame((64, 64), 31.5, 31.5, 0.262)
    lens = Lens(theta_e, 0.8, 0.3, 0.0, 0.0, 0.0, 0.0, 2.0)
    source = Source((Part(Sersic(0.15, 1.0, 0.9, 0.2, 0.05, y), (1.0, 2.0, 3.0)),), "sersic")
    kernels = Kernels.pixelised(np.stack([moffat_kernel(1.1, 3.0, pixel_scale=0.262)] * 3))
    return ArcTask(lens, source, frame, RENDERER.respond(kernels, (64, 64)))


@pytest.mark.parametrize("kind", SKY_KINDS)
def test_real_light_stays_on_the_stamp_and_is_seen_through_the_psf(kind):
    task = task_of()
    light = RENDERER.light(task)
    made = reshaped(light, task, kind, RNG(5))
    assert made.shape == light.shape
    assert made.sum() == pytest.approx(light.sum(), rel=5e-3)
    arc = RENDERER.render([task])[0]
    moved = RENDERER.render([task], reshape=lambda _, __: made)[0]
    assert moved.image.sum() == pytest.approx(arc.image.sum(), rel=0.02)
    assert np.corrcoef(arc.image.ravel(), moved.image.ravel())[0, 1] < 0.99
    # Band limited as the arc is: nothing that the PSF would not have let through.
    assert _beyond_the_psf(moved.image[1]) < 3 * _beyond_the_psf(arc.image[1]) + 1e-3


def test_shuffled_pixels_do_go_beyond_the_psf():
    """The brief's HN0, whose texture gives it away: what the check above would say of it."""
    arc = RENDERER.render([task_of()])[0].image
    shuffled = azimuthal_shuffle(arc, RNG(0), 31.5, 31.5)
    assert _beyond_the_psf(shuffled[1]) > 10 * _beyond_the_psf(arc[1]) + 1e-3


def _beyond_the_psf(image):
    """Share of the power at more than .35 cycles per pixel, where a FWHM of four pixels passes nothing."""
    power = np.abs(np.fft.fft2(image)) ** 2
    f = np.fft.fftfreq(64)
    return power[np.hypot(f[:, None], f) > 0.35].sum() / power.sum()


@pytest.fixture(scope="module")
def both(hosts):
    table = hosts(40)
    return Inject(seed=1).run(table), InjectHardNegatives(seed=1).run(table)


def test_rows_follow_the_pairs(both):
    pairs, hard = both
    assert HARD_NEGATIVES.check(hard).all_passed
    for column in ("task_id", "target_id", "host_id", "x_center_pix", "y_center_pix", "theta_e_arcsec"):
        assert hard.column(column).to_pylist() == pairs.column(column).to_pylist()
    assert set(hard.column("negative_kind").to_pylist()) == set(SKY_KINDS)


def test_the_light_is_the_arc_s_and_the_rest_is_the_control_s(both):
    pairs, hard = both
    for row in range(0, 40, 3):
        moved = _planes(hard, "stamp_npz", row) - _planes(pairs, "ctrl_stamp_npz", row)
        arc = _planes(pairs, "arc_npz", row, "arc")
        noise = _planes(pairs, "stamp_npz", row) - _planes(pairs, "ctrl_stamp_npz", row) - arc
        error = np.hypot(5 * np.sqrt(2) * noise.std(axis=(1, 2)) * 64, 0.06 * arc.sum(axis=(1, 2)))
        assert (np.abs(moved.sum(axis=(1, 2)) - arc.sum(axis=(1, 2))) < error).all()


def test_likeness_tells_light_that_is_still_the_arc(both):
    _, hard = both
    likeness = np.array(hard.column("likeness").to_pylist(), dtype=float)
    assert ((likeness > -0.2) & (likeness <= 1)).all()
    assert likeness.min() < 0.6
    # Images hardly resolved look the same after half a turn: such a row is no negative, and is known.
    kinds = np.array(hard.column("negative_kind").to_pylist())
    assert likeness[kinds == "HN5"].mean() > likeness[kinds == "HN3"].mean()


def test_a_row_does_not_depend_on_its_neighbours(both, hosts):
    _, hard = both
    assert InjectHardNegatives(seed=1).run(hosts(40).slice(7, 1)).equals(hard.slice(7, 1))
    other = InjectHardNegatives(seed=2).run(hosts(40).slice(7, 1))
    assert other.column("stamp_npz") != hard.slice(7, 1).column("stamp_npz")


def test_a_recipe_that_scales_arcs_to_an_s_n_gives_the_moved_light_the_arc_s_flux(hosts):
    recipe = Recipe(flux_mode="snr_targeted")
    pairs = Inject(seed=1, recipe=recipe).run(hosts(12))
    hard = InjectHardNegatives(seed=1, recipe=recipe, negatives=("HN2",)).run(hosts(12))
    snr = [np.array(t.column("arc_snr_mf").to_pylist(), dtype=float) for t in (pairs, hard)]
    assert (snr[1] < 0.99 * snr[0]).mean() > 0.5  # spread out, the same flux has less of it
    for row in range(12):
        arc = _planes(pairs, "arc_npz", row, "arc").sum()
        moved = (_planes(hard, "stamp_npz", row) - _planes(pairs, "ctrl_stamp_npz", row)).sum()
        assert moved == pytest.approx(arc, rel=0.35, abs=0.2)


def test_light_that_misses_the_stamp_is_left_as_it_is():
    task = task_of()
    nothing = np.zeros_like(RENDERER.light(task))
    for kind in SKY_KINDS:
        assert not reshaped(nothing, task, kind, RNG(0)).any()


def test_one_kind_can_be_asked_for(hosts):
    job = InjectHardNegatives(seed=1, negatives=("HN3",))
    assert set(job.run(hosts(6)).column("negative_kind").to_pylist()) == {"HN3"}


def _planes(table, name, row, prefix="image"):
    return decode_planes(table.column(name)[row].as_py(), prefix, where="test").astype(float)
