"""The draw of one arc: a lens and a source, following a recipe.

A draw is a function of (seed, purpose, task) alone, one stream for each purpose, so that changing the prior
of the shear leaves the source's colours alone. What falls outside a range is drawn again, a bounded number of
times; what cannot be drawn gets a reject code instead of vanishing.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.random import stream
from darkhaloscope.injection.caustics import ImagedRegion
from darkhaloscope.injection.lens import ISOTHERMAL, Lens
from darkhaloscope.injection.population import Population
from darkhaloscope.injection.real_galaxies import GalaxyFacts, RealGalaxyCatalog
from darkhaloscope.injection.recipe import HybridShapes, RealShapes, Recipe, SersicShapes, Sources
from darkhaloscope.injection.source import (
    Clump,
    Part,
    Sersic,
    Source,
    clumpy_source,
    sersic_source,
    two_component_source,
)
from darkhaloscope.survey.distributions import Normal
from darkhaloscope.survey.profiles import sersic_bn
from darkhaloscope.survey.release import to_magnitude, to_nmgy

Streams = Callable[[str], np.random.Generator]
"""The random stream of one task for a purpose."""

_TINY_AREA_ARCSEC2 = 1e-8


@dataclass(frozen=True)
class Host:
    """What an arc may depend on: the galaxy as its catalogue knows it, None where the catalogue is silent."""

    z: float | None = None
    light_q: float | None = None
    light_phi_rad: float | None = None
    sigma_v_kms: float | None = None
    flux_r: float | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Host":
        """The host of one row of STAMPS."""
        names = ("z", "light_q", "light_phi_rad", "sigma_v_kms", "flux_r")
        return cls(*(row.get(name) for name in names))


@dataclass(frozen=True)
class Truth:
    """Everything an arc is made of.

    lens, source           in arcsec relative to the target
    morphology             the source's smooth Sersic component; None for a real galaxy
    source_mag             intrinsic magnitudes g, r, z, before any rescaling
    caustic_area_arcsec2   area of the region the position was drawn from
    n_images               images of the source's centre
    target_snr             wanted arc_snr_mf, None where counts decide
    weight                 relative frequency of such a lens in nature over that in these draws
    source_id              the real galaxy, None for a model
    size_arcsec            half-light radius, sqrt(ab)
    """

    lens: Lens
    source: Source
    morphology: Sersic | None
    z_lens: float
    z_source: float
    source_mag: tuple[float, float, float]
    caustic_area_arcsec2: float
    n_images: int
    target_snr: float | None = None
    weight: float = 1.0
    source_id: str | None = None
    size_arcsec: float | None = None

    @property
    def position(self) -> tuple[float, float]:
        """Where the source's centre is [arcsec]."""
        shape = self.source.parts[0].shape
        return shape.x, shape.y


class _RejectedError(Exception):
    """A draw that cannot be completed; its argument is the reject code. Never leaves this module."""


_EXHAUSTED = "draw_exhausted"


def draw(
    host: Host,
    recipe: Recipe,
    *,
    seed: int,
    task: str,
    purpose: str = "injection",
    share: tuple[float, float] = (0.0, 1.0),
) -> Truth | str:
    """Draw the lens and the source of one task.

    host      what is known of the galaxy
    seed      the experiment's
    task      whose draw it is: a task_id
    purpose   prefix of the streams' names, e.g. "anchors": two purposes share nothing
    share     part of a catalogue of real galaxies that sources come from, see `RealGalaxyCatalog.choose`

    Returns a Truth, or a reject code: "no_multiple_images" for a lens too weak to make any, "no_source" where
    the catalogue has no galaxy behind the lens, "draw_exhausted" where `max_draws` tries did not meet a
    prior's condition. Raises DataError where a catalogue of real galaxies cannot be read.
    """
    try:
        return _draw(host, recipe, lambda what: stream(seed, f"{purpose}/{what}", task), share)
    except _RejectedError as rejected:
        return str(rejected)


