"""What stands in one field: galaxies, stars, the PSF and the noise, drawn from the priors.

Positions are offsets from the target's centre in arcsec along columns (x) and rows (y). Fluxes are triples
g r z in nmgy. Each draw uses the stream it is given and nothing else.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.contracts.errors import ConfigError
from darkhaloscope.survey import priors as sky
from darkhaloscope.survey.distributions import Normal, Uniform
from darkhaloscope.survey.noise import draw_phases, pixel_rms_ratio
from darkhaloscope.survey.profiles import circularised
from darkhaloscope.survey.psf import KERNEL_SIZE, LARGE_KERNEL_SIZE, moffat_kernel
from darkhaloscope.survey.release import PASSES, to_magnitude, to_nmgy

Numbers = NDArray[np.float64]
Rng = np.random.Generator

_LIGHT_KM_S = 299792.458
_TRIES = 1000


@dataclass(frozen=True)
class Galaxy:
    """An elliptical Sersic galaxy. `radius_arcsec` is the half-light radius along the major axis, r band."""

    flux: Numbers
    radius_arcsec: float
    sersic_n: float
    q: float
    phi: float
    dx: float = 0.0
    dy: float = 0.0
    radius_ratio: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def circular_radius(self, band: int) -> float:
        """sqrt(ab) in one band [arcsec]."""
        return circularised(self.radius_arcsec, self.q) * self.radius_ratio[band]


@dataclass(frozen=True)
class Star:
    """A point source."""

    flux: Numbers
    dx: float = 0.0
    dy: float = 0.0


@dataclass(frozen=True)
class Host:
    """The galaxy at the centre, with what spectroscopy would say of it."""

    galaxy: Galaxy
    z: float
    sigma_v_kms: float | None


@dataclass(frozen=True)
class FieldPsf:
    """PSF of one field, per band: psfsize and Moffat FWHM [arcsec], beta, (a-b)/(a+b), angle [rad]."""

    size_arcsec: Numbers
    fwhm_arcsec: Numbers
    beta: Numbers
    ellipticity: Numbers
    angle: Numbers
    kernel_size: int

    def kernels(self, pixel_scale: float) -> Numbers:
        """(band, k, k), each summing to one."""
        rows = zip(self.fwhm_arcsec, self.beta, self.ellipticity, self.angle, strict=True)
        return np.stack(
            [
                moffat_kernel(fwhm, beta, e=e, pa=pa, pixel_scale=pixel_scale, size=self.kernel_size)
                for fwhm, beta, e, pa in rows
            ]
        )


@dataclass(frozen=True)
class FieldNoise:
    """Noise of one field, per band [nmgy]. Offset and gradient are the residual background."""

    sigma_pix: Numbers
    exposures: NDArray[np.int64]
    phases: tuple[list[tuple[float, float]], ...]
    offset: Numbers
    gradient: Numbers  # (band, 2): change across the stamp along y and x

    @property
    def sigma_w(self) -> Numbers:
        """White-equivalent sigma of a blank pixel."""
        return self.sigma_pix / pixel_rms_ratio()


def colours_to_flux(r: float, g_r: float, r_z: float) -> Numbers:
    """Fluxes g r z [nmgy] of an r magnitude and two colours."""
    return to_nmgy([r + g_r, r, r - r_z])


@lru_cache(maxsize=8)
def _distance_table(hubble: float, matter: float) -> tuple[Numbers, Numbers]:
    z = np.linspace(0.0, 5.0, 2001)
    rate = 1.0 / np.sqrt(matter * (1.0 + z) ** 3 + 1.0 - matter)
    steps = 0.5 * (rate[1:] + rate[:-1]) * np.diff(z)
    comoving = _LIGHT_KM_S / hubble * np.concatenate([[0.0], np.cumsum(steps)])
    return z, comoving / (1.0 + z)


def kpc_per_arcsec(z: float, cosmology: sky.Cosmology) -> float:
    """Proper transverse scale of a flat Lambda-CDM universe at redshift z in (0, 5] [kpc / arcsec]."""
    table = _distance_table(cosmology.hubble_km_s_mpc, cosmology.matter_density)
    return float(np.interp(z, *table)) * 1.0e3 * np.pi / (180.0 * 3600.0)


def draw_deflector(rng: Rng, prior: sky.Deflectors, cosmology: sky.Cosmology) -> Host:
    """A massive early type: redshift, dispersion, magnitude, colours, size, shape, drawn jointly."""
    for _ in range(_TRIES):
        z, sigma = prior.z.draw(rng), prior.sigma_v_kms.draw(rng)
        r_median = float(np.interp(z, prior.track_z, prior.track_r)) + prior.r_offset
        r = r_median + prior.r_per_dex_sigma * np.log10(sigma / prior.sigma_v_kms.median)
        r += prior.r_scatter * rng.standard_normal()
        log_kpc = prior.log_radius_kpc + prior.radius_per_dex_z * np.log10((1.0 + z) / 1.5)
        log_kpc += prior.radius_per_mag * (r - r_median) + prior.radius_scatter_dex * rng.standard_normal()
        radius = 10.0**log_kpc / kpc_per_arcsec(z, cosmology)
        if _within(r, prior.r_range) and _within(radius, prior.radius_range):
            break
    else:
        raise _hopeless("deflectors.r_range")
    g_r = np.interp(z, prior.track_z, prior.track_g_r) + prior.g_r_scatter * rng.standard_normal()
    r_z = np.interp(z, prior.track_z, prior.track_r_z) + prior.r_z_scatter * rng.standard_normal()
    galaxy = Galaxy(
        flux=colours_to_flux(r, float(g_r), float(r_z)),
        radius_arcsec=float(radius),
        sersic_n=prior.sersic_n.draw(rng),
        q=prior.q.draw(rng),
        phi=float(rng.uniform(0.0, np.pi)),
        radius_ratio=(prior.radius_ratio_g, 1.0, prior.radius_ratio_z),
    )
    return Host(galaxy=galaxy, z=z, sigma_v_kms=sigma)


def _within(value: float, allowed: Uniform) -> bool:
    return bool(allowed.low <= value <= allowed.high)


def _hopeless(key: str) -> ConfigError:
    return ConfigError("priors", key, "leaves next to nothing of the distribution it cuts")


def draw_disc(rng: Rng, prior: sky.Discs) -> tuple[Host, list[Galaxy]]:
    """A disc galaxy, and what may stand beside it: an edge-on disc or a blue companion."""
    galaxy = Galaxy(
        flux=colours_to_flux(prior.r.draw(rng), prior.g_r.draw(rng), prior.r_z.draw(rng)),
        radius_arcsec=prior.radius.draw(rng),
        sersic_n=prior.sersic_n.draw(rng),
        q=prior.q.draw(rng),
        phi=float(rng.uniform(0.0, np.pi)),
    )
    host = Host(galaxy=galaxy, z=prior.z.draw(rng), sigma_v_kms=None)
    lot = rng.random()
    if lot >= prior.edge_on_share + prior.blue_companion_share:
        return host, []
    return host, [_beside(rng, prior, galaxy, edge_on=bool(lot < prior.edge_on_share))]


def _beside(rng: Rng, prior: sky.Discs, galaxy: Galaxy, *, edge_on: bool) -> Galaxy:
    distance, angle = prior.beside_arcsec.draw(rng), rng.uniform(0.0, 2.0 * np.pi)
    r = float(to_magnitude(prior.beside_flux.draw(rng) * galaxy.flux[1]))
    colours = (prior.g_r, prior.r_z) if edge_on else (prior.blue_g_r, prior.blue_r_z)
    return Galaxy(
        flux=colours_to_flux(r, colours[0].draw(rng), colours[1].draw(rng)),
        radius_arcsec=(prior.radius if edge_on else prior.blue_radius).draw(rng),
        sersic_n=1.0,
        q=(prior.edge_on_q if edge_on else prior.q).draw(rng),
        phi=float(rng.uniform(0.0, np.pi)),
        dx=float(distance * np.cos(angle)),
        dy=float(distance * np.sin(angle)),
    )


def draw_companions(
    rng: Rng, prior: sky.Companions, half: float, centre: tuple[float, float]
) -> list[Galaxy]:
    """Galaxies of the field around the target.

    half    half the side of the stamp [arcsec]
    centre  (x, y) offset of the target from the middle of the stamp [arcsec]
    """
    places = _scatter(rng, prior.per_arcmin2, half + prior.border_arcsec, centre, prior.exclusion_arcsec)
    return [
        Galaxy(
            flux=colours_to_flux(prior.r.draw(rng), prior.g_r.draw(rng), prior.r_z.draw(rng)),
            radius_arcsec=prior.radius.draw(rng),
            sersic_n=prior.sersic_n.draw(rng),
            q=prior.q.draw(rng),
            phi=float(rng.uniform(0.0, np.pi)),
            dx=dx,
            dy=dy,
        )
        for dx, dy in places
    ]


def draw_stars(rng: Rng, prior: sky.Stars, half: float, centre: tuple[float, float]) -> list[Star]:
    """Stars of the field; arguments as in `draw_companions`."""
    places = _scatter(rng, prior.per_arcmin2, half, centre, 0.0)
    return [
        Star(flux=colours_to_flux(prior.r.draw(rng), *star_colours(rng, prior)), dx=x, dy=y)
        for x, y in places
    ]


def star_colours(rng: Rng, prior: sky.Stars) -> tuple[float, float]:
    """(g-r, r-z) on the stellar locus."""
    if rng.random() < prior.m_dwarf_share:
        g_r, r_z = prior.m_dwarf_g_r.draw(rng), prior.m_dwarf_r_z.draw(rng)
    else:
        g_r = prior.g_r.draw(rng)
        # Beyond the knee g-r stands still while r-z runs on: that branch is the M dwarfs' own.
        r_z = prior.locus_slope * min(g_r, prior.locus_knee) + prior.locus_offset
    noise = prior.locus_scatter * rng.standard_normal(2)
    return float(g_r + noise[0]), float(r_z + noise[1])


def _scatter(
    rng: Rng, per_arcmin2: float, half: float, centre: tuple[float, float], exclusion: float
) -> list[tuple[float, float]]:
    """Poisson points in a square of half side `half` [arcsec], as offsets from `centre`."""
    number = int(rng.poisson(per_arcmin2 * (2.0 * half / 60.0) ** 2))
    places = rng.uniform(-half, half, (number, 2)) - np.asarray(centre)
    return [(float(x), float(y)) for x, y in places if np.hypot(x, y) >= exclusion]


def draw_psf(rng: Rng, prior: sky.Psf, brightest_r: float) -> FieldPsf:
    """PSF per band; a field whose brightest object passes the priors' limit gets the large kernel."""
    size = _correlated(rng, prior.size_arcsec, prior.scatter, prior.common, _bounds(prior.size_range))
    common_beta = prior.beta.draw(rng)
    about = Normal(mean=common_beta, sd=prior.beta_scatter, low=prior.beta.low, high=prior.beta.high)
    angle = rng.uniform(0.0, np.pi) + np.radians(prior.angle_scatter_deg) * rng.standard_normal(3)
    return FieldPsf(
        size_arcsec=size,
        fwhm_arcsec=size / prior.size_over_moffat,
        beta=np.array([about.draw(rng) for _ in range(3)]),
        ellipticity=np.array([prior.ellipticity.draw(rng) for _ in range(3)]),
        angle=angle,
        kernel_size=LARGE_KERNEL_SIZE if brightest_r < prior.large_kernel_below_r else KERNEL_SIZE,
    )


