"""Anchors come from tables and survey sources, or not at all."""

import subprocess
import sys
from pathlib import Path

import astropy.units as u
import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import SkyCoord

from darkhaloscope.contracts.errors import ConfigError, DataError
from darkhaloscope.contracts.tables import ANCHORS, TARGETS
from darkhaloscope.survey.catalogs import read_published
from darkhaloscope.survey.known_lenses import (
    KnownLenses,
    cross_match,
    lenscat_path,
    merge_anchors,
    read_anchor_table,
    read_lenscat,
    targets_from_anchors,
)
from darkhaloscope.survey.matching import SkyTree, check_positions
from darkhaloscope.survey.release import RELEASES

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "catalogs"


def table(tmp_path, text, name="a.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def anchors(tmp_path, text, name="a.csv", **more):
    return read_anchor_table(table(tmp_path, text, name), **more)


def test_a_table_becomes_anchors(tmp_path):
    rows = anchors(tmp_path, "name,RA,DEC,theta_E,grade\nJ1,10.5,-3.25,1.2,A\nJ2,11,4,-1,C\n")
    assert ANCHORS.check(rows).all_passed
    first, second = rows.to_pylist()
    assert (first["name"], first["evidence"], first["arc_domain"]) == ("J1", "confident", "real")
    assert first["theta_e_arcsec"] == pytest.approx(1.2)
    assert (second["theta_e_arcsec"], second["evidence"]) == (None, "candidate")


@pytest.mark.parametrize(
    ("text", "evidence"),
    [
        ("name,ra,dec,z_lens,z_source\nA,1,2,0.3,1.2\n", "spec_two_z"),
        ("name,ra,dec,z_lens,z_source\nA,1,2,0.3,-99\n", "candidate"),
        ("name,ra,dec,z_spec,grading\nA,1,2,0.3,confident\n", "confident"),
        ("name,ra,dec,z_phot_mean,grade\nA,1,2,0.3,B\n", "probable"),
        ("name,ra,dec,zlens,grading\nA,1,2,0.49 | 0.49,probable\n", "probable"),
    ],
)
def test_a_grade_is_a_grade_and_two_redshifts_are_two_redshifts(tmp_path, text, evidence):
    assert anchors(tmp_path, text).column("evidence").to_pylist() == [evidence]


def test_the_caller_may_know_better(tmp_path):
    rows = anchors(tmp_path, "name,ra,dec\nA,1,2\n", evidence="confident", channel="space")
    assert rows.select(["evidence", "channel"]).to_pylist() == [{"evidence": "confident", "channel": "space"}]
    with pytest.raises(ConfigError, match="'certain' is unknown"):
        anchors(tmp_path, "name,ra,dec\nA,1,2\n", evidence="certain")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,ra,dec\nJ1,ten,3\n", "row 1: column 'ra' holds 'ten'"),
        ("name,ra,dec\nJ1,10,3\nJ2,10,\n", "row 2: has no position"),
        ("name,ra,dec\nJ1,10,93\n", "row 1: has no position in degrees"),
    ],
)
def test_a_row_without_a_position_is_named(tmp_path, text, says):
    with pytest.raises(DataError, match=says):
        anchors(tmp_path, text)


def test_rows_of_one_system_become_one_by_the_stated_rule(tmp_path):
    graded = anchors(tmp_path, "name,ra,dec,grade\nG,10.0,5.0,A\nH,50,5,B\n", "graded.csv")
    spec = anchors(tmp_path, "name,ra,dec,zd,zs,theta_E\nS,10.0005,5.0,0.2,1.0,1.3\n", "slacs.csv")
    both = merge_anchors([graded, spec])
    assert both.removed == {"named by another row": 1}
    first, second = both.anchors.to_pylist()
    assert (first["name"], first["also"], first["evidence"], first["grade"]) == ("S", "G", "spec_two_z", "A")
    assert "graded.csv" in first["source"]
    assert "slacs.csv" in first["source"]
    assert second["name"] == "H"
    assert merge_anchors([spec, graded]).anchors.column("name").to_pylist() == ["S", "H"]


def test_the_order_of_rows_changes_nothing(tmp_path):
    rng = np.random.default_rng(1)
    lines = [f"N{k},{rng.uniform(0, 0.02):.6f},{rng.uniform(0, 0.02):.6f},{'ABC'[k % 3]}" for k in range(60)]
    one = merge_anchors([anchors(tmp_path, "name,ra,dec,grade\n" + "\n".join(lines) + "\n")]).anchors
    rng.shuffle(lines)
    other = merge_anchors([anchors(tmp_path, "name,ra,dec,grade\n" + "\n".join(lines) + "\n")]).anchors
    plain = [name for name in one.schema.names if name != "source"]
    assert one.select(plain).equals(other.select(plain))
    assert 5 < one.num_rows < 60


def test_two_systems_of_one_name_keep_both(tmp_path):
    made = merge_anchors([anchors(tmp_path, "name,ra,dec\nA,1,2\nA,3,4\n")]).anchors
    assert made.column("name").to_pylist() == ["A@1.00000+2.00000", "A@3.00000+4.00000"]


def sources(*rows):
    names = ("tractor_release", "brickid", "objid", "ra_deg", "dec_deg", "type")
    columns = {name: [row[k] for row in rows] for k, name in enumerate(names)}
    return pa.table(columns | {f"flux_{band}": [1.0] * len(rows) for band in "grz"})


