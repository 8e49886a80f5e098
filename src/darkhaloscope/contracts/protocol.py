"""The evaluation protocol as a type: metrics, gates with their directions, bins, bounds, sample sizes.

The numbers live in ``configs/evaluation_protocol.yaml``. What this module holds a second time, on purpose, is
the contract: which way each gate points, the brief's four bounds, the minima. `check_protocol` compares the
two, so that a flipped direction or a loosened bound in the file is a named finding and not a better result.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from darkhaloscope.contracts.checks import (
    Bound,
    Check,
    Finding,
    Findings,
    Status,
    above,
    below,
    exactly,
    inside,
)
from darkhaloscope.contracts.config import Frozen, find_config, load

Direction = Literal["below", "above", "inside", "exactly"]

GATE_INTERVAL_CONFIDENCE = 0.90
"""Two-sided level of the interval of a gate `decided_by` it: its upper end is an upper 95 % bound."""

V1: Mapping[str, Bound] = {
    "auroc_synth": above(0.85),
    "core_lr_auc": below(0.65),
    "core_masked_drop": below(0.10),
    "hardneg_auroc": above(0.70),
}
"""The brief's gates, to the letter."""

V2: Mapping[str, Bound] = {
    "core_lr_auc_grouped": below(0.65),
    "core_lr_auc_unpaired": below(0.65),
    "control_identity": exactly(0.0),
    "sham_core_lr_auc": inside(0.47, 0.53),
    "sham_core_nl_auc": inside(0.47, 0.53),
    "leakage_excess": inside(-0.05, 0.05),
    "low_overlap_excess": below(0.10),
    "core_swap_necessity": below(0.10),
    "core_swap_sufficiency": below(0.05),
    "core_swap_sufficiency_low_overlap": below(0.02),
    "core_swap_placebo_excess": below(0.02),
    "bright_arc_monotonicity": above(0.01),
}
"""The gates that decide."""

_BY_INTERVAL = frozenset(V2) - {
    "core_lr_auc_grouped",
    "core_lr_auc_unpaired",
    "control_identity",
    "core_swap_placebo_excess",
    "bright_arc_monotonicity",
}
_LEAST_ROWS: Mapping[str, int] = {
    "core_lr_auc_grouped": 300,
    "core_lr_auc_unpaired": 600,
    "sham_core_lr_auc": 3600,
    "sham_core_nl_auc": 3600,
    "leakage_excess": 3200,
    "low_overlap_excess": 500,
    "core_swap_necessity": 600,
    "core_swap_sufficiency": 600,
    "core_swap_sufficiency_low_overlap": 600,
    "core_swap_placebo_excess": 600,
    "bright_arc_monotonicity": 600,
}
_METRICS = (
    "auroc_synth",
    "anchor_recall_at_k",
    "tpr_at_fpr_001",
    "contaminant_fpr",
    "precision_at_recall_90",
    "calibration_ece",
)
_EDGES: Mapping[str, tuple[float, ...]] = {
    "theta_e_arcsec": (0.5, 1.0, 1.5, 2.0, 3.0),
    "psf_fwhm_arcsec": (0.8, 1.2, 1.5, 2.0),
    "arc_snr": (3.0, 10.0, 20.0, 50.0, 1000.0),
}
_CONTAMINANTS: Mapping[str, int] = {"ring": 50, "spiral": 50, "merger": 30, "spike": 20}


class Gate(Frozen):
    """One gate as the protocol states it.

    bound        one limit, or [low, high] for `inside`
    decided_by   "value": the value must hold; "interval": both ends of its 90 % interval must
    needs_n      rows below which it is NOT_EVALUATED, counted as `needs` says
    warn_below, warn_above   a value outside is reported with a warning; nothing is decided by it
    """

    direction: Direction
    bound: float | tuple[float, float]
    decides: bool
    decided_by: Literal["value", "interval"] = "value"
    needs_n: int = Field(ge=1)
    needs: str
    warn_below: float | None = None
    warn_above: float | None = None
    why: str

    @model_validator(mode="after")
    def _bound_fits_direction(self) -> Self:
        if (self.direction == "inside") != isinstance(self.bound, tuple):
            message = "`inside` takes two limits, every other direction takes one"
            raise ValueError(message)
        return self

    def as_bound(self) -> Bound:
        """Direction and limit as one value."""
        if isinstance(self.bound, tuple):
            return inside(*self.bound)
        if self.direction == "below":
            return below(self.bound)
        return above(self.bound) if self.direction == "above" else exactly(self.bound)


