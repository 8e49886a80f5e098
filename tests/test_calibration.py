"""Statistics of calibration against independent references, and on rows where they are not defined."""

from itertools import pairwise

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from scipy import stats as distributions
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.random import stream
from darkhaloscope.stats import (
    EPSILON,
    EceReplicates,
    PriorShift,
    at_prevalence,
    brier,
    brier_skill,
    brier_skill_estimate,
    clustered_binomial,
    cox,
    ece,
    ece_debiased,
    ece_estimates,
    effective_n,
    effective_rows,
    log_score,
    log_score_estimate,
    prevalence_weights,
    reliability_bins,
)
from darkhaloscope.stats.prevalence import ClassSums, jackknife_half
from darkhaloscope.stats.rows import checked_rows

inside = st.floats(1e-6, 1 - 1e-6)


def calibrated(name, n=2000, hosts=200, scale=2.0, centre=0.0):
    """Probabilities that share a term of their host, and outcomes that they state rightly."""
    rng = stream(21, "test", name)
    group = np.arange(n) % hosts
    x = centre + scale * (0.7 * rng.normal(size=hosts)[group] + 0.7 * rng.normal(size=n))
    p = special.expit(x)
    return p, (rng.uniform(size=n) < p).astype(float), group


# another prevalence


def test_a_score_of_balanced_classes_is_worth_little_where_lenses_are_rare():
    assert at_prevalence(0.99, 0.5, 1e-4) == pytest.approx(0.0098, abs=5e-5)
    assert at_prevalence(0.9999, 0.5, 1e-4) == pytest.approx(0.5, abs=1e-4)
    assert at_prevalence([0.0, 0.3, 1.0], 0.3, 0.01) == pytest.approx([0.0, 0.01, 1.0])


# Two shifts of 1e-3 move .999 to 1 - 1e-9: closer to 1 float64 has no digits left to undo them with.
representable = st.floats(1e-3, 1 - 1e-3)


@given(representable, representable, representable)
def test_a_prior_shift_is_undone_by_its_opposite(p, was, now):
    there = at_prevalence(p, was, now)
    assert at_prevalence(there, now, was) == pytest.approx(p, rel=1e-6)
    odds = special.logit(there) - special.logit(p)
    assert odds == pytest.approx(special.logit(now) - special.logit(was), abs=1e-4)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), inside, inside)
def test_a_prior_shift_keeps_the_order(p, was, now):
    moved = at_prevalence(np.sort(p), was, now)
    assert (np.diff(moved) >= -1e-15).all()
    assert ((moved >= 0) & (moved <= 1)).all()


@pytest.mark.parametrize("bad", [(1.5, 0.5, 0.1), (np.nan, 0.5, 0.1), (0.5, 0.0, 0.1), (0.5, 0.5, 1.0)])
def test_what_is_no_probability_and_no_prevalence_is_refused(bad):
    with pytest.raises(DataError):
        at_prevalence(*bad)


@given(st.lists(st.booleans(), min_size=2, max_size=50), inside)
def test_weights_give_the_prevalence_and_one_on_average(labels, now):
    y = np.array(labels)
    if y.all() or not y.any():
        with pytest.raises(DataError, match="empty"):
            prevalence_weights(y, now)
        return
    w = prevalence_weights(y, now)
    assert w[y].sum() / w.sum() == pytest.approx(now)
    assert w.mean() == pytest.approx(1)
    assert effective_n(w) <= len(y) * (1 + 1e-9)
    assert effective_n(prevalence_weights(y, y.mean())) == pytest.approx(len(y))


def test_the_effective_number_is_that_of_kish():
    assert effective_n([1, 1, 1, 1]) == 4
    assert effective_n([3, 1]) == pytest.approx(1.6)
    assert effective_n([]) == 0.0


# Cox's recalibration


def test_cox_agrees_with_statsmodels_logit_and_its_clustered_errors():
    p, y, group = calibrated("logit")
    theirs = sm.Logit(y, sm.add_constant(special.logit(p))).fit(
        disp=0, cov_type="cluster", cov_kwds={"groups": group}
    )
    found = cox(p, y, group)
    for ours, value, error in zip(found, theirs.params, theirs.bse, strict=True):
        assert ours.value == pytest.approx(value, abs=1e-7)
        assert ours.low < value < ours.high
        assert (ours.high - ours.low) / (2 * distributions.t.ppf(0.975, 199) * error) == pytest.approx(
            1, abs=0.05
        )
    assert (found.slope.n, found.slope.n_clusters) == (2000, 200)
    assert "jackknife" in found.slope.method


