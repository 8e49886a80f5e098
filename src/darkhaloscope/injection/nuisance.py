"""What the camera and the sky do to a pair beyond the host's own pixels: gen8's domain randomisation.

**One realisation per pair.** `draw_nuisances` draws everything once, `apply_nuisances` makes from it the
control that this imaging would have recorded, and the arc is added to that: stamp and control share every
pixel of it by construction. What acts on everything in an exposure acts on the arc too: the error of its PSF
(`arc_psf`), the registration (`Imaging.shift_pix`) and the zero-point (`Imaging.flux_scale`).

Streams of random numbers belong to a nuisance: changing the rate of one leaves all others as they were, and a
doubled rate keeps what the single one hit. Amplitudes are in units of sigma_pix, the rms of the stamp's own
blank pixels, never of its brightest or of its standard deviation, which a galaxy decides.

Conventions as in `stamps.stamp`: (band, y, x), bands g r z, 0-based pixel centres, [nmgy]; angles in radians
from x towards y.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import model_validator
from scipy import ndimage

from darkhaloscope.contracts.config import Frozen, tagged
from darkhaloscope.contracts.random import stream
from darkhaloscope.injection.imaging import shot_noise
from darkhaloscope.stamps.measure import outer_mask
from darkhaloscope.stamps.stamp import Stamp
from darkhaloscope.survey import priors as sky
from darkhaloscope.survey.calibrate import track_cover
from darkhaloscope.survey.distributions import (
    LogNormal,
    Normal,
    Rayleigh,
    Uniform,
    log_normal,
    normal,
    uniform,
)
from darkhaloscope.survey.noise import correlated_noise, pixel_rms_ratio, resampling_weights
from darkhaloscope.survey.populations import colours_to_flux, star_colours
from darkhaloscope.survey.profiles import LANCZOS_ORDER, circularised, paint_sersic
from darkhaloscope.survey.psf import convolve
from darkhaloscope.survey.release import (
    BANDS,
    MASK_BITS,
    PASSES,
    PIXEL_SCALE_ARCSEC,
    gain_from_noise,
    nominal_gain,
    sky_nmgy,
    to_nmgy,
)

FloatArray = npt.NDArray[np.float64]
Rng = np.random.Generator
PerBand = tuple[float, ...]

UNMEASURED = "none"
"""What `Rate.measured` says of a rate that nobody has measured."""

_SAFE_EXPOSURES = 3  # so many vote an outlier out; one has no vote
_SPLINE_ORDER = 5
_HALO_ARCSEC = (1.0, 30.0)  # core of a star's halo, and where it ends
_SPIKE_FADE_ARCSEC = 0.5
_SPIKE_CORE_ARCSEC = 1.0
_SPIKE_STEPS = 2000


class Rate(Frozen):
    """How often something happens, and where that was measured.

    In a file, a bare number is a rate that nobody has measured.

    per_stamp   probability per stamp, of the band or of all bands together as the field says
    measured    files and number of stamps it was measured on, as `dhs survey calibrate` writes; else "none"
    """

    per_stamp: float = tagged(0.0, "A", "probability", "1/stamp", ge=0.0, le=1.0)
    measured: str = tagged(UNMEASURED, "A", "where the rate was measured", min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _bare_number(cls, value: Any) -> Any:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return {"per_stamp": float(value)} if is_number else value

    @property
    def is_measured(self) -> bool:
        """Whether anything backs it."""
        return self.measured.strip().lower() != UNMEASURED

    def __str__(self) -> str:
        return f"{self.per_stamp:g} per stamp (measured: {self.measured})"


def _assumed(per_stamp: float, basis: str, unit: str = "1/stamp") -> Any:
    return tagged(Rate(per_stamp=per_stamp), "A", f"{basis}; measured: none", unit)


class Nuisances(Frozen):
    """How the imaging varies from pair to pair. Fields that end in `rate` say where they were measured."""

    psf_fwhm_common: float = tagged(
        0.03, "A", "of ln FWHM of the arc's PSF, all bands together; psfsize against fits 5-9 % (n=3)", ge=0.0
    )
    psf_fwhm_band: float = tagged(0.015, "A", "of ln FWHM of the arc's PSF, each band", ge=0.0)
    psf_ellipticity: Rayleigh = tagged(
        Rayleigh(scale=0.010, high=0.10), "A", "(a-b)/(a+b) that the PSF model does not know"
    )
    noise_ratio: Normal = tagged(
        normal(0.905, 0.015, 0.80, 1.0),
        "M",
        "sigma_pix/sigma_w: .915 .907 .894 in LS DR9 g r z; a stamp as it comes is taken to have the mean",
    )
    sky_offset: float = tagged(0.05, "M", "|median| of blank pixels .02-.03 sigma", "sigma_pix", ge=0.0)
    sky_gradient: float = tagged(
        0.05, "M", "across the stamp, each axis; not seen above .03 sigma", "sigma_pix", ge=0.0
    )
    zero_point_common: float = tagged(0.004, "K", "of all bands together", "mag", ge=0.0)
    zero_point_band: float = tagged(0.010, "K", "of each band (Legacy Surveys: 5-10 mmag)", "mag", ge=0.0)
    registration_arcsec: float = tagged(
        0.02, "K", "each axis and band: astrometry of a band's exposures, .08 pix", "arcsec", ge=0.0
    )
    cosmic_ray_rate: Rate = _assumed(
        0.002, "survivors of outlier rejection, three exposures or more", "1/(stamp band)"
    )
    cosmic_ray_rate_single: Rate = _assumed(
        0.03, "a single exposure; two have the geometric mean of both rates", "1/(stamp band)"
    )
    cosmic_ray_length_pix: Uniform = tagged(uniform(3.0, 25.0), "A", "of the track", "pix")
    cosmic_ray_peak: Uniform = tagged(
        uniform(5.0, 50.0), "A", "of the brightest pixel, log-uniform", "sigma_pix"
    )
    trail_rate: Rate = _assumed(0.001, "satellite trails, in one band")
    trail_peak: Uniform = tagged(uniform(2.0, 10.0), "A", "on the ridge", "sigma_pix")
    star_rate: Rate = _assumed(0.005, "a bright star whose spikes, wings or bleeding reach the stamp")
    star_beyond_arcsec: Uniform = tagged(
        uniform(-1.0, 8.0), "A", "of the star beyond the stamp's edge", "arcsec"
    )
    star: sky.Spikes = sky.Spikes()
    strip_rate: Rate = _assumed(0.002, "a bad column or masked strip, in one band")
    strip_width_pix: tuple[int, int] = tagged((1, 4), "A", "uniform, both ends included", "pix")
    blob_rate: Rate = _assumed(0.02, "a faint galaxy more than the catalogue has")
    blob_r: Uniform = tagged(uniform(24.0, 26.0), "A", "blob", "mag")
    blob_beyond_arcsec: float = tagged(3.0, "A", "least distance from the target", "arcsec", ge=0.0)
    blob_g_r: Normal = tagged(
        normal(1.1, 0.50, -0.1, 2.2), "M", "as companions: .72/1.25/1.85 (n=134)", "mag"
    )
    blob_r_z: Normal = tagged(normal(0.75, 0.40, -0.1, 2.0), "M", "as companions: .39/.81/1.34", "mag")
    blob_radius: LogNormal = tagged(
        log_normal(0.45, 0.45), "M", "as companions: half light, major axis (n=134)", "arcsec"
    )
    blob_q: Uniform = tagged(uniform(0.3, 1.0), "A", "blob")
    missing_band_rate: Rate = _assumed(0.005, "one band without exposures")
    missing_band_mode: Literal["reject", "zero"] = tagged(
        "reject", "A", "reject: the row keeps its place with a code; zero: a band of zeros, training arm only"
    )

    def rates(self) -> dict[str, Rate]:
        """The rates by field name."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if isinstance(value, Rate)}

    def unmeasured(self) -> list[str]:
        """Names of the rates that no measurement backs."""
        return [name for name, rate in self.rates().items() if not rate.is_measured]


