"""A process pool over shards, with progress, resume, and a failing row that names its target.

The result does not depend on the number of workers or on the batch size: a job is a pure function of its
rows, shards are named by content, and the manifest lists them in the order of their keys.
"""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from darkhaloscope.contracts.errors import JobFailed
from darkhaloscope.contracts.job import Job, execute_shard
from darkhaloscope.contracts.store import Commit, Dataset, Writer

DEFAULT_BATCH_ROWS = 64


def run_local(
    job: Job,
    source: Dataset,
    writer: Writer,
    *,
    workers: int = 1,
    batch_rows: int = DEFAULT_BATCH_ROWS,
    console: Console | None = None,
) -> Dataset:
    """Run `job` over every shard of `source`; return the committed dataset.

    Shards committed by an earlier run of the same job on the same inputs are kept and not done again. A row
    that fails stops the run with JobFailed; everything committed until then is kept.
    """
    source.expect(job.reads)
    description = job.model_dump(mode="json")
    inputs = {"source": source.fingerprint}
    writer.begin(description, job.identity, inputs)
    done = writer.committed()
    todo = [key for key in source.keys if key not in done]
    with _progress(job.job, source, todo, console) as advance:
        for commit in _commits(job, source, writer, todo, workers=workers, batch_rows=batch_rows):
            advance(commit)
    return writer.finish(source.keys, description, job.identity, inputs)


def _commits(
    job: Job, source: Dataset, writer: Writer, keys: list[str], *, workers: int, batch_rows: int
) -> Iterator[Commit]:
    if workers <= 1 or len(keys) <= 1:
        for key in keys:
            yield execute_shard(job, source, writer, key, batch_rows)
        return
    # spawn: a forked child of a process that has started threads (BLAS, PyTorch) can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(keys)), mp_context=context, initializer=_one_thread_each
    ) as pool:
        futures = {pool.submit(execute_shard, job, source, writer, key, batch_rows): key for key in keys}
        try:
            for future in as_completed(futures):
                yield _result(future, job, futures[future])
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _result(future: "Future[Commit]", job: Job, key: str) -> Commit:
    try:
        return future.result()
    except BrokenProcessPool as error:
        cause = "a worker process died (out of memory, or killed)"
        raise JobFailed(job.job, key, "", cause) from error


def _one_thread_each() -> None:
    """Workers are the parallelism: a BLAS pool in each would fight for the same cores."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


@contextmanager
def _progress(title: str, source: Dataset, todo: list[str], console: Console | None) -> Iterator["_Advance"]:
    rows = {shard.key: shard.rows for shard in source.manifest.shards}
    kept = len(source.keys) - len(todo)
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console or Console(stderr=True), transient=False) as progress:
        task = progress.add_task(title, total=len(source.keys), completed=kept, rate="")
        yield _Advance(progress, task, rows)


class _Advance:
    """Moves the bar by one shard and shows rows per second."""

    def __init__(self, progress: Progress, task: object, rows: dict[str, int]) -> None:
        self.progress, self.task, self.rows, self.done = progress, task, rows, 0

    def __call__(self, commit: Commit) -> None:
        self.done += self.rows[commit.key]
        elapsed = next(t.elapsed for t in self.progress.tasks if t.id == self.task) or 1e-9
        self.progress.update(self.task, advance=1, rate=f"{self.done / elapsed:,.0f} rows/s")  # type: ignore[arg-type]