def _draw(host: Host, recipe: Recipe, rng: Streams, share: tuple[float, float]) -> Truth:
    lens, z_lens = _draw_lens(host, recipe, rng("lens"), rng("shear"))
    light = _draw_light(z_lens, recipe, rng, share)
    if recipe.theta_e_prior != "uniform":
        lens, z_lens = _weighed_by_nature(
            lens, z_lens, host=host, recipe=recipe, z_source=light.z, rng=rng("theta_e")
        )
    region = ImagedRegion(lens)
    if not region.area > _TINY_AREA_ARCSEC2:
        raise _RejectedError("no_multiple_images")
    x, y = _draw_position(region, recipe.max_draws, rng("position"))
    morphology, source, size = _draw_source(x, y, light, recipe, rng("source_shape"))
    return Truth(
        lens=lens,
        source=source,
        morphology=morphology,
        z_lens=z_lens,
        z_source=light.z,
        source_mag=light.mag,
        caustic_area_arcsec2=region.area,
        n_images=int(region.images(np.array([x]), np.array([y]))[0]),
        target_snr=_draw_target_snr(recipe, rng("target_snr")),
        weight=_weight(lens, region, recipe),
        source_id=None if light.galaxy is None else light.galaxy.ident,
        size_arcsec=size,
    )


def _draw_lens(
    host: Host, recipe: Recipe, rng: np.random.Generator, shear_rng: np.random.Generator
) -> tuple[Lens, float]:
    prior = recipe.deflection
    theta_e = prior.theta_e.draw(rng)
    # Drawn whether needed or not, so that what follows does not depend on what the catalogue knows.
    assumed_z, assumed_q, any_angle = recipe.host.z.draw(rng), recipe.host.light_q.draw(rng), rng.random()
    z = assumed_z if host.z is None else host.z
    light_q = assumed_q if host.light_q is None else host.light_q
    tilt = math.radians(prior.angle_scatter_deg) * rng.standard_normal()
    phi = math.pi * any_angle
    if host.light_phi_rad is not None and light_q <= prior.round_light_q:
        phi = host.light_phi_rad + tilt
    round_ = 1.0 - prior.ellipticity_of_round - prior.ellipticity_slope * (1.0 - light_q)
    scatter = prior.ellipticity_scatter * rng.standard_normal(recipe.max_draws)
    q = _first(round_ + scatter, prior.q.low, prior.q.high)
    slope = ISOTHERMAL if prior.slope is None else prior.slope.draw(rng)
    gamma, angle = prior.shear.draw(shear_rng), math.pi * shear_rng.random()
    lens = Lens(
        theta_e=theta_e,
        q=q,
        phi=phi % math.pi,
        gamma1=gamma * math.cos(2.0 * angle),
        gamma2=gamma * math.sin(2.0 * angle),
        gamma=slope,
    )
    return lens, z


def _weighed_by_nature(
    lens: Lens, z_lens: float, *, host: Host, recipe: Recipe, z_source: float, rng: np.random.Generator
) -> tuple[Lens, float]:
    """The lens with an Einstein radius of nature's: the host's own, or one of the population's."""
    if recipe.theta_e_prior == "population":
        found = recipe.population.draw(rng, z_source)
        return replace(lens, theta_e=found.theta_e_arcsec), found.z_lens
    r_mag = None if host.flux_r is None or host.flux_r <= 0.0 else float(to_magnitude(host.flux_r))
    theta_e = recipe.population.theta_e_of_host(rng, host.sigma_v_kms, z_lens, z_source, r_mag=r_mag)
    return replace(lens, theta_e=theta_e), z_lens


def _weight(lens: Lens, region: ImagedRegion, recipe: Recipe) -> float:
    """How much more often nature makes such a lens than this recipe draws it.

    Uniform: the population's density of theta_E within the range over the uniform one. Host: galaxies are
    drawn one like another, nature lenses in proportion to the multiply-imaged area [arcsec^2].
    """
    if recipe.theta_e_prior == "population":
        return 1.0
    if recipe.theta_e_prior == "host":
        return region.area
    low, high = recipe.deflection.theta_e.low, recipe.deflection.theta_e.high
    if not high > low:
        return 1.0
    population = _population(recipe.population, recipe.sources.z)
    return float(population.importance_weight(lens.theta_e, 1.0 / (high - low), within=(low, high)))


@lru_cache(maxsize=8)
def _population(population: Population, source_z: Normal) -> Population:
    return population.model_copy(update={"source_z": source_z})


@lru_cache(maxsize=8)
def _catalog(shapes: RealShapes) -> RealGalaxyCatalog:
    catalog = RealGalaxyCatalog.open(shapes.catalog, photometry=shapes.photometry)
    if shapes.catalog_sha256 not in (None, catalog.fingerprint):
        raise DataError(shapes.catalog, "is not the catalogue that this recipe was made with")
    return catalog


