"""One checkpoint against every gate and every view of the core, on the test split, once (`openings`)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.contracts.checks import Findings
from darkhaloscope.contracts.config import fingerprint
from darkhaloscope.contracts.measured import Measured
from darkhaloscope.gates.arrays import PairArrays
from darkhaloscope.gates.core_swap import theta_e_bins
from darkhaloscope.pipeline.results import Results
from darkhaloscope.stats import Estimate, auroc_estimate

SUMMARY = "validation.json"


@dataclass
class Validation:
    """What is found of one checkpoint on a run's test split."""

    run: Results

    @cached_property
    def findings(self) -> Findings:
        """Every check before training, and every gate: on the data, on the model, on performance."""
        return self.run.foundation + self.run.findings

    @cached_property
    def views(self) -> tuple[Measured, ...]:
        """AUROC with the core as it is and hidden, the brief's core-masked view: all, and by theta_E."""
        pairs, predict = self.run.test_pairs, self.run.scorer
        centres = pairs.x_center, pairs.y_center
        scores = {
            view: [predict(x, *centres, core_masked=hidden) for x in (pairs.stamps, pairs.controls)]
            for view, hidden in (("full", False), ("core_masked", True))
        }
        bins = [("", np.ones(len(pairs), dtype=bool)), *theta_e_bins(pairs, self.run.protocol)]
        return tuple(
            self.run.figure_of_test(
                f"auroc_synth_{view}" + (f" theta_e_arcsec {label}" if label else ""),
                self._auroc(arcs, controls, pairs, rows),
            )
            for view, (arcs, controls) in scores.items()
            for label, rows in bins
            if rows.any()
        )

    def _auroc(
        self, arcs: NDArray[Any], controls: NDArray[Any], pairs: PairArrays, rows: NDArray[np.bool_]
    ) -> Estimate:
        """Of some arcs against all controls: the negatives of a stratum are those of the whole."""
        return auroc_estimate(
            np.concatenate([arcs[rows], controls]),
            np.repeat([1, 0], [int(rows.sum()), len(controls)]),
            np.concatenate([pairs.hosts[rows], pairs.hosts]),
            seed=self.run.experiment.seed,
            n_boot=self.run.protocol.statistics.bootstrap,
        )

    @cached_property
    def overlap(self) -> list[dict[str, float | str | int | None]]:
        """Share of the arc's light in the core, by Einstein radius: what a v1 failure is read against."""
        pairs = self.run.test_pairs
        bins = [(label, pairs.kappa[rows]) for label, rows in theta_e_bins(pairs, self.run.protocol)]
        return [
            {"theta_e_arcsec": label, "n": len(kappa), "kappa_r5": _median(kappa)}
            for label, kappa in bins
            if len(kappa)
        ]

    def summary(self, openings: list[dict[str, str]], verdict: str) -> dict[str, Any]:
        """The content of `validation.json`."""
        return {
            "verdict": verdict,
            "checkpoint": self.run.trained.checkpoint_sha256,
            "test_opened": openings,
            "protocol": fingerprint(self.run.protocol),
            "findings": self.findings.to_json(),
            "views": [m.model_dump(mode="json") for m in self.views],
            "hard_negatives": [m.model_dump(mode="json") for m in self.run.hard_negatives_told],
            "overlap": self.overlap,
        }


def _median(values: NDArray[np.float64]) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


Say = Callable[[str], None]


def tell(validation: Validation, openings: list[dict[str, str]], say: Say) -> None:
    """Print every gate, the views of the core, and the hard negatives."""
    for finding in sorted(validation.findings, key=lambda f: (not f.decides, f.name)):
        say(f"{finding.status:<14} {'' if finding.decides else '(reported) '}{finding}")
    for m in (*validation.views, *validation.run.hard_negatives_told):
        value = "not evaluated" if m.value is None else f"{m.value:.3f}"
        ends = "" if m.low is None or m.high is None else f" [{m.low:.3f}, {m.high:.3f}]"
        say(f"{m.name} = {value}{ends} (n={m.n})")
    for row in validation.overlap:
        known = row["kappa_r5"]
        share = f"{'unknown' if known is None else f'{known:.2f}'} (n={row['n']})"
        say(f"theta_E {row['theta_e_arcsec']}: median share of the arc's light in the core {share}")
    if len(openings) > 1:
        told = [f"{o['checkpoint'][:12]} on {o['date']} ({o['reason'] or 'first'})" for o in openings]
        say(f"the test split was opened {len(openings)} times: {'; '.join(told)}")
