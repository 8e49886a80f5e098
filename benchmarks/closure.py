"""Closure through a real finder: a known population of lenses comes back from what the finder finds of it.

    python -W ignore -m benchmarks.closure RUN --out FOLDER [--repeats 3] [--bricks 600] [--workers 2]

RUN is the folder of a finished run. Each repeat paints a sky, puts lenses of nature's population into its
galaxies (velocity dispersions and volumes, sources by their counts), lets the run's network find them at its
own threshold, and infers from those found how many there are by Einstein radius. The completeness that they
are divided by is that of injections of the run's recipe, drawn uniformly in theta_E and weighted to the
population, in a second sky: so that no two pulls share an error. The truth is counted.
"""

import argparse
import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from darkhaloscope.contracts.config import fingerprint
from darkhaloscope.contracts.store import Dataset, local_writer, write_rows
from darkhaloscope.contracts.tables import BRICKS
from darkhaloscope.evaluation.populations import infer_numbers
from darkhaloscope.evaluation.recovery import TRUTH_COLUMNS, Recovery
from darkhaloscope.evaluation.score import Score
from darkhaloscope.injection.inject import Inject
from darkhaloscope.pipeline.experiment import load_experiment
from darkhaloscope.pipeline.results import Results
from darkhaloscope.runners.local import run_local
from darkhaloscope.stamps.harvest import HarvestSky
from darkhaloscope.survey.sky import plan_bricks

EDGES = np.array([0.5, 1.0, 1.5, 2.0, 2.5])
FIRST_SEED, APART = 9000, 500


def injected(run: Results, seed: int, prior: str, *, bricks: int, out: Path) -> tuple[Dataset, pa.Table]:
    """Lenses in a sky of their own, and the scores of the run's network."""
    survey = run.experiment.survey
    rows = plan_bricks(seed, bricks, survey.targets_per_brick, priors=survey.priors, anchors=0)
    job = {"job": "plan_bricks", "seed": seed, "rows": rows.num_rows}
    plan = write_rows(local_writer(out / "bricks", BRICKS), rows, shard_rows=survey.bricks_per_shard, job=job)
    harvest = HarvestSky(seed=seed, priors=survey.priors, size=survey.size)
    sky = run_local(harvest, plan, local_writer(out / "sky", harvest.writes))
    recipe = run.recipe.model_copy(update={"theta_e_prior": prior})
    inject = Inject(recipe=recipe, seed=seed, draws_per_host=1)
    lenses = run_local(inject, sky, local_writer(out / "lenses", inject.writes))
    job = Score(checkpoint=str(run.trained.checkpoint_path), checkpoint_sha256=run.trained.checkpoint_sha256)
    return lenses, run_local(job, lenses, local_writer(out / "scores", job.writes)).read()


def repeat(run: Results, seed: int, bricks: int, out: Path) -> dict[str, Any]:
    """Numbers inferred and counted in one sky."""
    threshold = run.threshold
    if threshold is None:
        raise SystemExit("the run has no negatives that set a threshold")
    lenses, scores = injected(run, seed, "population", bricks=bricks, out=out / "sky")
    asked, answers = injected(run, seed + APART, "uniform", bricks=bricks, out=out / "calibration")
    recovery = Recovery.of(answers, asked.read(TRUTH_COLUMNS), threshold.threshold)
    scored = scores.filter(pc.is_valid(scores.column("score")))
    theta, score = (np.asarray(scored.column(c).cast(pa.float64())) for c in ("theta_e_arcsec", "score"))
    found = infer_numbers(
        theta[score > threshold.threshold], recovery, recovery.weight, name="theta_e_arcsec", edges=EDGES
    )
    true, _ = np.histogram(theta, EDGES)
    return {
        "seed": seed,
        "lenses": int(true.sum()),
        "manifest": lenses.fingerprint,
        "true": true.tolist(),
        "found": found.found.tolist(),
        "completeness": found.completeness.tolist(),
        "inferred": found.value.tolist(),
        "sigma": found.sigma_here.tolist(),
        "pull": ((found.value - true) / found.sigma_here).tolist(),
    }


def row(folder: Path, out: Path, bricks: int, k: int) -> dict[str, Any]:
    """One repeat, made or read."""
    run = Results(load_experiment(folder / "config.yaml"), folder)
    path = out / f"{k}.json"
    made_from = fingerprint([run.trained.checkpoint_sha256, run.test_rows, bricks, FIRST_SEED + k, APART])
    held = json.loads(path.read_text()) if path.exists() else {}
    if held.get("made_from") != made_from:
        held = {"made_from": made_from} | repeat(run, FIRST_SEED + k, bricks, out / str(k))
        path.write_text(json.dumps(held, indent=1))
        shutil.rmtree(out / str(k))  # three gigabytes of pixels
    return dict(held)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bricks", type=int, default=600)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    one = partial(row, given.run, given.out, given.bricks)
    with ProcessPoolExecutor(given.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        rows = list(pool.map(one, range(given.repeats)))
    pulls = np.array([found["pull"] for found in rows])
    told = {
        "repeats": rows,
        "pull_mean": float(pulls.mean()),
        "pull_sd": float(pulls.std(ddof=1)),
        "n": pulls.size,
    }
    if given.json:
        print(json.dumps(told))
        return
    for found in rows:
        print(f"seed {found['seed']}, {found['lenses']} lenses of theta_E 0.5 to 2.5 arcsec")
        for k, (low, high) in enumerate(pairwise(EDGES)):
            print(
                f"  [{low:g}, {high:g})  true {found['true'][k]}, found {found['found'][k]}, inferred "
                f"{found['inferred'][k]:.0f} +- {found['sigma'][k]:.0f}, pull {found['pull'][k]:+.2f}"
            )
    print(f"pulls: mean {told['pull_mean']:+.2f}, sd {told['pull_sd']:.2f}, n={told['n']}")


if __name__ == "__main__":
    main()
