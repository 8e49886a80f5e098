"""A synthetic sky: bricks over the DR10-south footprint, and the targets painted in them.

Every draw belongs to a target and a purpose, so a target's pixels are the same however many bricks there are
and in whatever order they are painted. Nothing here knows about arcs: mock anchors leave this room as
ordinary deflectors of kind ``lens`` and get their arcs from the injection room.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from darkhaloscope.contracts.errors import ConfigError, naming
from darkhaloscope.contracts.random import stream
from darkhaloscope.contracts.tables import BRICKS, CATEGORIES
from darkhaloscope.survey.lookalikes import Feature, Glare, Lookalike, draw_lookalike
from darkhaloscope.survey.populations import (
    FieldNoise,
    FieldPsf,
    Galaxy,
    Numbers,
    Star,
    draw_companions,
    draw_deflector,
    draw_disc,
    draw_noise,
    draw_psf,
    draw_stars,
)
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.release import (
    CELL_NSIDE,
    PIXEL_SCALE_ARCSEC,
    SYNTHETIC_RELEASE,
    brick_name,
    cell_centre,
    galactic_latitude,
    healpix_cell,
    sky_group,
    to_magnitude,
)

_SUBCELLS = 16  # HEALPix cells of a quarter of the side: 0.23 deg, about a brick
STAMP_SIZE_PIX = 64


@dataclass(frozen=True)
class Scene:
    """Everything that shines or disturbs in one stamp; offsets in arcsec from the target's centre."""

    galaxies: list[Galaxy]
    stars: list[Star]
    features: list[Feature]
    glare: Glare | None
    psf: FieldPsf
    noise: FieldNoise


@dataclass(frozen=True)
class Target:
    """A target before it is painted: its scene, where it lies in the stamp, and its catalogue row."""

    target_id: str
    size: int
    x_center_pix: float
    y_center_pix: float
    scene: Scene
    full_well_e: float
    row: dict[str, Any] = field(repr=False)


def plan_bricks(
    seed: int,
    n_bricks: int,
    targets_per_brick: int,
    *,
    priors: SkyPriors,
    contaminants: Mapping[str, int] | None = None,
    anchors: int | None = None,
    first: int = 0,
) -> pa.Table:
    """Bricks scattered over the footprint, with how many targets of each kind they hold.

    n_bricks           bricks; while there are fewer than sky cells, each centre lies in a cell of its own
    targets_per_brick  ordinary targets (deflectors and discs) in each
    contaminants       total number of mock contaminants per class, spread evenly; none by default
    anchors            total number of mock anchors, spread evenly; by default the priors' share
    first              number of the first brick: plans that start behind each other share no brick

    Returns rows of BRICKS. Brick k is the same for every `n_bricks`; only the even spread of the totals
    depends on it. ConfigError if the footprint cannot hold that many bricks.
    """
    if n_bricks < 1 or targets_per_brick < 0:
        raise ConfigError("plan", "n_bricks", f"= {n_bricks} with {targets_per_brick} targets plans nothing")
    totals = dict.fromkeys(CATEGORIES, 0) | dict(contaminants or {})
    unknown = sorted(set(totals) - set(CATEGORIES))
    if unknown:
        raise ConfigError("plan", "contaminants", f"has no class '{unknown[0]}'", ", ".join(CATEGORIES))
    if anchors is None:
        anchors = round(priors.anchors.share * n_bricks * targets_per_brick)
    n_disc = round(priors.discs.share * targets_per_brick)
    ra, dec = _brick_centres(seed, first, n_bricks, priors)
    columns: dict[str, Any] = {
        "brickname": [brick_name(a, d) for a, d in zip(ra, dec, strict=True)],
        "ra_deg": ra,
        "dec_deg": dec,
        "cell": healpix_cell(ra, dec),
        "release": [SYNTHETIC_RELEASE] * n_bricks,
        "n_lrg": [targets_per_brick - n_disc] * n_bricks,
        "n_disc": [n_disc] * n_bricks,
    }
    for offset, (name, total) in enumerate([*totals.items(), ("anchor", anchors)]):
        columns[f"n_{name}"] = _spread_evenly(total, n_bricks, offset)
    return BRICKS.conform(columns)


