"""PSFEx models: GalSim and a PSF known in closed form say the same, and wrong readings of the file do not."""

import numpy as np
import pytest
from astropy.io import fits

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.survey.psf import gaussian_kernel, measure_fwhm, n_eff, sample_offsets
from darkhaloscope.survey.psfex import PsfexModel, psfex_kernels, read_psfex

SCALE = 0.262
ZERO, SPAN = (1024.0, 2048.0), (1000.0, 2100.0)
PLACES = [(0.0, 0.0), (1023.0, 2047.0), (1900.0, 300.0), (30.0, 4000.0)]

WIDTHS = {"1": 0.95, "x": 1.6, "xx": 0.8, "y": 1.1, "xy": 1.3, "yy": 2.0}
SHARES = {"1": 1.0, "x": 0.04, "xx": 0.06, "y": -0.12, "xy": 0.05, "yy": 0.03}
"""A PSF that varies like none: each term of the polynomial a Moffat of its own. The sum of them is known."""


def moffat(fwhm, step, side=63, shift=(0.0, 0.0)):
    """A Moffat sampled every `step` pixels, per native pixel."""
    axis = (np.arange(side) - side // 2) * step
    alpha = fwhm / SCALE / (2.0 * np.sqrt(2.0 ** (1.0 / 3.0) - 1.0))
    square = (axis[None, :] - shift[0]) ** 2 + 1.1 * (axis[:, None] - shift[1]) ** 2
    return (1.0 + square / alpha**2) ** -3.0 / alpha**2


def polynomial(x_pix, y_pix):
    x, y = (x_pix + 1.0 - ZERO[0]) / SPAN[0], (y_pix + 1.0 - ZERO[1]) / SPAN[1]
    return {"1": 1.0, "x": x, "xx": x * x, "y": y, "xy": x * y, "yy": y * y}


def truth(x_pix, y_pix, oversampling, size=31):
    side = (size - 1) * oversampling + 1
    terms = polynomial(x_pix, y_pix)
    made = sum(terms[k] * SHARES[k] * moffat(WIDTHS[k], 1.0 / oversampling, side) for k in WIDTHS)
    return made / made[::oversampling, ::oversampling].sum()


def psfex_table(step=0.7, side=63, **changes):
    """A PSFEx extension, with the keys that PSFEx writes; None takes a key out."""
    planes = np.stack([SHARES[k] * moffat(WIDTHS[k], step, side) for k in WIDTHS])
    planes = changes.pop("planes", planes).astype(np.float32)
    shape = planes.shape[::-1]
    column = fits.Column(
        changes.pop("column", "PSF_MASK"), f"{planes.size}E", dim=str(shape), array=planes[None]
    )
    table = fits.BinTableHDU.from_columns([column])
    keys = {
        "POLNAXIS": 2, "POLGRP1": 1, "POLNAME1": "X_IMAGE", "POLZERO1": ZERO[0], "POLSCAL1": SPAN[0],
        "POLGRP2": 1, "POLNAME2": "Y_IMAGE", "POLZERO2": ZERO[1], "POLSCAL2": SPAN[1],
        "POLNGRP": 1, "POLDEG1": 2, "PSF_FWHM": 3.7, "PSF_SAMP": step,
        "PSFNAXIS": 3, "PSFAXIS1": side, "PSFAXIS2": side, "PSFAXIS3": len(planes),
    }  # fmt: skip
    table.header.update({k: v for k, v in (keys | changes).items() if v is not None})
    return table


def write(path, *tables):
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(path)
    return path


@pytest.fixture
def psfex_file(tmp_path):
    def make(**changes):
        return write(tmp_path / "made.psf", psfex_table(**changes))

    return make


def galsim_kernel(table, x_pix, y_pix, *, size=31, interpolant=None, oversampling=1):
    """GalSim's reading of the same extension, on the same pixels; `interpolant` replaces its Lanczos-3."""
    galsim = pytest.importorskip("galsim")
    from galsim.des import DES_PSFEx

    model, place = DES_PSFEx(table), galsim.PositionD(x_pix + 1.0, y_pix + 1.0)
    profile = model.getPSF(place)
    if interpolant is not None:
        image = galsim.Image(model.getPSFArray(place))
        profile = galsim.InterpolatedImage(image, scale=model.sample_scale, x_interpolant=interpolant)
    side = (size - 1) * oversampling + 1
    drawn = profile.drawImage(nx=side, ny=side, scale=1.0 / oversampling, method="no_pixel", dtype=float)
    return drawn.array / drawn.array[::oversampling, ::oversampling].sum()


def worst(kernel, reference):
    return np.abs(kernel - reference).max() / reference.max()


@pytest.mark.parametrize("step", [0.5, 0.6, 0.7, 0.8, 1.0])
def test_native_kernels_are_those_of_galsim(psfex_file, step):
    model = read_psfex(psfex_file(step=step))
    assert (model.step_pix, model.fwhm_pix) == (step, 3.7)
    off = [worst(model.kernel(*at), galsim_kernel(psfex_table(step=step), *at)) for at in PLACES]
    assert max(off) < 5e-3  # GalSim's Lanczos-3 is that far off the closed form, the spline a tenth of it
    as_if_native = PsfexModel(model.terms, model.degree, model.zero, model.scale, 1.0, None, "")
    swapped = [worst(model.kernel(y, x), galsim_kernel(psfex_table(step=step), x, y)) for x, y in PLACES]
    assert max(swapped) > 0.04
    if step < 1.0:
        assert worst(as_if_native.kernel(5.0, 5.0), model.kernel(5.0, 5.0)) > 0.2


@pytest.mark.parametrize("step", [0.5, 0.7, 1.0])
def test_kernels_between_pixels_are_those_of_galsim_with_an_interpolation_as_good(psfex_file, step):
    galsim = pytest.importorskip("galsim")
    model = read_psfex(psfex_file(step=step))
    for at in PLACES:
        kernel = model.kernel(*at, oversampling=2)
        reference = galsim_kernel(psfex_table(step=step), *at, oversampling=2, interpolant=galsim.Lanczos(15))
        assert kernel.shape == (61, 61)
        assert worst(kernel, reference) < 2e-3


@pytest.mark.parametrize("step", [0.5, 0.6, 0.7, 0.8, 1.0, 1.2])
@pytest.mark.parametrize("oversampling", [1, 2])
def test_a_psf_known_in_closed_form_is_found_again(psfex_file, step, oversampling):
    model = read_psfex(psfex_file(step=step))
    for at in PLACES:
        kernel, exact = model.kernel(*at, oversampling=oversampling), truth(*at, oversampling)
        assert kernel[::oversampling, ::oversampling].sum() == pytest.approx(1.0, abs=1e-12)
        assert worst(kernel, exact) < (1e-3 if step < 1.0 else 4e-3)
    elsewhere = truth(at[0] + 400.0, at[1], oversampling)
    assert worst(kernel, elsewhere) > 5e-3


def test_the_first_pixel_is_zero_here_and_one_in_the_file(psfex_file):
    model = read_psfex(psfex_file())
    assert (ZERO[0] - 1.0, ZERO[1] - 1.0) == (1023.0, 2047.0)
    assert np.array_equal(model.at(1023.0, 2047.0), model.terms[0])
    assert not np.allclose(model.at(1024.0, 2048.0), model.terms[0], rtol=1e-6)


def test_a_model_off_its_centre_stays_off_it(psfex_file):
    plane = moffat(1.0, 0.7, shift=(0.3, -0.2))
    model = read_psfex(psfex_file(planes=plane[None], POLDEG1=0))
    kernel = model.kernel(3.0, 5.0)
    offset, window = sample_offsets(31), np.exp(-0.5 * np.add.outer(sample_offsets(31) ** 2, [0.0]) / 4.0)
    light = kernel * window * window.T
    # The window halves, nearly, what it sees of a shift; its sign and its axis are what is asked.
    x, y = (light.sum(0) * offset).sum() / light.sum(), (light.sum(1) * offset).sum() / light.sum()
    assert 0.1 < x < 0.3
    assert -0.2 < y < -0.06


def test_beyond_the_model_there_is_nothing(psfex_file):
    model = read_psfex(psfex_file(step=0.5, side=41))
    kernel = model.kernel(0.0, 0.0, size=31)
    assert kernel.sum() == pytest.approx(1.0, abs=1e-12)
    assert not kernel[:5].any()
    assert not kernel[:, -5:].any()
    assert (kernel[5:-5, 5:-5] > 0).all()


def test_a_psf_that_does_not_vary_has_no_polynomial(tmp_path):
    table = psfex_table(planes=moffat(1.0, 0.7)[None], POLNAXIS=0, POLDEG1=None, POLNAME1=None, POLNAME2=None)
    model = read_psfex(write(tmp_path / "constant.psf", table))
    assert np.array_equal(model.at(0.0, 0.0), model.at(2000.0, 4000.0))
    assert model.kernel(0.0, 0.0).sum() == pytest.approx(1.0)


def test_each_ccd_has_its_extension_and_each_band_its_model(tmp_path):
    second = psfex_table(planes=moffat(1.4, 0.7)[None], POLDEG1=0)
    path = write(tmp_path / "mosaic.psf", psfex_table(), second)
    models = [read_psfex(path), read_psfex(path, extension=2), read_psfex(path)]
    psf = psfex_kernels(models, [(0.0, 0.0), (9.0, 9.0), (1900.0, 300.0)], oversampling=2)
    assert psf.samples.shape == (3, 61, 61)
    assert np.array_equal(psf.samples[2], models[2].kernel(1900.0, 300.0, oversampling=2))
    assert measure_fwhm(psf.native[1], SCALE) == pytest.approx(1.4, rel=0.05)
    with pytest.raises(DataError, match=r"extension 3 holds no column PSF_MASK \(such tables there: 1, 2\)"):
        read_psfex(path, extension=3)


def refuse(path, says):
    with pytest.raises(DataError, match=says) as caught:
        read_psfex(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"POLZERO1": None}, "POLZERO1 is absent"),
        ({"POLSCAL2": "wide"}, "POLSCAL2 is 'wide', no number"),
        ({"POLSCAL2": 0.0}, "cannot be divided by"),
        ({"PSF_SAMP": None}, "PSF_SAMP is absent"),
        ({"PSF_SAMP": -0.5}, "PSF_SAMP = -0.5"),
        ({"PSF_SAMP": True}, "PSF_SAMP is True, no number"),
        ({"POLDEG1": None}, "POLDEG1 is absent"),
        ({"POLDEG1": 1.5}, "no degree"),
        ({"POLDEG1": 3}, r"a polynomial of degree 3 needs \(10, y, x\)"),
        ({"POLNAME1": "Y_IMAGE", "POLNAME2": "X_IMAGE"}, "depends on Y_IMAGE, X_IMAGE"),
        ({"POLNAME2": "MAG_AUTO"}, "depends on X_IMAGE, MAG_AUTO"),
        ({"POLNAXIS": 3, "POLNAME3": ":AIRMASS"}, ":AIRMASS"),
        ({"POLNGRP": 2}, "in one group"),
        ({"side": 62}, "y x odd"),
        ({"planes": np.full((6, 63, 63), np.nan)}, "not finite"),
        ({"column": "PSF"}, "holds no column PSF_MASK"),
    ],
)
def test_what_is_no_psfex_model_is_refused(psfex_file, changes, says):
    refuse(psfex_file(**changes), says)


