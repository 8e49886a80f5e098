"""Published tables: any spelling of a column is found, anything absent is named."""

import numpy as np
import pytest
from astropy.io import fits

from darkhaloscope.contracts.errors import DataError, SchemaMismatch
from darkhaloscope.contracts.tables import ANCHORS, CONTAMINANTS
from darkhaloscope.survey.catalogs import read_anchor_table, read_contaminant_table


@pytest.fixture
def table(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "name,RA,DEC,theta_E\nJ1,10.5,-3.25,1.2\nJ2,11,4,\n"),
        ("a.tsv", "name\tra_deg\tdec_deg\ttheta_e_arcsec\nJ1\t10.5\t-3.25\t1.2\nJ2\t11\t4\t-1\n"),
        ("a.cat", "# name RA DEC theta_Ein\nJ1 10.5 -3.25 1.2\nJ2 11 4 nan\n"),
    ],
)
def test_every_kind_of_table_is_read(table, name, text):
    rows = read_anchor_table(table(name, text))
    assert ANCHORS.check(rows).all_passed
    first, second = rows.to_pylist()
    assert (first["name"], first["ra_deg"], first["dec_deg"]) == ("J1", 10.5, -3.25)
    assert first["theta_e_arcsec"] == pytest.approx(1.2)
    assert second["theta_e_arcsec"] is None
    assert first["source"].startswith(f"{name} sha256:")
    assert first["arc_domain"] == "real"


def test_fits_tables_are_read_and_positions_make_names(tmp_path):
    path = tmp_path / "lenses.fits"
    columns = [
        fits.Column("RA", "D", array=np.array([10.0, 20.0])),
        fits.Column("DEC", "D", array=np.array([1.0, -2.0])),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(path)
    assert [row["name"] for row in read_anchor_table(path).to_pylist()] == [
        "J10.00000+1.00000",
        "J20.00000-2.00000",
    ]


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("name,ra\nJ1,10\n", SchemaMismatch, "lacks the column 'dec_deg'"),
        ("name,ra,dec\nJ1,ten,3\n", DataError, "row 1: column 'ra' holds 'ten'"),
        ("name,ra,dec\nJ1,10,3\nJ2,10,\n", DataError, "row 2: has no position"),
        ("name,ra,dec\nJ1,10,93\n", DataError, "row 1: has no position in degrees"),
        ("", DataError, "holds no rows"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_row(table, text, error, says):
    path = table("bad.csv", text)
    with pytest.raises(error) as caught:
        read_anchor_table(path)
    assert says in str(caught.value)
    assert "bad.csv" in str(caught.value)


def test_absent_and_unreadable_files(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_anchor_table(tmp_path / "none.csv")
    path = tmp_path / "a.fits"
    path.write_bytes(b"not a FITS file")
    with pytest.raises(DataError, match="cannot be read"):
        read_anchor_table(path)


def test_contaminants_need_a_known_class(table):
    path = table("c.csv", "name,ra,dec,category\nA,1,2,ring\n")
    assert CONTAMINANTS.check(read_contaminant_table(path)).all_passed
    with pytest.raises(DataError, match="class 'blob'"):
        read_contaminant_table(table("d.csv", "name,ra,dec,category\nA,1,2,blob\n"))
    with pytest.raises(SchemaMismatch, match="category"):
        read_contaminant_table(table("e.csv", "name,ra,dec\nA,1,2\n"))


@pytest.mark.realdata
def test_real_tables(real_data):
    slacs = read_anchor_table(real_data / "catalogs" / "slacs_theta_e.cat").to_pylist()
    assert slacs[1]["name"] == "SDSSJ0037-0942"
    assert slacs[1]["theta_e_arcsec"] == pytest.approx(1.53)
    assert read_anchor_table(real_data / "catalogs" / "desi_candidates.csv").num_rows == 5104
    assert read_anchor_table(real_data / "catalogs" / "new_lenses.tsv").num_rows == 1192
    mergers = read_contaminant_table(real_data / "catalogs" / "darg_mergers.csv", "merger")
    assert mergers.num_rows == 3003
    with pytest.raises(SchemaMismatch, match="lacks the column"):
        read_contaminant_table(real_data / "catalogs" / "darg_mergers.csv")
