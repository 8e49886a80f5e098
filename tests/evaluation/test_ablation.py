"""Arms over seeds: what the intervals cover, what is called significant, and what no difference is called."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as distributions
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from tests.evaluation.scored_arms import arm, logistic, lookalikes, split, table

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.protocol import load_protocol
from darkhaloscope.contracts.tables import SCORES
from darkhaloscope.evaluation.ablation import Arm, Pairing, Verdict, compare, components, judge, matched_seeds
from darkhaloscope.evaluation.endpoints import core_hidden, one_per_host, panels, recall_by_counts
from darkhaloscope.evaluation.samples import Sample, negatives, positives
from darkhaloscope.stats import (
    Auroc,
    Combined,
    Draws,
    EceReplicates,
    TprAtFpr,
    auroc,
    combine,
    detectable_share,
    ece,
    holm,
    mcnemar_exact,
    replicates,
    roc_by_counts,
    roc_differences,
    threshold_at_fpr,
    tost,
)

# --- many experiments: arms × seeds on clustered hosts -----------------------------------------------------

CLUSTERS, HOSTS, RESAMPLES = 60, 8, 200


def detections(rng, n, effects, seeds, *, seed_sd, recipe_sd=0.3, own_sd=0.5, cluster_sd=0.7):
    """(experiment, arm, seed, cluster, host): which is found, on rows that every network shares.

    A host is found where the sum is above zero of: the arm's effect, the seed's, the cluster's and the
    host's (common to all), what the arm's recipe makes of the host (common to its seeds), and the network's
    own noise.
    """
    rows = (n, 1, 1, CLUSTERS, HOSTS)
    common = cluster_sd * rng.normal(size=(*rows[:-1], 1)) + rng.normal(size=rows)
    of_seed = seed_sd * rng.normal(size=(n, len(effects), seeds, 1, 1))
    recipe = recipe_sd * rng.normal(size=(n, len(effects), 1, CLUSTERS, HOSTS))
    own = own_sd * rng.normal(size=(n, len(effects), seeds, CLUSTERS, HOSTS)).astype("f4")
    found = np.asarray(effects)[None, :, None, None, None] + of_seed + common + recipe + own > 0
    width = np.sqrt(cluster_sd**2 + 1 + recipe_sd**2 + seed_sd**2 + own_sd**2)
    return found, distributions.norm.cdf(np.asarray(effects) / width)


def combined(found, rng):
    """Each arm less the first: (experiment, arm - 1) of `Combined`, rows resampled by cluster."""
    hits = found.sum(axis=-1)  # experiment, arm, seed, cluster
    delta = (hits[:, 1:] - hits[:, :1]) / HOSTS
    out = []
    for one in delta:
        counts = rng.multinomial(CLUSTERS, np.full(CLUSTERS, 1 / CLUSTERS), size=RESAMPLES)
        values = np.einsum("bc,asc->abs", counts, one) / CLUSTERS
        out.append(
            [
                combine(d.mean(axis=1), np.cov(v, rowvar=False), CLUSTERS)
                for d, v in zip(one, values, strict=True)
            ]
        )
    return out


def covered(intervals, truth):
    return np.mean([low <= truth <= high for low, high in intervals])


SCATTER = {
    "seeds": ({"seed_sd": 0.25}, (20, np.inf)),
    "both": ({"seed_sd": 0.15, "recipe_sd": 0.8}, (1.2, 8)),
    "both, seeds less": ({"seed_sd": 0.06, "recipe_sd": 1.0, "own_sd": 0.4}, (0.25, 0.7)),
    "both, rows more": ({"seed_sd": 0.02, "recipe_sd": 1.0, "own_sd": 0.4}, (0.1, 0.3)),
    "rows": ({"seed_sd": 0.002, "recipe_sd": 1.2, "own_sd": 0.2}, (0, 0.15)),
}
"""What the difference's variance is made of, and between which values the ratio of its parts then lies."""


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("dominant", SCATTER)
def test_the_interval_of_a_difference_covers_it(seeds, dominant):
    rng = np.random.default_rng([10, seeds])
    scatter, (least, most) = SCATTER[dominant]
    found, rates = detections(rng, 2000, (0.2, 0.45), seeds, **scatter)
    every = [c[0] for c in combined(found, rng)]
    assert least <= np.mean([c.between for c in every]) / np.mean([c.within for c in every]) <= most
    assert 0.93 <= covered([c.interval(0.95) for c in every], rates[1] - rates[0]) <= 0.97