@dataclass(frozen=True)
class Track:
    """A cosmic ray's track in one band: middle [pix], angle, length [pix], brightest pixel [sigma_pix]."""

    band: str
    x: float
    y: float
    angle: float
    length_pix: float
    peak: float

    def cover(self, shape: tuple[int, ...]) -> FloatArray:
        """Its pixels (y, x), brightest 1: a line a pixel wide, anti-aliased, which no PSF has seen."""
        return track_cover(shape, x=self.x, y=self.y, angle=self.angle, length_pix=self.length_pix)


@dataclass(frozen=True)
class Trail:
    """A satellite's trail across the whole stamp in one band.

    x, y      a point on it [pix]
    fwhm_pix  its width: the PSF's [pix]
    peak      on the ridge [sigma_pix]
    """

    band: str
    x: float
    y: float
    angle: float
    fwhm_pix: float
    peak: float

    def cover(self, shape: tuple[int, ...]) -> FloatArray:
        """Its pixels (y, x), 1 on the ridge: a line as wide as the PSF, without ends."""
        dx, dy = np.arange(shape[1])[None, :] - self.x, np.arange(shape[0])[:, None] - self.y
        across = np.cos(self.angle) * dy - np.sin(self.angle) * dx
        return np.asarray(np.exp(-4.0 * np.log(2.0) * (across / self.fwhm_pix) ** 2))


