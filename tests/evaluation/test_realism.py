"""The realism gap: what each comparison must find, must not find, and may not claim."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from tests.injection.conftest import make_host_row

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.errors import ConfigError, DataError
from darkhaloscope.contracts.measured import ArcDomain, HostDomain
from darkhaloscope.contracts.protocol import load_protocol
from darkhaloscope.contracts.tables import STAMPS
from darkhaloscope.evaluation.arc_light import (
    FAINTER_SHARE,
    _quartile,
    arc_region,
    deflector_model,
    measure_arcs,
    only_arcs,
)
from darkhaloscope.evaluation.arc_turns import bright_region, snr_among_turns
from darkhaloscope.evaluation.comparisons import Comparators, Populations, light_of
from darkhaloscope.evaluation.realism import QUANTILES, realism
from darkhaloscope.evaluation.representations import Penultimate, Physical, perpendicular
from darkhaloscope.evaluation.samples import Run
from darkhaloscope.evaluation.separation import separate
from darkhaloscope.evaluation.stamp_sets import HOST_FACTS, StampSet
from darkhaloscope.injection.inject import Inject, MakeAnchors
from darkhaloscope.injection.recipe import HybridShapes, Recipe
from darkhaloscope.stamps.preprocess import Preprocess
from darkhaloscope.survey.noise import correlated_noise
from darkhaloscope.survey.profiles import paint_sersic
from darkhaloscope.training.config import NetworkConfig
from darkhaloscope.training.model import Scorer, frozen_encoder

N = 110
MIDDLE = np.full(N, 31.5)
TINY = NetworkConfig(
    backbone="resnet10t", stem="native", options={"channels": (8, 8, 16, 16), "stem_width": 4}
)
RECIPE = Recipe(flux_mode="snr_targeted")
PHI = Physical()


@pytest.fixture(scope="module")
def sky():
    """Two disjoint sets of hosts with what the rooms make of them: pairs, sham pairs, mock anchors."""
    rows = [make_host_row(i) | {"shape_r": 0.8 + 0.01 * (37 * i % 41)} for i in range(2 * N)]
    hosts = STAMPS.conform(rows[:N])
    lenses = STAMPS.conform([row | {"kind": "lens"} for row in rows[N:]])
    anchors = MakeAnchors(seed=3, recipe=RECIPE, snr_floor=0.0).run(lenses)
    pairs = Inject(seed=1, recipe=RECIPE).run(hosts)
    hybrid = Inject(seed=1, recipe=RECIPE.model_copy(update={"shapes": HybridShapes()})).run(hosts)
    sham = Inject(seed=2, sham=True).run(hosts)
    return Populations(
        nature=StampSet.of_stamps(anchors, "anchors"),
        injected=StampSet.of_pairs(pairs, "pairs", hosts=hosts),
        controls=StampSet.of_pairs(pairs, "controls", hosts=hosts, control=True),
        nature_hosts=StampSet.of_stamps(lenses, "lenses before their arcs"),
        sham=StampSet.of_pairs(sham, "sham", hosts=hosts),
        swapped=StampSet.of_pairs(hybrid, "hybrid", hosts=hosts),
    )


@pytest.fixture(scope="module")
def run():
    protocol = load_protocol(overrides=["statistics.bootstrap=1000"])
    return Run(protocol, seed=1, seeds=(1,), manifests=("m",))


@pytest.fixture(scope="module")
def whole(sky, run):
    return realism(sky, [PHI], run, repeats=2)


def figure(found, name):
    return next(m for m in found.measured if m.name == name)


def told_apart(a, b, phi=PHI, repeats=1):
    """The probe between the pixels of two sets."""
    features = [phi(s.stamps, s.x_center, s.y_center) for s in (a, b)]
    return separate(*features, (a.groups, b.groups), seed=1, purpose="t", repeats=repeats)


# --- all of it -------------------------------------------------------------------------------------------


def test_every_comparison_is_told_with_its_domain(whole):
    names = [m.name for m in whole.measured]
    assert len(set(names)) == len(names)
    arcs = {"r0": ArcDomain.NATURE, "r1": ArcDomain.NONE, "r2": ArcDomain.NONE}
    stems = {
        "r0": "mock_realism_r0", "r1": "mock_realism_r1", "r2": "realism_r2",
        "r3": "mock_realism_sim_r3", "r4": "mock_realism_sim_r4", "r5": "realism_sim_r5",
    }  # fmt: skip
    for label, stem in stems.items():
        for end in ("", "_kid"):
            found = figure(whole, f"{stem}_physical{end}")
            assert found.status is Status.PASS, found
            assert found.arc_domain is arcs.get(label, ArcDomain.SIM)
            assert found.host_domain is HostDomain.SIM
            assert found.low <= found.value <= found.high
            assert found.n_clusters >= 80
    assert not any(name.startswith(("real_", "anchor_")) for name in names)
    assert figure(whole, "mock_realism_sim_morphology_share_physical").unit == "logit"


def test_one_world_gives_no_gap_and_verdicts_are_words(whole):
    """Anchors and pairs are made by one recipe: hosts, pipeline and arcs are alike."""
    for stem in (
        "mock_realism_r0",
        "mock_realism_r1",
        "realism_r2",
        "mock_realism_sim_r3",
        "mock_realism_sim_r4",
    ):
        found = figure(whole, f"{stem}_physical")
        assert found.low < 0.5 < found.high, found
        assert found.detail.startswith(("not shown equivalent", "shown equivalent"))
    assert "is compatible with one half" in figure(whole, "mock_realism_r0_physical").detail
    share = figure(whole, "mock_realism_sim_morphology_share_physical")
    assert share.low < 0 < share.high
    smd = figure(whole, "mock_realism_sim_r3_smd")
    assert smd.status is Status.PASS
    assert smd.value < 0.1
    words = " ".join(m.detail for m in whole.measured).lower()
    assert "significant" not in words


def test_sources_swapped_in_the_same_hosts_are_told_apart_host_by_host(whole, sky):
    found = figure(whole, "realism_sim_r5_physical")
    assert found.detail.startswith("different")
    assert found.low > 0.5
    marginal = told_apart(sky.injected, sky.swapped, repeats=2)
    assert marginal.auc < found.value - 0.1  # the spread of hosts hides it


def test_the_figure_holds_plain_data(whole):
    bars = {(c.comparison, c.representation): c for c in whole.figure.comparisons}
    assert {label for label, _ in bars} == {"r0", "r1", "r2", "r3", "r4", "r5"}
    r3 = figure(whole, "mock_realism_sim_r3_physical")
    assert (bars["r3", "physical"].auc, bars["r3", "physical"].low) == (r3.value, r3.low)
    facts = {b.fact for b in whole.figure.balance}
    assert facts == {*HOST_FACTS, "theta_e_arcsec", "arc_snr"}
    assert all(abs(b.after) < 0.1 for b in whole.figure.balance)
    kinds = {(d.quantity, d.population) for d in whole.figure.distributions}
    assert {("snr", name) for name in ("anchors", "pairs", "hybrid")} <= kinds
    for d in whole.figure.distributions:
        assert sum(d.counts) == d.n
        assert len(d.quantiles) == len(QUANTILES)
        assert list(d.quantiles) == sorted(d.quantiles)
    assert whole.figure.model_dump_json()


def test_the_light_of_arcs_is_compared_as_pairs_where_it_is_paired(whole):
    unpaired, paired = (
        figure(whole, f"{stem}_snr") for stem in ("mock_realism_sim_arc", "realism_sim_swap_arc")
    )
    assert "whole hosts" in unpaired.detail
    assert "signs of pairs" in paired.detail
    assert paired.n_clusters == N
    assert figure(whole, "mock_realism_sim_arc_brightness").unit == "nmgy/arcsec^2"


def test_what_is_missing_is_not_evaluated_and_says_what_it_needs(sky, run):
    few = np.arange(25)
    bare = replace(
        sky, controls=None, nature_hosts=None, sham=None, swapped=None, nature=sky.nature.take(few)
    )
    found = realism(bare, [PHI], run, repeats=1)
    for name, needs in (
        ("mock_realism_r0_physical", "needs 30"),
        ("mock_realism_r1_physical", "25 rows or groups in the smaller sample, needs 30"),
        ("realism_r2_physical", "needs injections without flux"),
        ("mock_realism_sim_r3_physical", "needs 30"),
        ("mock_realism_sim_r4_physical_kid", "needs 30"),
        ("realism_sim_r5_physical", "another family of sources"),
        ("mock_realism_sim_morphology_share_physical", "needs r1 and r3"),
        ("mock_realism_sim_arc_snr", "needs 30"),
    ):
        m = figure(found, name)
        assert (m.status, m.value) == (Status.NOT_EVALUATED, None), m
        assert needs in m.detail
    blind = replace(bare, injected=replace(sky.injected, invvar=None))
    assert "needs the inverse variance" in figure(realism(blind, [], run), "mock_realism_sim_arc_snr").detail


def test_real_lenses_have_their_names_and_simulated_arcs_never(sky, run):
    few = np.arange(40)
    real = replace(sky.nature.take(few), arc_domain=ArcDomain.REAL, host_domain=HostDomain.REAL)
    found = realism(replace(sky, nature=real, injected=sky.injected.take(few), swapped=None), [], run)
    designs = Comparators(replace(sky, nature=real, injected=sky.injected.take(few)), 1).designs
    assert [d.stem for d in designs] == [
        "real_realism_r0", "realism_r1", "realism_r2", "realism_sim_r3", "realism_sim_r4", "realism_sim_r5",
    ]  # fmt: skip
    assert figure(found, "realism_sim_arc_snr").host_domain is HostDomain.MIXED
    with pytest.raises(DataError, match="real or nature"):
        replace(sky, nature=sky.injected)
    with pytest.raises(DataError, match="not simulated ones"):
        replace(sky, injected=sky.nature)
    with pytest.raises(DataError, match="where none may be"):
        replace(sky, controls=sky.injected)
    with pytest.raises(DataError, match="share a name"):
        realism(sky, [PHI, PHI], run)
    with pytest.raises(DataError, match="share a name"):
        replace(sky, swapped=replace(sky.swapped, name="pairs"))


# --- planted differences ---------------------------------------------------------------------------------


def smoothed(s):
    return gaussian_filter(s.stamps, (0, 0, 0.7, 0.7))


def reddened(s):
    return s.stamps * np.array([0.8, 1.0, 1.0], np.float32)[:, None, None]


def whitened(s):
    """A third more noise, without the correlation of a coadd."""
    noise = np.random.default_rng(1).normal(size=s.stamps.shape) * 0.8 / np.sqrt(s.invvar)
    return (s.stamps + noise).astype(np.float32)


@pytest.mark.parametrize("plant", [smoothed, reddened, whitened])
def test_planted_differences_of_pixels_are_found(plant, sky):
    changed = sky.injected.showing(plant(sky.injected), ArcDomain.SIM)
    assert told_apart(sky.nature, changed).verdict() == "different"
    assert told_apart(sky.nature, sky.injected).verdict() != "different"  # as they were


def test_hosts_that_differ_are_seen_in_r1_and_not_in_matched_rows_nor_in_arcs_alone(sky):
    """Real lenses in bright hosts: by odds that rise with brightness, so that counterparts exist."""
    known = {s.name: {"mag_r": s.facts["mag_r"]} for s in (sky.nature, sky.injected)}
    odds = known["anchors"]["mag_r"] + np.random.default_rng(1).normal(size=N)
    bright = np.argsort(odds)[: N // 2]
    nature, injected = (replace(s, facts=known[s.name]) for s in (sky.nature, sky.injected))
    nature, before = nature.take(bright), sky.nature_hosts.take(bright)
    comparators = Comparators(replace(sky, nature=nature, injected=injected, nature_hosts=before), 1)
    r1, r3, r4 = comparators.hosts(), comparators.matched(), comparators.arcs_alone()
    assert comparators.matching.before["mag_r"] < -0.5
    assert r3.doubt == ""
    assert probe_of(r1).verdict() == "different"
    for design in (r3, r4):
        assert probe_of(design).interval()[0] < 0.5
    assert probe_of(r1).auc > max(probe_of(d).auc for d in (r3, r4)) + 0.1
    # And without matching: arcs alone know little of a host, whole stamps all of it.
    alone = [comparators._only_arcs(s) for s in (nature, injected)]
    assert told_apart(nature, injected).auc > told_apart(*alone).auc + 0.1


def probe_of(design, repeats=1):
    features = [PHI(s.whole.stamps, s.whole.x_center, s.whole.y_center)[s.rows] for s in design.sides]
    return separate(*features, design.groups, seed=1, purpose=design.label, repeats=repeats)


def test_arcs_that_differ_are_seen_in_arcs_alone(sky):
    """Twice the light of every arc, in the hosts of nature: r1 knows nothing of it."""
    p = sky
    arcs = p.nature.stamps - p.nature_hosts.stamps
    nature = p.nature.showing((p.nature.stamps + 3 * arcs).astype(np.float32), ArcDomain.NATURE)
    matched = Comparators(replace(p, nature=nature), 1)
    alone = [matched._only_arcs(s) for s in (nature, p.injected)]
    assert told_apart(*alone).verdict() == "different"
    assert probe_of(matched.hosts()).verdict() != "different"


def test_a_match_that_fails_is_labelled_and_its_figures_withheld(sky, run):
    """No injection has the depth of these: every pair is of unlike rows."""
    rng = np.random.default_rng(2)
    odd = {**sky.nature.facts, "depth_mag": sky.injected.facts["depth_mag"].mean() + 0.5 * rng.random(N)}
    found = realism(replace(sky, nature=replace(sky.nature, facts=odd)), [PHI], run, repeats=1)
    smd = figure(found, "mock_realism_sim_r3_smd")
    for name in ("r3_physical", "r4_physical", "r3_physical_kid", "morphology_share_physical"):
        m = figure(found, f"mock_realism_sim_{name}")
        assert m.status is Status.NOT_EVALUATED
        assert smd.status is not Status.FAIL or "unmatched" in m.detail or "needs" in m.detail
    assert smd.status is not Status.PASS


def test_a_host_in_both_populations_is_not_matched(sky):
    both = replace(sky, nature=replace(sky.nature, hosts=sky.injected.hosts))
    assert "hosts are in both populations" in Comparators(both, 1).matching


def test_the_null_fails_where_halves_differ(sky, run, monkeypatch):
    half = Comparators(sky, run.seed).halves().sides[0].rows
    marked = sky.nature.stamps.copy()
    marked[half] *= 1.5
    few = np.arange(9)
    rest = {name: getattr(sky, name).take(few) for name in ("injected", "controls", "sham", "swapped")}
    nature = sky.nature.showing(marked, ArcDomain.NATURE)
    found = realism(replace(sky, nature=nature, **rest), [PHI], run, repeats=1)
    r0 = figure(found, "mock_realism_r0_physical")
    assert r0.status is Status.FAIL
    assert "is not compatible" in r0.detail


# --- feature maps ----------------------------------------------------------------------------------------


def scorer():
    return frozen_encoder(TINY, Preprocess(kind="asinh"), stamp_shape=(3, 64, 64), seed=5)


def test_penultimate_features_give_the_logit_and_do_not_depend_on_the_batch(sky):
    network, s = scorer(), sky.nature
    h = network.features(s.stamps, s.x_center, s.y_center)
    weight, bias = network.head
    np.testing.assert_allclose(h @ weight + bias, network.logits(s.stamps, s.x_center, s.y_center), atol=1e-5)
    parts = [network.features(s.stamps[a:b], s.x_center[a:b], s.y_center[a:b]) for a, b in ((0, 7), (7, 40))]
    assert np.array_equal(np.concatenate(parts), h[:40])
    assert np.ptp(h, axis=0).max() > 0
    with pytest.raises(DataError, match="was trained on stamps"):
        network.features(s.stamps[:, :, :40, :40], s.x_center, s.y_center)


def test_without_the_direction_of_the_logit_the_logit_is_constant(sky):
    network, s = scorer(), sky.nature
    weight, bias = network.head
    h = Penultimate(network, without_logit=True)(s.stamps, s.x_center, s.y_center)
    np.testing.assert_allclose(h @ weight + bias, bias, atol=1e-9)
    assert Penultimate(network, without_logit=True).name == "task_perp"
    assert np.ptp(Penultimate(network)(s.stamps, s.x_center, s.y_center) @ weight) > 1e-4
    with pytest.raises(DataError, match="no weight"):
        perpendicular(h, np.zeros(h.shape[1]))


class Planted:
    """A network whose features are the rows' first pixels: differences are planted where one wants them."""

    head = (np.array([3.0, 1.0, 0.0, -2.0]), 0.5)

    def features(self, stamps, x_center, y_center):
        return stamps[:, 0, 0, :4].astype(float)