def normal_model(rng, n, seeds, ratio):
    """Networks whose mean the seeds move by `ratio` of the variance that the rows do."""
    values = rng.normal(size=(n, 1)) + np.sqrt(ratio * seeds) * rng.normal(size=(n, seeds))
    within = rng.chisquare(CLUSTERS - 1, n) / (CLUSTERS - 1)
    return [combine(v, np.full((seeds, seeds), c), CLUSTERS) for v, c in zip(values, within, strict=True)]


@pytest.mark.parametrize("ratio", [0.5, 15.0])
def test_neither_quantile_alone_covers_three_seeds_as_both_together_do(ratio):
    """Cochran's is too wide where seeds and rows do alike, Satterthwaite's too narrow where seeds do more."""
    every = normal_model(np.random.default_rng(11), 8000, 3, ratio)
    b, c = (np.array([getattr(e, name) for e in every]) for name in ("between", "within"))
    freedom = (b + c) ** 2 / (b**2 / 2 + c**2 / (CLUSTERS - 1))
    t3, tm = distributions.t.ppf(0.975, [2, CLUSTERS - 1])
    off = np.abs([e.value for e in every]) / np.sqrt(b + c)
    cochran = np.mean(off < (b * t3 + c * tm) / (b + c))
    satterthwaite = np.mean(off < distributions.t.ppf(0.975, freedom))
    found = covered([e.interval(0.95, (-np.inf, np.inf)) for e in every], 0.0)
    assert satterthwaite < found < cochran
    assert 0.93 <= found <= 0.97
    assert cochran > 0.965 if ratio < 1 else satterthwaite < 0.93


@pytest.fixture(scope="module")
def five_seeds():
    rng = np.random.default_rng(12)
    return detections(rng, 400, (0.2, 0.45), 5, seed_sd=0.12)


def test_an_interval_that_forgets_the_seeds_fails(five_seeds):
    """Negative control: bootstrap of the mean over seeds, as if they were all the networks there are."""
    found, rates = five_seeds
    hits = found.sum(axis=-1)
    delta = (hits[:, 1] - hits[:, 0]).mean(axis=1) / HOSTS
    error = delta.std(axis=1, ddof=1) / np.sqrt(CLUSTERS)
    middle = delta.mean(axis=1)
    inside = np.abs(middle - (rates[1] - rates[0])) < distributions.t.ppf(0.975, CLUSTERS - 1) * error
    assert inside.mean() < 0.8


def test_an_interval_that_forgets_the_clusters_fails():
    """Negative control: rates of one arm, whose hosts share clusters, resampled host by host."""
    rng = np.random.default_rng(13)
    found, rates = detections(rng, 400, (0.2,), 5, seed_sd=0.01)
    middle = found[:, 0].mean(axis=(1, 2, 3))
    host = found[:, 0].mean(axis=1).reshape(len(found), -1)
    error = host.std(axis=1, ddof=1) / np.sqrt(host.shape[1])
    assert (np.abs(middle - rates[0]) < 1.96 * error).mean() < 0.9
    clustered = [
        combine(one.mean(axis=1), np.cov(one) / CLUSTERS, CLUSTERS).interval(0.95)
        for one in found[:, 0].sum(axis=-1) / HOSTS  # seed, cluster
    ]
    assert 0.93 <= covered(clustered, rates[0]) <= 0.975


def test_an_interval_of_the_scatter_of_seeds_alone_fails():
    """Negative control: the test rows are common to the seeds, so what they do does not scatter."""
    rng = np.random.default_rng(14)
    found, rates = detections(rng, 400, (0.2,), 5, seed_sd=0.01)
    values = found[:, 0].mean(axis=(2, 3))
    half = distributions.t.ppf(0.975, 4) * values.std(axis=1, ddof=1) / np.sqrt(5)
    assert (np.abs(values.mean(axis=1) - rates[0]) < half).mean() < 0.6


