import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from darkhaloscope.contracts.errors import StampError
from darkhaloscope.contracts.random import stream
from darkhaloscope.contracts.tables import PAIRED_STAMPS, STAMPS
from darkhaloscope.injection.draw import Host, draw
from darkhaloscope.injection.imaging import add_to, shot_noise
from darkhaloscope.injection.inject import Inject, InjectTasks, MakeAnchors, host_gain, inject_arc
from darkhaloscope.injection.recipe import Deflection, Recipe, Sources
from darkhaloscope.stamps.stamp import Stamp, decode_planes, encode_mask, encode_planes
from darkhaloscope.survey.distributions import Counts, Uniform

JOB = Inject(seed=1)


def column(table, name):
    return np.array(table.column(name).to_pylist(), dtype=float)


def planes(table, name, prefix="image", row=0):
    return decode_planes(table.column(name)[row].as_py(), prefix, where="test")


@pytest.fixture(scope="module")
def pairs(hosts):
    return JOB.run(hosts(400))


def test_pairs_satisfy_their_table(pairs):
    assert PAIRED_STAMPS.check(pairs).all_passed
    assert set(pairs.column("arc_domain").to_pylist()) == {"sim"}
    assert set(pairs.column("reject").to_pylist()) == {None}


def test_control_is_the_survey_s_blob_byte_for_byte(pairs, hosts):
    assert pairs.column("ctrl_stamp_npz").to_pylist() == hosts(400).column("stamp_npz").to_pylist()


def test_stamp_minus_control_is_arc_and_its_noise(pairs):
    for row in range(0, 400, 57):
        stamp, control = planes(pairs, "stamp_npz", row=row), planes(pairs, "ctrl_stamp_npz", row=row)
        arc = planes(pairs, "arc_npz", "arc", row)
        gain = np.array([column(pairs, f"gain_{band}")[row] for band in "grz"])
        task = pairs.column("task_id")[row].as_py()
        added = arc.astype(np.float64) + shot_noise(arc, gain, stream(1, "injection/photons", task))
        # One electron more or less where float32 rounds the arc across a Poisson step.
        near = np.abs(stamp - control - added) < 1e-6 * np.abs(control).max() + 3 / gain[:, None, None]
        assert near.all()


def test_invvar_holds_the_arc_s_photons(pairs, hosts):
    before = decode_planes(hosts(400).column("invvar_npz")[3].as_py(), "invvar", where="test")
    after, arc = planes(pairs, "invvar_npz", "invvar", 3), planes(pairs, "arc_npz", "arc", 3)
    gain = np.array([column(pairs, f"gain_{band}")[3] for band in "grz"])[:, None, None]
    np.testing.assert_allclose(1 / after, 1 / before + np.maximum(arc, 0) / gain, rtol=1e-5)


def test_a_pair_does_not_depend_on_its_neighbours(pairs, hosts):
    table = hosts(400)
    alone = JOB.run(table.slice(17, 1))
    assert alone.equals(pairs.slice(17, 1))
    backwards = JOB.run(table.slice(0, 5).take(pa.array([4, 3, 2, 1, 0])))
    assert backwards.take(pa.array([4, 3, 2, 1, 0])).equals(pairs.slice(0, 5))


def test_draws_of_one_host_differ(hosts):
    both = Inject(seed=1, draws_per_host=2).run(hosts(2))
    assert both.column("task_id").to_pylist() == [f"host-{i:05d}#{k}" for i in range(2) for k in range(2)]
    assert len(set(column(both, "theta_e_arcsec"))) == 4


def test_some_tasks_alone_come_out_as_among_all_of_them(hosts):
    """The others are left out, hosts without a task too, and not one cell of the rest is another."""
    both = Inject(seed=1, draws_per_host=2).run(hosts(5))
    tasks = ("host-00004#0", "host-00001#1")
    some = InjectTasks(seed=1, draws_per_host=2, tasks=tasks).run(hosts(5))
    assert some.column("task_id").to_pylist() == ["host-00001#1", "host-00004#0"]
    assert some.equals(both.filter(pc.is_in(both.column("task_id"), value_set=pa.array(tasks))))
    none = InjectTasks(seed=1, draws_per_host=1, tasks=("host-00001#1",)).run(hosts(5))
    assert none.num_rows == 0
    assert none.schema.equals(PAIRED_STAMPS.schema)


