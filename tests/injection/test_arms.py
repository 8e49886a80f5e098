"""The arms of the ablation as the job makes them: clumpy sources, varied imaging, real galaxies."""

from pathlib import Path

import numpy as np
import pytest

from darkhaloscope.contracts.config import fingerprint
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.random import stream
from darkhaloscope.contracts.tables import PAIRED_STAMPS, STAMPS
from darkhaloscope.injection.draw import settled
from darkhaloscope.injection.imaging import shot_noise
from darkhaloscope.injection.inject import Inject
from darkhaloscope.injection.nuisance import Nuisances, Rate
from darkhaloscope.injection.recipe import HybridShapes, RealShapes, Recipe, Sources
from darkhaloscope.stamps.stamp import decode_planes

GEN7 = Inject(seed=1, recipe=Recipe(lineage="gen7", shapes=HybridShapes()))
OFTEN = Nuisances(
    cosmic_ray_rate=Rate(per_stamp=0.5), star_rate=Rate(per_stamp=0.3), strip_rate=Rate(per_stamp=0.3)
)
GEN8 = Inject(seed=1, recipe=Recipe(lineage="gen8", imaging=OFTEN))
SOURCES = Path(__file__).resolve().parents[3] / "shared" / "data" / "sources"


def column(table, name):
    return np.array(table.column(name).to_pylist(), dtype=float)


def planes(table, name, prefix, row):
    return decode_planes(table.column(name)[row].as_py(), prefix, where="test").astype(np.float64)


@pytest.fixture(scope="module")
def varied(hosts):
    return GEN8.run(hosts(40))


def test_varied_pairs_satisfy_their_table_and_say_what_they_suffer(varied):
    assert PAIRED_STAMPS.check(varied).all_passed
    assert set(varied.column("recipe").to_pylist()) == {"sersic+nuisances"}
    suffered = [text or "" for text in varied.column("nuisances").to_pylist()]
    assert sum("cosmic_ray" in text for text in suffered) > 5
    assert sum("spike" in text for text in suffered) > 3


def test_stamp_and_control_share_one_realisation(varied):
    """What is left of the difference is the arc and its own photons, artefacts and all."""
    kept = [k for k, code in enumerate(varied.column("reject").to_pylist()) if code is None]
    for row in kept[:20]:
        stamp, control = (planes(varied, name, "image", row) for name in ("stamp_npz", "ctrl_stamp_npz"))
        arc = planes(varied, "arc_npz", "arc", row)
        gain = np.array([column(varied, f"gain_{band}")[row] for band in "grz"])
        rng = stream(1, "injection/photons", varied.column("task_id")[row].as_py())
        added = arc + shot_noise(arc, gain, rng)
        near = np.abs(stamp - control - added) < 1e-6 * np.abs(control).max() + 3 / gain[:, None, None]
        assert near.all()


def test_the_control_is_not_the_host_s_any_more(varied, hosts):
    untouched = hosts(40).column("stamp_npz").to_pylist()
    assert not set(untouched) & set(varied.column("ctrl_stamp_npz").to_pylist())


def test_two_realisations_would_not_cancel(varied, hosts):
    other = Inject(seed=2, recipe=GEN8.recipe).run(hosts(40))
    row = next(k for k, code in enumerate(other.column("reject").to_pylist()) if code is None)
    a, b = planes(varied, "ctrl_stamp_npz", "image", row), planes(other, "ctrl_stamp_npz", "image", row)
    assert np.abs(a - b).max() > 1e-3


def test_a_sham_under_varied_imaging_is_its_control_bit_for_bit(hosts):
    sham = Inject(seed=1, recipe=GEN8.recipe, sham=True).run(hosts(12))
    assert sham.column("stamp_npz").to_pylist() == sham.column("ctrl_stamp_npz").to_pylist()


def test_varied_imaging_does_not_depend_on_neighbours(varied, hosts):
    for k in (0, 7, 23):
        assert GEN8.run(hosts(40).slice(k, 1)).equals(varied.slice(k, 1))


