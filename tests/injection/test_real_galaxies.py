"""Real galaxies as sources, on a small catalogue written here: what is read, made of it, and lensed."""

import math
import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.random import stream
from darkhaloscope.injection import real_galaxies
from darkhaloscope.injection.lens import Lens
from darkhaloscope.injection.real_galaxies import (
    PixelGalaxy,
    Postage,
    RealGalaxyCatalog,
    central_object,
    portray,
)
from darkhaloscope.injection.render import ArcTask, Frame, Renderer, render_arc
from darkhaloscope.injection.source import Part, Source
from darkhaloscope.survey.psf import Kernels, moffat_kernel

PIXEL, PSF_SIGMA, NOISE = 0.03, 1.5, 2e-3
TURN = st.floats(-7.0, 7.0)
PLACE = st.floats(-2.0, 2.0)
SIZE = st.floats(0.5, 2.0)


def ellipse(side, sigma, *, q=1.0, phi=0.0, x=0.0, y=0.0, psf=PSF_SIGMA):
    """A Gaussian galaxy of unit flux as HST sees it: covariances add. Lengths in pixels from the middle."""
    axis = np.arange(side) - (side - 1) / 2
    turn = np.array([[math.cos(phi), -math.sin(phi)], [math.sin(phi), math.cos(phi)]])
    cov = turn @ np.diag([sigma**2 / q, sigma**2 * q]) @ turn.T + psf**2 * np.eye(2)
    (a, b), (_, c) = np.linalg.inv(cov)
    u, v = axis[None, :] - x, axis[:, None] - y
    return np.exp(-0.5 * (a * u**2 + 2 * b * u * v + c * v**2)) / (2 * np.pi * np.sqrt(np.linalg.det(cov)))