def test_a_difference_along_the_logit_is_lost_without_it_and_another_is_kept():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 150, 3, 8, 8))
    weight = Planted.head[0]
    groups = tuple(np.array([f"{side}{i}" for i in range(150)]) for side in "ab")

    def gap(shift, *, without_logit):
        moved = a.copy()
        moved[:, 0, 0, :4] += shift
        phi = Penultimate(Planted(), without_logit=without_logit)
        features = [phi(x, MIDDLE, MIDDLE) for x in (moved, b)]
        return separate(*features, groups, seed=1, purpose="t", repeats=1)

    along, across = weight / np.linalg.norm(weight), np.array([0.0, 0.0, 1.0, 0.0])
    assert gap(along, without_logit=False).verdict() == "different"
    lost = gap(along, without_logit=True)
    assert lost.verdict() != "different"
    assert lost.auc == pytest.approx(gap(0 * along, without_logit=True).auc, abs=1e-9)
    assert gap(across, without_logit=True).verdict() == "different"


def test_an_encoder_is_never_fetched_and_follows_from_its_seed():
    for backbone in ("resnet18", "hf-hub:someone/encoder"):
        network = NetworkConfig(backbone=backbone, pretrained=True)
        with pytest.raises(ConfigError, match="would be fetched"):
            frozen_encoder(network, Preprocess(kind="asinh"), stamp_shape=(3, 64, 64))
    assert isinstance(scorer(), Scorer)
    assert scorer().sha256 == scorer().sha256
    other = frozen_encoder(TINY, Preprocess(kind="asinh"), stamp_shape=(3, 64, 64), seed=6)
    assert other.sha256 != scorer().sha256


