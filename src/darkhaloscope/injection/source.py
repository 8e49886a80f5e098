"""Background sources: surface brightness at source-plane positions, and nothing else.

Ray-tracing, sampling, PSF, flux bookkeeping and noise are paid for in `injection.imaging`; a new morphology
is a `Morphology` and its place in `Source.parts`. Positions in arcsec in the lens's frame, angles in radians
from +x towards +y, fluxes in nanomaggies, bands g r z. Total fluxes are normalised analytically in the source
plane: an intrinsic magnitude means the same whatever the lens does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from darkhaloscope.survey.profiles import elliptical_radius, sersic_bn, sersic_brightness
from darkhaloscope.survey.release import to_nmgy

FloatArray = npt.NDArray[np.float64]

DISC_INDEX, BULGE_INDEX = 1.0, 4.0
"""Sersic indices of the two-component source: an exponential disc and a de Vaucouleurs bulge."""


class Morphology(Protocol):
    """A shape of unit flux."""

    def brightness(self, beta_x: FloatArray, beta_y: FloatArray) -> FloatArray:
        """Surface brightness [1/arcsec^2] at source-plane positions [arcsec], shaped like them."""

    def sampling_error(self, beta_x: FloatArray, beta_y: FloatArray, reach: FloatArray) -> FloatArray:
        """About how wrong [1/arcsec^2] one sample is for the mean over all within `reach` [arcsec] of it."""


@dataclass(frozen=True)
class Sersic:
    """An elliptical Sersic profile of unit flux.

    R_sersic   half-light radius, circularised sqrt(ab) [arcsec]: lenstronomy's R_sersic
    n_sersic   index
    q, phi     axis ratio and major-axis angle [rad]
    x, y       centre [arcsec]
    """

    R_sersic: float
    n_sersic: float
    q: float = 1.0
    phi: float = 0.0
    x: float = 0.0
    y: float = 0.0

    def brightness(self, beta_x: FloatArray, beta_y: FloatArray) -> FloatArray:
        """Surface brightness [1/arcsec^2] at source-plane positions [arcsec], shaped like them."""
        return self._profile(self._radius(beta_x, beta_y))

    def sampling_error(self, beta_x: FloatArray, beta_y: FloatArray, reach: FloatArray) -> FloatArray:
        """About how wrong [1/arcsec^2] one sample is for the mean over all within `reach` [arcsec] of it.

        The midpoint rule's leading term with the steepest slope within reach,
        ``I (reach dlnI/dr)^2 / 12``, at most I itself. Where the centre is within reach, a point half way
        out, or well inside the half-light radius, stands for the cusp. A core flatter than an exponential
        (n < 1) has curvature where it has no slope: the slope near the half-light radius stands for it.
        """
        wide = reach / math.sqrt(self.q)  # the minor axis is where the profile is steepest
        near = np.maximum(self._radius(beta_x, beta_y) - wide, 0.5 * np.minimum(wide, self.R_sersic))
        steepest = near if self.n_sersic >= 1.0 else np.maximum(near, 0.7 * self.R_sersic)
        steep = wide / steepest * self._slope * (steepest / self.R_sersic) ** (1.0 / self.n_sersic)
        return self._profile(near) * np.minimum(1.0, steep * steep / 12.0)

    @cached_property
    def _slope(self) -> float:
        return sersic_bn(self.n_sersic) / self.n_sersic

    def _radius(self, beta_x: FloatArray, beta_y: FloatArray) -> FloatArray:
        return elliptical_radius(beta_x - self.x, beta_y - self.y, q=self.q, phi=self.phi)

    def _profile(self, radius: FloatArray) -> FloatArray:
        return sersic_brightness(radius, flux=1.0, R_sersic=self.R_sersic, n_sersic=self.n_sersic)


@dataclass(frozen=True)
class Part:
    """One morphology with its total flux in each band [nmgy]."""

    shape: Morphology
    flux_nmgy: tuple[float, ...]


@dataclass(frozen=True)
class Source:
    """A background galaxy: parts that add up, each with its own colours.

    parts    morphologies with their fluxes
    model    what the source is made of, in words that go into the table
    """

    parts: tuple[Part, ...]
    model: str

    def brightness(self, beta_x: FloatArray, beta_y: FloatArray) -> FloatArray:
        """Surface brightness [nmgy/arcsec^2] in every band: (band, ...) over the positions [arcsec]."""
        bands = [np.asarray(part.flux_nmgy) for part in self.parts]
        shapes = [part.shape.brightness(beta_x, beta_y) for part in self.parts]
        shone = [np.multiply.outer(f, s) for f, s in zip(bands, shapes, strict=True)]
        return np.asarray(np.sum(shone, axis=0))

    @property
    def flux_nmgy(self) -> FloatArray:
        """Total intrinsic flux per band [nmgy], shape (band,)."""
        return np.asarray(np.sum([part.flux_nmgy for part in self.parts], axis=0, dtype=np.float64))


def sersic_source(shape: Sersic, mag: Sequence[float]) -> Source:
    """One Sersic profile with intrinsic magnitudes g, r, z."""
    flux = tuple(float(f) for f in to_nmgy(np.asarray(mag, dtype=np.float64)))
    return Source((Part(shape, flux),), "sersic")


def two_component_source(
    disc: Sersic,
    mag: Sequence[float],
    *,
    bulge_share: float,
    bulge_size: float,
    bulge_redder: tuple[float, float],
) -> Source:
    """An exponential disc with a de Vaucouleurs bulge of its own, redder colours: a real colour gradient.

    disc           the disc; its index is set to 1
    mag            total intrinsic magnitudes g, r, z: the two parts together have these
    bulge_share    bulge over total flux in r
    bulge_size     bulge over disc half-light radius
    bulge_redder   bulge minus disc colour in (g-r, r-z) [mag]
    """
    total = np.asarray(to_nmgy(np.asarray(mag, dtype=np.float64)))
    # Bulge over disc flux in each band, from its value in r and the colour difference.
    tint = np.array([10.0 ** (-0.4 * bulge_redder[0]), 1.0, 10.0 ** (0.4 * bulge_redder[1])])
    ratio = bulge_share / (1.0 - bulge_share) * tint
    in_disc = total / (1.0 + ratio)
    shape = {"q": disc.q, "phi": disc.phi, "x": disc.x, "y": disc.y}
    parts = (
        Part(Sersic(disc.R_sersic, DISC_INDEX, **shape), tuple(in_disc.tolist())),
        Part(Sersic(bulge_size * disc.R_sersic, BULGE_INDEX, **shape), tuple((total - in_disc).tolist())),
    )
    return Source(parts, f"disc+bulge B/T={bulge_share:.2f}")
