"""The image that an injection is measured against: integrated until it has converged, by another's physics.

Rays and light are lenstronomy's; nothing of `darkhaloscope.injection` computes here, its dataclasses only say
what to render. Conventions: x is the column, y the row, pixel centres at integers; positions on the sky in
arcsec from the target, fluxes in nanomaggies.

**The image.** Lensed surface brightness, convolved with the continuous effective PSF, read at the pixel
centres, times the pixel area. The pixel's own response is in the PSF and nowhere else. The PSF is the Moffat
of `survey.psf.moffat_kernel`, cut off at a square of whole native pixels and normalised so that its samples
on native pixels sum to one; or a native kernel, continued between its samples by its band-limited
interpolation. The edge of the square: light takes part in a pixel's value if the pixel it falls in is at most
half a kernel away.

**The integration.** Squares of the sky are quartered until a tensor Gauss rule and the same rule on the four
quarters agree. All squares together give one image, their quarters a second one of doubled sampling; the
second is returned with the largest difference between the two.

**The convolution.** Light within one pixel acts through the PSF at sub-pixel offsets. The PSF as a function
of the offset is smooth, so it is interpolated from its values at Chebyshev nodes of the pixel, and light is
laid on the nodes with the Lagrange weights of its position: as many native convolutions as there are nodes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from numpy.typing import NDArray
from scipy import fft

from darkhaloscope.contracts.random import stream
from darkhaloscope.injection.draw import Host, Truth, draw
from darkhaloscope.injection.lens import Lens, ellipticity_from_axis
from darkhaloscope.injection.recipe import Recipe
from darkhaloscope.injection.source import Sersic, sersic_source
from darkhaloscope.survey.populations import FieldPsf, draw_deflector, draw_psf
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.profiles import sersic_bn
from darkhaloscope.survey.release import PIXEL_SCALE_ARCSEC

Pixels = NDArray[np.float64]
Complex = NDArray[np.complex128]

SIDE = 64
"""Side of a stamp [pixel]."""

_FIRST_SIDE_PIX = 2.0
_MAX_QUARTERINGS = 24
_GAUSS = 4
"""Nodes per axis of a square. Even: no node falls on the centre of a lens where squares meet."""

_COARSE_NODES, _FINE_NODES = 6, 8
"""Chebyshev nodes per axis of the two images; 6 are right to 1e-5 of a PSF of FWHM 2.7 pixels."""

_FIRST_SHARE = 1e-2
"""First error allowed to a square, in units of the tolerance and of the source's unlensed flux."""

_SMOOTHING_ARCSEC = 1e-8
"""lenstronomy flattens a Sersic profile within this radius; its default of 1e-4 costs a small bulge 1e-3."""

_HIGHEST_FREQUENCY = 0.8
"""Beyond this [1/pixel] a peer's kernel has no power; a Moffat of FWHM 2.7 pixels has 1e-4 left there."""


@dataclass(frozen=True, eq=False)
class System:
    """One arc to render: what it is made of, its PSF in every band, and where the target is [pixel]."""

    truth: Truth
    psf: FieldPsf
    x_center_pix: float
    y_center_pix: float


