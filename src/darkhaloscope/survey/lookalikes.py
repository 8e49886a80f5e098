"""Mock look-alikes by class: rings, spirals, mergers, and stars with spikes.

The look-alikes are simple pictures of real classes of false positive, drawn by a computer: they carry
``host_domain="sim"`` and say nothing about rates in real data. Real rings are closed and concentric, spirals
have arms of the disc's colour family, mergers pair galaxies of one colour, spikes are white.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.survey import priors as sky
from darkhaloscope.survey.populations import Galaxy, Numbers, Rng, Star, colours_to_flux, star_colours
from darkhaloscope.survey.release import PIXEL_SCALE_ARCSEC, to_nmgy

Shape = Callable[[Numbers, Numbers], Numbers]
"""Relative surface brightness at offsets (dx, dy) [arcsec] from the target's centre."""

_DISC_HALF_LIGHT = 1.678  # half-light radius of an exponential disc in scale lengths
_HERMITE = ((-np.sqrt(3.0), 1.0 / 6.0), (0.0, 2.0 / 3.0), (np.sqrt(3.0), 1.0 / 6.0))


@dataclass(frozen=True)
class Feature:
    """Extended light: a shape and its colours, either of known flux or of known ridge brightness.

    flux   [nmgy] g r z, shared over the pixels in proportion to the shape
    ridge  [nmgy / arcsec^2] g r z where the shape is one; used instead of flux when given
    """

    shape: Shape
    flux: Numbers | None = None
    ridge: Numbers | None = None


@dataclass(frozen=True)
class Glare:
    """What a bright star adds beyond the PSF model: spikes and halo, and bleeding where it saturates."""

    angle: float
    width_arcsec: float
    slope: float
    length_arcsec: float
    spike_flux: Numbers
    halo_flux: Numbers
    bleed_pix: float
    bleed_reach_pix: float


@dataclass(frozen=True)
class Lookalike:
    """A contaminant at the centre of its stamp, ready to be painted; `main` is what a catalogue says of it.

    Rings and spirals are catalogued whole, mergers by their brightest member.
    """

    main: Galaxy | Star
    galaxies: list[Galaxy] = field(default_factory=list)
    points: list[Star] = field(default_factory=list)
    features: list[Feature] = field(default_factory=list)
    glare: Glare | None = None


def draw_lookalike(category: str, rng: Rng, prior: sky.SkyPriors) -> Lookalike:
    """A mock contaminant of a class: ring, spiral, merger or spike."""
    match category:
        case "ring":
            return _ring(rng, prior.contaminants.ring)
        case "spiral":
            return _spiral(rng, prior.contaminants.spiral)
        case "merger":
            return _merger(rng, prior.contaminants.merger, prior.contaminants.ring)
        case "spike":
            return _spike(rng, prior.contaminants.spike, prior.stars)
    message = f"no class of contaminant is called '{category}'"
    raise ValueError(message)


def _turned(dx: Numbers, dy: Numbers, phi: float, q: float) -> tuple[Numbers, Numbers]:
    """Radius along the major axis, and angle in the plane of an inclined disc."""
    xi = np.cos(phi) * dx + np.sin(phi) * dy
    eta = (np.cos(phi) * dy - np.sin(phi) * dx) / q
    return np.hypot(xi, eta), np.arctan2(eta, xi)


def _pair_colours(rng: Rng, prior: sky.Rings, *, red: bool) -> tuple[float, float]:
    if red:
        return prior.red_g_r.draw(rng), prior.red_r_z.draw(rng)
    return prior.blue_g_r.draw(rng), prior.blue_r_z.draw(rng)


def _ring(rng: Rng, prior: sky.Rings) -> Lookalike:
    r, share = prior.core_r.draw(rng), prior.flux_share.draw(rng)
    colours = _pair_colours(rng, prior, red=bool(rng.random() < prior.red_share))
    q, phi = prior.core_q.draw(rng), float(rng.uniform(0.0, np.pi))
    core = Galaxy(
        flux=(1.0 - share) * colours_to_flux(r, *colours),
        radius_arcsec=prior.core_radius.draw(rng),
        sersic_n=prior.core_n.draw(rng),
        q=q,
        phi=phi,
    )
    shape = _ring_shape(
        radius=prior.radius.draw(rng),
        width=prior.width.draw(rng),
        q=float(np.clip(q + prior.q_offset.draw(rng), 0.3, 1.0)),
        phi=phi,
        modes=np.array([prior.lumpiness * prior.mode.draw(rng) for _ in range(5)]),
        turns=rng.uniform(0.0, 2.0 * np.pi, 5),
    )
    light = share * colours_to_flux(r, prior.g_r.draw(rng), prior.r_z.draw(rng))
    whole = replace(core, flux=core.flux + light)
    return Lookalike(main=whole, galaxies=[core], features=[Feature(shape, flux=light)])