def test_physical_features_are_finite_and_a_row_s_own(sky):
    s = sky.nature
    features = PHI(s.stamps, s.x_center, s.y_center)
    assert features.shape == (N, 81)
    assert np.isfinite(features).all()
    assert np.ptp(features, axis=0).min() > 0
    np.testing.assert_allclose(
        PHI(s.stamps[9:12], s.x_center[9:12], s.y_center[9:12]), features[9:12], rtol=1e-6
    )


# --- the light of arcs -----------------------------------------------------------------------------------


def test_the_quartile_is_numpys():
    values = np.random.default_rng(1).normal(size=(3, 57))
    for n in (1, 2, 5, 57):
        want = np.quantile(values[:, :n], FAINTER_SHARE, axis=1, method="normal_unbiased")
        np.testing.assert_allclose(_quartile(values[:, :n]), want)


def test_of_a_smooth_galaxy_nothing_is_left():
    """Elliptical, turned, seen through an arcsecond's seeing: a few percent of its light in the arc region.

    Where noise does not hide it, an ellipse that does not fit leaves light: rings of fixed shape do not know
    that seeing makes the middle round.
    """
    light = paint_sersic((64, 64), x_pix=31.2, y_pix=31.9, pixel_scale=0.262, flux=100.0, R_sersic=0.9,
                         n_sersic=1.0, q=0.6, phi=0.7)  # fmt: skip
    light = gaussian_filter(light, 1.9)
    stamps = np.repeat(light[None, None], 3, axis=1) + 1e-4 * np.random.default_rng(1).normal(
        size=(1, 3, 64, 64)
    )
    left = stamps - deflector_model(stamps, None, np.array([31.2]), np.array([31.9]))
    region = arc_region(stamps.shape, np.array([31.2]), np.array([31.9]), np.array([1.5]), np.array([1.2]))
    assert np.abs(left[0, 1][region[0]]).max() < 0.05 * stamps[0, 1][region[0]].max()
    assert abs(left[0, 1][region[0]].sum()) < 0.04 * stamps[0, 1][region[0]].sum()


