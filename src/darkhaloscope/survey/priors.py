"""Every number of the synthetic sky, in one configuration, each with where it comes from.

A field's tag says whether its default was Measured on real pixels, Stated in a publication, Computed, Assumed
or Known. The sky made from it is simulated whatever the tags say: M means that a default was tuned to a few
real files, not that it is a measurement of DR10. Draws are joint, as `survey.populations` writes them; a draw
out of range is drawn again, never moved onto the bound.

Units: magnitudes AB, colours in mag, radii in arcsec along the *major* axis unless a name says otherwise,
angles in degrees where the name says so.
"""

from typing import Any, Literal

from darkhaloscope.contracts.config import Frozen, tagged
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


class Footprint(Frozen):
    """Where bricks may lie."""

    dec_deg: Uniform = tagged(uniform(-85.0, 33.0), "K", "declinations of DR10-south", "deg")
    galactic_latitude_min_deg: float = tagged(
        25.0, "A", "between the survey's 18 and the stars' 30 deg", "deg"
    )
    brick_half_width_deg: float = tagged(0.125, "K", "bricks are 0.25 deg on a side", "deg", gt=0.0)


class Cosmology(Frozen):
    """Flat Lambda CDM."""

    hubble_km_s_mpc: float = tagged(70.0, "A", "convention", "km/s/Mpc", gt=0.0)
    matter_density: float = tagged(0.3, "A", "convention", gt=0.0, lt=1.0)


class Deflectors(Frozen):
    """Massive early types: the parents of lenses."""

    z: Normal = tagged(normal(0.55, 0.18, 0.15, 0.95), "M", "redshifts of two candidate tables (Stein+21)")
    sigma_v_kms: LogNormal = tagged(
        log_normal(235.0, 0.18, 140.0, 400.0), "M", "46 DES luminous galaxies: 197/235/282", "km/s"
    )
    track_z: tuple[float, ...] = tagged(
        (0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.90), "M", "nodes of the tracks below, linear between"
    )
    track_r: tuple[float, ...] = tagged(
        (16.9, 17.85, 18.3, 19.05, 19.6, 20.1, 20.6, 21.25),
        "M",
        "r0(z) of candidate lenses (Stein+21)",
        "mag",
    )
    track_g_r: tuple[float, ...] = tagged(
        (1.09, 1.43, 1.65, 1.77, 1.77, 1.75, 1.70, 1.65),
        "M",
        "to z=.6; beyond, the red edge (assumed)",
        "mag",
    )
    track_r_z: tuple[float, ...] = tagged(
        (0.72, 0.80, 0.89, 1.02, 1.23, 1.45, 1.62, 1.80), "M", "Stein+21 rows", "mag"
    )
    r_offset: float = tagged(0.50, "M", "so that sigma_v 235 and g-r 1.87 give r=19.9", "mag")
    r_per_dex_sigma: float = tagged(-6.3, "S", "Bernardi+03 <M|sigma>", "mag/dex")
    r_scatter: float = tagged(0.40, "S", "Bernardi+03", "mag", ge=0.0)
    r_range: Uniform = tagged(uniform(16.5, 22.0), "A", "total magnitudes kept", "mag")
    g_r_scatter: float = tagged(0.10, "M", "MAD .14-.16 including errors", "mag", ge=0.0)
    r_z_scatter: float = tagged(0.08, "M", "MAD .05-.13 to z=.65", "mag", ge=0.0)
    log_radius_kpc: float = tagged(0.81, "S", "log10 R_e at z=.5 and the median r (van der Wel+14)", "dex")
    radius_per_dex_z: float = tagged(-1.0, "S", "van der Wel+14 early types, softened from -1.48")
    radius_per_mag: float = tagged(-0.18, "S", "slope with r at fixed z (Shen+03)", "dex/mag")
    radius_scatter_dex: float = tagged(0.14, "S", "van der Wel+14", "dex", ge=0.0)
    radius_range: Uniform = tagged(uniform(0.25, 5.0), "A", "half-light radii kept", "arcsec")
    sersic_n: Normal = tagged(normal(4.2, 1.0, 1.5, 6.0), "A", "Tractor caps SER at 6")
    q: Normal = tagged(normal(0.78, 0.14, 0.35, 1.0), "S", "SLACS q_l .79+-.09 (n=23)")
    radius_ratio_g: float = tagged(1.10, "S", "R_e(g)/R_e(r): colour gradients of early types", gt=0.0)
    radius_ratio_z: float = tagged(0.92, "S", "R_e(z)/R_e(r)", gt=0.0)
    centring_pix: Uniform = tagged(uniform(-0.5, 0.5), "A", "targets do not sit on pixel centres", "pix")


