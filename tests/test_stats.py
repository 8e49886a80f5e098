"""Statistics against independent references, on input that must fail, and by their coverage."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as distributions
from sklearn.metrics import precision_recall_curve, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve
from statsmodels.stats.proportion import proportion_confint

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.random import stream
from darkhaloscope.stats import (
    Auroc,
    Draws,
    PartialAuc,
    PrecisionAtRecall,
    TprAtFpr,
    auroc,
    auroc_delong,
    auroc_difference_delong,
    auroc_estimate,
    binomial,
    cluster_interval,
    clustered_binomial,
    design_effect,
    ece,
    ece_debiased,
    needed_negatives,
    precision_at_recall,
    recall_before,
    roc_curve,
    roc_differences,
    roc_estimates,
    threshold_at_fpr,
    tost,
    tpr_at_fpr,
    upper_bound_no_hits,
    win_rate,
)
from darkhaloscope.stats.resampling import intervals
from darkhaloscope.stats.roc import _Ranked
from darkhaloscope.stats.rows import checked_rows

scores = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=40)


def _clustered_scores(rng, hosts, per_host, shift=1.0, host_scatter=1.0):
    """Both classes in each host, whose scores share a host term."""
    group = np.repeat(np.arange(hosts), 2 * per_host)
    label = np.tile(np.r_[np.ones(per_host), np.zeros(per_host)], hosts)
    score = rng.normal(size=len(group)) + shift * label + host_scatter * rng.normal(size=hosts)[group]
    return score, label, group


# AUROC


@given(scores, scores)
def test_auroc_agrees_with_scikit_learn_ties_included(pos, neg):
    labels = np.r_[np.ones(len(pos)), np.zeros(len(neg))]
    assert auroc(pos, neg) == pytest.approx(roc_auc_score(labels, np.r_[pos, neg]), abs=1e-12)
    found = auroc_estimate(np.r_[pos, neg], labels, None, 0, 10)
    assert found.value == pytest.approx(auroc(pos, neg), abs=1e-12)


def test_auroc_of_equal_scores_is_one_half_and_takes_infinity():
    assert auroc([1.0, 1.0], [1.0]) == 0.5
    assert auroc([np.inf], [-np.inf, 0.0]) == 1.0


@pytest.mark.parametrize(
    ("pos", "neg"), [([], [1.0]), ([1.0], []), ([np.nan], [1.0]), ([1.0], [1.0, np.nan])]
)
def test_auroc_refuses_an_empty_class_and_nan(pos, neg):
    with pytest.raises(DataError, match=r"positives|negatives"):
        auroc(pos, neg)
    with pytest.raises(DataError):
        roc_curve(pos, neg)


def test_roc_curve_agrees_with_scikit_learn_and_encloses_the_auroc():
    rng = stream(1, "test", "roc")
    pos, neg = rng.normal(1, 1, 300).round(1), rng.normal(0, 1, 500).round(1)
    curve = roc_curve(pos, neg)
    fpr, tpr, _ = sklearn_roc_curve(np.r_[np.ones(300), np.zeros(500)], np.r_[pos, neg])
    assert np.array_equal(curve.fpr, fpr)
    assert np.array_equal(curve.tpr, tpr)
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(auroc(pos, neg))


def test_auroc_estimate_says_why_it_has_none():
    found = auroc_estimate([0.1, 0.2], [1, 1], ["a", "b"], 0)
    assert found.value is None
    assert (found.n, found.n_clusters) == (2, 2)
    assert "empty" in found.detail
    nothing = auroc_estimate([], [], None, 0)
    assert nothing.value is None
    with pytest.raises(DataError, match="NaN"):
        auroc_estimate([np.nan, 1.0], [0, 1], None, 0)
    with pytest.raises(DataError, match="labels"):
        auroc_estimate([0.5, 1.0], [0, 2], None, 0)
    with pytest.raises(DataError, match="groups"):
        auroc_estimate([0.5, 1.0], [0, 1], ["a"], 0)


def test_auroc_interval_does_not_depend_on_the_order_of_rows_but_on_the_seed():
    rng = stream(2, "test", "order")
    score, label, group = _clustered_scores(rng, 50, 2)
    order = rng.permutation(len(score))
    found = auroc_estimate(score, label, group, 7, 200)
    assert auroc_estimate(score[order], label[order], group[order], 7, 200) == found
    assert auroc_estimate(score, label, group, 8, 200) != found
    assert auroc_estimate(score, label, group, 7, 400).high != found.high
    assert auroc_estimate(score, label, group, 7, 200, confidence=0.5).low > found.low
    assert found.method == "cluster bootstrap percentile, B=200"


def test_chunks_of_replicates_change_nothing(monkeypatch):
    score, _, group = _clustered_scores(stream(3, "test", "chunk"), 40, 2)
    hit = score > 0

    def share(weights):
        return (weights * hit).sum(axis=1) / weights.sum(axis=1)

    found = cluster_interval(share, group, Draws(7, 200))
    assert found.low < hit.mean() < found.high
    monkeypatch.setattr("darkhaloscope.stats.resampling._CHUNK_WEIGHTS", 1000)
    assert cluster_interval(share, group, Draws(7, 200)) == found


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 4)), min_size=4, max_size=40))
@settings(max_examples=200, deadline=None)
def test_a_replicate_is_what_scikit_learn_makes_of_weighted_rows(rows):
    score, label, group = (np.array(column) for column in zip(*rows, strict=True))
    known = np.unique(group, return_inverse=True)[1]
    counts = stream(0, "test", str(rows)).integers(0, 4, known.max() + 1).astype(np.int32)
    weight = counts[known]
    if not (weight * label).sum() or not (weight * ~label).sum():
        return
    ranked = _Ranked(checked_rows(score.astype(float), label, group))
    measures = [Auroc(), TprAtFpr(0.2), PrecisionAtRecall(0.6)]
    found = ranked.values(counts, measures)
    assert found[0] == pytest.approx(roc_auc_score(label, score, sample_weight=weight), abs=1e-9)
    repeated = np.repeat(np.arange(len(score)), weight)
    pos, neg = (score[repeated][label[repeated] == side] for side in (True, False))
    rank = int(np.floor(0.2 * (len(neg) + 1) + 1e-9))
    if rank:
        assert found[1] == pytest.approx((pos > np.sort(neg)[-rank]).mean())
    # The share of positives is that of all rows, whatever a replicate happened to draw.
    of_class = {side: (label == side).sum() / weight[label == side].sum() for side in (True, False)}
    kept = weight * np.where(label, of_class[True], of_class[False])
    precision, recall, _ = precision_recall_curve(label, score, sample_weight=kept)
    assert found[2] == pytest.approx(precision[:-1][recall[:-1] >= 0.6 - 1e-9][-1])


def test_partial_auc_is_the_mean_tpr_over_decades():
    rng = stream(11, "test", "pauc")
    score = np.r_[rng.normal(2, 1, 500), rng.normal(0, 1, 20_000)]
    label = np.r_[np.ones(500), np.zeros(20_000)]
    found = roc_estimates(score, label, None, [PartialAuc(1e-3, 1e-1)], Draws(0, 50))[0]
    grid = np.logspace(-3, -1, 4001)
    fpr, tpr, _ = sklearn_roc_curve(label, score, drop_intermediate=False)
    steps = tpr[np.searchsorted(fpr, grid, side="right") - 1]
    assert found.value == pytest.approx(steps.mean(), abs=2e-3)
    assert found.low < found.value < found.high
    assert roc_estimates(score, label, None, [PartialAuc()], Draws(0, 50))[0].value is None  # needs 1e5
    assert roc_estimates(-score, label, None, [PartialAuc(1e-3, 1e-1)], Draws(0, 50))[0].value < 0.01


def test_measures_of_one_call_are_those_of_calls_of_their_own():
    score, label, group = _clustered_scores(stream(12, "test", "many"), 60, 10)
    both = roc_estimates(score, label, group, [Auroc(), TprAtFpr(0.1)], Draws(3, 300))
    assert both[0] == auroc_estimate(score, label, group, 3, 300)
    pos, neg = label == 1, label == 0
    alone = tpr_at_fpr(score[pos], score[neg], 0.1, group[pos], group[neg], seed=3, n_boot=300)
    assert (both[1].value, both[1].low, both[1].high) == (alone.value, alone.low, alone.high)


def test_a_difference_uses_common_replicates():
    rng = stream(13, "test", "pairs")
    score, label, group = _clustered_scores(rng, 80, 4)
    better = score + 0.3 * label
    found = roc_differences((better, score), label, group, [Auroc()], Draws(1, 400))[0]
    apart = [auroc_estimate(s, label, group, 1, 400) for s in (better, score)]
    assert found.value == pytest.approx(apart[0].value - apart[1].value)
    assert found.low > 0
    width = found.high - found.low
    assert width < 0.3 * np.hypot(*(a.high - a.low for a in apart))  # what independent errors would give
    same = roc_differences((score, score), label, group, [Auroc()], Draws(1, 400))[0]
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    one_class = roc_differences((score, better), np.ones(len(score)), group, [Auroc()], Draws(1, 10))[0]
    assert one_class.value is None


def test_bca_agrees_with_scipy_on_a_skewed_mean():
    x = stream(14, "test", "bca").exponential(size=120) / 20

    def mean(counts):
        return np.array([counts @ x / counts.sum()])

    bca, plain = (intervals(mean, 120, Draws(5, 6000, kind=kind))[0] for kind in ("bca", "percentile"))
    theirs = distributions.bootstrap(
        (x,), np.mean, n_resamples=6000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert abs(bca.low - theirs.low) < 0.05 * width
    assert abs(bca.high - theirs.high) < 0.05 * width
    assert bca.high - plain.high > 0.02 * width  # else nothing was corrected
    assert "BCa" in bca.method


def _slow_delong(score, label, group):
    """Obuchowski's sums, one cluster at a time."""
    pos, neg = score[label == 1], score[label == 0]

    def beats(a, b):
        return (a > b) + 0.5 * (a == b)

    v10 = np.array([beats(p, neg).mean() for p in pos])
    v01 = np.array([beats(pos, q).mean() for q in neg])
    auc, gp, gn = v10.mean(), group[label == 1], group[label == 0]
    a = {c: (v10[gp == c] - auc).sum() for c in np.unique(group)}
    b = {c: (v01[gn == c] - auc).sum() for c in np.unique(group)}
    i10, i01, i = len(set(gp)), len(set(gn)), len(set(group))
    s10 = i10 / (i10 - 1) * sum(v**2 for v in a.values())
    s01 = i01 / (i01 - 1) * sum(v**2 for v in b.values())
    s11 = i / (i - 1) * sum(a[c] * b[c] for c in a)
    return auc, np.sqrt(s10 / len(pos) ** 2 + s01 / len(neg) ** 2 + 2 * s11 / (len(pos) * len(neg)))


