"""Survey facts: units, gain arithmetic, names, sky cells."""

import numpy as np
import pytest

from darkhaloscope.survey import release


def test_magnitudes_and_fluxes_are_inverse():
    assert release.to_nmgy(22.5) == pytest.approx(1.0)
    assert release.to_magnitude(release.to_nmgy([16.0, 24.1])) == pytest.approx([16.0, 24.1])
    assert np.isnan(release.to_magnitude([0.0, -1.0])).all()


def test_nominal_sky_and_gain_are_the_published_ones():
    assert [release.sky_nmgy(band) for band in "grz"] == pytest.approx([0.105, 0.297, 2.83], rel=0.01)
    assert [release.nominal_gain(band) for band in "grz"] == pytest.approx([1.15e4, 1.07e4, 1.18e4], rel=0.01)


@pytest.mark.parametrize(
    ("band", "sigma_pix", "gain"), [("g", 0.0023, 1.8e4), ("r", 0.0033, 2.2e4), ("z", 0.01, 2.3e4)]
)
def test_gain_follows_from_the_noise(band, sigma_pix, gain):
    sigma_w = sigma_pix / 0.893
    found = float(release.gain_from_noise(sigma_w, band=band, n_exposures=5))
    assert found == pytest.approx(gain, rel=0.03)
    back = release.sky_nmgy(band) / found + 5 * release.READ_NOISE_E**2 / found**2
    assert back == pytest.approx(sigma_w**2)
    # The pixel rms in its place gives a quarter too much: the comparison sees the difference.
    assert float(release.gain_from_noise(sigma_pix, band=band, n_exposures=5)) > 1.2 * found


def test_gain_of_one_nominal_exposure_comes_back_from_its_own_noise():
    gain = release.nominal_gain("r", 1)
    variance = release.sky_nmgy("r") / gain + release.READ_NOISE_E**2 / gain**2
    assert float(release.gain_from_noise(variance**0.5, band="r", n_exposures=1)) == pytest.approx(gain)


def test_bricks_cells_and_groups():
    assert release.brick_name(59.18, -30.5) == "0591m305"
    assert release.brick_name(1.2, 0.5) == "0012p005"
    cell = int(release.healpix_cell(59.18, -30.5))
    ra, dec = release.cell_centre(cell)
    assert abs(float(dec) + 30.5) < 1.0
    assert abs(float(ra) - 59.18) < 1.5
    assert release.sky_group(cell, "x") == f"cell:{cell}"
    assert release.sky_group(None, "x") == "host:x"
    assert release.galactic_latitude(266.405, -28.936) == pytest.approx(0.0, abs=0.1)


def test_mask_bits_are_distinct_powers_of_two():
    bits = list(release.MASK_BITS.values())
    assert len(set(bits)) == len(bits)
    assert all(bit & (bit - 1) == 0 for bit in bits)
    assert release.MASK_BITS["SATUR_Z"] == 0x10


def test_gain_of_exposures_is_the_nominal_one_for_nominal_exposures():
    facts = release.DECAM["r"]
    same = release.gain_from_exposures([facts.exposure_s] * 3, facts.zero_point_e_s, band="r")
    assert same == pytest.approx(release.nominal_gain("r", 3), rel=1e-12)
    mixed = release.gain_from_exposures([90.0, 45.0], [26.7, 26.2], band="r", airmass=[1.0, 2.0])
    by_hand = 90.0 * 10 ** (0.4 * 4.2) + 45.0 * 10 ** (0.4 * (3.7 - 0.10))
    assert mixed == pytest.approx(by_hand, rel=1e-12)
    # Ten exposures of 90 s, DES-like: 4.8e4 e-/nmgy in r, never the 150 of a missing factor.
    assert release.gain_from_exposures([90.0] * 10, facts.zero_point_e_s, band="r") == pytest.approx(
        4.8e4, rel=0.02
    )
