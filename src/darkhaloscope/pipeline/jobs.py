"""A job as a file: what to do, to which dataset, where to. The same file runs here or on a cluster.

``dhs job JOB.json --on local:2`` and ``dhs job JOB.json --on spark`` write the same dataset. A cluster
rebuilds the job from its JSON through one literal union: no registry, no import by name.
"""

import json
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field
from rich.console import Console

from darkhaloscope.contracts.checks import Findings
from darkhaloscope.contracts.config import Frozen, find_config, parse
from darkhaloscope.contracts.errors import CheckFailed, ConfigError, StoreError
from darkhaloscope.contracts.store import Dataset, write_rows
from darkhaloscope.contracts.tables import FINDINGS
from darkhaloscope.dataset.pair_checks import VerifyPairs, pair_findings
from darkhaloscope.dataset.split_checks import check_splits, judge_splits
from darkhaloscope.dataset.splits import AssignSplits, AssignTargetSplits, Fractions
from darkhaloscope.evaluation.score import Score, ScoreStamps
from darkhaloscope.injection.draw import settled
from darkhaloscope.injection.hard_negatives import InjectHardNegatives
from darkhaloscope.injection.inject import Inject, MakeAnchors
from darkhaloscope.injection.recipe import Recipe
from darkhaloscope.pipeline.addresses import dataset_at, text_at, writer_at
from darkhaloscope.pipeline.bring_in import say_what_was_made
from darkhaloscope.pipeline.data import declared_shift_pix
from darkhaloscope.runners.local import run_local
from darkhaloscope.runners.shards import DEFAULT_BATCH_ROWS
from darkhaloscope.stamps.coadds import HarvestAnswers, HarvestBricks
from darkhaloscope.stamps.harvest import HarvestSky


class VerifySplits(Frozen):
    """Check splits over all rows of several datasets at once: SPLITS to FINDINGS.

    Not a job over shards: what two splits share shows only in all of them together. In memory on one
    machine, by Spark's own tables on a cluster; the findings are the same.

    more        further datasets of splits beside the source (one for each source of rows)
    data        the datasets that were split: each of their rows must be there
    audits      what `verify_pairs` wrote of the pairs, to look for one image under two names
    fractions   the declared shares
    """

    job: Literal["verify_splits"] = "verify_splits"
    more: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    audits: tuple[str, ...] = ()
    fractions: Fractions = Fractions()


AnyJob = Annotated[
    HarvestSky
    | HarvestBricks
    | HarvestAnswers
    | Inject
    | InjectHardNegatives
    | MakeAnchors
    | AssignSplits
    | AssignTargetSplits
    | VerifyPairs
    | VerifySplits
    | Score
    | ScoreStamps,
    Field(discriminator="job"),
]
"""Everything that can stand in a JOB.json, by its `job`."""


class JobFile(Frozen):
    """One job with its addresses.

    source               dataset that is read
    out                  dataset that is written; one that was begun by the same job is continued
    batch_rows           rows that are worked on at a time; changes no result
    source_fingerprint   refuse any other source than this
    """

    job: AnyJob
    source: str
    out: str
    batch_rows: int = Field(default=DEFAULT_BATCH_ROWS, ge=1)
    source_fingerprint: str | None = None


class Engine(NamedTuple):
    """Where a job runs, and on how many cores; None: what there is."""

    name: Literal["local", "spark"]
    workers: int | None = None


