"""The Legacy Surveys' DR10 as facts: bands, pixels, units, mask bits, exposure and gain arithmetic.

Units: flux in nanomaggies (nmgy), magnitudes AB, m = 22.5 - 2.5 log10 f. Sky brightness, zero-points and
extinction are those of DECam's nominal calibration; read noise and footprint edges are general knowledge.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import astropy_healpix.healpy as healpix
import numpy as np
from astropy_healpix import neighbours
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.contracts.errors import ConfigError

Numbers = NDArray[np.float64]

BANDS = ("g", "r", "z")
"""Band order everywhere; axis 0 of an image."""

PIXEL_SCALE_ARCSEC = 0.262
SAME_PIX = 1.0e-6
"""Positions this near are one: a target on a pixel's centre gives the same stamp by every WCS that has it."""
ZERO_POINT = 22.5
"""AB magnitude of one nanomaggy."""

CELL_NSIDE = 64
"""HEALPix resolution of the cells that splits never cut; 0.92 deg on a side, nested order."""

EXTRA_BANDS = ("i",)
"""Bands beyond g r z that some releases have."""


@dataclass(frozen=True)
class Release:
    """One half of a data release. North (BASS and MzLS) and south (DECam) differ in camera, PSF and depth.

    name     as configuration and stamps call it
    number   of the data release
    region   north or south: the folder of the survey's tree
    codes    values of the Tractor's RELEASE and of DRVERSIO in its coadds' headers
    layer    of the sky viewer's cutout service
    """

    name: str
    number: int
    region: str
    codes: tuple[int, ...]
    layer: str

    @property
    def has_i(self) -> bool:
        """Whether the release has i-band coadds."""
        return self.number >= 10 and self.region == "south"


DR10_SOUTH = "dr10-south"
RELEASES: Mapping[str, Release] = MappingProxyType(
    {
        release.name: release
        for release in (
            Release("dr6-north", 6, "north", (6000,), "mzls+bass-dr6"),
            Release("dr7-south", 7, "south", (7000,), "decals-dr7"),
            Release("dr8-north", 8, "north", (8001,), "ls-dr8-north"),
            Release("dr8-south", 8, "south", (8000,), "ls-dr8-south"),
            Release("dr9-north", 9, "north", (9011,), "ls-dr9-north"),
            Release("dr9-south", 9, "south", (9010, 9012), "ls-dr9-south"),
            Release(DR10_SOUTH, 10, "south", (9999, 10000, 10001, 10002, 10300), "ls-dr10-south"),
            Release("dr11-north", 11, "north", (11001,), "ls-dr11-north"),
            Release("dr11-south", 11, "south", (11000, 11002), "ls-dr11-south"),
        )
    }
)
"""Releases by name. DR11's codes continue the pattern of the earlier ones and are not confirmed."""


def find_release(name: str, where: str = "--release") -> Release:
    """The release of a name; ConfigError that lists the known ones."""
    if name not in RELEASES:
        raise ConfigError(where, "", f"'{name}' is unknown", ", ".join(RELEASES))
    return RELEASES[name]


def release_of(code: int) -> Release | None:
    """The release that a Tractor RELEASE or a DRVERSIO belongs to, or None."""
    return next((release for release in RELEASES.values() if code in release.codes), None)


SYNTHETIC_RELEASE = "synthetic-dr10-south"
"""What the synthetic sky calls itself: it imitates DR10-south and must not be mistaken for it."""

NORTH_GALACTIC_POLE_DEG = (192.85948, 27.12825)
"""J2000 right ascension and declination."""


@dataclass(frozen=True)
class Band:
    """Nominal DECam numbers of one band.

    zero_point_e_s   magnitude that gives one electron per second at airmass 1
    sky_mag_arcsec2  dark sky [mag / arcsec^2]
    extinction       [mag / airmass]
    exposure_s       mean exposure of one DECaLS pass [s]
    """

    zero_point_e_s: float
    sky_mag_arcsec2: float
    extinction: float
    exposure_s: float


DECAM: Mapping[str, Band] = MappingProxyType(
    {
        "g": Band(zero_point_e_s=26.610, sky_mag_arcsec2=22.04, extinction=0.17, exposure_s=87.0),
        "r": Band(zero_point_e_s=26.818, sky_mag_arcsec2=20.91, extinction=0.10, exposure_s=67.0),
        "z": Band(zero_point_e_s=26.484, sky_mag_arcsec2=18.46, extinction=0.06, exposure_s=100.0),
    }
)
READ_NOISE_E = 7.0
"""Electrons per exposure and pixel."""
PASSES = 3
"""Passes of the nominal survey."""

MASK_BITS: Mapping[str, int] = MappingProxyType(
    {
        "NPRIMARY": 0x1,
        "BRIGHT": 0x2,
        "SATUR_G": 0x4,
        "SATUR_R": 0x8,
        "SATUR_Z": 0x10,
        "ALLMASK_G": 0x20,
        "ALLMASK_R": 0x40,
        "ALLMASK_Z": 0x80,
        "WISEM1": 0x100,
        "WISEM2": 0x200,
        "BAILOUT": 0x400,
        "MEDIUM": 0x800,
        "GALAXY": 0x1000,
        "CLUSTER": 0x2000,
        "SATUR_I": 0x4000,
        "ALLMASK_I": 0x8000,
        "SUB_BLOB": 0x10000,
    }
)
"""Coadd mask bits by name. A real file's own header (MBIT_n) goes before this list."""

