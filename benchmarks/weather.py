"""Runs between S3 and S3 in foul weather, on both engines: afterwards no row may be lost, doubled or altered.

python -m benchmarks.weather [--json] [--runs 20] [--rate 0.05] [--engines local,spark]

AWS is moto's server on loopback. A proxy before it resets connections, loses answers whose requests had
their effect, delays, breaks off and alters bodies, answers conditional puts with conflicts, each at the
rate, and asks to slow down at a fifth of it. Which request is hit depends on (seed of the run, request, how
often it came). A run that stops is started again, as a person would. Then its manifest and every byte are
compared with those of a run on this machine's disk.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.aws.proxy import Cloud

from benchmarks.faults import MOST_STARTS, QUIET, damage, work
from darkhaloscope.contracts.errors import DarkhaloscopeError
from darkhaloscope.contracts.job import Job
from darkhaloscope.contracts.store import Dataset, local_writer, write_rows
from darkhaloscope.pipeline.addresses import dataset_at, writer_at
from darkhaloscope.runners.local import run_local

FAULTS = ("reset", "lost", "slow", "truncated", "altered", "conflict")
PAIRS = "s3://darkhaloscope/faults/pairs"


def keys(cloud: Cloud, folder: Path) -> None:
    """Credentials that only loopback honours, for this process and those it starts."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name == "S3_BUCKET"]:
        del os.environ[name]
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "ASIATESTTESTTESTTEST",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": "first",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(folder / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
        "AWS_ENDPOINT_URL": cloud.url,
        "XDG_STATE_HOME": str(folder / "state"),
    }


def once(engine: str, job: Job, source: Dataset, out: str, session: Any) -> None:
    """Start a run once; whatever stops it passes through."""
    writer = writer_at(out, job.writes)
    if engine == "local":
        run_local(job, source, writer, workers=2, console=QUIET)
        return
    from darkhaloscope.runners.spark import run_spark  # noqa: PLC0415 - not for runs without Spark

    run_spark(job, source, writer, session=session, console=QUIET)


def ended(engine: str, job: Job, out: str, session: Any) -> int:
    """Start a run until it ends; how many starts it took."""
    last = ""
    for starts in range(1, MOST_STARTS + 1):
        try:
            once(engine, job, dataset_at(PAIRS), out, session)
        except DarkhaloscopeError as error:
            last = str(error)
            continue
        return starts
    message = f"{out} did not end in {MOST_STARTS} starts: {last}"
    raise AssertionError(message)


def measure(runs: int, rate: float, engines: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run by run: what went wrong on the way, and what is damaged."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    cloud = Cloud()
    keys(cloud, folder)
    cloud.fresh()
    pairs, job = work(folder, "splits")
    shard_rows = pairs.manifest.shards[0].rows
    write_rows(writer_at(PAIRS, pairs.table), pairs.read(), shard_rows=shard_rows, job=pairs.manifest.job)
    clean = run_local(job, pairs, local_writer(folder / "clean", job.writes), console=QUIET)
    begun, by_engine = time.perf_counter(), {}
    for engine in engines:
        session = None
        if engine == "spark":
            from darkhaloscope.runners.spark import spark_session  # noqa: PLC0415

            session = spark_session(2)
        hurt, starts, did = 0, 0, 0
        for number in range(runs):
            out = f"s3://darkhaloscope/faults/{engine}-{number}"
            before = sum(cloud.weather.did.values())
            cloud.weather.seed = number
            cloud.weather.rate = dict.fromkeys(FAULTS, rate) | {"slowdown": rate / 5}
            starts += ended(engine, job, out, session)
            cloud.weather.rate = {}
            did += sum(cloud.weather.did.values()) - before
            hurt += any(damage(clean, dataset_at(out)).values())
        by_engine[engine] = {"runs": runs, "starts": starts, "faults": did, "damaged": hurt}
        print(f"{engine}: {by_engine[engine]}", file=sys.stderr)
    cloud.close()
    return {
        "rate": rate,
        "rows_each": clean.num_rows,
        "by_engine": by_engine,
        "runs": sum(found["runs"] for found in by_engine.values()),
        "damaged_runs": sum(found["damaged"] for found in by_engine.values()),
        "seconds": time.perf_counter() - begun,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Runs between S3 and S3 in foul weather.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--engines", default="local,spark")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.runs, options.rate, options.engines.split(","), Path(folder))
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:<14} {value}")


if __name__ == "__main__":
    main()
