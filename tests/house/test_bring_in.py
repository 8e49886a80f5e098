"""From a list of positions to stamps, as a user types it: bricks, the cutout service, files."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from benchmarks.mirror import write_brick
from tests.survey.cutout_server import Sky, cutout_service
from tests.survey.test_parents import galaxies
from tests.survey.test_tractor import write_fits

from darkhaloscope.contracts.store import open_dataset
from darkhaloscope.contracts.tables import ANCHORS, CONTAMINANTS, STAMPS, TARGETS

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """(mirror, list of positions): two bricks of five targets each, one position outside."""
    root = tmp_path_factory.mktemp("field")
    lines = ["name,ra,dec"]
    for k in range(2):
        _, ra, dec = write_brick(root, 40.0 + k, -30.0, side=700, targets=5, seed=k + 1)
        lines += [f"T{k}{j},{a:.7f},{d:.7f}" for j, (a, d) in enumerate(zip(ra, dec, strict=True))]
    lines.append("outside,100.0,-30.0")
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    return root


def rows_of(folder):
    return {row["target_id"]: row for row in open_dataset(folder).read().to_pylist()}


def test_a_list_becomes_stamps_by_bricks_and_by_the_service_alike(dhs, field, tmp_path):
    answer = dhs("survey", "targets", field / "list.csv", "-o", tmp_path / "targets")
    assert answer.code == 0, answer.err
    assert "11 rows of targets, rejected: none" in answer.err
    answer = dhs(
        "survey", "bricks", tmp_path / "targets", "-o", tmp_path / "bricks", "--mirror", field, "-n", "1"
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "11 rows of stamps, rejected: no_brick 1" in answer.err
    with cutout_service(Sky(field, native_mask=True)) as server:
        words = ("survey", "fetch", tmp_path / "targets", "-o", tmp_path / "web", "--url", server.url)
        words += ("--cache", tmp_path / "cache", "--rate", "10000", "-n", "1")
        answer = dhs(*words)
        assert answer.code == 0, answer.err
        assert "rejected: outside_footprint 1" in answer.err
        asked = sum(server.asked.values())
        again = dhs(*[w if w != tmp_path / "web" else tmp_path / "web2" for w in words])
        assert again.code == 0
        assert sum(server.asked.values()) == asked
    bricks, web = rows_of(tmp_path / "bricks"), rows_of(tmp_path / "web")
    assert bricks.keys() == web.keys()
    for name, row in bricks.items():
        assert row["stamp_npz"] == web[name]["stamp_npz"]
        assert row["mask_npz"] == web[name]["mask_npz"]
    assert open_dataset(tmp_path / "web2").fingerprint == open_dataset(tmp_path / "web").fingerprint
    assert STAMPS.check(open_dataset(tmp_path / "web").read()).all_passed


def test_a_plain_list_may_be_given_to_bricks_at_once(dhs, field, tmp_path):
    words = ("survey", "bricks", field / "list.csv", "--mirror", field, "-n", "1", "--size", "80")
    answer = dhs(*words, "-o", tmp_path / "s")
    assert answer.code == 0, answer.err
    assert open_dataset(tmp_path / "s").num_rows == 11
    assert open_dataset(tmp_path / "s" / "targets").expect(TARGETS).num_rows == 11


def test_stamps_are_exported_and_come_back(dhs, field, tmp_path):
    dhs("survey", "bricks", field / "list.csv", "-o", tmp_path / "s", "--mirror", field, "-n", "1")
    for layout, out in (("hdf5", "s.h5"), ("fits", "folder"), ("png", "pictures")):
        answer = dhs("export", tmp_path / "s", "-o", tmp_path / out, "--as", layout)
        assert answer.code == 0, answer.err
        assert "10 stamps in" in answer.out
    for given in ("s.h5", "folder"):
        out = tmp_path / f"again-{given}"
        assert dhs("survey", "cutouts", tmp_path / given, "-o", out).code == 0
        back = rows_of(out)
        assert len(back) == 10
        assert all(
            row["stamp_npz"] == rows_of(tmp_path / "s")[name]["stamp_npz"] for name, row in back.items()
        )
    assert dhs("export", tmp_path / "s", "-o", tmp_path / "x", "--as", "jpeg").code == 2
    assert (
        "a picture holds no fluxes"
        in dhs("survey", "cutouts", tmp_path / "pictures", "-o", tmp_path / "y").err
    )


def test_a_parent_sample_is_cut_and_says_what_each_cut_removed(dhs, tmp_path):
    made = galaxies()
    made["type"][:7] = "PSF"
    path = write_fits(tmp_path / "sweep.fits", made)
    answer = dhs("survey", "targets", path, path, "-o", tmp_path / "t", "--cuts", "lrg")
    assert answer.code == 0, answer.err
    assert "80 rows: 33 kept; removed by repeated 33, type 14" in answer.err
    assert open_dataset(tmp_path / "t").num_rows == 33
    half = dhs("survey", "targets", path, "-o", tmp_path / "h", "--cuts", "lrg", "--fraction", "0.5")
    assert half.code == 0
    assert 5 < open_dataset(tmp_path / "h").num_rows < 30
    assert "'faint' is unknown" in dhs("survey", "targets", path, "-o", tmp_path / "x", "--cuts", "faint").err
    north = dhs("survey", "targets", path, "-o", tmp_path / "n", "--cuts", "lrg", "--release", "dr9-north")
    assert "0 kept; removed by release dr10-south 40" in north.err


def test_hosts_keep_away_from_known_lenses_unless_told_not_to(dhs, field, tmp_path):
    first = (field / "list.csv").read_text().splitlines()[1].split(",")
    (tmp_path / "lenses.csv").write_text(f"name,ra,dec\nL,{first[1]},{float(first[2]) + 8 / 3600:.7f}\n")
    words = ("survey", "targets", field / "list.csv", "--known-lenses", tmp_path / "lenses.csv", "-o")
    assert "rejected: known_lens 1" in dhs(*words, tmp_path / "a").err
    assert "rejected: none" in dhs(*words, tmp_path / "b", "--keep-known-lenses").err


def test_cutouts_at_a_known_lens_are_no_hosts(dhs, tmp_path):
    """A position of lenscat's first system: rejected as a host, kept as a lens, kept when told to."""
    images = np.random.default_rng(1).normal(0, 0.01, (2, 3, 70, 70))
    np.savez(tmp_path / "a.npz", images=images, ra=[2.83435, 100.0], dec=[-8.7643, -30.0])
    words = ("survey", "cutouts", tmp_path / "a.npz", "-o")
    assert "rejected: known_lens 1" in dhs(*words, tmp_path / "hosts").err
    assert "rejected: none" in dhs(*words, tmp_path / "lenses", "--kind", "lens").err
    assert "rejected: none" in dhs(*words, tmp_path / "kept", "--keep-known-lenses").err
    rejected = [row for row in rows_of(tmp_path / "hosts").values() if row["reject"]]
    assert [row["stamp_npz"] for row in rejected] == [None]