def noise_like(s):
    rng = np.random.default_rng(4)
    sigma = 1 / np.sqrt(s.invvar)
    return np.array([[correlated_noise(plane, rng) for plane in row] for row in sigma], np.float32)


def test_pure_noise_has_no_arc(sky):
    """Signed residuals against blank annuli: 0 +- 1. The sum of their positive part has six sigma."""
    s = sky.injected
    noise = s.showing(noise_like(s), ArcDomain.SIM)
    light = light_of(noise)
    assert abs(light.snr.mean()) < 4 / np.sqrt(N)
    assert 0.8 < light.snr.std() < 1.2
    assert np.isnan(light.g_r).all()
    region = arc_region(s.stamps.shape, s.x_center, s.y_center, s.theta_e_arcsec, s.psf_fwhm_arcsec)[:, None]
    left = noise.stamps - deflector_model(noise.stamps, s.invvar, s.x_center, s.y_center)
    positive = (np.maximum(left, 0) * region).sum(axis=(2, 3)) / np.sqrt((region / s.invvar).sum(axis=(2, 3)))
    assert positive.mean() > 4


def sectors(degrees, n=N):
    """Parts of rings of 6 to 9 px, each at an angle of its own."""
    y, x = np.mgrid[:64, :64] - 31.5
    r, angle = np.hypot(x, y), np.degrees(np.arctan2(y, x))
    at = np.random.default_rng(5).uniform(0, 360, n)[:, None, None]
    return (r >= 6) & (r < 9) & ((angle - at) % 360 <= degrees)