def test_without_an_effect_five_arms_are_rarely_called_significant():
    """At most 5 per cent of experiments (and three binomial errors) with Holm; more without it."""
    rng = np.random.default_rng(15)
    n = 1000
    found, _ = detections(rng, n, (0.2,) * 6, 5, seed_sd=0.1)
    p = [[c.p for c in arms] for arms in combined(found, rng)]
    adjusted = np.mean([min(holm(row)) < 0.05 for row in p])
    assert adjusted <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / n)
    assert np.mean([min(row) < 0.05 for row in p]) > 0.09


def test_a_planted_effect_is_found_and_as_often_as_the_minimal_detectable_one_says():
    rng = np.random.default_rng(16)
    found, rates = detections(rng, 300, (0.2, 0.2, 0.42), 5, seed_sd=0.08)
    both = combined(found, rng)
    claimed = float(np.median([arms[1].detectable() for arms in both]))
    assert claimed == pytest.approx(rates[2] - rates[0], rel=0.25)  # the effect is about the detectable one
    assert 0.7 <= np.mean([arms[1].p < 0.05 for arms in both]) <= 0.97
    assert np.mean([arms[0].p < 0.05 for arms in both]) < 0.09


# --- one combination ---------------------------------------------------------------------------------------


def test_the_variance_has_the_common_part_once():
    """Covariance 0.5 off the diagonal, 0.8 on it: the 0.3 that a network has alone is in s² already."""
    sigma = np.full((4, 4), 0.5) + 0.3 * np.eye(4)
    values = np.array([1.0, 2.0, 4.0, 5.0])
    found = combine(values, sigma, 50)
    assert found.between == pytest.approx(values.var(ddof=1) / 4)
    assert found.within == pytest.approx(0.5)
    assert found.alone == pytest.approx(0.5 + 0.3 / 4)
    assert found.value == 3.0
    one = combine([1.0], [[0.8]], 50)
    assert (one.within, one.alone, one.between) == (0.8, 0.8, 0.0)
    with pytest.raises(DataError, match="do not fit"):
        combine([1.0, 2.0], [[1.0]], 50)


def test_the_quantile_is_students_at_both_ends():
    def of(between, within, seeds):
        return Combined(0.0, between, within, 0.0, seeds, 61).quantile(0.025)

    assert of(1.0, 0.0, 3) == pytest.approx(4.3027, abs=1e-4)
    assert of(1.0, 0.0, 5) == pytest.approx(2.7764, abs=1e-4)
    assert of(0.0, 1.0, 3) == pytest.approx(distributions.t.ppf(0.975, 60))
    cochran, satterthwaite = (4.3027 + 2.0003) / 2, distributions.t.ppf(0.975, 4 / (1 / 2 + 1 / 60))
    assert of(1.0, 1.0, 3) == pytest.approx((2 * cochran + satterthwaite) / 3, abs=1e-4)


def test_seeds_that_agree_by_chance_make_no_interval_narrower_than_one_without_seeds():
    """Three values within 1e-6 of each other, while the rows alone scatter each by 0.05."""
    sigma = 0.05**2 * np.eye(3)
    found = combine([0.1, 0.1 + 1e-6, 0.1 - 1e-6], sigma, 61)
    alone = 2.0003 * 0.05 / np.sqrt(3)
    assert found.error < 1e-5
    assert found.interval(0.95) == pytest.approx((0.1 - alone, 0.1 + alone), abs=1e-5)
    assert found.p == pytest.approx(2 * distributions.t.sf(0.1 / (0.05 / np.sqrt(3)), 60))


parts = st.floats(0, 1e-2).map(lambda x: 0.0 if x < 1e-8 else x)


@given(
    st.builds(
        Combined,
        st.floats(-0.3, 0.3),
        parts,
        parts,
        parts,
        st.integers(2, 6),
        st.integers(10, 300),
        st.booleans(),
    ),
    st.floats(0.001, 0.2),
)
@settings(max_examples=200, deadline=None)
def test_p_and_interval_agree(found, margin):
    assert 0 <= found.p <= 1
    assert 0 <= found.p_beyond(margin) <= 1
    low, high = found.interval(0.95, (-np.inf, np.inf))
    if min(abs(low), abs(high)) > 1e-9:
        assert (found.p < 0.05) == (low > 0 or high < 0)
    low90, high90 = found.interval(0.90, (-np.inf, np.inf))
    if min(abs(abs(low90) - margin), abs(abs(high90) - margin)) > 1e-9:
        assert (found.p_beyond(margin) < 0.05) == tost(low90, high90, 0.0, margin)


