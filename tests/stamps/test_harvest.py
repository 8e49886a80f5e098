"""Harvest: the synthetic sky and real cutouts become rows of STAMPS that say what they are."""

import numpy as np
import pyarrow as pa
import pytest

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.tables import STAMPS
from darkhaloscope.stamps.harvest import AssumedPsf, HarvestSky, harvest_cutouts
from darkhaloscope.stamps.stamp import Stamp
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.psf import measure_fwhm
from darkhaloscope.survey.sky import plan_bricks


@pytest.fixture(scope="module")
def plan():
    look = {"ring": 3, "spiral": 3, "merger": 3, "spike": 3}
    return plan_bricks(1, 4, 6, priors=SkyPriors(), contaminants=look, anchors=5)


@pytest.fixture(scope="module")
def harvested(plan):
    return HarvestSky(seed=1).run(plan)


def test_the_sky_becomes_stamps_that_keep_the_contract(harvested):
    assert STAMPS.check(harvested).all_passed
    assert harvested.num_rows == 24 + 12 + 5
    for row in harvested.to_pylist():
        stamp = Stamp.from_row(row, where=row["target_id"])
        assert stamp.image.shape == (3, 64, 64)
        assert np.all(np.isfinite(stamp.image))
        assert row["group"] == f"cell:{row['cell']}"
        assert (row["host_domain"], row["arc_domain"], row["reject"]) == ("sim", None, None)
        assert (row["psf_source"], row["noise_source"]) == ("model", "model")


def test_rows_do_not_depend_on_batches_or_order(plan, harvested):
    job = HarvestSky(seed=1)
    one_by_one = pa.concat_tables([job.run(plan.slice(k, 1)) for k in range(plan.num_rows)])
    assert one_by_one.equals(harvested)
    backwards = job.run(plan.take(list(range(plan.num_rows))[::-1]))
    assert backwards.sort_by("target_id").equals(harvested.sort_by("target_id"))
    other = HarvestSky(seed=2).run(plan.slice(0, 1))
    assert other.column("stamp_npz")[0] != harvested.column("stamp_npz")[0]


def test_size_and_priors_are_part_of_the_job(plan):
    small = plan.slice(0, 1)
    assert (
        Stamp.from_row(HarvestSky(seed=1, size=101).run(small).to_pylist()[0], where="x").image.shape[-1]
        == 101
    )
    priors = SkyPriors()
    deeper = priors.model_copy(
        update={"noise": priors.noise.model_copy(update={"sigma_pix": (1e-3, 1e-3, 1e-3)})}
    )
    assert HarvestSky(seed=1, priors=deeper).identity != HarvestSky(seed=1).identity


def galaxies(n=3, size=80, seed=1):
    """Painted galaxies as a stranger's cutouts: image and noise only."""
    plan = plan_bricks(seed, 1, 2 * n, priors=SkyPriors(), anchors=0)
    rows = [r for r in HarvestSky(seed=seed, size=size).run(plan).to_pylist() if r["kind"] == "lrg"][:n]
    return rows, np.stack([Stamp.from_row(row, where="x").image for row in rows])


@pytest.fixture
def npz(tmp_path):
    def write(name="cut", **arrays):
        path = tmp_path / f"{name}.npz"
        np.savez(path, **arrays)
        return path

    return write


def test_cutouts_become_stamps_in_order_with_their_centres(npz):
    truth, images = galaxies()
    table = harvest_cutouts([npz(images=images, sigma_v=np.array([200.0, 220, 240]), units="nanomaggies")])
    assert STAMPS.check(table).all_passed
    rows = table.to_pylist()
    assert [row["target_id"] for row in rows] == ["cut-0000", "cut-0001", "cut-0002"]
    for row, true, image in zip(rows, truth, images, strict=True):
        stamp = Stamp.from_row(row, where="x")
        assert (row["host_domain"], row["arc_domain"], row["kind"]) == ("real", None, "lrg")
        assert row["group"] == f"host:{row['host_id']}"
        assert row["z"] is None
        # Cropped, not resampled: the pixels are the file's own.
        x0 = round(true["x_center_pix"] - row["x_center_pix"])
        y0 = round(true["y_center_pix"] - row["y_center_pix"])
        assert np.array_equal(stamp.image, image[:, y0 : y0 + 64, x0 : x0 + 64])
        if true["flux_r"] > 3:
            assert row["x_center_pix"] + x0 == pytest.approx(true["x_center_pix"], abs=0.15)
        assert row["psfsize_r"] == pytest.approx(1.18)
        assert (row["psf_source"], row["noise_source"]) == ("assumed", "blank_pixels")
    assert rows[1]["sigma_v_kms"] == 220.0