@dataclass(frozen=True)
class BrightStar:
    """A bright star at the stamp's edge or beyond, the same in all bands.

    x, y          where it is [pix]
    flux          per band [nmgy]
    fwhm_arcsec   of its Moffat wings, per band
    angle         of the spikes from the pixel axes
    length_arcsec, width_arcsec, slope   of a spike: where it fades, its FWHM, its fall with radius
    spike_share, halo_share              of the star's flux
    bleed_pix, bleed_reach_pix           width of the bleed column, half length per doubling over saturation
    """

    x: float
    y: float
    flux: PerBand
    fwhm_arcsec: PerBand
    angle: float
    length_arcsec: float
    width_arcsec: float
    slope: float
    spike_share: float
    halo_share: float
    bleed_pix: float
    bleed_reach_pix: float


@dataclass(frozen=True)
class Strip:
    """A bad column ("x") or row ("y") of some width in one band: first pixel and width."""

    band: str
    axis: Literal["x", "y"]
    start: int
    width: int


@dataclass(frozen=True)
class Blob:
    """A faint galaxy of Sersic index 1: position [pix], flux per band [nmgy], sqrt(ab) [arcsec], shape."""

    x: float
    y: float
    flux: PerBand
    radius_arcsec: float
    q: float
    phi: float


_ONE: PerBand = (1.0,) * len(BANDS)


@dataclass(frozen=True)
class Imaging:
    """One pair's imaging: everything that was drawn, as a plain value that can be compared and pickled.

    seed, task      whose it is: the streams of the noise that `apply_nuisances` adds
    exposures       per band
    fwhm_scale      factor on the FWHM of the arc's PSF, per band
    ellipticity     (e, position angle) added to the arc's PSF, per band; e = (a - b) / (a + b)
    noise_scale     factor on sigma_pix/sigma_w, per band
    sky             (offset, slope along x, slope along y) per band, slopes across the stamp [sigma_pix]
    flux_scale      recorded over true flux, per band; 0 for a zero-filled one, in which no arc shines
    shift_pix       (x, y) by which a band's exposures are out of place
    missing         the band without exposures, and whether its row is rejected or zero-filled
    """

    seed: int = 0
    task: str = ""
    exposures: PerBand = (float(PASSES),) * len(BANDS)
    fwhm_scale: PerBand = _ONE
    ellipticity: tuple[tuple[float, float], ...] = ((0.0, 0.0),) * len(BANDS)
    noise_scale: PerBand = _ONE
    sky: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),) * len(BANDS)
    flux_scale: PerBand = _ONE
    shift_pix: tuple[tuple[float, float], ...] = ((0.0, 0.0),) * len(BANDS)
    cosmic_rays: tuple[Track, ...] = ()
    trail: Trail | None = None
    star: BrightStar | None = None
    strip: Strip | None = None
    blob: Blob | None = None
    missing: str | None = None
    missing_mode: Literal["reject", "zero"] = "reject"

    @classmethod
    def none(cls) -> Self:
        """Imaging that leaves everything as it is."""
        return cls()

    @property
    def flags(self) -> str:
        """The events of this pair, e.g. "cosmic_ray:r,spike"; empty where only the jitters act."""
        events = [f"cosmic_ray:{track.band}" for track in self.cosmic_rays]
        events += [f"trail:{self.trail.band}"] if self.trail else []
        events += ["spike"] if self.star else []
        events += [f"strip:{self.strip.band}"] if self.strip else []
        events += ["blob"] if self.blob else []
        events += [f"missing_band:{self.missing}"] if self.missing else []
        return ",".join(events)


def draw_nuisances(
    prior: Nuisances,
    *,
    seed: int,
    task: str,
    nexp: Sequence[float],
    psf_fwhm_arcsec: Sequence[float],
    shape: tuple[int, int],
    pixel_scale_arcsec: float = PIXEL_SCALE_ARCSEC,
) -> Imaging:
    """Draw the imaging of one pair, which depends on (seed, nuisance, task) and on these arguments alone.

    nexp              exposures per band: they decide what rejects a cosmic ray
    psf_fwhm_arcsec   per band: width of a trail, seeing of a star
    shape             (n_y, n_x) of the stamp [pix]
    """

    def rng(name: str) -> Rng:
        return stream(seed, f"nuisance/{name}", task)

    missing = _one_band(prior.missing_band_rate, rng("missing_band"))
    flux_scale = _zero_points(prior, rng("zero_point"))
    if missing is not None and prior.missing_band_mode == "zero":
        flux_scale = tuple(0.0 if band == missing else f for band, f in zip(BANDS, flux_scale, strict=True))
    shifts = rng("registration").normal(0.0, prior.registration_arcsec, (len(BANDS), 2)) / pixel_scale_arcsec
    ratios = rng("noise_scale")
    sky_sd = np.array([prior.sky_offset, prior.sky_gradient, prior.sky_gradient])
    return Imaging(
        seed=seed,
        task=task,
        exposures=tuple(float(n) for n in nexp),
        fwhm_scale=_fwhm_scales(prior, rng("psf_fwhm")),
        ellipticity=_ellipticities(prior, rng("psf_ellipticity")),
        noise_scale=tuple(prior.noise_ratio.draw(ratios) / prior.noise_ratio.mean for _ in BANDS),
        sky=tuple((o, x, y) for o, x, y in (sky_sd * rng("sky").standard_normal((len(BANDS), 3))).tolist()),
        flux_scale=flux_scale,
        shift_pix=tuple((x, y) for x, y in shifts.tolist()),
        cosmic_rays=tuple(
            track
            for band, n in zip(BANDS, nexp, strict=True)
            if (track := _cosmic_ray(prior, band, n, rng(f"cosmic_ray/{band}"), shape)) is not None
        ),
        trail=_trail(prior, rng("trail"), shape, np.asarray(psf_fwhm_arcsec) / pixel_scale_arcsec),
        star=_star(prior, rng("star"), shape, psf_fwhm_arcsec, pixel_scale_arcsec),
        strip=_strip(prior, rng("strip"), shape),
        blob=_blob(prior, rng("blob"), shape, pixel_scale_arcsec),
        missing=missing,
        missing_mode=prior.missing_band_mode,
    )


