"""What the selection function promises, on a known finder: cells it has not seen, numbers it infers."""

import numpy as np
import pytest
from scipy.stats import binomtest, kstest
from tests.evaluation.mock_finder import injections

from darkhaloscope.contracts.random import stream
from darkhaloscope.evaluation.populations import infer_numbers
from darkhaloscope.evaluation.selection import held_out_coverage, visibility_design

EDGES = np.array([0.5, 1.0, 1.5, 2.0, 2.5])


@pytest.mark.slow
def test_a_thousand_cells_that_the_surface_has_not_seen_lie_where_it_says():
    """Randomised 95 % intervals of 1,040 held-out sky cells of 12 arcs: the count of covered ones at 1 %."""
    recovery = injections(stream(21, "test", "held out"), cells=1040)
    found = held_out_coverage(recovery, visibility_design(recovery), 1)
    assert found.covered.n == 1040
    assert binomtest(round(found.covered.value * 1040), 1040, 0.95).pvalue > 0.01
    assert found.p > 0.01
    assert kstest(found.tails, "uniform").pvalue > 0.01
    assert found.log_density > found.log_density_bins


def steep(rng, n):
    """A known population: theta_E falls towards large radii."""
    return 0.5 + rng.beta(1, 2.5, n) * 2.0


def expected(n):
    """How many of n such lenses lie in each bin."""
    cdf = 1 - (1 - (EDGES - 0.5) / 2.0) ** 2.5
    return n * np.diff(cdf)


@pytest.mark.slow
def test_a_known_population_comes_back_through_the_finder():
    """Closure: 250 surveys and as many calibrations; pulls of four bins. Undoing nothing is shown to fail."""
    pulls, here, naive = [], [], []
    for k in range(250):
        rng = stream(22, "test", f"closure {k}")
        recovery = injections(rng, cells=400)
        n = 6000  # errors of a few per cent: a larger one goes with a larger number, which skews its pull
        lenses = injections(rng, cells=500, per_cell=n // 500, theta=steep)
        some = rng.random(n) < rng.uniform(0.9, 1.0)  # surveys hold different numbers of lenses
        caught = lenses.facts["theta_e_arcsec"][lenses.found & some]
        found = infer_numbers(caught, recovery, np.ones(len(recovery)), name="theta_e_arcsec", edges=EDGES)
        true = expected(some.sum())
        pulls.append((found.value - true) / found.sigma)
        number, _ = np.histogram(lenses.facts["theta_e_arcsec"][some], EDGES)
        here.append((found.value - number) / found.sigma_here)
        naive.append((found.found - true) / np.sqrt(found.found))
    for kind in (np.array(pulls), np.array(here)):
        assert np.all(np.abs(kind.mean(axis=0)) < 0.2), kind.mean(axis=0)
        assert np.all(np.abs(kind.std(axis=0) - 1) < 0.15), kind.std(axis=0)
    assert np.all(np.abs(np.mean(naive, axis=0)) > 2)