def test_leaving_a_group_out_by_one_step_is_nearly_leaving_it_out():
    p, y, group = calibrated("leave out", n=1500, hosts=150)
    x = special.logit(p)
    left = np.array(
        [sm.Logit(y[group != g], sm.add_constant(x[group != g])).fit(disp=0).params for g in range(150)]
    )
    whole = sm.Logit(y, sm.add_constant(x)).fit(disp=0).params
    error = np.sqrt(149 / 150 * ((left - whole) ** 2).sum(axis=0))
    for ours, value in zip(cox(p, y, group), error, strict=True):
        freedom = float(ours.method.split(", t")[1])
        assert freedom < 149.5
        half = distributions.t.ppf(0.975, freedom) * value
        assert (ours.high - ours.low) / 2 == pytest.approx(half, rel=0.02)


def test_cox_at_another_prevalence_is_the_weighted_regression_of_scikit_learn():
    p, y, group = calibrated("weighted")
    found = cox(p, y, group, shift=PriorShift(0.5, 0.01))
    w = prevalence_weights(y, 0.01)
    x = special.logit(at_prevalence(p, 0.5, 0.01))
    theirs = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky").fit(
        x[:, None], y, sample_weight=w
    )
    assert found.slope.value == pytest.approx(theirs.coef_[0, 0], abs=1e-5)
    assert found.intercept.value == pytest.approx(theirs.intercept_[0], abs=1e-5)


def test_a_perfect_model_has_slope_one_and_twice_the_logit_has_a_half():
    p, y, group = calibrated("perfect", n=20_000, hosts=2000)
    found = cox(p, y, group)
    assert found.slope.value == pytest.approx(1, abs=0.06)
    assert found.slope.low < 1 < found.slope.high
    assert found.intercept.low < 0 < found.intercept.high
    sure = cox(special.expit(2 * special.logit(p)), y, group)
    assert sure.slope.value == pytest.approx(found.slope.value / 2, rel=1e-6)
    assert sure.slope.high < 0.6
    assert sure.intercept.value == pytest.approx(found.intercept.value, abs=1e-6)


def test_the_prior_shift_puts_right_what_choosing_rows_by_class_put_wrong():
    p, y, group = calibrated("chosen", n=20_000, hosts=2000, centre=-3.0)
    share = float(y.mean())
    kept = (y == 1) | (np.arange(len(y)) % 20 == 0)
    p, y, group = p[kept], y[kept], group[kept]
    wrong = cox(p, y, group)
    assert wrong.intercept.low > 2  # ln 20 = 3.0: the control of the next line
    right = cox(p, y, group, shift=PriorShift(share, float(y.mean())))
    assert right.intercept.low < 0 < right.intercept.high
    assert right.slope.low < 1 < right.slope.high
    assert right.slope.value == pytest.approx(wrong.slope.value)


@pytest.mark.parametrize(
    ("p", "y", "why"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], "separates"),
        ([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1], "separates"),  # touching at one point is separated too
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], "separates"),
        ([0.3, 0.3, 0.3, 0.3], [0, 1, 0, 1], "the same"),
        ([0.1, 0.2], [1, 1], "empty"),
        ([], [], "empty"),
    ],
)
def test_what_has_no_maximum_is_not_defined_and_says_why(p, y, why):
    for shift in (None, PriorShift(0.5, 0.01)):
        for found in cox(p, y, shift=shift):
            assert (found.value, found.low, found.high) == (None, None, None)
            assert why in found.detail
    overlapping = cox([0.1, 0.2, 0.6, 0.5, 0.9, 0.4], [0, 0, 0, 1, 1, 1])
    assert np.isfinite(overlapping.slope.value)


