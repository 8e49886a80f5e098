"""Peak memory of scoring and ranking alone: python -m benchmarks.score_alone MODEL DATASET OUT prints MiB."""

import sys
from pathlib import Path

from rich.console import Console

from benchmarks.bootstrap import peak_rss_mb
from darkhaloscope.contracts.store import local_writer, open_dataset
from darkhaloscope.evaluation.candidates import reduced_dataset
from darkhaloscope.pipeline.scoring import scoring_job
from darkhaloscope.runners.local import run_local


def main() -> None:
    """Score a dataset with an exported network, rank it, and say how much memory the process ever held."""
    model, dataset, out = sys.argv[1:]
    source = open_dataset(dataset)
    job = scoring_job(Path(model), source)
    made = run_local(job, source, local_writer(out, job.writes), console=Console(quiet=True))
    if reduced_dataset(made, 100).rows != source.num_rows or "torch" in sys.modules:
        sys.exit("rows are missing, or PyTorch was loaded")
    print(peak_rss_mb())


if __name__ == "__main__":
    main()
