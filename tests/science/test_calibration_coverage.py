"""Whether the intervals of calibration hold the truth as often as they say, on hosts used many times.

The model is right by construction: hosts share most of the score and much of the luck, through a Gaussian
copula, so that P(arc | p) = p for each row while the rows of a host agree far too often. Intercept 0, slope 1
and observed = stated are then the truth, and intervals that take rows for independent must be seen to fail.
"""

from typing import NamedTuple

import numpy as np
import pytest
from scipy import special

from darkhaloscope.contracts.random import stream
from darkhaloscope.stats import (
    EceReplicates,
    PriorShift,
    brier_skill_estimate,
    cox,
    ece_estimates,
    log_score_estimate,
    reliability_bins,
)

pytestmark = pytest.mark.slow

EXPERIMENTS = 1500
"""Coverage of .95 is then known to .006."""

RARE = 0.01


class Design(NamedTuple):
    """Hosts, rows of each, their share of the variance of score and of luck, standard deviation of logits."""

    hosts: int = 60
    each: int = 20
    score: float = 0.9
    luck: float = 0.5
    width: float = 1.5


MANY = Design(2000, 10, 0.5, 0.3, 2.0)  # 10,000 negatives: 100 / .01
FEW = Design(1000, 3, 0.5, 0.3, 2.0)
SURVEY = Design(400, 8, 0.5, 0.3, 2.0)


def experiment(rng, design):
    """Probabilities, outcomes and hosts of one experiment. By symmetry they are stated at one half."""
    host = np.repeat(np.arange(design.hosts), design.each)

    def mixed(share):
        own = rng.normal(size=len(host))
        return np.sqrt(share) * rng.normal(size=design.hosts)[host] + np.sqrt(1 - share) * own

    p = special.expit(design.width * mixed(design.score))
    return p, mixed(design.luck) < special.ndtri(p), host


def true_scores(design, now):
    """Brier skill and log score at prevalence `now`, by Gauss-Hermite: a row is positive with its own p."""
    node, weight = np.polynomial.hermite_e.hermegauss(200)
    x = design.width * node
    p = special.expit(x)
    there = x + special.logit(now)
    q = special.expit(there)

    def mean(of_positives, of_negatives):
        pos, neg = weight * p, weight * (1 - p)
        return now * np.average(of_positives, weights=pos) + (1 - now) * np.average(of_negatives, weights=neg)

    skill = 1 - mean((1 - q) ** 2, q**2) / (now * (1 - now))
    return skill, mean(np.logaddexp(0, -there), np.logaddexp(0, there))


def holds(found, truth):
    return found.low is not None and found.low <= truth <= found.high


def skill_coverage(design, now, experiments):
    rng = stream(42, "test", f"skill {design} {now}")
    truth, shift = true_scores(design, now)[0], PriorShift(0.5, now)
    found = (brier_skill_estimate(*experiment(rng, design), shift) for _ in range(experiments))
    return np.mean([holds(estimate, truth) for estimate in found])


@pytest.fixture(scope="module")
def covered():
    """Share of experiments whose interval holds the truth, by what was estimated."""
    rng, design = stream(41, "test", "calibration coverage"), Design()
    half, rare = PriorShift(0.5, 0.5), PriorShift(0.5, RARE)
    truth, hits = {now: true_scores(design, now) for now in (0.5, RARE)}, {}

    def count(name, *found):
        hits.setdefault(name, []).extend(found)

    for _ in range(EXPERIMENTS):
        p, y, host = experiment(rng, design)
        for name, groups, shift in (
            ("drawn", host, None),
            ("moved", host, PriorShift(0.5, float(y.mean()))),
            ("rare", host, rare),
            ("naive", None, None),
        ):
            intercept, slope = cox(p, y, groups, shift=shift)
            count(f"intercept, {name}", holds(intercept, 0.0))
            count(f"slope, {name}", holds(slope, 1.0))
        count("Brier skill", holds(brier_skill_estimate(p, y, host, half), truth[0.5][0]))
        for name, shift in (("log score", half), ("log score, rare", rare)):
            count(name, holds(log_score_estimate(p, y, host, shift), truth[shift.now][1]))
        for name, groups in (("reliability", host), ("reliability, naive", None)):
            count(name, *(b.low <= b.p_mean <= b.high for b in reliability_bins(p, y, groups, 10)))
    found = {name: float(np.mean(hit)) for name, hit in hits.items()}
    print({name: round(share, 3) for name, share in found.items()})
    return found


@pytest.mark.parametrize(
    "name",
    [
        *(f"{what}, {how}" for what in ("intercept", "slope") for how in ("drawn", "moved", "rare")),
        *("Brier skill", "log score", "log score, rare", "reliability"),
    ],
)
def test_an_interval_of_95_percent_holds_the_truth_as_often(covered, name):
    assert 0.93 <= covered[name] <= 0.97