def test_without_any_scatter_the_clusters_bound_what_could_have_been():
    """No look-alike of 30 cells is found by either: that is no proof that 5 per cent never are."""
    few, many = (Combined(0.0, 0.0, 0.0, 0.0, 5, m) for m in (30, 300))
    assert few.interval(0.95) == pytest.approx((-0.095, 0.095), abs=1e-3)
    assert (few.p, few.p_beyond(0.05) > 0.05, many.p_beyond(0.05) < 0.05) == (1.0, True, True)
    assert few.detectable(least=0.05) > 0.095
    sure = Combined(1.0, 0.0, 0.0, 0.0, 3, 40)
    assert sure.p < 1e-9
    assert sure.p_beyond(0.05) == 1.0


def test_one_hit_says_no_more_than_none():
    """In 30 cells: a bootstrap of a single hit among three networks is narrow, and worth nothing."""
    narrow = Combined(1 / 180, 3e-5, 1e-6, 3e-5, 3, 30)
    assert narrow.interval(0.95)[1] < 0.035
    honest = replace(narrow, rare=True)
    assert honest.interval(0.95)[1] == pytest.approx(1 / 180 + 0.095, abs=1e-3)
    assert narrow.p_beyond(0.05) < 0.05 < honest.p_beyond(0.05)


def test_replicates_of_a_mean_have_its_variance_with_many_groups_and_with_few():
    rng = np.random.default_rng(3)
    for m in (100, 12):
        x = rng.normal(size=m)
        made = replicates(lambda c, x=x: np.array([c @ x / c.sum()]), m, Draws(1, 4000))
        assert made.clusters == m
        expected = x.var(ddof=1) / m
        assert made.covariance(made.values)[0, 0] == pytest.approx(expected, rel=0.1 if m > 30 else 1e-9)
        undefined = made.values.copy()
        undefined[: len(undefined) // 4] = np.nan
        assert made.covariance(undefined) is None


# --- tests beside others -----------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=20, deadline=None)
def test_holm_is_that_of_statsmodels(p):
    assert holm(p) == pytest.approx(list(multipletests(p, method="holm")[1]))


def test_what_was_not_tested_is_no_member_of_the_family():
    assert holm([0.04, None, 0.03]) == [0.06, None, 0.06]
    assert holm([]) == []


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 30), st.integers(1, 30))
@settings(deadline=None)
def test_mcnemar_is_that_of_statsmodels(first, second, both, neither):
    a = np.repeat([1, 0, 1, 0], [first, second, both, neither])
    b = np.repeat([0, 1, 1, 0], [first, second, both, neither])
    found = mcnemar_exact(a, b)
    wanted = (
        statsmodels_mcnemar([[both, first], [second, neither]], exact=True).pvalue if first + second else 1
    )
    assert found.p == pytest.approx(wanted)
    assert (found.first_only, found.second_only, found.n) == (first, second, len(a))
    with pytest.raises(DataError, match="not the same rows"):
        mcnemar_exact(a, b[:-1])


@pytest.mark.parametrize(("n", "pp"), [(112, 8), (311, 5), (869, 3)])
def test_the_detectable_difference_of_two_detectors(n, pp):
    """A tenth of the rows discordant."""
    assert round(100 * detectable_share(n, 0.10)) == pp
    assert detectable_share(n, 0.10, tests=5) > detectable_share(n, 0.10)


# --- endpoints ---------------------------------------------------------------------------------------------


def test_measures_by_counts_are_those_of_the_repeated_rows():
    rng = np.random.default_rng(4)
    score, label = logistic(np.round(rng.normal(size=600), 1)), (rng.random(600) < 0.4).astype(float)
    group = rng.integers(20, size=600)
    counts = rng.integers(0, 4, size=20).astype(np.int32)
    again = np.repeat(np.arange(600), counts[group])
    found = roc_by_counts(score, label, group, [Auroc(), TprAtFpr(0.05)])(counts)
    pos, neg = score[again][label[again] == 1], score[again][label[again] == 0]
    assert found[0] == pytest.approx(roc_auc_score(label[again], score[again]))
    assert found[1] == np.mean(pos > threshold_at_fpr(neg, 0.05).threshold)
    errors = EceReplicates(score, label, group)
    assert errors.of(counts)[0] == pytest.approx(ece(score[again], label[again]))
    assert np.isnan(errors.of(np.zeros(20, np.int32))).all()