def test_scores_of_zero_and_one_are_counted_and_kept_from_the_ends():
    p, y, group = calibrated("clipped")
    sure = np.where(p > 0.99, 1.0, np.where(p < 0.02, 0.0, p))
    n = int(((sure == 0) | (sure == 1)).sum())
    assert n > 20
    found = cox(sure, y, group)
    assert f"{n} of 2000 probabilities moved to {EPSILON:g}" in found.slope.detail
    assert found.slope.value == pytest.approx(cox(np.clip(sure, EPSILON, 1 - EPSILON), y, group).slope.value)
    assert cox(p, y, group).slope.detail == ""
    assert "moved" in log_score_estimate(sure, y, group, PriorShift(0.5, 0.5)).detail


def test_too_few_groups_give_no_interval():
    p, y, _ = calibrated("few")
    alone = cox(p, y, np.zeros(len(p)))
    assert alone.slope.value is not None
    assert alone.slope.low is None
    assert "1 clusters are too few" in alone.slope.detail
    own = np.where(y == 1, -1, np.arange(len(y)))  # every positive in one group
    lone = cox(p, y, own, shift=PriorShift(0.5, 0.5))
    assert lone.slope.low is None
    assert "too few" in lone.slope.detail
    assert brier_skill_estimate(p, y, own, PriorShift(0.5, 0.5)).low is None


def test_the_order_of_rows_and_the_names_of_groups_do_not_matter():
    p, y, group = calibrated("order")
    order = stream(1, "test", "permutation").permutation(len(p))
    names = np.array([f"cell:{g}" for g in group])
    one, other = cox(p, y, group), cox(p[order], y[order], names[order])
    for a, b in zip(one, other, strict=True):
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-9)
    assert cox(p, y, group, confidence=0.5).slope.low > one.slope.low


# the jackknife


@pytest.mark.parametrize("now", [None, 0.2])
def test_means_without_each_group_are_those_of_the_rows_that_stay(now):
    rng = stream(2, "test", "sums")
    y, group, column = rng.uniform(size=60) < 0.4, np.arange(60) % 12, rng.normal(size=60)

    def mean(rows):
        values, positive = column[rows], y[rows]
        if now is None:
            return values.mean()
        return now * values[positive].mean() + (1 - now) * values[~positive].mean()

    sums = ClassSums(checked_rows(np.zeros(60), y, group), column[:, None], now)
    assert sums.whole[0] == pytest.approx(mean(np.full(60, True)))
    assert sums.without()[:, 0] == pytest.approx([mean(group != g) for g in range(12)])


def test_degrees_of_freedom_are_those_of_the_groups_that_carry_the_estimate():
    rng = stream(3, "test", "freedom")
    rows = checked_rows(np.zeros(200), np.arange(200) % 2, np.arange(200) // 2)
    sums = ClassSums(rows, np.zeros((200, 1)), 0.5)
    even = rng.normal(size=(100, 1))
    assert 60 < _freedom(sums, even) <= 99.01
    assert _freedom(sums, np.sign(even)) == pytest.approx(99)
    few = even * np.where(np.arange(100) < 3, 100.0, 1.0)[:, None]
    assert _freedom(sums, few) < 8
    assert jackknife_half(sums, np.zeros((100, 1)), 0.95)[0] is None


def _freedom(sums, departures):
    return float(jackknife_half(sums, departures, 0.95)[1][0].split(", t")[1])


# proper scores


def test_proper_scores_agree_with_scikit_learn():
    p, y, _ = calibrated("proper")
    w = prevalence_weights(y, 0.1)
    assert brier(p, y) == pytest.approx(brier_score_loss(y, p))
    assert brier(p, y, w) == pytest.approx(brier_score_loss(y, p, sample_weight=w))
    assert log_score(p, y) == pytest.approx(log_loss(y, p))
    assert log_score(p, y, w) == pytest.approx(log_loss(y, p, sample_weight=w))
    assert log_score([0.0], [1]) == pytest.approx(-np.log(EPSILON))


def test_brier_skill_is_measured_from_the_base_rate():
    p, y, _ = calibrated("skill")
    assert brier_skill(np.full(len(y), y.mean()), y) == pytest.approx(0)
    assert brier_skill(y, y) == 1
    assert brier_skill(1 - p, y) < 0 < brier_skill(p, y)
    theirs = 1 - brier_score_loss(y, p) / brier_score_loss(y, np.full(len(y), y.mean()))
    assert brier_skill(p, y) == pytest.approx(theirs)
    for undefined in (([0.5, 0.5], [1, 1]), ([], [])):
        with pytest.raises(DataError):
            brier_skill(*undefined)


def test_scores_at_a_prevalence_are_the_weighted_scores_of_moved_probabilities():
    p, y, group = calibrated("moved")
    for now in (0.5, 1e-3):
        moved, w, shift = at_prevalence(p, 0.5, now), prevalence_weights(y, now), PriorShift(0.5, now)
        skill, loss = brier_skill_estimate(p, y, group, shift), log_score_estimate(p, y, group, shift)
        assert skill.value == pytest.approx(brier_skill(moved, y, w))
        assert loss.value == pytest.approx(log_score(moved, y, w))
        assert skill.low < skill.value < skill.high <= 1
        assert 0 <= loss.low < loss.value < loss.high
    assert brier_skill_estimate(p, np.ones(len(p)), group, PriorShift(0.5, 0.5)).value is None


# calibration error and reliability


def test_the_debiased_error_of_a_perfect_model_is_the_smaller_one_in_a_small_sample():
    plain, debiased = [], []
    for i in range(40):
        p, y, _ = calibrated(f"small {i}", n=300, hosts=300)
        plain.append(ece(p, y))
        debiased.append(ece_debiased(p, y))
    assert np.mean(np.less(debiased, plain)) > 0.9
    assert np.mean(debiased) < 0.6 * np.mean(plain)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 4)), min_size=4, max_size=40))
