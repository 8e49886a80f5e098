"""Targets to stamps from coadds: the same stamp by both ways, and every refusal a code in the row."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from benchmarks.mirror import Fault, brick_wcs, write_brick
from tests.survey.cutout_server import Sky, cutout_service

from darkhaloscope.contracts.store import local_writer, open_dataset, write_tables
from darkhaloscope.contracts.tables import STAMPS, TARGETS
from darkhaloscope.injection.lens import axis_from_tractor, tractor_ellipticity
from darkhaloscope.runners.local import run_local
from darkhaloscope.stamps.coadds import Acceptance, HarvestAnswers, HarvestBricks
from darkhaloscope.stamps.npz import read_npz
from darkhaloscope.stamps.stamp import Stamp
from darkhaloscope.survey.fetch import fetch_answers
from darkhaloscope.survey.release import RELEASES
from darkhaloscope.survey.service import Cache, CutoutService, question
from darkhaloscope.survey.targets import by_brick, make_targets

SOUTH = RELEASES["dr10-south"]
SIDE = 700
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def targets_at(root, name, x, y, **columns):
    (path,) = root.glob(f"*/coadd/*/{name}/*-image-r.fits.fz")
    header = fits.getheader(path, 1)
    ra, dec = brick_wcs(header["CRVAL1"], header["CRVAL2"], SIDE).pixel_to_world_values(x, y)
    given = {"brickname": [name] * len(x)} | columns
    return make_targets(ra, dec, release=SOUTH, source="test", columns=given)


def harvest(root, targets, **more):
    job = HarvestBricks(mirror=str(root), release="dr10-south", **more)
    return job.run(targets).to_pylist()


def test_bricks_and_cutouts_give_the_same_stamp(tmp_path):
    """Bit for bit, at any place within a pixel, on the pixel's centre, and where the brick's edge is near."""
    name, *_ = write_brick(tmp_path / "m", 40.0, -30.0, side=SIDE, targets=60)
    rng = np.random.default_rng(5)
    x = np.concatenate([rng.uniform(60, SIDE - 60, 12), [300.0, 300.5, 31.0, 30.2, SIDE - 33.0, 20.0]])
    y = np.concatenate([rng.uniform(60, SIDE - 60, 12), [200.0, 200.5, 300.0, SIDE - 31.5, 90.0, 300.0]])
    targets = targets_at(tmp_path / "m", name, x, y)
    bricks = harvest(tmp_path / "m", targets)
    with cutout_service(Sky(tmp_path / "m", native_mask=True)) as server:
        service = CutoutService(release="dr10-south", url=server.url, rate_per_s=1e4)
        fetch_answers(targets, service, tmp_path / "cache")
    fetched = HarvestAnswers(cache=str(tmp_path / "cache"), service=service).run(targets).to_pylist()
    assert [row["reject"] for row in bricks] == [row["reject"] for row in fetched]
    assert [row["reject"] for row in bricks].count("brick_edge") == 1
    for one, other in zip(bricks, fetched, strict=True):
        if one["reject"] is None:
            for blob in ("stamp_npz", "invvar_npz", "mask_npz"):
                assert one[blob] == other[blob]
            assert abs(one["x_center_pix"] - other["x_center_pix"]) < 1e-6
            assert abs(one["y_center_pix"] - other["y_center_pix"]) < 1e-6
            assert one["psf_source"], other["psf_source"] == ("psfsize", "measured")


@pytest.mark.parametrize(
    ("fault", "accept", "code"),
    [
        (Fault(), Acceptance(), None),
        (Fault(empty_rows={"g": slice(330, 340)}), Acceptance(), "missing_band"),
        (Fault(empty_rows={"g": slice(330, 340)}), Acceptance(empty_share=0.5), None),
        (Fault(empty_rows={"z": slice(0, SIDE)}), Acceptance(), "missing_band"),
        (Fault(mask=(slice(350, 351), slice(353, 354), 2)), Acceptance(), "host_masked"),
        (Fault(mask=(slice(350, 351), slice(353, 354), 2)), Acceptance(core_bits=("SATUR_R",)), None),
        (Fault(mask=(slice(350, 351), slice(357, 358), 2)), Acceptance(), None),
        (Fault(mask=(slice(350, 351), slice(353, 354), 0x1000)), Acceptance(), None),
        (Fault(), Acceptance(min_exposures=4), "too_few_exposures"),
        (Fault(without=["image-z"]), Acceptance(), "missing_band"),
    ],
)
def test_what_a_stamp_may_not_have(tmp_path, fault, accept, code):
    name, *_ = write_brick(tmp_path, 40.0, -30.0, side=SIDE, targets=0, fault=fault)
    (row,) = harvest(tmp_path, targets_at(tmp_path, name, [350.0], [350.0]), accept=accept)
    assert row["reject"] == code
    assert (row["stamp_npz"] is None) == (code is not None)


def test_rows_keep_the_contract_with_pixels_and_without(tmp_path):
    name, *_ = write_brick(tmp_path, 40.0, -30.0, side=SIDE, targets=5)
    targets = targets_at(tmp_path, name, [350.0, 10.0, 300.0], [350.0, 10.0, 310.0])
    other = make_targets([11.0], [5.0], release=RELEASES["dr9-north"], source="t")
    gone = make_targets([12.0], [5.0], release=SOUTH, source="t")
    table = pa.concat_tables([targets, other, gone])
    refused = table.schema.get_field_index("reject")
    table = table.set_column(refused, table.schema.field("reject"), [[None, None, "known_lens", None, None]])
    made = HarvestBricks(mirror=str(tmp_path), release="dr10-south").run(table)
    assert STAMPS.check(made).all_passed
    assert made.column("reject").to_pylist() == [
        None,
        "brick_edge",
        "known_lens",
        "wrong_release",
        "no_brick",
    ]
    good = made.to_pylist()[0]
    stamp = Stamp.from_row(good, where="t")
    assert stamp.image.shape == (3, 64, 64)
    assert good["nexp_r"] == 3
    assert good["psfdepth_r"] > 0
    assert good["flux_r"] is not None


def test_the_catalogue_is_kept_and_its_shape_turned_to_the_pixels(tmp_path):
    name, *_ = write_brick(tmp_path, 40.0, -30.0, side=SIDE)
    e1, e2 = tractor_ellipticity(0.6, 0.4)
    columns = {
        "type": ["SER", "REX"],
        "shape_e1": [e1, 0.0],
        "shape_e2": [e2, 0.0],
        "shape_r": [1.0, 1.0],
        "flux_g": [1.0, 1.0],
        "flux_r": [2.0, 2.0],
        "flux_z": [3.0, 3.0],
        "psfdepth_r": [500.0, 500.0],
        "tractor_release": [10000, 10000],
        "brickid": [1, 1],
        "objid": [7, 8],
    }
    ser, rex = harvest(tmp_path, targets_at(tmp_path, name, [300.0, 400.0], [300.0, 400.0], **columns))
    assert (ser["flux_r"], ser["psfdepth_r"], ser["objid"]) == (2.0, 500.0, 7)
    q, phi = axis_from_tractor(e1, e2)
    assert ser["light_q"] == pytest.approx(q, rel=1e-6)
    assert np.cos(2 * (ser["light_phi_rad"] - phi)) == pytest.approx(1.0)
    assert rex["light_q"] != 1.0  # a REX is round by construction: its shape is measured
    assert rex["flux_r"] == 2.0


def test_i_stands_beside_the_three_bands(tmp_path):
    name, *_ = write_brick(tmp_path, 40.0, -30.0, side=SIDE, bands="griz")
    targets = targets_at(tmp_path, name, [350.0], [350.0])
    (row,) = harvest(tmp_path, targets, bands="griz")
    assert read_npz(row["stamp_npz"], where="t")["image_i"].shape == (64, 64)
    assert Stamp.from_row(row, where="t").image.shape == (3, 64, 64)
    (plain,) = harvest(tmp_path, targets)
    assert "image_i" not in read_npz(plain["stamp_npz"], where="t")


def test_the_job_is_the_same_for_any_workers_and_does_not_know_its_mirror(tmp_path):
    names = [write_brick(tmp_path / "m", 40.0 + k, -30.0, side=400, targets=6) for k in range(3)]
    table = [
        make_targets(ra, dec, release=SOUTH, source="t", columns={"brickname": [name] * len(ra)})
        for name, ra, dec in names
    ]
    source = write_tables(
        local_writer(tmp_path / "targets", TARGETS),
        by_brick(table, tmp_path / "s", shard_rows=6),
        job={"job": "t"},
    )
    assert len(source.keys) == 3
    job = HarvestBricks(mirror=str(tmp_path / "m"), release="dr10-south")
    one, two = (
        run_local(job, source, local_writer(tmp_path / f"out{n}", STAMPS), workers=n, batch_rows=n)
        for n in (1, 2)
    )
    assert one.fingerprint == two.fingerprint
    assert open_dataset(tmp_path / "out1").num_rows == 18
    assert job.identity == job.model_copy(update={"mirror": "elsewhere"}).identity
    assert job.identity != job.model_copy(update={"accept": Acceptance(min_exposures=1)}).identity


def test_an_unknown_mask_bit_is_refused():
    with pytest.raises(ValueError, match="mask bit 'SATURN' is unknown"):
        Acceptance(core_bits=("SATURN",))


@pytest.mark.realdata
def test_a_real_native_cutout_becomes_a_stamp(tmp_path):
    """The viewer's own answer for a place of DR9-south, with the coadd PSF of the same place."""
    if not DATA.is_dir():
        pytest.skip("the real pixels are not beside this checkout")
    service = CutoutService(release="dr9-south", size=120, bands="grz")
    targets = make_targets([59.1067], [-30.4848], release=RELEASES["dr9-south"], source="t")
    (row,) = targets.to_pylist()
    assert row["brickname"] == "0591m305"
    stem = DATA / "cutouts" / "ls_dr9_59.1067_-30.4848"
    answers = {
        "native": Path(f"{stem}_grz_256_image_invvar.fits").read_bytes(),
        "psf": Path(f"{stem}_coadd_psf.fits").read_bytes(),
        "mask": _empty_mask(),
    }
    _keep(tmp_path, service, row, answers)
    made = HarvestAnswers(cache=str(tmp_path), service=service).run(targets)
    assert STAMPS.check(made).all_passed
    (stamp_row,) = made.to_pylist()
    assert stamp_row["reject"] is None
    stamp = Stamp.from_row(stamp_row, where="t")
    with fits.open(f"{stem}_grz_256_image_invvar.fits") as units:
        image = {u.header["BAND"]: u.data for u in units[1:] if u.header["IMAGETYP"] == "image"}
    start = int(np.ceil(127.5 - 60)), int(np.ceil(127.5 - 60))
    found = [
        (dy, dx)
        for dy in range(-3, 4)
        for dx in range(-3, 4)
        if np.array_equal(stamp.image[1], image["r"][start[0] + dy :, start[1] + dx :][:120, :120])
    ]
    assert len(found) == 1
    assert 0.9 < stamp_row["psfsize_r"] < 2.0
    wrong = HarvestAnswers(cache=str(tmp_path), service=service.model_copy(update={"release": "dr10-south"}))
    assert wrong.run(targets).column("reject").to_pylist() == ["wrong_release"]


def _empty_mask():
    from tests.survey.cutout_server import _bytes, _unit

    cards = {
        "IMAGETYP": "MASKBITS",
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": 59.1067,
        "CRVAL2": -30.4848,
        "CRPIX1": 64.5,
        "CRPIX2": 64.5,
        "CD1_1": -0.262 / 3600,
        "CD2_2": 0.262 / 3600,
    }
    return _bytes([fits.PrimaryHDU(), _unit(np.zeros((128, 128), "i2"), cards)])


def _keep(folder, service, row, answers):
    import hashlib
    import json

    cache = Cache(folder)
    for kind, body in answers.items():
        asked = question(service, row, kind)
        cache.body_path(asked).parent.mkdir(parents=True, exist_ok=True)
        cache.body_path(asked).write_bytes(body)
        record = {"verdict": "ok", "sha256": hashlib.sha256(body).hexdigest()}
        cache.record_path(asked).write_text(json.dumps(record))