def test_what_the_file_gives_is_used(npz):
    truth, images = galaxies(2)
    invvar = np.stack([Stamp.from_row(row, where="x").invvar for row in truth])
    psf = np.stack([Stamp.from_row(row, where="x").psf for row in truth])[:, :, 1:-1, 1:-1]
    invvar[0, 2, 40, 40] = 0.0
    path = npz(
        images=images,
        invvar=invvar,
        psf=psf,
        ra=np.array([10.0, 20.0]),
        dec=np.array([-5.0, 5.0]),
        pixscale=0.263,
    )
    rows = harvest_cutouts([path], kind="lens", size=70).to_pylist()
    stamp = Stamp.from_row(rows[0], where="x")
    assert stamp.image.shape == (3, 70, 70)
    assert rows[0]["pixel_scale_arcsec"] == pytest.approx(0.263)
    assert (rows[0]["psf_source"], rows[0]["noise_source"]) == ("measured", "invvar")
    assert (rows[0]["arc_domain"], rows[0]["group"][:5]) == ("real", "cell:")
    assert (stamp.invvar == 0).sum() == 1 == (stamp.mask == 0x80).sum()
    assert rows[0]["psfsize_r"] == pytest.approx(measure_fwhm(psf[0, 1], 0.263), rel=1e-4)
    assert rows[1]["psfdepth_r"] == pytest.approx(truth[1]["psfdepth_r"], rel=0.1)


def test_the_assumed_psf_is_a_choice(npz):
    path = npz(images=galaxies(1)[1])
    wide = harvest_cutouts([path], psf=AssumedPsf(psfsize_arcsec=(1.6, 1.5, 1.4), beta=2.5)).to_pylist()[0]
    assert wide["psfsize_r"] == pytest.approx(1.5)
    kernel = Stamp.from_row(wide, where="x").psf[1]
    assert measure_fwhm(kernel, 0.262) == pytest.approx(1.5 / 1.06, rel=0.02)


def test_bad_rows_are_rejected_and_good_ones_kept(npz):
    _, images = galaxies(3)
    images[0, 1, 30:50, :] = 0.0
    images[1, 2, 40, 41] = np.nan
    table = harvest_cutouts([npz(images=images)])
    assert STAMPS.check(table).all_passed
    rows = table.to_pylist()
    assert [row["reject"] for row in rows] == ["missing_band", "not_finite", None]
    assert rows[0]["stamp_npz"] is None is rows[1]["stamp_npz"]


def test_files_without_a_usable_row_are_errors(npz):
    _, images = galaxies(1)
    images[:, 0] = 0.0
    with pytest.raises(DataError, match=r"cut\.npz: none of its 1 images can be used: missing_band"):
        harvest_cutouts([npz(images=images)])
    with pytest.raises(DataError, match=r"row 0: does not hold a stamp of 64 pixels"):
        harvest_cutouts([npz(images=np.ones((1, 3, 50, 50)))])
    with pytest.raises(DataError, match="none of its 0 images"):
        harvest_cutouts([npz(images=np.ones((0, 3, 80, 80)))])


def test_wrong_requests_are_refused(npz, tmp_path):
    path = npz(images=galaxies(1)[1])
    with pytest.raises(DataError, match="kind 'quasar' is unknown"):
        harvest_cutouts([path], kind="quasar")
    with pytest.raises(DataError, match="category 'blob' is unknown"):
        harvest_cutouts([path], kind="contaminant", category="blob")
    with pytest.raises(DataError, match="no file was given"):
        harvest_cutouts([])
    with pytest.raises(DataError, match="two files have this name"):
        harvest_cutouts([path, tmp_path / "elsewhere" / "cut.npz"])


