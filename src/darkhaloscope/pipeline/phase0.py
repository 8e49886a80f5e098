"""Phase 0: every check that can be made before training, in sections, with one answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from darkhaloscope import __version__
from darkhaloscope.contracts.checks import Findings
from darkhaloscope.contracts.config import fingerprint
from darkhaloscope.contracts.protocol import Protocol
from darkhaloscope.contracts.store import Dataset
from darkhaloscope.dataset.catalog_checks import check_anchors, check_contaminants
from darkhaloscope.pipeline.data import save_json
from darkhaloscope.pipeline.results import Results, decide
from darkhaloscope.report.run import Verdict

SUMMARY = "phase0_summary.json"

_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "protocol": ("protocol_",),
    "provenance": ("provenance_", "pair_reproduces"),
    "pairs": ("schema_", "pair_", "sham_"),
    "splits": ("split_",),
    "contaminants": ("contaminants_",),
    "anchors": ("anchors_",),
}


def section_of(name: str) -> str:
    """The section that a finding belongs to; "other" for a name that belongs to none."""
    return next((section for section, stems in _SECTIONS.items() if name.startswith(stems)), "other")


def sections_of(findings: Findings) -> dict[str, Findings]:
    """Findings by section, in the order of the sections; empty ones are left out."""
    found = {
        name: Findings(f for f in findings if section_of(f.name) == name) for name in (*_SECTIONS, "other")
    }
    return {name: part for name, part in found.items() if len(part)}


def catalogue_findings(
    protocol: Protocol, *, anchors: Dataset | None = None, contaminants: Dataset | None = None
) -> Findings:
    """Findings of real catalogues; none for one that is not handed in."""
    found = Findings()
    if anchors is not None:
        found += check_anchors(anchors, protocol)
    if contaminants is not None:
        found += check_contaminants(contaminants, protocol, anchors=anchors)
    return found


@dataclass
class Phase0:
    """The foundation of a run and of the catalogues that go with it."""

    run: Results
    catalogues: Findings = field(default_factory=Findings)

    @cached_property
    def findings(self) -> Findings:
        """Protocol, provenance, pairs, splits, look-alikes, and the catalogues that were handed in."""
        given = {f.name for f in self.catalogues}
        own = (f for f in self.run.foundation if f.name not in given)  # a real catalogue stands before mocks
        return Findings([*own, *self.run.provenance, *self.catalogues])

    @cached_property
    def sections(self) -> dict[str, Findings]:
        """The findings by section."""
        return sections_of(self.findings)

    @property
    def verdict(self) -> Verdict:
        """GO, CONDITIONAL-GO or NO-GO."""
        return decide(self.findings)[0]

    def summary(self) -> dict[str, Any]:
        """The content of `phase0_summary.json`; `all_passed` is true only if every deciding check passed."""
        verdict, reasons = decide(self.findings)
        deciding = self.findings.deciding
        return {
            "all_passed": deciding.all_passed,
            "verdict": str(verdict),
            "reasons": list(reasons),
            "failed": [f.name for f in self.findings.failed],
            "not_evaluated": [f.name for f in self.findings.not_evaluated],
            "experiment": self.run.experiment.name,
            "config": fingerprint(self.run.experiment),
            "protocol": fingerprint(self.run.protocol),
            "code_version": __version__,
            "sections": {
                name: {"all_passed": part.deciding.all_passed, "findings": part.to_json()}
                for name, part in self.sections.items()
            },
        }

    def write(self) -> Path:
        """Write `phase0_summary.json` into the run's folder."""
        path = self.run.out / SUMMARY
        save_json(path, self.summary())
        return path