@pytest.mark.parametrize("clustered", [True, False])
def test_delong_is_obuchowskis_sum_and_near_the_bootstrap(clustered):
    score, label, group = _clustered_scores(stream(15, "test", "delong"), 120, 3)
    score = score.round(1)  # ties
    groups = group if clustered else None
    found = auroc_delong(score, label, groups)
    auc, error = _slow_delong(score, label, group if clustered else np.arange(len(score)))
    assert found.value == pytest.approx(auc)
    assert found.high - found.value == pytest.approx(1.959964 * error, rel=1e-6)
    other = auroc_estimate(score, label, groups, 0)
    assert found.high - found.low == pytest.approx(other.high - other.low, rel=0.15)
    paired = auroc_difference_delong(score + 0.3 * label, score, label, groups)
    boot = roc_differences((score + 0.3 * label, score), label, groups, [Auroc()], Draws(0))[0]
    assert paired.value == pytest.approx(boot.value)
    assert paired.high - paired.low == pytest.approx(boot.high - boot.low, rel=0.2)


def test_delong_says_why_it_has_no_answer():
    assert "empty" in auroc_delong([0.1, 0.2], [1, 1], None).detail
    assert "single group" in auroc_delong([0.1, 0.2, 0.3], [1, 0, 0], ["a", "b", "c"]).detail
    assert auroc_difference_delong([0.1, 0.2], [0.1, 0.2], [0, 0], None).value is None
    with pytest.raises(DataError, match="NaN"):
        auroc_delong([np.nan, 1.0], [0, 1], None)