@dataclass(frozen=True)
class _Grid:
    """The pixels on which light is collected: the stamp and a margin."""

    shape: tuple[int, int]
    x_center_pix: float
    y_center_pix: float
    pixel_scale: float
    margin_pix: int

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns, rounded up to whole squares of the coarsest level."""
        return tuple(2 * math.ceil((n + 2 * self.margin_pix) / 2) for n in self.shape)

    @property
    def transform_side(self) -> int:
        """Side of the Fourier transforms, odd: the linear convolution fits, and no frequency is ambiguous."""
        side = max(self.sides) + 2 * self.margin_pix + 1
        while side % 2 == 0 or fft.next_fast_len(side) != side:
            side += 1
        return side


@dataclass(frozen=True, eq=False)
class _Light:
    """Transforms of the light on each sub-pixel node, (node, node, row, column), and its sum; unit source."""

    coarse: Complex
    fine: Complex
    flux: float


def converged_image(
    truth: Truth,
    *,
    shape: tuple[int, int],
    x_center_pix: float,
    y_center_pix: float,
    pixel_scale: float,
    psf: FieldPsf | Pixels,
    band: int,
    margin_pix: int = 15,
    tolerance: float = 1e-4,
) -> tuple[Pixels, float, float]:
    """One arc in one band as it would be seen without noise.

    truth                       lens and source; every part of the source a Sersic
    shape                       (n_y, n_x)
    x_center_pix, y_center_pix  where the target is, 0-based
    pixel_scale                 [arcsec / pixel]
    psf                         a field's Moffats, or native kernels (band, k, k), k odd
    band                        0, 1, 2: g, r, z
    margin_pix                  light this far outside the stamp scatters in
    tolerance                   of the peak; the integration is refined until doubling it changes less

    Returns (image [nmgy / pixel], lensed flux on stamp and margin before the PSF [nmgy], change): the
    change is the largest difference that the last doubling made, over the peak; above the tolerance where 24
    quarterings are not enough.
    """
    grid = _Grid(shape, x_center_pix, y_center_pix, pixel_scale, margin_pix)
    parts = [(part.shape, part.flux_nmgy[band]) for part in truth.source.parts if part.flux_nmgy[band] != 0.0]
    share = _FIRST_SHARE * tolerance
    while True:
        lights = [(_collect(truth.lens, shape_, grid, share), flux) for shape_, flux in parts]
        coarse = _observe([(light.coarse, flux) for light, flux in lights], psf, band, grid, _COARSE_NODES)
        image = _observe([(light.fine, flux) for light, flux in lights], psf, band, grid, _FINE_NODES)
        change = float(np.abs(image - coarse).max() / image.max())
        if change < tolerance or share < 1e-6 * tolerance:
            return image, float(sum(light.flux * flux for light, flux in lights)), change
        share /= 10.0


# --- the integration


@lru_cache(maxsize=6)
def _collect(lens: Lens, shape: Sersic, grid: _Grid, share: float) -> _Light:
    """The lensed light of one part of unit flux, integrated with an error of `share` per square."""
    coarse, fine = _squares(_brightness(lens, shape, grid), _resolved(shape), grid, share)
    return _Light(
        _transform(*coarse, grid, _COARSE_NODES), _transform(*fine, grid, _FINE_NODES), float(fine[2].sum())
    )


Rays = tuple[Pixels, Pixels, Pixels]
"""Positions [pixel] and light of many rays: x, y, flux, one shape."""


def _squares(
    brightness: Callable[[Pixels, Pixels], tuple[Pixels, Pixels, Pixels]],
    is_resolved: Callable[[Pixels, Pixels, Pixels], NDArray[np.bool_]],
    grid: _Grid,
    share: float,
) -> tuple[Rays, Rays]:
    """Rays of all accepted squares, and those of their quarters.

    A square is accepted when its light agrees with that of its quarters within `share`, unless it might
    hide a source that its rays have missed.
    """
    node, weight = np.polynomial.legendre.leggauss(_GAUSS)
    node_y, node_x = (a.ravel() for a in np.meshgrid(node, node, indexing="ij"))
    area = np.multiply.outer(weight, weight).ravel() / 4.0

    def rays(x: Pixels, y: Pixels, side: float) -> tuple[Pixels, Pixels, Pixels, NDArray[np.bool_]]:
        px, py = x[:, None] + 0.5 * side * node_x, y[:, None] + 0.5 * side * node_y
        bx, by, light = brightness(px, py)
        return px, py, light * area * (side * grid.pixel_scale) ** 2, is_resolved(bx, by, np.asarray(side))

    side = _FIRST_SIDE_PIX
    rows, columns = (np.arange(0.5 * side, n, side) - 0.5 - grid.margin_pix for n in grid.sides)
    x, y = (a.ravel() for a in np.meshgrid(columns, rows))
    px, py, flux, resolved = rays(x, y, side)
    coarse, fine = [], []
    for quartering in range(_MAX_QUARTERINGS):
        step = 0.25 * side
        offset_x, offset_y = step * np.array([-1, 1, -1, 1]), step * np.array([-1, -1, 1, 1])
        x, y = (x[:, None] + offset_x).ravel(), (y[:, None] + offset_y).ravel()
        side *= 0.5
        qx, qy, quarter, quarter_resolved = rays(x, y, side)
        error = np.abs(flux.sum(axis=1) - quarter.reshape(-1, 4 * _GAUSS**2).sum(axis=1))
        done = (error <= share) & resolved
        if quartering == _MAX_QUARTERINGS - 1:
            done[:] = True
        coarse.append((px[done], py[done], flux[done]))
        four = np.repeat(done, 4)
        fine.append((qx[four], qy[four], quarter[four]))
        if done.all():
            break
        x, y, px, py, flux, resolved = (a[~four] for a in (x, y, qx, qy, quarter, quarter_resolved))
    return _joined(coarse), _joined(fine)


def _joined(pieces: list[Rays]) -> Rays:
    return tuple(np.concatenate([a.ravel() for a in column]) for column in zip(*pieces, strict=True))


def _brightness(
    lens: Lens, shape: Sersic, grid: _Grid
) -> Callable[[Pixels, Pixels], tuple[Pixels, Pixels, Pixels]]:
    """From pixel coordinates to source-plane positions [arcsec] and the brightness there [1/arcsec^2]."""
    deflector, mass = deflector_model(lens)
    profile, light = light_model(shape)

    def at(x: Pixels, y: Pixels) -> tuple[Pixels, Pixels, Pixels]:
        sky_x = (x.ravel() - grid.x_center_pix) * grid.pixel_scale
        sky_y = (y.ravel() - grid.y_center_pix) * grid.pixel_scale
        bx, by = deflector.ray_shooting(sky_x, sky_y, mass)
        seen = profile.surface_brightness(bx, by, [light])
        return bx.reshape(x.shape), by.reshape(x.shape), seen.reshape(x.shape)

    return at


def deflector_model(lens: Lens, profile: str = "EPL_NUMBA") -> tuple[LensModel, list[dict[str, float]]]:
    """lenstronomy's model of a lens with its arguments.

    profile  EPL_NUMBA is EPL compiled, the same to rounding
    """
    e1, e2 = ellipticity_from_axis(lens.q, lens.phi)
    mass = {"theta_E": lens.theta_e, "gamma": getattr(lens, "gamma", 2.0), "e1": e1, "e2": e2}
    mass |= {"center_x": lens.x, "center_y": lens.y}
    shear = {"gamma1": lens.gamma1, "gamma2": lens.gamma2, "ra_0": lens.x, "dec_0": lens.y}
    return LensModel([profile, "SHEAR"]), [mass, shear]


def light_model(shape: Sersic) -> tuple[LightModel, dict[str, float]]:
    """lenstronomy's model of a Sersic profile with its arguments, of unit flux.

    lenstronomy takes b_n = 1.9992 n - 0.3271; with another radius it is the profile of the exact b_n.
    """
    n, (e1, e2) = shape.n_sersic, ellipticity_from_axis(shape.q, shape.phi)
    radius = exact_radius(shape)
    model = LightModel(["SERSIC_ELLIPSE"], profile_kwargs_list=[{"smoothing": _SMOOTHING_ARCSEC}])
    light = {"amp": 1.0, "R_sersic": radius, "n_sersic": n, "e1": e1, "e2": e2}
    light |= {"center_x": shape.x, "center_y": shape.y}
    light["amp"] = 1.0 / model.total_flux([light])[0]
    return model, light


def exact_radius(shape: Sersic) -> float:
    """The R_sersic [arcsec] with which lenstronomy's approximate b_n gives the exact profile."""
    n = shape.n_sersic
    return shape.R_sersic * ((1.9992 * n - 0.3271) / sersic_bn(n)) ** n


