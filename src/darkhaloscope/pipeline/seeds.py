"""The same experiment with several seeds of training: one set of data, a folder for each network.

One seed says little: select AUROC scatters by .01 between networks that differ in nothing else. What is told
is each seed's value, and over seeds the mean, the standard deviation and the range.
"""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from darkhaloscope.contracts.checks import Status
from darkhaloscope.pipeline.data import save_json
from darkhaloscope.pipeline.results import Results

SEEDS = "seeds.json"


def trained_seeds(run: Results, n: int) -> list[Results]:
    """The run, and `n - 1` more with the seeds that follow its own; nothing is trained yet."""
    first = run.experiment.training.seed
    runs = [run]
    for seed in range(first + 1, first + n):
        training = run.experiment.training.model_copy(update={"seed": seed})
        experiment = run.experiment.model_copy(update={"training": training})
        folder = run.out / "seeds" / str(seed)
        runs.append(Results(experiment, run.out, run.workers, run.console, model_folder=folder))
    return runs


def write_seeds(runs: Sequence[Results]) -> list[str]:
    """Write `results/seeds.json` into the run's folder; return it in lines."""
    rows = [_row(run) for run in runs]
    names = [name for name in rows[0]["values"] if all(row["values"].get(name) is not None for row in rows)]
    across = {name: _spread([row["values"][name] for row in rows]) for name in names}
    save_json(runs[0].out / "results" / SEEDS, {"seeds": rows, "across": across})
    lines = [
        f"{name}: {s['mean']:.4f} ± {s['sd']:.4f} over {len(rows)} seeds, {s['least']:.4f} to {s['most']:.4f}"
        for name, s in across.items()
    ]
    failed = {name for row in rows for name in row["failed"]}
    return lines + [
        f"{name} failed in {sum(name in row['failed'] for row in rows)} of {len(rows)} seeds"
        for name in sorted(failed)
    ]


def _row(run: Results) -> dict[str, Any]:
    best = run.trained.history[run.trained.best_epoch]
    values = {"select_auroc": best.select_auroc, "select_core_masked_auroc": best.select_core_masked_auroc}
    values |= {f.name: f.value for f in run.gates if f.status is not Status.NOT_EVALUATED}
    return {
        "seed": run.experiment.training.seed,
        "checkpoint": run.trained.checkpoint_sha256,
        "best_epoch": run.trained.best_epoch,
        "values": values,
        "failed": [f.name for f in run.gates.deciding.failed],
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": mean(values), "sd": stdev(values), "least": min(values), "most": max(values)}