def test_sham_leaves_the_control_bit_for_bit(hosts):
    sham = Inject(seed=1, sham=True).run(hosts(6))
    assert PAIRED_STAMPS.check(sham).all_passed
    assert sham.column("stamp_npz").to_pylist() == sham.column("ctrl_stamp_npz").to_pylist()
    assert sham.column("invvar_npz").to_pylist() == hosts(6).column("invvar_npz").to_pylist()
    assert not column(sham, "arc_snr_mf").any()
    assert set(sham.column("arc_domain").to_pylist()) == {None}
    assert set(sham.column("flux_mode").to_pylist()) == {"sham"}


def test_light_is_added_in_double_and_outside_the_footprint_bits_stay():
    control = np.array([[-0.0, 1.0, 3.0]], np.float32)
    light, nowhere = np.array([[0.5, 0.0, 2e-7]]), np.zeros((1, 3), bool)
    assert add_to(control, light, nowhere).tobytes() == control.tobytes()
    lit = add_to(control, light, np.array([[False, True, True]]))
    assert lit.tobytes() == np.array([[-0.0, 1.0, 3 + 2e-7]], np.float32).tobytes()


def test_an_arc_ends_where_it_drowns_in_the_noise_and_nothing_changes_beyond(host_row):
    pairs = Inject(recipe=Recipe(), seed=3).run(STAMPS.conform([host_row(k) for k in range(12)]))
    usable = [row for row in range(12) if pairs.column("reject")[row].as_py() is None]
    assert len(usable) > 8
    for row in usable:
        stamp, control = planes(pairs, "stamp_npz", row=row), planes(pairs, "ctrl_stamp_npz", row=row)
        arc, invvar = planes(pairs, "arc_npz", "arc", row), planes(pairs, "invvar_npz", "invvar", row)
        inside = arc != 0
        assert np.array_equal(stamp[~inside].view("u4"), control[~inside].view("u4"))
        assert (stamp[inside] != control[inside]).mean() > 0.99
        assert (arc * np.sqrt(invvar))[inside].min() > 0.999e-3
        left = [pairs.column(f"flux_left_out_{band}")[row].as_py() for band in "grz"]
        assert all(-1e-3 < share < 0.06 for share in left), left


def test_infinite_gain_is_noiseless(host_row):
    row = STAMPS.conform([host_row(0)]).to_pylist()[0]
    stamp = Stamp.from_row(row, where="test")
    truth = draw(Host.from_row(row), Recipe(), seed=1, task="t")
    done = inject_arc(stamp, truth, np.full(3, np.inf), stream(1, "test", "t"))
    added = done.stamp.astype(np.float64) - stamp.image
    np.testing.assert_allclose(added, done.arc, atol=1e-7 * float(stamp.image.max()))
    np.testing.assert_array_equal(done.invvar, stamp.invvar)


def test_gain_comes_from_the_blank_sky(host_row):
    faint, bright = (STAMPS.conform([host_row(0, scatter=False)]).to_pylist()[0] for _ in range(2))
    gain = host_gain(Stamp.from_row(faint, where="test"), faint)
    np.testing.assert_allclose(gain, [1.8e4, 2.2e4, 2.3e4], rtol=0.05)
    bright["nexp_g"] = None
    assert host_gain(Stamp.from_row(bright, where="test"), bright)[0] == pytest.approx(gain[0], rel=0.1)