def test_fewer_than_thirty_clusters_get_a_jackknife():
    score, label, group = _clustered_scores(stream(4, "test", "few"), 12, 4)
    found = auroc_estimate(score, label, group, 0)
    values = [roc_auc_score(label[group != g], score[group != g]) for g in range(12)]
    error = np.sqrt(11 / 12 * np.sum((values - np.mean(values)) ** 2))
    half = distributions.t.ppf(0.975, 11) * error
    assert found.method == "cluster jackknife, t11"
    assert found.low == pytest.approx(found.value - half)
    assert found.high == pytest.approx(min(found.value + half, 1.0))


def test_one_cluster_has_a_value_and_no_interval():
    found = auroc_estimate([0.1, 0.9], [0, 1], ["a", "a"], 0)
    assert found.value == 1.0
    assert found.low is None
    assert "1 clusters" in found.detail


@pytest.mark.parametrize("n", [10, 60])
def test_a_perfect_score_is_not_claimed_with_certainty(n):
    found = auroc_estimate(np.arange(2 * n), np.arange(2 * n) >= n, None, 0, 100)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(1 - upper_bound_no_hits(n))
    worst = auroc_estimate(-np.arange(2 * n), np.arange(2 * n) >= n, None, 0, 100)
    assert (worst.value, worst.low) == (0.0, 0.0)
    assert worst.high > 0