def test_rejected_rows_pass_through_injection(dhs, field, tmp_path):
    dhs("survey", "bricks", field / "list.csv", "-o", tmp_path / "s", "--mirror", field, "-n", "1")
    answer = dhs("inject", tmp_path / "s", "-o", tmp_path / "pairs", "-n", "1")
    assert answer.code == 0, answer.err
    rows = open_dataset(tmp_path / "pairs").read(["target_id", "reject"]).to_pylist()
    assert {row["reject"] for row in rows if row["target_id"] == "outside"} == {"no_brick"}


def test_anchors_and_contaminants_are_gathered_and_become_targets(dhs, tmp_path):
    (tmp_path / "slacs.csv").write_text(
        "name,ra,dec,zd,zs,theta_E\nA,3.6,-32,0.2,0.9,1.2\nB,3.7,-32,0.3,1,1.1\n"
    )
    made = galaxies()
    made["ra"][0], made["dec"][0] = 3.6, -32.0
    sweep = write_fits(tmp_path / "sweep.fits", made)
    words = ("survey", "anchors", tmp_path / "slacs.csv", "-o", tmp_path / "anchors", "--sources", sweep)
    answer = dhs(*words)
    assert answer.code == 0, answer.err
    assert "no anchor: B: no survey source" in answer.err
    (row,) = open_dataset(tmp_path / "anchors").expect(ANCHORS).read().to_pylist()
    assert (row["name"], row["evidence"], row["channel"], row["objid"]) == (
        "A",
        "spec_two_z",
        "spectroscopic",
        0,
    )
    answer = dhs("survey", "targets", tmp_path / "anchors", "--kind", "lens", "-o", tmp_path / "lens-targets")
    assert answer.code == 0, answer.err
    assert rows_of(tmp_path / "lens-targets")["A"]["theta_e_arcsec"] == pytest.approx(1.2)
    (tmp_path / "rings.csv").write_text("name,ra,dec,class\nR,10,5,ring\n")
    assert dhs("survey", "contaminants", tmp_path / "rings.csv", "-o", tmp_path / "look").code == 0
    assert open_dataset(tmp_path / "look").expect(CONTAMINANTS).num_rows == 1
    words = ("survey", "targets", tmp_path / "look", "--kind", "contaminant", "--category", "ring")
    answer = dhs(*words, "-o", tmp_path / "look-targets")
    assert answer.code == 0, answer.err
    assert rows_of(tmp_path / "look-targets")["R"]["category"] == "ring"


