"""What the verbs of the command line do, as functions that take paths and return what they made."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from darkhaloscope.contracts.errors import ConfigError, DataError
from darkhaloscope.contracts.store import Dataset, local_writer, open_dataset, write_rows, write_whole
from darkhaloscope.contracts.tables import CATEGORIES, KINDS, STAMPS
from darkhaloscope.injection.draw import settled
from darkhaloscope.injection.inject import Inject
from darkhaloscope.pipeline.data import SKY, DataStages
from darkhaloscope.pipeline.experiment import check_inputs, claim, load_experiment
from darkhaloscope.pipeline.page import assemble
from darkhaloscope.pipeline.results import Results, decide, summary_lines
from darkhaloscope.report.report import Verdict, write_report
from darkhaloscope.runners.local import run_local
from darkhaloscope.stamps.harvest import AssumedPsf, harvest_cutouts
from darkhaloscope.survey.calibrate import calibrate_files

CUTOUT_SUFFIXES = (".npz", ".fits", ".fits.gz", ".fits.fz")


class Outcome(NamedTuple):
    """What a run came to, and where its page is (None where no page was asked for)."""

    verdict: Verdict
    report: Path | None = None


def run_experiment(
    config: str | Path, out: Path, *, overrides: Sequence[str] = (), workers: int = 1
) -> Outcome:
    """Run an experiment from pixels to report, continuing whatever `out` holds of it."""
    run, console = _claimed(config, out, overrides, workers)
    return _report(run, console)


def report_again(run_folder: Path) -> Outcome:
    """Write the report of a run again; stages that are missing are made."""
    run, console = _held(run_folder)
    return _report(run, console)


def _report(run: Results, console: Console) -> Outcome:
    results = assemble(run)
    page, _ = write_report(results, run.out / "report.html")
    for line in summary_lines([*results.foundation, *results.gates]):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{results.verdict}: report in {page}", highlight=False, markup=False, soft_wrap=True)
    return Outcome(results.verdict, page)


def train_experiment(
    config: str | Path, out: Path, *, overrides: Sequence[str] = (), workers: int = 1
) -> Outcome:
    """Run an experiment up to the trained model and its gates."""
    run, console = _claimed(config, out, overrides, workers)
    findings = run.foundation + run.gates
    verdict, _ = decide(findings)
    for line in summary_lines(findings):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{verdict}: checkpoint in {run.trained.checkpoint_path}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return Outcome(verdict)


def verify_run(run_folder: Path) -> Outcome:
    """Check data and protocol of a run, all bytes and rows; failures are printed with their rows."""
    run, console = _held(run_folder)
    verdict, _ = decide(run.foundation)
    for manifest in sorted(run_folder.glob("*/manifest.json")):
        open_dataset(manifest.parent).verify()
    for finding in run.foundation:
        console.print(f"{finding.status:<14} {finding}", highlight=False, markup=False, soft_wrap=True)
    console.print(str(verdict), highlight=False)
    return Outcome(verdict)


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
    _say_what_was_made(made)
    return made


def paint_sky(out: Path, config: str | Path, *, overrides: Sequence[str] = (), workers: int = 1) -> Dataset:
    """Paint an experiment's synthetic sky; the stamps dataset is `out`/sky."""
    experiment = load_experiment(config, [*overrides, "survey.hosts=null"])
    claim(out, experiment)
    made = DataStages(experiment, out, workers).sources.get(SKY)
    if made is None:
        raise ConfigError(str(config), "survey.targets_per_brick", "is 0: there is no sky to paint")
    _say_what_was_made(made)
    return made


def bring_in_cutouts(
    files: Sequence[Path],
    out: Path,
    *,
    kind: str,
    category: str | None,
    size: int,
    psf: str,
    pixel_scale: float | None,
) -> Dataset:
    """Turn cutout files (or folders of them) into a stamps dataset."""
    _refuse_labels(kind, category)
    _refuse_scale(pixel_scale)
    paths = [path for given in files for path in _cutouts_in(given)]
    rows = harvest_cutouts(
        paths, size=size, kind=kind, category=category, psf=_psf(psf), pixel_scale=pixel_scale
    )
    contents = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    job = {
        "job": "harvest_cutouts",
        "files": contents,
        "kind": kind,
        "category": category,
        "size": size,
        "psf": psf,
        "scale": pixel_scale,
    }
    made = write_rows(local_writer(out, STAMPS), rows, shard_rows=64, job=job)
    _say_what_was_made(made)
    return made


def calibrate_cutouts(files: Sequence[Path], out: Path | None, *, pixel_scale: float | None) -> str:
    """Measure cutout files (or folders of them); returns what was found in words, and writes it as YAML."""
    _refuse_scale(pixel_scale)
    found = calibrate_files([path for given in files for path in _cutouts_in(given)], pixel_scale)
    if out is not None:
        write_whole(out, found.to_yaml().encode())
    return str(found)


def _refuse_scale(pixel_scale: float | None) -> None:
    if pixel_scale is not None and not 0.0 < pixel_scale < math.inf:
        raise ConfigError("--pixel-scale", "", f"{pixel_scale:g} is no pixel scale", "arcsec, above 0")


def _cutouts_in(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    found = sorted(p for p in given.iterdir() if p.name.endswith(CUTOUT_SUFFIXES))
    if not found:
        raise DataError(str(given), "holds no cutout", f"files that end in {', '.join(CUTOUT_SUFFIXES)}")
    return found


def _refuse_labels(kind: str, category: str | None) -> None:
    if kind not in KINDS:
        raise ConfigError("--kind", "", f"'{kind}' is unknown", ", ".join(KINDS))
    if category is not None and category not in CATEGORIES:
        raise ConfigError("--category", "", f"'{category}' is unknown", ", ".join(CATEGORIES))
    if (kind == "contaminant") != (category is not None):
        problem = "goes with --kind contaminant, and must be given there"
        raise ConfigError("--category", "", problem, ", ".join(CATEGORIES))


def _psf(text: str) -> AssumedPsf | Path:
    """Three FWHMs, or the path of a PSF file."""
    if Path(text).exists():
        return Path(text)
    wrong = ConfigError("--psf", "", f"'{text}' is neither a file nor three FWHMs in g,r,z", "1.29,1.18,1.11")
    try:
        g, r, z = (float(part) for part in text.split(","))
    except ValueError as error:
        raise wrong from error
    if not all(0.0 < size < math.inf for size in (g, r, z)):
        raise wrong
    return AssumedPsf(psfsize_arcsec=(g, r, z))


def _claimed(
    config: str | Path, out: Path, overrides: Sequence[str], workers: int
) -> tuple[Results, Console]:
    experiment = load_experiment(config, list(overrides))
    check_inputs(experiment)
    claim(out, experiment)
    console = Console(stderr=True)
    return Results(experiment, out, workers, console), console


def _held(run_folder: Path) -> tuple[Results, Console]:
    config = run_folder / "config.yaml"
    if not config.exists():
        raise DataError(str(run_folder), "holds no run (no config.yaml)", "give the --out of a dhs run")
    console = Console(stderr=True)
    return Results(load_experiment(config), run_folder, 1, console), console


def _say_what_was_made(dataset: Dataset) -> None:
    rejects = ", ".join(f"{code} {count}" for code, count in dataset.manifest.rejects.items()) or "none"
    text = f"{dataset.where}: {dataset.num_rows} rows of {dataset.manifest.table}, rejected: {rejects}"
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)