class Discs(Frozen):
    """Bright disc and round exponential galaxies among the negatives; never hosts of injections."""

    share: float = tagged(0.30, "A", "share of a brick's ordinary targets", ge=0.0, le=1.0)
    z: Normal = tagged(normal(0.35, 0.15, 0.05, 0.8), "A", "disc parents")
    r: Counts = tagged(Counts(slope=0.45, bright=17.0, faint=21.5), "A", "counts", "mag")
    g_r: Normal = tagged(normal(0.75, 0.30, 0.2, 1.7), "A", "disc parents", "mag")
    r_z: Normal = tagged(normal(0.50, 0.22, 0.0, 1.3), "A", "disc parents", "mag")
    sersic_n: LogNormal = tagged(log_normal(1.2, 0.35, 0.5, 2.5), "A", "disc parents")
    radius: LogNormal = tagged(log_normal(1.1, 0.45, 0.3, 4.0), "A", "half-light radius", "arcsec")
    q: Uniform = tagged(uniform(0.25, 1.0), "A", "random inclinations")
    edge_on_share: float = tagged(0.10, "A", "with an edge-on disc beside it", ge=0.0, le=1.0)
    blue_companion_share: float = tagged(0.10, "A", "with a blue companion beside it", ge=0.0, le=1.0)
    beside_arcsec: Uniform = tagged(uniform(0.8, 2.5), "A", "distance of those two", "arcsec")
    beside_flux: Uniform = tagged(uniform(0.1, 0.4), "A", "flux of those two over the galaxy's, r band")
    edge_on_q: Uniform = tagged(uniform(0.15, 0.25), "A", "axis ratio of the edge-on disc")
    blue_g_r: Normal = tagged(normal(0.25, 0.15, -0.1, 0.6), "A", "blue companion", "mag")
    blue_r_z: Normal = tagged(normal(0.20, 0.15, -0.2, 0.6), "A", "blue companion", "mag")
    blue_radius: LogNormal = tagged(log_normal(0.35, 0.2), "A", "blue companion", "arcsec")


class Companions(Frozen):
    """Galaxies in the field of every target, positives and controls alike."""

    per_arcmin2: float = tagged(
        16.0, "M", "134 around 46 DES galaxies, to the faint limit", "1/arcmin^2", ge=0.0
    )
    border_arcsec: float = tagged(2.0, "A", "margin around the stamp that is filled too", "arcsec", ge=0.0)
    exclusion_arcsec: float = tagged(2.0, "A", "none nearer: there isophotes blend", "arcsec", ge=0.0)
    r: Counts = tagged(Counts(slope=0.28, bright=19.0, faint=24.0), "M", "counts at r<21..24", "mag")
    g_r: Normal = tagged(normal(1.1, 0.50, -0.1, 2.2), "M", ".72/1.25/1.85 (n=134)", "mag")
    r_z: Normal = tagged(normal(0.75, 0.40, -0.1, 2.0), "M", ".39/.81/1.34 (n=134)", "mag")
    radius: LogNormal = tagged(log_normal(0.45, 0.45), "M", "n=134", "arcsec")
    sersic_n: LogNormal = tagged(log_normal(1.5, 0.5, 0.5, 5.0), "A", "mixed types")
    q: Uniform = tagged(uniform(0.3, 1.0), "A", "random")


