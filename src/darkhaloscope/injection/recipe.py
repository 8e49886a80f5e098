"""How arcs are made: priors of lens and source as one frozen configuration, and the draw that follows them.

Every number carries where it comes from (`contracts.config.tagged`). What a number describes is simulated,
whatever its tag. Lengths in arcsec relative to the stamp's target, angles in radians from +x towards +y where
no unit is named, magnitudes AB.

A draw is a function of (seed, purpose, task) alone, one stream for each purpose, so that changing the prior
of the shear leaves the source's colours alone. What falls outside a range is drawn again, a bounded number of
times; what cannot be drawn gets a reject code instead of vanishing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from darkhaloscope.contracts.config import Frozen, tagged
from darkhaloscope.contracts.random import stream
from darkhaloscope.injection.lens import ImagedRegion, Lens
from darkhaloscope.injection.source import Sersic, Source, sersic_source, two_component_source
from darkhaloscope.survey.distributions import (
    Counts,
    LogNormal,
    Normal,
    Rayleigh,
    Uniform,
    log_normal,
    normal,
    uniform,
)

_TINY_AREA_ARCSEC2 = 1e-8


class UnseenHost(Frozen):
    """What is assumed of a host whose catalogue row does not say it."""

    z: Normal = tagged(normal(0.55, 0.18, 0.15, 0.95), "M", "redshifts of two candidate tables (Stein+21)")
    light_q: Normal = tagged(normal(0.78, 0.14, 0.35, 1.0), "S", "early types; SLACS .79 +- .09")


class Deflection(Frozen):
    """Priors of the deflector, given its host's light."""

    theta_e: Uniform = tagged(
        uniform(0.5, 2.5), "A", "grid of the completeness study; not a population", "arcsec"
    )
    ellipticity_of_round: float = tagged(0.16, "M", "1-q_m where 1-q_l is 0 (SLACS, 23 lenses)")
    ellipticity_slope: float = tagged(0.63, "M", "d(1-q_m)/d(1-q_l) (SLACS, correlation .59)")
    ellipticity_scatter: float = tagged(0.076, "M", "of 1-q_m about that line (SLACS)", ge=0.0)
    q: Uniform = tagged(uniform(0.35, 0.98), "A", "mass axis ratios kept")
    angle_scatter_deg: float = tagged(10.0, "M", "mass against light (SLACS: 8.4 to 12.9)", "deg", ge=0.0)
    round_light_q: float = tagged(0.90, "A", "rounder light than this says nothing of the angle")
    shear: Rayleigh = tagged(Rayleigh(scale=0.035, high=0.15), "M", "SLACS .006/.025/.077 at 16/50/84 %")