def _spread_evenly(total: int, n: int, offset: int) -> list[int]:
    """`total` over n bricks, differing by at most one; `offset` keeps the remainders of classes apart."""
    return [total // n + ((k + 7 * offset) % n < total % n) for k in range(n)]


def _brick_centres(seed: int, first: int, n_bricks: int, priors: SkyPriors) -> tuple[Numbers, Numbers]:
    cells = _footprint_cells(priors)
    if first + n_bricks > _SUBCELLS * len(cells):
        raise ConfigError(
            "plan", "n_bricks", f"= {first + n_bricks} does not fit", f"at most {_SUBCELLS * len(cells)}"
        )
    order = stream(seed, "survey/bricks", "footprint").permutation(cells)
    number = first + np.arange(n_bricks)
    cell = order[number % len(cells)]
    # Every pass over the footprint takes another sixteenth of each cell, so that no two bricks coincide.
    turn = stream(seed, "survey/bricks", "subcells").permutation(_SUBCELLS)
    return cell_centre(_SUBCELLS * cell + turn[number // len(cells)], nside=4 * CELL_NSIDE)


def _footprint_cells(priors: SkyPriors) -> Numbers:
    cells = np.arange(12 * CELL_NSIDE**2)
    ra, dec = cell_centre(cells)
    bounds = priors.footprint
    inside = (dec >= bounds.dec_deg.low) & (dec <= bounds.dec_deg.high)
    inside &= np.abs(galactic_latitude(ra, dec)) >= bounds.galactic_latitude_min_deg
    if not inside.any():
        raise ConfigError("priors", "footprint", "leaves no sky")
    return np.asarray(cells[inside])


def targets_of(brick: Mapping[str, Any]) -> Iterator[tuple[str, str, str | None]]:
    """(target_id, kind, category) of every target of a brick, in a fixed order."""
    kinds: list[tuple[str, str, str | None]] = [("lrg", "lrg", None), ("disc", "disc", None)]
    kinds += [(name, "contaminant", name) for name in CATEGORIES]
    kinds.append(("anchor", "lens", None))
    for label, kind, category in kinds:
        for k in range(int(brick[f"n_{label}"])):
            yield f"{brick['brickname']}-{label}-{k:04d}", kind, category


def draw_target(
    seed: int,
    target_id: str,
    kind: str,
    category: str | None,
    *,
    brick: Mapping[str, Any],
    priors: SkyPriors,
    size: int = STAMP_SIZE_PIX,
) -> Target:
    """Everything about one target, from its own streams.

    kind, category  as in STAMPS; kind ``lens`` is a deflector that will be given an arc later
    size            side of the stamp to be painted [pixel]
    """
    rng = stream(seed, "survey/target", target_id)
    shift = [priors.deflectors.centring_pix.draw(rng) for _ in range(2)]
    facts, look = _draw_central(rng, kind, category, priors)
    half = 0.5 * size * PIXEL_SCALE_ARCSEC
    centre = (shift[0] * PIXEL_SCALE_ARCSEC, shift[1] * PIXEL_SCALE_ARCSEC)
    field_rng, star_rng = (stream(seed, f"survey/{what}", target_id) for what in ("companions", "stars"))
    galaxies = look.galaxies + draw_companions(field_rng, priors.companions, half, centre)
    stars = look.points + draw_stars(star_rng, priors.stars, half, centre)
    brightest = float(to_magnitude(max(light.flux[1] for light in [look.main, *galaxies, *stars])))
    scene = Scene(
        galaxies=galaxies,
        stars=stars,
        features=look.features,
        glare=look.glare,
        psf=draw_psf(stream(seed, "survey/psf", target_id), priors.psf, brightest),
        noise=draw_noise(stream(seed, "survey/noise", target_id), priors.noise),
    )
    row = _place(stream(seed, "survey/position", target_id), brick, priors.footprint.brick_half_width_deg)
    row |= {"target_id": target_id, "host_id": target_id, "kind": kind, "category": category}
    row |= {"name": target_id if kind == "lens" else None, "host_domain": priors.domain, "arc_domain": None}
    row |= facts | _shape_columns(look)
    return Target(
        target_id=target_id,
        size=size,
        x_center_pix=0.5 * (size - 1) + shift[0],
        y_center_pix=0.5 * (size - 1) + shift[1],
        scene=scene,
        full_well_e=priors.stars.full_well_e,
        row=row,
    )


def _draw_central(
    rng: np.random.Generator, kind: str, category: str | None, priors: SkyPriors
) -> tuple[dict[str, Any], Lookalike]:
    if kind == "contaminant":
        return {}, draw_lookalike(str(category), rng, priors)
    if kind == "disc":
        host, beside = draw_disc(rng, priors.discs)
    else:
        host, beside = draw_deflector(rng, priors.deflectors, priors.cosmology), []
    facts = {"z": host.z, "sigma_v_kms": host.sigma_v_kms}
    return facts, Lookalike(main=host.galaxy, galaxies=[host.galaxy, *beside])


def _place(rng: np.random.Generator, brick: Mapping[str, Any], half: float) -> dict[str, Any]:
    """Somewhere in the brick: its columns of the sky."""
    dec = float(np.clip(brick["dec_deg"] + rng.uniform(-half, half), -90.0, 90.0))
    ra = float((brick["ra_deg"] + rng.uniform(-half, half) / np.cos(np.radians(brick["dec_deg"]))) % 360.0)
    cell = int(healpix_cell(ra, dec))
    return {
        "release": brick["release"],
        "brickname": brick["brickname"],
        "ra_deg": ra,
        "dec_deg": dec,
        "cell": cell,
        "group": sky_group(cell, ""),
    }


def _shape_columns(look: Lookalike) -> dict[str, Any]:
    """Catalogue columns of the central object, under the Tractor's names: the drawn truth, not a fit."""
    main = look.main
    columns: dict[str, Any] = {f"flux_{band}": float(main.flux[b]) for b, band in enumerate("grz")}
    if isinstance(main, Star):
        return columns | {"type": "PSF"}
    modulus = (1.0 - main.q) / (1.0 + main.q)
    return columns | {
        "type": _tractor_type(main),
        "sersic": main.sersic_n,
        "shape_r": main.radius_arcsec,
        # The Tractor counts its angle from north through east; x runs west, so its angle is phi - 90 deg.
        "shape_e1": -modulus * np.cos(2.0 * main.phi),
        "shape_e2": -modulus * np.sin(2.0 * main.phi),
        "light_q": main.q,
        "light_phi_rad": main.phi,
    }


def _tractor_type(galaxy: Galaxy) -> str:
    """The model that the Tractor would likely choose: round and small, one of two fixed laws, or Sersic."""
    if galaxy.radius_arcsec < 0.45:
        return "REX"
    if abs(galaxy.sersic_n - 4.0) < 0.4:
        return "DEV"
    return "EXP" if abs(galaxy.sersic_n - 1.0) < 0.25 else "SER"


def harvest_brick(seed: int, brick: Mapping[str, Any], priors: SkyPriors, size: int) -> Iterator[Target]:
    """The targets of one brick, drawn in order. An error names its target."""
    for target_id, kind, category in targets_of(brick):
        with naming(target_id=target_id):
            yield draw_target(seed, target_id, kind, category, brick=brick, priors=priors, size=size)
