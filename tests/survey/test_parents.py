"""The parent sample: who is in, and who was removed by what."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.survey.test_tractor import columns, write_fits

from darkhaloscope.contracts.errors import ConfigError, DataError, SchemaMismatch
from darkhaloscope.contracts.tables import TARGETS
from darkhaloscope.survey.known_lenses import KnownLenses
from darkhaloscope.survey.parents import CUTS, ParentSummary, _Seen, first_failed, select_parents
from darkhaloscope.survey.release import RELEASES
from darkhaloscope.survey.targets import by_brick

SOUTH = RELEASES["dr10-south"]
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "catalogs"


def selected(path, kind="none", **more):
    tables = list(select_parents([path], CUTS[kind], more.pop("release", SOUTH), **more))
    return pa.concat_tables(tables) if tables else TARGETS.schema.empty_table()


def galaxies(n=40, **changes):
    made = columns(n) | {"type": np.full(n, "SER"), "brick_primary": np.full(n, fill_value=True)}
    # r = 19.5, g - r = 1.4, r - z = 1.0 before extinction
    for band, magnitude in (("g", 20.9), ("r", 19.5), ("z", 18.5)):
        made[f"flux_{band}"] = np.full(n, 10 ** (0.4 * (22.5 - magnitude)), "f4")
        made[f"mw_transmission_{band}"] = np.ones(n, "f4")
    return made | changes


def test_targets_keep_the_contract_and_the_identity(tmp_path):
    made = selected(write_fits(tmp_path / "a.fits", galaxies()), "lrg")
    assert TARGETS.check(made).all_passed
    row = made.to_pylist()[3]
    assert row["target_id"] == "10000-5-3"
    assert (row["tractor_release"], row["brickid"], row["objid"]) == (10000, 5, 3)
    assert (row["brickname"], row["release"], row["kind"]) == ("0036m320", "dr10-south", "lrg")
    assert row["psfdepth_r"] > 50


@pytest.mark.parametrize(
    ("kind", "column", "value", "cut"),
    [
        ("lrg", "type", "PSF", "type"),
        ("lrg", "brick_primary", False, "brick_primary"),
        ("lrg", "nobs_g", 0, "nobs"),
        ("lrg", "maskbits", 2, "maskbits"),
        ("lrg", "flux_r", 1.0, "r_mag"),
        ("lrg", "flux_g", 14.0, "g_r"),
        ("lrg", "flux_g", -1.0, "g_r"),
        ("lrg", "flux_r", -1.0, "r_mag"),
        ("lrg", "flux_z", 500.0, "r_z"),
        ("search", "flux_z", 9.9, "z_mag"),
        ("search", "flux_z", 0.0, "z_mag"),
        ("search", "flux_g", -1.0, None),
        ("none", "flux_z", -1.0, None),
    ],
)
def test_each_cut_removes_what_it_should(tmp_path, kind, column, value, cut):
    made = galaxies()
    values = made[column].copy()
    values[7] = value
    summary = ParentSummary()
    kept = selected(write_fits(tmp_path / "a.fits", made | {column: values}), kind, summary=summary)
    assert kept.num_rows == (40 if cut is None else 39)
    assert summary.removed == ({} if cut is None else {cut: 1})
    assert (summary.read, summary.kept) == (40, kept.num_rows)


def test_magnitudes_are_freed_of_extinction(tmp_path):
    """A galaxy just fainter than z = 20 behind dust is inside; without the correction it is not."""
    dusty = galaxies(flux_z=np.full(40, 9.5, "f4"), mw_transmission_z=np.full(40, 0.9, "f4"))
    path = write_fits(tmp_path / "a.fits", dusty)
    assert selected(path, "search").num_rows == 40
    bare = CUTS["search"].model_copy(update={"dereddened": False})
    assert sum(t.num_rows for t in select_parents([path], bare, SOUTH)) == 0


def test_other_releases_are_counted_and_unknown_ones_refused(tmp_path):
    release = np.full(40, 10000, "i2")
    release[:5] = 9011
    summary = ParentSummary()
    path = write_fits(tmp_path / "a.fits", galaxies(release=release))
    assert selected(path, "lrg", summary=summary).num_rows == 35
    assert summary.removed == {"release dr9-north": 5}
    assert selected(path, "lrg", release=RELEASES["dr9-north"]).num_rows == 5
    with pytest.raises(SchemaMismatch, match="RELEASE 77, which is unknown"):
        selected(write_fits(tmp_path / "b.fits", galaxies(release=np.full(40, 77, "i2"))))


def test_chunks_change_nothing_and_sampling_depends_on_names_only(tmp_path):
    path = write_fits(tmp_path / "a.fits", galaxies(400))
    assert selected(path, "lrg", chunk_rows=7).equals(selected(path, "lrg"))
    half = selected(path, "lrg", fraction=0.5, seed=3)
    assert selected(path, "lrg", fraction=0.5, seed=3, chunk_rows=11).equals(half)
    assert 150 < half.num_rows < 250
    assert not selected(path, "lrg", fraction=0.5, seed=4).equals(half)


def test_overlapping_files_give_each_object_once(tmp_path):
    paths = [write_fits(tmp_path / f"{k}.fits", galaxies()) for k in "ab"]
    repeated, summary = Counter(), ParentSummary()
    rows = select_parents(paths, CUTS["lrg"], SOUTH, summary=summary)
    shards = list(by_brick(rows, tmp_path / "s", repeated=repeated))
    assert sum(s.num_rows for s in shards) == 40
    assert repeated == {}
    assert str(summary) == "80 rows: 40 kept; removed by repeated 40"


@pytest.mark.parametrize("chunk_rows", [1, 7, 10**6])
@pytest.mark.parametrize("numbered", [True, False])
def test_an_object_that_comes_twice_in_a_file_is_kept_once(tmp_path, chunk_rows, numbered):
    made = {name: np.concatenate([values, values[:9]]) for name, values in galaxies().items()}
    if not numbered:
        del made["objid"]
    summary = ParentSummary()
    kept = selected(write_fits(tmp_path / "a.fits", made), "lrg", summary=summary, chunk_rows=chunk_rows)
    assert TARGETS.check(kept).all_passed
    assert (summary.read, summary.kept, summary.removed) == (49, 40, {"repeated": 9})
    assert kept.column("target_id")[0].as_py().startswith("10000-5-0" if numbered else "J003.")


@given(st.lists(st.lists(st.integers(0, 40), max_size=30), max_size=12))
def test_what_was_seen_is_what_a_set_holds(calls):
    seen, truth = _Seen(), set()
    for keys in calls:
        fresh = seen.fresh(np.array(keys, dtype=np.uint64))
        for key, new in zip(keys, fresh.tolist(), strict=True):
            assert new == (key not in truth)
            truth.add(key)
    assert sum(array.size for array in seen._arrays) == len(truth)
    assert len(seen._arrays) <= 1 + np.log2(1 + len(truth))


@pytest.mark.parametrize(("column", "value"), [("brickid", 2**20), ("objid", -1)])
def test_an_identity_that_is_none_is_refused(tmp_path, column, value):
    made = galaxies()
    made[column] = np.where(np.arange(40) == 5, value, made[column]).astype("i4")
    with pytest.raises(DataError, match=f"column '{column}' holds {value}"):
        selected(write_fits(tmp_path / "a.fits", made), "lrg")


def test_so_many_objects_are_chosen_by_their_names(tmp_path):
    a, b = galaxies(300), galaxies(300, brickid=np.full(300, 6, "i4"))
    paths = [write_fits(tmp_path / "a.fits", a), write_fits(tmp_path / "b.fits", b)]

    def names(paths, **more):
        tables = list(select_parents(paths, CUTS["lrg"], SOUTH, **more))
        return {name for table in tables for name in table.column("target_id").to_pylist()}

    summary = ParentSummary()
    chosen = names(paths, most=100, seed=2, summary=summary)
    assert len(chosen) == 100
    assert (summary.read, summary.kept, summary.removed) == (600, 100, {"sampling": 500})
    assert names(paths[::-1], most=100, seed=2, chunk_rows=7) == chosen
    assert names([*paths, paths[0]], most=100, seed=2) == chosen
    assert names(paths, most=40, seed=2) < chosen
    assert names(paths, most=100, seed=3) != chosen
    assert names(paths, most=10**6) == names(paths)


@pytest.mark.parametrize(
    "more", [{"fraction": 0.0}, {"fraction": 1.5}, {"most": 0}, {"most": 5, "fraction": 0.5}]
)
def test_a_sample_that_is_none_is_refused(tmp_path, more):
    with pytest.raises(ConfigError, match="select_parents: key"):
        selected(write_fits(tmp_path / "a.fits", galaxies()), "lrg", **more)


def test_hosts_near_known_lenses_are_kept_as_rejects(tmp_path):
    made = galaxies()
    known = KnownLenses([made["ra"][4]], [made["dec"][4] + 5 / 3600])
    rows = selected(write_fits(tmp_path / "a.fits", made), "lrg", exclude=known.near).to_pylist()
    assert [row["objid"] for row in rows if row["reject"] == "known_lens"] == [4]
    summary = ParentSummary()
    selected(tmp_path / "a.fits", "lrg", exclude=known.near, summary=summary)
    assert str(summary) == "40 rows: 40 kept; of the kept rejected: known_lens 1"


@pytest.mark.parametrize("flux", [np.nan, np.inf, -np.inf, 0.0, -1e30])
@pytest.mark.parametrize("through", [0.9, 0.0, -0.9, np.nan, np.inf, 2.0])
def test_what_has_no_magnitude_passes_no_cut(tmp_path, flux, through):
    """Two negatives make no positive, and a flux over nothing is not bright."""
    summary = ParentSummary()
    made = galaxies(flux_z=np.full(40, flux, "f4"), mw_transmission_z=np.full(40, through, "f4"))
    assert selected(write_fits(tmp_path / "a.fits", made), "search", summary=summary).num_rows == 0
    assert summary.removed == {"z_mag": 40}


@pytest.mark.parametrize("through", [0.0, -0.9, np.nan, 2.0])
def test_a_transmission_that_is_none_gives_no_magnitude(tmp_path, through):
    made = galaxies(mw_transmission_z=np.full(40, through, "f4"))
    assert selected(write_fits(tmp_path / "a.fits", made), "search").num_rows == 0


def test_what_is_no_number_becomes_null_in_targets(tmp_path):
    made = galaxies(flux_g=np.full(40, np.nan, "f4"), shape_r=np.full(40, np.inf, "f4"))
    kept = selected(write_fits(tmp_path / "a.fits", made), "none")
    assert TARGETS.check(kept).all_passed
    assert kept.column("flux_g").null_count == kept.column("shape_r").null_count == 40


@pytest.mark.parametrize(
    ("without", "kind", "says"),
    [
        (("type",), "lrg", "lacks the column 'type', which the cuts need"),
        (("flux_g",), "lrg", "lacks the column 'flux_g', which the cuts need"),
        (("flux_g",), "search", None),
        (("flux_g", "flux_r", "flux_z"), "search", "lacks the column 'flux_z', which the cuts need"),
        (("mw_transmission_g",), "lrg", "lacks mw_transmission_g but has it in r, z"),
        (("mw_transmission_g",), "search", None),
    ],
)
def test_a_cut_that_has_not_its_columns_is_refused(tmp_path, without, kind, says):
    path = write_fits(tmp_path / "a.fits", {k: v for k, v in galaxies().items() if k not in without})
    if says is None:
        assert selected(path, kind).num_rows == 40
    else:
        with pytest.raises(SchemaMismatch, match=says):
            selected(path, kind)


def test_what_was_not_looked_at_is_said(tmp_path):
    made = {k: v for k, v in galaxies().items() if not k.startswith(("nobs_z", "mask", "release", "brick_p"))}
    summary = ParentSummary()
    kept = selected(write_fits(tmp_path / "a.fits", made), "lrg", summary=summary)
    assert kept.num_rows == 40
    said = str(summary)
    for words in (
        "no nobs_z: exp",
        "no maskbits",
        "no brick_primary",
        "no release: rows are taken for dr10-south",
    ):
        assert words in said
    assert "extinction" not in said


def test_a_brick_without_a_name_is_refused(tmp_path):
    made = galaxies(brickname=np.full(40, "here"))
    with pytest.raises(DataError, match="column 'brickname' holds 'here'"):
        selected(write_fits(tmp_path / "a.fits", made), "lrg")


def test_every_number_of_a_cut_says_where_it_comes_from():
    for field in list(CUTS["lrg"].__class__.model_fields.values())[1:]:
        assert field.json_schema_extra["tag"] in "MSCAK"
        assert field.json_schema_extra["basis"]


@pytest.mark.realdata
def test_the_real_faint_parents():
    """828 of 1,509: type, 0.6 < r-z < 2.0, 0.9 < g-r < 2.3, r < 22, counted here with numpy alone."""
    path = DATA / "dr10_lrgs.csv"
    if not path.exists():
        pytest.skip("the real catalogues are not beside this checkout")
    table = pa.csv.read_csv(path)
    g, r, z = (22.5 - 2.5 * np.log10(np.clip(table[f"FLUX_{b}"].to_numpy(), 1e-9, None)) for b in "GRZ")
    good = (np.array(table["TYPE"].to_pylist()) != "PSF") & (r < 22) & (g - r > 0.9) & (g - r < 2.3)
    good &= (r - z > 0.6) & (r - z < 2.0)
    summary = ParentSummary()
    kept = selected(path, "lrg", summary=summary)
    assert kept.num_rows == int(good.sum()) == 828
    assert np.allclose(np.sort(kept.column("ra_deg").to_numpy()), np.sort(table["RA"].to_numpy()[good]))
    assert "magnitudes are not freed of extinction" in str(summary)
    assert kept.column("brickname").to_pylist()[0] == "0036m320"
    # What each cut removed, counted here in turn.
    left, removed = np.ones(1509, dtype=bool), {}
    for name, passes in (
        ("type", np.array(table["TYPE"].to_pylist()) != "PSF"),
        ("r_mag", r < 22),
        ("g_r", (table["FLUX_G"].to_numpy() > 0) & (g - r > 0.9) & (g - r < 2.3)),
        ("r_z", (r - z > 0.6) & (r - z < 2.0)),
    ):
        removed[name] = int(np.sum(left & ~passes))
        left &= passes
    assert summary.removed == {name: n for name, n in removed.items() if n}
    assert summary.read == summary.kept + sum(summary.removed.values()) == 1509


@pytest.mark.realdata
def test_real_sweep_and_tractor_files_under_the_search_cuts():
    """Counted here with astropy alone; the sample is DR8, and nothing of it is DR10."""
    from astropy.io import fits

    names = ("sweep-310m005-320p000.fits", "tractor-3301m002.fits", "tractor-3303p000.fits")
    if not DATA.is_dir():
        pytest.skip("the real catalogues are not beside this checkout")
    expected = []
    for name in names:
        with fits.open(DATA / name) as units:
            t = units[1].data
            mag = 22.5 - 2.5 * np.log10(np.maximum(t["FLUX_Z"] / t["MW_TRANSMISSION_Z"], 1e-9))
            good = (np.char.strip(t["TYPE"].astype(str)) != "PSF") & (mag < 20)
            good &= (t["MASKBITS"] & (0x2 | 0x400 | 0x2000)) == 0
            good &= np.minimum(np.minimum(t["NOBS_G"], t["NOBS_R"]), t["NOBS_Z"]) > 0
            expected += [f"8000-{b}-{o}" for b, o in zip(t["BRICKID"][good], t["OBJID"][good], strict=True)]
    paths = [DATA / name for name in names]
    summary = ParentSummary()
    tables = list(select_parents(paths, CUTS["search"], RELEASES["dr8-south"], summary=summary))
    found = [name for table in tables for name in table.column("target_id").to_pylist()]
    assert found == expected
    assert summary.read == summary.kept + sum(summary.removed.values()) == 18
    assert all(TARGETS.check(table).all_passed for table in tables)
    summary = ParentSummary()
    assert not list(select_parents(paths, CUTS["search"], SOUTH, summary=summary))
    assert summary.removed == {"release dr8-south": 18}


def test_nan_never_passes():
    rows = pa.table({"type": ["SER"], **{f"flux_{b}": [np.nan] for b in "grz"}})
    assert first_failed(rows, CUTS["lrg"]) == ["r_mag"]
    assert first_failed(rows, CUTS["search"]) == ["z_mag"]