class Sources(Frozen):
    """Priors of the background galaxies: counts, redshifts, sizes, shapes and their own colours."""

    r_mag: Counts = tagged(Counts(slope=0.30, bright=21.0, faint=26.0), "S", "intrinsic r counts", "mag")
    z: Normal = tagged(normal(1.5, 0.6, 0.6, 4.0), "S", "HST-COSMOS I<25.9: .37/.55/1.11/2.55/3.48")
    z_behind: float = tagged(0.15, "A", "least redshift difference to the lens", ge=0.0)
    size_at_24: float = tagged(0.25, "M", "half-light radius at r=24 (100 HST galaxies)", "arcsec", gt=0.0)
    size_slope: float = tagged(-0.080, "M", "of log10 size with r (100 HST galaxies)", "dex/mag")
    size_scatter: float = tagged(0.15, "M", "about that line (100 HST galaxies)", "dex", ge=0.0)
    size: Uniform = tagged(uniform(0.05, 1.2), "A", "half-light radii kept", "arcsec")
    n_sersic: LogNormal = tagged(log_normal(1.0, 0.45, 0.5, 4.5), "K", "discs; n>2.5 in 3 %")
    q: Normal = tagged(normal(0.60, 0.20, 0.2, 1.0), "K", "inclined discs")
    two_component_share: float = tagged(0.10, "K", "sources with a bulge of its own colour", ge=0.0, le=1.0)
    bulge_alpha: float = tagged(1.5, "K", "Beta(alpha, beta) of B/T in r: mean .20", gt=0.0)
    bulge_beta: float = tagged(6.0, "K", "Beta(alpha, beta) of B/T in r: mean .20", gt=0.0)
    bulge_size: float = tagged(0.30, "K", "bulge over disc half-light radius", gt=0.0)
    bulge_redder: tuple[float, float] = tagged((0.35, 0.30), "K", "bulge minus disc in g-r, r-z", "mag")
    red_share: float = tagged(0.18, "M", "dusty or old sources (7 to 21 % have g-r > .7)", ge=0.0, le=1.0)
    red_g_r: Normal = tagged(normal(0.95, 0.30, 0.4, 2.0), "M", "72 HST-COSMOS galaxies in 3 bins", "mag")
    red_r_z: Normal = tagged(normal(1.0, 0.35, 0.2, 2.2), "M", "72 HST-COSMOS galaxies in 3 bins", "mag")
    track_z: tuple[float, ...] = tagged(
        (0.6, 0.8, 1.0, 1.3, 1.6, 2.0, 3.0, 3.5, 4.0), "M", "nodes of the blue tracks, linear between"
    )
    track_g_r: tuple[float, ...] = tagged(
        (0.45, 0.35, 0.22, 0.12, 0.12, 0.18, 0.30, 0.60, 0.95), "M", "star-forming sources, small n", "mag"
    )
    track_r_z: tuple[float, ...] = tagged(
        (0.45, 0.70, 0.90, 0.60, 0.40, 0.20, 0.12, 0.12, 0.15), "M", "4000 A break in z near z=1", "mag"
    )
    blue_scatter_g_r: float = tagged(0.15, "M", "about the track", "mag", ge=0.0)
    blue_scatter_r_z: float = tagged(0.20, "M", "about the track", "mag", ge=0.0)


class BaselineRecipe(Frozen):
    """Isothermal lenses in shear with Sersic sources of realistic counts, sizes and colours.

    The baseline of the ablation. Real source galaxies are not at hand, so `source_model` in every output row
    says what stood in for them.
    """

    kind: Literal["baseline"] = "baseline"
    lineage: str = "gen5_prime"
    theta_e_prior: Literal["uniform"] = "uniform"
    flux_mode: Literal["counts", "snr_targeted"] = "counts"
    target_snr: Uniform = tagged(
        uniform(5.0, 100.0), "A", "arc_snr_mf aimed at, log-uniform, if snr_targeted"
    )
    max_draws: int = tagged(64, "C", "tries per quantity; the imaged region fills 75 % of its box", ge=1)
    host: UnseenHost = UnseenHost()
    deflection: Deflection = Deflection()
    sources: Sources = Sources()


@dataclass(frozen=True)
class Host:
    """What an arc may depend on: redshift and shape of the light, None where the catalogue is silent."""

    z: float | None = None
    light_q: float | None = None
    light_phi_rad: float | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Host":
        """The host of one row of STAMPS."""
        return cls(row["z"], row["light_q"], row["light_phi_rad"])


@dataclass(frozen=True)
class Truth:
    """Everything an arc is made of.

    lens, source           in arcsec relative to the target
    morphology             the source's (first) Sersic component
    source_mag             intrinsic magnitudes g, r, z, before any rescaling
    caustic_area_arcsec2   area of the region the position was drawn from
    n_images               images of the source's centre
    target_snr             wanted arc_snr_mf, None where counts decide
    """

    lens: Lens
    source: Source
    morphology: Sersic
    z_lens: float
    z_source: float
    source_mag: tuple[float, float, float]
    caustic_area_arcsec2: float
    n_images: int
    target_snr: float | None = None


class _ExhaustedError(Exception):
    """A bounded number of draws did not meet a condition; never leaves this module."""


