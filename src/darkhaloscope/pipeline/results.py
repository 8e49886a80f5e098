"""From scores to a verdict: measure the test split, decide by the gates, give the report its content."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa

from darkhaloscope.contracts.checks import Finding, Findings, Status
from darkhaloscope.contracts.config import fingerprint
from darkhaloscope.contracts.measured import ArcDomain, HostDomain, Measured
from darkhaloscope.evaluation.calibration import calibration_measures
from darkhaloscope.evaluation.metrics import (
    anchor_metrics,
    contaminant_metrics,
    performance_findings,
    synth_metrics,
)
from darkhaloscope.evaluation.operating import operating_metrics
from darkhaloscope.evaluation.recovery import TRUTH_COLUMNS, Recovery, bins_of
from darkhaloscope.evaluation.samples import NEGATIVE_KINDS, Run, host_domain, positives
from darkhaloscope.evaluation.selection import (
    completeness,
    detection_threshold,
    surface_coverage,
)
from darkhaloscope.evaluation.selection_function import SelectionFunction
from darkhaloscope.gates.detection import OperatingPoint
from darkhaloscope.gates.hard_negatives import HardSuite, Source
from darkhaloscope.gates.reliance import ring_on_anything
from darkhaloscope.pipeline.data import HOSTS, save_json
from darkhaloscope.pipeline.modelling import ModelStages
from darkhaloscope.report.parts import Origin
from darkhaloscope.report.run import Verdict
from darkhaloscope.report.values import Completeness, CompletenessBin
from darkhaloscope.stats import Estimate
from darkhaloscope.survey.brick_grid import brick_area_deg2, brick_of


def decide(findings: Findings) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict that the deciding findings allow, and why, one sentence for each reason.

    A failure is NO-GO, unless it lies within 5 % of its bound. Such a near miss leaves CONDITIONAL-GO at
    best, and so does what was not evaluated, which is never a pass.
    """
    deciding = findings.deciding
    failed, open_ones = deciding.failed, deciding.not_evaluated
    clear = [f for f in failed if not near_miss(f)]
    if clear:
        return Verdict.NO_GO, tuple(str(f) for f in clear)
    if not len(deciding):
        return Verdict.CONDITIONAL_GO, ("no deciding check was made",)
    if failed or open_ones:
        near = tuple(f"{f} (within 5 % of its bound)" for f in failed)
        return Verdict.CONDITIONAL_GO, near + tuple(_lack(f) for f in open_ones)
    return Verdict.GO, (f"all {len(deciding)} deciding checks passed",)


NEAR = 0.05
"""Share of a bound by which a check may miss it and still leave a CONDITIONAL-GO, as the brief has it."""


def near_miss(finding: Finding) -> bool:
    """Whether a failed check misses its bound by at most 5 % of it; a count that must be zero never does."""
    if finding.status is not Status.FAIL or finding.bound.direction == "exactly":
        return False
    ends = [finding.value, *(finding.interval or ())]
    limits = [limit for limit in (finding.bound.low, finding.bound.high) if limit]
    beyond = [end for end in ends if end is not None and not finding.bound.holds(end)]
    near = (any(abs(end - limit) <= NEAR * abs(limit) for limit in limits) for end in beyond)
    return bool(beyond) and all(near)


def _lack(finding: Finding) -> str:
    """What a check that was not evaluated lacks, in few words; the gates table has the rest."""
    if finding.n is not None and finding.n < finding.needs_n:
        return f"{finding.name} has {finding.n} of the {finding.needs_n} rows it needs"
    return f"{finding.name}: {finding.detail.partition('; ')[0]}"