def turned(pixels, s, region):
    centre = (s.x_center, s.y_center)
    return snr_among_turns(pixels, s.invvar, *centre, region, seed=1, keys=s.keys)


@pytest.mark.parametrize("degrees", [30, 70])
def test_pure_noise_stands_out_nowhere_on_its_ring(sky, degrees):
    """Signed: 0 +- 1 whatever the extent. The positive part alone gives several sigma of nothing."""
    s, region = sky.injected, sectors(degrees)
    noise = noise_like(s)
    found = turned(noise, s, region)
    assert abs(found.snr.mean()) < 4 / np.sqrt(N)
    assert 0.8 < found.snr.std() < 1.2
    assert found.turns.min() > 80
    left = noise - deflector_model(noise, s.invvar, s.x_center, s.y_center)
    inside = region[:, None]
    clipped = (np.maximum(left, 0) * inside).sum(axis=(2, 3)) / np.sqrt((inside / s.invvar).sum(axis=(2, 3)))
    assert (clipped.sum(axis=1) / np.sqrt(3)).mean() > 2


def test_a_ring_has_no_turned_null_and_says_so(sky):
    found = turned(noise_like(sky.injected), sky.injected, sectors(360))
    assert not found.turns.any()
    assert np.isnan(found.snr).all()
    some = sectors(360)
    some[::2] = sectors(40)[::2]
    mixed = turned(noise_like(sky.injected), sky.injected, some)
    assert np.isfinite(mixed.snr[::2]).all()
    assert np.isnan(mixed.snr[1::2]).all()
    none = np.zeros_like(some)
    assert np.isnan(turned(noise_like(sky.injected), sky.injected, none).snr).all()