def drizzled(shape, rng):
    """Noise correlated as HST's drizzled images have it, of rms 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), 0.582)
    return noise / noise.std()


PSF = ellipse(41, 0.0, psf=PSF_SIGMA)


def postage(flux=20.0, side=64, noise=NOISE, seed=1, **shape):
    stamp = flux * ellipse(side, shape.pop("sigma", 6.0), **shape)
    stamp += noise * drizzled(stamp.shape, np.random.default_rng(seed))
    return Postage(stamp, PSF, 0.0, noise, PIXEL)


def lumpy(side=41, seed=2, pixel=0.015):
    """A galaxy of clumps, not symmetric in any way."""
    rng = np.random.default_rng(seed)
    image = sum(ellipse(side, s, x=x, y=y, q=0.6, phi=x, psf=0.0) for s, x, y in rng.uniform(3, 6, (5, 3)))
    image = image * np.hanning(side + 2)[1:-1, None] * np.hanning(side + 2)[None, 1:-1]
    return PixelGalaxy(image / (image.sum() * pixel**2), pixel)


GALAXY = lumpy()


# --- the shape ---------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(x=PLACE, y=PLACE, phi=TURN, flip=st.booleans(), magnify=SIZE)
def test_flux_is_one_wherever_a_galaxy_is_however_turned_mirrored_or_enlarged(x, y, phi, flip, magnify):
    placed = GALAXY.placed(x=x, y=y, phi=phi, flip=flip, magnify=magnify)
    axis = np.linspace(-1.1, 1.1, 601) * placed.extent
    u, v = np.meshgrid(x + axis, y + axis)
    assert placed.brightness(u, v).sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1.0, abs=1e-3)


@settings(max_examples=50, deadline=None)
@given(place=st.tuples(PLACE, PLACE), phi=TURN, turn=TURN, magnify=SIZE, flip=st.booleans())
def test_turning_the_galaxy_and_the_positions_changes_nothing(place, phi, turn, magnify, flip):
    (x, y), (u, v) = place, np.random.default_rng(0).normal(0, 0.2, (2, 30))
    cos, sin = math.cos(turn), math.sin(turn)
    still = GALAXY.placed(x=x, y=y, phi=phi, flip=flip, magnify=magnify)
    turned = still.placed(x=x, y=y, phi=phi + turn, flip=flip, magnify=magnify)
    expected = still.brightness(x + u, y + v)
    got = turned.brightness(x + cos * u - sin * v, y + sin * u + cos * v)
    np.testing.assert_allclose(got, expected, atol=1e-9 * GALAXY.image.max())


@settings(max_examples=30, deadline=None)
@given(phi=TURN, magnify=SIZE)
def test_a_flip_mirrors_the_galaxy_before_it_is_turned(phi, magnify):
    u, v = np.random.default_rng(0).normal(0, 0.2, (2, 30))
    mirrored = PixelGalaxy(GALAXY.image[::-1], GALAXY.pixel_arcsec).placed(
        x=0.1, y=0.2, phi=phi, magnify=magnify
    )
    flipped = GALAXY.placed(x=0.1, y=0.2, phi=phi, magnify=magnify, flip=True)
    np.testing.assert_allclose(flipped.brightness(u, v), mirrored.brightness(u, v), atol=1e-9)
    plain = GALAXY.placed(x=0.1, y=0.2, phi=phi, magnify=magnify)
    assert np.abs(plain.brightness(u, v) - mirrored.brightness(u, v)).max() > 1e-2


def test_pixels_lie_where_the_image_says_rows_upwards():
    axis = (np.arange(41) - 20) * 0.015
    u, v = np.meshgrid(axis, axis)
    np.testing.assert_allclose(GALAXY.brightness(u, v), GALAXY.image, atol=1e-9)
    assert np.abs(GALAXY.brightness(v, u) - GALAXY.image).max() > 0.1
    half = 0.5 * (GALAXY.image[:, 1:] + GALAXY.image[:, :-1])
    np.testing.assert_allclose(GALAXY.brightness(u[:, 1:] - 0.0075, v[:, 1:]), half, atol=1e-9)


def test_an_enlarged_galaxy_is_as_much_fainter_per_area_as_it_is_larger():
    u, v = np.random.default_rng(0).normal(0, 0.1, (2, 20))
    large = GALAXY.placed(x=0.0, y=0.0, magnify=2.0)
    np.testing.assert_allclose(large.brightness(2 * u, 2 * v), GALAXY.brightness(u, v) / 4, atol=1e-12)
    assert large.extent == pytest.approx(2 * GALAXY.extent)


def test_there_is_no_light_beyond_the_extent_and_some_just_within():
    angle = np.linspace(0, 2 * np.pi, 400)
    placed = GALAXY.placed(x=0.3, y=-0.2, phi=0.7, magnify=1.3)
    for radius in (1.0001, 1.5, 40.0):
        r = radius * placed.extent
        assert not np.any(placed.brightness(0.3 + r * np.cos(angle), -0.2 + r * np.sin(angle)))
    single = np.zeros((21, 21))
    single[3, 17] = 1.0
    corner = PixelGalaxy(single, 0.1)
    assert corner.extent == pytest.approx(0.1 * math.hypot(8, 8))
    assert corner.brightness(np.array([0.75]), np.array([-0.75]))[0] > 0


@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 2, 5), (3, 1)])
def test_positions_may_have_any_shape(shape):
    x = np.full(shape, 0.01)
    assert GALAXY.brightness(x, x).shape == shape
    assert GALAXY.sampling_error(x, x, x).shape == shape
    assert np.all(GALAXY.brightness(x, x) > 0)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-4)])
def test_torch_gives_what_numpy_gives(dtype, tolerance):
    torch = pytest.importorskip("torch")
    placed = GALAXY.placed(x=0.1, y=-0.05, phi=0.4, flip=True, magnify=1.2)
    x, y = np.random.default_rng(0).normal(0, 0.3, (2, 4, 500))
    reach = 10 ** np.random.default_rng(1).uniform(-3, 1, (4, 500))
    there = [torch.asarray(a, dtype=getattr(torch, dtype)) for a in (x, y, reach)]
    peak = GALAXY.image.max()
    light = placed.brightness(there[0], there[1])
    assert light.dtype == getattr(torch, dtype)
    np.testing.assert_allclose(light.numpy(), placed.brightness(x, y), atol=tolerance * peak)
    here = placed.sampling_error(x, y, reach)
    error = placed.sampling_error(*there).numpy()
    # A position at the edge of a block may fall to either side of it in single precision.
    close = np.isclose(error, here, rtol=10 * tolerance, atol=tolerance * peak)
    assert close.mean() > 0.995


def test_copies_share_pixels_and_each_namespace_converts_them_once():
    torch = pytest.importorskip("torch")
    galaxy, x = lumpy(), torch.zeros(3, dtype=torch.float32)
    first = galaxy.placed(x=0.0, y=0.0).brightness(x, x)
    copy = galaxy.placed(x=0.0, y=0.0, phi=1.0)
    grids = [g._shared.grid_for(x) for g in (galaxy, copy)]
    assert copy.image is galaxy.image
    assert grids[0] is grids[1]
    assert copy._shared.grid_for(x.double()) is not grids[0]
    torch.testing.assert_close(first, copy.brightness(x, x), rtol=1e-5, atol=1e-5)
    # Other pixels are never looked up in the cache of these.
    other = replace(copy, image=2 * galaxy.image)
    torch.testing.assert_close(other.brightness(x, x), 2 * copy.brightness(x, x), rtol=1e-5, atol=1e-5)


def test_a_galaxy_is_pickled_without_what_it_can_make_again():
    torch = pytest.importorskip("torch")
    galaxy = lumpy()
    bare = len(pickle.dumps(galaxy))
    x = np.linspace(-0.2, 0.2, 9)
    light = galaxy.brightness(x, x)
    galaxy.brightness(torch.asarray(x), torch.asarray(x))
    assert len(pickle.dumps(galaxy)) == bare < 1.2 * galaxy.image.nbytes
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(galaxy)).brightness(x, x), light)


@pytest.mark.parametrize("image", [np.zeros(4), np.zeros((0, 4)), np.array([[1.0, np.nan]])])
def test_an_image_that_is_none_is_refused(image):
    with pytest.raises(ValueError, match="two-dimensional and finite"):
        PixelGalaxy(image, 0.03)


# --- how finely it must be sampled -------------------------------------------------------------------------


def cells(galaxy, reach, aspect, n=150, seed=0):
    """Middles of cells about the light, and their edges' vectors: half the diagonal is `reach`."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-0.6, 0.6, (2, n)) * galaxy.extent
    long = 2 * reach / math.hypot(1.0, 1.0 / aspect)
    angle = rng.uniform(0, 2 * np.pi, n)
    along = np.stack([np.cos(angle), np.sin(angle)]) * long
    across = np.stack([-np.sin(angle), np.cos(angle)]) * long / aspect
    return x, y, along, across


def mean(galaxy, cell, offsets):
    x, y, along, across = cell
    i, j = (o.ravel()[:, None] for o in np.meshgrid(offsets, offsets))
    return galaxy.brightness(x + i * along[0] + j * across[0], y + i * along[1] + j * across[1]).mean(axis=0)


@pytest.mark.parametrize("aspect", [1.0, 5.0])
@pytest.mark.parametrize("reach", [0.03, 0.06, 0.12, 0.25, 0.5])
def test_stated_sampling_error_is_the_true_one_or_more_within_reason(reach, aspect):
    galaxy = portray(postage(flux=3.0, sigma=5.0, q=0.5, phi=0.4)).galaxy
    cell = cells(galaxy, reach, aspect)
    gauss = np.array([-0.5, 0.5]) / math.sqrt(3.0)
    true = np.abs(mean(galaxy, cell, (np.arange(40) + 0.5) / 40 - 0.5) - mean(galaxy, cell, gauss))
    stated = galaxy.sampling_error(cell[0], cell[1], np.full(cell[0].shape, reach))
    floor = 1e-4 * galaxy.image.max()
    assert np.mean(true <= stated + floor) > 0.97
    assert np.sqrt(np.mean(stated**2)) < 400 * np.sqrt(np.mean(true**2)) + floor
    assert stated.max() <= np.abs(galaxy.image).max()


