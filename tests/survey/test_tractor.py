"""Catalogues of the Tractor: any case, any chunk, the right meaning of psfdepth, and bounded memory."""

import datetime as dt
import gzip
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darkhaloscope.contracts.errors import ConfigError, DataError, SchemaMismatch
from darkhaloscope.survey.brick_grid import brick_of
from darkhaloscope.survey.tractor import (
    CHUNK_ROWS,
    catalogue_chunks,
    open_catalogue,
    read_brick_summary,
    read_bricks_table,
)

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def columns(n=20, seed=1):
    rng = np.random.default_rng(seed)
    made = {
        "release": np.full(n, 10000, "i2"),
        "brickid": np.full(n, 5, "i4"),
        "brickname": np.full(n, "0036m320"),
        "objid": np.arange(n, dtype="i4"),
        "type": rng.choice(["PSF", "DEV", "SER"], n),
        "ra": rng.uniform(3.5, 3.7, n),
        "dec": rng.uniform(-32.1, -31.9, n),
        "brick_primary": rng.random(n) < 0.8,
        "maskbits": np.zeros(n, "i2"),
        "ebv": np.full(n, 0.02, "f4"),
    }
    for band in "grz":
        made |= {
            f"flux_{band}": rng.normal(5, 3, n).astype("f4"),
            f"psfdepth_{band}": rng.uniform(100, 2000, n).astype("f4"),
            f"nobs_{band}": np.full(n, 3, "i2"),
            f"mw_transmission_{band}": np.full(n, 0.9, "f4"),
        }
    return made


FORMATS = {"i": "J", "f": "E", "U": "12A", "b": "L"}


def write_fits(path, made, units=(), names=lambda n: n):
    cols = []
    for name, values in made.items():
        code = "D" if values.dtype == np.float64 else FORMATS[values.dtype.kind]
        cols.append(fits.Column(names(name), code, dict(units).get(name), array=values))
    fits.BinTableHDU.from_columns(cols).writeto(path, overwrite=True)
    return path


def whole(path, rows=50_000):
    return pa.concat_tables(catalogue_chunks(path, rows))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), rows=st.integers(1, 30), upper=st.booleans())
def test_case_order_and_chunks_change_nothing(tmp_path, seed, rows, upper):
    made = columns()
    order = np.random.default_rng(seed).permutation(list(made))
    mixed = {name: made[name] for name in order}
    path = write_fits(tmp_path / "a.fits", mixed, names=str.upper if upper else str.title)
    assert whole(path, rows).equals(whole(write_fits(tmp_path / "b.fits", made)))


def test_fits_gzip_parquet_and_csv_say_the_same(tmp_path):
    made = columns()
    plain = whole(write_fits(tmp_path / "a.fits", made))
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress((tmp_path / "a.fits").read_bytes()))
    table = pa.table({name: values.tolist() for name, values in made.items()})
    pq.write_table(table, tmp_path / "a.parquet")
    pa.csv.write_csv(table, tmp_path / "a.csv")
    assert whole(tmp_path / "a.fits.gz", 7).equals(plain)
    assert whole(tmp_path / "a.parquet", 7).equals(plain)
    assert whole(tmp_path / "a.csv", 7).equals(plain)


NARROW = {
    "i": [pa.int32(), pa.int64(), pa.float64()],
    "f": [pa.float32(), pa.float64()],
    "b": [pa.bool_(), pa.int8()],
}
WORDS = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_types_spelling_and_order_change_nothing(tmp_path, data):
    """The same rows in any types that hold them, in any order and spelling, are the same."""
    made = columns(13)
    given = {}
    for name in data.draw(st.permutations(list(made))):
        values = pa.array(made[name].tolist())
        kind = made[name].dtype.kind
        choices = [pa.float64()] if name in ("ra", "dec") else WORDS if kind == "U" else NARROW[kind]
        spelled = "".join(c.upper() if data.draw(st.booleans()) else c for c in name)
        given[spelled] = values.cast(data.draw(st.sampled_from(choices)))
    pq.write_table(pa.table(given), tmp_path / "a.parquet", row_group_size=data.draw(st.integers(1, 13)))
    plain = whole(write_fits(tmp_path / "b.fits", made))
    assert whole(tmp_path / "a.parquet", data.draw(st.integers(1, 20))).equals(plain)
    words = {name: pa.array(made[name.lower()].tolist()) for name in given}
    pa.csv.write_csv(pa.table(words), tmp_path / "a.csv")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    assert whole(tmp_path / "a.csv.gz").equals(plain)


