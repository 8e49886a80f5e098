"""Einstein radii as nature deals them: from the velocity dispersions of galaxies and the distances.

A uniform theta_E is right for a completeness surface and wrong for an average over lenses. Here deflectors
are singular isothermal spheres whose comoving number density follows Choi, Park & Vogeley (2007), and each
counts by its cross-section: for sources at z_s,

    p(z, sigma | z_s)  proportional to  dV/dz (1 + z)^evolution phi(sigma) pi theta_E(sigma, z, z_s)^2,
    theta_E = 4 pi (sigma / c)^2 D_ls / D_s  =  28.84" (sigma / 1000 km/s)^2 D_ls / D_s.

theta_E^2 is sigma^4 times a function of the redshifts, so the two are independent and their joint
distribution needs no two-dimensional grid: sigma has a closed form (an incomplete gamma function), and in a
flat universe, where D_ls / D_s = 1 - chi / chi_s, the distribution of z is a combination of three integrals
over z that are tabulated once for sources at every redshift.

Real lenses scatter about the sphere's theta_E by 10 %: a factor drawn after the weighting, as the priors
section 5 has it. Weighting by the scattered theta_E instead would raise all of them by 2 %.

Redshifts below 10. Velocities in km/s, angles in arcsec, distances in Mpc.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
import numpy.typing as npt
from astropy.cosmology import FlatLambdaCDM
from numpy.typing import ArrayLike
from scipy import special

from darkhaloscope.contracts.config import Frozen, tagged
from darkhaloscope.stats import effective_n
from darkhaloscope.survey.distributions import Normal, Uniform, normal, uniform
from darkhaloscope.survey.priors import Cosmology, Deflectors

FloatArray = npt.NDArray[np.float64]

_LIGHT_KM_S = 299792.458
_ARCSEC_PER_RAD = 180.0 * 3600.0 / math.pi
_SIS_ARCSEC = 4.0 * math.pi / _LIGHT_KM_S**2 * _ARCSEC_PER_RAD
"""theta_E of a singular isothermal sphere of 1 km/s in front of an infinitely distant source [arcsec]."""

_NEARBY_MPC = 1e-9
"""Stands for the distance of a source at redshift 0, in front of which nothing lies."""
_Z_TABLE = 10.0
_Z_STEP = 0.0025
_CELLS = 400
"""Cells in the deflector's redshift."""
_PER_CELL = 10
_SIGMA_NODES = 400
_SOURCE_NODES = 32
_LOG_THETA_STEP = 0.01
_THETA_MIN_ARCSEC = 0.005
_EXACT_MAG = 1e-4
"""Scatter that a relation without scatter has."""
_REACH = 8.0
"""Tables of scattered quantities end this many standard deviations beyond the unscattered ones."""


class VelocityDispersionFunction(Frozen):
    """Comoving number density of galaxies by velocity dispersion (Choi, Park & Vogeley 2007).

    ``dn/dsigma = phi* (sigma/sigma*)^alpha exp(-(sigma/sigma*)^beta) beta / Gamma(alpha/beta) / sigma``,
    times (1 + z)^evolution. Collett (2015) states no evolution; LensPop's code has -2.5. Nobody knows: quote
    both.
    """

    phi_star_h3: float = tagged(8.0e-3, "S", "Choi+07", "h^3/Mpc^3", gt=0.0)
    sigma_star_kms: float = tagged(161.0, "S", "Choi+07", "km/s", gt=0.0)
    alpha: float = tagged(2.32, "S", "Choi+07: slope at small sigma", gt=0.0)
    beta: float = tagged(2.67, "S", "Choi+07: exponential cut-off", gt=0.0)
    sigma_kms: Uniform = tagged(uniform(100.0, 400.0), "A", "dispersions counted", "km/s")
    z_max: float = tagged(1.2, "A", "farthest deflector", gt=0.0, le=_Z_TABLE)
    evolution: float = tagged(0.0, "S", "0 (Collett 2015) or -2.5 (LensPop), of (1+z)", ge=-5.0, le=5.0)

    def density(self, sigma_kms: ArrayLike, z: ArrayLike, hubble_km_s_mpc: float) -> FloatArray:
        """dn/dsigma [1/Mpc^3/(km/s)], comoving; 0 outside the dispersions and redshifts counted."""
        sigma, z = np.asarray(sigma_kms, dtype=np.float64), np.asarray(z, dtype=np.float64)
        ratio = sigma / self.sigma_star_kms
        shape = ratio**self.alpha * np.exp(-(ratio**self.beta)) / sigma
        shape *= self.beta / math.gamma(self.alpha / self.beta)
        counted = (sigma >= self.sigma_kms.low) & (sigma <= self.sigma_kms.high) & (z <= self.z_max)
        amplitude = self.phi_star_h3 * (hubble_km_s_mpc / 100.0) ** 3
        return np.asarray(np.where(counted, amplitude * (1.0 + z) ** self.evolution * shape, 0.0))

    def lens_sigma(self, share: float) -> float:
        """The dispersion [km/s] below which this share of the cross-section lies.

        Weighted by sigma^4, (sigma/sigma*)^beta follows a gamma distribution, cut at both ends.
        """
        order, low, high = self._gamma()
        power = special.gammaincinv(order, low + share * (high - low))
        return float(self.sigma_star_kms * power ** (1.0 / self.beta))

    def sigma_4(self, hubble_km_s_mpc: float) -> float:
        """Integral of sigma^4 dn at z = 0 [(km/s)^4 / Mpc^3]: what makes the cross-section."""
        order, low, high = self._gamma()
        amplitude = self.phi_star_h3 * (hubble_km_s_mpc / 100.0) ** 3 * self.sigma_star_kms**4
        return amplitude * math.gamma(order) / math.gamma(self.alpha / self.beta) * (high - low)

    def _gamma(self) -> tuple[float, float, float]:
        """Order of that distribution and its cumulative values at the cuts."""
        order = (self.alpha + 4.0) / self.beta
        low = (self.sigma_kms.low / self.sigma_star_kms) ** self.beta
        high = (self.sigma_kms.high / self.sigma_star_kms) ** self.beta
        return order, float(special.gammainc(order, low)), float(special.gammainc(order, high))


