"""Matching on the sphere against astropy's, and tables that lie beside their reference."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.survey.matching import SkyTree, check_positions, groups_within


def scattered(n, seed, dec_max=90.0):
    rng = np.random.default_rng(seed)
    dec = np.degrees(np.arcsin(rng.uniform(-1, 1, n) * np.sin(np.radians(dec_max))))
    return rng.uniform(0, 360, n), dec


def jittered(ra, dec, arcsec, seed=0):
    rng = np.random.default_rng(seed)
    here = SkyCoord(ra * u.deg, dec * u.deg)
    there = here.directional_offset_by(
        rng.uniform(0, 360, len(ra)) * u.deg, arcsec * rng.random(len(ra)) * u.arcsec
    )
    return there.ra.deg, there.dec.deg


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), pole=st.booleans(), wrap=st.booleans())
def test_the_nearest_is_astropys_nearest(seed, pole, wrap):
    ra, dec = scattered(200, seed)
    if pole:
        dec = (
            np.where(np.arange(200) % 2, 90.0, -90.0) - np.sign(np.arange(200) % 2 - 0.5) * np.abs(dec) / 5000
        )
    if wrap:
        ra = (ra / 5000 - 0.03) % 360
    other = jittered(ra, dec, 300.0, seed)
    index, separation = SkyTree(ra, dec).nearest(*other)
    found, distance, _ = SkyCoord(*other, unit="deg").match_to_catalog_sky(SkyCoord(ra, dec, unit="deg"))
    assert np.allclose(separation, distance.arcsec, atol=1e-6)
    assert np.mean(index == found) > 0.99  # ties may fall either way


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.floats(0.5, 400.0))
def test_pairs_within_are_astropys(seed, radius):
    ra, dec = scattered(300, seed, dec_max=3.0)
    ra = (ra / 60 - 3) % 360
    i, j = SkyTree(ra, dec).pairs_within(ra, dec, radius)
    a = SkyCoord(ra, dec, unit="deg")
    k, m, _, _ = a.search_around_sky(a, radius * u.arcsec)
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == set(zip(m.tolist(), k.tolist(), strict=True))


def test_small_separations_keep_their_digits():
    _, separation = SkyTree([10.0], [60.0]).nearest([10.0], [60.0 + 1e-6 / 3600])
    assert separation[0] == pytest.approx(1e-6, rel=1e-3)


def test_an_empty_tree_is_far_from_everything():
    index, separation = SkyTree([], []).nearest([1.0], [2.0])
    assert (index[0], separation[0]) == (-1, np.inf)


def test_groups_are_friends_of_friends():
    dec = np.array([0.0, 4.0, 8.0, 100.0]) / 3600
    groups = groups_within(np.zeros(4), dec, 5.0)
    assert groups[0] == groups[1] == groups[2] != groups[3]
    assert len(set(groups_within(np.zeros(4), dec, 3.0))) == 4


@pytest.mark.parametrize("shift", [(180.0, 0.0), (0.0, -180.0), (2.5, 2.5), (100.0, 90.0)])
@pytest.mark.parametrize("share", [0.05, 0.6])
def test_a_shifted_table_is_refused_with_the_offset(shift, share):
    ra, dec = scattered(4000, 1, dec_max=70.0)
    rng = np.random.default_rng(2)
    kept = rng.random(4000) < share
    mine = jittered(ra[kept], dec[kept], 0.5)
    there = SkyCoord(*mine, unit="deg").spherical_offsets_by(shift[0] * u.arcsec, shift[1] * u.arcsec)
    with pytest.raises(DataError) as caught:
        check_positions(there.ra.deg, there.dec.deg, SkyTree(ra, dec), where="mine.csv")
    assert f'median {shift[0]:+.1f}" east and {shift[1]:+.1f}" north' in str(caught.value).replace(
        "-0.0", "+0.0"
    )
    agreed = check_positions(*mine, SkyTree(ra, dec), where="mine.csv")
    assert agreed.matched == kept.sum()


def test_a_table_without_counterparts_passes_and_says_so():
    agreed = check_positions(*scattered(500, 1), SkyTree(*scattered(4000, 2)), where="x")
    assert agreed.matched < 3


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ("hours of right ascension", lambda ra, dec: (ra / 15, dec)),
        ("radians", lambda ra, dec: (np.radians(ra), np.radians(dec))),
        ("declination first", lambda ra, dec: (dec, ra)),
    ],
)
def test_positions_in_other_units_are_told(words, read):
    ra, dec = scattered(500, 3, dec_max=60.0)
    ra = ra / 4.0  # so that both axes could be either
    with pytest.raises(DataError, match=f"only when read as {words}"):
        check_positions(*read(ra, dec), SkyTree(ra, dec), where="x")


def test_a_position_off_the_sphere_is_named():
    with pytest.raises(DataError, match="position 1: is not on the sphere"):
        SkyTree([1.0, 2.0], [1.0, 91.0])
