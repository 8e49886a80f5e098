"""The parent sample: who is in, and who was removed by what."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.survey.test_tractor import columns, write_fits

from darkhaloscope.contracts.errors import SchemaMismatch
from darkhaloscope.contracts.tables import TARGETS
from darkhaloscope.survey.known_lenses import KnownLenses
from darkhaloscope.survey.parents import CUTS, ParentSummary, first_failed, select_parents
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
    from collections import Counter

    repeated = Counter()
    shards = list(by_brick(select_parents(paths, CUTS["lrg"], SOUTH), tmp_path / "s", repeated=repeated))
    assert sum(s.num_rows for s in shards) == 40
    assert repeated == {"repeated": 40}


def test_hosts_near_known_lenses_are_kept_as_rejects(tmp_path):
    made = galaxies()
    known = KnownLenses([made["ra"][4]], [made["dec"][4] + 5 / 3600])
    rows = selected(write_fits(tmp_path / "a.fits", made), "lrg", exclude=known.near).to_pylist()
    assert [row["objid"] for row in rows if row["reject"] == "known_lens"] == [4]


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


def test_nan_never_passes():
    rows = pa.table({"type": ["SER"], **{f"flux_{b}": [np.nan] for b in "grz"}})
    assert first_failed(rows, CUTS["lrg"]) == ["r_mag"]
    assert first_failed(rows, CUTS["search"]) == ["z_mag"]