def test_sampling_error_falls_with_the_fourth_power_of_reach_and_knows_infinity():
    x = np.zeros(1)
    small, half = (GALAXY.sampling_error(x, x, np.array([r]))[0] for r in (0.01, 0.005))
    assert small / half == pytest.approx(16.0)
    worst = GALAXY.sampling_error(x + 50.0, x, np.array([np.inf]))[0]
    assert worst == pytest.approx(GALAXY.image.max())


@settings(max_examples=60, deadline=None)
@given(distance=st.floats(0.0, 1.0), angle=TURN, reach=st.floats(3.0, 60.0), corner=st.integers(0, 30))
def test_a_bright_pixel_is_seen_from_as_far_as_it_is_within_reach(distance, angle, reach, corner):
    single = np.zeros((31, 43))
    single[corner, 42 - corner] = 1.0
    galaxy = PixelGalaxy(single, 0.1).placed(x=1.0, y=-2.0, phi=0.3, magnify=1.5)
    u, v = (21.0 - corner) * 0.15, (corner - 15.0) * 0.15
    x = 1.0 + math.cos(0.3) * u - math.sin(0.3) * v
    y = -2.0 + math.sin(0.3) * u + math.cos(0.3) * v
    assert galaxy.brightness(np.array([x]), np.array([y]))[0] == pytest.approx(1.0 / 1.5**2)
    reach *= 0.15
    x, y = x + distance * reach * math.cos(angle), y + distance * reach * math.sin(angle)
    stated = galaxy.sampling_error(np.array([x]), np.array([y]), np.array([reach]))[0]
    assert stated == pytest.approx(1.0 / 1.5**2)


def test_a_bright_pixel_far_beyond_reach_is_not_seen():
    single = np.zeros((201, 201))
    single[20, 20] = 1.0
    galaxy = PixelGalaxy(single, 0.1)
    for reach in (0.05, 0.3, 1.0):
        assert galaxy.sampling_error(np.zeros(1), np.zeros(1), np.array([reach]))[0] == 0.0


class Blind(PixelGalaxy):
    """A galaxy that says it needs no sampling."""

    def sampling_error(self, beta_x, beta_y, reach):
        return 0.0 * reach


def test_the_renderer_integrates_a_lensed_galaxy_and_would_not_without_its_sampling_error():
    galaxy = portray(postage(flux=10.0, sigma=5.0, q=0.5, phi=0.4)).galaxy
    psf = np.asarray([moffat_kernel(1.1, 3.0, pixel_scale=0.262, size=31)])
    lens, frame = Lens(1.3, q=0.7, phi=0.4, gamma1=0.03), Frame((48, 48), 23.5, 23.5, 0.262)
    place = {"x": 0.22, "y": 0.1, "phi": 1.0, "magnify": 0.8}

    def rendered(shape, **settings):
        source, renderer = Source((Part(shape.placed(**place), (1.0,)),), "real"), Renderer(**settings)
        task = ArcTask(lens, source, frame, renderer.respond(Kernels.pixelised(psf), frame.shape))
        return renderer.render([task])[0].image[0]

    converged = rendered(galaxy, tolerance=1e-7)
    assert np.abs(rendered(galaxy) - converged).max() < 1e-3 * converged.max()
    blind = Blind(galaxy.image, galaxy.pixel_arcsec)
    assert np.abs(rendered(blind) - converged).max() > 5e-3 * converged.max()


def test_an_unlensed_galaxy_keeps_its_flux_on_the_stamp():
    galaxy = portray(postage()).galaxy.placed(x=0.3, y=0.2, phi=0.5, flip=True, magnify=0.7)
    psf = [moffat_kernel(1.1, 3.0, pixel_scale=0.262, size=63)]
    arc = render_arc(
        Lens(1e-9), Source((Part(galaxy, (2.5,)),), "real"), Frame((64, 64), 31.5, 31.5, 0.262), psf
    )
    assert arc.flux_nmgy[0] == pytest.approx(2.5, rel=1e-3)
    assert arc.image.sum() == pytest.approx(2.5, rel=3e-3)


# --- what is made of a stamp -------------------------------------------------------------------------------


@pytest.mark.parametrize("q", [1.0, 0.6, 0.4])
def test_the_galaxy_has_its_size_and_shape_from_before_the_psf(q):
    known = postage(flux=40.0, sigma=5.0, q=q, phi=0.6, x=1.3, y=-0.8)
    made = portray(known)
    true = 5.0 * PIXEL * math.sqrt(2 * math.log(2))
    assert made.half_light_arcsec == pytest.approx(true, rel=0.02)
    assert made.axis_ratio == pytest.approx(q, abs=0.02)
    seen = portray(replace(known, psf=np.array([[1.0]])))
    assert seen.half_light_arcsec > 1.03 * true


@pytest.mark.parametrize("side", [63, 64])
@pytest.mark.parametrize("psf_side", [40, 41])
def test_the_light_s_middle_is_the_image_s_whatever_the_sides_and_a_psf_off_its_middle(side, psf_side):
    known = postage(flux=40.0, side=side, sigma=4.0, q=0.5, phi=0.6, x=2.3, y=-1.6, noise=1e-4)
    psf = ellipse(psf_side, 0.0, psf=PSF_SIGMA)
    straight = portray(replace(known, psf=psf)).galaxy
    shifted = ellipse(psf_side, 0.0, x=-0.3, y=0.4, psf=PSF_SIGMA)
    moved = replace(known, psf=shifted, stamp=ndimage.shift(known.stamp, (0.4, -0.3), order=5))
    for galaxy in (straight, portray(moved).galaxy):
        axis = np.arange(galaxy.image.shape[0]) - galaxy.image.shape[0] // 2
        centroid = np.array([(galaxy.image @ axis).sum(), (axis @ galaxy.image).sum()]) / galaxy.image.sum()
        assert np.abs(centroid).max() * galaxy.pixel_arcsec < 0.1 * PIXEL