def test_an_interval_is_refused_where_replicates_lack_a_class():
    group = np.arange(40)
    found = auroc_estimate(np.arange(40.0), group == 7, group, 0, 200)
    assert found.value is not None
    assert found.low is None
    assert "not defined" in found.detail


def test_cluster_interval_covers_where_the_interval_over_rows_fails():
    """Truth from the generating law; 150 experiments, so a coverage of .95 has an error of .018."""
    rng = stream(5, "test", "coverage")
    truth, hosts, per_host = distributions.norm.cdf(1 / np.sqrt(2) / np.sqrt(2)), 40, 5
    covered = {"host": 0, "row": 0}
    for _ in range(150):
        host = np.repeat(np.arange(2 * hosts), per_host)
        label = (host < hosts).astype(float)
        score = label + rng.normal(size=host.size) + rng.normal(size=2 * hosts)[host]
        for name, group in (("host", host), ("row", None)):
            found = auroc_estimate(score, label, group, 0, 200)
            covered[name] += found.low <= truth <= found.high
    assert 0.88 <= covered["host"] / 150 <= 0.99
    assert covered["row"] / 150 < 0.85


def test_recall_before_the_first_false_positives():
    neg, pos = np.arange(100.0), np.array([50.0, 90.5, 98.5, 99.0, 99.5, 120.0])
    assert recall_before(pos, neg, 1).value == 2 / 6  # 99 itself is the first false positive
    assert recall_before(pos, neg, 10).value == 5 / 6
    found = recall_before(np.repeat(pos, 20), neg, 10, np.repeat(np.arange(6), 20))
    assert found.n_clusters == 6
    assert found.high - found.low > 2 * (recall_before(np.repeat(pos, 20), neg, 10).high - 5 / 6)
    assert recall_before([], neg, 1).value is None
    assert recall_before(pos, neg[:5], 10).value is None