def test_recall_by_counts_is_that_of_the_repeated_rows():
    rng = np.random.default_rng(5)

    def sample(n, shift):
        text = np.array([f"g{k}" for k in rng.integers(12, size=n)])
        return Sample(rng.normal(shift, 1, n), text, text, np.array(["sim"] * n), {})

    anchors, pool = sample(40, 1.0), sample(500, 0.0)
    universe = np.unique(np.r_[anchors.group, pool.group])
    counts = rng.integers(0, 4, size=len(universe)).astype(np.int32)
    weights = [counts[np.searchsorted(universe, s.group)] for s in (anchors, pool)]
    a, b = np.repeat(anchors.score, weights[0]), np.repeat(pool.score, weights[1])
    order = np.argsort(-np.r_[a, b], kind="stable")
    place = np.empty(len(order), int)
    place[order] = np.arange(1, len(order) + 1)
    found = recall_by_counts(anchors, pool, (10, 50, 100), universe)(counts)
    assert found == pytest.approx([np.mean(place[: len(a)] <= k) for k in (10, 50, 100)])


def whole(network, protocol, rate=0.01):
    """All figures of one network on its rows as they are, by name."""
    values = {}
    for panel in panels(network, protocol, rate).values():
        if len(panel.groups):
            made = panel.make(panel.groups)(np.ones(len(panel.groups), np.int32))
            values |= dict(zip((e.name for e in panel.endpoints), made, strict=True))
    return values


def test_endpoints_are_what_their_names_say(protocol):
    network = arm("x", seeds=(1,)).networks[0]
    found = whole(network, protocol)
    pos, neg = positives(network.test), negatives(network.test)
    hidden = core_hidden(network.test)
    masked = auroc(positives(hidden).score, negatives(hidden).score)
    full = auroc(pos.score, neg.score)
    threshold = threshold_at_fpr(negatives(network.calib).score, 0.01).threshold
    assert found["auroc_synth"] == pytest.approx(full)
    assert found["auroc_synth_core_masked"] == pytest.approx(masked)
    assert masked < full
    assert found["core_masked_drop_synth"] == pytest.approx((full - masked) / full)
    assert found["detection_at_fpr_001_sim"] == np.mean(one_per_host(network.test).score > threshold)
    assert found["tpr_at_fpr_001_synth"] == np.mean(pos.score > threshold_at_fpr(neg.score, 0.01).threshold)
    look = network.lookalikes.column("score").to_numpy()
    assert found["mock_contaminant_fpr_ring_p50"] == pytest.approx(np.mean(look > 0.5))


def test_a_host_with_many_arcs_counts_once():
    rows = split(1, 1.0, sky=0)
    again = SCORES.conform(
        {name: rows.column(name) for name in rows.column_names}
        | {"row_id": [f"{name}b" for name in rows.column("row_id").to_pylist()]}
    )
    both = pa.concat_tables([again, rows])
    assert (len(positives(both)), len(one_per_host(both))) == (800, 400)
    first = positives(rows.sort_by("row_id")).score
    assert np.array_equal(one_per_host(both).score, first)


# --- arms --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def protocol():
    return load_protocol(overrides=["statistics.bootstrap=300"])


@pytest.fixture(scope="module")
def master(protocol):
    """A worse arm, one that changes nothing, too few seeds, other arcs in the same cells, another sky."""
    arms = [
        arm("worse", shift=0.4, base=1),
        arm("reference", base=0),
        arm("nothing", base=2),
        arm("lonely", shift=-3.0, seeds=(1,), base=3),
        arm("two", shift=-3.0, seeds=(1, 2), base=6),
        arm("recipe", base=4, sky=7),
        arm("elsewhere", base=5, sky=8, first_cell=20_000),
    ]
    return compare(arms, "reference", protocol, seed=1)