def _one_band(rate: Rate, rng: Rng) -> str | None:
    """The band that is hit, if any. The first number decides: a higher rate keeps the hits of a lower one."""
    return None if rng.random() >= rate.per_stamp else str(rng.choice(BANDS))


def _fwhm_scales(prior: Nuisances, rng: Rng) -> PerBand:
    common, *own = rng.standard_normal(1 + len(BANDS))
    return tuple(float(np.exp(prior.psf_fwhm_common * common + prior.psf_fwhm_band * z)) for z in own)


def _ellipticities(prior: Nuisances, rng: Rng) -> tuple[tuple[float, float], ...]:
    return tuple((prior.psf_ellipticity.draw(rng), float(rng.uniform(0.0, np.pi))) for _ in BANDS)


def _zero_points(prior: Nuisances, rng: Rng) -> PerBand:
    common, *own = rng.standard_normal(1 + len(BANDS))
    errors = (prior.zero_point_common * common + prior.zero_point_band * z for z in own)
    return tuple(float(10.0 ** (-0.4 * error)) for error in errors)


def _cosmic_ray(prior: Nuisances, band: str, nexp: float, rng: Rng, shape: tuple[int, int]) -> Track | None:
    many, single = prior.cosmic_ray_rate.per_stamp, prior.cosmic_ray_rate_single.per_stamp
    # Of two exposures that differ either may be the wrong one: assumed between one and three.
    few = single if nexp <= 1 else float(np.sqrt(many * single))
    rate = many if nexp >= _SAFE_EXPOSURES else few
    if rng.random() >= rate:
        return None
    peaks = prior.cosmic_ray_peak
    return Track(
        band,
        *_somewhere(rng, shape),
        angle=float(rng.uniform(0.0, np.pi)),
        length_pix=prior.cosmic_ray_length_pix.draw(rng),
        peak=float(np.exp(rng.uniform(np.log(peaks.low), np.log(peaks.high)))),
    )


def _somewhere(rng: Rng, shape: tuple[int, int]) -> tuple[float, float]:
    """A position (x, y), uniform over the pixel centres' square."""
    return float(rng.uniform(0.0, shape[1] - 1.0)), float(rng.uniform(0.0, shape[0] - 1.0))


def _trail(prior: Nuisances, rng: Rng, shape: tuple[int, int], fwhm_pix: FloatArray) -> Trail | None:
    band = _one_band(prior.trail_rate, rng)
    if band is None:
        return None
    x, y = _somewhere(rng, shape)
    angle, width = float(rng.uniform(0.0, np.pi)), float(fwhm_pix[BANDS.index(band)])
    return Trail(band, x, y, angle=angle, fwhm_pix=width, peak=prior.trail_peak.draw(rng))


def _star(
    prior: Nuisances, rng: Rng, shape: tuple[int, int], fwhm: Sequence[float], scale: float
) -> BrightStar | None:
    if rng.random() >= prior.star_rate.per_stamp:
        return None
    form, seeing = prior.star, sky.Psf()
    r = form.r.draw(rng)
    # Its row or column crosses the stamp: spikes and bleeding run along the pixel axes.
    along, beyond = rng.random(), prior.star_beyond_arcsec.draw(rng) / scale
    far = bool(rng.integers(2))
    if rng.integers(2):
        x, y = (shape[1] - 1 + beyond if far else -beyond), along * (shape[0] - 1)
    else:
        x, y = along * (shape[1] - 1), (shape[0] - 1 + beyond if far else -beyond)
    return BrightStar(
        x=float(x),
        y=float(y),
        flux=tuple(colours_to_flux(r, *star_colours(rng, sky.Stars())).tolist()),
        fwhm_arcsec=tuple(float(f) / seeing.size_over_moffat for f in fwhm),
        angle=float(np.radians(form.angle_scatter_deg) * rng.standard_normal()),
        length_arcsec=float(form.length_arcsec * np.sqrt(to_nmgy(r) / to_nmgy(15.0))),
        width_arcsec=form.width_pix * scale,
        slope=form.slope,
        spike_share=form.share,
        halo_share=form.halo_share,
        bleed_pix=form.bleed_pix.draw(rng),
        bleed_reach_pix=form.bleed_reach_pix,
    )


