"""The selection function of a finder that is known: cells, surfaces, populations, and the file."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from scipy.special import expit
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint
from tests.evaluation.mock_finder import injections, share

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.measured import HostDomain
from darkhaloscope.contracts.protocol import Strata, load_protocol
from darkhaloscope.contracts.random import stream
from darkhaloscope.contracts.tables import SCORES
from darkhaloscope.evaluation.populations import Prior, averages, infer_numbers, weighted_share
from darkhaloscope.evaluation.recovery import Recovery, cell_of, cells, merged_bins
from darkhaloscope.evaluation.samples import Run, depth_mag
from darkhaloscope.evaluation.selection import held_out_coverage, surface_of, visibility_design
from darkhaloscope.evaluation.selection_function import Factor, SelectionFunction
from darkhaloscope.evaluation.surface import Axis, Design, fit_surface, poisson_binomial
from darkhaloscope.gates.detection import OperatingPoint

POINT = OperatingPoint(0.7, 0.01, 2000, enough=True, text="threshold 0.7 at FPR 0.01, set by 2000 negatives")


@pytest.fixture(scope="module")
def run():
    return Run(load_protocol(overrides=["statistics.bootstrap=1000"]), 1, (1,), ("feedbeef",))


@pytest.fixture(scope="module")
def recovery():
    return injections(stream(1, "test", "recovery"), cells=150)


@pytest.fixture(scope="module")
def selection(recovery, run):
    return SelectionFunction.measure(
        recovery, run, POINT, checkpoint="abc", theta_e_prior=("uniform",), recipes=("r1",)
    )


def table_of(recovery, score, **columns):
    n = len(recovery)
    return SCORES.conform(
        {
            "row_id": [f"t{i}#0" for i in range(n)],
            "target_id": [f"t{i}" for i in range(n)],
            "host_id": recovery.host.tolist(),
            "group": recovery.group.tolist(),
            "kind": ["lrg"] * n,
            "host_domain": ["sim"] * n,
            "arc_domain": ["sim"] * n,
            "score": pa.array(score),
            "psfdepth_r": pa.array(
                (5.0 / 10 ** (0.4 * (22.5 - recovery.facts["depth_r_mag"]))) ** 2, pa.float32()
            ),
            **{
                k: pa.array(recovery.facts[k].astype("f4"))
                for k in ("theta_e_arcsec", "arc_snr_mf", "psf_fwhm_arcsec")
            },
        }
        | columns
    )


# rows


def test_a_recovery_joins_scores_and_truths_whatever_their_order(recovery):
    some = recovery.take(np.arange(40))
    scores = table_of(some, np.where(some.found, 0.9, 0.1))
    back = np.arange(40)[::-1]
    truth = pa.table(
        {
            "task_id": [f"t{i}#0" for i in back],
            "source_mag_r": some.facts["source_mag_r"][back],
            "flux_r": 10 ** (0.4 * (22.5 - some.facts["host_mag_r"][back])),
            "weight": np.ones(40),
        }
    )
    found = Recovery.of(scores, truth, 0.7)
    np.testing.assert_array_equal(found.found, some.found)
    for name, values in some.facts.items():
        np.testing.assert_allclose(found.facts[name], values, rtol=1e-5, err_msg=name)
    with pytest.raises(DataError, match="in no pairs"):
        Recovery.of(scores, truth.slice(1), 0.7)
    with pytest.raises(DataError, match="no simulated arc"):
        Recovery.of(scores.slice(0, 0), truth, 0.7)


def test_depth_is_that_of_a_point_source_at_five_sigma():
    assert depth_mag(np.array([25.0]))[0] == pytest.approx(22.5)
    assert np.isnan(depth_mag(np.array([0.0]))[0])


# cells


def test_cells_hold_every_row_once_with_the_three_intervals(recovery):
    strata = Strata(edges=(0.5, 1.0, 1.5, 2.0, 3.0))
    found = cells(recovery, {"theta_e_arcsec": strata})
    assert sum(c.n for c in found) == len(recovery)
    assert sum(c.k for c in found) == recovery.found.sum()
    cell = found[2]
    assert cell.labels == ("[1, 1.5)",)
    k, n = cell.k, cell.effective
    for method, theirs in (("jeffreys", "jeffreys"), ("wilson", "wilson"), ("clopper-pearson", "beta")):
        ours = cell.estimates[method]
        wanted = proportion_confint(k / cell.n * n, n, method=theirs)
        assert (ours.low, ours.high) == pytest.approx(wanted)
    crossed = cells(recovery, {"theta_e_arcsec": strata, "arc_snr_mf": Strata(edges=(5.0, 12.0, 50.0))})
    assert sum(c.n for c in crossed) == len(recovery)
    with pytest.raises(DataError, match="has no colour"):
        cells(recovery, {"colour": strata})


def test_a_cell_counts_hosts_not_arcs():
    rng = stream(2, "test", "hosts")
    shared = injections(rng, cells=40, per_cell=50, per_host=10, host_sd=3.0)
    assert cell_of(shared, ("all",)).effective < 0.6 * len(shared)
    few = shared.take(np.arange(20))
    assert not cell_of(few, ("few",)).enough


def test_thin_bins_are_merged_by_their_hosts_and_not_by_what_was_found(recovery):
    strata = Strata(edges=tuple(np.linspace(0.5, 2.5, 101).tolist()))
    coarse = merged_bins(recovery, "theta_e_arcsec", strata)
    assert len(coarse.edges) < len(strata.edges)
    inner = cells(recovery, {"theta_e_arcsec": coarse})[1:-2]
    assert all(c.n >= 30 for c in inner)
    turned = replace(recovery, found=~recovery.found)
    assert merged_bins(turned, "theta_e_arcsec", strata).edges == coarse.edges
    assert merged_bins(recovery.take(np.arange(10)), "theta_e_arcsec", strata).edges == (0.5, 2.5)


# surfaces


def test_a_surface_finds_the_finders_own_share_and_covers_it(recovery):
    surface = surface_of(recovery, visibility_design(recovery), 1)
    new = injections(stream(3, "test", "new"), cells=40)
    facts = {name: new.facts[name] for name in (a.name for a in surface.design.axes)}
    value, low, high = surface.at(facts)
    true = share(new.facts, 0.4)
    assert np.abs(value - true).mean() < 0.03
    assert ((low <= true) & (true <= high)).mean() > 0.85
    assert 0.2 < surface.cluster_sd < 0.6
    assert surface.n_clusters == 150


def test_a_surface_rises_with_snr_in_every_draw_and_would_not_without_being_told(recovery):
    rows = np.arange(400)
    few = replace(recovery.take(rows), found=recovery.found[::-1][rows])  # of other arcs: nothing rises
    design = visibility_design(few)
    free = design.model_copy(
        update={"joint": (design.joint[0].model_copy(update={"rising": False}), design.joint[1])}
    )
    snr = np.geomspace(design.joint[0].low, design.joint[0].high, 60)
    facts = {a.name: np.full(60, (a.low + a.high) / 2) for a in design.axes} | {"arc_snr_mf": snr}
    rises = {
        name: (np.diff(surface_of(few, which, 1).shares(facts), axis=1) > -1e-12).all(axis=1).mean()
        for name, which in (("told", design), ("free", free))
    }
    assert rises["told"] == 1.0
    assert rises["free"] < 1.0


def test_a_surface_of_one_axis_is_the_logistic_regression_where_nothing_bends():
    rng = stream(4, "test", "line")
    x = rng.uniform(-2, 2, 6000)
    y = rng.random(6000) < expit(0.5 + x)
    design = Design(joint=(Axis(name="x", low=-2.0, high=2.0, splines=8),))
    surface = fit_surface(design, {"x": x}, y, np.arange(6000), rng=rng)
    at = np.linspace(-1.8, 1.8, 20)
    value, low, high = surface.at({"x": at})
    np.testing.assert_allclose(value, expit(0.5 + at), atol=0.02)
    # Two parameters would give an error of about .01: the smooth costs little beyond them.
    assert np.all(high - low < 0.08)
    assert surface.cluster_sd == 0.0


def test_what_a_surface_cannot_be_fitted_to_is_said(recovery):
    design = visibility_design(recovery)
    with pytest.raises(DataError, match="no surface to fit"):
        fit_surface(design, recovery.facts, np.ones(len(recovery)), recovery.group, rng=stream(1, "t", "t"))
    with pytest.raises(DataError, match="needs arc_snr_mf"):
        design.rows({"theta_e_over_fwhm": [1.0]})
    with pytest.raises(DataError, match="not known"):
        design.rows(recovery.facts | {"arc_snr_mf": np.full(len(recovery), np.nan)})
    with pytest.raises(DataError, match="nothing can be learnt"):
        Axis.spanning("psf", np.full(10, 1.2))


def test_the_number_of_successes_of_unlike_trials():
    rng = stream(5, "test", "poisson binomial")
    p = rng.uniform(0, 1, 7)
    drawn = (rng.random((200_000, 7)) < p).sum(axis=1)
    np.testing.assert_allclose(poisson_binomial(p), np.bincount(drawn, minlength=8) / 200_000, atol=0.005)
    np.testing.assert_allclose(poisson_binomial(np.full(5, 0.3))[2], 10 * 0.3**2 * 0.7**3)


def test_a_surface_without_the_scatter_of_cells_fails_to_foretell_them():
    """The negative control of the coverage: cells differ more than independent rows would."""
    recovery = injections(stream(6, "test", "scatter"), cells=460, cell_sd=1.2)
    found = held_out_coverage(recovery, visibility_design(recovery), 1)
    assert found.p > 0.01
    assert found.covered.n == 460
    assert found.log_density > found.log_density_bins
    surface = replace(surface_of(recovery, visibility_design(recovery), 1), cluster_sd=0.0)
    rng, inside = stream(6, "test", "tails"), 0
    for name in np.unique(recovery.group):
        cell = recovery.take(recovery.group == name)
        inside += 0.025 < surface.foretell(cell.facts, cell.found, rng)[0] < 0.975
    assert binomtest(inside, 460, 0.95).pvalue < 1e-6


# populations


def test_averages_over_populations_say_their_effective_size_and_refuse_a_small_one(recovery, run):
    weighted = replace(recovery, weight=np.exp(-recovery.facts["theta_e_arcsec"]))
    found = {m.name: m for m in averages(weighted, run, POINT)}
    assert found["completeness_sim_injected"].value == pytest.approx(recovery.found.mean())
    w = weighted.weight
    assert found["completeness_sim_population"].value == pytest.approx((w * recovery.found).sum() / w.sum())
    bright, faint = (found[f"completeness_sim_population_{n}"].value for n in ("bright", "faint"))
    assert bright > found["completeness_sim_population"].value > faint
    slope = found["completeness_sim_counts_sensitivity"]
    assert slope.value == pytest.approx((faint - bright) / 0.2)
    assert slope.low < slope.value < slope.high < 0
    one = replace(recovery, weight=np.where(np.arange(len(recovery)) < 5, 1.0, 0.0))
    small = {m.name: m for m in averages(one, run, POINT)}["completeness_sim_population"]
    assert small.status is Status.NOT_EVALUATED
    assert "effective sample size 5" in small.detail
    nothing = {m.name: m for m in averages(replace(recovery, weight=np.zeros(len(recovery))), run, POINT)}
    assert nothing["completeness_sim_population"].value is None


def test_weights_move_an_average_to_the_population_they_stand_for():
    """Injected uniformly, wanted steep: the average is that of injections drawn steeply."""
    rng = stream(7, "test", "weights")
    uniform = injections(rng, cells=400)
    steep = injections(rng, cells=400, theta=lambda r, n: 0.5 + r.beta(1, 3, n) * 2.0)
    density = 3 * (1 - (uniform.facts["theta_e_arcsec"] - 0.5) / 2.0) ** 2
    moved, wanted = weighted_share(uniform, density, 1, 1000), steep.found.mean()
    assert moved.low < wanted < moved.high
    assert abs(uniform.found.mean() - wanted) > 2 * (moved.high - moved.low) / 4


def test_a_prior_is_a_set_of_weights():
    recovery = injections(stream(8, "test", "prior"), cells=10)
    assert (Prior("flat", "").weights(recovery) == 1).all()
    tilted = Prior("tilted", "", counts_tilt=0.1).weights(recovery)
    bright = recovery.facts["source_mag_r"].argmin()
    assert tilted[bright] == tilted.min()


def test_numbers_of_lenses_come_back_through_the_finder():
    """More than is found, by as much as is missed; and nothing is claimed where nothing is ever found."""
    rng = stream(9, "test", "numbers")
    recovery = injections(rng, cells=300)
    lenses = injections(rng, cells=200, theta=lambda r, n: 0.5 + r.beta(1, 2, n) * 2.0)
    values, edges = lenses.facts["theta_e_arcsec"], np.array([0.5, 1.0, 1.5, 2.0, 2.5])
    found = infer_numbers(
        values[lenses.found], recovery, np.ones(len(recovery)), name="theta_e_arcsec", edges=edges
    )
    true, _ = np.histogram(values, edges)
    assert np.all(np.abs(found.value - true) < 3.5 * found.sigma)
    assert np.all(found.found < true)
    never = infer_numbers([3.0], recovery, np.ones(len(recovery)), name="theta_e_arcsec", edges=[2.6, 3.5])
    assert np.isnan(never.value[0])


# the file


def test_a_selection_function_is_loaded_in_one_line_and_answers_as_before(selection, tmp_path):
    where, cells_at, grid_at = selection.save(tmp_path / "selection_function.fits")
    asked = {"theta_e": np.array([0.8, 1.5]), "arc_snr_mf": 20.0, "psf_fwhm": 1.3}
    found, again = selection.completeness(**asked), SelectionFunction.load(where).completeness(**asked)
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.value.shape == (2,)
    assert np.all((found.low < found.value) & (found.value < found.high))
    with fits.open(where) as hdus:
        assert hdus[0].header["THRESH"] == 0.7
        assert hdus[0].header["ARCS"] == "sim"
        assert np.isfinite(hdus["DRAWS_VISIBILITY"].data).all()
    rows, table = Table.read(where, hdu="CELLS"), pq.read_table(cells_at)
    assert len(rows) == table.num_rows
    assert rows["k"].sum() == sum(table.column("k").to_pylist())
    assert set(pq.read_table(grid_at).column("surface").to_pylist()) == {"visibility", "intrinsic"}
    before = where.read_bytes()
    SelectionFunction.load(where).save(where)
    assert where.read_bytes() == before


def test_completeness_is_told_by_what_the_arc_looks_like_or_by_what_the_lens_is(selection):
    seen = selection.completeness(
        theta_e=[1.2, 1.2], arc_snr_mf=[6.0, 60.0], psf_fwhm=1.2, depth=23.8, host_mag=19.5
    )
    assert seen.value[0] < 0.4
    assert seen.value[1] > 0.8
    facts = {
        "arc_snr_mf": np.array([6.0, 60.0]),
        "theta_e_over_fwhm": np.ones(2),
        "depth_r_mag": np.full(2, 23.8),
    }
    np.testing.assert_allclose(seen.value, share(facts, 0.4), atol=0.08)
    lens = selection.completeness(theta_e=1.2, source_mag=[23.5, 25.9])
    assert lens.value[0] > lens.value[1]
    assert lens.supported.all()
    assert not selection.completeness(theta_e=9.0, arc_snr_mf=20.0, psf_fwhm=1.2).supported
    with pytest.raises(DataError, match="knows no colour"):
        selection.completeness(colour=1.0)
    with pytest.raises(DataError, match="cannot be told from theta_e"):
        selection.completeness(theta_e=1.0)


def test_a_factor_that_was_not_measured_is_not_one(selection, recovery, run):
    asked = {"theta_e": 1.2, "arc_snr_mf": 30.0, "psf_fwhm": 1.2}
    with pytest.raises(DataError, match="parent and inspection"):
        selection.total(**asked)
    whole = SelectionFunction.measure(
        recovery, run, POINT, checkpoint="abc", theta_e_prior=("uniform",), recipes=("r1",),
        parent=Factor(k=450, n=500, about="lenses in the parent cuts"),
        inspection=Factor(k=40, n=50, about="graded A or B"),
    )  # fmt: skip
    total, alone = whole.total(**asked), whole.completeness(**asked)
    assert total.value == pytest.approx(alone.value * 0.9 * 0.8, rel=0.03)
    assert (total.high - total.low) / total.value > (alone.high - alone.low) / alone.value


def test_few_injections_give_cells_and_no_surface(recovery, run, tmp_path):
    few = SelectionFunction.measure(
        recovery.take(np.arange(100)),
        run,
        POINT,
        checkpoint="abc",
        theta_e_prior=("uniform",),
        recipes=("r1",),
    )
    assert not few.surfaces
    where, _, _ = few.save(tmp_path / "few.fits")
    with pytest.raises(DataError, match="too few"):
        SelectionFunction.load(where).completeness(theta_e=1.0, source_mag=24.0)
    assert few.meta.host_domain is HostDomain.SIM


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "other.fits"
    path.write_bytes(b"SIMPLE")
    with pytest.raises(DataError, match="no selection function"):
        SelectionFunction.load(path)
    with pytest.raises(DataError):
        SelectionFunction.load(tmp_path / "absent.fits")
