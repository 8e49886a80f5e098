"""Gates on two classes as a network is given them, where positives and negatives are not pairs.

In a pair the control is the same galaxy, so whatever differs is the pipeline's doing. Where negatives are
other galaxies, choosing them can tell the label: brighter hosts, sharper seeing, deeper fields. And where
each class has a loader of its own, its normalisation can. So these look at what leaves the loader, on
stamps without an arc (sham positives), and at the catalogue of both classes' hosts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from darkhaloscope.contracts.checks import Check, Finding, Findings, below
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.protocol import Protocol
from darkhaloscope.gates.arrays import PerPair
from darkhaloscope.gates.leakage import Look, look_at
from darkhaloscope.gates.probes import probe_classes
from darkhaloscope.gates.whole_stamp import TEXTURE, PixelSums, Seen, equivalent, pixel_check, pixel_shift

HOST_MATCHING = Check(
    name="host_matching",
    bound=below(0.1),
    why="hosts of both classes must agree in magnitude, size, seeing and depth: largest difference of "
    "means over the standard deviation",
    decides=False,
    # The difference of two equal means scatters by sqrt(2/n): among ten facts 1 % reach .1 with 2,100 rows.
    needs_n=2100,
)

CLASSES = TEXTURE.model_copy(
    update={
        # Classes that are given are one draw: no mean over random halves steadies the AUROC, whose scatter
        # over 20 skies is .010 with 3,600 rows. With 6,000 equal classes fail once in a hundred.
        "needs_n": 6000,
        "why": "without an arc, what the network is given of two classes must not tell them apart",
    }
)
"""The check of each AUROC between two classes."""

_NAMES: dict[Look, str] = {"linear": "core_lr", "nonlinear": "core_nl", "texture": "texture"}
_BATCH = 512


@dataclass(frozen=True, eq=False)
class SeenClass:
    """Rows of one class after preprocessing, as the network gets them.

    pixels   (row, band, y, x); hosts: host_id of each row; x_center, y_center: the target [pix]
    """

    pixels: Seen
    hosts: NDArray[np.str_]
    x_center: PerPair
    y_center: PerPair

    def __len__(self) -> int:
        return len(self.pixels)


def class_findings(
    positives: SeenClass,
    negatives: SeenClass,
    *,
    protocol: Protocol,
    seed: int,
    repeats: int | None = None,
) -> Findings:
    """The core, texture and pixel probes between two classes without arcs, no host in both.

    Named class_core_lr_auc, class_core_nl_auc, class_texture_auc and class_pixel_shift; the bounds are those
    of the sham gates. Raises DataError if a host is in both classes.
    """
    hosts, classes = (positives.hosts, negatives.hosts), (positives, negatives)
    fewest = min(len(set(own)) for own in hosts)
    found = []
    for kind, name in _NAMES.items():
        first, second = (_features(side, kind) for side in classes)
        check = CLASSES.model_copy(update={"name": f"class_{name}_auc"})
        result = None
        if fewest >= protocol.leakage_probe.folds:
            result = probe_classes(
                first,
                second,
                hosts,
                kind="linear" if kind == "linear" else "nonlinear",
                protocol=protocol,
                seed=seed,
                purpose=f"gates/classes {kind}",
                repeats=repeats,
            )
        found.append(equivalent(check, result, n=fewest))
    return Findings((*found, _pixels(positives, negatives)))


def _features(side: SeenClass, kind: Look) -> NDArray[np.float64]:
    pieces = [slice(start, start + _BATCH) for start in range(0, len(side), _BATCH)]
    return np.concatenate(
        [look_at(kind, side.pixels[at], side.x_center[at], side.y_center[at]) for at in pieces]
    )


def _pixels(positives: SeenClass, negatives: SeenClass) -> Finding:
    check = pixel_check(int(np.prod(positives.pixels.shape[1:])))
    check = check.model_copy(update={"name": "class_pixel_shift"})
    n = min(len(positives), len(negatives))
    if n < 2:
        return check.measure(None, n=n)
    value, where = pixel_shift(PixelSums.of([positives.pixels]), PixelSums.of([negatives.pixels]))
    return check.measure(value, n=n, detail=f"most in {where}")


def host_matching(
    positives: Mapping[str, Float[np.ndarray, "row"]], negatives: Mapping[str, Float[np.ndarray, "row"]]
) -> Finding:
    """Largest standardised difference of means between the hosts of two classes, over named facts.

    A fact that is unknown (NaN) in some rows is compared in the others. It sees means alone: classes of one
    mean and another spread pass. Raises DataError if the facts are not the same.
    """
    if set(positives) != set(negatives) or not positives:
        raise DataError("host matching", f"compares {sorted(positives)} with {sorted(negatives)}")
    found = {name: _difference(positives[name], negatives[name]) for name in positives}
    worst = max(found, key=lambda name: -1.0 if np.isnan(found[name][0]) else abs(found[name][0]))
    detail = ", ".join(f"{name} {value:+.3f}" for name, (value, _) in found.items())
    known = min(n for _, n in found.values())
    value = float("nan") if any(np.isnan(v) for v, _ in found.values()) else abs(found[worst][0])
    return HOST_MATCHING.measure(value, n=known, detail=f"largest in {worst}; {detail}")


def _difference(first: Float[np.ndarray, "row"], second: Float[np.ndarray, "row"]) -> tuple[float, int]:
    """(difference of means over the standard deviation, rows of the smaller side)."""
    a, b = (side[np.isfinite(side)] for side in (first, second))
    n = min(len(a), len(b))
    if n < 2:
        return float("nan"), n
    spread = float(np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))
    gap = float(a.mean() - b.mean())
    if spread == 0.0:  # a constant in both classes: equal, or a perfect tell
        return (0.0 if gap == 0.0 else float(np.copysign(np.finfo(float).max, gap))), n
    return gap / spread, n