def settled(recipe: Recipe) -> Recipe:
    """The recipe with the fingerprint of the catalogue that it draws from, so that results carry it."""
    shapes = recipe.shapes
    if not isinstance(shapes, RealShapes):
        return recipe
    known = shapes.model_copy(update={"catalog_sha256": _catalog(shapes).fingerprint})
    return recipe.model_copy(update={"shapes": known})


def _draw_position(region: ImagedRegion, tries: int, rng: np.random.Generator) -> tuple[float, float]:
    """Uniform in area where there is more than one image: no weight of magnification, the flux carries it."""
    x_low, x_high, y_low, y_high = region.box
    x, y = rng.uniform([x_low, y_low], [x_high, y_high], (tries, 2)).T
    hit = np.flatnonzero(region.images(x, y) > 1)
    if not hit.size:
        raise _RejectedError(_EXHAUSTED)
    return float(x[hit[0]]), float(y[hit[0]])


@dataclass(frozen=True)
class _Light:
    """What is drawn of a source before its place: redshift, magnitudes g r z, and a real galaxy's facts."""

    z: float
    mag: tuple[float, float, float]
    galaxy: GalaxyFacts | None = None


def _draw_light(z_lens: float, recipe: Recipe, rng: Streams, share: tuple[float, float]) -> _Light:
    shapes, prior = recipe.shapes, recipe.sources
    if isinstance(shapes, RealShapes):
        r, catalog = prior.r_mag.draw(rng("source_flux")), _catalog(shapes)
        behind = z_lens + prior.z_behind
        index = catalog.choose(rng("source_galaxy"), z_min=behind, r_mag=r, share=share)
        if index is None:
            raise _RejectedError("no_source")
        facts = catalog.facts(index)
        g, own_r, z = facts.mag
        return _Light(facts.z, (r + g - own_r, r, r + z - own_r), facts)
    z_source = _draw_source_redshift(z_lens, recipe, rng("source_z"))
    return _Light(z_source, _draw_magnitudes(z_source, prior, rng("source_flux")))


def _draw_source_redshift(z_lens: float, recipe: Recipe, rng: np.random.Generator) -> float:
    prior = recipe.sources
    for _ in range(recipe.max_draws):
        z = prior.z.draw(rng)
        if z > z_lens + prior.z_behind:
            return z
    raise _RejectedError(_EXHAUSTED)


def _draw_magnitudes(z: float, prior: Sources, rng: np.random.Generator) -> tuple[float, float, float]:
    """Intrinsic g, r, z: counts in r, colours of the source's own redshift."""
    r = prior.r_mag.draw(rng)
    red, blue = rng.random() < prior.red_share, rng.standard_normal(2)
    if red:
        g_r, r_z = prior.red_g_r.draw(rng), prior.red_r_z.draw(rng)
    else:
        g_r = float(np.interp(z, prior.track_z, prior.track_g_r)) + prior.blue_scatter_g_r * blue[0]
        r_z = float(np.interp(z, prior.track_z, prior.track_r_z)) + prior.blue_scatter_r_z * blue[1]
    return r + float(g_r), r, r - float(r_z)


def _draw_source(
    x: float, y: float, light: _Light, recipe: Recipe, rng: np.random.Generator
) -> tuple[Sersic | None, Source, float]:
    """(smooth component, source, half-light radius [arcsec]) at a place in the source plane."""
    shapes, prior = recipe.shapes, recipe.sources
    if light.galaxy is not None and isinstance(shapes, RealShapes):
        return _place_galaxy(x, y, light, _catalog(shapes), rng, slope=prior.size_slope)
    median = math.log10(prior.size_at_24) + prior.size_slope * (light.mag[1] - 24.0)
    spread = prior.size_scatter * rng.standard_normal(recipe.max_draws)
    size = _first(10.0 ** (median + spread), prior.size.low, prior.size.high)
    match shapes:
        case HybridShapes():
            base = Sersic(size, shapes.n_sersic.draw(rng), prior.q.draw(rng), math.pi * rng.random(), x, y)
            return base, _draw_hybrid(base, light.mag, shapes, rng), size
        case SersicShapes():
            base = Sersic(size, shapes.n_sersic.draw(rng), prior.q.draw(rng), math.pi * rng.random(), x, y)
            return *_draw_smooth(base, light.mag, shapes, rng), size
    message = f"no source of kind '{shapes.kind}' can be drawn without its galaxy"
    raise AssertionError(message)


