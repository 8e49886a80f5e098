"""What right output looks like: the default recipe on synthetic hosts, against the published percentiles.

The figures stand in docs/physics.md. n = 700: a median is known to 5 %, an outer percentile to 12 %,
magnitudes to .15.
"""

import numpy as np
import pytest

from darkhaloscope.injection.inject import Inject
from darkhaloscope.injection.recipe import Recipe, Sources
from darkhaloscope.stamps.harvest import HarvestSky
from darkhaloscope.stamps.stamp import decode_planes
from darkhaloscope.survey.distributions import Counts
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.release import to_magnitude
from darkhaloscope.survey.sky import plan_bricks

PIXEL = 0.262
AT = [5, 16, 50, 84, 95]


@pytest.fixture(scope="module")
def hosts():
    plan = plan_bricks(7, 100, 10, priors=SkyPriors(), anchors=0)
    return HarvestSky(seed=7).run(plan)


@pytest.fixture(scope="module")
def pairs(hosts):
    return Inject(seed=1).run(hosts)


def column(table, name):
    return np.array(table.column(name).to_pylist(), dtype=float)


def arcs(table):
    blobs = table.column("arc_npz").to_pylist()
    return np.array([decode_planes(blob, "arc", where="test")[1] for blob in blobs], dtype=float)


def surface(light):
    """(peak, area of 80 % of the flux, mean brightness in it) in r [mag/arcsec^2, arcsec^2]."""
    ranked = np.sort(light.reshape(len(light), -1))[:, ::-1]
    sums = np.cumsum(ranked, axis=1)
    n = 1 + np.argmax(sums >= 0.8 * sums[:, -1:], axis=1)
    area = n * PIXEL**2
    mean = np.take_along_axis(sums, (n - 1)[:, None], axis=1)[:, 0] / area
    return to_magnitude(ranked[:, 0] / PIXEL**2), area, to_magnitude(mean)


def test_signal_to_noise_is_that_of_the_priors(pairs):
    snr = column(pairs, "arc_snr_mf")
    np.testing.assert_allclose(np.percentile(snr, AT), [3.6, 5.2, 12.1, 44, 129], rtol=0.20)
    np.testing.assert_allclose([(snr > s).mean() for s in (5, 10, 20)], [0.86, 0.57, 0.32], atol=0.06)
    np.testing.assert_allclose(
        np.percentile(column(pairs, "arc_snr"), AT), [0.48, 0.72, 1.5, 5.2, 13.7], rtol=0.2
    )
    assert (column(pairs, "arc_snr") < 3).mean() == pytest.approx(0.72, abs=0.06)


def test_surface_brightness_is_that_of_real_arcs(pairs):
    seen = column(pairs, "arc_snr_mf") > 5
    peak, area, mean = surface(arcs(pairs)[seen])
    np.testing.assert_allclose(np.percentile(peak, AT), [22.7, 23.8, 25.0, 25.8, 26.1], atol=0.25)
    np.testing.assert_allclose(np.percentile(area, AT), [6.2, 7.4, 10.5, 15.9, 21], rtol=0.15)
    np.testing.assert_allclose(np.percentile(mean, AT), [23.8, 24.9, 26.2, 27.0, 27.4], atol=0.30)
    # Brighter than any arc on record: a few in a hundred of the brightest sources, never the rule.
    assert (peak < 22.0).mean() < 0.04
    # The brightest part of DES J0330 (r 23.7) lies at the bright end of what is drawn.
    assert np.percentile(peak, 5) < 23.7 < np.percentile(peak, 40)


def test_magnitudes_and_magnification_are_those_of_the_priors(pairs):
    seen = column(pairs, "arc_snr_mf") > 5
    lensed = np.percentile(column(pairs, "lensed_mag_r")[seen], AT)
    np.testing.assert_allclose(lensed, [20.7, 22.0, 23.4, 24.3, 24.7], atol=0.25)
    np.testing.assert_allclose(
        np.percentile(column(pairs, "magnification"), AT), [1.9, 2.1, 3.0, 5.2, 9.1], rtol=0.12
    )


def test_bands_share_the_signal_as_they_should(pairs):
    squares = np.array([column(pairs, f"arc_snr_mf_{band}") ** 2 for band in "grz"])
    np.testing.assert_allclose((squares / squares.sum(axis=0)).mean(axis=1), [0.46, 0.38, 0.13], atol=0.05)


def test_fainter_counts_fail_all_this(hosts):
    faint = Recipe(sources=Sources(r_mag=Counts(slope=0.3, bright=21.0, faint=26.5)))
    wrong = Inject(seed=1, recipe=faint).run(hosts.slice(0, 400))
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(
            np.percentile(column(wrong, "arc_snr_mf"), AT), [3.6, 5.2, 12.1, 44, 129], rtol=0.20
        )