def theta_e_sis(
    sigma_kms: ArrayLike, z_lens: ArrayLike, z_source: ArrayLike, cosmology: Cosmology | None = None
) -> FloatArray:
    """Einstein radius of a singular isothermal sphere [arcsec], 28.84" (sigma / 1000 km/s)^2 D_ls / D_s.

    sigma_kms          velocity dispersion [km/s]
    z_lens, z_source   redshifts in [0, 10]; all three broadcast
    cosmology          flat Lambda CDM; by default that of the survey's priors

    Zero where the source is not behind the lens. ValueError for a redshift outside the table.
    """
    cosmology = cosmology or Cosmology()
    chi, chi_source = comoving_distance(z_lens, cosmology), comoving_distance(z_source, cosmology)
    ratio = np.maximum(chi_source - chi, 0.0) / np.maximum(chi_source, _NEARBY_MPC)
    return np.asarray(_SIS_ARCSEC * np.square(sigma_kms) * ratio)


def comoving_distance(z: ArrayLike, cosmology: Cosmology) -> FloatArray:
    """Comoving distance [Mpc] for z in [0, 10], interpolated to 1e-6; ValueError outside."""
    redshifts = np.asarray(z, dtype=np.float64)
    if not np.all((redshifts >= 0.0) & (redshifts <= _Z_TABLE)):
        message = f"redshift {z!r} lies outside [0, {_Z_TABLE:g}]"
        raise ValueError(message)
    nodes, chi = _distance_table(cosmology.hubble_km_s_mpc, cosmology.matter_density)
    return np.asarray(np.interp(redshifts, nodes, chi))


def _distance(z: float, cosmology: Cosmology) -> float:
    """One comoving distance [Mpc], of a redshift known to be in the table."""
    return float(np.interp(z, *_distance_table(cosmology.hubble_km_s_mpc, cosmology.matter_density)))


@lru_cache(maxsize=8)
def _distance_table(hubble: float, matter: float) -> tuple[FloatArray, FloatArray]:
    z = np.arange(0.0, _Z_TABLE + 0.5 * _Z_STEP, _Z_STEP)
    return z, np.asarray(FlatLambdaCDM(H0=hubble, Om0=matter).comoving_distance(z).value)


@dataclass(frozen=True)
class Deflector:
    """One lens of the population: redshift, velocity dispersion [km/s], Einstein radius [arcsec]."""

    z_lens: float
    sigma_v_kms: float
    theta_e_arcsec: float