def test_what_is_left_of_the_deflector_is_in_the_turned_null_and_not_in_blank_annuli(sky):
    """A quadrupole at the radius of the arcs, at any angle: structure, but no arc."""
    s, region = sky.injected, sectors(40)
    y, x = np.mgrid[:64, :64] - 31.5
    phase = np.random.default_rng(6).uniform(0, 2 * np.pi, N)[:, None, None]
    wave = np.exp(-(((np.hypot(x, y) - 7.5) / 2) ** 2)) * np.cos(2 * np.arctan2(y, x) - phase)
    pixels = noise_like(s) + (1.5 * wave[:, None] / np.sqrt(s.invvar)).astype(np.float32)
    far = measure_arcs(pixels, s.invvar, s.x_center, s.y_center, region).snr
    here = turned(pixels, s, region).snr
    assert far.std() > 3
    assert here.std() < far.std() / 2


def test_arcs_stand_out_by_their_light_and_a_row_s_angles_are_its_own(sky):
    s = sky.injected
    region = bright_region(s.arcs)
    light = (s.arcs[:, 1] * region).sum(axis=(1, 2)) / s.arcs[:, 1].sum(axis=(1, 2))
    assert ((light >= 0.8) & (light < 0.85)).all()
    found = turned(s.stamps, s, region)
    known = np.isfinite(found.snr)
    assert 20 < known.sum() < N  # some are rings under the seeing
    without = turned(sky.controls.stamps, s, region)
    assert (found.snr > without.snr)[known].mean() > 0.9
    assert np.median(found.snr[known]) > 3 > np.median(without.snr[known])
    order = np.arange(N)[::-1]
    back = turned(s.stamps[order], s.take(order), region[order])
    np.testing.assert_allclose(back.snr[order], found.snr, rtol=1e-9)
    assert (back.turns[order] == found.turns).all()