def test_a_column_may_change_its_look_after_the_first_block(tmp_path):
    """Types guessed from the first megabyte of a CSV would refuse 1.5 after a hundred thousand ones."""
    lines = ["release,brickid,objid,type,ra,dec,flux_g,flux_r,flux_z"]
    lines += [f"10000,5,{k},SER,10,10,1,1,1" for k in range(60_000)] + ["10000,5,60000,SER,10,10,1.5,1,"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    found = whole(tmp_path / "a.csv")
    assert found.num_rows == 60_001
    assert found.column("flux_g")[-1].as_py() == 1.5
    assert np.isnan(found.column("flux_z")[-1].as_py())


HEAD = "release,brickid,objid,brick_primary,type,ra,dec,flux_r"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{HEAD}\n10000,5,1,T,SER,1,1,1\n10000,5,2,T,SER,1,1,abc", "line 3: .*'abc'"),
        (f"{HEAD}\n10000,5,1,T,SER,1,1,1\n10000,5,,T,SER,1,1,1", "row 2: column 'objid' holds nan"),
        (f"{HEAD}\n10000,5,1.5,T,SER,1,1,1", r"row 1: column 'objid' holds 1\.5, which is no whole number"),
        (f"{HEAD}\n10000,5,1,,SER,1,1,1", "row 1: column 'brick_primary' holds neither true nor false"),
        (f"{HEAD},FLUX_R\n10000,5,1,T,SER,1,1,1,2", "has the columns 'flux_r' and 'FLUX_R'"),
        (f"{HEAD},ra\n10000,5,1,T,SER,1,1,1,2", "has the columns 'ra' and 'ra'"),
        (f"{HEAD}\n10000,5,1,T,SER,1,1", "Expected 8 columns, got 7"),
        ("", "cannot be read as CSV"),
    ],
)
def test_a_wrong_value_is_named_with_its_row_and_column(tmp_path, text, says):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=says) as raised:
        whole(tmp_path / "a.csv")
    assert "a.csv" in str(raised.value)


def test_the_column_of_a_wrong_number_is_named_as_the_file_spells_it(tmp_path):
    (tmp_path / "a.csv").write_text(f"{HEAD.upper()}\n10000,5,1,T,SER,1,1,abc")
    with pytest.raises(DataError, match="column 'FLUX_R'"):
        whole(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (["1", "x"], "row 2: column 'flux_r' holds 'x', which is no number"),
        ([[1.0], [2.0, 3.0]], "column 'flux_r' holds"),
        ([dt.date(2020, 1, 1)] * 2, "column 'flux_r' holds"),
    ],
)
def test_a_column_of_another_type_is_refused(tmp_path, values, says):
    pq.write_table(pa.table({"ra": [1.0, 2.0], "dec": [1.0, 2.0], "flux_r": values}), tmp_path / "a.parquet")
    with pytest.raises(SchemaMismatch, match=says):
        whole(tmp_path / "a.parquet")


def test_what_is_absent_stays_absent(tmp_path):
    table = pa.table({"ra": [1.0, 2.0], "dec": [1.0, 2.0], "flux_r": [None, 1.0], "type": ["SER", None]})
    pq.write_table(table, tmp_path / "a.parquet")
    found = whole(tmp_path / "a.parquet")
    assert found.column("type").to_pylist() == ["SER", None]
    assert np.isnan(found.column("flux_r")[0].as_py())


def test_no_rows_at_a_time_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="'rows' is 0; allowed: 1 or more"):
        list(catalogue_chunks(write_fits(tmp_path / "a.fits", columns()), 0))


@pytest.mark.parametrize(
    ("units", "says"),
    [
        ({"flux_g": "nanomaggy", "ra": "deg", "psfdepth_g": "1/nanomaggy^2"}, None),
        ({"flux_g": "Jy"}, "gives 'flux_g' in 'jy'"),
        ({"ra": "hourangle"}, "gives 'ra' in 'hourangle'"),
        ({"psfdepth_r": "mag"}, "gives 'psfdepth_r' as a magnitude"),
        ({"galdepth_r": "mag(AB)"}, "gives 'galdepth_r' as a magnitude"),
        ({"psfdepth_r": "furlong"}, "gives 'psfdepth_r' in 'furlong'"),
        ({"psfdepth_r": "nanomaggy**(-2)", "galdepth_g": "1 / nanomaggies^2"}, None),
    ],
)
def test_units_are_held_against_what_is_known(tmp_path, units, says):
    made = columns() | {f"galdepth_{b}": np.full(20, 300, "f4") for b in "gr"}
    path = write_fits(tmp_path / "a.fits", made, units=units.items())
    if says is None:
        assert whole(path).num_rows == 20
    else:
        with pytest.raises(SchemaMismatch, match=says):
            whole(path)