class Population(Frozen):
    """Lenses in proportion to their cross-section, and the weight that a grid of injections needs.

    Two ways to Einstein radii. `draw` draws a whole deflector, for averages over the population. A host that
    is drawn from the sky first gets the radius of its own dispersion by `theta_e_of_host`: such hosts are
    galaxies, not lenses, and an average over lenses weighs each by theta_e^2.

    `source_z` must be the prior that sources are drawn from; it enters `population_density` only. That takes
    sources as they are drawn, each with one lens: it does not weigh a source by how likely it is to have a
    lens at all, which `optical_depth` says.
    """

    dispersions: VelocityDispersionFunction = VelocityDispersionFunction()
    theta_e_scatter: float = tagged(
        0.10, "A", "of ln theta_E about the sphere's (SLACS, with errors: .19)", ge=0.01, le=1.0
    )
    source_z: Normal = tagged(normal(1.5, 0.6, 0.6, 4.0), "S", "HST-COSMOS I<25.9; as the sources'")
    hosts: Deflectors = Deflectors()
    cosmology: Cosmology = Cosmology()

    def draw(self, rng: np.random.Generator, z_source: float) -> Deflector:
        """A deflector in front of a source at z_source, by cross-section. Three numbers of the stream."""
        share_z, share_sigma = rng.random(2)
        factor = math.exp(self.theta_e_scatter * rng.standard_normal())
        front = self._in_front(z_source)
        z, sigma = front.quantile(share_z), self.dispersions.lens_sigma(share_sigma)
        ratio = max(1.0 - _distance(z, self.cosmology) / front.chi_source, 0.0)
        return Deflector(z, sigma, _SIS_ARCSEC * sigma**2 * ratio * factor)

    def theta_e_of_host(
        self,
        rng: np.random.Generator,
        sigma_v_kms: float | None,
        z_lens: float,
        z_source: float,
        *,
        r_mag: float | None = None,
    ) -> float:
        """Einstein radius [arcsec] of a given galaxy in front of a source; 0 if the source is not behind it.

        sigma_v_kms   the galaxy's dispersion; None where nobody measured it: then `sigma_of_host` draws it
        r_mag         the galaxy's total r magnitude, for that case
        """
        factor = math.exp(self.theta_e_scatter * rng.standard_normal())
        sigma = self.sigma_of_host(rng, z_lens, r_mag) if sigma_v_kms is None else sigma_v_kms
        return float(theta_e_sis(sigma, z_lens, z_source, self.cosmology)) * factor

    def sigma_of_host(self, rng: np.random.Generator, z_lens: float, r_mag: float | None) -> float:
        """A velocity dispersion [km/s] that a galaxy of this redshift and magnitude may have.

        The survey's hosts have r = r0(z) + offset + slope log10(sigma / median) + N(0, scatter) with sigma
        log-normal: given r, ln sigma is normal with the mean of prior and magnitude, each weighted by its
        precision, cut at the prior's bounds. (Turning the relation round, without the prior, would make
        bright galaxies heavier than they are.) With r_mag None it is the prior.
        """
        prior = self.hosts
        mean, precision = 0.0, 1.0 / prior.sigma_v_kms.sigma**2
        if r_mag is not None:
            slope = prior.r_per_dex_sigma / math.log(10.0)
            expected = float(np.interp(z_lens, prior.track_z, prior.track_r)) + prior.r_offset
            information = slope / max(prior.r_scatter, _EXACT_MAG) ** 2
            precision += slope * information
            mean = information * (r_mag - expected) / precision
        bounds = (prior.sigma_v_kms.low, prior.sigma_v_kms.high)
        low, high = (math.log(bound / prior.sigma_v_kms.median) for bound in bounds)
        root = math.sqrt(precision)
        share = _cut_normal(rng.random(), (low - mean) * root, (high - mean) * root)
        return prior.sigma_v_kms.median * math.exp(min(max(mean + share / root, low), high))

    def density(self, theta_e: ArrayLike, z_source: float) -> FloatArray:
        """p(theta_E | z_source) [1/arcsec] of the lenses that `draw` draws, shaped like theta_e [arcsec]."""
        theta = np.asarray(theta_e, dtype=np.float64)
        inside = theta > 0.0
        safe = np.where(inside, theta, 1.0)
        return np.asarray(np.where(inside, _log_theta_density(self, np.log(safe), z_source) / safe, 0.0))

    def log_density(self, theta_e: ArrayLike, z_source: float) -> FloatArray:
        """Logarithm of `density`; minus infinity where there are no such lenses."""
        p = self.density(theta_e, z_source)
        return np.asarray(np.log(p, out=np.full(p.shape, -np.inf), where=p > 0.0))

    def population_density(
        self, theta_e: ArrayLike, *, within: tuple[float, float] | None = None
    ) -> FloatArray:
        """p(theta_E) [1/arcsec] of lenses of any redshift, dispersion and source of the `source_z` prior.

        within   (low, high) [arcsec]: the distribution among lenses of this range, zero outside
        """
        theta = np.asarray(theta_e, dtype=np.float64)
        log_nodes, p, share = _marginal(self)
        safe = np.where(theta > 0.0, theta, math.exp(log_nodes[0]))
        values = np.interp(np.log(safe), log_nodes, p, left=0.0, right=0.0) / safe
        values = np.where(theta > 0.0, values, 0.0)
        if within is not None:
            below, above = np.interp(np.log(within), log_nodes, share)
            kept = (theta >= within[0]) & (theta <= within[1])
            values = np.where(kept, values / (above - below), 0.0)
        return np.asarray(values)

    def importance_weight(
        self, theta_e: ArrayLike, p_injected: ArrayLike, *, within: tuple[float, float] | None = None
    ) -> FloatArray:
        """p_pop / p_injected at theta_e: what turns an average over injections into one over lenses.

        p_injected   density that theta_e was drawn from, at theta_e [1/arcsec], > 0
        within       range of the injections: then weights have mean one and the average is over the lenses
                     of that range. Without it their mean is the share of lenses that lie in the range.
        """
        p = np.asarray(p_injected, dtype=np.float64)
        if not np.all(p > 0.0):
            message = "a weight needs the density that its radius was drawn from, which is above zero"
            raise ValueError(message)
        return np.asarray(self.population_density(theta_e, within=within) / p)

    def optical_depth(self, z_source: float) -> float:
        """Probability that a point at z_source lies within a sphere's theta_E of a deflector (Turner+84)."""
        strength = self.dispersions.sigma_4(self.cosmology.hubble_km_s_mpc)
        return math.pi * (_SIS_ARCSEC / _ARCSEC_PER_RAD) ** 2 * strength * self._in_front(z_source).total

    def _in_front(self, z_source: float) -> "_InFront":
        if not 0.0 < z_source <= _Z_TABLE:
            message = f"no lens is drawn for a source at redshift {z_source}; within (0, {_Z_TABLE:g}]"
            raise ValueError(message)
        prior, cosmology = self.dispersions, self.cosmology
        table = _redshift_table(
            prior.z_max, prior.evolution, cosmology.hubble_km_s_mpc, cosmology.matter_density
        )
        return _InFront.of(table, z_source, _distance(z_source, cosmology))


