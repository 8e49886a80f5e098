"""The synthetic sky: bricks, targets, and what the catalogue says of them."""

import numpy as np
import pytest

from darkhaloscope.contracts.errors import ConfigError
from darkhaloscope.contracts.tables import BRICKS
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.psf import n_eff
from darkhaloscope.survey.release import galactic_latitude, healpix_cell
from darkhaloscope.survey.sky import draw_target, harvest_brick, plan_bricks, targets_of

PRIORS = SkyPriors()


@pytest.fixture(scope="module")
def plan():
    look = {"ring": 50, "spiral": 50, "merger": 30, "spike": 20}
    return plan_bricks(1, 40, 10, priors=PRIORS, contaminants=look, anchors=68)


def test_the_plan_is_a_table_of_bricks_with_exactly_the_totals_asked_for(plan):
    assert BRICKS.check(plan).all_passed
    totals = {
        name: sum(plan.column(f"n_{name}").to_pylist()) for name in ("ring", "spiral", "merger", "spike")
    }
    assert totals == {"ring": 50, "spiral": 50, "merger": 30, "spike": 20}
    assert sum(plan.column("n_anchor").to_pylist()) == 68
    assert set(plan.column("n_lrg").to_pylist()) == {7}
    assert set(plan.column("n_disc").to_pylist()) == {3}
    assert sum(plan_bricks(1, 40, 10, priors=PRIORS).column("n_anchor").to_pylist()) == 20


def test_bricks_lie_in_the_footprint_each_in_its_own_cell(plan):
    ra, dec = (np.array(plan.column(c).to_pylist()) for c in ("ra_deg", "dec_deg"))
    assert dec.min() >= -86
    assert dec.max() <= 34
    assert np.abs(galactic_latitude(ra, dec)).min() > 24
    cells = plan.column("cell").to_pylist()
    assert len(set(cells)) == 40
    assert cells == healpix_cell(ra, dec).tolist()


def test_more_bricks_leave_the_first_ones_as_they_are():
    few, many = (plan_bricks(1, n, 10, priors=PRIORS) for n in (40, 400))
    for column in ("brickname", "ra_deg", "dec_deg", "cell"):
        assert many.column(column).to_pylist()[:40] == few.column(column).to_pylist()
    assert plan_bricks(2, 40, 10, priors=PRIORS).column("brickname") != few.column("brickname")


def test_names_stay_distinct_when_cells_are_shared():
    many = plan_bricks(1, 30_000, 1, priors=PRIORS)
    names = many.column("brickname").to_pylist()
    assert len(set(names)) == len(names)
    assert len(set(many.column("cell").to_pylist())) < len(names)


def test_plans_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="plans nothing"):
        plan_bricks(1, 0, 10, priors=PRIORS)
    with pytest.raises(ConfigError, match="no class 'quasar'"):
        plan_bricks(1, 5, 10, priors=PRIORS, contaminants={"quasar": 3})
    with pytest.raises(ConfigError, match="does not fit"):
        plan_bricks(1, 10_000_000, 1, priors=PRIORS)


def test_a_brick_yields_its_targets_in_order(plan):
    brick = plan.to_pylist()[0]
    found = list(targets_of(brick))
    assert len({target_id for target_id, _, _ in found}) == len(found)
    kinds = [kind for _, kind, _ in found]
    assert kinds.count("lrg") == 7
    assert kinds.count("lens") == brick["n_anchor"]
    assert all((category is not None) == (kind == "contaminant") for _, kind, category in found)
    drawn = list(harvest_brick(1, brick, PRIORS, 64))
    assert [t.target_id for t in drawn] == [target_id for target_id, _, _ in found]


def test_a_target_does_not_depend_on_its_brick_mates(plan):
    brick = plan.to_pylist()[0]
    alone = draw_target(1, f"{brick['brickname']}-lrg-0003", "lrg", None, brick=brick, priors=PRIORS)
    among = list(harvest_brick(1, brick, PRIORS, 64))[3]
    assert repr(alone) == repr(among)
    assert repr(alone.scene.noise) == repr(among.scene.noise)
    other = draw_target(2, alone.target_id, "lrg", None, brick=brick, priors=PRIORS)
    assert other.row["flux_r"] != alone.row["flux_r"]