def _strip(prior: Nuisances, rng: Rng, shape: tuple[int, int]) -> Strip | None:
    band = _one_band(prior.strip_rate, rng)
    if band is None:
        return None
    axis: Literal["x", "y"] = "x" if rng.integers(2) else "y"
    low, high = prior.strip_width_pix
    width = int(rng.integers(low, high + 1))
    length = shape[1] if axis == "x" else shape[0]
    return Strip(band, axis, start=int(rng.integers(0, max(length - width, 0) + 1)), width=width)


def _blob(prior: Nuisances, rng: Rng, shape: tuple[int, int], scale: float) -> Blob | None:
    if rng.random() >= prior.blob_rate.per_stamp:
        return None
    rows, columns = np.indices(shape)
    distance = np.hypot(rows - 0.5 * (shape[0] - 1), columns - 0.5 * (shape[1] - 1)) * scale
    room = np.flatnonzero(distance > prior.blob_beyond_arcsec)
    if not room.size:
        return None  # a stamp too small to have room for one
    y, x = np.unravel_index(rng.choice(room), shape)
    q = prior.blob_q.draw(rng)
    return Blob(
        x=float(x),
        y=float(y),
        flux=tuple(
            colours_to_flux(
                prior.blob_r.draw(rng), prior.blob_g_r.draw(rng), prior.blob_r_z.draw(rng)
            ).tolist()
        ),
        radius_arcsec=circularised(prior.blob_radius.draw(rng), q),
        q=q,
        phi=float(rng.uniform(0.0, np.pi)),
    )


def arc_psf(psf: npt.ArrayLike, imaging: Imaging) -> npt.NDArray[np.floating[Any]]:
    """Kernels as the arc met them: what the PSF model has wrong is put back.

    psf   effective kernels, (band, k, k), k odd, each sums to one

    The kernel is read by quintic splines at stretched positions: FWHM times `fwhm_scale`, ellipticity added
    at constant area. Each sums to one again after truncation. Without error the very same array is returned.
    """
    kernels = np.asarray(psf)
    plain = [s == 1.0 and e == 0.0 for s, (e, _) in zip(imaging.fwhm_scale, imaging.ellipticity, strict=True)]
    if all(plain):
        return kernels
    bent = np.asarray(kernels, dtype=np.float64).copy()
    for b, (scale, (e, pa)) in enumerate(zip(imaging.fwhm_scale, imaging.ellipticity, strict=True)):
        if not plain[b]:
            bent[b] = _stretched(bent[b], scale, e, pa)
    return bent


def _stretched(kernel: FloatArray, scale: float, e: float, pa: float) -> FloatArray:
    middle = kernel.shape[0] // 2
    axis = np.arange(kernel.shape[0], dtype=np.float64) - middle
    cos, sin, root_q = np.cos(pa), np.sin(pa), np.sqrt((1.0 - e) / (1.0 + e))
    # Where the light at (x, y) was before the stretch: nearer along the major axis, farther across it.
    along = (cos * axis[None, :] + sin * axis[:, None]) * root_q / scale
    across = (cos * axis[:, None] - sin * axis[None, :]) / root_q / scale
    x, y = cos * along - sin * across, sin * along + cos * across
    values = ndimage.map_coordinates(kernel, [y + middle, x + middle], order=_SPLINE_ORDER, mode="nearest")
    return np.asarray(values / values.sum())


def shift_image(plane: npt.ArrayLike, dx: float, dy: float) -> FloatArray:
    """Move an image by (dx, dy) pixels with Lanczos-3 weights that sum to one.

    Pixels that come in from outside have the edge's value. The weights' own error moves a smooth image by up
    to .02 pixel too little or too much. Linear interpolation would smooth: at .08 pixel it takes a quarter of
    the power at .4 cycles per pixel. Returns (y, x).
    """
    values = np.asarray(plane, dtype=np.float64)
    height, width = values.shape
    rows, taps_y = _taps(dy, height)
    columns, taps_x = _taps(dx, width)
    # Weights differ from pair to pair, so that no matrix of them would be used twice.
    wide = values[:, columns]
    along = sum(w * wide[:, k : k + width] for k, w in enumerate(taps_x))
    tall = np.asarray(along)[rows]
    return np.asarray(sum(w * tall[k : k + height] for k, w in enumerate(taps_y)))