def test_the_deconvolved_image_is_the_known_one_under_the_residual_psf():
    """A Gaussian times (1 + t) exp(-t) in the Fourier domain is G - (s^2/2) laplace G, s^2 added to G's."""
    known = replace(postage(flux=1.0, sigma=4.0, noise=1e-9), noise=1e-9)
    made = portray(known, clean=False)
    s = real_galaxies._SIGMA_PER_FWHM * made.residual_arcsec
    total = (4.0 * PIXEL) ** 2 + s**2
    axis = np.linspace(-0.4, 0.4, 41)
    x, y = np.meshgrid(axis, axis)
    r2 = x**2 + y**2
    gauss = np.exp(-0.5 * r2 / total) / (2 * np.pi * total)
    expected = gauss - 0.5 * s**2 * gauss * (r2 / total - 2.0) / total
    got = made.galaxy.brightness(x, y)
    assert np.abs(got - expected).max() < 3e-3 * expected.max()
    assert np.abs(got - gauss).max() > 3e-2 * expected.max()


def test_a_neighbour_is_taken_away_and_its_light_with_it():
    alone = postage(flux=4.0, side=80, sigma=2.0)
    neighbour = 3.0 * ellipse(80, 1.5, x=25.0, y=24.0)
    crowded = replace(alone, stamp=alone.stamp + neighbour)
    x, y = np.meshgrid(np.linspace(0.6, 0.9, 20), np.linspace(0.6, 0.9, 20))
    cleaned, raw = portray(crowded).galaxy, portray(crowded, clean=False).galaxy
    assert raw.brightness(x, y).max() > 0.2 * raw.image.max()
    assert np.abs(cleaned.brightness(x, y)).sum() < 0.03 * raw.brightness(x, y).sum()
    axis = np.linspace(-0.3, 0.3, 30)
    u, v = np.meshgrid(axis, axis)
    there, here = cleaned.brightness(u, v), portray(alone).galaxy.brightness(u, v)
    assert np.abs(there - here).max() < 0.03 * here.max()


def test_a_cleaned_galaxy_has_no_square_edge():
    """Neither a step at the stamp's border nor a moat: the outermost light is nothing within the noise."""
    for seed in range(5):
        galaxy = portray(postage(flux=8.0, side=48, sigma=9.0, seed=seed)).galaxy
        image, peak = galaxy.image, galaxy.image.max()
        rim = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert np.abs(rim).max() < 0.08 * peak
        assert abs(rim.mean()) < 2e-3 * peak
        sky = postage(flux=8.0, side=48, sigma=5.0, seed=seed)
        dug = portray(replace(sky, stamp=sky.stamp - 1.0 * NOISE), clean=False).galaxy.image
        within = slice((len(dug) - 90) // 2, (len(dug) + 90) // 2)
        assert dug[within, within][[0, -1]].mean() < -5e-3 * dug.max()


def test_light_that_reaches_the_stamp_s_edge_fades_there():
    found = central_object(10.0 * ellipse(40, 12.0), NOISE)
    border = np.concatenate([found.mask[0], found.mask[-1], found.mask[:, 0], found.mask[:, -1]])
    assert border.max() < 0.05
    assert found.mask[20, 20] == 1.0
    assert np.abs(np.diff(found.mask, axis=0)).max() < 0.5


def test_noise_alone_is_no_galaxy():
    for seed in range(20):
        empty = postage(flux=0.0, seed=seed)
        with pytest.raises(ValueError, match="no object stands out"):
            portray(empty)


def test_an_object_in_the_corner_is_not_the_stamp_s_galaxy():
    aside = postage(flux=0.0)
    aside = replace(aside, stamp=aside.stamp + 20.0 * ellipse(64, 2.0, x=26.0, y=-26.0))
    with pytest.raises(ValueError, match="no object stands out"):
        portray(aside)


def test_the_stated_background_is_subtracted():
    known = postage(flux=20.0)
    lifted = replace(known, stamp=known.stamp + 0.01, background=0.01)
    np.testing.assert_allclose(portray(lifted).galaxy.image, portray(known).galaxy.image, atol=1e-9)
    assert portray(replace(lifted, background=0.0)).half_light_arcsec > portray(known).half_light_arcsec


def test_a_faint_galaxy_is_left_a_wider_psf_and_never_drowns_in_its_own_noise():
    wide = []
    for flux in (60.0, 6.0, 1.5, 0.6):
        made = portray(postage(flux=flux, sigma=3.0))
        wide.append(made.residual_arcsec)
        faint = made.galaxy.image
        assert -faint.min() < 0.6 * faint.max()
    assert wide[0] == pytest.approx(0.10)
    assert wide == sorted(wide)
    assert wide[-1] > 0.14
    finest = portray(postage(flux=0.6, sigma=3.0), clean=False).galaxy.image
    assert -finest.min() > 0.5 * finest.max()


def test_a_psf_without_light_is_refused():
    with pytest.raises(ValueError, match="PSF sums to"):
        portray(replace(postage(), psf=np.zeros((5, 5))))


# --- the catalogue -----------------------------------------------------------------------------------------

Z = [0.4, 0.7, 1.0, 1.3, 1.6, 1.9]
R = [22.0, 23.0, 23.5, 24.0, 24.5, 25.0]
N = len(Z)


def table(path, **columns):
    made = [
        fits.Column(name, _format(np.asarray(values)), array=np.asarray(values))
        for name, values in columns.items()
    ]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(made)]).writeto(path, overwrite=True)
    return path


def _format(values):
    return {"i": "J", "f": "D", "U": "64A"}[values.dtype.kind]