class Gates(Frozen):
    """Both versions; a name stands in one of them only."""

    v1: dict[str, Gate]
    v2: dict[str, Gate]

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        both = sorted(set(self.v1) & set(self.v2))
        if both:
            message = f"gates in both versions: {', '.join(both)}"
            raise ValueError(message)
        return self


class Metrics(Frozen):
    """Names of what is measured; `added` is beyond the brief."""

    primary: tuple[str, ...]
    secondary: tuple[str, ...]
    added: tuple[str, ...] = ()


class LeakageProbe(Frozen):
    """How the core probes are cross-validated, and the stratum in which the arc hardly touches the core."""

    folds: int = Field(ge=2)
    repeats: int = Field(ge=1)
    low_overlap_kappa: float = Field(gt=0, lt=1)


class OperatingPoints(Frozen):
    """False-positive rates, and the negatives a threshold needs (`negatives_times_fpr` / FPR)."""

    fpr: tuple[float, ...] = Field(min_length=1)
    negatives_times_fpr: float = Field(gt=0)

    def negatives_needed(self, fpr: float) -> int:
        """The least number of negatives that can set a threshold at `fpr`."""
        return round(self.negatives_times_fpr / fpr)


class CoreSwap(Frozen):
    """The core-swap counterfactual: window, placebo, and the false-positive rate of its threshold.

    placebo_sigma_pix   standard deviation of the unlensed source that is cut as the arc is
    low_overlap_snr     matched-filter S/N that an arc may have in the core where the core must find nothing
    """

    radius_pix: float = Field(gt=0)
    softness_pix: float = Field(gt=0)
    fpr: float = Field(gt=0, lt=1)
    fpr_negatives: int = Field(ge=1)
    fpr_fallback: float = Field(gt=0, lt=1)
    placebo_sigma_pix: float = Field(default=2.2, gt=0)
    low_overlap_snr: float = Field(default=3.0, gt=0)


class Monotonicity(Frozen):
    """Test that recall does not fall with the arc's S/N: bins of equal numbers, replicates of the null."""

    bins: int = Field(default=8, ge=3)
    replicates: int = Field(default=2000, ge=200)


class AnchorRecall(Frozen):
    """Recall of anchors among a background pool: depths, pool and anchor minima."""

    k: tuple[int, ...] = Field(min_length=1)
    pool_min: int = Field(ge=1)
    pool_wanted: int = Field(ge=1)
    anchors_min: int = Field(ge=1)
    anchors_wanted: int = Field(ge=1)
    theta_e_min_arcsec: float = Field(ge=0)


class Contaminants(Frozen):
    """Probabilities at which look-alikes are counted, and the least number of each category."""

    thresholds: tuple[float, ...] = Field(min_length=1)
    minima: dict[str, int]


class PrecisionAtRecall(Frozen):
    """The recall at which precision is read."""

    recall: float = Field(gt=0, lt=1)


class Calibration(Frozen):
    """Bins of the expected calibration error."""

    bins: int = Field(ge=2)
    binning: Literal["equal_mass"]


