"""How arcs are made: priors of lens and source, shapes and imaging, as one frozen configuration.

Every number carries where it comes from (`contracts.config.tagged`). What a number describes is simulated,
whatever its tag. Lengths in arcsec relative to the stamp's target, angles in radians from +x towards +y where
no unit is named, magnitudes AB. `injection.draw` follows it.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from darkhaloscope.contracts.config import Frozen, tagged
from darkhaloscope.injection.nuisance import Nuisances
from darkhaloscope.injection.population import Population
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
    slope: Normal | None = tagged(
        None, "M", "power-law slope; none is isothermal, the SLACS arm N(2.08,.18)[1.7,2.5] (n=23)"
    )
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
    q: Normal = tagged(normal(0.60, 0.20, 0.2, 1.0), "K", "inclined discs")
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


class SersicShapes(Frozen):
    """Sersic galaxies, some of them a disc with a bulge of its own colour.

    Stands in for real galaxies where there are none: `source_model` in every output row says so.
    """

    kind: Literal["sersic"] = "sersic"
    n_sersic: LogNormal = tagged(log_normal(1.0, 0.45, 0.5, 4.5), "K", "discs; n>2.5 in 3 %")
    two_component_share: float = tagged(0.10, "K", "sources with a bulge of its own colour", ge=0.0, le=1.0)
    bulge_alpha: float = tagged(1.5, "K", "Beta(alpha, beta) of B/T in r: mean .20", gt=0.0)
    bulge_beta: float = tagged(6.0, "K", "Beta(alpha, beta) of B/T in r: mean .20", gt=0.0)
    bulge_size: float = tagged(0.30, "K", "bulge over disc half-light radius", gt=0.0)
    bulge_redder: tuple[float, float] = tagged((0.35, 0.30), "K", "bulge minus disc in g-r, r-z", "mag")


class HybridShapes(Frozen):
    """Sersic galaxies with star-forming clumps, drawn in the source plane: gen7.

    Counts and flux shares are the brief's; its sizes of .5 to 2 pixels are read on a source grid of 0.03
    arcsec, 125 to 510 pc at z=1.5. Read as survey pixels they would be as large as the galaxy.
    """

    kind: Literal["hybrid"] = "hybrid"
    n_sersic: LogNormal = tagged(log_normal(1.0, 0.45, 0.5, 4.5), "K", "discs; n>2.5 in 3 %")
    clumps: tuple[int, int] = tagged((2, 8), "K", "number of clumps, uniform, both ends included")
    flux_share: Uniform = tagged(uniform(0.05, 0.20), "K", "of all clumps in the r flux")
    sigma: Uniform = tagged(uniform(0.015, 0.060), "K", "log-uniform: .5 to 2 px of 0.03 arcsec", "arcsec")
    widest: float = tagged(0.4, "A", "largest sigma over the galaxy's half-light radius", gt=0.0)
    reach: float = tagged(3.0, "A", "half-light radii within which clumps lie", gt=0.0)
    concentration: float = tagged(2.0, "A", "Dirichlet parameter of the clumps' shares", gt=0.0)
    bluer_g_r: tuple[float, float] = tagged(
        (0.20, 0.08), "A", "mean and sd: galaxy minus clump in g-r", "mag"
    )
    bluer_r_z: tuple[float, float] = tagged(
        (0.15, 0.08), "A", "mean and sd: galaxy minus clump in r-z", "mag"
    )
    gradient: float = tagged(0.15, "K", "the smooth light's g-r falls by this per half-light radius", "mag")


class RealShapes(Frozen):
    """Real galaxies from a catalogue in GalSim's RealGalaxyCatalog format, with their own colours: gen5'.

    catalog           its FITS file or folder (`galsim_download_cosmos` puts one at the user's place)
    photometry        table with IDENT, g, r, z, zphot, for catalogues that lack them
    catalog_sha256    what the catalogue must be; filled in when a run begins, so that results name their
                      pixels whatever the place they lay in
    """

    unfingerprinted: ClassVar[frozenset[str]] = frozenset({"catalog", "photometry"})

    kind: Literal["real"] = "real"
    catalog: str
    photometry: str | None = None
    catalog_sha256: str | None = None


AnyShapes = Annotated[SersicShapes | HybridShapes | RealShapes, Field(discriminator="kind")]


class Recipe(Frozen):
    """How arcs are made: priors of lens and light, the sources' shapes, and the imaging they are seen by.

    lineage         the name the paper trail uses: gen5_prime, gen7, gen8
    theta_e_prior   uniform: in bins, for completeness; host: from the host's own velocity dispersion;
                    population: from the velocity-dispersion function, whatever the host
    flux_mode       counts: intrinsic number counts; snr_targeted: rescaled to a wanted arc_snr_mf
    snr_floor       least arc_snr_mf of a pair; fainter ones keep their row, with a code and without pixels
    imaging         what differs from pair to pair beyond the host's own pixels; None leaves them alone
    """

    lineage: str = "gen5_prime"
    theta_e_prior: Literal["uniform", "host", "population"] = "uniform"
    flux_mode: Literal["counts", "snr_targeted"] = "counts"
    target_snr: Uniform = tagged(
        uniform(5.0, 100.0), "A", "arc_snr_mf aimed at, log-uniform, if snr_targeted"
    )
    snr_floor: float | None = tagged(None, "A", "recorded floor on arc_snr_mf; none", ge=0.0)
    max_draws: int = tagged(64, "C", "tries per quantity; the imaged region fills 75 % of its box", ge=1)
    host: UnseenHost = UnseenHost()
    deflection: Deflection = Deflection()
    population: Population = Population()
    sources: Sources = Sources()
    shapes: AnyShapes = SersicShapes()
    imaging: Nuisances | None = None

    @property
    def kind(self) -> str:
        """What the table calls it: shapes, and whether the imaging was varied."""
        return self.shapes.kind if self.imaging is None else f"{self.shapes.kind}+nuisances"


def other_sources(recipe: Recipe) -> Recipe:
    """The recipe with another family of sources and all else as it is.

    Clumpy galaxies for Sersic ones, Sersic ones for clumpy and for real ones. Of one task and seed, Sersic
    and clumpy draws have the lens, place, redshift, magnitudes, size and axis in common; a real galaxy has
    a redshift and colours of its own.
    """
    match recipe.shapes:
        case SersicShapes(n_sersic=n):
            return recipe.model_copy(update={"shapes": HybridShapes(n_sersic=n), "lineage": "gen7"})
        case HybridShapes(n_sersic=n):
            return recipe.model_copy(update={"shapes": SersicShapes(n_sersic=n), "lineage": "gen5_prime"})
        case RealShapes():
            return recipe.model_copy(update={"shapes": SersicShapes(), "lineage": "gen5_prime"})