def test_the_share_of_arcs_that_stand_out_is_told_or_says_what_it_needs(whole, sky, run):
    told = figure(whole, "realism_sim_arc_stands_out")
    assert (told.status, told.host_domain, told.arc_domain) == (Status.PASS, HostDomain.SIM, ArcDomain.SIM)
    assert told.low < told.value < told.high
    assert f"{told.n} of {N} arcs are no ring" in told.detail
    without = realism(replace(sky, injected=replace(sky.injected, arcs=None)), [], run)
    told = figure(without, "realism_sim_arc_stands_out")
    assert (told.status, told.value) == (Status.NOT_EVALUATED, None)
    assert "needs the noiseless arcs" in told.detail


def test_hosts_without_arcs_have_hardly_any_and_arcs_are_measured_in_order(sky):
    s = sky.injected
    truth = s.stamps - sky.controls.stamps
    without = light_of(replace(sky.controls, theta_e_arcsec=s.theta_e_arcsec))
    assert abs(without.snr.mean()) < 0.5
    assert without.snr.std() < 2
    light = light_of(s)
    region = arc_region(s.stamps.shape, s.x_center, s.y_center, s.theta_e_arcsec, s.psf_fwhm_arcsec)[:, None]
    direct = ((truth * region).sum(axis=(2, 3)) / np.sqrt((region / s.invvar).sum(axis=(2, 3)))).sum(axis=1)
    assert spearmanr(direct, light.snr).statistic > 0.6
    brighter = light_of(s.showing((s.stamps + truth).astype(np.float32), ArcDomain.SIM))
    assert (brighter.snr > light.snr)[direct > 5].mean() > 0.95
    assert np.median(light.snr[direct > 5]) > 2 > np.quantile(without.snr, 0.9)


