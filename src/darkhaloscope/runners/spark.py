"""Spark over shards: the twin of `runners.local`, with the same tables and the same errors.

Spark hands out shard *keys* and gathers commit records. A task reads its shard from the store and writes to
the store; pixels never cross the JVM. What makes a row appear exactly once is the store (data first, then a
commit that is created exclusively), not the engine: tasks that are tried again, speculative twins and lost
executors write the same bytes under the same name, and the first commit stands.
"""

import functools
import gc
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import NoReturn

from py4j.protocol import Py4JError
from pyspark import SparkConf
from pyspark.accumulators import AccumulatorParam
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from rich.console import Console

from darkhaloscope.contracts.errors import (
    CloudError,
    CredentialsExpired,
    DarkhaloscopeError,
    JobFailed,
    StoreError,
)
from darkhaloscope.contracts.job import Job, execute_shard
from darkhaloscope.contracts.store import Commit, Dataset, Writer
from darkhaloscope.runners.shards import DEFAULT_BATCH_ROWS, one_thread_each, run_shards

TRIES = 4
"""How often Spark tries a task whose worker or store failed."""

MOST_TASKS = 20_000
"""Beyond so many tasks the driver's own bookkeeping costs more than finer retries are worth."""

_POLL_S = 0.1
_SETTINGS = {
    "spark.app.name": "dhs",
    "spark.ui.showConsoleProgress": "false",  # the bar is ours
    "spark.python.worker.reuse": "true",  # imports once, not once a shard
    "spark.sql.caseSensitive": "true",  # R_sersic_arcsec is no r_…
    # Set before a worker's first import: tasks are the parallelism.
    "spark.executorEnv.OMP_NUM_THREADS": "1",
    "spark.executorEnv.OPENBLAS_NUM_THREADS": "1",
    "spark.executorEnv.MKL_NUM_THREADS": "1",
}
_LOCAL_SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.shuffle.partitions": "2",
}


def spark_session(cores: int | None = None, settings: Mapping[str, str] | None = None) -> SparkSession:
    """A session on `cores` of this machine; without, on what spark-submit gives, else on all cores.

    Memory, executors and their number are the cluster's plan and are left alone. Nothing is shuffled.
    """
    conf = SparkConf()
    if cores is not None or not conf.contains("spark.master"):
        conf.setMaster(f"local[{cores or '*'},{TRIES}]")
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    local = str(conf.get("spark.master", "")).startswith("local")
    wanted = {**_SETTINGS, **(_LOCAL_SETTINGS if local else {}), **(settings or {})}
    for name, value in wanted.items():
        conf.set(name, value)
    session = SparkSession.builder.config(conf=conf).getOrCreate()
    if local:
        session.sparkContext.setLogLevel("OFF")  # what goes wrong is said once, by our own errors
    return session


def run_spark(
    job: Job,
    source: Dataset,
    writer: Writer,
    *,
    batch_rows: int = DEFAULT_BATCH_ROWS,
    partitions: int | None = None,
    session: SparkSession | None = None,
    console: Console | None = None,
) -> Dataset:
    """Run `job` over every shard of `source` on Spark; return the committed dataset.

    partitions   Spark tasks; a shard each by default, which is also what is tried again
    session      `spark_session()` by default

    A row that fails stops the run at once with the JobFailed that `run_local` gives. A store or a worker that
    fails is tried again by Spark; if that does not help, JobFailed says which shard and what happened last.
    CredentialsExpired stops everything. Whatever was committed is kept, and the same call continues.
    """

    def engine(keys: list[str]) -> Iterator[Commit]:
        work = _Work(job, source, writer, batch_rows)
        return _commits(work, _pieces(keys, partitions), session or spark_session())

    return run_shards(job, source, writer, engine, console)


@dataclass(frozen=True)
class _Work:
    """What every task needs; sent to each executor once."""

    job: Job
    source: Dataset
    writer: Writer
    batch_rows: int

    def shard(self, key: str) -> Commit | DarkhaloscopeError:
        """The commit of a shard, or the error that ends the run; what another try may mend is raised."""
        try:
            return execute_shard(self.job, self.source, self.writer, key, self.batch_rows)
        except CredentialsExpired as error:
            return error
        except (StoreError, CloudError):
            raise
        except DarkhaloscopeError as error:
            return error