class Strata(Frozen):
    """Bins [edge, next edge) of one quantity; `outside` adds a bin below, one above and one for unknown."""

    edges: tuple[float, ...] = Field(min_length=2)
    outside: bool = True

    @model_validator(mode="after")
    def _edges_rise(self) -> Self:
        if any(high <= low for low, high in zip(self.edges, self.edges[1:], strict=False)):
            message = "bin edges must rise"
            raise ValueError(message)
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """One label for each index that `assign` returns; the added bins come first and last."""
        pairs = zip(self.edges, self.edges[1:], strict=False)
        inner = tuple(f"[{low:g}, {high:g})" for low, high in pairs)
        if not self.outside:
            return inner
        return (f"< {self.edges[0]:g}", *inner, f">= {self.edges[-1]:g}", "unknown")

    def assign(self, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Index into `labels` for each value, shape (n,); -1 for a value that no bin holds."""
        array = np.asarray(values, dtype=float)
        index = np.searchsorted(np.asarray(self.edges), array, side="right").astype(np.int64)
        unknown = np.isnan(array)
        if self.outside:
            return np.where(unknown, len(self.edges) + 1, index)
        index = index - 1
        return np.where(unknown | (index >= len(self.edges) - 1), -1, index)


class Statistics(Frozen):
    """Resampling and seeds."""

    bootstrap_min: int = Field(ge=1)
    bootstrap: int = Field(ge=1)
    confidence: float = Field(gt=0, lt=1)
    few_clusters: int = Field(ge=2)
    seeds_min: int = Field(ge=1)
    seeds_wanted: int = Field(ge=1)


class Significance(Frozen):
    """The least difference that counts, beside an interval that excludes 0."""

    recall: float = Field(ge=0)
    fpr: float = Field(ge=0)


class Ablations(Frozen):
    """Arms compared, by the names of the brief."""

    reference: str
    arms: tuple[str, ...]


class Expected(Frozen):
    """Ranges (by epoch) outside which a training run is looked at."""

    train_loss: dict[int, tuple[float, float]]
    select_auroc: dict[int, tuple[float, float]]


class Protocol(Frozen):
    """Everything a run is measured by.

    locked_date   old files carry it; the date of a lock stands in the lock file (`contracts.lock`)
    """

    unfingerprinted: ClassVar[frozenset[str]] = frozenset({"locked_date"})

    version: str
    locked_date: str | None = None
    gates: Gates
    metrics: Metrics
    leakage_probe: LeakageProbe
    operating_points: OperatingPoints
    core_swap: CoreSwap
    monotonicity: Monotonicity = Monotonicity()
    anchor_recall: AnchorRecall
    contaminants: Contaminants
    precision_at_recall: PrecisionAtRecall
    calibration: Calibration
    strata: dict[str, Strata]
    statistics: Statistics
    significance: Significance
    ablations: Ablations
    expected: Expected

    def gate(self, name: str) -> Gate:
        """The gate called `name` in either version; KeyError names those there are."""
        gates = self.gates.v1 | self.gates.v2
        if name not in gates:
            message = f"the protocol has no gate '{name}'; it has {', '.join(gates)}"
            raise KeyError(message)
        return gates[name]

    def check(self, name: str) -> Check:
        """The gate as a `Check`."""
        gate = self.gate(name)
        return Check(
            name=name,
            bound=gate.as_bound(),
            why=gate.why,
            decides=gate.decides,
            version="v1" if name in self.gates.v1 else "v2",
            needs_n=gate.needs_n,
        )

    def measure(
        self,
        name: str,
        value: float | None,
        *,
        n: int,
        interval: tuple[float, float] | None = None,
        n_clusters: int | None = None,
        detail: str = "",
        examples: Sequence[str] = (),
    ) -> Finding:
        """The finding of gate `name`, decided the way the protocol says.

        A gate decided by its interval is NOT_EVALUATED without one, and passes only if both ends hold.
        A value in a warning band adds a sentence to `detail` and changes no status.
        """
        gate, check = self.gate(name), self.check(name)
        detail = "; ".join(part for part in (detail, _warning(gate, value)) if part)
        finding = check.measure(
            value, n=n, interval=interval, n_clusters=n_clusters, detail=detail, examples=examples
        )
        if gate.decided_by == "value" or finding.status is Status.NOT_EVALUATED:
            return finding
        if finding.interval is None:
            return finding.model_copy(
                update={"status": Status.NOT_EVALUATED, "detail": f"no interval; {detail}"}
            )
        holds = all(finding.bound.holds(end) for end in finding.interval)
        return finding.model_copy(update={"status": Status.PASS if holds else Status.FAIL})


def _warning(gate: Gate, value: float | None) -> str:
    if value is None:
        return ""
    if gate.warn_below is not None and value < gate.warn_below:
        return f"warning: below {gate.warn_below:g}"
    if gate.warn_above is not None and value > gate.warn_above:
        return f"warning: above {gate.warn_above:g}"
    return ""


def load_protocol(path: str | Path = "evaluation_protocol.yaml", overrides: Sequence[str] = ()) -> Protocol:
    """The protocol in `path` (default: the one that comes with the package); ConfigError names a bad key."""
    return load(find_config(path), Protocol, overrides)


def check_protocol(protocol: Protocol) -> Findings:
    """Compare the file with the contract in code.

    `protocol_directions`: gates that point another way; `protocol_complete`: gates, metrics, bins that are
    missing; `protocol_bounds`: changed bounds, minima below the contract, a brief's gate made to decide.
    Whether the file is still the one that was locked is `contracts.lock`'s.
    """
    return Findings(
        (
            _count("protocol_directions", _turned(protocol), "every gate points the way its contract says"),
            _count("protocol_complete", _missing(protocol), "everything the brief measures is measured"),
            _count("protocol_bounds", _loosened(protocol), "no bound or minimum was changed"),
        )
    )


def _count(name: str, faults: list[str], why: str) -> Finding:
    check = Check(name=name, bound=exactly(0.0), why=why)
    return check.measure(len(faults), detail="; ".join(faults), examples=tuple(faults[:3]))


def _contract(protocol: Protocol) -> Iterable[tuple[str, Gate, Bound]]:
    for version, bounds in ((protocol.gates.v1, V1), (protocol.gates.v2, V2)):
        for name, bound in bounds.items():
            if name in version:
                yield name, version[name], bound


def _turned(protocol: Protocol) -> list[str]:
    return [
        f"{name} is '{gate.direction}', must be '{bound.direction}'"
        for name, gate, bound in _contract(protocol)
        if gate.direction != bound.direction
    ]


def _missing(protocol: Protocol) -> list[str]:
    named = (*protocol.metrics.primary, *protocol.metrics.secondary)
    wanted: tuple[tuple[str, Iterable[object], Iterable[object]], ...] = (
        ("gates.v1", V1, protocol.gates.v1),
        ("gates.v2", V2, protocol.gates.v2),
        ("metrics", _METRICS, named),
        ("strata", _EDGES, protocol.strata),
        ("operating_points.fpr", (1e-2, 1e-3, 1e-4), protocol.operating_points.fpr),
        ("anchor_recall.k", (50, 100, 200), protocol.anchor_recall.k),
        ("contaminants.thresholds", (0.5, 0.7, 0.9), protocol.contaminants.thresholds),
        ("contaminants.minima", _CONTAMINANTS, protocol.contaminants.minima),
    )
    return [f"{where} lacks {item}" for where, need, have in wanted for item in need if item not in set(have)]


def _loosened(protocol: Protocol) -> list[str]:
    return [*_changed_gates(protocol), *_changed_minima(protocol)]


def _changed_gates(protocol: Protocol) -> list[str]:
    faults = []
    for name, gate, bound in _contract(protocol):
        found = gate.as_bound()
        # A turned gate is the other finding's; here only its number counts.
        limits = [x for x in (found.low, found.high) if x is not None]
        if limits != [x for x in (bound.low, bound.high) if x is not None]:
            faults.append(f"{name} bound is {gate.bound}, must be {bound}")
        if gate.decides != (name in V2):
            faults.append(f"{name} decides: {gate.decides}, must be {name in V2}")
        if gate.needs_n < _LEAST_ROWS.get(name, 1):
            faults.append(f"{name} needs_n is {gate.needs_n}, at least {_LEAST_ROWS[name]}")
        if (gate.decided_by == "interval") != (name in _BY_INTERVAL):
            faults.append(f"{name} is decided by its {gate.decided_by}")
    return faults


def _changed_minima(protocol: Protocol) -> list[str]:
    statistics, anchors = protocol.statistics, protocol.anchor_recall
    least: list[tuple[str, float, float]] = [
        ("statistics.bootstrap_min", statistics.bootstrap_min, 1000),
        ("statistics.bootstrap", statistics.bootstrap, statistics.bootstrap_min),
        ("statistics.seeds_min", statistics.seeds_min, 3),
        ("statistics.few_clusters", statistics.few_clusters, 30),
        ("leakage_probe.folds", protocol.leakage_probe.folds, 5),
        ("leakage_probe.repeats", protocol.leakage_probe.repeats, 10),
        ("operating_points.negatives_times_fpr", protocol.operating_points.negatives_times_fpr, 10),
        ("core_swap.fpr_negatives", protocol.core_swap.fpr_negatives, 10_000),
        ("anchor_recall.anchors_min", anchors.anchors_min, 30),
        ("anchor_recall.pool_min", anchors.pool_min, 50_000),
        ("anchor_recall.theta_e_min_arcsec", anchors.theta_e_min_arcsec, 0.5),
        ("calibration.bins", protocol.calibration.bins, 15),
    ]
    least += [
        (f"contaminants.minima.{name}", protocol.contaminants.minima.get(name, 0), n)
        for name, n in _CONTAMINANTS.items()
    ]
    faults = [f"{name} is {value:g}, at least {low:g}" for name, value, low in least if value < low]
    exact = {
        "statistics.confidence": (statistics.confidence, 0.95),
        "precision_at_recall.recall": (protocol.precision_at_recall.recall, 0.9),
        "core_swap.placebo_sigma_pix": (protocol.core_swap.placebo_sigma_pix, 2.2),
        "core_swap.low_overlap_snr": (protocol.core_swap.low_overlap_snr, 3.0),
        **{
            f"strata.{name}.edges": (protocol.strata[name].edges, e)
            for name, e in _EDGES.items()
            if name in protocol.strata
        },
    }
    return faults + [
        f"{name} is {found}, must be {wanted}" for name, (found, wanted) in exact.items() if found != wanted
    ]