def _place_galaxy(
    x: float, y: float, light: _Light, catalog: RealGalaxyCatalog, rng: np.random.Generator, *, slope: float
) -> tuple[None, Source, float]:
    facts = light.galaxy
    assert facts is not None  # noqa: S101 - the caller's condition, for the type checker
    factor = catalog.size_factor(facts.index, light.mag[1], slope=slope)
    flip, phi = bool(rng.random() < 0.5), 2.0 * math.pi * rng.random()
    shape = catalog.galaxy(facts.index).placed(x=x, y=y, phi=phi, flip=flip, magnify=factor)
    flux = tuple(float(f) for f in to_nmgy(np.asarray(light.mag)))
    return None, Source((Part(shape, flux),), f"real galaxy {facts.ident}"), factor * facts.half_light_arcsec


def _draw_smooth(
    base: Sersic, mag: tuple[float, float, float], shapes: SersicShapes, rng: np.random.Generator
) -> tuple[Sersic, Source]:
    two_parts = rng.random() < shapes.two_component_share
    share = float(rng.beta(shapes.bulge_alpha, shapes.bulge_beta))
    if not two_parts:
        return base, sersic_source(base, mag)
    disc = replace(base, n_sersic=1.0)
    return disc, two_component_source(
        disc, mag, bulge_share=share, bulge_size=shapes.bulge_size, bulge_redder=shapes.bulge_redder
    )


def _draw_hybrid(
    base: Sersic, mag: tuple[float, float, float], shapes: HybridShapes, rng: np.random.Generator
) -> Source:
    """Clumps follow the smooth light; each is bluer than the galaxy, the whole keeps its colours."""
    n = int(rng.integers(shapes.clumps[0], shapes.clumps[1] + 1))
    share = shapes.flux_share.draw(rng) * rng.dirichlet(np.full(n, shapes.concentration))
    radius, angle = _within(base, shapes.reach, rng.random(n)), 2.0 * math.pi * rng.random(n)
    along, across = radius * np.cos(angle) / math.sqrt(base.q), radius * np.sin(angle) * math.sqrt(base.q)
    x = base.x + math.cos(base.phi) * along - math.sin(base.phi) * across
    y = base.y + math.sin(base.phi) * along + math.cos(base.phi) * across
    low, high = shapes.sigma.low, shapes.sigma.high
    sigma = np.minimum(low * (high / low) ** rng.random(n), shapes.widest * base.R_sersic)
    g_r, r_z = (m + sd * rng.standard_normal(n) for m, sd in (shapes.bluer_g_r, shapes.bluer_r_z))
    galaxy = to_nmgy(np.asarray(mag, dtype=np.float64))
    tint = np.stack([10.0 ** (0.4 * g_r), np.ones(n), 10.0 ** (-0.4 * r_z)], axis=1)
    flux = share[:, None] * galaxy * tint
    clumps = [
        Clump(float(cx), float(cy), float(s), tuple(f))
        for cx, cy, s, f in zip(x, y, sigma, flux.tolist(), strict=True)
    ]
    return clumpy_source(base, mag, clumps, g_over_r=_gradient_ratio(base.n_sersic, shapes.gradient))


def _within(base: Sersic, reach: float, u: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Circularised radii [arcsec] distributed as the profile's light, out to `reach` half-light radii."""
    n, bn = base.n_sersic, sersic_bn(base.n_sersic)
    most = special.gammainc(2.0 * n, bn * reach ** (1.0 / n))
    return np.asarray(base.R_sersic * (special.gammaincinv(2.0 * n, u * most) / bn) ** n)


def _gradient_ratio(n: float, gradient: float) -> float:
    """Half-light radius in g over that in r for g-r to fall by `gradient` mag per half-light radius, there.

    From ``mu(R) = 1.0857 b_n (R/R_e)^(1/n)``: d(g-r)/d(R/R_e) at R_e is -1.0857 b_n/n^2 times the ratio's
    excess over one; exact for exponentials, where the gradient is the same at every radius.
    """
    return 1.0 + gradient * n * n / (2.5 / math.log(10.0) * sersic_bn(n))


def _draw_target_snr(recipe: Recipe, rng: np.random.Generator) -> float | None:
    if recipe.flux_mode == "counts":
        return None
    low, high = recipe.target_snr.low, recipe.target_snr.high
    return float(low * (high / low) ** rng.random())


def _first(values: npt.NDArray[np.float64], low: float, high: float) -> float:
    """The first value within [low, high]: a truncated draw by redrawing, with a bound on the tries."""
    kept = values[(values >= low) & (values <= high)]
    if not kept.size:
        raise _RejectedError(_EXHAUSTED)
    return float(kept[0])