def read_job(address: str) -> JobFile:
    """Read a JOB.json, or one that comes with the package by its name. ConfigError naming a wrong key."""
    if "://" not in address:
        address = str(find_config(address))
    try:
        content = json.loads(text_at(address))
    except json.JSONDecodeError as error:
        raise ConfigError(address, "", f"is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(address, "", "must hold a mapping of keys to values")
    return parse(content, JobFile, address)


def find_engine(text: str, workers: int | None = None) -> Engine:
    """The engine that ``local:4`` or ``spark`` means; `workers` counts where the text gives no number."""
    name, mark, number = text.partition(":")
    if name not in ("local", "spark") or (mark and not (number.isdecimal() and int(number))):
        raise ConfigError(
            "--on", text, "is no engine", "local, local:N, spark (what spark-submit gives), spark:N"
        )
    return Engine("local" if name == "local" else "spark", int(number) if mark else workers)


def run_job(file: JobFile, engine: Engine, console: Console | None = None) -> tuple[Dataset, Findings]:
    """Run a job file on an engine: the committed dataset, and the findings of a job that verifies.

    Raises StoreError where the source is not the one that the file names.
    """
    source = dataset_at(file.source)
    if file.source_fingerprint not in (None, source.fingerprint):
        problem = f"has the fingerprint {source.fingerprint}, not {file.source_fingerprint}"
        raise StoreError(file.source, problem, "make the job file anew for this source, or give it its own")
    job = file.job
    if isinstance(job, VerifySplits):
        return _verify_splits(job, file, source, engine)
    if isinstance(job, (Inject, MakeAnchors)):
        job = job.model_copy(update={"recipe": settled(job.recipe)})
    writer = writer_at(file.out, job.writes)
    if engine.name == "local":
        made = run_local(
            job, source, writer, workers=engine.workers or 1, batch_rows=file.batch_rows, console=console
        )
    else:
        from darkhaloscope.runners.spark import run_spark, spark_session

        session = spark_session(engine.workers)
        made = run_spark(job, source, writer, batch_rows=file.batch_rows, session=session, console=console)
    return made, _audited(job, source, made) if isinstance(job, VerifyPairs) else Findings()


def job_verb(address: str, on: str, workers: int | None = None) -> None:
    """Run the job of a file and say what came of it. CheckFailed where a deciding check failed."""
    made, findings = run_job(read_job(address), find_engine(on, workers), Console(stderr=True))
    say_what_was_made(made)
    console = Console()
    for finding in findings:
        console.print(f"{finding.status:<14} {finding}", highlight=False, markup=False, soft_wrap=True)
    findings.raise_if_failed(CheckFailed)


def _audited(job: VerifyPairs, pairs: Dataset, audit: Dataset) -> Findings:
    """The findings of an audit; shifts that the pairs' own recipe declares are no fault."""
    made_by = pairs.manifest.job.get("recipe")
    shifted = declared_shift_pix(parse(made_by, Recipe, pairs.where)) if made_by else 0.0
    return pair_findings([audit.read()], sham=job.sham, registration_pix=shifted)


def _verify_splits(
    job: VerifySplits, file: JobFile, source: Dataset, engine: Engine
) -> tuple[Dataset, Findings]:
    """Findings over all rows, written as a dataset that names all that was read."""
    splits = [source, *(dataset_at(address) for address in job.more)]
    data, audits = ([dataset_at(address) for address in part] for part in (job.data, job.audits))
    if engine.name == "local":
        tables = [audit.read(["row_id", "signature_a", "signature_b"]) for audit in audits]
        findings = check_splits(splits, data=data, audits=tables, fractions=job.fractions)
    else:
        from darkhaloscope.pipeline.split_counts import counts_by_spark
        from darkhaloscope.runners.catalogue import Catalogue
        from darkhaloscope.runners.spark import spark_session

        catalogue = Catalogue(spark_session(engine.workers))
        findings = judge_splits(counts_by_spark(catalogue, splits, data=data, audits=audits), job.fractions)
    named = {"splits": splits, "data": data, "audits": audits}
    inputs = {
        f"{role}-{k}": dataset.fingerprint for role, part in named.items() for k, dataset in enumerate(part)
    }
    described = {"job": job.job, "fractions": job.fractions.model_dump(mode="json")}
    rows = FINDINGS.conform(
        [_row(finding.model_dump(mode="json"), str(finding.bound)) for finding in findings]
    )
    made = write_rows(
        writer_at(file.out, FINDINGS), rows, shard_rows=max(len(findings), 1), job=described, inputs=inputs
    )
    return made, findings


def _row(finding: dict[str, Any], bound: str) -> dict[str, Any]:
    kept = {name: finding[name] for name in ("name", "status", "value", "n", "decides")}
    words = {"detail": finding["detail"] or None, "examples": ", ".join(finding["examples"]) or None}
    return kept | words | {"bound": bound}
