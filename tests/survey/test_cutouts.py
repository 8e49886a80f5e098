"""Files of real pixels: every accepted form is read, every broken one is named in a sentence."""

import numpy as np
import pytest
from astropy.io import fits

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.survey.cutouts import check_psf, read_psf, read_real_pixels

IMAGES = np.random.default_rng(1).normal(0, 0.003, (4, 3, 70, 70)).astype(np.float32)
KERNELS = np.ones((3, 5, 5))


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        path = tmp_path / "cut.npz"
        np.savez(path, **arrays)
        return path

    return write


def test_npz_with_everything(npz):
    rows = list(
        read_real_pixels(
            npz(
                images=IMAGES,
                invvar=np.ones_like(IMAGES),
                psf=KERNELS,
                ra=np.arange(4.0),
                dec=np.float64(-3.0),
                sigma_v=np.array([200.0, np.nan, 230, 250]),
                name=np.array(["a", "b", "c", "d"]),
                pixscale=0.263,
                units="nanomaggies",
            )
        )
    )
    assert [row.index for row in rows] == [0, 1, 2, 3]
    assert rows[2].facts == {"ra_deg": 2.0, "dec_deg": -3.0, "sigma_v_kms": 230.0, "name": "c"}
    assert rows[1].facts["sigma_v_kms"] is None
    assert rows[0].pixel_scale_arcsec == 0.263
    assert rows[0].psf.sum(axis=(1, 2)) == pytest.approx(1.0)
    assert np.array_equal(rows[3].image, IMAGES[3])
    assert rows[0].where.endswith("cut.npz row 0")


def test_a_single_image_is_one_row(npz):
    (row,) = read_real_pixels(npz(images=IMAGES[0]), pixel_scale=0.3)
    assert row.image.shape == (3, 70, 70)
    assert row.pixel_scale_arcsec == 0.3
    assert row.invvar is None is row.psf


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"pictures": IMAGES}, "holds no array 'images'"),
        ({"images": IMAGES[:, :2]}, "needed: (n, 3, y, x)"),
        ({"images": IMAGES[0, 0]}, "no image"),
        ({"images": np.array(["x"])}, "no image"),
        ({"images": IMAGES, "units": "counts"}, "convert to nanomaggies"),
        ({"images": IMAGES, "ra": np.arange(3.0)}, "'ra' has shape (3,)"),
        ({"images": IMAGES, "ra": np.array(["north"])}, "'ra' is 'north'"),
        ({"images": IMAGES, "invvar": IMAGES[:2]}, "'invvar' has shape"),
        ({"images": IMAGES, "psf": np.ones((3, 4, 4))}, "k odd"),
        ({"images": IMAGES, "psf": np.ones((2, 3, 5, 5))}, "'psf' has 2 rows"),
        ({"images": np.array([{"a": 1}], dtype=object)}, "pickled objects, which are never loaded"),
    ],
)
def test_bad_npz_is_one_sentence_with_the_file(npz, arrays, says):
    with pytest.raises(DataError) as caught:
        list(read_real_pixels(npz(**arrays)))
    assert says in str(caught.value)
    assert "cut.npz" in str(caught.value)


def test_files_that_are_no_cutouts(tmp_path, npz):
    path = npz(images=IMAGES)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="truncated or no NPZ"):
        list(read_real_pixels(path))
    with pytest.raises(DataError, match="no such file"):
        list(read_real_pixels(tmp_path / "none.npz"))
    for name, content in {"a.fits": b"hello", "b.jpg": b"x"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            list(read_real_pixels(tmp_path / name))
    np.save(tmp_path / "c.npy", IMAGES)
    (tmp_path / "c.npy").rename(tmp_path / "c.npz")
    with pytest.raises(DataError, match=r"c\.npz: is a bare array"):
        list(read_real_pixels(tmp_path / "c.npz"))


def cube(path, data, crpix=None, **cards):
    header = fits.Header({"VERSION": "DR9", **cards})
    if crpix is not None:
        header.update(
            {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 30.0, "CRVAL2": -20.0}
            | {"CRPIX1": crpix, "CRPIX2": crpix, "CD1_1": -7.27777e-5, "CD1_2": 0.0}
            | {"CD2_1": 0.0, "CD2_2": 7.27777e-5}
        )
    fits.PrimaryHDU(data, header).writeto(path)
    return path


@pytest.mark.parametrize(("crpix", "centre"), [(35.5, 34.5), (36.0, 35.0)])
def test_fits_cube_takes_its_centre_from_the_wcs(tmp_path, crpix, centre):
    (row,) = read_real_pixels(cube(tmp_path / "a.fits", IMAGES[0], crpix, BANDS="grz"))
    assert row.centre == (centre, centre)
    assert row.pixel_scale_arcsec == pytest.approx(0.262, abs=1e-4)
    assert row.facts == {"release": "DR9"}


def test_a_distant_reference_is_no_centre_and_bands_are_found_by_name(tmp_path):
    (row,) = read_real_pixels(cube(tmp_path / "a.fits", IMAGES[0][::-1].copy(), -700.0, BANDS="zrg"))
    assert row.centre is None
    assert np.array_equal(row.image, IMAGES[0])


@pytest.mark.parametrize(
    ("planes", "cards", "says"),
    [
        (3, {}, "does not name the 3 planes"),
        (2, {"BANDS": "gz"}, "has no band r"),
        (3, {"BANDS": "gri"}, "has no band z"),
    ],
)
def test_a_band_that_is_not_there_is_named(tmp_path, planes, cards, says):
    with pytest.raises(DataError, match=says):
        list(read_real_pixels(cube(tmp_path / "a.fits", IMAGES[0][:planes], **cards)))


def test_psf_files(tmp_path, npz):
    path = tmp_path / "psf.fits"
    cards = [fits.Header({"BAND": band}) for band in "grz"]
    units = [fits.PrimaryHDU(KERNELS[0], cards[0]), *(fits.ImageHDU(KERNELS[0], card) for card in cards[1:])]
    fits.HDUList(units).writeto(path)
    assert read_psf(path).sum(axis=(1, 2)) == pytest.approx(1.0)
    assert read_psf(npz(psf=KERNELS)).shape == (3, 5, 5)
    with pytest.raises(DataError, match="holds no array 'psf'"):
        read_psf(npz(kernel=KERNELS))
    with pytest.raises(DataError, match="sums to nothing"):
        check_psf(-KERNELS, "here")


@pytest.mark.realdata
def test_real_files_of_every_form(real_data):
    (lens,) = read_real_pixels(real_data / "lenses" / "ls_dr9_giant_arc_357.9087_-54.8817_grz_256.fits")
    assert lens.centre == (127.5, 127.5)
    (native,) = read_real_pixels(real_data / "cutouts" / "ls_dr3_native_225.fits")
    assert native.centre == (112.0, 112.0)
    assert native.pixel_scale_arcsec == pytest.approx(0.262)
    (both,) = read_real_pixels(real_data / "cutouts" / "ls_dr9_59.1067_-30.4848_grz_256_image_invvar.fits")
    assert both.invvar is not None
    assert both.centre is None
    assert both.facts == {"release": "DR9-south", "brickname": "0591m305"}
    with pytest.raises(DataError, match=r"ls_truncated\.fits: is truncated"):
        list(read_real_pixels(real_data / "cutouts" / "ls_truncated.fits"))
    with pytest.raises(DataError, match="names no band"):
        list(read_real_pixels(real_data / "lenses" / "DESJ033056.9318-522813.0188_g_sci.fits"))
