"""Catalogues of the Tractor: any case, any chunk, the right meaning of psfdepth, and bounded memory."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darkhaloscope.contracts.errors import DataError, SchemaMismatch
from darkhaloscope.survey.tractor import catalogue_chunks, open_catalogue, read_brick_summary

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


@pytest.mark.parametrize(
    ("units", "says"),
    [
        ({"flux_g": "nanomaggy", "ra": "deg", "psfdepth_g": "1/nanomaggy^2"}, None),
        ({"flux_g": "Jy"}, "gives 'flux_g' in 'jy'"),
        ({"ra": "hourangle"}, "gives 'ra' in 'hourangle'"),
        ({"psfdepth_r": "mag"}, "gives 'psfdepth_r' as a magnitude"),
    ],
)
def test_units_are_held_against_what_is_known(tmp_path, units, says):
    path = write_fits(tmp_path / "a.fits", columns(), units=units.items())
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


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("keep", [100, 0.3, 0.9])
def test_truncated_tables_are_refused(tmp_path, keep, zipped):
    data = write_fits(tmp_path / "a.fits", columns(2000)).read_bytes()
    data = gzip.compress(data) if zipped else data
    path = tmp_path / ("b.fits.gz" if zipped else "b.fits")
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
    with pytest.raises(DataError):
        whole(path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's peak memory from /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """The peak of a process that reads ten times the rows is the same within a few megabytes."""
    code = (
        "import sys; from darkhaloscope.survey.tractor import catalogue_chunks\n"
        "n = sum(t.num_rows for t in catalogue_chunks(sys.argv[1], 20000))\n"
        "print(n, int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024)"
    )
    peaks = []
    for n in (120_000, 1_200_000):
        path = write_fits(tmp_path / f"{n}.fits", columns(n))
        said = subprocess.run(
            [sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True
        )
        rows, peak = said.stdout.split()
        assert int(rows) == n
        peaks.append(float(peak))
    size = (tmp_path / "1200000.fits").stat().st_size / 2**20
    assert size > 120
    assert peaks[1] - peaks[0] < 0.25 * size


@settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_broken_tables_are_errors_of_ours(tmp_path, data):
    path = write_fits(tmp_path / "a.fits", columns(5))
    good = path.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[place : place + 8] = data.draw(st.binary(min_size=1, max_size=8))
    path.write_bytes(bytes(bad))
    try:
        whole(path)
    except DataError as error:
        assert "a.fits" in str(error)  # noqa: PT017 - what is raised depends on the byte


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