def _resolved(shape: Sersic) -> Callable[[Pixels, Pixels, Pixels], NDArray[np.bool_]]:
    """Whether the rays of squares are dense enough to see the source, should it be among them.

    A square's rays span a patch of the source plane. A source within half a patch of it could hide between
    rays unless the patch is small against the source. Around a lens's centre patches stay as large as the
    lens however small the square; there is no light worth looking for in less than 1e-4 pixels.
    """
    size = 0.5 * shape.R_sersic * math.sqrt(shape.q)

    def are(bx: Pixels, by: Pixels, side: Pixels) -> NDArray[np.bool_]:
        middle_x, middle_y = bx.mean(axis=1), by.mean(axis=1)
        reach = np.hypot(bx - middle_x[:, None], by - middle_y[:, None]).max(axis=1)
        distance = np.hypot(middle_x - shape.x, middle_y - shape.y)
        return (distance > 1.5 * reach + size) | (reach < size) | (side < 1e-4)

    return are


# --- the convolution


def _transform(x: Pixels, y: Pixels, flux: Pixels, grid: _Grid, nodes: int) -> Complex:
    """Transforms (node_y, node_x, ...) of the light, laid on the sub-pixel nodes of the pixel it falls in."""
    rows, columns = grid.sides
    column, row = np.floor(x + 0.5), np.floor(y + 0.5)
    weight_x, weight_y = _lagrange(x - column, nodes), flux * _lagrange(y - row, nodes)
    pixel = ((row + grid.margin_pix) * columns + column + grid.margin_pix).astype(np.intp)
    laid = np.empty((nodes, nodes, rows, columns))
    for i in range(nodes):
        for j in range(nodes):
            summed = np.bincount(pixel, weight_y[i] * weight_x[j], rows * columns)
            laid[i, j] = summed.reshape(rows, columns)
    side = grid.transform_side
    return fft.rfft2(laid, (side, side))


