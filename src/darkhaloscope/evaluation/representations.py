"""Feature maps phi of stamps: what a probe of realism looks at.

A map says more of populations the less it has to do with the task. The penultimate layer of the classifier
holds the score itself, along the weights of its last layer: there two populations may differ only because
the classifier was taught to tell them apart. So the score's direction is also taken out, and maps that never
saw the task stand beside it. Figures of different maps are never compared: see `two_samples.Kid`.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.gates.hard_negatives import artefact_features
from darkhaloscope.gates.probes import Features
from darkhaloscope.stamps.measure import annulus_mask, median_and_spread, outer_mask

Pixels = Float[np.ndarray, "row band y x"]
PerRow = Float[np.ndarray, "row"]

RINGS_PIX = (0.0, 2.0, 4.0, 6.0, 8.0, 11.0, 15.0, 20.0)
"""Rings of the surface brightness: the light of a deflector and of arcs up to 5 arcsec."""

FOURIER_RINGS_PIX = ((2.0, 5.0), (5.0, 9.0), (9.0, 14.0))
"""Rings of the azimuthal amplitudes: together they hold the images of a theta_E from .5 to 3.5 arcsec."""

SOFTENING_NMGY = (0.003, 0.004, 0.012)
"""Per band, flux per pixel at which the scale of brightness turns from linear to logarithmic: the noise of a
nominal coadd. A constant, so that the scale is the same for every population."""

_MODES = (1, 2, 3, 4)
_INNER_PIX, _WHOLE_PIX = 3.0, 12.0
_BATCH = 256


class Representation(Protocol):
    """A feature map; `name` is part of the name of every figure made with it."""

    @property
    def name(self) -> str:
        """Short, of letters, digits and underscores."""
        ...

    def __call__(self, stamps: Pixels, x_center: PerRow, y_center: PerRow) -> Features:
        """Features of raw stamps [nmgy], (row, feature)."""
        ...


class Network(Protocol):
    """What is asked of a network: `training.model.Scorer` is one."""

    @property
    def head(self) -> tuple[Float[np.ndarray, "feature"], float]:
        """Weight and bias of its last linear layer."""
        ...

    def features(self, stamps: Pixels, x_center: PerRow, y_center: PerRow) -> Features:
        """What that layer is given."""
        ...


@dataclass(frozen=True)
class Physical:
    """Quantities an astronomer would measure; nothing is learned. (row, 81) for three bands.

    Surface brightness in 7 rings of r and the colours of each ring, as asinh magnitudes without their factor
    (Lupton, Gunn & Szalay 1999); the share of light in the middle 3 px and the radial slope per band; the
    amplitudes of the azimuthal modes m = 1..4 in three rings over the ring's light and noise; the texture
    beyond the frequencies a PSF passes (`artefact_features`), and the sky's noise.
    """

    name: str = "physical"

    def __call__(self, stamps: Pixels, x_center: PerRow, y_center: PerRow) -> Features:
        """Features of raw stamps [nmgy]; a row's do not depend on its neighbours."""
        parts = [slice(start, start + _BATCH) for start in range(0, len(stamps), _BATCH)]
        made = [_physical(stamps[at].astype(np.float64), x_center[at], y_center[at]) for at in parts]
        return np.concatenate(made) if made else np.empty((0, 0))


def _physical(stamps: NDArray[np.float64], x_center: PerRow, y_center: PerRow) -> Features:
    blank = outer_mask(stamps.shape, x_center, y_center)
    sky, noise = median_and_spread(stamps, blank)
    light = stamps - sky
    rings = np.stack([_mean(light, low, high, x_center, y_center) for low, high in pairwise(RINGS_PIX)], -1)
    scale = np.asarray(SOFTENING_NMGY)[:, None]
    brightness = np.arcsinh(rings / scale)
    middle = (np.asarray(RINGS_PIX[1:]) + np.asarray(RINGS_PIX[:-1])) / 2
    lever = (middle - middle.mean()) / ((middle - middle.mean()) ** 2).sum()
    spread = np.asarray(noise[..., 0, 0], dtype=np.float64)
    parts = [
        brightness[:, 1],
        (brightness[:, :-1] - brightness[:, 1:]).reshape(len(stamps), -1),
        brightness @ lever,
        _concentration(light, spread, x_center, y_center),
        _fourier(light, spread, x_center, y_center),
        artefact_features(stamps),
        np.log(np.maximum(spread, np.finfo(np.float32).tiny)),
    ]
    return np.concatenate(parts, axis=1)