@pytest.mark.parametrize(
    "refusal",
    [
        (("bricks", "LIST", "--mirror", "nowhere"), 1, "holds neither south/coadd nor coadd"),
        (("bricks", "LIST", "--mirror", "FIELD", "--release", "dr99"), 2, "'dr99' is unknown"),
        (("bricks", "LIST", "--mirror", "FIELD", "--bands", "ugr"), 2, "'ugr' cannot be read"),
        (("bricks", "FIELD", "--mirror", "FIELD"), 1, "holds no finished dataset of targets"),
        (("bricks", "absent.csv", "--mirror", "FIELD"), 1, "there is no such file"),
        (("fetch", "LIST", "--url", "http://127.0.0.1:9", "--rate", "10000"), 1, "does not answer"),
        (("anchors",), 2, "no table was given"),
        (("targets", "LIST", "--kind", "lens", "--cuts", "lrg"), 2, "cuts select possible deflectors"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(dhs, field, tmp_path, monkeypatch, refusal):
    from darkhaloscope.survey import fetch

    words, code, says = refusal
    monkeypatch.chdir(tmp_path)  # the cache lies in the working folder unless told otherwise
    monkeypatch.setattr(fetch, "DEAD_AFTER", 2)
    monkeypatch.setattr(fetch, "LONGEST_WAIT_S", 0.01)
    names = {"LIST": field / "list.csv", "FIELD": field}
    answer = dhs("survey", *[names.get(w, w) for w in words], "-o", tmp_path / "out")
    assert answer.code == code, answer.err
    assert says in answer.last
    assert "Traceback" not in answer.err


@pytest.mark.realdata
def test_real_tables_become_anchors(dhs, tmp_path):
    if not DATA.is_dir():
        pytest.skip("the real tables are not beside this checkout")
    names = ("slacs_theta_e.cat", "desi_candidates.csv", "training_lenses.tsv", "new_lenses.tsv")
    tables = [DATA / "catalogs" / name for name in names]
    answer = dhs("survey", "anchors", *tables, "--lenscat", "-o", tmp_path / "a")
    assert answer.code == 0, answer.err
    assert "desi_candidates.csv: 5104 of 5104 rows stand in lenscat too" in answer.err
    assert "nothing here is matched to the survey yet" in answer.err
    rows = open_dataset(tmp_path / "a").read().to_pylist()
    assert ANCHORS.check(open_dataset(tmp_path / "a").read()).all_passed
    assert Counter(row["evidence"] for row in rows)["spec_two_z"] > 50
    with (tmp_path / "shifted.csv").open("w") as file:
        lines = (DATA / "catalogs" / "desi_candidates.csv").read_text().splitlines()
        file.write(lines[0] + "\n")
        for line in lines[1:]:
            cells = line.split(",")
            file.write(",".join([*cells[:2], f"{float(cells[2]) + 0.05:.5f}", *cells[3:]]) + "\n")
    answer = dhs("survey", "anchors", tmp_path / "shifted.csv", "--lenscat", "-o", tmp_path / "b")
    assert answer.code == 1
    assert "+180.0\" north (3.00')" in answer.last


@pytest.mark.realdata
def test_a_real_brick_without_r_is_refused_and_so_is_another_release(dhs, tmp_path):
    """The real edge brick of DR6 has g and z only; nothing of it becomes a stamp."""
    if not DATA.is_dir():
        pytest.skip("the real bricks are not beside this checkout")
    folder = tmp_path / "dr6" / "coadd" / "095" / "0959p805"
    folder.mkdir(parents=True)
    for path in (DATA / "bricks").glob("legacysurvey-0959p805-*"):
        shutil.copy(path, folder)
    (tmp_path / "list.csv").write_text("name,ra,dec\nA,95.95,80.5\n")
    words = ("survey", "bricks", tmp_path / "list.csv", "--mirror", tmp_path / "dr6", "-n", "1")
    answer = dhs(*words, "-o", tmp_path / "a", "--release", "dr6-north")
    assert answer.code == 0, answer.err
    assert "rejected: missing_band 1" in answer.err
    for kind in ("image", "invvar", "nexp"):
        shutil.copy(
            folder / f"legacysurvey-0959p805-{kind}-g.fits.fz",
            folder / f"legacysurvey-0959p805-{kind}-r.fits.fz",
        )
    answer = dhs(*words, "-o", tmp_path / "b", "--release", "dr6-north")
    assert "rejected: missing_map 1" in answer.err
    assert np.isfinite(open_dataset(tmp_path / "b").read().column("ra_deg").to_numpy()).all()