def draw(
    host: Host, recipe: BaselineRecipe, *, seed: int, task: str, purpose: str = "injection"
) -> Truth | str:
    """Draw the lens and the source of one task.

    host      what is known of the galaxy
    seed      the experiment's
    task      whose draw it is: a task_id
    purpose   prefix of the streams' names, e.g. "anchors": two purposes share nothing

    Returns a Truth, or a reject code: "no_multiple_images" for a lens too weak to make any, "draw_exhausted"
    where `max_draws` tries did not meet a prior's condition.
    """

    def rng(what: str) -> np.random.Generator:
        return stream(seed, f"{purpose}/{what}", task)

    try:
        lens, z_lens = _draw_lens(host, recipe, rng("lens"), rng("shear"))
        region = ImagedRegion(lens)
        if not region.area > _TINY_AREA_ARCSEC2:
            return "no_multiple_images"
        x, y = _draw_position(region, recipe.max_draws, rng("position"))
        z_source = _draw_source_redshift(z_lens, recipe, rng("source_z"))
        mag = _draw_magnitudes(z_source, recipe.sources, rng("source_flux"))
        morphology, source = _draw_source(x, y, mag, recipe, rng("source_shape"))
    except _ExhaustedError:
        return "draw_exhausted"
    return Truth(
        lens=lens,
        source=source,
        morphology=morphology,
        z_lens=z_lens,
        z_source=z_source,
        source_mag=mag,
        caustic_area_arcsec2=region.area,
        n_images=int(region.images(np.array([x]), np.array([y]))[0]),
        target_snr=_draw_target_snr(recipe, rng("target_snr")),
    )


def _draw_lens(
    host: Host, recipe: BaselineRecipe, rng: np.random.Generator, shear_rng: np.random.Generator
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
    gamma, angle = prior.shear.draw(shear_rng), math.pi * shear_rng.random()
    lens = Lens(
        theta_e=theta_e,
        q=q,
        phi=phi % math.pi,
        gamma1=gamma * math.cos(2.0 * angle),
        gamma2=gamma * math.sin(2.0 * angle),
    )
    return lens, z


def _draw_position(region: ImagedRegion, tries: int, rng: np.random.Generator) -> tuple[float, float]:
    """Uniform in area where there is more than one image: no weight of magnification, the flux carries it."""
    x_low, x_high, y_low, y_high = region.box
    x, y = rng.uniform([x_low, y_low], [x_high, y_high], (tries, 2)).T
    hit = np.flatnonzero(region.images(x, y) > 1)
    if not hit.size:
        raise _ExhaustedError
    return float(x[hit[0]]), float(y[hit[0]])


def _draw_source_redshift(z_lens: float, recipe: BaselineRecipe, rng: np.random.Generator) -> float:
    prior = recipe.sources
    for _ in range(recipe.max_draws):
        z = prior.z.draw(rng)
        if z > z_lens + prior.z_behind:
            return z
    raise _ExhaustedError


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
    x: float,
    y: float,
    mag: tuple[float, float, float],
    recipe: BaselineRecipe,
    rng: np.random.Generator,
) -> tuple[Sersic, Source]:
    prior = recipe.sources
    median = math.log10(prior.size_at_24) + prior.size_slope * (mag[1] - 24.0)
    spread = prior.size_scatter * rng.standard_normal(recipe.max_draws)
    size = _first(10.0 ** (median + spread), prior.size.low, prior.size.high)
    n, q, phi = prior.n_sersic.draw(rng), prior.q.draw(rng), math.pi * rng.random()
    two_parts = rng.random() < prior.two_component_share
    share = float(rng.beta(prior.bulge_alpha, prior.bulge_beta))
    if not two_parts:
        shape = Sersic(size, n, q, phi, x, y)
        return shape, sersic_source(shape, mag)
    disc = Sersic(size, 1.0, q, phi, x, y)
    return disc, two_component_source(
        disc, mag, bulge_share=share, bulge_size=prior.bulge_size, bulge_redder=prior.bulge_redder
    )


def _draw_target_snr(recipe: BaselineRecipe, rng: np.random.Generator) -> float | None:
    if recipe.flux_mode == "counts":
        return None
    low, high = recipe.target_snr.low, recipe.target_snr.high
    return float(low * (high / low) ** rng.random())


def _first(values: npt.NDArray[np.float64], low: float, high: float) -> float:
    """The first value within [low, high]: a truncated draw by redrawing, with a bound on the tries."""
    kept = values[(values >= low) & (values <= high)]
    if not kept.size:
        raise _ExhaustedError
    return float(kept[0])