def images(path, arrays):
    units = [fits.PrimaryHDU(arrays[0]), *(fits.ImageHDU(a) for a in arrays[1:])]
    fits.HDUList(units).writeto(path, overwrite=True)


FACTS = {
    "IDENT": [100 + k for k in range(N)],
    "HSC_g": [r + 0.4 for r in R],
    "HSC_r": R,
    "HSC_z": [r - 0.5 - 0.01 * k for k, r in enumerate(R)],
    "ZPHOT": Z,
}


def main_columns(**changes):
    columns = {
        "IDENT": FACTS["IDENT"], "RA": [150.0] * N, "DEC": [2.2] * N, "MAG": R, "BAND": ["F814W"] * N,
        "WEIGHT": [1.0] * N, "GAL_FILENAME": ["images.fits"] * N, "PSF_FILENAME": ["psfs.fits"] * N,
        "GAL_HDU": list(range(N)), "PSF_HDU": list(range(N)), "PIXEL_SCALE": [PIXEL] * N,
        "NOISE_MEAN": [0.0] * N, "NOISE_VARIANCE": [NOISE**2] * N, "NOISE_FILENAME": ["none.fits"] * N,
        "stamp_flux": [20.0 - k for k in range(N)],
    }  # fmt: skip
    return {name: values for name, values in (columns | changes).items() if values is not None}


STAMPS = [
    postage(flux=20.0 - k, sigma=3.0 + 0.5 * k, q=0.9 - 0.1 * k, phi=0.3 * k, side=50 + 2 * k, seed=k).stamp
    for k in range(N)
]
NAME = "real_galaxy_catalog_25.2"


@pytest.fixture
def folder(tmp_path):
    """A function that writes a catalogue of six galaxies, with what is to be changed about its tables."""

    def write(facts=FACTS, stamps=STAMPS, psfs=(PSF,) * N, selection=None, **changes):
        place = tmp_path / "COSMOS"
        place.mkdir(exist_ok=True)
        table(place / f"{NAME}.fits", **main_columns(**changes))
        if facts is not None:
            table(place / f"{NAME}_fits.fits", **facts)
        if selection is not None:
            table(place / f"{NAME}_selection.fits", **selection)
        images(place / "images.fits", stamps)
        images(place / "psfs.fits", list(psfs))
        return place

    return write


def test_a_catalogue_s_facts_are_those_of_its_tables_and_images(folder):
    place = folder()
    catalog = RealGalaxyCatalog.open(place)
    assert len(catalog) == N
    assert catalog.unusable == {}
    np.testing.assert_allclose(catalog.z, Z)
    for k in range(N):
        facts = catalog.facts(k)
        assert (facts.index, facts.ident, facts.z, facts.pixel_arcsec) == (k, str(100 + k), Z[k], PIXEL)
        assert facts.mag == pytest.approx([FACTS[name][k] for name in ("HSC_g", "HSC_r", "HSC_z")])
        assert facts.image == ("images.fits", k)
        assert facts.psf == ("psfs.fits", k)
        size = (3.0 + 0.5 * k) * PIXEL * math.sqrt(2 * math.log(2))
        assert facts.half_light_arcsec == pytest.approx(size, rel=0.05)
        assert facts.axis_ratio == pytest.approx(0.9 - 0.1 * k, abs=0.05)
    by_file = RealGalaxyCatalog.open(str(place / f"{NAME}.fits"))
    assert by_file.facts(3) == catalog.facts(3)


def test_galsim_reads_the_catalogue_that_is_written_here(folder):
    galsim = pytest.importorskip("galsim")
    place = folder()
    theirs = galsim.RealGalaxyCatalog(f"{NAME}.fits", dir=str(place))
    assert theirs.nobjects == N
    np.testing.assert_array_equal(theirs.getGalImage(4).array, STAMPS[4])


def test_galaxies_are_kept_up_to_a_bound_and_read_again_alike(folder, monkeypatch):
    monkeypatch.setattr(real_galaxies, "_KEPT", 2)
    catalog = RealGalaxyCatalog.open(folder())
    first = catalog.galaxy(0)
    assert catalog.galaxy(0) is first
    for k in range(1, N):
        catalog.galaxy(k)
    again = catalog.galaxy(0)
    assert again is not first
    np.testing.assert_array_equal(again.image, first.image)


def test_a_pickled_catalogue_is_a_path_and_reads_the_same_in_another_process(folder):
    catalog = RealGalaxyCatalog.open(folder())
    mine = catalog.galaxy(2).image
    assert len(pickle.dumps(catalog)) < 1000
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        theirs = pool.submit(RealGalaxyCatalog.galaxy, catalog, 2).result(timeout=60)
    np.testing.assert_array_equal(theirs.image, mine)


def test_a_forked_process_opens_files_of_its_own(folder, monkeypatch):
    catalog = RealGalaxyCatalog.open(folder())
    catalog.galaxy(0)
    opened = []
    real_open = fits.open
    monkeypatch.setattr(fits, "open", lambda path, **how: opened.append(path) or real_open(path, **how))
    catalog.galaxy(1)
    assert not opened
    monkeypatch.setattr(real_galaxies, "os", SimpleNamespace(getpid=lambda: -1))
    catalog.galaxy(2)
    assert sorted(path.name for path in opened) == ["images.fits", "psfs.fits"]


