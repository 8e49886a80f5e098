"""Everything a run hands to its report."""

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from darkhaloscope.contracts.checks import Finding
from darkhaloscope.contracts.measured import Measured
from darkhaloscope.report.parts import Origin, Shown
from darkhaloscope.report.values import (
    AblationBars,
    ComparatorAucs,
    Completeness,
    ContaminantRates,
    Example,
    History,
    LensPicture,
    PairPicture,
    Realism,
    Reliability,
    RocCurve,
    SelectionCurve,
    SelectionMap,
)


class Verdict(StrEnum):
    """What a run comes to."""

    GO = "GO"
    CONDITIONAL_GO = "CONDITIONAL-GO"
    NO_GO = "NO-GO"


class ManifestEntry(Shown):
    """One dataset that numbers of the page came from."""

    fingerprint: str
    table: str
    rows: int
    what: str


class RunResults(Shown):
    """Everything the page says.

    measured       the key numbers; `contaminants`, `hard_negatives` and `slices` have tables of their own
    gates          findings of the protocol: those that decide come first, the others are marked
    foundation     findings on the data before training
    reasons        the verdict in words, one sentence each
    confidence     of the intervals of `contaminants`
    what_was_done  three lines; empty: a sentence is made from the config and the manifests
    limits         what this run in particular cannot say; added to what no run can

    What was not measured stays empty: the page then has no section for it, the paper lists it as absent.
    """

    title: str
    config: str
    seeds: tuple[int, ...]
    verdict: Verdict = Field(strict=False)
    reasons: tuple[str, ...] = ()
    created: str
    code_version: str
    what_was_done: tuple[str, ...] = ()
    measured: tuple[Measured, ...] = ()
    gallery: tuple[PairPicture, ...] = ()
    history: History | None = None
    roc: tuple[RocCurve, ...] = ()
    gates: tuple[Finding, ...] = ()
    gates_origin: Origin | None = None
    foundation: tuple[Finding, ...] = ()
    foundation_origin: Origin | None = None
    completeness: Completeness | None = None
    slices: tuple[Measured, ...] = ()
    contaminants: tuple[Measured, ...] = ()
    confidence: float = Field(default=0.95, gt=0, lt=1)
    hard_negatives: tuple[Measured, ...] = ()
    contaminant_rates: tuple[ContaminantRates, ...] = ()
    selection_maps: tuple[SelectionMap, ...] = ()
    selection_curves: tuple[SelectionCurve, ...] = ()
    reliability: Reliability | None = None
    realism: Realism | None = None
    comparators: ComparatorAucs | None = None
    ablation: AblationBars | None = None
    examples: tuple[Example, ...] = ()
    real_lenses: tuple[LensPicture, ...] = ()
    manifests: tuple[ManifestEntry, ...] = ()
    limits: tuple[str, ...] = ()

    @property
    def deciding(self) -> tuple[Finding, ...]:
        """The findings a verdict may rest on."""
        return tuple(f for f in (*self.foundation, *self.gates) if f.decides)

    @model_validator(mode="after")
    def _go_needs_every_pass(self) -> Self:
        open_ones = [f.name for f in self.deciding if not f.passed]
        if self.verdict is Verdict.GO and (open_ones or not self.deciding):
            message = (
                f"GO needs every deciding check to pass; not passed: {', '.join(open_ones) or 'none made'}"
            )
            raise ValueError(message)
        return self