def test_files_that_are_not_there_not_fits_or_cut_short_are_refused(tmp_path, psfex_file):
    refuse(tmp_path / "absent.psf", "there is no such file")
    (tmp_path / "text.psf").write_text("POLNAXIS = 2\n")
    refuse(tmp_path / "text.psf", "no FITS file")
    refuse(write(tmp_path / "image.psf", fits.ImageHDU(np.ones((5, 5)))), "holds no column PSF_MASK")
    whole = psfex_file().read_bytes()
    for length in (0, 1000, 2880, 5000, 8640, len(whole) // 2, len(whole) - 5000):
        (tmp_path / "short.psf").write_bytes(whole[:length])
        refuse(tmp_path / "short.psf", r"truncated|no column PSF_MASK \(such tables there: none\)")
    rows = psfex_table()
    twice = fits.BinTableHDU(np.concatenate([rows.data, rows.data]), rows.header)
    refuse(write(tmp_path / "merged.psf", twice), "has 2 rows")


def test_a_place_where_the_polynomial_has_no_light_is_refused(psfex_file):
    planes = np.stack([moffat(1.0, 0.7), -moffat(1.0, 0.7), 0.0 * moffat(1.0, 0.7)])
    model = read_psfex(psfex_file(planes=planes, POLDEG1=1))
    assert model.kernel(ZERO[0], ZERO[1]).sum() == pytest.approx(1.0)
    with pytest.raises(DataError, match=r"x 3000, y 0 sums to .*on this CCD"):
        model.kernel(3000.0, 0.0)
    with pytest.raises(ValueError, match="size odd"):
        model.kernel(0.0, 0.0, size=30)


REAL = "ccds/decals_grz/calib/decam/psfex"
CORNERS = [(x, y) for x in (0.0, 199.0) for y in (0.0, 199.0)]
CCD = [(-1600.0, 800.0), (250.0, -3100.0), (-1600.0, -3100.0), (250.0, 800.0)]
"""Corners of the cutout, and of about the whole CCD, whose middle is at the files' POLZERO."""


@pytest.mark.realdata
def test_real_decam_models_are_those_of_galsim(real_data):
    galsim = pytest.importorskip("galsim")
    paths = sorted((real_data / REAL).rglob("*.fits"))
    assert len(paths) == 3
    swapped = []
    for path in paths:
        model = read_psfex(path)
        table = fits.open(path)[1]
        # The survey's files leave out what GalSim asks for.
        table.header.update({"POLNAXIS": 2, "PSFNAXIS": 3, "PSFAXIS1": 63, "PSFAXIS2": 63})
        for x, y in CORNERS + CCD:
            reference = galsim_kernel(table, x, y)
            assert worst(model.kernel(x, y), reference) < 1e-5
            fine = galsim_kernel(table, x, y, oversampling=2, interpolant=galsim.Lanczos(15))
            assert worst(model.kernel(x, y, oversampling=2), fine) < 8e-3
        swapped += [worst(model.kernel(y, x), galsim_kernel(table, x, y)) for x, y in CCD]
    assert min(swapped) > 2e-2


@pytest.mark.realdata
def test_real_decam_models_have_the_seeing_that_was_measured(real_data):
    paths = sorted((real_data / REAL).rglob("*.fits"))
    widths = [measure_fwhm(read_psfex(path).kernel(100.0, 100.0), SCALE) for path in paths]
    assert sorted(widths) == pytest.approx([0.737, 0.830, 1.085], rel=0.06)
    sharp = read_psfex(paths[int(np.argmin(widths))]).kernel(100.0, 100.0)
    assert n_eff(sharp) > 1.3 * n_eff(gaussian_kernel(0.737, pixel_scale=SCALE))