def test_magnitudes_in_place_of_inverse_variances_are_seen_by_their_values(tmp_path):
    made = columns()
    for band in "grz":
        made[f"psfdepth_{band}"] = np.full(20, 23.5, "f4")
    with pytest.raises(SchemaMismatch, match=r"psfdepth from 23\.5 to 23\.5 in every band: magnitudes"):
        whole(write_fits(tmp_path / "a.fits", made))


def test_units_are_read_from_parquet_too(tmp_path):
    fields = [pa.field("ra", pa.float64()), pa.field("dec", pa.float64())]
    fields += [pa.field("flux_r", pa.float64(), metadata={"unit": "Jy"})]
    pq.write_table(pa.table([[1.0], [1.0], [1.0]], schema=pa.schema(fields)), tmp_path / "a.parquet")
    with pytest.raises(SchemaMismatch, match="gives 'flux_r' in 'jy'"):
        whole(tmp_path / "a.parquet")


def depths(tmp_path, g, r, z, unit=None):
    made = columns(9)
    for band, value in zip("grz", (g, r, z), strict=True):
        made[f"psfdepth_{band}"] = np.broadcast_to(np.array(value, "f4"), 9)
    units = {f"psfdepth_{b}": unit for b in "grz"} if unit else {}
    return write_fits(tmp_path / "a.fits", made, units=units.items())


@pytest.mark.parametrize("rows", [1, 7, 10**6])
def test_depths_are_judged_alike_whatever_the_chunk(tmp_path, rows):
    shallow = [29, *[400] * 8], [28, *[200] * 8], [20, *[80] * 8]
    assert whole(depths(tmp_path, *shallow), rows).num_rows == 9
    with pytest.raises(SchemaMismatch, match="magnitudes, where a catalogue has inverse variances"):
        whole(depths(tmp_path, 23.5, 23.0, [5.0, *[22.0] * 8]), rows)


def test_a_shallow_z_band_alone_needs_its_unit(tmp_path):
    """25 is the inverse variance of z = 22.5 as well as a magnitude."""
    with pytest.raises(SchemaMismatch, match="which may be magnitudes or inverse variances"):
        whole(depths(tmp_path, 0, 0, 25))
    assert whole(depths(tmp_path, 0, 0, 25, "1/nanomaggy^2")).num_rows == 9
    assert whole(depths(tmp_path, 0, 0, [25, 90, *[25] * 7])).num_rows == 9


def test_a_unit_does_not_make_magnitudes_inverse_variances(tmp_path):
    with pytest.raises(SchemaMismatch, match="magnitudes, where a catalogue has inverse variances"):
        whole(depths(tmp_path, 24.0, 23.5, 22.5, "1/nanomaggy^2"))


def summary(tmp_path, depth=(24.8, 24.0, 23.0), units=()):
    made = {"brickname": np.array(["0036m320"]), "ra": np.array([3.6]), "dec": np.array([-32.0])}
    made |= {"nobjs": np.array([5000], "i4")}
    for band, value in zip("grz", depth, strict=True):
        made |= {f"psfdepth_{band}": np.array([value], "f4"), f"nexp_{band}": np.array([3], "i2")}
    return write_fits(tmp_path / "survey-bricks.fits", made, units=units)


