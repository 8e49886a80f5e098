"""What the verbs of the command line do, as functions that take paths and return what they made."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from darkhaloscope.contracts.checks import Findings
from darkhaloscope.contracts.errors import ConfigError, DataError, ProtocolChanged
from darkhaloscope.contracts.store import Dataset, local_writer, open_dataset
from darkhaloscope.contracts.tables import ANCHORS, CONTAMINANTS, STAMPS
from darkhaloscope.injection.draw import settled
from darkhaloscope.injection.inject import Inject
from darkhaloscope.pipeline.bring_in import say_what_was_made
from darkhaloscope.pipeline.data import SKY, DataStages, save_json
from darkhaloscope.pipeline.experiment import (
    RUN_PROTOCOL,
    check_inputs,
    claim,
    held_experiment,
    load_experiment,
    run_protocol_changes,
)
from darkhaloscope.pipeline.openings import Openings
from darkhaloscope.pipeline.page import assemble
from darkhaloscope.pipeline.phase0 import Phase0, catalogue_findings
from darkhaloscope.pipeline.results import Results, decide, summary_lines
from darkhaloscope.pipeline.seeds import trained_seeds, write_seeds
from darkhaloscope.pipeline.validate import SUMMARY as VALIDATION
from darkhaloscope.pipeline.validate import Validation, tell
from darkhaloscope.report.paper import PAPER, write_paper
from darkhaloscope.report.report import write_report
from darkhaloscope.report.run import RunResults, Verdict
from darkhaloscope.runners.local import run_local


class Outcome(NamedTuple):
    """What a run came to, where its page is, and whether a deciding check failed (a near miss too)."""

    verdict: Verdict
    report: Path | None = None
    failed: bool = False


def run_experiment(
    config: str | Path, out: Path, *, overrides: Sequence[str] = (), workers: int = 1
) -> Outcome:
    """Run an experiment from pixels to report and paper, continuing whatever `out` holds of it."""
    run, console = _claimed(config, out, overrides, workers)
    _ = run.onnx
    return _report(run, assemble(run), console)


def report_again(run_folder: Path) -> Outcome:
    """Write the report of a run again and the files of a paper beside it; what is missing is made."""
    run, console = _held(run_folder)
    return _report(run, assemble(run), console)


def _report(run: Results, results: RunResults, console: Console) -> Outcome:
    """Write the page, its twin and the paper's files; say what failed, and where everything is."""
    index = write_paper(results, run.out / PAPER)
    console.print(f"figures and tables: {index}", highlight=False, markup=False, soft_wrap=True)
    page, _ = write_report(results, run.out / "report.html")
    for line in summary_lines([*results.foundation, *results.gates]):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{results.verdict}: report in {page}", highlight=False, markup=False, soft_wrap=True)
    return Outcome(results.verdict, page)


def train_experiment(
    config: str | Path, out: Path, *, overrides: Sequence[str] = (), workers: int = 1, seeds: int = 1
) -> Outcome:
    """Run an experiment up to the trained model and its gates, once for each of some seeds.

    The seeds follow the experiment's; they share its data, and each has a folder of its own. One failed gate
    of one seed is a failure.
    """
    run, console = _claimed(config, out, overrides, workers)
    say = _printer(console)
    runs = trained_seeds(run, seeds)
    for one in runs:
        if len(runs) > 1:
            say(f"seed {one.trained_seed}:")
        for line in summary_lines(run.foundation + one.gates if one is run else one.gates):
            say(line)
        say(f"checkpoint in {one.trained.checkpoint_path}, as ONNX in {one.onnx.name}")
    if len(runs) > 1:
        for line in write_seeds(runs):
            say(line)
    every = Findings([*run.foundation, *(f for one in runs for f in one.gates)])
    verdict, _ = decide(every)
    failed = every.deciding.failed
    told = f": {len(failed)} deciding checks failed" if failed else ""
    say(f"{verdict}{told}")
    return Outcome(verdict, failed=bool(failed))