def draw_noise(rng: Rng, prior: sky.Noise) -> FieldNoise:
    """Depth, number of exposures, resampling phases and residual background, per band."""
    median = np.asarray(prior.sigma_pix)
    bounds = (prior.keep.low * median, prior.keep.high * median)
    sigma = _correlated(rng, prior.sigma_pix, prior.scatter, prior.common, bounds)
    nominal = PASSES * (np.asarray(prior.sigma_pix_nominal) / sigma) ** 2
    exposures = np.maximum(np.rint(nominal), 1).astype(np.int64)
    phases = tuple(draw_phases(rng, int(n)) if n <= prior.few_exposures else [] for n in exposures)
    return FieldNoise(
        sigma_pix=sigma,
        exposures=exposures,
        phases=phases,
        offset=prior.offset * sigma * rng.standard_normal(3),
        gradient=prior.gradient * sigma[:, None] * rng.standard_normal((3, 2)),
    )


def _bounds(allowed: Uniform) -> tuple[Numbers, Numbers]:
    return np.full(3, allowed.low), np.full(3, allowed.high)


def _correlated(
    rng: Rng,
    median: tuple[float, float, float],
    scatter: float,
    common: float,
    bounds: tuple[Numbers, Numbers],
) -> Numbers:
    """Log-normal triple whose bands share `common` of their variance; drawn again out of bounds."""
    for _ in range(_TRIES):
        shift = np.sqrt(common) * rng.standard_normal() + np.sqrt(1.0 - common) * rng.standard_normal(3)
        value = np.asarray(median) * np.exp(scatter * shift)
        if np.all((value >= bounds[0]) & (value <= bounds[1])):
            return np.asarray(value)
    raise _hopeless("psf.size_range or noise.keep")