def test_a_summarys_depth_is_a_magnitude(tmp_path):
    row = read_brick_summary(summary(tmp_path)).to_pylist()[0]
    sigma = 10 ** (0.4 * (22.5 - 24.8)) / 5.0
    assert row["psfdepth_g"] == pytest.approx(1 / sigma**2, rel=1e-5)
    assert read_brick_summary(summary(tmp_path, (24.8, 0.0, 23.0))).to_pylist()[0]["psfdepth_r"] is None
    with pytest.raises(SchemaMismatch, match="holds no magnitudes"):
        read_brick_summary(summary(tmp_path, (900.0, 500.0, 100.0)))
    with pytest.raises(SchemaMismatch, match="holds no magnitudes"):
        read_brick_summary(summary(tmp_path, units={"psfdepth_g": "1/nanomaggy^2"}.items()))
    with pytest.raises(SchemaMismatch, match="is a summary of bricks, not of objects"):
        whole(summary(tmp_path))
    with pytest.raises(SchemaMismatch, match="is no summary of bricks"):
        read_brick_summary(write_fits(tmp_path / "a.fits", columns()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ra": np.full(20, 400.0)}, "row 1: has no position in degrees"),
        ({"dec": np.full(20, np.nan)}, "row 1: has no position in degrees"),
        ({"decam_flux": np.zeros((20, 6), "f4")}, None),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, change, says):
    made = columns() | change
    if says is None:
        cols = [fits.Column("ra", "D", array=made["ra"]), fits.Column("dec", "D", array=made["dec"])]
        cols += [fits.Column("decam_flux", "6E", array=made["decam_flux"])]
        fits.BinTableHDU.from_columns(cols).writeto(tmp_path / "a.fits")
        with pytest.raises(SchemaMismatch, match="DR1 to DR3"):
            whole(tmp_path / "a.fits")
    else:
        with pytest.raises(DataError, match=says):
            whole(write_fits(tmp_path / "a.fits", made))


def test_chunks_are_no_larger_than_asked_for_and_lose_no_row(tmp_path):
    n = CHUNK_ROWS + 13
    path = write_fits(tmp_path / "a.fits", columns(n))
    for rows in (20_000, 10**6):
        chunks = list(catalogue_chunks(path, rows))
        assert max(chunk.num_rows for chunk in chunks) == min(rows, CHUNK_ROWS)
        assert pa.concat_tables(chunks).column("objid").to_pylist() == list(range(n))


def test_a_table_of_bricks_is_read_by_its_own_reader(tmp_path):
    made = {"brickname": np.array(["0036m320"]), "brickid": np.array([77], "i4")}
    made |= {"ra": np.array([3.6]), "dec": np.array([-32.0]), "ra1": np.array([3.5]), "ra2": np.array([3.7])}
    made |= {"dec1": np.array([-32.125]), "dec2": np.array([-31.875])}
    (row,) = read_bricks_table(write_fits(tmp_path / "b.fits", made, names=str.upper)).to_pylist()
    assert (row["brickname"], row["brickid"], row["dec2_deg"]) == ("0036m320", 77, -31.875)
    with pytest.raises(SchemaMismatch, match="is no table of bricks"):
        read_bricks_table(write_fits(tmp_path / "a.fits", columns()))
    del made["ra2"]
    write_fits(tmp_path / "b.fits", made)
    with pytest.raises(SchemaMismatch, match="lacks the column 'ra2'"):
        read_bricks_table(tmp_path / "b.fits")


def test_a_negative_number_of_rows_is_damage(tmp_path):
    data = write_fits(tmp_path / "a.fits", columns()).read_bytes()
    (tmp_path / "a.fits").write_bytes(
        data.replace(b"NAXIS2  =                   20", b"NAXIS2  =                  -20")
    )
    with pytest.raises(DataError):
        whole(tmp_path / "a.fits")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("keep", [100, 0.3, 0.9])
def test_truncated_tables_are_refused(tmp_path, keep, zipped):
    data = write_fits(tmp_path / "a.fits", columns(2000)).read_bytes()
    data = gzip.compress(data) if zipped else data
    path = tmp_path / ("b.fits.gz" if zipped else "b.fits")
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
    with pytest.raises(DataError):
        whole(path)


PEAK = (
    "import sys; from darkhaloscope.survey.tractor import catalogue_chunks\n"
    "n = sum(t.num_rows for t in catalogue_chunks(sys.argv[1]))\n"
    # ru_maxrss would do, were it not inherited from the (larger) process of the tests.
    "print(n, int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024)"
)


def repeated_rows(path, times, out):
    """A FITS table with all its rows so many times."""
    with fits.open(path) as units:
        head, n, width = units[1].header, units[1].header["NAXIS2"], units[1].header["NAXIS1"]
        start = units[1].fileinfo()["datLoc"]
        primary = units[0].header.tostring().encode()
        data = path.read_bytes()[start : start + n * width] * times
        head["NAXIS2"] = n * times
        out.write_bytes(primary + head.tostring().encode() + data + bytes(-len(data) % 2880))
    return out


def peaks_of(folder, times):
    """Peak memory [MB] of processes that each read a file of so many times 100,000 rows, by format."""
    made = columns(100_000)
    plain = repeated_rows(write_fits(folder / "once.fits", made), times, folder / "a.fits")
    with plain.open("rb") as source, gzip.open(folder / "a.fits.gz", "wb", compresslevel=0) as packed:
        shutil.copyfileobj(source, packed)
    once = pa.table({k: v.tolist() if v.dtype.kind == "U" else v for k, v in made.items()})
    table = pa.concat_tables([once] * times)
    pq.write_table(table, folder / "a.parquet", row_group_size=table.num_rows)
    pa.csv.write_csv(table, folder / "a.csv")
    peaks = {}
    for name in ("a.fits", "a.fits.gz", "a.parquet", "a.csv"):
        words = [sys.executable, "-c", PEAK, str(folder / name)]
        rows, peak = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
        assert int(rows) == 100_000 * times
        peaks[name] = float(peak)
    return peaks


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's peak memory from /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """A million rows are 190 MB under the house's names; reading them takes as much as a hundred thousand."""
    few, many = peaks_of(tmp_path, 1), peaks_of(tmp_path, 10)
    held = 1000 * whole(write_fits(tmp_path / "b.fits", columns(1000))).nbytes / 2**20
    assert held > 150
    assert max(many[name] - few[name] for name in few) < 0.3 * held, (few, many)


def head_of(**cards):
    """A header of one block, then the end of the file."""
    lines = [f"{name:<8}= {value:>20}".ljust(80) for name, value in cards.items()] + ["END".ljust(80)]
    return "".join(lines).ljust(2880).encode()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("head", "says"),
    [
        (head_of(SIMPLE="T", BITPIX=8, NAXIS=9999999), "declares NAXIS = 9999999"),
        (head_of(SIMPLE="T", BITPIX=8, NAXIS=1, NAXIS1=-2880), "a size that no file has"),
        (head_of(SIMPLE="T", BITPIX=8, NAXIS=1, NAXIS1=10**15), "a size that no file has"),
        (head_of(SIMPLE="T", BITPIX=8, NAXIS=0) * 40, "holds no table"),
        (head_of(SIMPLE="T", BITPIX=8, NAXIS=0).replace(b"END", b"EXD") * 2000, "a header does not end"),
        (head_of(SIMPLE="T", BITPIX=8, NAXIS=0)[:1000], "ends within a header"),
        (b"", "holds no table"),
        (b"<html>" * 1000, "a header does not end|ends within a header"),
    ],
)
def test_headers_that_lead_nowhere_are_refused_at_once(tmp_path, head, says, zipped):
    path = tmp_path / ("a.fits.gz" if zipped else "a.fits")
    path.write_bytes(gzip.compress(head) if zipped else head)
    began = time.process_time()
    with pytest.raises(DataError, match=says):
        whole(path)
    assert time.process_time() - began < 2.0


def test_a_table_behind_images_is_found(tmp_path):
    """Their data do not fill whole blocks: the walk must round up."""
    table = fits.open(write_fits(tmp_path / "a.fits", columns()))[1]
    images = [fits.PrimaryHDU(np.zeros((7, 11), "f4")), fits.ImageHDU(np.zeros((31, 50), "f8"))]
    fits.HDUList([*images, table]).writeto(tmp_path / "b.fits")
    assert whole(tmp_path / "b.fits").equals(whole(tmp_path / "a.fits"))


@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz", "a.parquet", "a.csv"])
@settings(
    max_examples=50,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_broken_tables_are_errors_of_ours(tmp_path, name, data):
    made = columns(5)
    good = write_fits(tmp_path / "a.fits", made).read_bytes()
    table = pa.table({key: values.tolist() for key, values in made.items()})
    if name.endswith(".gz"):
        good = gzip.compress(good, mtime=0)
    elif name == "a.parquet":
        pq.write_table(table, tmp_path / name)
        good = (tmp_path / name).read_bytes()
    elif name == "a.csv":
        pa.csv.write_csv(table, tmp_path / name)
        good = (tmp_path / name).read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[place : place + 8] = data.draw(st.binary(min_size=1, max_size=8))
    (tmp_path / name).write_bytes(bytes(bad[: data.draw(st.sampled_from([len(bad), place]))]))
    try:
        whole(tmp_path / name)
    except DataError as error:
        assert name in str(error)  # noqa: PT017 - what is raised depends on the byte


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("catalogs/sweep-310m005-320p000.fits", None),
        ("catalogs/tractor-3301m002.fits", None),
        ("catalogs/tractor-3303p000.fits", None),
        ("catalogs/dr10_lrgs.csv", None),
        ("bricks/survey-bricks.fits.gz", "is a table of bricks"),
        ("bricks/survey-bricks-dr6.fits.gz", "is a summary of bricks"),
        ("ccds/decals_grz/survey-ccds-1.fits.gz", "is a table of exposures"),
    ],
)
def test_real_files(name, says):
    if not DATA.is_dir():
        pytest.skip("the real catalogues are not beside this checkout")
    if says is not None:
        with pytest.raises(SchemaMismatch, match=says):
            whole(DATA / name)
        return
    found = whole(DATA / name)
    if not name.endswith(".fits"):
        assert found.num_rows == 1509
        return
    with fits.open(DATA / name) as units:
        real = units[1].data
        assert np.array_equal(found.column("ra_deg").to_numpy(), real["RA"])
        assert np.array_equal(found.column("psfdepth_z").to_numpy(), real["PSFDEPTH_Z"].astype(float))
        assert found.column("objid").to_pylist() == real["OBJID"].tolist()
        dev = np.char.strip(real["TYPE"].astype(str)) == "DEV"
        expected = np.where(dev, real["SHAPEDEV_R"], real["SHAPEEXP_R"])
        assert np.allclose(found.column("shape_r").to_numpy(), expected)
    assert open_catalogue(DATA / name).kind == "catalogue"


@pytest.mark.realdata
def test_the_real_summary_of_a_brick():
    if not DATA.is_dir():
        pytest.skip("the real catalogues are not beside this checkout")
    (row,) = read_brick_summary(DATA / "bricks" / "survey-bricks-dr6.fits.gz").to_pylist()
    assert row["brickname"] == "0959p805"
    assert row["psfdepth_g"] == pytest.approx(140.845, rel=1e-4)
    assert row["psfdepth_z"] is None


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["bricks/survey-bricks.fits.gz", "ccds/decals_grz/survey-bricks.fits.gz"])
def test_the_real_table_of_bricks_is_the_grid(name):
    if not DATA.is_dir():
        pytest.skip("the real catalogues are not beside this checkout")
    table = read_bricks_table(DATA / name)
    centres = [table.column(axis).to_numpy() for axis in ("ra_deg", "dec_deg")]
    grid = brick_of(*centres)
    assert table.column("brickname").to_pylist() == grid.name.tolist()
    assert table.column("brickid").to_pylist() == grid.brickid.tolist()
    for axis, centre in zip(("ra", "dec"), centres, strict=True):
        low, high = (table.column(f"{axis}{k}_deg").to_numpy() for k in (1, 2))
        assert np.allclose(0.5 * (low + high), centre)


@pytest.mark.realdata
def test_real_depths_in_magnitudes_are_caught_in_a_catalogue(tmp_path):
    """The negative control: depths of a real summary of bricks, put where a catalogue has its own."""
    if not DATA.is_dir():
        pytest.skip("the real catalogues are not beside this checkout")
    with fits.open(DATA / "bricks" / "survey-bricks-dr6.fits.gz") as units:
        real = [float(units[1].data[f"psfdepth_{b}"][0]) for b in "grz"]
    assert real[2] == 0.0
    with pytest.raises(SchemaMismatch, match=r"psfdepth from 22\.6 to 23\.4 in every band: magnitudes"):
        whole(depths(tmp_path, *real))


@pytest.mark.realdata
def test_every_real_table_is_rows_or_a_sentence():
    if not DATA.is_dir():
        pytest.skip("the real catalogues are not beside this checkout")
    rows, refused = {}, {}
    for folder in ("catalogs", "bricks", "ccds"):
        for path in sorted(p for p in (DATA / folder).rglob("*") if p.is_file()):
            try:
                rows[path.name] = whole(path).num_rows
            except DataError as error:
                assert str(path) in str(error)  # noqa: PT017 - most are no catalogues
                refused[path.name] = str(error)
    assert rows == {
        "dr10_lrgs.csv": 1509,
        "sweep-310m005-320p000.fits": 6,
        "tractor-3301m002.fits": 6,
        "tractor-3303p000.fits": 6,
    }
    assert len(refused) > 20
