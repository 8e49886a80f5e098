"""What is exported comes back as it was, and other tools find what they expect."""

import csv
import io

import h5py
import numpy as np
import pytest
from PIL import Image

from darkhaloscope.contracts.errors import DataError, SchemaMismatch
from darkhaloscope.contracts.store import local_writer, write_rows
from darkhaloscope.contracts.tables import PAIRED_STAMPS, SPLITS, STAMPS
from darkhaloscope.injection.inject import Inject
from darkhaloscope.injection.recipe import Recipe
from darkhaloscope.stamps.export import export_stamps
from darkhaloscope.stamps.harvest import HarvestSky, harvest_cutouts
from darkhaloscope.stamps.rgb import viewer_rgb
from darkhaloscope.stamps.stamp import Stamp, decode_planes
from darkhaloscope.survey.cutouts import read_real_pixels
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.sky import plan_bricks

BLOBS = ("stamp_npz", "invvar_npz", "mask_npz")


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """Seven painted galaxies in three shards, and one row without pixels."""
    rows = HarvestSky(seed=3).run(plan_bricks(3, 2, 4, priors=SkyPriors(), anchors=0)).slice(0, 7)
    gone = rows.slice(0, 1).to_pylist()[0]
    gone |= dict.fromkeys(("stamp_npz", "invvar_npz", "mask_npz", "psf_npz"))
    gone |= {"target_id": "gone", "host_id": "gone", "reject": "no_brick"}
    table = STAMPS.conform([*rows.to_pylist(), gone])
    folder = tmp_path_factory.mktemp("sky")
    return write_rows(local_writer(folder / "stamps", STAMPS), table, shard_rows=3, job={"job": "t"})


def good(dataset):
    return [row for row in dataset.read().to_pylist() if row["reject"] is None]


@pytest.mark.parametrize("layout", ["hdf5", "fits"])
def test_what_is_exported_comes_back_pixel_for_pixel(sky, tmp_path, layout):
    out = tmp_path / ("a.h5" if layout == "hdf5" else "folder")
    made = export_stamps(sky, out, layout)
    assert (made.rows, made.without_pixels) == (7, 1)
    read = list(read_real_pixels(out if layout == "hdf5" else out / "index.csv"))
    for row, real in zip(good(sky), read, strict=True):
        stamp = Stamp.from_row(row, where="t")
        assert np.array_equal(np.asarray(real.image, "f4"), stamp.image)
        assert np.array_equal(np.asarray(real.invvar, "f4"), stamp.invvar)
        assert np.array_equal(real.mask, stamp.mask)
        margin = (real.psf.shape[-1] - stamp.psf.shape[-1]) // 2
        inside = real.psf[:, margin : real.psf.shape[1] - margin, margin : real.psf.shape[2] - margin]
        assert np.allclose(inside, stamp.psf, atol=1e-6)
        assert real.facts["target_id"] == row["target_id"]
        assert real.facts["ra_deg"] == pytest.approx(row["ra_deg"], abs=1e-9)
        assert real.centre == pytest.approx((row["x_center_pix"], row["y_center_pix"]), abs=1e-5)
        assert real.pixel_scale_arcsec == pytest.approx(row["pixel_scale_arcsec"], rel=1e-6)


def test_exported_stamps_can_be_brought_in_again(sky, tmp_path):
    export_stamps(sky, tmp_path / "a.h5", "hdf5")
    rows = harvest_cutouts([tmp_path / "a.h5"])
    assert STAMPS.check(rows).all_passed
    for one, other in zip(rows.to_pylist(), good(sky), strict=True):
        assert all(one[blob] == other[blob] for blob in BLOBS)
        assert one["target_id"] == other["target_id"] == one["host_id"]


def test_other_tools_find_images_as_n_3_h_w(sky, tmp_path):
    export_stamps(sky, tmp_path / "a.h5", "hdf5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["images"].shape == (7, 3, 64, 64)
        assert file["images"].dtype == np.float32
        assert file["images"].attrs["units"] == "nanomaggies"
        assert file.attrs["bands"] == "grz"
        assert file.attrs["fingerprint"] == sky.fingerprint
        assert [v.decode() for v in file["target_id"][:]] == [row["target_id"] for row in good(sky)]
        assert np.isnan(file["theta_e_arcsec"][0])


def test_pictures_have_an_index_and_north_up(sky, tmp_path):
    export_stamps(sky, tmp_path / "p", "png")
    with (tmp_path / "p" / "index.csv").open() as file:
        index = list(csv.DictReader(file))
    row, line = good(sky)[2], index[2]
    picture = np.asarray(Image.open(io.BytesIO((tmp_path / "p" / line["file"]).read_bytes())))
    expected = np.round(viewer_rgb(decode_planes(row["stamp_npz"], where="t"))[::-1] * 255)
    assert np.array_equal(picture, expected.astype(np.uint8))
    assert line["target_id"] == row["target_id"]
    with pytest.raises(DataError, match="a picture holds no fluxes"):
        list(read_real_pixels(tmp_path / "p" / "index.csv"))


def test_a_killed_export_goes_on(sky, tmp_path):
    export_stamps(sky, tmp_path / "f", "fits")
    files = sorted((tmp_path / "f").rglob("*.fits"))
    (tmp_path / "f" / "index.csv").unlink()
    files[3].unlink()
    kept = files[0].stat().st_mtime_ns
    export_stamps(sky, tmp_path / "f", "fits")
    assert sorted((tmp_path / "f").rglob("*.fits")) == files
    assert files[0].stat().st_mtime_ns == kept


def test_pairs_bring_control_arc_and_truth(sky, tmp_path):
    rows = Inject(recipe=Recipe(), seed=1).run(sky.read())
    pairs = write_rows(local_writer(tmp_path / "pairs", PAIRED_STAMPS), rows, shard_rows=4, job={"job": "t"})
    made = export_stamps(pairs, tmp_path / "p.h5", "hdf5")
    assert made.rows > 0
    with h5py.File(tmp_path / "p.h5") as file:
        difference = file["images"][:] - file["control"][:]
        assert np.abs(difference).max() > 0
        assert np.all(np.isfinite(file["theta_e_arcsec"][:]))
        assert file["arc"].shape == difference.shape


def test_what_cannot_be_exported(sky, tmp_path):
    splits = write_rows(local_writer(tmp_path / "s", SPLITS), SPLITS.mock(3), shard_rows=4, job={"job": "t"})
    with pytest.raises(SchemaMismatch, match="holds splits"):
        export_stamps(splits, tmp_path / "x.h5", "hdf5")
    gone = [row for row in sky.read().to_pylist() if row["reject"] is not None]
    empty = write_rows(
        local_writer(tmp_path / "e", STAMPS), STAMPS.conform(gone), shard_rows=4, job={"job": "t"}
    )
    with pytest.raises(DataError, match="has no row with pixels"):
        export_stamps(empty, tmp_path / "x.h5", "hdf5")
    assert not list(tmp_path.glob("*.h5"))