def test_the_colour_of_an_arc_is_its_own_and_not_its_host_s(sky):
    """A half ring of g - r = .3 on noise, and on red galaxies."""
    s = sky.controls
    lines, columns = np.mgrid[:64, :64]
    dx, dy = columns - s.x_center[:, None, None], lines - s.y_center[:, None, None]
    ring = np.exp(-0.5 * ((np.hypot(dx, dy) - 6) / 1.9) ** 2) * (np.cos(np.arctan2(dy, dx) - 1) > 0.3)
    ratio = np.array([10 ** (-0.4 * 0.3), 1.0, 1.0])[:, None, None]
    arcs = 0.3 * ring[:, None] * ratio
    theta_e, fwhm = np.full(N, 6 * 0.262), np.full(N, 1.0)
    region = arc_region(s.stamps.shape, s.x_center, s.y_center, theta_e, fwhm)
    for below in (noise_like(s), s.stamps):
        light = measure_arcs(below + arcs, s.invvar, s.x_center, s.y_center, region)
        assert np.nanmedian(light.g_r) == pytest.approx(0.3, abs=0.05)
        assert np.nanmedian(light.r_z) == pytest.approx(0.0, abs=0.05)


def test_around_an_arc_region_there_is_fresh_noise_of_the_row_s_own_size(sky):
    s = sky.injected.take(np.arange(5))
    region = arc_region(s.stamps.shape, s.x_center, s.y_center, s.theta_e_arcsec, s.psf_fwhm_arcsec)
    alone = only_arcs(s.stamps, s.invvar, s.x_center, s.y_center, region, seed=1, keys=s.keys)
    again = only_arcs(
        s.stamps[2:], s.invvar[2:], s.x_center[2:], s.y_center[2:], region[2:], seed=1, keys=s.keys[2:]
    )
    np.testing.assert_array_equal(alone[2:], again)
    left = s.stamps - deflector_model(s.stamps, s.invvar, s.x_center, s.y_center)
    np.testing.assert_allclose(alone[0, 1][region[0]], left[0, 1][region[0]], rtol=1e-6)
    rms = alone[:, 1][~region].std() / s.stamps[:, 1, :10, :10].std()
    assert rms == pytest.approx(1.0, abs=0.15)
    with pytest.raises(DataError, match="needs theta_E"):
        arc_region(s.stamps.shape, s.x_center, s.y_center, np.full(5, np.nan), s.psf_fwhm_arcsec)


# --- sets of stamps --------------------------------------------------------------------------------------


def test_sets_say_what_is_wrong_with_them(sky):
    s = sky.nature
    with pytest.raises(DataError, match="not finite"):
        replace(s, stamps=np.where(np.arange(N)[:, None, None, None] == 3, np.nan, s.stamps))
    with pytest.raises(DataError, match="values of hosts"):
        replace(s, hosts=s.hosts[1:])
    with pytest.raises(DataError, match="values of z"):
        replace(s, facts={"z": np.ones(3)})
    with pytest.raises(DataError, match="names a row twice"):
        replace(s, keys=np.repeat(s.keys[:1], N))
    empty = STAMPS.conform([make_host_row(0) | {"reject": "host_masked"}])
    with pytest.raises(DataError, match="no row that was not rejected"):
        StampSet.of_stamps(empty, "empty")


def test_facts_come_from_the_hosts_and_are_unknown_without_them():
    hosts = STAMPS.conform([make_host_row(i) for i in range(3)])
    pairs = Inject(seed=1, recipe=RECIPE).run(hosts)
    known, unknown = StampSet.of_pairs(pairs, "p", hosts=hosts), StampSet.of_pairs(pairs, "p", group="group")
    flux = np.array([row["flux_r"] for row in hosts.to_pylist()])
    np.testing.assert_allclose(known.facts["mag_r"], 22.5 - 2.5 * np.log10(flux), rtol=1e-6)
    assert set(known.facts) == set(unknown.facts) == set(HOST_FACTS)
    assert np.isnan(unknown.facts["mag_r"]).all()
    np.testing.assert_allclose(unknown.facts["depth_mag"], known.facts["depth_mag"], rtol=1e-6)
    assert set(unknown.groups) == {"cell:7"}
    with pytest.raises(DataError, match="2 targets are not among the hosts"):
        StampSet.of_pairs(pairs, "p", hosts=hosts.slice(0, 1))