def test_snr_and_core_shares_match_the_published_defaults(pairs):
    """priors: mf 3.6/5.2/12.1/44/129; peak S/N median 1.5; core flux .59 ... .08 by theta_E."""
    snr, theta_e, kappa = (column(pairs, c) for c in ("arc_snr_mf", "theta_e_arcsec", "kappa_r5"))
    # n = 400: the median is known to 7 %, an outer percentile to 15 %.
    np.testing.assert_allclose(np.percentile(snr, [5, 16, 50, 84]), [3.6, 5.2, 12.1, 44], rtol=0.20)
    np.testing.assert_allclose([np.mean(snr > s) for s in (5, 10, 20)], [0.86, 0.57, 0.32], atol=0.06)
    assert np.median(column(pairs, "arc_snr")) == pytest.approx(1.5, rel=0.15)
    assert np.median(column(pairs, "magnification")) == pytest.approx(3.0, rel=0.08)
    for low, high, share in [
        (0.5, 0.75, 0.59),
        (0.75, 1, 0.39),
        (1, 1.5, 0.19),
        (1.5, 2, 0.11),
        (2, 2.5, 0.08),
    ]:
        inside = (theta_e >= low) & (theta_e < high)
        assert kappa[inside].mean() == pytest.approx(share, abs=0.06)


def test_a_wrong_count_limit_misses_the_published_defaults(hosts):
    faint = Recipe(sources=Sources(r_mag=Counts(slope=0.3, bright=21.0, faint=26.5)))
    snr = column(Inject(seed=1, recipe=faint).run(hosts(300)), "arc_snr_mf")
    assert np.median(snr) == pytest.approx(6.8, rel=0.25)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(np.percentile(snr, [5, 16, 50, 84]), [3.6, 5.2, 12.1, 44], rtol=0.20)


def test_flux_ledger_is_consistent(pairs):
    arc = np.array([planes(pairs, "arc_npz", "arc", k).sum(axis=(1, 2)) for k in range(0, 400, 20)])
    for k, band in enumerate("grz"):
        lensed = 10 ** (0.4 * (22.5 - column(pairs, f"lensed_mag_{band}")[::20]))
        np.testing.assert_allclose(arc[:, k] / lensed, 1.0, atol=0.03)
    gained = 10 ** (0.4 * (column(pairs, "source_mag_r") - column(pairs, "lensed_mag_r")))
    np.testing.assert_allclose(gained, column(pairs, "magnification"), rtol=1e-3)
    bands = sum(column(pairs, f"arc_snr_mf_{band}") ** 2 for band in "grz")
    np.testing.assert_allclose(np.sqrt(bands), column(pairs, "arc_snr_mf"), rtol=1e-5)


def test_aimed_snr_is_met_and_carries_no_population_weight(hosts):
    recipe = Recipe(flux_mode="snr_targeted", target_snr=Uniform(low=30.0, high=30.0))
    aimed = Inject(seed=1, recipe=recipe).run(hosts(8))
    np.testing.assert_allclose(column(aimed, "arc_snr_mf"), 30.0, rtol=1e-5)
    assert not column(aimed, "weight").any()
    plain = JOB.run(hosts(8))
    np.testing.assert_allclose(column(aimed, "source_mag_r"), column(plain, "source_mag_r"))
    assert (column(plain, "weight") > 0).all()
    assert set(column(plain, "flux_scale")) == {1.0}
    gained = 10 ** (0.4 * (column(aimed, "source_mag_r") - column(aimed, "lensed_mag_r")))
    np.testing.assert_allclose(
        gained, column(aimed, "magnification") * column(aimed, "flux_scale"), rtol=1e-3
    )


def test_a_floor_on_the_snr_is_recorded(hosts):
    floored = Inject(seed=1, recipe=Recipe(snr_floor=10.0)).run(hosts(40))
    snr, below = (
        column(floored, "arc_snr_mf"),
        np.array(floored.column("reject").to_pylist()) == "below_snr_floor",
    )
    assert 5 < below.sum() < 35
    np.testing.assert_array_equal(snr < 10.0, below)
    assert [blob is None for blob in floored.column("stamp_npz").to_pylist()] == below.tolist()
    assert not column(floored, "weight")[below].any()
    assert PAIRED_STAMPS.check(floored).all_passed