# --- what cannot be used -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("HSC_g", np.nan, "its g is nan"),
        ("HSC_r", np.inf, "its r is inf"),
        ("HSC_z", -99.0, "its z is -99"),
        ("HSC_r", 99.0, "its r is 99"),
        ("ZPHOT", np.nan, "its zphot is nan"),
        ("ZPHOT", -1.0, "its zphot is -1"),
    ],
)
def test_a_row_without_colour_or_redshift_is_listed_and_never_used(folder, column, value, reason):
    facts = FACTS | {column: [*FACTS[column][:2], value, *FACTS[column][3:]]}
    catalog = RealGalaxyCatalog.open(folder(facts=facts))
    assert catalog.unusable == {2: reason}
    with pytest.raises(DataError, match=rf"galaxy 102: {reason}"):
        catalog.galaxy(2)
    chosen = {catalog.choose(stream(1, "t", str(k)), z_min=0.0, r_mag=24.0) for k in range(100)}
    assert chosen == {0, 1, 3, 4, 5}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"GAL_HDU": [0, 1, 2, 17, 4, 5]}, "HDU 17 of images.fits cannot be read"),
        ({"PSF_HDU": [0, 1, 2, -1, 4, 5]}, "HDU -1 of psfs.fits does not exist"),
        (
            {"GAL_FILENAME": ["images.fits"] * 3 + ["lost.fits"] + ["images.fits"] * 2},
            "lost.fits is not there",
        ),
        (
            {"stamps": [*STAMPS[:3], np.full((9, 9), np.nan), *STAMPS[4:]]},
            "HDU 3 of images.fits is no finite",
        ),
        ({"stamps": [*STAMPS[:3], np.ones(30), *STAMPS[4:]]}, "no finite image, its shape is (30,)"),
        ({"stamps": [*STAMPS[:3], None, *STAMPS[4:]]}, "is no finite image"),
        ({"stamps": [*STAMPS[:3], NOISE * STAMPS[3], *STAMPS[4:]]}, "no object stands out"),
        ({"psfs": [PSF, PSF, PSF, 0 * PSF, PSF, PSF]}, "PSF sums to 0"),
        ({"NOISE_VARIANCE": [1e-6] * 3 + [0.0] + [1e-6] * 2}, "its NOISE_VARIANCE is 0"),
        ({"NOISE_MEAN": [0.0] * 3 + [np.nan] + [0.0] * 2}, "its NOISE_MEAN is nan"),
        ({"PIXEL_SCALE": [PIXEL] * 3 + [-1.0] + [PIXEL] * 2}, "its PIXEL_SCALE is -1"),
        ({"stamp_flux": [1.0] * 3 + [-0.2] + [1.0] * 2}, "its stamp sums to -0.2"),
    ],
)
def test_a_galaxy_whose_images_cannot_be_used_has_a_reason_and_is_never_chosen(folder, changes, reason):
    catalog = RealGalaxyCatalog.open(folder(**changes))
    chosen = {catalog.choose(stream(1, "t", str(k)), z_min=0.0, r_mag=24.0) for k in range(100)}
    assert chosen == {0, 1, 2, 4, 5}
    assert list(catalog.unusable) == [3]
    assert reason in catalog.unusable[3]
    with pytest.raises(DataError, match="galaxy 103"):
        catalog.facts(3)


def test_a_truncated_image_file_costs_the_galaxies_beyond_the_cut_and_no_others(folder):
    place = folder()
    whole = (place / "images.fits").read_bytes()
    (place / "images.fits").write_bytes(whole[: int(0.6 * len(whole))])
    catalog = RealGalaxyCatalog.open(place)
    lost = sorted(catalog.unusable)
    assert lost
    assert lost == list(range(lost[0], N))
    assert 0 < lost[0] < N - 1
    assert all("cannot be read" in reason for reason in catalog.unusable.values())


@pytest.mark.parametrize("index", [-1, N])
def test_a_galaxy_that_the_catalogue_does_not_have_is_an_error(folder, index):
    with pytest.raises(IndexError, match="has no galaxy"):
        RealGalaxyCatalog.open(folder()).galaxy(index)


def selection(**changes):
    good = {
        "IDENT": FACTS["IDENT"][::-1],  # joined by name, whatever the order
        "sn_ellip_gauss": [40.0] * N,
        "min_mask_dist_pixels": [30.0] * N,
        "average_mask_adjacent_pixel_count": [5.0] * N,
        "peak_image_pixel_count": [1.0] * N,
    }
    return good | changes


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sn_ellip_gauss": [40.0, 40.0, 9.9, 40.0, 40.0, 40.0]}, "S/N of 9.9, below 10"),
        ({"sn_ellip_gauss": [40.0, 40.0, np.nan, 40.0, 40.0, 40.0]}, "S/N of nan"),
        ({"min_mask_dist_pixels": [30.0, 30.0, 11.0, 30.0, 30.0, 30.0]}, "masked 11 pixels from its middle"),
        ({"IDENT": [105, 104, 999, 102, 101, 100]}, "_selection.fits does not know it"),
    ],
)
def test_stamps_of_poor_quality_are_left_out_where_the_selection_table_is_there(folder, changes, reason):
    catalog = RealGalaxyCatalog.open(folder(selection=selection(**changes)))
    assert list(catalog.unusable) == [3]
    assert reason in catalog.unusable[3]


def test_a_mask_near_the_middle_is_no_harm_if_what_it_hides_is_faint(folder):
    near = selection(min_mask_dist_pixels=[3.0] * N, average_mask_adjacent_pixel_count=[0.5] * N)
    assert RealGalaxyCatalog.open(folder(selection=near)).unusable == {}


def test_galsim_cuts_the_same_stamps(folder):
    galsim = pytest.importorskip("galsim")
    rng = np.random.default_rng(3)
    mixed = selection(
        sn_ellip_gauss=[40.0, 9.0, 10.0, 30.0, 40.0, 12.0],
        min_mask_dist_pixels=rng.uniform(5, 20, N),
        average_mask_adjacent_pixel_count=rng.uniform(0.5, 1.5, N),
        peak_image_pixel_count=[1.0, 1.0, 0.0, 1.0, 1.0, 1.0],
        IDENT=FACTS["IDENT"],
    )
    facts = FACTS | {"fit_status": [1] * N}
    place = folder(facts=facts, selection=mixed)
    theirs = galsim.GalaxySample(f"{NAME}.fits", dir=str(place), exclusion_level="bad_stamp")
    ours = set(range(N)) - set(RealGalaxyCatalog.open(place).unusable)
    assert ours == set(theirs.orig_index.tolist())
    assert 0 < len(ours) < N