def effective_sample_size(weights: ArrayLike) -> float:
    """How many equal weights would say as much: (sum w)^2 / sum w^2 (Kish 1965).

    ValueError unless all are finite and not negative, and one is above zero.
    """
    w = np.asarray(weights, dtype=np.float64)
    if not w.size or not np.all(np.isfinite(w)) or np.any(w < 0.0) or not np.any(w > 0.0):
        message = "weights must be finite and not negative, one of them at least above zero"
        raise ValueError(message)
    return effective_n(w)


@dataclass(frozen=True, eq=False)
class _Redshifts:
    """Volume along the line of sight, for sources at every redshift.

    The cross-section in front of a source is the integral of ``volume (1 - chi/chi_s)^2`` over z, with
    ``volume = dV/dz/dOmega (1+z)^evolution``: a sum of moments of chi under `volume`.

    edges     (cells + 1,) of redshift
    moments   (3, cells + 1): of order 0, 1, 2, from z = 0 to each edge [Mpc^(3 + order) / sr]
    """

    edges: FloatArray
    moments: FloatArray


@dataclass(frozen=True, eq=False)
class _InFront:
    """How the cross-section in front of one source is spread over redshift.

    edges        of redshift
    cumulative   up to each edge [Mpc^3/sr]; the integrand is a square, so it rises even behind the source
    chi_source   comoving distance of the source [Mpc]
    z_end        where it ends: the source or the farthest deflector counted
    total        up to there
    """

    edges: FloatArray
    cumulative: FloatArray
    chi_source: float
    z_end: float
    total: float

    @classmethod
    def of(cls, table: _Redshifts, z_source: float, chi_source: float) -> Self:
        inverse = 1.0 / chi_source
        cumulative = np.array([1.0, -2.0 * inverse, inverse**2]) @ table.moments
        z_end = min(z_source, float(table.edges[-1]))
        total = float(np.interp(z_end, table.edges, cumulative))
        return cls(table.edges, cumulative, chi_source, z_end, total)

    def quantile(self, share: float) -> float:
        """The redshift below which this share of the cross-section lies."""
        return float(np.interp(share * self.total, self.cumulative, self.edges))

    def cells(self) -> tuple[FloatArray, FloatArray]:
        """Share of the cross-section in each cell of redshift, and the cell's middle."""
        edges = np.append(self.edges[self.edges < self.z_end], self.z_end)
        mass = np.diff(np.interp(edges, self.edges, self.cumulative))
        kept = mass > 0.0
        return mass[kept] / mass[kept].sum(), 0.5 * (edges[1:] + edges[:-1])[kept]