def test_snr_columns_are_what_the_pixels_say(pairs, hosts):
    invvar = decode_planes(hosts(400).column("invvar_npz")[3].as_py(), "invvar", where="test").astype(float)
    arc = planes(pairs, "arc_npz", "arc", 3).astype(float)
    for k, band in enumerate("grz"):
        peak = (arc[k] * np.sqrt(invvar[k])).max()
        total = arc[k].sum() / np.sqrt((1 / invvar[k]).sum())
        assert column(pairs, f"arc_snr_{band}")[3] == pytest.approx(peak, rel=1e-4)
        assert column(pairs, f"arc_snr_sum_{band}")[3] == pytest.approx(total, rel=1e-4)
    assert column(pairs, "arc_snr")[3] == column(pairs, "arc_snr_r")[3]
    assert (column(pairs, "arc_snr_sum") < column(pairs, "arc_snr_mf")).all()


def test_arc_is_centred_on_the_target_not_on_the_stamp(host_row):
    """A round lens with the source behind it: the ring's centroid is the target's position."""
    recipe = Recipe()
    row = STAMPS.conform([host_row(3)]).to_pylist()[0]
    truth = draw(Host.from_row(row), recipe, seed=1, task="t")
    ring = type(truth.lens)(theta_e=1.5)
    part = truth.source.parts[0]
    behind = type(part.shape)(0.3, 1.0)
    source = type(truth.source)((type(part)(behind, part.flux_nmgy),), "sersic")
    stamp = Stamp.from_row(row | {"x_center_pix": 33.4, "y_center_pix": 29.8}, where="test")
    symmetric = type(truth)(ring, source, behind, 0.5, 1.5, truth.source_mag, 1.0, 2)
    arc = inject_arc(stamp, symmetric, np.full(3, np.inf), stream(1, "test", "t")).arc[1].astype(float)
    rows, columns = np.indices(arc.shape)
    assert (arc * columns).sum() / arc.sum() == pytest.approx(33.4, abs=0.01)
    assert (arc * rows).sum() / arc.sum() == pytest.approx(29.8, abs=0.01)


def test_a_stamp_of_another_size_and_pixel_scale_is_fine(host_row):
    odd = Inject(seed=1).run(STAMPS.conform([host_row(0, size=91) | {"pixel_scale_arcsec": 0.263}]))
    assert planes(odd, "stamp_npz").shape == (3, 91, 91)


def test_other_kinds_are_left_out_unless_asked_for(host_row):
    table = STAMPS.conform([host_row(0), host_row(1, kind="disc"), host_row(2, kind="lens")])
    assert JOB.run(table).num_rows == 1
    assert Inject(seed=1, kinds=("lrg", "disc")).run(table).num_rows == 2
    assert JOB.run(table.slice(1, 2)).schema.equals(PAIRED_STAMPS.schema)
    lit = STAMPS.conform([host_row(0, arc_domain="nature")])
    assert JOB.run(lit).num_rows == 0


def test_hosts_that_cannot_carry_an_arc_keep_their_row_with_a_code(host_row):
    base = host_row(0)
    stamp = Stamp.from_row(STAMPS.conform([base]).to_pylist()[0], where="test")
    dark, broken, deep = stamp.image.copy(), stamp.image.copy(), stamp.invvar * 1e-3
    dark[2], broken[0, 5, 5] = 0.0, np.nan
    mask = np.zeros((64, 64), np.int32)
    mask[20:40, 25:35] = 0x8
    wide = {
        "missing_band": {"stamp_npz": encode_planes("image", dark)},
        "not_finite": {"stamp_npz": encode_planes("image", broken)},
        "host_masked": {"mask_npz": encode_mask(mask)},
        "gain_out_of_bounds": {"invvar_npz": encode_planes("invvar", deep)},
        "too_small": {"reject": "too_small", "stamp_npz": None},
    }
    rows = [base | change | {"target_id": code} for code, change in wide.items()]
    out = JOB.run(STAMPS.conform(rows))
    assert out.column("reject").to_pylist() == list(wide)
    for name in ("stamp_npz", "ctrl_stamp_npz", "arc_npz", "theta_e_arcsec", "arc_snr_mf"):
        assert out.column(name).null_count == len(wide)
    assert not column(out, "weight").any()
    assert PAIRED_STAMPS.check(out).all_passed