@dataclass
class Results(ModelStages):
    """Metrics, verdict and report of one run."""

    @cached_property
    def test(self) -> pa.Table:
        """SCORES of the test split over all sources."""
        return self.split_scores("test")

    @cached_property
    def lookalike_scores(self) -> pa.Table:
        """SCORES of mock contaminants, mock anchors and known lenses: test rows all of them."""
        found = [self.scores[name].read() for name in ("anchors", "lenses") if name in self.scores]
        return pa.concat_tables(found) if found else self.test.schema.empty_table()

    def _run(self, *names: str) -> Run:
        return Run(
            protocol=self.protocol,
            seed=self.experiment.seed,
            seeds=(self.trained_seed,),
            manifests=tuple(self.scores[name].fingerprint for name in names if name in self.scores),
        )

    @property
    def trained_seed(self) -> int:
        """The seed of the network that is scored."""
        return int(self.scorer.card.training["seed"])

    @property
    def tested(self) -> tuple[str, ...]:
        """Names of the scores whose test rows are measured."""
        return tuple(name for name in self.scores if name not in ("anchors", "lenses"))

    @cached_property
    def synth(self) -> tuple[Measured, ...]:
        """What is measured on simulated arcs."""
        return synth_metrics(self.test, self._run(*self.tested))

    @cached_property
    def contaminants(self) -> tuple[Measured, ...]:
        """What is measured on look-alikes."""
        return contaminant_metrics(self.lookalike_scores, self._run("anchors"))

    @cached_property
    def anchors(self) -> tuple[Measured, ...]:
        """What is measured on mock anchors and on real lenses, each under its own name."""
        found: list[Measured] = []
        for name in ("anchors", "lenses"):
            if name in self.scores:
                found += anchor_metrics(self.scores[name].read(), self.test, self._run(name, *self.tested))
        return tuple(found)

    @cached_property
    def threshold(self) -> OperatingPoint | None:
        """What counts as a detection, set on the calib split."""
        return detection_threshold(self.split_scores("calib"), self.protocol)

    @cached_property
    def rings(self) -> tuple[Measured, ...]:
        """How often a test control is taken for a lens when a smooth ring is drawn on it."""
        if self.threshold is None:
            return ()
        run = self._run(*self.tested)
        return ring_on_anything(
            self.test_pairs,
            self.scorer,
            self.threshold,
            seed=run.seed,
            seeds=run.seeds,
            manifests=run.manifests,
            host_domain=host_domain(positives(self.test)),
        )

    @cached_property
    def hard_negatives_told(self) -> tuple[Measured, ...]:
        """What the model makes of each kind of hard negative; kept beside what it was made from."""
        path = self.models / "results" / "hard_negatives.json"
        likeness = self.experiment.sampling.hard_negative_likeness
        mark = fingerprint([self.gates_mark(self.trained.checkpoint_sha256), likeness])
        if path.exists():
            held = json.loads(path.read_text(encoding="utf-8"))
            if held["made_from"] == mark:
                return tuple(Measured.model_validate_json(json.dumps(m)) for m in held["measured"])
        run = self._run(*self.tested)
        source = Source(run.seeds, run.manifests, host_domain(positives(self.test)))
        suite = HardSuite(
            self.test_pairs, self.hard_test, self.scorer, self.threshold, self.protocol, run.seed, source
        )
        measured = suite.measured()
        save_json(path, {"made_from": mark, "measured": [m.model_dump(mode="json") for m in measured]})
        return measured

    @cached_property
    def operating(self) -> tuple[Measured, ...]:
        """Recall before the first false positives, and candidates per square degree."""
        run = self._run(*self.tested)
        return operating_metrics(self.test, self.split_scores("calib"), run, area_deg2=self._test_area())

    def _test_area(self) -> float | None:
        """Sky of the bricks in which the test targets lie [deg^2]; None where they were picked by hand."""
        if HOSTS in self.sources:
            return None  # cutouts are no complete sample of any sky
        rows = self.target_rows("test", ("target_id", "ra_deg", "dec_deg"), NEGATIVE_KINDS)
        bricks = brick_of(*(rows.column(c).to_numpy() for c in ("ra_deg", "dec_deg")))
        _, first = np.unique(bricks.brickid, return_index=True)
        return float(brick_area_deg2(bricks.dec_deg[first]).sum())

    @cached_property
    def calibration(self) -> tuple[Measured, ...]:
        """Whether the scores are probabilities: as stated, and by calibrators fitted on the calib split."""
        return calibration_measures(self.test, self.split_scores("calib"), self._run(*self.tested))

    @cached_property
    def recovery(self) -> Recovery | None:
        """The test arcs, and which of them are found; None where nothing sets a threshold."""
        if self.threshold is None:
            return None
        truth = pa.concat_tables([d.read(TRUTH_COLUMNS) for d in self.pairs.values()])
        return Recovery.of(self.test, truth, self.threshold.threshold)

    @cached_property
    def selection(self) -> SelectionFunction | None:
        """The selection function, written beside the results as FITS and Parquet."""
        if self.recovery is None or self.threshold is None:
            return None
        truth = pa.concat_tables([d.read(["theta_e_prior", "recipe_hash"]) for d in self.pairs.values()])
        priors, recipes = (tuple(sorted(set(truth.column(c).to_pylist()))) for c in truth.column_names)
        made = SelectionFunction.measure(
            self.recovery,
            self._run(*self.tested),
            self.threshold,
            checkpoint=self.trained.checkpoint_sha256,
            theta_e_prior=priors,
            recipes=recipes,
        )
        made.save(self.models / "results" / "selection_function.fits")
        return made

    @cached_property
    def selection_measured(self) -> tuple[Measured, ...]:
        """Completeness by every fact and over populations, and how the surface foretells unseen cells."""
        if self.recovery is None or self.threshold is None or self.selection is None:
            return ()
        run = self._run(*self.tested)
        facts = (name for name in bins_of(self.protocol) if name != "theta_e_arcsec")
        bins = [b for n in facts for b in completeness(self.recovery, run, self.threshold, column=n)]
        coverage = surface_coverage(self.recovery, run)
        return (*self.selection.averages, *coverage, *(b.measured for b in bins))

    @cached_property
    def completeness(self) -> Completeness | None:
        """Found share by theta_E, at a threshold set on the calib split."""
        threshold = self.threshold
        if threshold is None or self.recovery is None:
            return None
        edges = self.protocol.strata["theta_e_arcsec"].edges
        limits = [(0.0, edges[0]), *pairwise(edges), (edges[-1], None)]
        bins = completeness(self.recovery, self._run(*self.tested), threshold)
        shown = [
            CompletenessBin(
                lo=lo,
                hi=hi,
                k=b.k,
                n=b.n,
                value=b.measured.value,
                low=b.measured.low,
                high=b.measured.high,
                sufficient=b.measured.status is Status.PASS,
            )
            for b, (lo, hi) in zip(bins, limits, strict=False)
        ]
        origin = self.origin(host_domain(positives(self.test)), ArcDomain.SIM, *self.tested)
        return Completeness(
            bins=tuple(shown), threshold_source=f"calib split: {threshold.text}", origin=origin
        )

    def origin(self, host: HostDomain, arc: ArcDomain, *names: str) -> Origin:
        """What the rows of some scores are, and their manifests."""
        return Origin(host_domain=host, arc_domain=arc, manifests=self._run(*names).manifests)

    @property
    def figures_of_test(self) -> Run:
        """What every figure of the test split carries."""
        return self._run(*self.tested)

    def figure_of_test(self, name: str, estimate: Estimate) -> Measured:
        """A figure of simulated arcs in the test split, with what every such figure carries."""
        host = host_domain(positives(self.test))
        return self._run(*self.tested).measured(name, estimate, host, ArcDomain.SIM)

    @cached_property
    def findings(self) -> Findings:
        """The gates, those on performance included."""
        return self.gates + performance_findings(self.synth, self.protocol)


def summary_lines(findings: Sequence[Finding]) -> list[str]:
    """One line for each finding that did not pass, failures first."""
    order = {Status.FAIL: 0, Status.NOT_EVALUATED: 1}
    shown = sorted((f for f in findings if not f.passed), key=lambda f: order[f.status])
    return [f"{f.status:<14} {'' if f.decides else '(reported) '}{f}" for f in shown]