def rows_of(master, name, endpoint=None):
    found = {row.endpoint: row for row in master.rows if row.arm == name}
    return found if endpoint is None else found[endpoint]


def test_the_reference_comes_first_and_is_judged_against_nothing(master):
    assert next(iter(master.seeds)) == "reference"
    for row in rows_of(master, "reference").values():
        assert (row.verdict, row.delta, row.p) == (Verdict.REFERENCE, None, None)


def test_a_planted_difference_is_significant_in_what_it_touches(master):
    found = rows_of(master, "worse")
    for name in ("auroc_synth", "tpr_at_fpr_001_synth", "auroc_synth_core_masked"):
        assert (found[name].verdict, found[name].wording) == (Verdict.SIGNIFICANT, "significant: worse")
        assert found[name].delta.high < -0.02
    ring = found["mock_contaminant_fpr_ring_p50"]  # look-alikes are scored alike in both arms
    assert ring.verdict in (Verdict.EQUIVALENT, Verdict.INCONCLUSIVE)


def test_no_effect_is_equivalence_or_an_open_question_never_the_lack_of_significance(master):
    found = rows_of(master, "nothing")
    tested = [row for row in found.values() if row.p_holm is not None]
    assert len(tested) >= 6
    for row in tested:
        assert row.verdict in (Verdict.EQUIVALENT, Verdict.INCONCLUSIVE)
        words = (
            f"equivalent within ±{row.least:g}" if row.verdict is Verdict.EQUIVALENT else f"MDE {row.mde:.2g}"
        )
        assert words in row.wording
        assert row.delta.status is Status.PASS
    auc = found["auroc_synth"]
    assert auc.verdict is Verdict.EQUIVALENT
    low, high = auc.delta.low, auc.delta.high
    assert max(-low, high) < auc.least  # the whole interval lies inside what counts


@pytest.mark.parametrize(("name", "seeds"), [("lonely", 1), ("two", 2)])
def test_too_few_seeds_are_never_significant_however_large_the_difference(master, name, seeds):
    found = rows_of(master, name, "auroc_synth")
    assert found.delta.value < -0.3
    assert found.delta.low < found.delta.value < found.delta.high
    assert (found.verdict, found.p, found.p_holm, found.mde) == (Verdict.NOT_EVALUATED, None, None, None)
    assert found.delta.status is Status.NOT_EVALUATED
    said = "one seed" if seeds == 1 else "2 seeds"
    assert f"{said}: not significant by rule, needs 3" in found.wording
    assert not [
        r for r in rows_of(master, name).values() if r.verdict in (Verdict.SIGNIFICANT, Verdict.DIFFERS)
    ]


def test_one_seed_has_the_interval_of_the_paired_bootstrap(protocol):
    a, b = arm("a", seeds=(1,), base=1), arm("b", seeds=(1,), base=0)
    found = rows_of(compare([a, b], "b", protocol, seed=1), "a", "auroc_synth").delta
    both = [(positives(n.networks[0].test), negatives(n.networks[0].test)) for n in (a, b)]
    scores = tuple(np.r_[pos.score, neg.score] for pos, neg in both)
    pos, neg = both[0]
    labels, groups = np.repeat([1, 0], [len(pos), len(neg)]), np.r_[pos.group, neg.group]
    wanted = roc_differences(scores, labels, groups, [Auroc()], Draws(1, 4000))[0]
    assert found.value == pytest.approx(wanted.value)
    assert found.high - found.low == pytest.approx(wanted.high - wanted.low, rel=0.12)


def test_common_rows_make_a_narrower_difference_than_common_cells_or_none(master):
    paired, cells, apart = (
        rows_of(master, name, "auroc_synth") for name in ("nothing", "recipe", "elsewhere")
    )
    assert (paired.pairing, cells.pairing, apart.pairing) == tuple(Pairing)
    width = [row.delta.high - row.delta.low for row in (paired, cells, apart)]
    assert width[0] < 0.6 * min(width[1:])


def test_rows_of_another_sky_are_resampled_apart(protocol):
    """Then the variances add; with the same cells they need not."""
    a, b = arm("a", base=1, sky=8, first_cell=20_000), arm("b", base=0)
    found = compare([a, b], "b", protocol, seed=1)
    both, one, other = (
        rows_of(found, "a", "auroc_synth").delta,
        rows_of(found, "a", "auroc_synth").value,
        rows_of(found, "b", "auroc_synth").value,
    )
    half = [(m.high - m.low) / 2 for m in (both, one, other)]
    assert half[0] == pytest.approx(np.hypot(*half[1:]), rel=0.1)