class Stars(Frozen):
    """Foreground stars at high galactic latitude."""

    per_arcmin2: float = tagged(2.0, "S", "|b|>30 deg, to the faint limit", "1/arcmin^2", ge=0.0)
    r: Counts = tagged(Counts(slope=0.18, bright=15.0, faint=22.5), "S", "star counts", "mag")
    g_r: Uniform = tagged(uniform(0.3, 1.5), "A", "stellar locus", "mag")
    locus_slope: float = tagged(0.55, "S", "r-z against g-r, bluer than the knee")
    locus_offset: float = tagged(-0.05, "S", "r-z at g-r=0", "mag")
    locus_knee: float = tagged(1.3, "S", "g-r beyond which the locus turns up", "mag")
    m_dwarf_share: float = tagged(1.0 / 3.0, "A", "share of M dwarfs", ge=0.0, le=1.0)
    m_dwarf_g_r: Normal = tagged(normal(1.4, 0.08, 1.2, 1.6), "K", "M dwarfs share one g-r", "mag")
    m_dwarf_r_z: Uniform = tagged(uniform(0.6, 2.2), "A", "M dwarfs", "mag")
    locus_scatter: float = tagged(0.05, "A", "in both colours", "mag", ge=0.0)
    full_well_e: float = tagged(1.8e5, "K", "DECam pixel at the end of its linear range", "e-", gt=0.0)


class Psf(Frozen):
    """One PSF per target and band."""

    size_arcsec: tuple[float, float, float] = tagged(
        (1.29, 1.18, 1.11), "S", "median psfsize g r z of DECaLS (Dey+19)", "arcsec"
    )
    scatter: float = tagged(0.12, "A", "of ln FWHM", ge=0.0)
    common: float = tagged(0.60, "A", "share of the variance that bands have in common", ge=0.0, le=1.0)
    size_range: Uniform = tagged(uniform(0.75, 2.2), "A", "psfsize kept", "arcsec")
    size_over_moffat: float = tagged(
        1.06, "M", "psfsize over the FWHM of a Moffat fit (n=3: 1.07 1.05 1.09)", gt=0.0
    )
    beta: Normal = tagged(normal(3.0, 0.40, 2.2, 4.5), "M", "coadds 2.3-3.2, single exposures 3.4-3.8")
    beta_scatter: float = tagged(0.15, "A", "between the bands of one target", ge=0.0)
    ellipticity: Rayleigh = tagged(Rayleigh(scale=0.015, high=0.2), "M", "(a-b)/(a+b) of 9 PSFs: .009-.040")
    angle_scatter_deg: float = tagged(25.0, "A", "between bands, about a common angle", "deg", ge=0.0)
    large_kernel_below_r: float = tagged(17.5, "C", "hosts whose wings need the 63 px kernel", "mag")


class Noise(Frozen):
    """Depth, exposures and background of the coadd at one target."""

    sigma_pix: tuple[float, float, float] = tagged(
        (0.0023, 0.0033, 0.0100),
        "A",
        "median rms of blank pixels, between DES depth and three passes",
        "nmgy",
    )
    scatter: float = tagged(0.28, "A", "of ln sigma_pix", ge=0.0)
    common: float = tagged(0.70, "A", "share of the variance that bands have in common", ge=0.0, le=1.0)
    keep: Uniform = tagged(uniform(0.5, 2.2), "A", "sigma_pix over its median")
    sigma_pix_nominal: tuple[float, float, float] = tagged(
        (0.0029, 0.0048, 0.0139), "C", "rms of blank pixels after three nominal passes", "nmgy"
    )
    few_exposures: int = tagged(2, "C", "up to here the resampling phase does not average out", ge=0)
    offset: float = tagged(0.05, "M", "|median| of blank pixels .02-.03 sigma", "sigma_pix", ge=0.0)
    gradient: float = tagged(0.05, "M", "across the stamp, each axis", "sigma_pix", ge=0.0)


class MockAnchors(Frozen):
    """Ordinary deflectors set aside to play known lenses; their arcs are made in the injection room."""

    share: float = tagged(
        0.05, "A", "anchors per ordinary target, where no number is asked for", ge=0.0, le=1.0
    )