def test_an_error_names_its_target(plan):
    priors = PRIORS.model_copy(
        update={
            "deflectors": PRIORS.deflectors.model_copy(update={"r_range": PRIORS.deflectors.centring_pix})
        }
    )
    with pytest.raises(ConfigError) as caught:
        list(harvest_brick(1, plan.to_pylist()[0], priors, 64))
    assert "target_id=" in caught.value.__notes__[0]


@pytest.fixture(scope="module")
def hosts():
    brick = {"brickname": "0591m305", "ra_deg": 59.1, "dec_deg": -30.5, "release": "synthetic"}
    return [draw_target(7, f"h{k}", "lrg", None, brick=brick, priors=PRIORS) for k in range(900)]


def percentiles(values):
    return np.percentile(np.asarray(values, dtype=float), [5, 16, 50, 84, 95])


HOSTS = {
    "r": ([18.0, 18.8, 20.05, 21.1, 21.7], [0.35, 0.25, 0.15, 0.15, 0.25]),
    "g_r": ([1.43, 1.58, 1.72, 1.84, 1.92], [0.08, 0.04, 0.03, 0.03, 0.04]),
    "r_z": ([0.80, 0.92, 1.24, 1.58, 1.72], [0.05, 0.04, 0.07, 0.04, 0.05]),
    "radius": ([0.49, 0.65, 1.03, 1.71, 2.51], [0.05, 0.05, 0.08, 0.15, 0.3]),
}


def test_hosts_have_the_declared_magnitudes_colours_and_sizes(hosts):
    magnitude = {b: 22.5 - 2.5 * np.log10([t.row[f"flux_{b}"] for t in hosts]) for b in "grz"}
    found = {
        "r": magnitude["r"],
        "g_r": magnitude["g"] - magnitude["r"],
        "r_z": magnitude["r"] - magnitude["z"],
        "radius": [t.row["shape_r"] for t in hosts],
    }
    for name, (expected, tolerance) in HOSTS.items():
        assert np.all(np.abs(percentiles(found[name]) - expected) < tolerance), name
    # The comparison can fail: the faint parent's median r-z is 1.18, its median r 20.9.
    assert np.any(np.abs(percentiles(found["r"] + 0.9) - HOSTS["r"][0]) > HOSTS["r"][1])


def test_depths_and_psf_areas_are_the_declared_ones(hosts):
    sigma = np.array([t.scene.noise.sigma_w for t in hosts])
    area = np.array([[n_eff(k) for k in t.scene.psf.kernels(0.262)] for t in hosts[:400]])
    depth = 22.5 - 2.5 * np.log10(5 * sigma[:400] * np.sqrt(area))
    assert np.median(depth, axis=0) == pytest.approx([24.8, 24.5, 23.4], abs=0.08)
    assert percentiles(depth[:, 1]) == pytest.approx([24.0, 24.2, 24.5, 24.9, 25.1], abs=0.12)
    assert percentiles(area[:, 1]) == pytest.approx([46, 53, 69, 89, 106], rel=0.1)


def test_the_centre_is_scattered_over_a_pixel(hosts):
    x = np.array([t.x_center_pix for t in hosts])
    assert 31.0 <= x.min() < 31.05
    assert 31.95 < x.max() <= 32.0


def test_ellipticity_columns_hold_the_tractors_angle(hosts):
    row = hosts[0].row
    e = np.hypot(row["shape_e1"], row["shape_e2"])
    assert e == pytest.approx((1 - row["light_q"]) / (1 + row["light_q"]))
    # East is towards -x: an angle phi from +x to +y is phi - 90 deg from north through east.
    tractor_angle = 0.5 * np.arctan2(row["shape_e2"], row["shape_e1"])
    difference = tractor_angle - (row["light_phi_rad"] - np.pi / 2)
    assert np.sin(difference) == pytest.approx(0.0, abs=1e-9)


def test_plans_that_start_behind_each_other_share_no_brick_and_no_cell():
    first, behind = plan_bricks(1, 40, 10, priors=PRIORS), plan_bricks(1, 20, 10, priors=PRIORS, first=40)
    whole = plan_bricks(1, 60, 10, priors=PRIORS)
    for column in ("brickname", "cell"):
        names = [plan.column(column).to_pylist() for plan in (first, behind)]
        assert not set(names[0]) & set(names[1])
        assert names[0] + names[1] == whole.column(column).to_pylist()
