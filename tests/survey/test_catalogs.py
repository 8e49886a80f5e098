"""Published tables: any spelling of a column is found, anything that is not there is named."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from darkhaloscope.contracts.errors import DataError, SchemaMismatch
from darkhaloscope.survey.catalogs import number_in, read_published, text_in

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "catalogs"


@pytest.fixture
def table(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


TEXTS = [
    ("a.csv", "name,RA,DEC,theta_E\nJ1,10.5,-3.25,1.2\nJ2,11,4,\n"),
    ("a.tsv", "name\tra_deg\tdec_deg\ttheta_e_arcsec\nJ1\t10.5\t-3.25\t1.2\nJ2\t11\t4\t-1\n"),
    ("a.cat", "# name RA DEC theta_Ein\nJ1 10.5 -3.25 1.2\nJ2 11 4 nan\n"),
    ("bom.csv", "\ufeffname,RA,DEC,theta_E\r\nJ1,10.5,-3.25,1.2\r\nJ2,11,4,\r\n"),
    ("quoted.csv", 'name,ref,RA,DEC,theta_E\n"J1","a, b",10.5,-3.25,1.2\n"J2","c\nd",11,4,\n'),
]


@pytest.mark.parametrize(("name", "text"), TEXTS)
@pytest.mark.parametrize("zipped", [False, True])
def test_every_kind_of_text_is_read(table, name, text, zipped):
    path = table(name + ".gz", gzip.compress(text.encode())) if zipped else table(name, text)
    found = read_published(path)
    columns = found.columns(("ra_deg", "dec_deg", "theta_e_arcsec"), ("name",))
    first, second = found.rows
    assert text_in(first, columns["name"]) == "J1"
    assert number_in(first, columns["dec_deg"], "t") == -3.25
    assert number_in(second, columns["theta_e_arcsec"], "t") in (None, -1.0)
    assert found.source.startswith(f"{path.name} sha256:")


def test_fits_and_parquet_say_the_same(tmp_path):
    ra, dec = np.array([10.0, 20.0]), np.array([1.0, -2.0])
    columns = [fits.Column("RA", "D", "deg", array=ra), fits.Column("DEC", "D", "deg", array=dec)]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    pq.write_table(pa.table({"RA": ra, "DEC": dec}), tmp_path / "a.parquet")
    assert read_published(tmp_path / "a.fits").rows == read_published(tmp_path / "a.parquet").rows


def test_positions_in_hours_are_refused(tmp_path):
    columns = [fits.Column("RA", "D", "hourangle", array=[1.0]), fits.Column("DEC", "D", "deg", array=[1.0])]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    with pytest.raises(SchemaMismatch, match="gives 'RA' in hourangle"):
        read_published(tmp_path / "a.fits").columns(("ra_deg", "dec_deg"))


@pytest.mark.parametrize(
    ("name", "text", "error", "says"),
    [
        ("a.csv", "name,ra\nJ1,10\n", SchemaMismatch, "lacks the column 'dec_deg'"),
        ("a.csv", "", DataError, "holds no rows"),
        ("a.csv", "name,ra,dec\n", DataError, "holds no rows"),
        ("a.csv", "name,ra,dec\nJ1,10\n", DataError, "line 2: has 2 cells under 3 names"),
        ("a.csv", "name,ra,dec\nJ1,10,3,4\n", DataError, "line 2: has 4 cells under 3 names"),
        ("a.cat", "name ra dec\nJ1 10\n", DataError, "line 2: has 2 cells under 3 names"),
        ("a.csv", b"name,ra,dec\n\xff\xfe,1,2\n", DataError, "is no UTF-8 text"),
        ("a.fits", "SIMPLE", DataError, "cannot be read as a table"),
        ("a.parquet", "PAR1", DataError, "cannot be read as Parquet"),
        ("a.csv.gz", "plain", DataError, "is truncated or no gzip file"),
    ],
)
def test_what_is_no_table_is_named(table, name, text, error, says):
    with pytest.raises(error, match=says):
        read_published(table(name, text)).columns(("ra_deg", "dec_deg"))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        read_published(tmp_path / "none.csv")


def test_a_truncated_fits_table_is_refused(tmp_path):
    columns = [fits.Column("RA", "D", array=np.arange(5000.0))]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    data = (tmp_path / "a.fits").read_bytes()
    (tmp_path / "a.fits").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"truncated|cannot be read"):
        read_published(tmp_path / "a.fits")


def test_of_two_spellings_the_fuller_one(table):
    found = read_published(table("a.csv", "ra,dec,RA,DEC\n,,10,20\n1,2,11,21\n"))
    assert found.columns(("ra_deg", "dec_deg")) == {"ra_deg": "RA", "dec_deg": "DEC"}


@settings(max_examples=100, deadline=None)
@given(
    data=st.binary(max_size=400), name=st.sampled_from(["a.csv", "a.fits", "a.parquet", "a.csv.gz", "a.cat"])
)
def test_any_bytes_are_a_table_or_an_error_of_ours(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("t") / name
    path.write_bytes(data)
    said = ""
    try:
        found = len(read_published(path).rows)
    except DataError as error:
        found, said = 0, str(error)
    assert found or str(path) in said


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("darg_mergers.csv", 3003), ("desi_candidates.csv", 5104), ("dr10_lrgs.csv", 1509),
        ("new_lenses.tsv", 1192), ("training_lenses.tsv", 1615), ("slacs_all_params.csv", 56),
        ("slacs_theta_e.cat", 59), ("sweep-310m005-320p000.fits", 6), ("tractor-3301m002.fits", 6),
    ],
)  # fmt: skip
def test_real_tables(name, rows):
    if not DATA.is_dir():
        pytest.skip("the real tables are not beside this checkout")
    found = read_published(DATA / name)
    assert len(found.rows) == rows
    columns = found.columns(("ra_deg", "dec_deg"))
    positions = [[number_in(row, columns[a], "t") for a in ("ra_deg", "dec_deg")] for row in found.rows]
    assert np.isfinite(np.array(positions, dtype=float)).all()