def test_win_rate_counts_pairs_and_halves_ties():
    found = win_rate([1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 1.0, 1.0])
    assert found.value == (2 + 0.5) / 4
    assert found.low < found.value < found.high
    low, high = proportion_confint(2, 3, method="beta")
    assert found.low == pytest.approx((3 * low + 0.5) / 4)
    assert found.high == pytest.approx((3 * high + 0.5) / 4)
    tied = win_rate([1.0, 1.0], [1.0, 1.0])
    assert tied.value == 0.5
    assert win_rate([], []).value is None
    with pytest.raises(DataError, match="not pairs"):
        win_rate([1.0], [1.0, 2.0])


# operating points


def test_threshold_is_the_order_statistic_with_the_beta_interval():
    neg = np.arange(1.0, 200.0)  # N = 199
    found = threshold_at_fpr(neg, 0.01)
    assert found.rank == 2
    assert found.threshold == 198.0
    low, high = distributions.beta.ppf([0.025, 0.975], 2, 198)
    assert found.fpr_interval == pytest.approx((low, high))
    five = threshold_at_fpr(np.arange(49_999.0), 1e-4)
    assert five.rank == 5
    assert five.fpr_interval[0] == pytest.approx(3.2e-5, rel=0.02)


def test_realised_fpr_is_the_one_asked_for_on_average_and_lies_in_its_interval():
    rng = stream(6, "test", "fpr")
    realised = np.array(
        [distributions.norm.sf(threshold_at_fpr(rng.normal(size=999), 0.01).threshold) for _ in range(400)]
    )
    assert realised.mean() == pytest.approx(0.01, abs=4 * 0.01 / np.sqrt(10 * 400))
    low, high = threshold_at_fpr(rng.normal(size=999), 0.01).fpr_interval
    assert np.mean((realised > low) & (realised < high)) == pytest.approx(0.95, abs=0.035)


def test_too_few_negatives_set_no_threshold():
    with pytest.raises(DataError, match="needs 999"):
        threshold_at_fpr(np.arange(998.0), 1e-3)
    assert threshold_at_fpr(np.arange(999.0), 1e-3).rank == 1
    with pytest.raises(DataError, match="between 0 and 1"):
        threshold_at_fpr([1.0], 0.0)
    assert needed_negatives(1e-3) == 10_000
    assert needed_negatives(0.01) == 1000


@given(st.integers(0, 2**32), st.booleans())
@settings(max_examples=30, deadline=None)
def test_tpr_is_the_share_above_the_threshold(seed, ties):
    rng = np.random.default_rng(seed)
    pos, neg = rng.normal(2, 1, 80), rng.normal(0, 1, 1100)
    if ties:
        pos, neg = pos.round(1), neg.round(1)
    found = tpr_at_fpr(pos, neg, 0.01, seed=0, n_boot=40)
    assert found.value == pytest.approx(np.mean(pos > threshold_at_fpr(neg, 0.01).threshold))
    assert found.low <= found.value <= found.high
    assert found.n == 80


def test_tpr_needs_ten_over_fpr_negatives():
    found = tpr_at_fpr([1.0] * 50, np.arange(999.0), 0.01, seed=0)
    assert found.value is None
    assert "needs 1000 negatives" in found.detail
    assert found.n == 50
    assert tpr_at_fpr([], np.arange(2000.0), 0.01, seed=0).value is None
    with pytest.raises(DataError, match="both classes"):
        tpr_at_fpr([1.0], np.arange(2000.0), 0.01, pos_groups=["a"], seed=0)
    with pytest.raises(DataError, match="NaN"):
        tpr_at_fpr([np.nan], np.arange(2000.0), 0.01, seed=0)


def test_tpr_interval_holds_the_error_of_the_threshold_too():
    rng = stream(7, "test", "tpr")
    pos, neg = rng.normal(2.3, 1, 4000), rng.normal(0, 1, 1000)
    found = tpr_at_fpr(pos, neg, 0.01, seed=0, n_boot=300)
    fixed = binomial(found.value * 4000, 4000)
    assert found.high - found.low > 2 * (fixed.high - fixed.low)
    assert found.low < distributions.norm.sf(distributions.norm.isf(0.01) - 2.3) < found.high