def _log_theta_density(population: Population, log_theta: FloatArray, z_source: float) -> FloatArray:
    """p(ln theta_E | z_source): each cell of redshift shifts the distribution of ln sigma^2."""
    mass, z = population._in_front(z_source).cells()  # noqa: SLF001 - a function of this very module
    shift = np.log(theta_e_sis(1.0, z, z_source, population.cosmology))
    nodes, p = _log_square_density(population.dispersions, population.theta_e_scatter)
    total = np.zeros_like(log_theta)
    for share, by in zip(mass, shift, strict=True):
        total += share * np.interp(log_theta - by, nodes, p, left=0.0, right=0.0)
    return total


@lru_cache(maxsize=16)
def _redshift_table(z_max: float, evolution: float, hubble: float, matter: float) -> _Redshifts:
    z = np.linspace(0.0, z_max, _CELLS * _PER_CELL + 1)
    flat = FlatLambdaCDM(H0=hubble, Om0=matter)
    volume = flat.differential_comoving_volume(z).value * (1.0 + z) ** evolution
    chi = flat.comoving_distance(z).value
    integrand = volume * np.stack([np.ones_like(chi), chi, chi**2])
    steps = 0.5 * (integrand[:, 1:] + integrand[:, :-1]) * np.diff(z)
    cumulative = np.concatenate([np.zeros((3, 1)), np.cumsum(steps, axis=1)], axis=1)
    return _Redshifts(z[::_PER_CELL].copy(), cumulative[:, ::_PER_CELL].copy())


@lru_cache(maxsize=16)
def _log_square_density(prior: VelocityDispersionFunction, scatter: float) -> tuple[FloatArray, FloatArray]:
    """Nodes and density of ln sigma^2 + N(0, scatter), sigma [km/s] of lenses."""
    ends = np.log([prior.sigma_kms.low, prior.sigma_kms.high])
    node, weight = np.polynomial.legendre.leggauss(_SIGMA_NODES)
    log_sigma = 0.5 * (ends[1] - ends[0]) * node + 0.5 * (ends[1] + ends[0])
    sigma = np.exp(log_sigma)
    # sigma^4 of the cross-section, and one more for the step from sigma to ln sigma.
    weight = weight * prior.density(sigma, 0.0, 100.0) * sigma**5
    reach = _REACH * scatter
    step = min(_LOG_THETA_STEP, 0.1 * scatter)
    nodes = np.arange(2.0 * ends[0] - reach, 2.0 * ends[1] + reach, step)
    kernel = np.exp(-0.5 * ((nodes[:, None] - 2.0 * log_sigma) / scatter) ** 2)
    p = kernel @ (weight / weight.sum()) / (math.sqrt(2.0 * math.pi) * scatter)
    return nodes, np.asarray(p)


@lru_cache(maxsize=8)
def _marginal(population: Population) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Nodes of ln theta_E, p(ln theta_E) over the source prior, and the share of lenses below each node."""
    sigma, scatter = population.dispersions.sigma_kms.high, population.theta_e_scatter
    top = math.log(_SIS_ARCSEC * sigma**2) + _REACH * scatter
    nodes = np.arange(math.log(_THETA_MIN_ARCSEC), top, min(_LOG_THETA_STEP, 0.5 * scatter))
    prior = population.source_z
    node, weight = np.polynomial.legendre.leggauss(_SOURCE_NODES)
    z = 0.5 * (prior.high - prior.low) * node + 0.5 * (prior.high + prior.low)
    weight = weight * np.exp(-0.5 * ((z - prior.mean) / prior.sd) ** 2)
    weight /= weight.sum()
    each = [_log_theta_density(population, nodes, float(k)) for k in z]
    p = weight @ np.stack(each)
    steps = 0.5 * (p[1:] + p[:-1]) * np.diff(nodes)
    share = np.append(0.0, np.cumsum(steps))
    return nodes, np.asarray(p / share[-1]), share / share[-1]


def _cut_normal(share: float, low: float, high: float) -> float:
    """The quantile of a standard normal cut to [low, high]."""
    if low > 0.0:
        # The lower tail keeps its digits where the upper one is a difference from one.
        return -_cut_normal(1.0 - share, -high, -low)
    below, above = special.ndtr(low), special.ndtr(high)
    return float(special.ndtri(below + share * (above - below)))