def test_figures_carry_their_rows_seeds_and_manifests(master):
    row = rows_of(master, "worse", "auroc_synth")
    assert row.value.seeds == row.delta.seeds == (1, 2, 3, 4, 5)
    assert row.value.manifests == tuple(f"scores-worse-{s}" for s in range(1, 6))
    assert set(row.delta.manifests) == {
        f"scores-{a}-{s}" for a in ("worse", "reference") for s in range(1, 6)
    }
    assert (row.value.n, row.value.n_clusters, row.value.arc_domain) == (400 + 400 + 700, 50, "sim")
    assert "seeds are" in row.value.detail
    ring = rows_of(master, "worse", "mock_contaminant_fpr_ring_p70")
    assert (ring.value.n, ring.value.n_clusters, ring.value.arc_domain) == (60, 30, "none")
    assert ring.value.manifests == tuple(f"looks-worse-{s}" for s in range(1, 6))
    assert {row.value.name for row in master.rows} == {row.endpoint for row in master.rows}


def test_what_has_too_few_rows_says_what_it_needs(master):
    for row in (rows_of(master, "worse", "tpr_at_fpr_0001_synth"),):
        assert row.value.value is None
        assert row.value.status is Status.NOT_EVALUATED
        assert row.wording == "not evaluated: 1100 negatives, needs 10000"
    assert "needs 50" in rows_of(master, "worse", "mock_contaminant_fpr_spiral_p50").wording


@pytest.mark.parametrize("hits", [0, 1])
def test_no_hit_or_one_is_not_equivalence(protocol, hits):
    """60 rings in 30 cells, none above .9 or one of one network: 5 per cent of them could be."""

    def compared(n):
        arms = [
            arm(name, seeds=(1, 2, 3), base=k, look=lookalikes(9, -9.0, n=n)) for k, name in enumerate("ab")
        ]
        seen = lookalikes(9, -9.0, n=n).column("score").to_numpy().copy()
        seen[:hits] = 0.95
        place = SCORES.schema.get_field_index("score")
        rows = arms[1].networks[1].lookalikes.set_column(place, SCORES.schema.field("score"), pa.array(seen))
        one = replace(arms[1].networks[1], lookalikes=rows)
        arms[1] = replace(arms[1], networks=(arms[1].networks[0], one, arms[1].networks[2]))
        return rows_of(compare(arms, "a", protocol, seed=1), "b", "mock_contaminant_fpr_ring_p90")

    few, many = compared(60), compared(400)
    assert few.delta.value == pytest.approx(hits / 180)
    assert few.verdict is Verdict.INCONCLUSIVE
    assert few.delta.high > 0.05
    assert many.verdict is Verdict.EQUIVALENT


def test_networks_are_told_apart_where_recipes_are_not(master):
    """McNemar's test is of two networks: seeds of one recipe differ by it, and it decides nothing."""
    mine = [d for d in master.detections if d.arm == "nothing"]
    assert [(d.seed, d.reference_seed) for d in mine] == [(s, s) for s in range(1, 6)]
    assert Counter(d.arm for d in master.detections) == {"worse": 5, "nothing": 5, "lonely": 1, "two": 2}
    assert all(d.n == 400 and d.p <= d.p_holm for d in master.detections)
    assert min(d.p_holm for d in mine) < 0.05
    assert rows_of(master, "nothing", "detection_at_fpr_001_sim").verdict is not Verdict.SIGNIFICANT
    family = [d.p for d in master.detections if d.reference_seed == 1]
    assert [d.p_holm for d in master.detections if d.reference_seed == 1] == pytest.approx(
        list(multipletests(family, method="holm")[1])
    )


def test_the_same_arms_give_the_same_figures_in_any_order(protocol):
    arms = [arm(name, seeds=(1, 2, 3), base=k) for k, name in enumerate("abc")]
    first, again = (compare(order, "b", protocol, seed=1) for order in (arms, [arms[1], arms[0], arms[2]]))
    assert first == again