def test_a_very_deep_field_is_injected_with_a_warning(host_row):
    base = host_row(0, scatter=False)
    stamp = Stamp.from_row(STAMPS.conform([base]).to_pylist()[0], where="test")
    deep = base | {"invvar_npz": encode_planes("invvar", stamp.invvar * 40)}
    with pytest.warns(UserWarning, match="very deep"):
        assert JOB.run(STAMPS.conform([deep])).column("reject").to_pylist() == [None]


def test_a_corrupt_blob_stops_the_job_and_names_the_target(host_row):
    table = STAMPS.conform([host_row(0) | {"target_id": "broken-7", "psf_npz": b"PK\x03\x04 no archive"}])
    with pytest.raises(StampError, match="broken-7") as caught:
        JOB.run(table)
    assert "target_id=broken-7" in caught.value.__notes__


def test_declared_columns_are_enough(pairs, hosts):
    few = hosts(400).slice(0, 3).select(list(JOB.columns))
    assert JOB.run(few).equals(pairs.slice(0, 3))


def test_mock_anchors_get_bright_arcs_and_nothing_else_changes(host_row):
    rows = [host_row(i, kind="lens") for i in range(4)]
    rows += [host_row(4), host_row(5, kind="lens", host_domain="real", arc_domain="real")]
    table = STAMPS.conform(rows)
    out = MakeAnchors(seed=1).run(table)
    assert STAMPS.check(out).all_passed
    assert out.slice(4).equals(table.slice(4))
    assert out.column("arc_domain").to_pylist()[:4] == ["nature"] * 4
    assert out.column("reject").null_count == 6
    assert column(out.slice(0, 4), "theta_e_arcsec").min() >= 0.5
    for row in range(4):
        added = planes(out, "stamp_npz", row=row) - planes(table, "stamp_npz", row=row)
        weight = decode_planes(table.column("invvar_npz")[row].as_py(), "invvar", where="test")
        # The floor is on the noiseless arc; its photon noise moves what was added by a few percent.
        assert np.sqrt((added.astype(float) ** 2 * weight).sum()) > 19
    unchanged = set(STAMPS.narrow) - {"arc_domain", "theta_e_arcsec"} | {"psf_npz", "mask_npz"}
    assert all(out.column(name).equals(table.column(name)) for name in unchanged)


def test_anchor_options_all_matter(host_row):
    table = STAMPS.conform([host_row(i, kind="lens") for i in range(3)])
    plain = MakeAnchors(seed=1).run(table)
    small = Recipe(deflection=Deflection(theta_e=Uniform(low=0.2, high=0.6)))
    low = MakeAnchors(seed=1, recipe=small, snr_floor=0.0).run(table)
    assert column(low, "theta_e_arcsec").min() >= 0.5
    lower = MakeAnchors(seed=1, recipe=small, snr_floor=0.0, theta_e_floor=0.0).run(table)
    assert column(lower, "theta_e_arcsec").min() < 0.5
    for job in (MakeAnchors(seed=2), MakeAnchors(seed=1, snr_floor=60.0)):
        assert not job.run(table).equals(plain)
    hopeless = MakeAnchors(seed=1, attempts=1, snr_floor=1e5).run(table)
    assert set(hopeless.column("reject").to_pylist()) == {"draw_exhausted"}
    assert hopeless.column("stamp_npz").equals(table.column("stamp_npz"))


def test_anchors_share_no_draw_with_training_arcs(host_row):
    lens = STAMPS.conform([host_row(0, kind="lens")])
    anchor = MakeAnchors(seed=1, snr_floor=0.0).run(lens)
    pair = Inject(seed=1).run(STAMPS.conform([host_row(0)]))
    assert column(anchor, "theta_e_arcsec")[0] != column(pair, "theta_e_arcsec")[0]
