"""Every real file beside the checkout: read rightly, or refused with a sentence that names the fault."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.stamps.harvest import harvest_cutouts
from darkhaloscope.stamps.stamp import Stamp
from darkhaloscope.survey.bricks import Mirror, read_brick
from darkhaloscope.survey.catalogs import read_published
from darkhaloscope.survey.cutouts import read_psf, read_real_pixels
from darkhaloscope.survey.release import RELEASES
from darkhaloscope.survey.tractor import catalogue_chunks, read_brick_summary

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real pixels are not beside this checkout"),
]

SINGLE = "is 2-dimensional and names no band"
COADD = {"image": SINGLE, "invvar": SINGLE, "psfsize": SINGLE, "nexp": "holds int16, where fluxes are floats"}


def expected_of_pixels():
    """What comes of each file in cutouts, lenses and bricks when it is brought in as a cutout."""
    expected = {
        "cutouts/ls_bad_pixels_missing_band.fits": "none of its 1 images can be used: missing_band",
        "cutouts/ls_dr3_native_225.fits": None,
        "cutouts/ls_dr9_59.1067_-30.4848_coadd_psf.fits": "is 63 pixels wide, smaller than the 64",
        "cutouts/ls_dr9_59.1067_-30.4848_grz_256_image_invvar.fits": None,
        "cutouts/ls_truncated.fits": "is truncated: unit 0 ends at byte 2162880 of 1389044",
        "lenses/des_j0330_lens_grz_100.npz": None,
        "lenses/ls_dr9_giant_arc_357.9087_-54.8817_grz_256.fits": None,
        "bricks/blobs-0959p805.fits.gz": "where fluxes are floats",
        "bricks/survey-bricks-dr6.fits.gz": "holds no image",
        "bricks/survey-bricks.fits.gz": "holds no image",
    }
    for band in "griz":
        for kind in ("sci", "wht", "psf"):
            expected[f"lenses/DESJ033056.9318-522813.0188_{band}_{kind}.fits"] = SINGLE
    for kind, says in COADD.items():
        brick, bands = ("1358p297", "grz") if kind == "psfsize" else ("0959p805", "gz")
        expected |= {f"bricks/legacysurvey-{brick}-{kind}-{band}.fits.fz": says for band in bands}
    return expected


@pytest.mark.parametrize(("name", "says"), sorted(expected_of_pixels().items()))
def test_each_file_of_pixels(name, says):
    if says is not None:
        with pytest.raises(DataError) as caught:
            harvest_cutouts([DATA / name])
        assert says in str(caught.value)
        assert Path(name).name in str(caught.value)
        return
    (row,) = harvest_cutouts([DATA / name]).to_pylist()
    assert row["reject"] is None
    stamp = Stamp.from_row(row, where=name)
    (real,) = read_real_pixels(DATA / name)
    assert np.array_equal(np.asarray(real.image, "f4"), pixels_by_astropy(DATA / name))
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(real.image[1], "f4"), (64, 64))
    middle = windows.shape[0] // 2
    near = windows[middle - 8 : middle + 9, middle - 8 : middle + 9]
    assert np.any(np.all(near == stamp.image[1], axis=(2, 3)))


def pixels_by_astropy(path):
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            images = arrays["images"]
            return np.asarray(images if images.ndim == 3 else images[0], "f4")
    with fits.open(path) as units:
        if units[0].data is not None:
            return np.asarray(units[0].data, "f4")
        planes = {u.header["BAND"]: u.data for u in units[1:] if u.header["IMAGETYP"] == "image"}
        return np.stack([planes[band] for band in "grz"]).astype("f4")


def test_no_file_is_forgotten():
    on_disk = {
        f"{folder}/{path.name}"
        for folder in ("cutouts", "lenses", "bricks")
        for path in (DATA / folder).iterdir()
    }
    assert on_disk == set(expected_of_pixels())


def test_the_coadd_psf_is_a_psf():
    psf = read_psf(DATA / "cutouts" / "ls_dr9_59.1067_-30.4848_coadd_psf.fits")
    assert psf.shape == (3, 63, 63)
    assert psf.sum(axis=(1, 2)) == pytest.approx(1.0)


def test_each_catalogue_is_a_table_or_a_catalogue():
    for path in sorted((DATA / "catalogs").iterdir()):
        assert read_published(path).rows
        if path.suffix == ".fits":
            assert sum(t.num_rows for t in catalogue_chunks(path)) == 6
    assert read_brick_summary(DATA / "bricks" / "survey-bricks-dr6.fits.gz").num_rows == 1


def test_the_real_maps_of_a_brick_are_read_as_astropy_reads_them(tmp_path):
    """A brick put together of real coadds: g and z of one brick; r, which it lacks, is a copy of g here."""
    folder = tmp_path / "coadd" / "095" / "0959p805"
    folder.mkdir(parents=True)
    stem = "legacysurvey-0959p805"
    for kind in ("image", "invvar", "nexp"):
        for band, source in (("g", "g"), ("r", "g"), ("z", "z")):
            shutil.copy(
                DATA / "bricks" / f"{stem}-{kind}-{source}.fits.fz", folder / f"{stem}-{kind}-{band}.fits.fz"
            )
    with fits.open(folder / f"{stem}-image-g.fits.fz") as units:
        header, image = units[1].header, units[1].data.copy()
    shape = image.shape
    for band in "grz":
        psfsize = fits.PrimaryHDU(np.full(shape, 1.3, "f4"))
        psfsize.writeto(folder / f"{stem}-psfsize-{band}.fits")
    fits.PrimaryHDU(np.zeros(shape, "i4")).writeto(folder / f"{stem}-maskbits.fits")
    rows, columns = np.nonzero(image)
    y, x = int(np.median(rows)), int(np.median(columns))
    from astropy.wcs import WCS

    ra, dec = WCS(header).pixel_to_world_values(x, y)
    mirror = Mirror(str(tmp_path), RELEASES["dr6-north"])
    (answer,) = read_brick(mirror, "0959p805", [float(ra)], [float(dec)], size=64, bands="grz")
    assert not isinstance(answer, str)
    x0, y0 = round(x - answer.x_center_pix), round(y - answer.y_center_pix)
    height, width = answer.image.shape[1:]
    assert np.array_equal(answer.image[0], image[y0 : y0 + height, x0 : x0 + width])
    assert np.array_equal(answer.image[0], answer.image[1])