class _Gathered(AccumulatorParam[list[Commit | DarkhaloscopeError]]):  # type: ignore[misc]
    """Outcomes of finished tasks, on the driver as they come in."""

    def zero(
        self,
        value: list[Commit | DarkhaloscopeError],  # noqa: ARG002 - Spark's signature
    ) -> list[Commit | DarkhaloscopeError]:
        """Nothing yet."""
        return []

    def addInPlace(  # noqa: N802 - Spark's name
        self, value1: list[Commit | DarkhaloscopeError], value2: list[Commit | DarkhaloscopeError]
    ) -> list[Commit | DarkhaloscopeError]:
        """One list after the other."""
        value1.extend(value2)
        return value1


_GROUPS = itertools.count()


def _pieces(keys: list[str], partitions: int | None) -> list[list[str]]:
    """Keys of each task: neighbours together, numbers even."""
    n = min(len(keys), partitions or MOST_TASKS)
    edges = [len(keys) * k // n for k in range(n + 1)]
    return [keys[a:b] for a, b in itertools.pairwise(edges)]


def _commits(work: _Work, pieces: list[list[str]], session: SparkSession) -> Iterator[Commit]:
    context = session.sparkContext
    sent = context.broadcast(work)
    outcomes = context.accumulator([], _Gathered())
    group = f"dhs-{os.getpid()}-{next(_GROUPS)}"

    def task(keys: Iterable[list[str]]) -> None:
        one_thread_each()
        for key in itertools.chain.from_iterable(keys):
            outcome = sent.value.shard(key)
            _keep_libraries()
            outcomes.add([outcome])
            if isinstance(outcome, DarkhaloscopeError):
                return

    def action() -> None:
        context.setJobGroup(group, f"{work.job.job}: {work.writer.where}", interruptOnCancel=True)
        context.parallelize(pieces, len(pieces)).foreachPartition(task)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(action)
        try:
            seen = 0
            while True:
                # Asked before the outcomes are looked at, so that none can slip in between.
                done = running.done()
                new = outcomes.value[seen:]
                seen += len(new)
                yield from _checked(new)
                if done:
                    break
                wait([running], timeout=_POLL_S)
            _raise_translated(running.exception(), work.job, pieces)
        except BaseException:
            context.cancelJobGroup(group)
            raise
        finally:
            sent.unpersist()


@functools.cache  # once a process
def _keep_libraries() -> None:
    """Take what the first shard loaded out of garbage collection.

    Spark's workers collect after every task, and to walk through the libraries' 400,000 objects each time
    takes as long as half a shard.
    """
    gc.collect()
    gc.freeze()


def _checked(outcomes: list[Commit | DarkhaloscopeError]) -> Iterator[Commit]:
    """The commits; raises what stops the run: credentials before rows, rows in their order."""
    errors = [o for o in outcomes if isinstance(o, DarkhaloscopeError)]
    if errors:
        raise min(errors, key=lambda e: (not isinstance(e, CredentialsExpired), getattr(e, "shard", "")))
    yield from (o for o in outcomes if isinstance(o, Commit))


def _raise_translated(error: BaseException | None, job: Job, pieces: list[list[str]]) -> None:
    """Spark's own failure as one sentence of ours; nothing where there was none."""
    if error is None:
        return
    if not isinstance(error, (Py4JError, PySparkException)):
        raise error
    _give_up(error, job, pieces)


def _give_up(error: Exception, job: Job, pieces: list[list[str]]) -> NoReturn:
    text = str(error)
    task = re.search(r"Task (\d+) in stage", text)
    keys = pieces[int(task.group(1))] if task else [key for piece in pieces for key in piece]
    shard = keys[0] if len(keys) == 1 else f"{keys[0]} to {keys[-1]}"
    tries = re.search(r"failed (\d+) times", text)
    often = f"failed {tries.group(1)} times, the last time with " if tries else ""
    raise JobFailed(job.job, shard, "", f"{often}{_cause(text)}") from error


def _cause(text: str) -> str:
    """What a Spark failure says happened last: the worker's exception, else why its executor was lost."""
    _, found, after = text.rpartition("Traceback (most recent call last):\n")
    if found:
        last = next((line for line in after.splitlines() if line[:1].strip()), "")
        name, _, sentence = last.partition(": ")
        return f"{name.rpartition('.')[2]}: {sentence}"
    if "Python worker exited unexpectedly" in text:
        return "a worker process died (out of memory, or killed)"
    lost = re.search(r"ExecutorLostFailure.*?Reason: (.+)", text)
    if lost:
        return f"a lost executor: {lost.group(1)}"
    return next(iter(text.strip().splitlines()), "no word from Spark")
