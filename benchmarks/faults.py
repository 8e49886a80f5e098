"""Runs with injected faults, on both engines: afterwards no row may be lost, doubled or altered.

python -m benchmarks.faults [--json] [--runs 100] [--seed 1] [--faults NAME,…] [--work injection|splits]

A run injects arcs into a small sky (--work splits: splits rows without pixels) while something breaks: a
worker is killed in the middle of a shard, a shard is written but not committed, a store refuses before or
after it did what was asked, an answer is slow and its speculative twin is faster, an executor is lost, the
driver is killed. What breaks and where is drawn from (seed, run). A run whose driver stops is started again
in the same folder, as a person would. Then every byte is compared with a run in which nothing broke.

The control is a writer that records a shard as done before its data lie there, and believes its records:
the same comparison must find what it loses.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from benchmarks.faulty_files import Fault, FaultyFiles
from darkhaloscope.contracts.errors import DarkhaloscopeError, StoreError
from darkhaloscope.contracts.job import Job
from darkhaloscope.contracts.random import stream
from darkhaloscope.contracts.store import (
    COMMITS,
    MANIFEST,
    SHARDS,
    Commit,
    Dataset,
    LocalFiles,
    Writer,
    local_writer,
    open_dataset,
    write_rows,
)
from darkhaloscope.contracts.tables import BRICKS, PAIRED_STAMPS
from darkhaloscope.dataset.splits import AssignSplits, SplitConfig, group_counts, plan_splits
from darkhaloscope.runners.local import run_local

QUIET = Console(quiet=True)
MOST_STARTS = 6
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class EagerWriter(Writer):
    """The control: records come before data, and are believed."""

    def commit(self, key: str, rows: pa.Table) -> Commit:
        with tempfile.TemporaryDirectory() as folder:
            record = replace(self, files=LocalFiles(folder)).as_writer().commit(key, rows)
            data = LocalFiles(folder).read(record.file)
        self.files.create(f"{COMMITS}/{key}.json", record.model_dump_json().encode())
        self.files.write(record.file, data)
        return record

    def committed(self) -> dict[str, Commit]:
        names = self.files.names(COMMITS)
        records = (Commit.model_validate_json(self.files.read(f"{COMMITS}/{name}")) for name in names)
        return {record.key: record for record in records}

    def as_writer(self) -> Writer:
        return Writer(self.files, self.where, self.table)


# --- what is lost, doubled or altered --------------------------------------------------------------------


def damage(clean: Dataset, found: Dataset) -> dict[str, int]:
    """Rows of a finished dataset that are not as in the clean one; and whether its manifest differs."""
    key = clean.table.key
    before, after = _rows(clean), _rows(found)
    had, has = (Counter(rows.column(key).to_pylist()) for rows in (before, after))
    both = [name for name in had if has[name] == 1]
    return {
        "lost": sum(has[name] == 0 for name in had),
        "doubled": sum(count > 1 for count in has.values()),
        "foreign": sum(name not in had for name in has),
        "altered": _altered(before, after, key, both),
        "manifest": int(found.fingerprint != clean.fingerprint),
    }


def _rows(dataset: Dataset) -> pa.Table:
    """Rows that can be read; a shard whose bytes are not those of its record has none."""
    pieces = [dataset.table.schema.empty_table()]
    for shard in dataset.manifest.shards:
        alone = Dataset(dataset.files, dataset.where)
        alone.manifest = dataset.manifest.model_copy(update={"shards": (shard,)})
        try:
            alone.verify()
            pieces.append(alone.read_shard(shard.key))
        except StoreError:
            continue
    return pa.concat_tables(pieces)


def _altered(before: pa.Table, after: pa.Table, key: str, names: Sequence[str]) -> int:
    at, now = ({name: k for k, name in enumerate(rows.column(key).to_pylist())} for rows in (before, after))
    mine, theirs = (
        rows.take([place[name] for name in names]).to_pylist() for rows, place in ((before, at), (after, now))
    )
    return sum(a != b for a, b in zip(mine, theirs, strict=True))


# --- runs ------------------------------------------------------------------------------------------------

FAULTS = (
    "local_worker_killed",
    "local_written_not_committed",
    "local_store_refuses",
    "local_driver_killed",
    "spark_worker_killed",
    "spark_written_not_committed",
    "spark_store_refuses",
    "spark_driver_killed",
    "spark_speculation",
    "spark_executor_lost",
)


@dataclass(frozen=True)
class Run:
    """One run: what breaks, where, and what is used."""

    number: int
    fault: str
    faults: tuple[Fault, ...]
    kill_driver_at: int | None = None
    eager: bool = False

    @property
    def engine(self) -> str:
        return self.fault.partition("_")[0]


def plan(number: int, fault: str, keys: Sequence[str], seed: int) -> Run:
    """A run of one kind; where it breaks depends on (seed, number) alone."""
    rng = stream(seed, f"faults/{fault}", str(number))
    key = str(rng.choice(keys[1:]))  # one shard is committed before anything breaks, or may be
    slow = Fault("write", SHARDS, "before", "pause", times=1000, seconds=0.05)
    shard, commit = f"{SHARDS}/{key}", f"{COMMITS}/{key}"
    _, _, what = fault.partition("_")
    if what == "worker_killed":
        where = rng.choice(["open", "write"])
        broken = Fault(str(where), shard, "before", "kill")  # type: ignore[arg-type]
        return Run(number, fault, (slow, broken))
    if what == "written_not_committed":
        at, when = [("write", "after"), ("create", "before"), ("create", "after")][rng.integers(3)]
        broken = Fault(at, shard if at == "write" else commit, when, "kill")  # type: ignore[arg-type]
        return Run(number, fault, (slow, broken))
    if what == "store_refuses":
        when = "before" if rng.random() < 0.5 else "after"
        at, path = [("open", shard), ("write", shard), ("create", commit)][rng.integers(3)]
        return Run(number, fault, (slow, Fault(at, path, when, "raise", times=int(rng.integers(1, 4)))))  # type: ignore[arg-type]
    if what == "driver_killed" and rng.random() < 0.3:
        when = "before" if rng.random() < 0.5 else "after"
        return Run(number, fault, (Fault("write", MANIFEST, when, "kill"),))
    if what == "driver_killed":
        return Run(number, fault, (replace(slow, seconds=0.2),), int(rng.integers(1, len(keys))))
    alone = {"speculation": Fault("write", shard, "before", "pause", seconds=15.0)}
    return Run(number, fault, (slow, alone.get(what, Fault("write", shard, "before", "kill-executor"))))


def start(run: Run, job: Job, source: Dataset, folder: Path, session: Any = None) -> None:
    """Start a run in its folder, once; whatever stops it passes through."""
    files = FaultyFiles(LocalFiles(str(folder / "out")), run.faults, str(folder / "marks"))
    reading = Dataset(source.files, source.where)
    reading.files = replace(files, inner=source.files)  # type: ignore[arg-type]
    make = EagerWriter if run.eager else Writer
    writer = make(files, str(folder / "out"), job.writes)
    if run.kill_driver_at is not None:
        threading.Thread(target=_kill_at, args=(run.kill_driver_at, files.inner), daemon=True).start()
    if run.engine == "local":
        run_local(job, reading, writer, workers=2, console=QUIET)
    else:
        from darkhaloscope.runners.spark import run_spark  # noqa: PLC0415 - not for runs without Spark

        run_spark(job, reading, writer, session=session, console=QUIET)


def _kill_at(commits: int, files: LocalFiles) -> None:
    """Kill this process once so many shards are committed, unless it was started after that."""
    before = len(files.names(COMMITS))
    while before < commits:
        if len(files.names(COMMITS)) >= commits:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.002)


def ended(run: Run, job: Job, source: Dataset, folder: Path, session: Any = None) -> int:
    """Start a run again in its folder until it ends, as a person would; how many starts it took."""
    last = ""
    for starts in range(1, MOST_STARTS + 1):
        try:
            start(run, job, source, folder, session)
        except (DarkhaloscopeError, OSError) as error:
            last = str(error)
            continue
        return starts
    message = f"run {run.number} ({run.fault}) did not end in {MOST_STARTS} starts: {last}"
    raise AssertionError(message)


WORK = ("injection", "splits")


def work(folder: Path, what: str) -> tuple[Dataset, Job]:
    """What the runs do, made once: arcs into a small sky, or splits of rows without pixels."""
    if what == "injection":
        return _sky(folder)
    rows = PAIRED_STAMPS.mock(60, seed=4)
    pairs = write_rows(local_writer(folder / "pairs", PAIRED_STAMPS), rows, shard_rows=6, job={"job": "mock"})
    return pairs, AssignSplits(plan=plan_splits([group_counts(pairs.read(["group"]))], SplitConfig()))


def _sky(folder: Path) -> tuple[Dataset, Job]:
    # Imported by those that need them: a worker that was killed is soon back.
    from darkhaloscope.injection.inject import Inject  # noqa: PLC0415
    from darkhaloscope.injection.recipe import Recipe  # noqa: PLC0415
    from darkhaloscope.stamps.harvest import HarvestSky  # noqa: PLC0415
    from darkhaloscope.survey.priors import SkyPriors  # noqa: PLC0415
    from darkhaloscope.survey.sky import plan_bricks  # noqa: PLC0415

    rows = plan_bricks(5, 10, 2, priors=SkyPriors(), anchors=0)
    made_of = write_rows(
        local_writer(folder / "bricks", BRICKS), rows, shard_rows=1, job={"job": "plan_bricks"}
    )
    harvest = HarvestSky(seed=5)
    made = run_local(harvest, made_of, local_writer(folder / "sky", harvest.writes), console=QUIET)
    return made, Inject(recipe=Recipe(), seed=5)


# --- drivers that are processes of their own -------------------------------------------------------------

CLUSTER = {
    "spark.master": "local-cluster[2,1,1024]",
    "spark.executor.memory": "512m",
    "spark.speculation": "true",
    "spark.speculation.interval": "200ms",
    "spark.speculation.minTaskRuntime": "500ms",
    "spark.speculation.quantile": "0.5",
}
"""Twins of slow tasks, and executors that can be lost, need processes of their own; local mode has none."""

_OWN_PROCESS = ("local_driver_killed", "spark_driver_killed", "spark_speculation", "spark_executor_lost")


def driven(folder: Path, what: str, fault: str, numbers: Sequence[int], seed: int) -> int:
    """Have a process of its own do some runs, and another one while it is killed; how many it took."""
    command = [sys.executable, "-m", "benchmarks.faults", "--drive", str(folder), what, fault, str(seed)]
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    for starts in range(1, MOST_STARTS + 1):
        with (folder / "driver.log").open("ab") as log:
            done = subprocess.run(
                [*command, *map(str, numbers)],
                check=False,
                env=os.environ | {"PYTHONPATH": path},
                stderr=log,
                stdout=log,
            )
        if done.returncode == 0:
            return starts
    message = f"{fault} {numbers} did not end in {MOST_STARTS} starts: see {folder / 'driver.log'}"
    raise AssertionError(message)


def drive(folder: Path, what: str, fault: str, seed: int, numbers: Sequence[int]) -> None:
    """What that process does."""
    source, job = work(folder, what)
    session = None
    if fault.startswith("spark"):
        from darkhaloscope.runners.spark import spark_session  # noqa: PLC0415 - not for runs without Spark

        os.environ["SPARK_WORKER_DIR"] = str(folder / "work")  # else executors write beside Spark's own files
        session = spark_session(2) if fault == "spark_driver_killed" else spark_session(settings=CLUSTER)
    for number in numbers:
        run = plan(number, fault, source.keys, seed)
        ended(run, job, source, folder / str(number), session)
    if session is not None:
        session.stop()


# --- many runs -------------------------------------------------------------------------------------------


def measure(runs: int, seed: int, faults: Sequence[str], what: str, folder: Path) -> dict[str, Any]:
    """Do the runs, kind by kind, and compare each with the clean one; the control last."""
    from darkhaloscope.runners.spark import spark_session  # noqa: PLC0415 - not for runs without Spark

    source, job = work(folder, what)
    clean = run_local(job, source, local_writer(folder / "clean", job.writes), console=QUIET)
    kinds = {fault: [n for n in range(runs) if faults[n % len(faults)] == fault] for fault in faults}
    kinds = {fault: numbers for fault, numbers in kinds.items() if numbers}
    found: dict[str, Any] = {}
    begun = time.perf_counter()
    for fault in sorted(kinds, key=lambda f: f in _OWN_PROCESS):
        if fault in _OWN_PROCESS:
            starts = _driven(fault, kinds[fault], folder, what, seed)
        else:
            session = spark_session(2) if fault.startswith("spark") else None
            plans = [plan(n, fault, source.keys, seed) for n in kinds[fault]]
            starts = sum(ended(run, job, source, folder / str(run.number), session) for run in plans)
        hurt = [damage(clean, open_dataset(folder / str(n) / "out")) for n in kinds[fault]]
        happened = sum(bool(_happened(folder / str(n), fault)) for n in kinds[fault])
        found[fault] = {
            "runs": len(hurt),
            "happened": happened,
            "starts": starts,
            "damaged": sum(any(h.values()) for h in hurt),
        }
        print(f"{fault}: {found[fault]}", file=sys.stderr)
    return {
        "work": what,
        "runs": sum(f["runs"] for f in found.values()),
        "rows_each": clean.num_rows,
        "happened": sum(f["happened"] for f in found.values()),
        "damaged_runs": sum(f["damaged"] for f in found.values()),
        "by_fault": found,
        "control": control(job, source, clean, folder),
        "seconds": time.perf_counter() - begun,
    }


def _driven(fault: str, numbers: list[int], folder: Path, what: str, seed: int) -> int:
    """Runs in processes of their own: one for each driver that is killed, one for all the others."""
    if fault.endswith("driver_killed"):
        return sum(driven(folder, what, fault, [n], seed) for n in numbers)
    return driven(folder, what, fault, numbers, seed)


def _happened(home: Path, fault: str) -> bool:
    """Whether what was planned broke: faults leave marks, the first of them of a pause that is no fault."""
    marks = {path.name.partition("-")[0] for path in (home / "marks").glob("*-0")}
    return bool(marks) if fault.endswith("driver_killed") else len(marks) > 1


def control(job: Job, source: Dataset, clean: Dataset, folder: Path) -> dict[str, int]:
    """What the comparison finds of a writer that commits before its data, killed in between."""
    key = source.keys[len(source.keys) // 2]
    broken = Fault("write", f"{SHARDS}/{key}", "before", "kill")
    run = Run(-1, "local_control", (broken,), eager=True)
    ended(run, job, source, folder / "control")
    return damage(clean, open_dataset(folder / "control" / "out"))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Runs with faults, compared with one without.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--work", choices=WORK, default=WORK[0])
    parser.add_argument("--drive", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        folder, what, fault, seed, *numbers = options.drive
        drive(Path(folder), what, fault, int(seed), [int(n) for n in numbers])
        return
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options.runs, options.seed, options.faults.split(","), options.work, Path(folder))
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<14} {value}")


if __name__ == "__main__":
    import importlib

    importlib.import_module("benchmarks.faults").main()  # workers look for the classes under this name
