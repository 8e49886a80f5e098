"""The few distributions that priors are written in: frozen values that draw one number from a given stream.

A draw that falls outside the stated range is drawn again, never moved onto the bound.
"""

import numpy as np

from darkhaloscope.contracts.config import Frozen
from darkhaloscope.contracts.errors import ConfigError

_TRIES = 1000


class Normal(Frozen):
    """Normal distribution, drawn again outside [low, high]."""

    mean: float
    sd: float
    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        """One value."""
        for _ in range(_TRIES):
            value = self.mean + self.sd * rng.standard_normal()
            if self.low <= value <= self.high:
                return float(value)
        raise ConfigError("priors", "", f"{self!r} has next to no probability inside its range")


class LogNormal(Frozen):
    """exp N(ln median, sigma), sigma in natural log, drawn again outside [low, high]."""

    median: float
    sigma: float
    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        """One value."""
        log = Normal(mean=np.log(self.median), sd=self.sigma, low=np.log(self.low), high=np.log(self.high))
        return float(np.exp(log.draw(rng)))


class Uniform(Frozen):
    """Uniform on [low, high]."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        """One value."""
        return float(rng.uniform(self.low, self.high))


class Counts(Frozen):
    """Magnitudes with number counts proportional to 10^(slope m) between two limits."""

    slope: float
    bright: float
    faint: float

    def draw(self, rng: np.random.Generator) -> float:
        """One value, by the inverse of the cumulative counts."""
        base = 10.0 ** (self.slope * (self.bright - self.faint))
        return float(self.faint + np.log10(base + rng.random() * (1.0 - base)) / self.slope)


class Rayleigh(Frozen):
    """Rayleigh distribution: its mean is 1.25 scale. Drawn again above high."""

    scale: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        """One value."""
        for _ in range(_TRIES):
            value = float(rng.rayleigh(self.scale))
            if value <= self.high:
                return value
        raise ConfigError("priors", "", f"{self!r} has next to no probability inside its range")


def normal(mean: float, sd: float, low: float, high: float) -> Normal:
    """N(mean, sd)[low, high], as the defaults below write it."""
    return Normal(mean=mean, sd=sd, low=low, high=high)


def uniform(low: float, high: float) -> Uniform:
    """U(low, high), as the defaults below write it."""
    return Uniform(low=low, high=high)


def log_normal(median: float, sigma: float, low: float = 1.0e-3, high: float = 1.0e3) -> LogNormal:
    """LN(median, sigma)[low, high], as the defaults below write it."""
    return LogNormal(median=median, sigma=sigma, low=low, high=high)