@lru_cache(maxsize=4)
def _chebyshev(nodes: int) -> Pixels:
    """Chebyshev nodes of a pixel, -1/2 to 1/2."""
    return 0.5 * np.cos((2.0 * np.arange(nodes) + 1.0) * math.pi / (2.0 * nodes))


def _lagrange(offset: Pixels, nodes: int) -> Pixels:
    """Weights (node, ...) of the polynomial through the nodes, at offsets within the pixel."""
    place = _chebyshev(nodes)
    away = offset - place[:, None]
    weight = np.ones_like(away)
    for i in range(nodes):
        for j in range(nodes):
            if j != i:
                weight[i] *= away[j] / (place[i] - place[j])
    return weight


def _observe(
    lights: list[tuple[Complex, float]], psf: FieldPsf | Pixels, band: int, grid: _Grid, nodes: int
) -> Pixels:
    """Light of all parts through the PSF, on the pixels of the stamp."""
    response = _response(psf, band, grid, nodes)
    total = sum(np.einsum("ijyx,ijyx->yx", light, response) * flux for light, flux in lights)
    side, margin = grid.transform_side, grid.margin_pix
    seen = fft.irfft2(total, (side, side))
    return seen[margin : margin + grid.shape[0], margin : margin + grid.shape[1]]


def _response(psf: FieldPsf | Pixels, band: int, grid: _Grid, nodes: int) -> Complex:
    """Transforms (node_y, node_x, ...) of the PSF for light at each sub-pixel node."""
    if isinstance(psf, FieldPsf):
        moffat = (float(psf.fwhm_arcsec[band]), float(psf.beta[band]))
        shape = (float(psf.ellipticity[band]), float(psf.angle[band]))
        return _moffat_response(
            *moffat, *shape, psf.kernel_size, grid.pixel_scale, grid.transform_side, nodes
        )
    kernel = np.ascontiguousarray(psf[band], dtype=np.float64)
    return _kernel_response(kernel.tobytes(), kernel.shape[0], grid.transform_side, nodes)