def _mean(
    light: NDArray[np.float64], low: float, high: float, x_center: PerRow, y_center: PerRow
) -> NDArray[np.float64]:
    ring = annulus_mask(light.shape, low, high, x_center, y_center)
    return np.asarray(np.einsum("nbyx,nyx->nb", light, ring / ring.sum(axis=(1, 2), keepdims=True)))


def _concentration(
    light: NDArray[np.float64], noise: NDArray[np.float64], x_center: PerRow, y_center: PerRow
) -> NDArray[np.float64]:
    """Share of the light within 12 px that lies within 3, held off zero by the noise of the larger."""
    inner, whole = (
        annulus_mask(light.shape, 0.0, radius, x_center, y_center) for radius in (_INNER_PIX, _WHOLE_PIX)
    )
    total = np.einsum("nbyx,nyx->nb", light, whole.astype(float))
    floor = noise * np.sqrt(whole.sum(axis=(1, 2)))[:, None]
    return np.asarray(np.einsum("nbyx,nyx->nb", light, inner.astype(float)) / np.hypot(total, floor))


def _fourier(
    light: NDArray[np.float64], noise: NDArray[np.float64], x_center: PerRow, y_center: PerRow
) -> NDArray[np.float64]:
    height, width = light.shape[-2:]
    dx = np.arange(width)[None, None, :] - x_center[:, None, None]
    dy = np.arange(height)[None, :, None] - y_center[:, None, None]
    radius, phase = np.hypot(dx, dy), np.exp(-1j * np.arctan2(dy, dx))
    amplitudes = []
    for low, high in FOURIER_RINGS_PIX:
        ring = ((radius >= low) & (radius < high)).astype(np.float64)
        n = ring.sum(axis=(1, 2))[:, None]
        total = np.einsum("nbyx,nyx->nb", light, ring)
        norm = np.hypot(total, noise * np.sqrt(n)) + np.finfo(np.float32).tiny
        for m in _MODES:
            wave = np.einsum("nbyx,nyx->nb", light - (total / n)[..., None, None], ring * phase**m)
            amplitudes.append(np.abs(wave) / norm)
    return np.concatenate(amplitudes, axis=1)


@dataclass(frozen=True, eq=False)
class Penultimate:
    """What a network's last linear layer is given, by way of the network's own preprocessing.

    network         a trained `Scorer` (named "task"), or an encoder that never saw the task
    without_logit   take out the direction of the logit: h - w (w . h) / |w|² (named with "_perp")
    """

    network: Network
    label: str = "task"
    without_logit: bool = False

    @property
    def name(self) -> str:
        """The label, and whether the logit was taken out."""
        return f"{self.label}_perp" if self.without_logit else self.label

    def __call__(self, stamps: Pixels, x_center: PerRow, y_center: PerRow) -> Features:
        """Features of raw stamps [nmgy], float64."""
        h = np.asarray(self.network.features(stamps, x_center, y_center), dtype=np.float64)
        return perpendicular(h, self.network.head[0]) if self.without_logit else h


def perpendicular(h: Features, weight: Float[np.ndarray, "feature"]) -> Features:
    """Features without their part along the weights of the last layer: their logit is the bias alone.

    Only what is linear in the logit goes: a difference that a curved function of it would show may stay in
    the other directions. DataError for weights that are zero.
    """
    norm = float(weight @ weight)
    if norm == 0.0:
        raise DataError("the last layer", "has no weight, so there is no direction to take out")
    return h - np.outer(h @ weight / norm, weight)