def test_no_extended_source_no_anchor(tmp_path):
    rows = anchors(tmp_path, "name,ra,dec\nhere,10,0\nstar,20,0\nlost,30,0\nfar,40,0\n")
    arcsec = 1 / 3600
    found = cross_match(
        rows,
        sources(
            (10000, 1, 1, 10.0 + 1.5 * arcsec, 0.0, "DEV"), (10000, 1, 2, 10.0 + 0.5 * arcsec, 0.0, "PSF"),
            (10000, 1, 3, 20.0, 0.0, "PSF"), (10000, 1, 4, 40.0 + 2.1 * arcsec, 0.0, "SER"),
        ),
    )  # fmt: skip
    (row,) = found.anchors.to_pylist()
    assert (row["name"], row["objid"], row["type"]) == ("here", 1, "DEV")
    assert row["match_arcsec"] == pytest.approx(1.5, abs=1e-3)
    assert found.losers == [
        ("star", "point source only"),
        ("lost", "no survey source"),
        ("far", "no survey source"),
    ]
    assert found.removed == {"no survey source": 2, "point source only": 1}
    assert ANCHORS.check(found.anchors).all_passed


def test_anchors_are_targets_at_their_published_place(tmp_path):
    rows = anchors(tmp_path, "name,ra,dec,theta_E,zlens\nA,10,5,1.1,0.4\n")
    made = targets_from_anchors(rows, RELEASES["dr10-south"])
    assert TARGETS.check(made).all_passed
    (row,) = made.to_pylist()
    assert (row["kind"], row["arc_domain"], row["name"], row["ra_deg"]) == ("lens", "real", "A", 10.0)
    assert (row["theta_e_arcsec"], row["z"]) == (pytest.approx(1.1), pytest.approx(0.4))


def test_lenscat_is_read_without_running_it():
    code = (
        "import sys; from darkhaloscope.survey.known_lenses import read_lenscat; "
        "print(read_lenscat()); sys.exit('lenscat' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "anchors; left out: cluster survey" in done.stdout


def test_lenscat_absent_says_what_to_install(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install --no-deps lenscat"):
        lenscat_path()


def test_clusters_are_no_galaxy_lenses():
    """All 32,838 systems keep hosts away; the 9,951 of one survey of clusters and the like are no anchors."""
    everything = read_published(lenscat_path()).rows
    found = read_lenscat()
    assert len(everything) == len(KnownLenses.gather()) == 32838
    assert found.anchors.num_rows + sum(found.removed.values()) == 32838
    refs = found.anchors.column("ref").to_pylist()
    assert not any(ref == "Lopes et al. (2004) - doi:10.1086/423038" for ref in refs)
    assert sum(row["ref"] == "Lopes et al. (2004) - doi:10.1086/423038" for row in everything) == 9951
    assert found.removed["type cluster"] == 1023


def test_a_host_near_a_known_lens_is_seen_at_eleven_arcseconds():
    known = KnownLenses([10.0], [0.0])
    offset = np.array([10.9, 11.1]) / 3600
    assert known.near([10.0, 10.0], offset).tolist() == [True, False]


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "rows", "matched"),
    [
        ("desi_candidates.csv", 5104, 5104),
        ("training_lenses.tsv", 1615, 1568),
        ("new_lenses.tsv", 1192, 1155),
    ],
)
def test_real_tables_against_lenscat_as_astropy_matches_them(name, rows, matched):
    path = DATA / name
    if not path.exists():
        pytest.skip("the real tables are not beside this checkout")
    made = read_anchor_table(path)
    assert made.num_rows == rows
    assert ANCHORS.check(merge_anchors([made]).anchors).all_passed
    known = KnownLenses.gather()
    table = read_published(lenscat_path())
    columns = table.columns(("ra_deg", "dec_deg"))
    there = SkyCoord(
        *(np.array([float(r[columns[a]]) for r in table.rows]) for a in ("ra_deg", "dec_deg")), unit="deg"
    )
    ra, dec = (made.column(axis).to_numpy() for axis in ("ra_deg", "dec_deg"))
    index, separation = known.tree.nearest(ra, dec)
    expected, distance, _ = SkyCoord(ra, dec, unit="deg").match_to_catalog_sky(there)
    assert np.allclose(separation, distance.arcsec, atol=1e-6, rtol=0)
    same = index == expected
    assert np.all(same | (there[index].separation(there[expected]) < 1e-3 * u.arcsec))
    assert int(np.sum(separation <= 2.0)) == matched
    assert check_positions(ra, dec, known.tree, where=name).matched == matched


@pytest.mark.realdata
def test_real_candidates_shifted_by_three_arcminutes_are_refused():
    path = DATA / "desi_candidates.csv"
    if not path.exists():
        pytest.skip("the real tables are not beside this checkout")
    made = read_anchor_table(path)
    ra, dec = (made.column(axis).to_numpy() for axis in ("ra_deg", "dec_deg"))
    reference = KnownLenses.gather().tree
    with pytest.raises(DataError, match=r'median \+0\.0" east and \+180\.0" north \(3\.00\'\)'):
        check_positions(ra, dec + 0.05, reference, where="shifted")
    with pytest.raises(DataError, match=r"lies beside its reference"):
        check_positions((ra + 0.05) % 360, dec, reference, where="shifted")
    assert isinstance(reference, SkyTree)


@pytest.mark.realdata
def test_slacs_brings_einstein_radii_and_is_spectroscopic():
    if not DATA.is_dir():
        pytest.skip("the real tables are not beside this checkout")
    both = merge_anchors([read_anchor_table(DATA / n) for n in ("slacs_theta_e.cat", "slacs_all_params.csv")])
    rows = both.anchors.to_pylist()
    assert {row["channel"] for row in rows} == {"spectroscopic"}
    assert {row["evidence"] for row in rows} == {"spec_two_z"}
    by_name = {row["name"]: row for row in rows}
    assert by_name["SDSSJ0029-0055"]["theta_e_arcsec"] == pytest.approx(0.96)
    assert both.removed["named by another row"] > 20