@settings(max_examples=150, deadline=None)
def test_a_replicate_of_the_errors_is_that_of_rows_repeated(rows):
    p, y, group = (np.array(column) for column in zip(*rows, strict=True))
    p, group = p / 6, np.unique(group, return_inverse=True)[1]
    if y.all() or not y.any():
        with pytest.raises(DataError, match="both classes"):
            EceReplicates(p, y, group, 5)
        return
    replicates = EceReplicates(p, y, group, 5)
    counts = stream(0, "test", str(rows)).integers(0, 4, replicates.n_groups).astype(np.int32)
    counts[0] += 1
    again = np.repeat(np.arange(len(p)), counts[group])
    if y[again].all() or not y[again].any():
        assert np.isnan(replicates.of(counts)).all()
        return
    plain, debiased = replicates.of(counts)
    assert plain == pytest.approx(ece(p[again], y[again], 5), abs=1e-12)
    if np.isnan(debiased):
        with pytest.raises(DataError, match="two rows"):
            ece_debiased(p[again], y[again], 5)
    else:  # the root of a rounding error is 1e-8
        assert debiased == pytest.approx(ece_debiased(p[again], y[again], 5), abs=1e-7)


def test_the_debiased_error_over_groups_is_the_mean_product_of_residuals_of_different_groups():
    """Pair by pair, in bins of unequal groups; a bin of one group alone tells nothing and is left out."""
    p, y, group = calibrated("pairs", n=300, hosts=25)
    p = p.round(1)
    bins = [np.isclose(p, b.p_mean) for b in reliability_bins(p, y, bins=200)]
    assert len(bins) == len(np.unique(p))
    group[bins[3]] = 7
    total, rows = 0.0, 0
    for inside in bins:
        residual, own = (y - p)[inside], group[inside]
        apart = own[:, None] != own
        if apart.any():
            total += inside.sum() * np.outer(residual, residual)[apart].mean()
            rows += inside.sum()
    assert rows < len(p)
    expected = np.sqrt(max(total / rows, 0.0))
    assert ece_debiased(p, y, 200, group) == pytest.approx(expected)
    plain, debiased = ece_estimates(p, y, group, 200)
    assert (plain.value, debiased.value) == pytest.approx((ece(p, y, 200), expected))
    assert (plain.low, debiased.low, plain.method) == (None, None, "none")
    assert "one group only" in plain.detail
    with pytest.raises(DataError, match="two groups"):
        ece_debiased(p, y, groups=np.zeros(len(p)))


