"""What it means that a model finds something: the model as a callable, and the score of a detection."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol as Structural

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from darkhaloscope.contracts.protocol import Protocol
from darkhaloscope.gates.arrays import PairArrays, PerPair, StampBatch
from darkhaloscope.stats import threshold_at_fpr

_BATCH = 256


class Predict(Structural):
    """A model: raw stamps [nmgy] to scores, higher for what looks more like a lens.

    core_masked   set r < 5 px to 0 in normalised space first (the model knows its own preprocessing)
    """

    def __call__(
        self,
        stamps: StampBatch,
        x_center: PerPair,
        y_center: PerPair,
        /,
        *,
        core_masked: bool = False,
    ) -> Float[np.ndarray, "pair"]:
        """Scores (n,), each independent of the other rows."""
        ...


@dataclass(frozen=True)
class OperatingPoint:
    """The score above which something is a detection, and how well the negatives set it.

    fpr      nominal; the interval of what it really is, and on how many negatives it rests, is in `text`
    enough   whether there are 10/fpr negatives: if not, no gate may be decided at this threshold
    """

    threshold: float
    fpr: float
    n: int
    enough: bool
    text: str


def point_at(negatives: Float[np.ndarray, "row"], fpr: float, protocol: Protocol) -> OperatingPoint | None:
    """The threshold at `fpr` from clean negatives; None where they are too few for it to have a rank."""
    n, needs = len(negatives), protocol.operating_points.negatives_needed(fpr)
    if fpr * (n + 1) < 1.0 - 1e-9:
        return None
    found = threshold_at_fpr(negatives, fpr)
    low, high = found.fpr_interval
    text = f"threshold {found.threshold:.4g} at FPR {fpr:g}, set by {n} negatives ({low:.2g} to {high:.2g})"
    if n < needs:
        text += f", which needs {needs}"
    return OperatingPoint(found.threshold, fpr, n, n >= needs, text)


def operating_point(negatives: Float[np.ndarray, "row"], protocol: Protocol) -> OperatingPoint | None:
    """The threshold of the core-swap gates: at the lower rate where there are negatives for it."""
    swap = protocol.core_swap
    fpr = swap.fpr if len(negatives) >= swap.fpr_negatives else swap.fpr_fallback
    return point_at(negatives, fpr, protocol)


Maker = Callable[[PairArrays], StampBatch]


def detected(pairs: PairArrays, predict: Predict, point: OperatingPoint, make: Maker) -> NDArray[np.bool_]:
    """Which counterfactuals are found, made and scored some at a time: pixels in float64 fill memory."""
    scores = []
    for start in range(0, len(pairs), _BATCH):
        some = pairs.take(np.arange(start, min(start + _BATCH, len(pairs))))
        scores.append(predict(make(some).astype(np.float32), some.x_center, some.y_center))
    return np.asarray(np.concatenate(scores) > point.threshold)


def both_ends(low: float | None, high: float | None) -> tuple[float, float] | None:
    """An interval, or None where an end is missing."""
    return None if low is None or high is None else (low, high)
