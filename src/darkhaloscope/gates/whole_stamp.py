"""Probes of the whole stamp: what else than the core could tell two classes in which no arc lies.

The core probes are blind to a mark at the border, to another noise texture, and to a normalisation that
depends on the label. Here every ring, the noise and each pixel are looked at, on what the network sees.
Where an arc lies in one class these must find it: they are for stamps without arcs only. They are reported
and decide nothing until the protocol names them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats as distributions

from darkhaloscope.contracts.checks import Check, Finding, Status, below, inside
from darkhaloscope.gates.probes import Features, ProbeResult
from darkhaloscope.stamps.measure import radius_map

PIXEL_ALPHA = 0.01
"""Chance that the pixel test fails on equal classes: shared among all pixels (Bonferroni)."""

TEXTURE = Check(
    name="sham_texture_auc",
    bound=inside(0.47, 0.53),
    why="without an arc, on disjoint hosts, rings, noise and extremes of the stamp must not tell the classes",
    decides=False,
    needs_n=3600,
)

_RINGS_PIX = (0.0, 5.0, 10.0, 15.0, 20.0, 29.0, np.inf)
_SKY_PIX = 20.0  # beyond it the noise is measured
_LAGS_PIX = (1, 2, 3)
_BRIGHT = 5.0  # after an asinh that is 74 sigma: one star must not rule a mean
_STEP = 3.0  # steps between neighbours count up to this, for the same reason
_QUARTILE = float(np.arcsinh(distributions.norm.ppf(0.75)))  # half of the background lies within it

Seen = Float[np.ndarray, "row band y x"]


def pixel_check(n_pixels: int) -> Check:
    """The check of `pixel_shift` over this many pixels and bands.

    With fewer than some hundred rows a mean of skewed pixels is not normal at five standard errors.
    """
    return Check(
        name="sham_pixel_shift",
        bound=below(distributions.norm.isf(PIXEL_ALPHA / (2 * n_pixels))),
        why="without an arc, on disjoint hosts, no single pixel's mean may differ between the classes",
        decides=False,
        needs_n=600,
    )


def equivalent(check: Check, found: ProbeResult | None, *, n: int, detail: str = "") -> Finding:
    """A probe's finding that passes only where its whole interval is within the bound."""
    if found is None:
        return check.measure(None, n=n, detail="fewer hosts than the folds need")
    finding = check.measure(
        found.auc, n=found.n, interval=found.interval, n_clusters=found.n_clusters, detail=detail
    )
    if finding.status is Status.NOT_EVALUATED or finding.interval is None:
        return finding.model_copy(update={"status": Status.NOT_EVALUATED})
    holds = all(check.bound.holds(end) for end in finding.interval)
    return finding.model_copy(update={"status": Status.PASS if holds else Status.FAIL})


def texture_moments(normalised: Seen) -> Features:
    """Features of all of the stamp but its shapes, (row, 75 for three bands).

    Per band: mean, share of pixels above 0 and share within the background's quartiles in each of six rings;
    mean step between neighbours 1, 2 and 3 pixels apart and mean curvature of the sky; largest and smallest
    pixel outside the core. And the product of each two bands in the sky. Rings are around the middle of the
    stamp, half a pixel from the target at most.
    """
    seen = np.clip(normalised, -_BRIGHT, _BRIGHT)
    radius = radius_map(seen.shape)
    sky = radius >= _SKY_PIX
    outside = radius >= _RINGS_PIX[1]
    parts = [_rings(x, radius) for x in (seen, seen > 0.0, np.abs(seen) < _QUARTILE)]
    parts += [_mean_step(seen, sky, lag) for lag in _LAGS_PIX]
    parts += [_curvature(seen, sky), _products(np.clip(seen, -_STEP, _STEP), sky)]
    parts += [seen[..., outside].max(axis=-1), seen[..., outside].min(axis=-1)]
    return np.concatenate(parts, axis=1).astype(np.float64)


def _rings(x: NDArray[np.generic], radius: NDArray[np.float64]) -> NDArray[np.float32]:
    """Mean of each band in each ring, (row, band * ring)."""
    which = np.digitize(radius.ravel(), _RINGS_PIX) - 1
    weight = (which[:, None] == np.arange(len(_RINGS_PIX) - 1)).astype(np.float32)
    flat = x.reshape(-1, radius.size).astype(np.float32)
    return np.asarray((flat @ (weight / weight.sum(axis=0))).reshape(len(x), -1))


def _mean_step(seen: Seen, sky: NDArray[np.bool_], lag: int) -> NDArray[np.float32]:
    """Mean |difference| of sky pixels `lag` apart in x and y."""
    total: NDArray[np.float32] = np.zeros(seen.shape[:2], dtype=np.float32)
    for image, where in ((seen, sky), (np.swapaxes(seen, -1, -2), sky.T)):
        both = where[:-lag] & where[lag:]
        steps = np.minimum(np.abs(image[..., lag:, :] - image[..., :-lag, :]), _STEP)
        total += steps[..., both].mean(axis=-1)
    return total


def _curvature(seen: Seen, sky: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mean |difference of a sky pixel from its four neighbours' mean|: power at the highest frequencies."""
    middle = seen[..., 1:-1, 1:-1]
    around = (
        seen[..., :-2, 1:-1] + seen[..., 2:, 1:-1] + seen[..., 1:-1, :-2] + seen[..., 1:-1, 2:]
    ) / np.float32(4)
    return np.asarray(np.minimum(np.abs(middle - around), _STEP)[..., sky[1:-1, 1:-1]].mean(axis=-1))


def _products(seen: Seen, sky: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mean product of each two bands in the sky: noise that bands share."""
    bands = seen[..., sky]
    pairs = combinations(range(bands.shape[1]), 2)
    return np.stack([(bands[:, a] * bands[:, b]).mean(axis=-1) for a, b in pairs], axis=1)


@dataclass(frozen=True)
class PixelSums:
    """Number of rows, and sum and sum of squares of each pixel over them."""

    n: int
    total: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, batches: Iterable[Seen]) -> "PixelSums":
        """Summed over batches, so that no whole class need be held."""
        n, total, squares = 0, np.zeros(()), np.zeros(())
        for batch in batches:
            n += len(batch)
            total = total + batch.sum(axis=0, dtype=np.float64)
            squares = squares + np.einsum("nbyx,nbyx->byx", batch, batch, dtype=np.float64)
        return cls(n, total, squares)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of each pixel."""
        return np.asarray(self.total / self.n)

    @property
    def error2(self) -> NDArray[np.float64]:
        """Squared standard error of each mean."""
        return np.asarray((self.squares / self.n - self.mean**2) / (self.n - 1))


def pixel_shift(positives: PixelSums, negatives: PixelSums) -> tuple[float, str]:
    """Largest difference of a pixel's mean between two classes [standard errors], and which pixel it is."""
    difference = positives.mean - negatives.mean
    z = np.abs(difference) / np.sqrt(np.maximum(positives.error2 + negatives.error2, 1e-20))
    band, y, x = np.unravel_index(int(z.argmax()), z.shape)
    return float(z.max()), f"{'grz'[band]} of x={x} y={y}, by {difference[band, y, x]:+.3g}"