def test_precision_at_recall_agrees_with_scikit_learn():
    rng = stream(8, "test", "precision")
    label = rng.uniform(size=400) < 0.3
    score = (rng.normal(size=400) + 1.5 * label).round(1)
    precision, recall, _ = precision_recall_curve(label, score)
    expected = precision[np.flatnonzero(recall >= 0.9)[-1]]
    found = precision_at_recall(score, label, seed=0, n_boot=100)
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high
    assert precision_at_recall(score, label, 0.5, seed=0, n_boot=100).value > found.value
    assert precision_at_recall(score, np.zeros(400), seed=0).value is None


def test_draws_are_common_to_models_on_the_same_rows():
    group = np.arange(50)
    seen = []
    for _ in range(2):
        cluster_interval(lambda w: seen.append(w) or w[:, 0], group, Draws(3, 20))
    assert np.array_equal(seen[0], seen[1])
    assert np.all(seen[0].sum(axis=1) == 50)


# counts


@pytest.mark.parametrize(
    ("method", "low", "high"),
    [("wilson", 0.822, 0.938), ("jeffreys", 0.826, 0.940), ("clopper-pearson", 0.820, 0.943)],
)
def test_intervals_of_100_of_112_are_those_of_the_literature(method, low, high):
    found = binomial(100, 112, method=method)
    assert (round(found.low, 3), round(found.high, 3)) == (low, high)
    assert found.method == method


@given(st.integers(0, 60), st.integers(1, 60), st.sampled_from(["exact", "wilson"]))
def test_binomial_agrees_with_scipy(k, extra, name):
    n = k + extra
    reference = distributions.binomtest(k, n).proportion_ci(method=name)
    found = binomial(k, n, method="wilson" if name == "wilson" else "clopper-pearson")
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_jeffreys_is_the_beta_posterior_and_reaches_the_ends():
    low, high = distributions.beta.ppf([0.05, 0.95], 3.5, 7.5)
    found = binomial(3, 10, confidence=0.9)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert binomial(0, 10).low == 0.0
    assert binomial(10, 10).high == 1.0
    assert 0 < binomial(2.4, 9.7).low < 2.4 / 9.7


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (np.nan, 5), (1, np.inf)])
def test_binomial_refuses_what_is_no_count(k, n):
    with pytest.raises(DataError, match="not a count"):
        binomial(k, n)


def test_no_trials_have_no_rate():
    assert binomial(0, 0).value is None
    assert clustered_binomial([], []).value is None
    assert upper_bound_no_hits(0) == 1.0


def test_upper_bound_is_where_no_hits_become_unlikely():
    assert (1 - upper_bound_no_hits(50)) ** 50 == pytest.approx(0.05)
    assert upper_bound_no_hits(1000) == pytest.approx(3 / 1000, rel=0.01)


def test_design_effect_is_that_of_the_host_means():
    rng = stream(9, "test", "deff")
    group = np.repeat(np.arange(50), 10)
    hits = rng.uniform(size=500) < rng.beta(1.2, 2.8, 50)[group]
    means, p = hits.reshape(50, 10).mean(axis=1), hits.mean()
    assert design_effect(hits, group) == pytest.approx(means.var(ddof=1) / 50 / (p * (1 - p) / 500))
    assert design_effect(hits, group) > 1.5
    assert (
        design_effect(np.tile([0, 1], 50), np.repeat(np.arange(50), 2)) == 1.0
    )  # less than binomial: floored
    assert design_effect(np.ones(20), np.arange(20)) == 1.0


def test_rows_that_all_agree_count_once_per_group():
    found = clustered_binomial(np.zeros(100), np.repeat(np.arange(10), 10))
    assert found.value == 0.0
    assert found.high == pytest.approx(binomial(0, 10).high)
    assert (found.n, found.n_clusters) == (100, 10)
    with pytest.raises(DataError):
        clustered_binomial([0.5], ["a"])