class Rings(Frozen):
    """Core and closed, lumpy, concentric ring."""

    core_r: Uniform = tagged(uniform(17.5, 20.0), "A", "magnitude of the whole", "mag")
    core_n: Uniform = tagged(uniform(2.0, 4.0), "A", "core")
    core_radius: Uniform = tagged(uniform(0.4, 0.8), "A", "core", "arcsec")
    core_q: Uniform = tagged(uniform(0.6, 1.0), "A", "core")
    red_share: float = tagged(0.5, "A", "share of red cores", ge=0.0, le=1.0)
    red_g_r: Normal = tagged(normal(1.20, 0.20, 0.8, 1.8), "A", "red cores", "mag")
    red_r_z: Normal = tagged(normal(0.75, 0.15, 0.4, 1.3), "A", "red cores", "mag")
    blue_g_r: Normal = tagged(normal(0.60, 0.15, 0.2, 0.9), "A", "blue cores", "mag")
    blue_r_z: Normal = tagged(normal(0.40, 0.15, 0.0, 0.8), "A", "blue cores", "mag")
    radius: Uniform = tagged(uniform(1.6, 4.5), "A", "of the ring's ridge, major axis", "arcsec")
    width: Uniform = tagged(uniform(0.25, 0.6), "A", "Gaussian sigma", "arcsec")
    q_offset: Uniform = tagged(uniform(-0.1, 0.1), "A", "ring's axis ratio minus the core's")
    flux_share: Uniform = tagged(uniform(0.15, 0.5), "A", "ring over everything, r band")
    lumpiness: float = tagged(0.35, "A", "of the azimuthal modes 1 to 5", ge=0.0)
    mode: Rayleigh = tagged(Rayleigh(scale=0.4, high=1.5), "A", "amplitude of each mode")
    g_r: Normal = tagged(normal(0.35, 0.15, -0.1, 0.8), "A", "ring", "mag")
    r_z: Normal = tagged(normal(0.25, 0.15, -0.2, 0.7), "A", "ring", "mag")


class Spirals(Frozen):
    """Bulge, exponential disc, logarithmic arms and knots."""

    r: Uniform = tagged(uniform(16.5, 19.5), "A", "magnitude of the whole", "mag")
    scale_length: Uniform = tagged(uniform(1.0, 2.5), "A", "of the disc, major axis", "arcsec")
    q: Uniform = tagged(uniform(0.4, 1.0), "A", "inclination")
    bulge_share: Uniform = tagged(uniform(0.1, 0.4), "A", "r band")
    bulge_radius: float = tagged(0.35, "A", "half-light radius in scale lengths of the disc", gt=0.0)
    bulge_n: float = tagged(2.5, "A", "Sersic index", gt=0.0)
    bulge_g_r: float = tagged(1.0, "A", "bulge", "mag")
    bulge_r_z: float = tagged(0.65, "A", "bulge", "mag")
    disc_g_r: float = tagged(0.55, "A", "disc", "mag")
    disc_r_z: float = tagged(0.40, "A", "disc", "mag")
    arms_bluer: float = tagged(0.25, "A", "arms and knots against the disc, g-r", "mag")
    two_arms_share: float = tagged(0.7, "A", "the rest has three", ge=0.0, le=1.0)
    pitch_deg: Uniform = tagged(uniform(15.0, 32.0), "A", "tighter arms merge at 1.2 arcsec seeing", "deg")
    contrast: Uniform = tagged(uniform(1.0, 3.5), "A", "arm over disc on the ridge, before the seeing")
    arm_width_slope: float = tagged(0.10, "A", "sigma per radius", ge=0.0)
    arm_width_arcsec: float = tagged(0.15, "A", "sigma at the centre", "arcsec", gt=0.0)
    truncation: float = tagged(3.0, "A", "in scale lengths", gt=0.0)
    reach_arcsec: float = tagged(5.0, "A", "and never further out than this", "arcsec", gt=0.0)
    knots: Uniform = tagged(uniform(6.0, 20.0), "A", "number of knots on the arms")
    knot_sigma: float = tagged(0.15, "A", "Gaussian sigma", "arcsec", gt=0.0)
    knot_share: Uniform = tagged(uniform(0.05, 0.15), "A", "of the disc's flux")


