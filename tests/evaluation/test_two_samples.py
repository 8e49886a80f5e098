"""Two samples that share groups: the probe's null and coverage, the kernel distance, plain numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as distributions

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.evaluation import separation
from darkhaloscope.evaluation.propensity import match
from darkhaloscope.evaluation.separation import (
    LEAST_ROWS,
    Separation,
    lacks_rows,
    logit_difference,
    paired_differences,
    paired_groups,
    separate,
)
from darkhaloscope.evaluation.two_samples import contrast, kernel_distance
from darkhaloscope.stats import Draws, auroc, auroc_estimate


def names(prefix, n, per=1):
    return np.repeat([f"{prefix}{i}" for i in range(n)], per)


def normal(n, d, seed, shift=0.0):
    x = np.random.default_rng(seed).normal(size=(n, d))
    x[:, 0] += shift
    return x


def probe(a, b, groups=None, **given_):
    groups = groups or (names("a", len(a)), names("b", len(b)))
    return separate(a, b, groups, **{"seed": 1, "purpose": "test", "repeats": 1, **given_})


# --- the probe -------------------------------------------------------------------------------------------


def test_a_known_shift_gives_its_auroc():
    """Two normals 1.5 apart in one of five dimensions: the best score has AUROC Phi(1.5/sqrt 2) = .856."""
    found = probe(normal(400, 5, 1, 1.5), normal(300, 5, 2), repeats=3)
    assert found.auc == pytest.approx(distributions.norm.cdf(1.5 / np.sqrt(2)), abs=0.03)
    assert found.n == 300
    assert found.verdict() == "different"


def test_the_seed_and_the_purpose_are_all_that_decides_the_folds():
    a, b = normal(60, 3, 1), normal(60, 3, 2)
    found, again = probe(a, b), probe(a, b)
    assert (found.auc, found.influence) == (again.auc, again.influence)
    assert probe(a, b, purpose="another").auc != found.auc


def test_folds_that_cut_hosts_find_hosts_and_not_classes():
    """Six stamps of each of 30 + 30 hosts, in 40 dimensions, without a difference between the classes."""
    rng = np.random.default_rng(4)
    rows = [
        np.repeat(rng.normal(size=(30, 40)), 6, axis=0) + 0.3 * rng.normal(size=(180, 40)) for _ in range(2)
    ]
    hosts = (names("a", 30, 6), names("b", 30, 6))
    grouped = probe(*rows, hosts, repeats=2)
    assert grouped.interval()[0] < 0.5 < grouped.interval()[1]
    cut = probe(*rows, (names("a", 180), names("b", 180)), repeats=2)
    assert cut.interval()[0] > 0.75  # the negative control: the same rows, each its own group


def test_a_matched_pair_on_both_sides_of_a_fold_drags_the_score_below_one_half():
    rng = np.random.default_rng(5)
    a = rng.normal(size=(80, 30))
    b = a + 0.2 * rng.normal(size=a.shape)
    own = (names("a", 80), names("b", 80))
    assert probe(a, b, own, repeats=2).auc < 0.4
    joined = paired_groups(*own)
    assert len({*joined[0]}) == 80
    found = probe(a, b, joined, repeats=2)
    assert found.interval()[0] < 0.5 < found.interval()[1]
    chained = paired_groups(np.array(["x", "x", "y"]), np.array(["p", "q", "q"]))
    assert len({*chained[0], *chained[1]}) == 1


def test_within_hosts_a_change_is_seen_that_the_spread_of_hosts_hides():
    rng = np.random.default_rng(6)
    host = 5 * rng.normal(size=(100, 4))
    a, b = host + 0.3 * rng.normal(size=host.shape), host + 0.3 * rng.normal(size=host.shape)
    a[:, 1] += 0.4
    hosts = names("h", 100)
    marginal = probe(a, b, (hosts, hosts), repeats=2)
    assert marginal.verdict() == "shown equivalent"  # as far as a marginal score can tell
    d, first = paired_differences(a, b, (hosts, hosts))
    within = probe(d, -d, (hosts[first], hosts[first]), repeats=2)
    assert within.verdict() == "different"
    assert within.auc > 0.8
    with pytest.raises(DataError, match="2 hosts are in one sample only"):
        paired_differences(a, b, (hosts, np.append(hosts[:-1], "other")))


@pytest.mark.slow
def test_the_interval_covers_one_half_without_a_difference_and_fixed_fits_would_not():
    found = [probe(normal(60, 20, 2 * s), normal(60, 20, 2 * s + 1), seed=s) for s in range(1000, 1080)]
    covered = sum(f.interval()[0] <= 0.5 <= f.interval()[1] for f in found)
    assert covered >= distributions.binom.ppf(0.005, len(found), 0.95)
    aucs, error = np.array([f.auc for f in found]), np.mean([f.error for f in found])
    assert abs(aucs.mean() - 0.5) < 4 * aucs.std() / np.sqrt(len(found))
    # The error for fits that are fixed is too small: this is what INFLATION is for.
    assert aucs.std() > 1.1 * error / np.sqrt(separation.INFLATION)


def test_the_influence_of_rows_is_that_of_the_cluster_bootstrap():
    """For one fold and fixed scores the error is the usual one of an AUROC, groups and all."""
    rng = np.random.default_rng(7)
    shift = rng.normal(size=80)
    pos, neg = (np.repeat(shift[i::2], 4) + rng.normal(size=160) for i in (0, 1))
    pos += 1
    won, lost = separation._placements(pos, neg)
    assert won.mean() == lost.mean() == pytest.approx(auroc(pos, neg))
    share = np.r_[(won - won.mean()) / len(pos), (lost - lost.mean()) / len(neg)]
    error = np.sqrt((np.bincount(np.repeat(np.arange(80), 4), weights=share) ** 2).sum())
    groups = np.r_[names("a", 40, 4), names("b", 40, 4)]
    labels = np.repeat([1, 0], 160)
    drawn = auroc_estimate(np.r_[pos, neg], labels, groups, seed=1, confidence=0.6826895)
    assert error == pytest.approx((drawn.high - drawn.low) / 2, rel=0.12)
    assert np.sqrt((share**2).sum()) < 0.7 * error  # rows taken for independent


def test_equivalence_takes_rows():
    few = probe(normal(40, 3, 1), normal(40, 3, 2))
    many = probe(normal(900, 3, 3), normal(900, 3, 4))
    assert few.verdict() != "shown equivalent"
    assert many.verdict() == "shown equivalent"
    # A small but real difference within the margin is equivalent, and is not below one half.
    slight = probe(normal(3000, 1, 5, 0.14), normal(3000, 1, 6))
    assert slight.verdict() == "shown equivalent"
    assert slight.interval(0.9)[0] > 0.5


@given(st.floats(0.0, 1.0), st.floats(1e-4, 0.3), st.integers(5, 500))
@settings(max_examples=200, deadline=None)
def test_a_verdict_is_one_of_three_and_equivalence_is_shown_by_both_bounds(auc, error, df):
    found = Separation(auc, {"g": error / np.sqrt(separation.INFLATION)}, df + 1, 2 * df + 2, df)
    low, high = found.interval(0.90)
    assert 0 <= low <= auc <= high <= 1
    verdict = found.verdict()
    assert (verdict == "shown equivalent") == (low > 0.4 and high < 0.6)
    assert (verdict == "different") == (low > 0.5 and high >= 0.6)
    assert verdict in {"shown equivalent", "different", "not shown equivalent"}


def test_a_perfect_probe_has_room_for_what_was_not_seen():
    found = probe(normal(50, 2, 1, 50.0), normal(50, 2, 2))
    assert found.auc == 1.0
    assert 0.9 < found.interval()[0] < 0.97
    assert logit_difference(found, found).value is None


def test_a_difference_of_logits_counts_shared_groups_once():
    a, b, c = normal(80, 3, 1, 1.0), normal(80, 3, 2), normal(80, 3, 3)
    one, other = probe(a, b), probe(a, c, (names("a", 80), names("c", 80)))
    same = logit_difference(one, one)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    found = logit_difference(one, other)
    assert found.n_clusters == 240
    apart = np.hypot(*(s.error / (s.auc * (1 - s.auc)) for s in (one, other)))
    assert (found.high - found.low) / 2 < distributions.t.ppf(0.975, 79) * apart  # both know the rows of a


def test_what_cannot_be_probed_is_said():
    a, b = normal(40, 3, 1), normal(40, 3, 2)
    with pytest.raises(DataError, match="cannot fill 5 folds"):
        probe(a, b, (names("a", 4, 10), names("b", 40)))
    with pytest.raises(DataError, match="not finite"):
        probe(np.where(a > 2, np.nan, a) * np.nan, b)
    assert "20 rows or groups" in lacks_rows((names("a", 20, 5), names("b", 100)))
    assert f"needs {LEAST_ROWS}" in lacks_rows((names("a", 100), np.array([], dtype=str)))
    assert not lacks_rows((names("a", 30), names("b", 30)))


# --- kernel distance -------------------------------------------------------------------------------------


def naive_kid(a, b, groups):
    """Loops over pairs of different groups; the kernel as it is written in the paper."""
    both = np.concatenate([a, b])
    both = (both - both.mean(axis=0)) / both.std(axis=0)
    owner, n, d = np.concatenate(groups), len(a), a.shape[1]
    found = {"aa": [], "bb": [], "ab": []}
    for i in range(len(both)):
        for j in range(len(both)):
            if owner[i] != owner[j]:
                kernel = (sum(both[i, k] * both[j, k] for k in range(d)) / d + 1) ** 3
                key = "ab" if (i < n) != (j < n) else "aa" if i < n else "bb"
                found[key].append(kernel)
    return np.mean(found["aa"]) + np.mean(found["bb"]) - 2 * np.mean(found["ab"])


@pytest.mark.parametrize("per", [1, 3])
def test_the_kernel_distance_is_that_of_the_double_loop(per):
    a, b = normal(30, 4, 1, 0.5), normal(36, 4, 2)
    groups = (names("a", 30 // per, per), names("a", 36 // per, per))  # the first hosts are in both
    found = kernel_distance(a, b, groups, representation="x", seed=1)
    assert found.value == pytest.approx(naive_kid(a, b, groups), rel=1e-10)
    assert found.n_clusters == 36 // per


def biased_kid(a, b):
    both = np.concatenate([a, b])
    both = (both - both.mean(axis=0)) / both.std(axis=0)
    kernel, n = (both @ both.T / both.shape[1] + 1) ** 3, len(a)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def test_the_kernel_distance_is_zero_on_the_average_without_a_difference():
    """112 against 500 rows, as in the paper whose FID was compared; the biased estimate is 30 errors off."""
    groups = (names("a", 56), names("b", 100))
    values, biased, inside = [], [], 0
    for s in range(150):
        a, b = normal(56, 24, 2 * s), normal(100, 24, 2 * s + 1)
        found = kernel_distance(a, b, groups, representation="x", seed=s)
        values.append(found.value)
        biased.append(biased_kid(a, b))
        inside += found.low <= 0 <= found.high
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    assert np.mean(biased) > 20 * error
    assert inside >= distributions.binom.ppf(0.005, 150, 0.95)  # the error is not too small


def test_the_kernel_distance_sees_a_difference_and_refuses_other_maps():
    groups = (names("a", 200), names("b", 200))
    far = kernel_distance(normal(200, 8, 1, 1.0), normal(200, 8, 2), groups, representation="x", seed=1)
    near = kernel_distance(normal(200, 8, 3), normal(200, 8, 4), groups, representation="x", seed=1)
    assert far.low > 0 > near.low
    assert far.less(near) == pytest.approx(far.value - near.value)
    wide = kernel_distance(normal(200, 9, 3), normal(200, 9, 4), groups, representation="x", seed=1)
    other = kernel_distance(normal(200, 8, 3), normal(200, 8, 4), groups, representation="y", seed=1)
    for kid in (wide, other):
        with pytest.raises(DataError, match="different units"):
            far.less(kid)


# --- plain numbers ---------------------------------------------------------------------------------------


def test_paired_data_are_analysed_as_pairs():
    """1,000 hosts that scatter by 10 times the change: pairs see it, the same numbers unpaired do not."""
    rng = np.random.default_rng(8)
    host = rng.normal(size=1000)
    a, b = host + 0.3 * rng.normal(size=1000) - 0.06, host + 0.3 * rng.normal(size=1000)
    own = names("h", 1000)
    found = contrast(a, b, (own, own), seed=1, purpose="t", permutations=499)
    assert found.paired
    assert found.p <= 0.01
    assert found.difference.high < 0
    assert found.difference.n_clusters == 1000
    apart = contrast(
        a, b, (own, names("g", 1000)), seed=1, purpose="t", draws=Draws(1, 200), permutations=199
    )
    assert not apart.paired
    assert apart.p > 0.05
    with pytest.raises(DataError, match="500 of 1500 groups are in both"):
        contrast(a, b, (own, np.r_[own[:500], names("g", 500)]), seed=1, purpose="t")


def test_a_pair_lacks_what_one_of_its_rows_lacks():
    a, b = normal(50, 1, 1)[:, 0], normal(50, 1, 2)[:, 0]
    a[:10], b[5:15] = np.nan, np.nan
    own = names("h", 50)
    found = contrast(a, b, (own, own), seed=1, purpose="t")
    assert found.difference.n_clusters == 35
    assert found.difference.value == pytest.approx((a - b)[15:].mean())
    none = contrast(np.full(50, np.nan), b, (own, own), seed=1, purpose="t")
    assert none.difference.value is None
    empty = contrast(np.full(50, np.nan), b, (own, names("g", 50)), seed=1, purpose="t")
    assert empty.difference.value is None


def test_whole_groups_are_permuted():
    """20 + 20 hosts of 8 alike rows: equal classes are found no more often than by chance."""
    by_host, by_row = [], []
    for s in range(60):
        rng = np.random.default_rng(s)
        a, b = (np.repeat(rng.normal(size=20), 8) + 0.2 * rng.normal(size=160) for _ in range(2))
        drawn = {"seed": s, "purpose": "t", "draws": Draws(1, 10), "permutations": 49}
        by_host.append(contrast(a, b, (names("a", 20, 8), names("b", 20, 8)), **drawn).p)
        by_row.append(contrast(a, b, (names("a", 160), names("b", 160)), **drawn).p)
    assert (np.array(by_host) <= 0.1).mean() < 0.25
    assert (np.array(by_row) <= 0.1).mean() > 0.5
    shifted = contrast(a + 3, b, (names("a", 20, 8), names("b", 20, 8)), **drawn)
    assert shifted.p == pytest.approx(1 / 50)
    assert shifted.difference.low > 1
    assert shifted.energy == pytest.approx(distributions.energy_distance(a + 3, b))


# --- matching --------------------------------------------------------------------------------------------


def facts(n, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    mag = rng.normal(20 + shift, 1.0, n)
    return {
        "mag": mag,
        "size": 0.8 - 0.1 * (mag - 20) + 0.1 * rng.normal(size=n),
        "psf": rng.normal(1.2, 0.1, n),
    }


def test_matching_removes_a_difference_that_can_be_removed():
    a, b = facts(80, 1, -0.7), facts(800, 2)
    found = match(a, b)
    assert found.before["mag"] < -0.5
    assert found.balanced, str(found)
    assert len(set(found.b)) == len(found.b) == len(found.a) > 60
    assert found.lost == 80 - len(found.a)
    pooled = np.sqrt((a["mag"].var(ddof=1) + b["mag"].var(ddof=1)) / 2)
    gap = a["mag"][found.a].mean() - b["mag"][found.b].mean()
    assert found.after["mag"] == pytest.approx(gap / pooled)


def test_what_matching_cannot_do_it_says():
    apart = match(facts(60, 1, -6.0), facts(60, 2))
    assert not apart.balanced
    few = match(facts(100, 1, -1.5), facts(100, 2))  # too few faint rows to choose from
    assert few.lost > 20
    unknown = facts(50, 1) | {"z": np.full(50, np.nan), "band": np.ones(50)}
    found = match(unknown, facts(90, 2) | {"z": np.ones(90), "band": np.ones(90)})
    assert found.unused == ("z", "band")
    assert "not matched in z, band" in str(found)
    gaps = facts(50, 1)
    gaps["mag"][:5] = np.nan
    assert not set(match(gaps, facts(90, 2)).a) & set(range(5))
    with pytest.raises(DataError, match="none of z"):
        match({"z": np.full(5, np.nan)}, {"z": np.ones(5)})
    with pytest.raises(DataError, match="compares"):
        match({"z": np.ones(5)}, {"y": np.ones(5)})