@pytest.mark.parametrize("name", ["intercept, naive", "slope, naive", "reliability, naive"])
def test_intervals_that_take_rows_for_independent_fail(covered, name):
    assert covered[name] < 0.90


def test_brier_skill_where_arcs_are_rare_needs_100_negatives_for_each_arc_it_expects_among_them():
    """What false positives cost there rests on rows as rare as the arcs: with fewer it looks too good."""
    found, control = skill_coverage(MANY, RARE, 1000), skill_coverage(FEW, 0.001, 500)
    print(f"{found:.3f} with 100 / prevalence negatives, {control:.3f} with 1.5 / prevalence")
    assert 0.93 <= found <= 0.97
    assert control < 0.90


# calibration error

MODELS = {
    "right": lambda x: x,
    "a little high": lambda x: x + 0.15,
    "sure": lambda x: 1.3 * x,
    "too sure": lambda x: 2 * x,
    "high": lambda x: x + 0.5,
    "high at the top": lambda x: np.where(x > 1.65, x + 1.5, x),
}
"""Logits that are stated, of the right ones. The last is wrong in three bins of 15."""


def true_errors(model, design, bins=15):
    """Of all rows there are: mean absolute and root mean square residual of bins of equal mass."""
    x = design.width * special.ndtri((np.arange(20000 * bins) + 0.5) / (20000 * bins))
    residual = (special.expit(x) - special.expit(MODELS[model](x))).reshape(bins, -1).mean(axis=1)
    return np.abs(residual).mean(), np.sqrt((residual**2).mean())


def drawn_again(p, y, host, boots, rng):
    """Percentiles of both errors of hosts drawn again: a bootstrap."""
    errors = EceReplicates(p, y, host)
    m = errors.n_groups
    found = [errors.of(np.bincount(rng.integers(m, size=m), minlength=m)) for _ in range(boots)]
    return np.nanpercentile(found, [2.5, 97.5], axis=0).T


def ece_coverage(model, design, experiments, interval):
    """Shares of experiments whose intervals of the plain and of the debiased error hold the true ones."""
    rng, truths, held = stream(43, "test", f"ece {model} {design}"), true_errors(model, design), []
    for _ in range(experiments):
        p, y, host = experiment(rng, design)
        stated = special.expit(MODELS[model](special.logit(p)))
        ends = interval(stated, y, host, rng)
        held.append([low <= truth <= high for (low, high), truth in zip(ends, truths, strict=True)])
    found = np.mean(held, axis=0)
    print(f"{model}, {design}: plain {found[0]:.3f}, debiased {found[1]:.3f}")
    return found


def of_hosts(p, y, host, rng):
    del rng
    return [(e.low, e.high) for e in ece_estimates(p, y, host)]


def of_rows(p, y, host, rng):
    del host, rng
    return [(e.low, e.high) for e in ece_estimates(p, y, None)]


def of_bootstrap(p, y, host, rng):
    return drawn_again(p, y, host, 200, rng)


@pytest.mark.parametrize("model", ["right", "a little high", "sure", "too sure", "high"])
def test_intervals_of_the_calibration_error_hold_it_as_often(model):
    found = ece_coverage(model, SURVEY, 1000, of_hosts)
    assert np.all((found >= 0.93) & (found <= 0.97))


@pytest.mark.parametrize("model", ["right", "sure", "high"])
def test_intervals_of_the_calibration_error_hold_it_where_few_hosts_share_each_bin(model):
    """60 hosts of 20 rows, four to a bin: on the wide side where the error is less than its noise."""
    found = ece_coverage(model, Design(), 1000, of_hosts)
    assert np.all((found >= 0.93) & (found <= 0.99))


def test_an_error_in_few_bins_is_held_less_often_by_the_plain_interval():
    """How much noise adds to a sum of absolute values depends on how many bins are right.

    The upper end allows for a broad error that noise hides: on the wide side for a narrow one.
    """
    plain, debiased = ece_coverage("high at the top", SURVEY, 1000, of_hosts)
    assert 0.90 <= plain <= 0.97
    assert debiased >= 0.95


@pytest.mark.parametrize(
    ("interval", "model", "design"),
    [(of_rows, "sure", Design()), (of_bootstrap, "sure", Design()), (of_bootstrap, "right", SURVEY)],
)
def test_other_intervals_of_the_calibration_error_fail(interval, model, design):
    """Rows are not independent; and a bootstrap is biased up, most where there is little to find."""
    assert np.all(ece_coverage(model, design, 150, interval) < 0.85)