def _ring_shape(
    *, radius: float, width: float, q: float, phi: float, modes: Numbers, turns: Numbers
) -> Shape:
    def shape(dx: Numbers, dy: Numbers) -> Numbers:
        rho, angle = _turned(dx, dy, phi, q)
        lumps = 1.0 + sum(
            a * np.cos((m + 1) * angle + p) for m, (a, p) in enumerate(zip(modes, turns, strict=True))
        )
        # A real ring closes: its faintest part stays above a fifth of the mean.
        return np.asarray(np.maximum(lumps, 0.2) * np.exp(-0.5 * ((rho - radius) / width) ** 2))

    return shape


@dataclass(frozen=True)
class _Arms:
    """Logarithmic arms in the plane of a disc."""

    number: int
    pitch: float
    turn: float
    start: float

    def angle(self, rho: Numbers, arm: NDArray[np.int64] | int = 0) -> Numbers:
        """Angle of an arm at radius rho: ln rho = tan(pitch) (angle - turn)."""
        return np.asarray(
            self.turn
            + np.log(np.maximum(rho, 1e-3) / self.start) / np.tan(self.pitch)
            + 2.0 * np.pi * np.asarray(arm) / self.number
        )

    def distance(self, rho: Numbers, angle: Numbers) -> Numbers:
        """Distance from the nearest arm, across it [unit of rho]."""
        period = 2.0 * np.pi / self.number
        off = np.mod(angle - self.angle(rho) + 0.5 * period, period) - 0.5 * period
        return np.asarray(rho * np.abs(off) * np.sin(self.pitch))


def _spiral(rng: Rng, prior: sky.Spirals) -> Lookalike:
    r, scale, q = prior.r.draw(rng), prior.scale_length.draw(rng), prior.q.draw(rng)
    phi, bulge_share = float(rng.uniform(0.0, np.pi)), prior.bulge_share.draw(rng)
    reach = min(prior.truncation * scale, prior.reach_arcsec)
    arms = _Arms(
        number=2 if rng.random() < prior.two_arms_share else 3,
        pitch=np.radians(prior.pitch_deg.draw(rng)),
        turn=float(rng.uniform(0.0, 2.0 * np.pi)),
        start=scale,
    )
    contrast, knot_share = prior.contrast.draw(rng), prior.knot_share.draw(rng)
    disc = (1.0 - bulge_share) * colours_to_flux(r, prior.disc_g_r, prior.disc_r_z)
    blue = (1.0 - bulge_share) * colours_to_flux(r, prior.disc_g_r - prior.arms_bluer, prior.disc_r_z)
    smooth, lit = _disc_shapes(prior, arms, scale=scale, q=q, phi=phi, reach=reach)
    ratio = contrast * _light_ratio(lit, smooth, reach)
    arm_share = (1.0 - knot_share) * ratio / (1.0 + ratio)
    bulge = Galaxy(
        flux=bulge_share * colours_to_flux(r, prior.bulge_g_r, prior.bulge_r_z),
        radius_arcsec=prior.bulge_radius * scale,
        sersic_n=prior.bulge_n,
        q=0.5 * (1.0 + q),
        phi=phi,
    )
    features = [
        Feature(smooth, flux=(1.0 - arm_share - knot_share) * disc),
        Feature(lit, flux=arm_share * blue),
    ]
    total = bulge.flux + (1.0 - arm_share - knot_share) * disc + (arm_share + knot_share) * blue
    whole = Galaxy(flux=total, radius_arcsec=_DISC_HALF_LIGHT * scale, sersic_n=1.0, q=q, phi=phi)
    knots = _knots(rng, prior, arms, scale=scale, q=q, phi=phi, reach=reach, flux=knot_share * blue)
    return Lookalike(main=whole, galaxies=[bulge], features=features, points=knots)


def _disc_shapes(
    prior: sky.Spirals, arms: _Arms, *, scale: float, q: float, phi: float, reach: float
) -> tuple[Shape, Shape]:
    def smooth(dx: Numbers, dy: Numbers) -> Numbers:
        rho, _ = _turned(dx, dy, phi, q)
        return np.asarray(np.exp(-rho / scale) / (1.0 + np.exp((rho - reach) / (0.2 * scale))))

    def lit(dx: Numbers, dy: Numbers) -> Numbers:
        rho, angle = _turned(dx, dy, phi, q)
        width = prior.arm_width_slope * rho + prior.arm_width_arcsec
        # Arms begin outside the bulge.
        inside = 1.0 / (1.0 + np.exp(-(rho - 0.5 * scale) / 0.15))
        return np.asarray(smooth(dx, dy) * inside * np.exp(-0.5 * (arms.distance(rho, angle) / width) ** 2))

    return smooth, lit


def _light_ratio(one: Shape, other: Shape, reach: float) -> float:
    """Total light of one shape over that of another."""
    axis = np.linspace(-1.2 * reach, 1.2 * reach, 49)
    dx, dy = axis[None, :], axis[:, None]
    return float(one(dx, dy).sum() / other(dx, dy).sum())