@lru_cache(maxsize=8)
def _moffat_response(  # noqa: PLR0917 - the key of a cache
    fwhm: float, beta: float, e: float, pa: float, size: int, pixel_scale: float, side: int, nodes: int
) -> Complex:
    profile = _moffat_profile(fwhm, beta, e, pa, pixel_scale)
    axis = np.arange(size) - float(size // 2)
    total = profile(axis, axis[:, None]).sum()
    shifted = axis - _chebyshev(nodes)[:, None]
    samples = profile(shifted[None, :, None, :], shifted[:, None, :, None]) / total
    return _centred(fft.rfft2(samples, (side, side)), size, side)


def _moffat_profile(
    fwhm: float, beta: float, e: float, pa: float, pixel_scale: float
) -> Callable[[Pixels, Pixels], Pixels]:
    """A Moffat of unit peak as a function of offsets [pixel]; arguments as of `survey.psf.moffat_kernel`."""
    alpha = fwhm / pixel_scale / (2.0 * math.sqrt(2.0 ** (1.0 / beta) - 1.0))
    q = (1.0 - e) / (1.0 + e)

    def profile(dx: Pixels, dy: Pixels) -> Pixels:
        along, across = math.cos(pa) * dx + math.sin(pa) * dy, math.cos(pa) * dy - math.sin(pa) * dx
        return (1.0 + (q * along**2 + across**2 / q) / alpha**2) ** -beta

    return profile


@lru_cache(maxsize=8)
def _kernel_response(kernel: bytes, size: int, side: int, nodes: int) -> Complex:
    samples = np.frombuffer(kernel).reshape(size, size)
    transform = _centred(fft.rfft2(samples, (side, side)), size, side)
    shift_x = np.exp(-2j * math.pi * np.outer(_chebyshev(nodes), fft.rfftfreq(side)))
    shift_y = np.exp(-2j * math.pi * np.outer(_chebyshev(nodes), fft.fftfreq(side)))
    return transform * shift_y[:, None, :, None] * shift_x[None, :, None, :]


def _centred(transform: Complex, size: int, side: int) -> Complex:
    """A kernel's transform with its middle sample moved to the origin."""
    back = 2j * math.pi * (size // 2)
    return transform * np.exp(back * fft.fftfreq(side))[:, None] * np.exp(back * fft.rfftfreq(side))


def peer_kernel(psf: FieldPsf, band: int, *, averaged: int, samples: int = 1) -> Pixels:
    """The PSF for a code that averages light or image over pixels of its own accord.

    A code that samples light `averaged` times per pixel and axis and takes the mean puts the pixel into its
    image a second time. Its converged image is the right one if its kernel lacks that mean: the transform of
    the effective PSF is divided by the transform of `averaged` even samples of a pixel, below the frequency
    at which that vanishes, where no light of a survey's PSF is left.

    averaged  samples per pixel and axis of which the code takes the mean; 1 leaves the PSF as it is
    samples   samples of the kernel per pixel

    Returns (k, k), the native square of the PSF, `samples` to a pixel; sums to 1 but for the cut.
    """
    size, padded = psf.kernel_size, 4 * psf.kernel_size + 1
    half = padded // 2 * samples
    axis = np.arange(-half, half + 1) / samples
    e, pa = float(psf.ellipticity[band]), float(psf.angle[band])
    profile = _moffat_profile(float(psf.fwhm_arcsec[band]), float(psf.beta[band]), e, pa, PIXEL_SCALE_ARCSEC)
    native = np.arange(size) - float(size // 2)
    values = profile(axis, axis[:, None]) / profile(native, native[:, None]).sum() / samples**2
    frequency = np.abs(fft.fftfreq(axis.size)) * samples
    kept = frequency < _HIGHEST_FREQUENCY
    mean = np.where(kept, np.sinc(frequency) / np.sinc(frequency / averaged), np.inf)
    sharp = fft.fftshift(
        fft.ifft2(fft.fft2(fft.ifftshift(values)) / mean[:, None] / mean).real,
    )
    cut = math.floor(0.5 * size * samples)
    return sharp[half - cut : half + cut + 1, half - cut : half + cut + 1]


# --- what is rendered


def default_systems(n: int, seed: int) -> list[System]:
    """Arcs of the default recipe on hosts and PSFs of the default priors, n of them.

    Draws that the recipe rejects are passed over.
    """
    priors, recipe, found = SkyPriors(), Recipe(), []
    number = 0
    while len(found) < n:
        task = f"default-{number}"
        number += 1
        host = draw_deflector(stream(seed, "benchmark/host", task), priors.deflectors, priors.cosmology)
        known = Host(z=host.z, light_q=host.galaxy.q, light_phi_rad=host.galaxy.phi)
        truth = draw(known, recipe, seed=seed, task=task)
        if not isinstance(truth, str):
            psf = draw_psf(stream(seed, "benchmark/psf", task), priors.psf, brightest_r=99.0)
            found.append(System(truth, psf, *_centre(seed, task)))
    return found


def hard_systems(n: int, seed: int) -> list[System]:
    """Compact and cuspy sources at folds and cusps of the caustic, n of them.

    Half-light radii of 0.1" to 0.3", index 1, 2.5, 4 or anything between .5 and 4, axis ratios .3 to 1 of
    light and mass, theta_E .5" to 2.5", shear to .1, Moffat FWHM .8" to 1.4". Half of the sources are at a
    cusp, the others anywhere on the caustic; each up to half its radius inside or outside.
    """
    return [_hard_system(k, seed) for k in range(n)]


def _hard_system(number: int, seed: int) -> System:
    task = f"hard-{number}"
    rng = stream(seed, "benchmark/hard", task)
    angle, shear = math.pi * rng.random(), rng.uniform(0.0, 0.1)
    lens = Lens(
        theta_e=rng.uniform(0.5, 2.5),
        q=rng.uniform(0.3, 1.0),
        phi=math.pi * rng.random(),
        gamma1=shear * math.cos(2.0 * angle),
        gamma2=shear * math.sin(2.0 * angle),
    )
    radius, index = rng.uniform(0.1, 0.3), (1.0, 2.5, 4.0, rng.uniform(0.5, 4.0))[number % 4]
    curve = _caustic(lens)
    place = rng.choice(_cusps(curve)) if (number // 4) % 2 else rng.integers(len(curve))
    # Along the line from the lens's centre, towards which a cusp points away.
    reach = np.hypot(*curve[place])
    x, y = curve[place] * (1.0 + rng.uniform(-0.5, 0.5) * radius / max(reach, radius))
    shape = Sersic(radius, index, rng.uniform(0.3, 1.0), math.pi * rng.random(), float(x), float(y))
    mag = (23.4, 23.0, 22.5)
    truth = Truth(
        lens=lens,
        source=sersic_source(shape, mag),
        morphology=shape,
        z_lens=0.5,
        z_source=1.5,
        source_mag=mag,
        caustic_area_arcsec2=math.nan,  # no draw in area stands behind these
        n_images=0,
    )
    return System(truth, _hard_psf(rng), *_centre(seed, task))


def _hard_psf(rng: np.random.Generator) -> FieldPsf:
    prior = SkyPriors().psf
    psf = draw_psf(rng, prior, brightest_r=99.0)
    fwhm = rng.uniform(0.8, 1.4, 3)
    return FieldPsf(
        fwhm * prior.size_over_moffat, fwhm, psf.beta, psf.ellipticity, psf.angle, psf.kernel_size
    )


def _centre(seed: int, task: str) -> tuple[float, float]:
    x, y = 0.5 * (SIDE - 1) + stream(seed, "benchmark/centre", task).uniform(-0.5, 0.5, 2)
    return float(x), float(y)


def _caustic(lens: Lens, n: int = 720) -> Pixels:
    """(n, 2) points of the tangential caustic of an isothermal lens at the origin [arcsec].

    Second derivatives of an isothermal potential fall as 1/r and have no determinant of their own, so along a
    ray det A = (1 - gamma^2) - s/r: one evaluation at r = 1 gives s and the critical radius.
    """
    angle = 2.0 * math.pi * np.arange(n) / n
    x, y = np.cos(angle), np.sin(angle)
    model, kwargs = deflector_model(lens)
    f_xx, f_xy, f_yx, f_yy = model.hessian(x, y, kwargs)
    still = 1.0 - lens.gamma1**2 - lens.gamma2**2
    radius = (still - (1.0 - f_xx) * (1.0 - f_yy) + f_xy * f_yx) / still
    return np.transpose(model.ray_shooting(radius * x, radius * y, kwargs))


def _cusps(curve: Pixels) -> NDArray[np.intp]:
    """Where a closed curve turns back: its points come closest together."""
    speed = np.hypot(*(np.roll(curve, -1, axis=0) - np.roll(curve, 1, axis=0)).T)
    return np.flatnonzero((speed < np.roll(speed, 1)) & (speed <= np.roll(speed, -1)))


def reference_images(systems: list[System], *, bands: tuple[int, ...] = (0, 1, 2)) -> tuple[Pixels, Pixels]:
    """Converged images of many systems at the survey's pixels.

    Returns (image (n, band, y, x) [nmgy / pixel], change (n, band)).
    """
    images, changes = np.empty((len(systems), len(bands), SIDE, SIDE)), np.empty((len(systems), len(bands)))
    for k, system in enumerate(systems):
        for b, band in enumerate(bands):
            images[k, b], _, changes[k, b] = converged_image(
                system.truth,
                shape=(SIDE, SIDE),
                x_center_pix=system.x_center_pix,
                y_center_pix=system.y_center_pix,
                pixel_scale=PIXEL_SCALE_ARCSEC,
                psf=system.psf,
                band=band,
            )
    return images, changes