@pytest.mark.realdata
def test_46_real_galaxies(real_data):
    table = harvest_cutouts([real_data / "hosts" / "des46_grz_91.npz"])
    assert STAMPS.check(table).all_passed
    assert table.num_rows == 46
    rows = table.to_pylist()
    magnitude = 22.5 - 2.5 * np.log10([row["flux_r"] for row in rows])
    assert np.median(magnitude) == pytest.approx(20.0, abs=0.3)
    assert {row["pixel_scale_arcsec"] for row in rows} == {np.float32(0.263)}
    assert np.median([row["sigma_v_kms"] for row in rows]) == pytest.approx(235, abs=5)
    sigma = [
        1 / np.sqrt(np.median(Stamp.from_row(row, where="x").invvar[:, :8, :8], axis=(1, 2))) for row in rows
    ]
    assert np.median(sigma, axis=0) == pytest.approx([0.0028, 0.0042, 0.0125], rel=0.07)


@pytest.mark.realdata
def test_real_lenses_and_the_matched_cutout(real_data):
    lenses = [
        real_data / "lenses" / "des_j0330_lens_grz_100.npz",
        real_data / "lenses" / "ls_dr9_giant_arc_357.9087_-54.8817_grz_256.fits",
    ]
    rows = harvest_cutouts(lenses, kind="lens").to_pylist()
    assert [row["arc_domain"] for row in rows] == ["real", "real"]
    assert all(row["group"].startswith("cell:") for row in rows)
    # The cutout is centred on (n - 1) / 2: its file says so elsewhere, the centroid finds it.
    assert rows[0]["x_center_pix"] == pytest.approx(31.5, abs=0.3)
    assert (rows[1]["x_center_pix"], rows[1]["ra_deg"]) == (31.5, pytest.approx(357.9087))
    folder = real_data / "cutouts"
    (row,) = harvest_cutouts(
        [folder / "ls_dr9_59.1067_-30.4848_grz_256_image_invvar.fits"],
        psf=folder / "ls_dr9_59.1067_-30.4848_coadd_psf.fits",
    ).to_pylist()
    assert (row["psf_source"], row["noise_source"], row["brickname"]) == ("measured", "invvar", "0591m305")
    assert row["ra_deg"] == pytest.approx(59.1067, abs=5e-4)
    with pytest.raises(DataError, match="missing_band"):
        harvest_cutouts([folder / "ls_bad_pixels_missing_band.fits"])


@pytest.mark.realdata
def test_a_real_lens_with_weight_and_psf(real_data, tmp_path):
    from astropy.io import fits

    def read(band, what):
        return fits.getdata(real_data / "lenses" / f"DESJ033056.9318-522813.0188_{band}_{what}.fits").astype(
            float
        )

    counts = 1e-3  # zero-point 30 to nanomaggies
    path = tmp_path / "j0330.npz"
    np.savez(
        path,
        images=np.stack([read(band, "sci") for band in "grz"]) * counts,
        invvar=np.stack([read(band, "wht") for band in "grz"]) / counts**2,
        psf=np.stack([read(band, "psf") for band in "grz"]),
        pixscale=0.263,
    )
    (row,) = harvest_cutouts([path], kind="lens").to_pylist()
    (assumed,) = harvest_cutouts(
        [real_data / "lenses" / "des_j0330_lens_grz_100.npz"], kind="lens"
    ).to_pylist()
    assert row["noise_source"] == "invvar"
    a, b = (Stamp.from_row(r, where="x") for r in (row, assumed))
    assert np.allclose(a.image, b.image, atol=1e-5)
    # The noise measured from blank pixels is that of the supplied weights.
    assert np.median(b.invvar[1] / a.invvar[1]) == pytest.approx(1.0, abs=0.35)
