"""The test of recall against S/N has its level on right models and finds a loss of the brightest."""

import numpy as np
import pytest

from darkhaloscope.contracts.checks import Status
from darkhaloscope.gates.detection import OperatingPoint
from darkhaloscope.gates.monotonicity import isotonic_test, monotonicity_finding

N = 1600
POINT = OperatingPoint(threshold=0.5, fpr=0.01, n=2000, enough=True, text="threshold 0.5")


def p_of(recall, *, seed=0, draws_per_host=1, n=N, replicates=200):
    """p for a model whose recall is a function of the rank of S/N in [0, 1)."""
    rng = np.random.default_rng(seed)
    snr = rng.lognormal(2.5, 0.8, n)
    rank = np.argsort(np.argsort(snr)) / n
    hosts = np.array([f"h{i // draws_per_host}" for i in range(n)])
    hits = np.repeat(rng.random(n // draws_per_host), draws_per_host) < recall(rank)
    return isotonic_test(
        hits, snr, hosts, bins=8, replicates=replicates, rng=np.random.default_rng(seed + 1)
    ).p


def flat(rank):
    """The least favourable of all recalls that do not fall."""
    return np.full_like(rank, 0.6)


@pytest.mark.parametrize("draws_per_host", [1, 4])
def test_a_right_model_fails_no_more_often_than_it_should(draws_per_host):
    p = np.array([p_of(flat, seed=s, draws_per_host=draws_per_host, replicates=100) for s in range(60)])
    assert (p < 0.05).sum() <= 9  # 3 expected; 9 happen once in 400
    assert 0.35 < p.mean() < 0.75  # half, and more where rows depend on each other less than the null allows


def test_a_rising_recall_is_far_from_failing():
    assert p_of(lambda rank: 0.1 + 0.8 * rank) > 0.2


def test_a_loss_of_the_brightest_is_found():
    assert p_of(lambda rank: np.where(rank > 0.875, 0.3, 0.2 + 0.6 * rank)) < 0.01
    assert p_of(lambda rank: 0.8 - 0.5 * rank) < 0.01


def test_a_loss_of_a_fifth_of_the_brightest_is_found_in_a_run_s_number_of_arcs():
    """Recall .04 to .67 by eighths, as a network's; the last eighth .54 instead of .78."""
    steps = np.array([0.04, 0.13, 0.29, 0.42, 0.45, 0.57, 0.67, 0.54])
    p = [p_of(lambda rank: steps[(rank * 8).astype(int)], seed=s, n=4000) for s in range(8)]
    assert (np.array(p) < 0.01).sum() >= 6


def test_the_gate_reads_the_scores_at_the_threshold(arcs, protocol):
    fewer = protocol.monotonicity.model_copy(update={"replicates": 300})
    eased = protocol.model_copy(update={"monotonicity": fewer})
    order = np.argsort(np.argsort(arcs.arc_snr_mf)) / len(arcs)
    rising = monotonicity_finding(arcs, 0.2 + 0.7 * order, POINT, protocol=eased, seed=1)
    assert rising.passed
    assert rising.value == 1.0
    assert "recall by S/N, faintest first: 0.000" in rising.detail
    falling = monotonicity_finding(arcs, 0.9 - 0.7 * order, POINT, protocol=eased, seed=1)
    assert falling.status is Status.FAIL
    few = OperatingPoint(threshold=0.5, fpr=0.01, n=200, enough=False, text="too few")
    assert monotonicity_finding(arcs, order, few, protocol=eased, seed=1).status is Status.NOT_EVALUATED
    assert monotonicity_finding(arcs, order, None, protocol=eased, seed=1).status is Status.NOT_EVALUATED
