"""Spark against the process pool: the same job, the same input, two cores each, and the same tables.

python -m benchmarks.spark [--json] [--pairs N] [--scored N] [--rounds N]

Injection of N pairs, then scoring of some of them by the protocol's ResNet-18 (untrained: its arithmetic is
the same). Engines take turns, and who begins changes from round to round. The ratio is the pool's time over
Spark's: 1 is as fast. Starting the JVM is stated apart; loading Python's libraries in the workers is in both.
CPU seconds are those of all processes of an engine: what it takes of a machine that others use too.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from darkhaloscope.contracts.job import Job
from darkhaloscope.contracts.store import Dataset, local_writer, write_rows
from darkhaloscope.contracts.tables import BRICKS, PAIRED_STAMPS
from darkhaloscope.evaluation.score import Score
from darkhaloscope.injection.inject import Inject
from darkhaloscope.injection.recipe import Recipe
from darkhaloscope.runners.local import run_local
from darkhaloscope.stamps.harvest import HarvestSky
from darkhaloscope.stamps.preprocess import Preprocess
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.sky import plan_bricks
from darkhaloscope.training.config import NetworkConfig
from darkhaloscope.training.model import Card, LensClassifier, save_checkpoint

SEED = 11
WORKERS = 2
HOSTS_PER_SHARD, DRAWS = 16, 8
SCORED_PER_SHARD = 16
QUIET = Console(quiet=True)
Run = Callable[[Job, Dataset, Path], Dataset]


def on_pool(job: Job, source: Dataset, out: Path) -> Dataset:
    return run_local(job, source, local_writer(out, job.writes), workers=WORKERS, console=QUIET)


def on_spark(session: Any) -> Run:
    from darkhaloscope.runners.spark import run_spark  # noqa: PLC0415 - the pool is timed without it

    def run(job: Job, source: Dataset, out: Path) -> Dataset:
        return run_spark(job, source, local_writer(out, job.writes), session=session, console=QUIET)

    return run


def stamps(folder: Path, hosts: int) -> Dataset:
    """A synthetic sky, a few galaxies a shard."""
    shards = -(-hosts // HOSTS_PER_SHARD)
    rows = plan_bricks(SEED, shards, HOSTS_PER_SHARD, priors=SkyPriors(), anchors=0)
    made_of = write_rows(
        local_writer(folder / "bricks", BRICKS), rows, shard_rows=1, job={"job": "plan_bricks"}
    )
    return on_pool(HarvestSky(seed=SEED), made_of, folder / "stamps")


def scoring(folder: Path) -> Score:
    """The brief's network, with random weights."""
    network = NetworkConfig()
    card = Card(
        network=network,
        preprocess=Preprocess(kind="asinh"),
        stamp_shape=(3, 64, 64),
        training={},
        sampling={},
        fingerprints={},
        history=(),
        best_epoch=0,
    )
    path = folder / "checkpoint.pt"
    sha = save_checkpoint(path, LensClassifier.seeded(network, bands=3, seed=1).state_dict(), card)
    return Score(checkpoint=str(path), checkpoint_sha256=sha)


def cpu_seconds() -> dict[int, float]:
    """Of this process (with its children that have ended) and of every descendant that lives, by id."""
    ticks, of = os.sysconf("SC_CLK_TCK"), {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            of[int(entry.name)] = (int(words[1]), sum(map(int, words[11:15])) / ticks)
    mine = {os.getpid()}
    while more := {pid for pid, (parent, _) in of.items() if parent in mine} - mine:
        mine |= more
    return {pid: of[pid][1] for pid in mine}


def few_of(pairs: Dataset, n: int, out: Path) -> Dataset:
    """The first pairs, in small shards."""
    keys = pairs.keys[: 1 + n * len(pairs.keys) // max(pairs.num_rows, 1) * 2]
    rows = pa.concat_tables([pairs.read_shard(key) for key in keys]).slice(0, n)
    writer = local_writer(out, PAIRED_STAMPS)
    return write_rows(writer, rows, shard_rows=SCORED_PER_SHARD, job={"job": "few"})


def timed(run: Run, job: Job, source: Dataset, out: Path) -> tuple[float, float, Dataset]:
    """Seconds, CPU seconds, and what was made."""
    start, cpu = time.perf_counter(), cpu_seconds()
    made = run(job, source, out)
    took, now = time.perf_counter() - start, cpu_seconds()
    return took, sum(max(used - cpu.get(pid, 0.0), 0.0) for pid, used in now.items()), made


def measure(pairs: int, scored: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Times of both engines; AssertionError where their tables differ."""
    from darkhaloscope.runners.spark import spark_session  # noqa: PLC0415 - as above

    source = stamps(folder, -(-pairs // DRAWS))
    inject = Inject(recipe=Recipe(), seed=SEED, draws_per_host=DRAWS)
    start = time.perf_counter()
    session = spark_session(WORKERS)
    jvm = time.perf_counter() - start
    engines: dict[str, Run] = {"local": on_pool, "spark": on_spark(session)}
    result: dict[str, Any] = {"pairs": 0, "scored": 0, "rounds": rounds, "jvm_start_s": jvm}
    seconds: dict[tuple[str, str], float] = {}
    cpu: dict[tuple[str, str], float] = {}
    work: dict[str, tuple[Job, Dataset]] = {"injection": (inject, source)}
    for stage in ("injection", "scoring"):
        job, given = work[stage]
        for turn in range(rounds):
            marks = set()
            for name in list(engines)[:: 1 if turn % 2 == 0 else -1]:
                out = folder / f"{stage}-{name}-{turn}"
                took, used, made = timed(engines[name], job, given, out)
                seconds[stage, name] = seconds.get((stage, name), 0.0) + took
                cpu[stage, name] = cpu.get((stage, name), 0.0) + used
                marks.add(made.fingerprint)
                if "scoring" not in work:
                    result["pairs"] = made.num_rows
                    work["scoring"] = (scoring(folder), few_of(made, scored, folder / "few"))
                    result["scored"] = work["scoring"][1].num_rows
                shutil.rmtree(out)  # many gigabytes
            if len(marks) > 1:
                message = f"{stage}: the engines' tables differ: {marks}"
                raise AssertionError(message)
    session.stop()
    stages = ("injection", "scoring")
    total = {name: sum(seconds[stage, name] for stage in stages) for name in engines}
    result |= {f"{stage}_{name}_s": seconds[stage, name] for stage in stages for name in engines}
    result |= {f"{stage}_{name}_cpu_s": cpu[stage, name] for stage in stages for name in engines}
    result |= {f"ratio_{stage}": seconds[stage, "local"] / seconds[stage, "spark"] for stage in stages}
    result["ratio_vs_local"] = total["local"] / total["spark"]
    result["ratio_vs_local_with_jvm_start"] = total["local"] / (total["spark"] + jvm)
    result["cpu_ratio_vs_local"] = sum(cpu[s, "local"] for s in stages) / sum(cpu[s, "spark"] for s in stages)
    result["tables_identical"] = True  # else it had stopped
    result["load_average"] = os.getloadavg()[1]
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Spark against the process pool on two cores.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pairs", type=int, default=48_000)
    parser.add_argument("--scored", type=int)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    scored = options.scored or max(options.pairs // 40, SCORED_PER_SHARD)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options.pairs, scored, options.rounds, Path(folder))
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<30} {value:,.3f}")


if __name__ == "__main__":
    main()