def _taps(shift: float, n: int) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Which pixels take part in moving an axis of n, and the weights: n + 5 indices, 6 weights."""
    low = int(np.floor(-shift))
    first = low + 1 - LANCZOS_ORDER
    index = np.clip(np.arange(first, first + n + 2 * LANCZOS_ORDER - 1), 0, n - 1)
    return index, resampling_weights(-shift - low)


def _neighbours(plane: npt.NDArray[Any], dx: float, dy: float) -> list[tuple[float, npt.NDArray[Any]]]:
    """The planes that a linear interpolation moved by (dx, dy) mixes, with their weights, all above zero."""
    found = []
    (y0, fy), (x0, fx) = ((int(np.floor(-d)), -d - np.floor(-d)) for d in (dy, dx))
    for j, wy in ((y0, 1.0 - fy), (y0 + 1, fy)):
        for i, wx in ((x0, 1.0 - fx), (x0 + 1, fx)):
            if wy * wx > 0.0:
                rows = np.clip(np.arange(plane.shape[0]) + j, 0, plane.shape[0] - 1)
                columns = np.clip(np.arange(plane.shape[1]) + i, 0, plane.shape[1] - 1)
                found.append((float(wy * wx), plane[np.ix_(rows, columns)]))
    return found


@dataclass
class _Canvas:
    """A control while nuisances act on it; double precision, no one else's arrays."""

    image: FloatArray
    invvar: FloatArray
    mask: npt.NDArray[np.int32]
    scale: float
    blank: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, stamp: Stamp) -> "_Canvas":
        blank = outer_mask(stamp.image.shape, stamp.x_center_pix, stamp.y_center_pix)
        return cls(
            stamp.image.astype(np.float64),
            stamp.invvar.astype(np.float64),
            stamp.mask.copy(),
            stamp.pixel_scale_arcsec,
            blank,
        )

    def sigma_w(self) -> FloatArray:
        """White-equivalent noise of blank sky per band [nmgy]; 0 for a band in which no pixel counts."""
        found = []
        for plane in self.invvar:
            blank = plane[self.blank & (plane > 0.0)]
            weight = blank if blank.size else plane[plane > 0.0]
            found.append(1.0 / np.sqrt(np.median(weight)) if weight.size else 0.0)
        return np.array(found)

    def lose(self, band: str, where: npt.NDArray[np.bool_], bit: str) -> None:
        """Pixels of a band that count no more."""
        self.invvar[BANDS.index(band)][where] = 0.0
        self.mask[where] |= np.int32(MASK_BITS[f"{bit}_{band.upper()}"])


def apply_nuisances(stamp: Stamp, imaging: Imaging, *, where: str) -> Stamp | str:
    """The control as this imaging would have recorded it, or the code of why the row has none.

    Image, inverse variance and mask change together. Applied once per pair: the arc goes on top of the
    result. In order: registration, zero-point, light of star and blob with its photons, sky, noise, trail and
    cosmic rays (which nobody has noticed: no mask bit), bad strip, missing band.

    where   what an error message calls the new stamp

    The noise's scale is that of sigma_pix/sigma_w. Above one, correlated noise is added and the inverse
    variance left as it was: it claims less noise than there is. Noise cannot be taken away: below one the
    pixels stay and the inverse variance is lowered, so that it claims more than there is.
    """
    if imaging.missing is not None and imaging.missing_mode == "reject":
        return "missing_band"
    if imaging == Imaging.none():
        return stamp
    canvas = _Canvas.of(stamp)
    _register(canvas, imaging)
    gains = np.array([f if f > 0.0 else 1.0 for f in imaging.flux_scale])[:, None, None]
    canvas.image *= gains
    canvas.invvar /= gains**2
    _add_light(canvas, imaging, np.asarray(stamp.psf, dtype=np.float64))
    sigma_pix = pixel_rms_ratio() * canvas.sigma_w()
    _add_sky(canvas, imaging, sigma_pix)
    _scale_noise(canvas, imaging)
    for streak in (*imaging.cosmic_rays, *((imaging.trail,) if imaging.trail else ())):
        b = BANDS.index(streak.band)
        canvas.image[b] += streak.peak * sigma_pix[b] * streak.cover(canvas.mask.shape)
    if imaging.strip is not None:
        _bridge(canvas, imaging.strip)
    if imaging.missing is not None:
        canvas.image[BANDS.index(imaging.missing)] = 0.0
        canvas.lose(imaging.missing, np.ones(canvas.mask.shape, dtype=np.bool_), "ALLMASK")
    return replace(
        stamp,
        image=canvas.image.astype(np.float32),
        invvar=canvas.invvar.astype(np.float32),
        mask=canvas.mask,
        where=where,
    )