def test_p_is_adjusted_over_the_arms_of_an_endpoint(master):
    rows = [row for row in master.rows if row.endpoint == "auroc_synth" and row.p is not None]
    assert {row.arm for row in rows} == {"worse", "nothing", "recipe", "elsewhere"}
    assert [row.p_holm for row in rows] == pytest.approx(
        list(multipletests([r.p for r in rows], method="holm")[1])
    )


def test_seeds_are_matched_by_number_and_in_order_where_none_is_common():
    assert matched_seeds((1, 2, 5), (2, 5, 9)) == [(1, 0), (2, 1)]
    assert matched_seeds((1, 2, 3), (7, 8)) == [(0, 0), (1, 1)]


def test_groups_join_what_shares_them():
    groups = [np.array(g) for g in (["a"], ["b"], ["c", "a"], ["d", "b"], ["e"], ["c", "d"])]
    assert components(groups) == [[0, 1, 2, 3, 5], [4]]


@pytest.mark.parametrize(
    ("delta", "p", "beyond", "least", "verdict"),
    [
        (0.05, 0.01, 0.9, 0.02, Verdict.SIGNIFICANT),
        (0.05, 0.06, 0.9, 0.02, Verdict.INCONCLUSIVE),
        (
            0.015,
            0.01,
            0.3,
            0.02,
            Verdict.INCONCLUSIVE,
        ),  # above zero, and neither above nor within what counts
        (0.015, 0.01, 0.04, 0.02, Verdict.EQUIVALENT),
        (0.0, 1.0, 0.5, 0.02, Verdict.INCONCLUSIVE),
        (0.05, 0.01, None, None, Verdict.DIFFERS),
        (0.05, 0.06, None, None, Verdict.INCONCLUSIVE),
    ],
)
def test_the_verdict_follows_the_protocols_rule(delta, p, beyond, least, verdict):
    found, words = judge(delta, p, beyond, least=least, mde=0.034, alpha=0.05, higher_is_better=True)
    assert found is verdict
    assert ("MDE 0.034" in words) == (verdict is Verdict.INCONCLUSIVE)
    assert "no effect" not in words


def test_a_lower_rate_of_look_alikes_is_better():
    _, words = judge(-0.1, 0.01, 0.9, least=0.05, mde=0.1, alpha=0.05, higher_is_better=False)
    assert words == "significant: better"


def test_arms_that_cannot_be_compared_are_refused(protocol):
    one = arm("a", seeds=(1, 2))
    with pytest.raises(DataError, match="each seed once"):
        Arm("a", (one.networks[1], one.networks[0]), "rows")
    other = replace(one.networks[1], test=one.networks[1].test.slice(1))
    with pytest.raises(DataError, match="the test rows of seed 2 are not those of seed 1"):
        Arm("a", (one.networks[0], other), "rows")
    with pytest.raises(DataError, match="must be one of the arms"):
        compare([one], "b", protocol, seed=1)
    empty = replace(one.networks[0], test=table("x", np.array([0.5, 0.6]), [1, 2]))
    with pytest.raises(DataError, match="0 simulated arcs"):
        compare([Arm("a", (empty,), "rows")], "a", protocol, seed=1)


def test_anchors_are_compared_where_pool_and_anchors_suffice():
    protocol = load_protocol(
        overrides=["statistics.bootstrap=200", "anchor_recall.pool_min=1000", "anchor_recall.k=[100]"]
    )
    for least, status in ((30, Status.PASS), (31, Status.NOT_EVALUATED)):
        wanted = protocol.model_copy(
            update={"anchor_recall": protocol.anchor_recall.model_copy(update={"anchors_min": least})}
        )
        arms = []
        for k, name in enumerate("ab"):
            score = logistic(np.random.default_rng(k).normal(2.5 - k, 1, 30))
            look = table("lens", score, 6000 + np.arange(30), control=score, kind="lens", arc="nature")
            arms.append(arm(name, seeds=(1, 2, 3), base=k, look=look))
        row = rows_of(compare(arms, "a", wanted, seed=1), "b", "mock_anchor_recall_at_100")
        assert row.value.status is status
        assert (row.value.value is None) == (status is not Status.PASS)
        assert ("needs 31" in row.value.detail) == (status is not Status.PASS)