def test_the_error_is_not_biased_by_rows_that_share_groups():
    """Every row five times: independent rows are then not, and only the error that is told so knows."""
    naive, told = [], []
    for i in range(150):
        p, y, _ = calibrated(f"five {i}", n=200, hosts=200)
        p, y, group = np.repeat(p, 5), np.repeat(y, 5), np.repeat(np.arange(200), 5)
        naive.append(ece_debiased(p, y) ** 2)
        told.append(_residual_square(p, y, group))
    assert abs(np.mean(told)) < 3 * np.std(told) / np.sqrt(150)
    assert np.mean(naive) > 5 * np.std(naive) / np.sqrt(150)


def _residual_square(p, y, group):
    """The square that `ece_debiased` is the root of, where it is negative too."""
    total = 0.0
    for b in _rows_of(reliability_bins(p, y), p):
        s = np.bincount(group[b], (y - p)[b])
        n = np.bincount(group[b])
        total += b.sum() * (s.sum() ** 2 - (s**2).sum()) / (n.sum() ** 2 - (n**2).sum())
    return total / len(p)


def test_intervals_of_the_error_are_the_same_whatever_the_order_and_the_names_of_groups():
    p, y, group = calibrated("order")
    order = stream(1, "test", "order").permutation(len(p))
    found = ece_estimates(p, y, group)
    for again in (
        ece_estimates(p[order], y[order], group[order]),
        ece_estimates(p, y, np.array([f"host {i}" for i in group])),
    ):
        for a, b in zip(found, again, strict=True):
            assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=2e-3)
    for estimate in found:
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    wide = ece_estimates(p, y, group, confidence=0.99)
    assert all(a.high < b.high for a, b in zip(found, wide, strict=True))
    assert found == ece_estimates(p, y, group)


def test_what_has_no_calibration_error_to_estimate_says_so():
    p, y, group = calibrated("one class")
    for none in ece_estimates(p, np.ones(len(p)), group):
        assert (none.value, none.low) == (None, None)
        assert "empty" in none.detail
    certain = ece_estimates(y, y, group)
    assert [e.value for e in certain] == [0.0, 0.0]
    assert all("do not differ" in e.detail and e.low is None for e in certain)
    with pytest.raises(DataError, match="between 0 and 1"):
        ece_estimates([2.0, 0.5], [1, 0], None)


def test_reliability_bins_are_those_of_the_ece():
    p, y, group = calibrated("bins")
    p = p.round(2)  # ties
    bins = reliability_bins(p, y, group)
    n = np.array([b.n for b in bins])
    assert n.sum() == 2000
    assert len(bins) == 15
    gaps = np.array([abs(b.observed - b.p_mean) for b in bins])
    assert (n * gaps).sum() / n.sum() == pytest.approx(ece(p, y))
    edges = [(p[rows].min(), p[rows].max()) for rows in _rows_of(bins, p)]
    assert all(high < low for (_, high), (low, _) in pairwise(edges))
    for b in bins:
        assert b.low <= b.observed <= b.high
        assert b.n_eff <= b.n
        assert b.n_clusters <= min(b.n, 200)
    assert reliability_bins([], []) == ()
    assert len(reliability_bins([0.5] * 10, [1] * 10)) == 1  # one class and one score are a bin too
    with pytest.raises(DataError, match="between 0 and 1"):
        reliability_bins([2.0], [1])


def _rows_of(bins, p):
    order, ends = np.argsort(p, kind="stable"), np.cumsum([b.n for b in bins])
    return np.split(order, ends[:-1])


def test_few_groups_widen_the_interval_of_a_share_and_lone_rows_do_not():
    rng = stream(4, "test", "few groups")
    group = np.repeat(np.arange(8), 10)
    hits = rng.uniform(size=80) < rng.beta(1, 1, 8)[group]
    plain, wide = (clustered_binomial(hits, group, few=few) for few in (False, True))
    assert wide.value == plain.value
    assert wide.high - wide.low > 1.1 * (plain.high - plain.low)
    alone = np.arange(80)
    assert clustered_binomial(hits, alone, few=True) == clustered_binomial(hits, alone)
    assert effective_rows(hits, group) < 80
    assert effective_rows(np.ones(80), group) == 8
    assert effective_rows([], []) == 0
