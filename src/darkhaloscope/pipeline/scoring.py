"""`dhs score`: a trained model over a whole dataset of stamps or pairs, and what it finds most like lenses.

::

    out/
      scores                 SCORES, one row for each row of the dataset
      candidates-K           CANDIDATES, the K best; candidates-K.csv is the same for people
      histogram.json         of every score, with what lies below and above the bins
      summary.json           n, rejects by code, fingerprints, rows per second
"""

import io
import time
from pathlib import Path
from typing import Any

import pyarrow.csv
from rich.console import Console

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.store import Dataset, local_writer, write_rows, write_whole
from darkhaloscope.contracts.tables import CANDIDATES, PAIRED_STAMPS, STAMPS
from darkhaloscope.evaluation.candidates import Reduced, candidates, reduced_dataset
from darkhaloscope.evaluation.score import ONNX_SUFFIX, Score, ScoreStamps
from darkhaloscope.pipeline.addresses import dataset_at, writer_at
from darkhaloscope.pipeline.bring_in import say_what_was_made
from darkhaloscope.pipeline.data import save_json
from darkhaloscope.runners.local import run_local
from darkhaloscope.training.scorer import read_model_file

SUMMARY, HISTOGRAM = "summary.json", "histogram.json"
CANDIDATE_SHARD = 4096


def score_dataset(
    model: Path, dataset: str, out: Path, *, scores_at: str | None = None, top: int = 1000, workers: int = 1
) -> Path:
    """Score a dataset, rank it and say what was done; return the summary's path. Continues what `out` holds.

    model      a checkpoint (.pt), its export (.onnx), or the folder of a run, whose export is preferred
    dataset    address of the dataset
    scores_at  address of the scores; `out`/scores by default. What a cluster has scored there is only ranked

    Raises DataError before the first row for a model that does not fit the dataset.
    """
    source = dataset_at(dataset)
    job = scoring_job(model_of(model), source)
    job.refuse_unfit(source)
    writer = writer_at(scores_at or str(out / "scores"), job.writes)
    before, start = set(writer.committed()), time.monotonic()
    scores = run_local(job, source, writer, workers=workers)
    seconds = time.monotonic() - start
    new = sum(shard.rows for shard in scores.manifest.shards if shard.key not in before)
    found = reduced_dataset(scores, top)
    best = _write_candidates(found, scores, source, out)
    save_json(out / HISTOGRAM, {"scores": scores.fingerprint, **found.histogram})
    speed = {"rows": new, "seconds": seconds, "rows_per_second": new / seconds if new else None}
    save_json(out / SUMMARY, {**summary(job, scores, found, best), "this_call": speed})
    say_what_was_made(scores)
    _say(found, best, out, speed)
    return out / SUMMARY


def model_of(place: Path) -> Path:
    """The model's file: `place` itself, or the export or else the checkpoint of the run in that folder.

    Raises DataError where there is none, or where the export beside a checkpoint is of another one.
    """
    if not place.is_dir():
        return place
    checkpoint, exported = (place / "training" / f"checkpoint{end}" for end in (".pt", ONNX_SUFFIX))
    if not exported.exists():
        if checkpoint.exists():
            return checkpoint
        raise DataError(str(place), "holds no trained model (training/checkpoint.pt)", "dhs train makes one")
    if checkpoint.exists():
        from darkhaloscope.training.onnx_scorer import exported_from

        if exported_from(exported) != read_model_file(checkpoint)[1]:
            remedy = "run dhs train again, which exports the new one, or name the file to use"
            raise DataError(str(exported), "is not the export of the checkpoint beside it", remedy)
    return exported


def scoring_job(model: Path, source: Dataset) -> Score | ScoreStamps:
    """The job that scores this dataset with this file; DataError where it holds neither stamps nor pairs."""
    _, sha256 = read_model_file(model)
    if source.table is PAIRED_STAMPS:
        return Score(checkpoint=str(model), checkpoint_sha256=sha256)
    if source.table is STAMPS:
        return ScoreStamps(checkpoint=str(model), checkpoint_sha256=sha256)
    raise DataError(source.where, f"holds {source.table.name}: only stamps and pairs can be scored")


def summary(job: Score | ScoreStamps, scores: Dataset, found: Reduced, best: Dataset) -> dict[str, Any]:
    """What was scored with what, as data; every dataset by its fingerprint."""
    card = job.scorer.card
    return {
        "table": job.reads.name,
        "rows": scores.num_rows,
        "scored": scores.num_rows - found.histogram["columns"]["score"]["without_score"],
        "rejects": scores.manifest.rejects,
        "candidates": best.num_rows,
        "model": {
            "sha256": job.checkpoint_sha256,
            "checkpoint_sha256": job.scorer.checkpoint_sha256,
            "backbone": card.network.backbone,
            "stamp_shape": list(card.stamp_shape),
            "fingerprints": card.fingerprints,
        },
        "fingerprints": {
            "source": scores.manifest.inputs["source"],
            "scores": scores.fingerprint,
            "candidates": best.fingerprint,
        },
    }


def _write_candidates(found: Reduced, scores: Dataset, source: Dataset, out: Path) -> Dataset:
    rows = candidates(found, scores, source)
    name = f"candidates-{found.top}"
    made = write_rows(
        local_writer(out / name, CANDIDATES),
        rows,
        shard_rows=CANDIDATE_SHARD,
        job={"job": "candidates", "top": found.top},
        inputs={"scores": scores.fingerprint, "source": source.fingerprint},
    )
    text = io.BytesIO()
    pyarrow.csv.write_csv(rows, text)
    write_whole(out / f"{name}.csv", text.getvalue())
    return made


def _say(found: Reduced, best: Dataset, out: Path, speed: dict[str, Any]) -> None:
    console = Console(stderr=True)
    rate = "nothing new" if not speed["rows"] else f"{speed['rows_per_second']:.0f} rows/s"
    lines = [f"{rate}; the best {best.num_rows} of {found.rows} in {best.where}"]
    if best.num_rows:
        first = best.read_shard(best.keys[0]).slice(0, 1).to_pylist()[0]
        lines.append(f"first: {first['row_id']} score {first['score']:.6f}")
    for line in [*lines, f"summary: {out / SUMMARY}"]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