def test_a_missing_band_is_a_code_by_default(hosts):
    recipe = Recipe(imaging=Nuisances(missing_band_rate=Rate(per_stamp=1.0)))
    out = Inject(seed=1, recipe=recipe).run(hosts(4))
    assert set(out.column("reject").to_pylist()) == {"missing_band"}
    assert PAIRED_STAMPS.check(out).all_passed


def test_arms_share_the_lens_and_differ_in_what_they_are_about(hosts):
    plain, clumpy = Inject(seed=1).run(hosts(12)), GEN7.run(hosts(12))
    for name in ("theta_e_arcsec", "q", "gamma1", "beta_arcsec", "source_mag_r", "z_source"):
        np.testing.assert_array_equal(column(plain, name), column(clumpy, name))
    assert set(clumpy.column("recipe").to_pylist()) == {"hybrid"}
    assert all("clumps" in model for model in clumpy.column("source_model").to_pylist())
    assert not clumpy.column("arc_npz").equals(plain.column("arc_npz"))
    assert fingerprint(GEN7.recipe) not in plain.column("recipe_hash").to_pylist()


@pytest.mark.realdata
def test_real_galaxies_are_lensed_with_their_own_colours(hosts):
    if not SOURCES.exists():
        pytest.skip("needs the real galaxies beside the checkout")
    recipe = settled(Recipe(shapes=RealShapes(catalog=str(SOURCES))))
    out = Inject(seed=1, recipe=recipe).run(hosts(24))
    assert PAIRED_STAMPS.check(out).all_passed
    assert set(out.column("reject").to_pylist()) == {None}
    assert all(model.startswith("real galaxy ") for model in out.column("source_model").to_pylist())
    assert out.column("source_id").null_count == 0
    gained = 10 ** (0.4 * (column(out, "source_mag_r") - column(out, "lensed_mag_r")))
    np.testing.assert_allclose(gained, column(out, "magnification"), rtol=1e-3)
    assert np.median(column(out, "magnification")) == pytest.approx(3.0, rel=0.3)
    steeper = recipe.model_copy(update={"sources": Sources(size_slope=-0.16)})
    resized = Inject(seed=1, recipe=steeper).run(hosts(24))
    assert resized.column("source_id").equals(out.column("source_id"))
    assert not np.array_equal(column(resized, "R_sersic_arcsec"), column(out, "R_sersic_arcsec"))
    alone = Inject(seed=1, recipe=recipe).run(hosts(24).slice(5, 1))
    assert alone.equals(out.slice(5, 1))


@pytest.mark.realdata
def test_groups_of_two_shares_are_lensed_from_galaxies_of_their_own(hosts):
    if not SOURCES.exists():
        pytest.skip("needs the real galaxies beside the checkout")
    recipe = settled(Recipe(shapes=RealShapes(catalog=str(SOURCES))))
    shares = {"cell:7": (0.0, 0.5), "cell:8": (0.5, 1.0)}
    rows = STAMPS.conform(
        [
            row | {"group": f"cell:{7 + k % 2}", "cell": 7 + k % 2}
            for k, row in enumerate(hosts(60).to_pylist())
        ]
    )

    def sources(out):
        usable = [row for row in out.to_pylist() if row["reject"] is None]
        halves = [{row["source_id"] for row in usable if row["group"] == group} for group in shares]
        assert min(map(len, halves)) > 5
        return halves[0] & halves[1]

    assert sources(Inject(seed=1, recipe=recipe).run(rows))  # else nothing is shown
    assert not sources(Inject(seed=1, recipe=recipe, source_shares=shares).run(rows))


@pytest.mark.realdata
def test_another_catalogue_is_not_taken_for_the_one_that_results_name():
    if not SOURCES.exists():
        pytest.skip("needs the real galaxies beside the checkout")
    shapes = RealShapes(catalog=str(SOURCES))
    known, wrong = settled(Recipe(shapes=shapes)), shapes.model_copy(update={"catalog_sha256": "0" * 64})
    assert known.shapes.catalog_sha256 is not None
    moved = known.model_copy(update={"shapes": known.shapes.model_copy(update={"catalog": "/elsewhere"})})
    assert fingerprint(moved) == fingerprint(known) != fingerprint(Recipe(shapes=shapes))
    with pytest.raises(DataError, match="is not the catalogue"):
        settled(Recipe(shapes=wrong))