# --- what is missing ---------------------------------------------------------------------------------------


def test_a_catalogue_without_colours_says_what_is_missing_and_what_to_give(folder):
    stock = {"IDENT": FACTS["IDENT"], "zphot": Z, "mag_auto": R}
    with pytest.raises(DataError) as refused:
        RealGalaxyCatalog.open(folder(facts=stock))
    assert "lacks the columns g, r, z: sources need their own colours" in str(refused.value)
    assert "give a table with IDENT, g, r, z and zphot as `photometry`" in str(refused.value)
    with pytest.raises(DataError, match="lacks the columns g, r, z, zphot"):
        RealGalaxyCatalog.open(folder(facts={"IDENT": FACTS["IDENT"]}))


@pytest.mark.parametrize("suffix", ["csv", "fits"])
def test_the_user_s_photometry_fills_in_what_is_missing(folder, tmp_path, suffix):
    place = folder(facts=None)
    own = tmp_path / f"mine.{suffix}"
    rows = {"IDENT": [105, 100, 101, 104, 103], "g": [25.4, 22.4, 23.4, 24.9, 24.4]}
    rows |= {"r": [25.0, 22.0, 23.0, 24.5, 24.0], "z": [24.0, 21.0, 22.0, 23.5, np.nan]}
    rows |= {"ZPHOT": [1.9, 0.4, 0.7, 1.6, 1.3]}
    if suffix == "fits":
        table(own, **rows)
    else:
        lines = [",".join(rows), *(",".join(map(str, row)) for row in zip(*rows.values(), strict=True))]
        own.write_text("\n".join(lines).replace("nan", ""))
    catalog = RealGalaxyCatalog.open(place, photometry=own)
    assert catalog.facts(5).mag == (25.4, 25.0, 24.0)
    assert catalog.facts(1).z == 0.7
    assert catalog.unusable == {2: "its g is nan", 3: "its z is nan"}
    assert pickle.loads(pickle.dumps(catalog)).facts(5) == catalog.facts(5)


def test_the_user_s_photometry_counts_where_both_have_a_column(folder, tmp_path):
    own = table(tmp_path / "mine.fits", IDENT=FACTS["IDENT"], g=[20.0] * N)
    catalog = RealGalaxyCatalog.open(folder(), photometry=own)
    assert catalog.facts(2).mag[0] == 20.0
    assert catalog.facts(2).mag[1] == R[2]


def test_a_column_named_z_in_a_catalogue_is_not_taken_for_a_band(folder):
    facts = {name: values for name, values in FACTS.items() if name != "HSC_z"} | {"z": Z}
    with pytest.raises(DataError, match="lacks the columns z: "):
        RealGalaxyCatalog.open(folder(facts=facts))


def test_a_companion_without_names_goes_row_by_row_and_must_fit(folder):
    nameless = {name: values for name, values in FACTS.items() if name != "IDENT"}
    assert RealGalaxyCatalog.open(folder(facts=nameless)).facts(4).mag[1] == R[4]
    short = {name: values[:-1] for name, values in nameless.items()}
    with pytest.raises(DataError, match="has 5 rows and no IDENT"):
        RealGalaxyCatalog.open(folder(facts=short))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("g,r,z,zphot\n1,2,3,4\n", "lacks the column IDENT"),
        ("IDENT,g,r,z,zphot\n100,20,20,20,1\n100,21,21,21,1\n", "names a galaxy twice"),
        ("IDENT,g,r,z,zphot\n100,bright,20,20,1\n", "holds what is no number"),
        ("IDENT,g,r,z,zphot\n100,20,20\n", "cannot be read as a table"),
        ("", "cannot be read as a table"),
    ],
)
def test_a_photometry_table_that_cannot_be_used_is_named(folder, tmp_path, text, problem):
    own = tmp_path / "mine.csv"
    own.write_text(text)
    with pytest.raises(DataError, match=problem) as refused:
        RealGalaxyCatalog.open(folder(), photometry=own)
    assert "mine.csv" in str(refused.value)


def test_what_is_no_catalogue_is_refused_by_name(folder, tmp_path):
    with pytest.raises(DataError, match=r"no such file or folder.*galsim_download_cosmos"):
        RealGalaxyCatalog.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no such file"):
        RealGalaxyCatalog.open(folder(), photometry=tmp_path / "none.csv")
    text = tmp_path / "text.fits"
    text.write_text("not FITS")
    with pytest.raises(DataError, match=r"text\.fits: cannot be read as a table"):
        RealGalaxyCatalog.open(text)
    images(tmp_path / "image.fits", [PSF])
    with pytest.raises(DataError, match="there is no table in it"):
        RealGalaxyCatalog.open(tmp_path / "image.fits")
    with pytest.raises(
        DataError, match=r"lacks the columns NOISE_MEAN, NOISE_VARIANCE.*RealGalaxyCatalog format"
    ):
        RealGalaxyCatalog.open(folder(NOISE_MEAN=None, NOISE_VARIANCE=None))
    with pytest.raises(DataError, match="holds 0 files"):
        RealGalaxyCatalog.open(tmp_path)
    place = folder()
    shutil.copy(place / f"{NAME}.fits", place / "real_galaxy_catalog_23.5.fits")
    with pytest.raises(DataError, match=r"holds 2 files.*23\.5\.fits.*name the file itself"):
        RealGalaxyCatalog.open(place)


def test_a_catalogue_in_which_nothing_can_be_used_is_refused_with_the_first_reason(folder):
    with pytest.raises(
        DataError, match=r"not one of its 6 galaxies can be used, the first because.*lost\.fits"
    ):
        RealGalaxyCatalog.open(folder(GAL_FILENAME=["lost.fits"] * N))