def _register(canvas: _Canvas, imaging: Imaging) -> None:
    """Move each band's pixels. Weights, which have no texture to lose, are mixed linearly; losses spread."""
    mask = canvas.mask.copy()
    for b, (band, (dx, dy)) in enumerate(zip(BANDS, imaging.shift_pix, strict=True)):
        if dx == 0.0 == dy:
            continue
        canvas.image[b] = shift_image(canvas.image[b], dx, dy)
        mixed = _neighbours(canvas.invvar[b], dx, dy)
        lost = np.any([plane <= 0.0 for _, plane in mixed], axis=0) | (canvas.invvar[b] <= 0.0)
        canvas.invvar[b] = np.where(lost, 0.0, sum(w * plane for w, plane in mixed))
        own = MASK_BITS[f"SATUR_{band.upper()}"] | MASK_BITS[f"ALLMASK_{band.upper()}"]
        held = canvas.mask & np.int32(own)
        if held.any():
            mask |= np.bitwise_or.reduce([plane for _, plane in _neighbours(held, dx, dy)])
    canvas.mask = mask


def _add_light(canvas: _Canvas, imaging: Imaging, psf: FloatArray) -> None:
    """Light of star and blob with its photons, where the registration and as the zero-point have it."""
    if imaging.star is None and imaging.blob is None:
        return
    sigma_w, shape = canvas.sigma_w(), canvas.mask.shape
    light, gain = np.zeros_like(canvas.image), np.full(len(BANDS), np.inf)
    for b, band in enumerate(BANDS):
        if imaging.star is not None:
            light[b] += star_light(imaging.star, b, shape, scale=canvas.scale, shift=imaging.shift_pix[b])
        if imaging.blob is not None:
            light[b] += _blob_light(
                imaging.blob, b, shape, scale=canvas.scale, shift=imaging.shift_pix[b], kernel=psf[b]
            )
        light[b] *= imaging.flux_scale[b]
        if sigma_w[b] > 0.0:
            gain[b] = gain_from_noise(
                sigma_w[b], band=band, n_exposures=imaging.exposures[b], pixel_scale=canvas.scale
            )
    photons = stream(imaging.seed, "nuisance/photons", imaging.task)
    canvas.image += light + shot_noise(light, gain, photons)
    canvas.invvar /= 1.0 + canvas.invvar * np.maximum(light, 0.0) / gain[:, None, None]
    if imaging.star is not None:
        _saturate(canvas, imaging, imaging.star, light)


def star_light(
    star: BrightStar,
    band: int,
    shape: tuple[int, ...],
    *,
    scale: float = PIXEL_SCALE_ARCSEC,
    shift: tuple[float, float] = (0.0, 0.0),
) -> FloatArray:
    """Wings, four spikes and halo of a bright star in one band [nmgy/pix], unsaturated.

    scale   [arcsec/pix];  shift   (x, y) by which the exposure is out of place [pix]

    Moffat (1969) wings of the priors' beta; spikes fall as radius^-slope outside 1 arcsec, the halo as r^-2
    to 30 arcsec. All are normalised over the whole sky, since only part of them falls on the stamp.
    """
    dx = (np.arange(shape[1]) - star.x - shift[0])[None, :] * scale
    dy = (np.arange(shape[0]) - star.y - shift[1])[:, None] * scale
    square = dx**2 + dy**2
    along = np.cos(star.angle) * dx + np.sin(star.angle) * dy
    across = np.cos(star.angle) * dy - np.sin(star.angle) * dx
    sigma = 0.5 * star.width_arcsec / np.sqrt(2.0 * np.log(2.0))
    spikes = sum(
        _spike(star, length) * np.exp(-0.5 * (width / sigma) ** 2)
        for length, width in ((along, across), (across, along))
    )
    radius = np.linspace(0.0, star.length_arcsec + 20.0 * _SPIKE_FADE_ARCSEC, _SPIKE_STEPS)
    whole = 4.0 * np.trapezoid(_spike(star, radius), radius) * np.sqrt(2.0 * np.pi) * sigma
    inner, outer = _HALO_ARCSEC
    halo = np.where(square < outer**2, 1.0 / (square + inner**2), 0.0) / (2.0 * np.pi * np.log(outer / inner))
    seen = _wings(square, star.fwhm_arcsec[band]) + star.spike_share * spikes / whole + star.halo_share * halo
    return np.asarray(star.flux[band] * scale**2 * seen)


def _spike(star: BrightStar, length: FloatArray) -> FloatArray:
    """Brightness along a spike, 1 at the core."""
    reach = np.abs(length)
    exponent = np.clip((reach - star.length_arcsec) / _SPIKE_FADE_ARCSEC, -50.0, 50.0)
    return np.asarray(np.maximum(reach, _SPIKE_CORE_ARCSEC) ** -star.slope / (1.0 + np.exp(exponent)))


