"""Look-alikes: by class, small enough, and no lenses."""

from pathlib import Path

import pytest

from darkhaloscope.contracts.errors import ConfigError, DataError
from darkhaloscope.contracts.tables import CONTAMINANTS, TARGETS
from darkhaloscope.survey.contaminants import read_contaminant_table, targets_from_contaminants
from darkhaloscope.survey.known_lenses import KnownLenses
from darkhaloscope.survey.release import RELEASES

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "catalogs"


def read(tmp_path, text, *args, **more):
    (tmp_path / "c.csv").write_text(text)
    return read_contaminant_table(tmp_path / "c.csv", *args, **more)


def test_an_arcminute_galaxy_is_no_contaminant_of_a_stamp(tmp_path):
    text = "name,ra,dec,class,diameter_arcsec\nM51,202.47,47.195,spiral,670\n"
    text += "small,10,5,spiral,9\nring,20,5,ring,\n"
    found = read(tmp_path, text)
    assert found.rows.column("name").to_pylist() == ["small", "ring"]
    assert found.removed == {"too large": 1}
    assert read(tmp_path, text, largest_arcsec=1000.0).rows.num_rows == 3
    assert CONTAMINANTS.check(found.rows).all_passed
    assert "spiral 1" in str(found)


def test_a_class_that_is_none_is_named(tmp_path):
    with pytest.raises(DataError, match=r"row 1: has the class 'star'.*ring, spiral, merger, spike"):
        read(tmp_path, "name,ra,dec,class\nA,1,2,star\n")
    with pytest.raises(ConfigError, match="'star' is unknown"):
        read(tmp_path, "name,ra,dec\nA,1,2\n", "star")


def test_known_lenses_and_repeated_places_are_left_out(tmp_path):
    text = "name,ra,dec\nlens,10,0\nA,20,0\nA2,20.0005,0\nB,30,0\nB,40,0\n"
    found = read(tmp_path, text, "ring", known=KnownLenses([10.002], [0.0]))
    assert found.rows.column("name").to_pylist() == ["A", "B@30.00000+0.00000", "B@40.00000+0.00000"]
    assert found.removed == {"known lens": 1, "named twice": 1}


def test_a_pair_is_as_large_as_its_separation(tmp_path):
    text = "object1,ra1,dec1,ra2,dec2\nnear,10,0,10.002,0\nwide,20,0,20.01,0\n"
    found = read(tmp_path, text, "merger")
    assert found.rows.column("name").to_pylist() == ["near"]
    assert found.rows.column("size_arcsec")[0].as_py() == pytest.approx(7.2, abs=1e-3)


def test_contaminants_are_targets(tmp_path):
    made = targets_from_contaminants(
        read(tmp_path, "name,ra,dec\nA,1,2\n", "ring").rows, RELEASES["dr10-south"]
    )
    assert TARGETS.check(made).all_passed
    (row,) = made.to_pylist()
    assert (row["kind"], row["category"], row["arc_domain"]) == ("contaminant", "ring", None)


@pytest.mark.realdata
def test_real_mergers():
    if not DATA.is_dir():
        pytest.skip("the real tables are not beside this checkout")
    found = read_contaminant_table(DATA / "darg_mergers.csv", "merger")
    assert found.rows.num_rows + sum(found.removed.values()) == 3003
    assert found.rows.num_rows > 2500
    assert found.removed["too large"] > 100