def validate_run(run_folder: Path, *, checkpoint: Path | None = None, again: str = "") -> Outcome:
    """A checkpoint against every gate and core view on the run's test split; writes `validation.json`.

    Raises ProtocolChanged under another protocol than the locked one and the run's, DataError for a network
    that was trained on other pairs or splits, or for another one than before without a reason.
    """
    held, console = _held(run_folder)
    check_inputs(held.experiment)
    changes = run_protocol_changes(held.out, held.protocol)
    if changes:
        raise ProtocolChanged(str(held.out / RUN_PROTOCOL), "the run began", changes)
    own = held.out / "training" / "checkpoint.pt"
    path = own if checkpoint is None else checkpoint
    folder = held.out if checkpoint is None else held.out / "validated" / _sha256(path)[:12]
    run = Results(held.experiment, held.out, 1, console, model_folder=folder, checkpoint=path)
    run.refuse_other_data()
    openings = Openings(run.out, run.test_rows).open(run.trained.checkpoint_sha256, reason=again)
    validation, say = Validation(run), _printer(console)
    tell(validation, openings, say)
    verdict, _ = decide(validation.findings)
    failed = bool(validation.findings.deciding.failed)
    save_json(folder / "results" / VALIDATION, validation.summary(openings, verdict))
    say(f"{verdict}: {folder / 'results' / VALIDATION}")
    return Outcome(verdict, folder / "results" / VALIDATION, failed=failed)


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise DataError(str(path), "there is no such checkpoint", "dhs train makes one")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _printer(console: Console) -> Callable[[str], None]:
    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    return say


def verify_run(run_folder: Path, *, anchors: Path | None = None, contaminants: Path | None = None) -> Outcome:
    """Phase 0 of a run, all bytes and rows: findings are printed, `phase0_summary.json` is written."""
    phase0, console = phase0_of(run_folder, anchors=anchors, contaminants=contaminants)
    for section, findings in phase0.sections.items():
        console.print(f"{section}:", highlight=False, markup=False)
        for finding in findings:
            console.print(f"{finding.status:<14} {finding}", highlight=False, markup=False, soft_wrap=True)
    path = phase0.write()
    console.print(f"{phase0.verdict}: summary in {path}", highlight=False, markup=False, soft_wrap=True)
    return Outcome(phase0.verdict, path)


def phase0_of(
    run_folder: Path, *, anchors: Path | None = None, contaminants: Path | None = None
) -> tuple[Phase0, Console]:
    """Phase 0 of the run in a folder, with the catalogues that go with it, and where to print."""
    run, console = _held(run_folder)
    lenses = None if anchors is None else open_dataset(anchors).expect(ANCHORS)
    others = None if contaminants is None else open_dataset(contaminants).expect(CONTAMINANTS)
    return Phase0(run, catalogue_findings(run.protocol, anchors=lenses, contaminants=others)), console


def inject_arcs(
    stamps: Path, out: Path, config: str | Path, *, overrides: Sequence[str] = (), workers: int = 1
) -> Dataset:
    """Inject an experiment's recipe into a stamps dataset."""
    experiment = load_experiment(config, list(overrides))
    source = open_dataset(stamps).expect(STAMPS)
    if not source.num_rows:
        raise DataError(str(stamps), "holds no row", "give a dataset with galaxies in it")
    job = Inject(
        recipe=settled(experiment.recipe), seed=experiment.seed, draws_per_host=experiment.draws_per_host
    )
    made = run_local(job, source, local_writer(out, job.writes), workers=workers)
    say_what_was_made(made)
    return made


def paint_sky(out: Path, config: str | Path, *, overrides: Sequence[str] = (), workers: int = 1) -> Dataset:
    """Paint an experiment's synthetic sky; the stamps dataset is `out`/sky."""
    experiment = load_experiment(config, [*overrides, "survey.hosts=null"])
    claim(out, experiment)
    made = DataStages(experiment, out, workers).sources.get(SKY)
    if made is None:
        raise ConfigError(str(config), "survey.targets_per_brick", "is 0: there is no sky to paint")
    say_what_was_made(made)
    return made


def _claimed(
    config: str | Path, out: Path, overrides: Sequence[str], workers: int
) -> tuple[Results, Console]:
    experiment = load_experiment(config, list(overrides))
    check_inputs(experiment)
    claim(out, experiment)
    console = Console(stderr=True)
    return Results(experiment, out, workers, console), console


def _held(run_folder: Path) -> tuple[Results, Console]:
    console = Console(stderr=True)
    return Results(held_experiment(run_folder), run_folder, 1, console), console