GAIN_LOWEST = 1.0e3
GAIN_HIGHEST = 2.0e6
GAIN_UNUSUAL = 2.0e5
"""Effective gains [e- / nmgy] outside the first two are impossible for a DECam coadd; above the third only
fields of more than a hundred exposures lie."""


def to_magnitude(flux_nmgy: ArrayLike) -> Numbers:
    """AB magnitude of a flux [nmgy]; a flux of zero or less has none (NaN)."""
    flux = np.asarray(flux_nmgy, dtype=np.float64)
    return ZERO_POINT - 2.5 * np.log10(np.where(flux > 0.0, flux, np.nan))


def to_nmgy(magnitude: ArrayLike) -> Numbers:
    """Flux [nmgy] of an AB magnitude."""
    return np.asarray(10.0 ** (0.4 * (ZERO_POINT - np.asarray(magnitude, dtype=np.float64))))


def sky_nmgy(band: str, pixel_scale: float = PIXEL_SCALE_ARCSEC) -> float:
    """Nominal dark-sky flux of one pixel [nmgy]."""
    return float(to_nmgy(DECAM[band].sky_mag_arcsec2)) * pixel_scale**2


def nominal_gain(band: str, n_exposures: float = PASSES) -> float:
    """Electrons per nmgy that n nominal exposures collect at airmass 1."""
    facts = DECAM[band]
    return float(n_exposures * facts.exposure_s * 10.0 ** (0.4 * (facts.zero_point_e_s - ZERO_POINT)))


def gain_from_exposures(
    exposure_s: ArrayLike, zero_point_e_s: ArrayLike, *, band: str, airmass: ArrayLike = 1.0
) -> float:
    """Electrons per nmgy of a coadd, from its exposures: sum of t 10^(0.4 (zp - 22.5 - k (X - 1))).

    exposure_s, zero_point_e_s, airmass   of each exposure [s], [mag of one e-/s at airmass 1], one or many
    """
    dimming = DECAM[band].extinction * (np.asarray(airmass, dtype=np.float64) - 1.0)
    rate = to_nmgy(ZERO_POINT - (np.asarray(zero_point_e_s, dtype=np.float64) - ZERO_POINT - dimming))
    return float(np.sum(np.asarray(exposure_s, dtype=np.float64) * rate))


def gain_from_noise(
    sigma_w: ArrayLike,
    *,
    band: str,
    n_exposures: ArrayLike,
    pixel_scale: float = PIXEL_SCALE_ARCSEC,
    read_noise: float = READ_NOISE_E,
) -> Numbers:
    """Effective gain of a coadd, from its own noise: the root G > 0 of sigma_w^2 G^2 - f_sky G - n RN^2 = 0.

    sigma_w      white-equivalent noise of a *blank* pixel, 1 / sqrt(invvar) [nmgy], no host photons in it.
                 The rms of blank pixels is lower (resampling correlates them) and gives 25 % too much gain.
    n_exposures  exposures in the coadd
    read_noise   [e- per exposure and pixel]

    Returns [e- / nmgy], shaped like sigma_w.
    """
    variance = np.asarray(sigma_w, dtype=np.float64) ** 2
    sky = sky_nmgy(band, pixel_scale)
    read = np.asarray(n_exposures, dtype=np.float64) * read_noise**2
    return np.asarray((sky + np.sqrt(sky**2 + 4.0 * variance * read)) / (2.0 * variance))


def healpix_cell(ra_deg: ArrayLike, dec_deg: ArrayLike, nside: int = CELL_NSIDE) -> NDArray[np.int64]:
    """HEALPix cell of a position [deg], nested order."""
    cell: Any = healpix.ang2pix(nside, ra_deg, dec_deg, nest=True, lonlat=True)
    return np.asarray(cell, dtype=np.int64)


def neighbouring_cells(cell: ArrayLike, nside: int = CELL_NSIDE) -> NDArray[np.int64]:
    """The eight cells around each nested HEALPix cell, (n, 8); -1 where there are only seven."""
    with np.errstate(invalid="ignore"):  # what astropy_healpix says of a neighbour that is not there
        around: Any = neighbours(np.atleast_1d(cell), nside, order="nested")
    return np.asarray(around, dtype=np.int64).T


def cell_centre(cell: ArrayLike, nside: int = CELL_NSIDE) -> tuple[Numbers, Numbers]:
    """Right ascension and declination [deg] of the centre of nested HEALPix cells."""
    ra, dec = healpix.pix2ang(nside, cell, nest=True, lonlat=True)
    return np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64)


def galactic_latitude(ra_deg: ArrayLike, dec_deg: ArrayLike) -> Numbers:
    """Galactic latitude [deg] of an equatorial position [deg]."""
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    pole_ra, pole_dec = np.radians(NORTH_GALACTIC_POLE_DEG)
    sine = np.sin(dec) * np.sin(pole_dec) + np.cos(dec) * np.cos(pole_dec) * np.cos(ra - pole_ra)
    return np.asarray(np.degrees(np.arcsin(np.clip(sine, -1.0, 1.0))))


def brick_name(ra_deg: float, dec_deg: float) -> str:
    """The survey's way to name a brick by its centre, e.g. 0591m305 for (59.18, -30.5)."""
    sign = "m" if dec_deg < 0 else "p"
    return f"{int(10 * ra_deg):04d}{sign}{int(10 * abs(dec_deg)):03d}"


def sky_group(cell: int | None, host_id: str) -> str:
    """What a split may never cut: the sky cell, or the galaxy itself where there is no position."""
    return f"host:{host_id}" if cell is None else f"cell:{cell}"