def test_the_fingerprint_is_of_the_contents_not_of_the_place(folder, tmp_path):
    place = folder()
    mark = RealGalaxyCatalog.open(place).fingerprint
    assert len(mark) == 64
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(place, elsewhere)
    assert RealGalaxyCatalog.open(elsewhere).fingerprint == mark
    own = table(tmp_path / "mine.fits", IDENT=FACTS["IDENT"], g=[20.0] * N)
    marks = {mark, RealGalaxyCatalog.open(place, photometry=own).fingerprint}
    marks.add(RealGalaxyCatalog.open(folder(facts=FACTS | {"HSC_g": [23.0] * N})).fingerprint)
    marks.add(RealGalaxyCatalog.open(folder(NOISE_MEAN=[1e-4] * N)).fingerprint)
    marks.add(RealGalaxyCatalog.open(folder(stamps=[*STAMPS, STAMPS[0]])).fingerprint)
    marks.add(RealGalaxyCatalog.open(folder(selection=selection())).fingerprint)
    assert len(marks) == 6


# --- which galaxy ------------------------------------------------------------------------------------------


def test_the_choice_is_uniform_beyond_the_redshift_and_keyed_by_the_stream(folder):
    catalog = RealGalaxyCatalog.open(folder())
    chosen = [catalog.choose(stream(3, "t", str(k)), z_min=0.9, r_mag=25.0) for k in range(2000)]
    counts = np.bincount(chosen, minlength=N)
    assert counts[:2].sum() == 0
    assert np.all(np.abs(counts[2:] - 500) < 4 * math.sqrt(500 * 0.75))
    again = RealGalaxyCatalog.open(folder())
    order = np.random.default_rng(0).permutation(2000)[:200]
    assert [chosen[k] for k in order] == [
        again.choose(stream(3, "t", str(k)), z_min=0.9, r_mag=25.0) for k in order
    ]
    rng = stream(3, "t", "one")
    assert type(catalog.choose(rng, z_min=0.9, r_mag=25.0)) is int


def test_there_may_be_no_galaxy_beyond_a_redshift(folder):
    catalog = RealGalaxyCatalog.open(folder())
    assert catalog.choose(stream(1, "t", "a"), z_min=1.9, r_mag=24.0) is None
    assert catalog.choose(stream(1, "t", "a"), z_min=1.89, r_mag=24.0) == N - 1


def test_a_choice_among_unreadable_galaxies_ends(folder):
    catalog = RealGalaxyCatalog.open(folder(GAL_HDU=[99] * N))
    assert catalog.choose(stream(1, "t", "a"), z_min=0.0, r_mag=24.0) is None
    assert len(catalog.unusable) == N


def test_no_galaxy_is_enlarged_by_more_than_half(folder):
    catalog = RealGalaxyCatalog.open(folder())
    chosen = {catalog.choose(stream(1, "t", str(k)), z_min=0.0, r_mag=21.5) for k in range(200)}
    assert chosen == {0, 1, 2}
    assert catalog.size_factor(2, 21.5) < 1.5 < catalog.size_factor(3, 21.5)


def test_sizes_follow_the_measured_slope_with_magnitude(folder):
    catalog = RealGalaxyCatalog.open(folder())
    assert catalog.size_factor(1, R[1]) == 1.0
    assert catalog.size_factor(1, R[1] + 2.5) == pytest.approx(10**-0.2)
    assert catalog.size_factor(1, R[1] + 2.5, slope=-0.2) == pytest.approx(10**-0.5)
    np.testing.assert_allclose(catalog.size_factor(np.arange(N), 24.0), 10 ** (-0.08 * (24.0 - np.array(R))))


# --- real pixels -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cosmos(request):
    return RealGalaxyCatalog.open(request.getfixturevalue("real_data") / "sources")


@pytest.mark.realdata
def test_of_a_hundred_real_galaxies_one_has_a_stamp_too_small_to_show_it(cosmos):
    assert len(cosmos) == 100
    assert list(cosmos.unusable) == [57]
    assert "no object stands out" in cosmos.unusable[57]
    assert np.all(np.isfinite(cosmos.mag))


@pytest.mark.realdata
def test_real_galaxies_have_the_sizes_that_others_measured(cosmos, real_data):
    """SExtractor's flux radii, of circles and with the HST PSF in, are somewhat larger than sqrt(ab)."""
    name = "real_galaxy_catalog_26_extension_example_fits.fits"
    measured = 0.03 * fits.getdata(real_data / "sources" / name, 1)["flux_radius"]
    facts = [cosmos.facts(k) for k in range(100) if k not in cosmos.unusable]
    ours = np.array([f.half_light_arcsec for f in facts])
    ratio = ours / measured[[f.index for f in facts]]
    assert 0.78 < np.median(ratio) < 0.95
    assert np.corrcoef(np.log(ours), np.log(measured[[f.index for f in facts]]))[0, 1] > 0.9
    mag = np.array([f.mag[1] for f in facts])
    slope = np.polyfit(mag[(mag > 21) & (mag < 26)], np.log10(ours[(mag > 21) & (mag < 26)]), 1)[0]
    assert slope == pytest.approx(real_galaxies.SIZE_SLOPE, abs=0.03)
    assert 0.10 <= min(f.residual_arcsec for f in facts) < max(f.residual_arcsec for f in facts) <= 0.2501


@pytest.mark.realdata
def test_cleaned_real_galaxies_end_in_nothing_and_are_not_drowned_by_noise(cosmos):
    for k in sorted(set(range(100)) - set(cosmos.unusable)):
        image = cosmos.galaxy(k).image
        peak = image.max()
        rim = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert np.abs(rim).max() < 0.05 * peak
        assert abs(rim.mean()) < 5e-3 * peak
        assert -image.min() < 0.5 * peak
        assert image.sum() * cosmos.galaxy(k).pixel_arcsec ** 2 == pytest.approx(1.0)