def _wings(square: FloatArray | float, fwhm: float) -> FloatArray:
    """A Moffat profile of unit flux [1/arcsec^2] at squared radii [arcsec^2]."""
    beta = sky.Psf().beta.mean
    alpha = fwhm / (2.0 * np.sqrt(2.0 ** (1.0 / beta) - 1.0))
    return np.asarray((beta - 1.0) / (np.pi * alpha**2) * (1.0 + np.asarray(square) / alpha**2) ** -beta)


def _saturate(canvas: _Canvas, imaging: Imaging, star: BrightStar, light: FloatArray) -> None:
    """Clip what overflows a nominal exposure's full well and let it bleed: those pixels count no more."""
    rows, columns = np.indices(canvas.mask.shape)
    for b, band in enumerate(BANDS):
        level = imaging.flux_scale[b] * saturation_level(band, canvas.scale)
        if level <= 0.0:
            continue
        lost = light[b] > level
        centre = star.flux[b] * canvas.scale**2 * float(_wings(0.0, star.fwhm_arcsec[b]))
        over = imaging.flux_scale[b] * centre / level
        if over > 1.0:
            x, y = star.x + imaging.shift_pix[b][0], star.y + imaging.shift_pix[b][1]
            tall = np.abs(rows - y) <= star.bleed_reach_pix * (1.0 + np.log2(over))
            lost = lost | (tall & (np.abs(columns - x) <= 0.5 * star.bleed_pix))
        canvas.image[b][lost] = level
        canvas.lose(band, lost, "SATUR")


def saturation_level(band: str, scale: float = PIXEL_SCALE_ARCSEC) -> float:
    """Flux of one pixel [nmgy] at which a nominal exposure reaches DECam's full well."""
    return sky.Stars().full_well_e / nominal_gain(band, 1) - sky_nmgy(band, scale)


def _blob_light(
    blob: Blob,
    band: int,
    shape: tuple[int, ...],
    *,
    scale: float,
    shift: tuple[float, float],
    kernel: FloatArray,
) -> FloatArray:
    sharp = paint_sersic(
        (shape[0], shape[1]),
        x_pix=blob.x + shift[0],
        y_pix=blob.y + shift[1],
        pixel_scale=scale,
        flux=blob.flux[band],
        R_sersic=blob.radius_arcsec,
        n_sersic=1.0,
        q=blob.q,
        phi=blob.phi,
    )
    return convolve(sharp, kernel)


def _add_sky(canvas: _Canvas, imaging: Imaging, sigma_pix: FloatArray) -> None:
    """What sky subtraction left behind: an offset and a plane."""
    height, width = canvas.mask.shape
    up, right = np.linspace(-0.5, 0.5, height)[:, None], np.linspace(-0.5, 0.5, width)[None, :]
    for b, (offset, along_x, along_y) in enumerate(imaging.sky):
        canvas.image[b] += sigma_pix[b] * (offset + along_x * right + along_y * up)


def _scale_noise(canvas: _Canvas, imaging: Imaging) -> None:
    rng = stream(imaging.seed, "nuisance/noise_field", imaging.task)
    sigma_blank = canvas.sigma_w()
    for b, scale in enumerate(imaging.noise_scale):
        weight = canvas.invvar[b]
        if scale < 1.0:
            weight *= scale**2
        elif scale > 1.0:
            counts = weight > 0.0
            sigma = np.where(counts, 1.0 / np.sqrt(np.where(counts, weight, 1.0)), sigma_blank[b])
            extra = correlated_noise(np.sqrt(scale**2 - 1.0) * sigma, rng)
            # A pixel that does not count may be a filled one: noise would make it look like a real one.
            canvas.image[b] += np.where(counts, extra, 0.0)


def _bridge(canvas: _Canvas, strip: Strip) -> None:
    """Fill a strip linearly from its neighbours on both sides, at the stamp's edge from the one there is."""
    b = BANDS.index(strip.band)
    image = canvas.image[b] if strip.axis == "x" else canvas.image[b].T
    before, after = strip.start - 1, strip.start + strip.width
    inside = np.arange(strip.start, min(after, image.shape[1]))
    ends = [k for k in (before, after) if 0 <= k < image.shape[1]]
    if ends:
        share = (inside - ends[0]) / max(ends[-1] - ends[0], 1) if len(ends) > 1 else np.zeros(len(inside))
        image[:, inside] = image[:, [ends[0]]] * (1.0 - share) + image[:, [ends[-1]]] * share
    lost = np.zeros(canvas.mask.shape, dtype=np.bool_)
    (lost if strip.axis == "x" else lost.T)[:, inside] = True
    canvas.lose(strip.band, lost, "ALLMASK")