def _knots(
    rng: Rng,
    prior: sky.Spirals,
    arms: _Arms,
    *,
    scale: float,
    q: float,
    phi: float,
    reach: float,
    flux: Numbers,
) -> list[Star]:
    """Gaussian knots on the arms, each as the nine points whose moments are those of the Gaussian."""
    number = round(prior.knots.draw(rng))
    rho = rng.uniform(0.6 * scale, 0.9 * reach, number)
    angle = arms.angle(rho, rng.integers(0, arms.number, number))
    share = rng.dirichlet(np.full(number, 2.0))
    xi, eta = rho * np.cos(angle), q * rho * np.sin(angle)
    x, y = np.cos(phi) * xi - np.sin(phi) * eta, np.sin(phi) * xi + np.cos(phi) * eta
    return [
        Star(
            flux=flux * s * wu * wv, dx=float(cx + prior.knot_sigma * u), dy=float(cy + prior.knot_sigma * v)
        )
        for cx, cy, s in zip(x, y, share, strict=True)
        for u, wu in _HERMITE
        for v, wv in _HERMITE
    ]


def _merger(rng: Rng, prior: sky.Mergers, cores: sky.Rings) -> Lookalike:
    r = prior.r.draw(rng)
    g_r, r_z = _pair_colours(rng, cores, red=bool(rng.random() < prior.red_share))
    members = [_member(rng, prior, r, (g_r, r_z), apart=False)]
    for _ in range(2 if rng.random() < prior.three_share else 1):
        fainter = r + 2.5 * float(np.log10(prior.flux_ratio.draw(rng)))
        members.append(_member(rng, prior, fainter, (g_r, r_z), apart=True))
    offset, where = prior.arc_offset.draw(rng), rng.uniform(0.0, 2.0 * np.pi)
    shape = _arc_shape(
        x0=float(offset * np.cos(where)),
        y0=float(offset * np.sin(where)),
        radius=prior.arc_radius.draw(rng),
        sigma=prior.arc_sigma,
        half_length=0.5 * np.radians(prior.arc_length_deg.draw(rng)),
        # The tail swings round the far side, so that it is seen outside the brighter galaxy.
        middle=float(where + rng.normal(0.0, 0.6)),
    )
    shift = prior.arc_colour_scatter * rng.standard_normal(2)
    ridge = colours_to_flux(prior.arc_mu_r.draw(rng), g_r + shift[0], r_z + shift[1])
    return Lookalike(main=members[0], galaxies=members, features=[Feature(shape, ridge=ridge)])


def _member(rng: Rng, prior: sky.Mergers, r: float, colours: tuple[float, float], *, apart: bool) -> Galaxy:
    angle, distance = rng.uniform(0.0, 2.0 * np.pi), prior.separation.draw(rng)
    shift = prior.colour_spread * rng.uniform(-1.0, 1.0, 2)
    return Galaxy(
        flux=colours_to_flux(r, colours[0] + shift[0], colours[1] + shift[1]),
        radius_arcsec=prior.radius.draw(rng),
        sersic_n=prior.sersic_n.draw(rng),
        q=prior.q.draw(rng),
        phi=float(rng.uniform(0.0, np.pi)),
        dx=float(distance * np.cos(angle)) if apart else 0.0,
        dy=float(distance * np.sin(angle)) if apart else 0.0,
    )


def _arc_shape(
    *, x0: float, y0: float, radius: float, sigma: float, half_length: float, middle: float
) -> Shape:
    def shape(dx: Numbers, dy: Numbers) -> Numbers:
        rho, angle = np.hypot(dx - x0, dy - y0), np.arctan2(dy - y0, dx - x0)
        off = np.abs(np.mod(angle - middle + np.pi, 2.0 * np.pi) - np.pi)
        along = np.maximum(off - half_length, 0.0) * radius
        return np.asarray(np.exp(-0.5 * ((rho - radius) ** 2 + along**2) / sigma**2))

    return shape


def _spike(rng: Rng, prior: sky.Spikes, stars: sky.Stars) -> Lookalike:
    r = prior.r.draw(rng)
    star = Star(flux=colours_to_flux(r, *star_colours(rng, stars)))
    glare = Glare(
        angle=float(np.radians(prior.angle_scatter_deg) * rng.standard_normal()),
        width_arcsec=prior.width_pix * PIXEL_SCALE_ARCSEC,
        slope=prior.slope,
        length_arcsec=float(prior.length_arcsec * np.sqrt(to_nmgy(r) / to_nmgy(15.0))),
        spike_flux=prior.share * star.flux,
        halo_flux=prior.halo_share * star.flux,
        bleed_pix=prior.bleed_pix.draw(rng),
        bleed_reach_pix=prior.bleed_reach_pix,
    )
    return Lookalike(main=star, points=[star], glare=glare)