class Mergers(Frozen):
    """Two or three galaxies of one colour, and one tidal arc that is not centred on them."""

    r: Uniform = tagged(uniform(17.0, 19.5), "A", "magnitude of the brightest", "mag")
    three_share: float = tagged(0.3, "A", "with a third galaxy", ge=0.0, le=1.0)
    separation: Uniform = tagged(uniform(1.2, 4.0), "A", "from the brightest", "arcsec")
    flux_ratio: Uniform = tagged(uniform(1.0, 4.0), "A", "brightest over the other")
    radius: Uniform = tagged(uniform(0.5, 1.2), "A", "half light", "arcsec")
    sersic_n: Uniform = tagged(uniform(1.0, 4.0), "A", "progenitors")
    q: Uniform = tagged(uniform(0.5, 1.0), "A", "progenitors")
    red_share: float = tagged(0.5, "A", "red pairs; the others are blue", ge=0.0, le=1.0)
    colour_spread: float = tagged(0.1, "A", "between members, at most", "mag", ge=0.0)
    arc_length_deg: Uniform = tagged(uniform(60.0, 180.0), "A", "of the tidal arc", "deg")
    arc_radius: Uniform = tagged(uniform(2.0, 5.0), "A", "of the tidal arc", "arcsec")
    arc_offset: Uniform = tagged(uniform(0.5, 1.5), "A", "its centre from the brightest galaxy", "arcsec")
    arc_sigma: float = tagged(0.4, "A", "Gaussian width", "arcsec", gt=0.0)
    arc_colour_scatter: float = tagged(0.15, "A", "against the progenitor", "mag", ge=0.0)
    arc_mu_r: Uniform = tagged(uniform(24.0, 26.0), "A", "ridge surface brightness", "mag/arcsec^2")


class Spikes(Frozen):
    """A bright star with diffraction spikes, a bleed column and a halo."""

    r: Uniform = tagged(uniform(12.0, 16.0), "A", "star", "mag")
    slope: float = tagged(1.6, "A", "spike intensity falls as radius to minus this", gt=0.0)
    share: float = tagged(0.01, "A", "of the star's flux in the four spikes", ge=0.0, le=1.0)
    width_pix: float = tagged(2.0, "A", "full width of a spike", "pix", gt=0.0)
    angle_scatter_deg: float = tagged(
        2.0, "K", "about the pixel axes: the mount is equatorial", "deg", ge=0.0
    )
    length_arcsec: float = tagged(
        8.0, "A", "of a star of r=15; grows with the root of its flux", "arcsec", gt=0.0
    )
    halo_share: float = tagged(0.003, "A", "of the star's flux, falling as r^-2", ge=0.0, le=1.0)
    bleed_pix: Uniform = tagged(uniform(1.0, 3.0), "A", "width of the bleed column", "pix")
    bleed_reach_pix: float = tagged(5.0, "A", "half length per doubling over saturation", "pix", ge=0.0)


class Contaminants(Frozen):
    """Mock look-alikes by class: simple, and simulated."""

    ring: Rings = Rings()
    spiral: Spirals = Spirals()
    merger: Mergers = Mergers()
    spike: Spikes = Spikes()


class SkyPriors(Frozen):
    """The synthetic sky. `domain` says what anything made from it is."""

    domain: Literal["sim"] = "sim"
    footprint: Footprint = Footprint()
    cosmology: Cosmology = Cosmology()
    deflectors: Deflectors = Deflectors()
    discs: Discs = Discs()
    companions: Companions = Companions()
    stars: Stars = Stars()
    psf: Psf = Psf()
    noise: Noise = Noise()
    anchors: MockAnchors = MockAnchors()
    contaminants: Contaminants = Contaminants()


def describe(model: Frozen, path: str = "") -> list[dict[str, Any]]:
    """Every tagged number below a model: path, default, tag, basis and unit, in order."""
    rows: list[dict[str, Any]] = []
    for name, field in type(model).model_fields.items():
        value, here = getattr(model, name), f"{path}{name}"
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "tag" in extra:
            shown = value.model_dump() if isinstance(value, Frozen) else value
            rows.append(
                {"path": here, "value": shown, **{key: extra[key] for key in ("tag", "basis", "unit")}}
            )
        elif isinstance(value, Frozen):
            rows += describe(value, f"{here}.")
    return rows