@pytest.mark.parametrize(("p", "icc"), [(0.3, 0.2), (0.3, 0.4)])
def test_clustered_interval_covers_and_the_naive_one_does_not(p, icc):
    """50 hosts x 10 injections; 600 experiments, so .95 has an error of .009."""
    rng = stream(10, "test", f"icc{icc}")
    group = np.repeat(np.arange(50), 10)
    strength = 1 / icc - 1
    covered = naive = 0
    for _ in range(600):
        hits = rng.uniform(size=500) < rng.beta(p * strength, (1 - p) * strength, 50)[group]
        found, plain = clustered_binomial(hits, group), binomial(int(hits.sum()), 500)
        covered += found.low <= p <= found.high
        naive += plain.low <= p <= plain.high
    assert 0.92 <= covered / 600 <= 0.98
    assert naive / 600 < 0.82


@pytest.mark.parametrize(
    ("method", "least"), [("jeffreys", 0.925), ("wilson", 0.925), ("clopper-pearson", 0.945)]
)
def test_plain_intervals_cover(method, least):
    rng = stream(11, "test", method)
    edges = [binomial(k, 60, method=method) for k in range(61)]
    p = rng.uniform(0.05, 0.95, 4000)
    k = rng.binomial(60, p)
    covered = np.mean([edges[i].low <= x <= edges[i].high for i, x in zip(k, p, strict=True)])
    assert covered >= least


# calibration and equivalence


def test_ece_of_a_calibrated_model_is_small_and_of_an_overconfident_one_is_its_error():
    rng = stream(12, "test", "ece")
    p = rng.uniform(size=40_000)
    y = rng.uniform(size=p.size) < p
    assert ece(p, y) < 0.01
    assert ece_debiased(p, y) < 0.01
    off = np.clip(p + 0.2, 0, 1)
    assert ece(off, y) == pytest.approx(np.abs(off - p).mean(), abs=0.01)


def test_ece_equals_its_definition_in_equal_bins():
    rng = stream(13, "test", "ece bins")
    p = np.sort(rng.uniform(size=150))
    y = rng.uniform(size=150) < p**2
    gaps = np.abs(y.reshape(15, 10).mean(axis=1) - p.reshape(15, 10).mean(axis=1))
    assert ece(p, y) == pytest.approx(gaps.mean())
    assert ece(p, y, bins=5) != ece(p, y)


def test_ece_is_biased_in_small_samples_and_the_debiased_one_much_less():
    rng = stream(14, "test", "ece bias")
    plain, debiased = [], []
    for _ in range(100):
        p = rng.uniform(size=300)
        y = rng.uniform(size=300) < p
        plain.append(ece(p, y))
        debiased.append(ece_debiased(p, y))
    assert np.mean(plain) > 0.05
    assert np.median(debiased) < 0.03


def test_ece_ignores_the_order_of_tied_rows_and_refuses_nonsense():
    p = np.repeat([0.2, 0.8], 50)
    y = np.r_[np.ones(10), np.zeros(40), np.ones(40), np.zeros(10)]
    order = stream(15, "test", "ties").permutation(100)
    assert ece(p, y) == pytest.approx(0.0)
    assert ece(p[order], y[order]) == ece(p, y)
    for bad in (([0.5, 1.2], [0, 1]), ([0.5, 0.5], [1, 1]), ([np.nan, 0.5], [0, 1]), ([], [])):
        with pytest.raises(DataError):
            ece(*bad)


def test_tost_needs_the_whole_interval_inside_the_margin():
    assert tost(0.48, 0.52, 0.5, 0.03)
    assert not tost(0.46, 0.52, 0.5, 0.03)
    assert not tost(0.48, 0.54, 0.5, 0.03)
    assert not tost(0.47, 0.52, 0.5, 0.03 - 1e-12)
    assert not tost(float("nan"), 0.5, 0.5, 0.03)
    assert not tost(None, None, 0.5, 0.03)


def test_two_thousand_bootstraps_take_seconds_at_most_and_warn_of_nothing():
    score, label, group = _clustered_scores(stream(16, "test", "speed"), 500, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = auroc_estimate(score, label, group, 0)
    assert found.n_clusters == 500
    assert found.low < auroc(score[label == 1], score[label == 0]) < found.high
