"""`dhs review`: gather the checks of every room over a run, and the code checks over a user's own scripts."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from darkhaloscope import __version__
from darkhaloscope.contracts.checks import Check, Finding, Findings, exactly
from darkhaloscope.contracts.errors import ConfigError
from darkhaloscope.contracts.measured import Measured
from darkhaloscope.evaluation.metrics import performance_findings
from darkhaloscope.pipeline.phase0 import Phase0
from darkhaloscope.pipeline.results import Results
from darkhaloscope.review.assess import Review, assess
from darkhaloscope.review.code import check_code

GATES = "gates"
_STALE = Check(
    name="provenance_gates",
    bound=exactly(0),
    why="gates decide on the data, the protocol and the checkpoint that they were made from, and on no other",
)


def review(phase0: Phase0 | None, *, code: Sequence[Path] = ()) -> Review:
    """Review a run, code, or both.

    phase0   the foundation of a run; its gates and metrics are read from the run's folder
    code     files or folders of Python that a user adds: plugins, job scripts

    Raises ConfigError if there is nothing to review.
    """
    if phase0 is None and not code:
        raise ConfigError("dhs review", "", "has nothing to review", "a run's folder, --code PATH, or both")
    issues = [issue for path in code for issue in check_code(path)]
    sections: dict[str, tuple[Finding, ...]] = {}
    standing: tuple[str, ...] = ()
    if phase0 is not None:
        sections = {name: tuple(part) for name, part in phase0.sections.items()}
        gates, stale = _gates(phase0.run)
        sections = {**sections, GATES: tuple(gates)}
        if stale:
            sections["provenance"] = (*sections.get("provenance", ()), *stale)
        standing = _standing(phase0.run)
    where = str(phase0.run.out) if phase0 is not None else "RUN"
    subject = f"{phase0.run.experiment.name} in {where}" if phase0 is not None else "code"
    return assess(
        subject,
        sections,
        run=where,
        bricks=phase0.run.experiment.survey.bricks if phase0 is not None else 0,
        code_issues=issues,
        code=[str(path) for path in code],
        standing=standing,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        code_version=__version__,
    )


def _gates(run: Results) -> tuple[Findings, Findings]:
    """The gates as the run's folder holds them, and whether they are of its data and its model.

    Nothing is trained here: without a model the gates are NOT_EVALUATED.
    """
    path, checkpoint = run.out / "results" / "gates.json", run.out / "training" / "checkpoint.pt"
    if not path.exists() or not checkpoint.exists():
        names = (*run.protocol.gates.v1, *run.protocol.gates.v2)
        reason = "there is no trained model yet: gates come after training"
        return Findings(run.protocol.check(name).not_evaluated(reason) for name in names), Findings()
    held = json.loads(path.read_text(encoding="utf-8"))
    gates = Findings.from_json(held["findings"])
    mark = run.gates_mark(hashlib.sha256(checkpoint.read_bytes()).hexdigest())
    stale = _STALE.measure(int(held["made_from"] != mark), n=1)
    return gates + performance_findings(_measured(run.out), run.protocol), Findings([stale])


def _measured(out: Path) -> list[Measured]:
    path = out / "results" / "metrics.json"
    if not path.exists():
        return []
    figures = json.loads(path.read_text(encoding="utf-8"))
    return [Measured.model_validate_json(json.dumps(figure)) for figure in figures]


def _standing(run: Results) -> tuple[str, ...]:
    """Risks that no check removes, from what the run is made of."""
    risks = []
    if run.experiment.survey.hosts is None:
        risks.append(
            "Every host is synthetic: nothing here measures the survey. survey.hosts takes real galaxies."
        )
    if not run.experiment.survey.known_lenses:
        risks.append("No real lens is scored: how simulated arcs transfer to real ones is not known.")
    risks.append(
        f"One seed ({run.experiment.training.seed}): differences between arms need "
        f"{run.protocol.statistics.seeds_min} or more."
    )
    return tuple(risks)
