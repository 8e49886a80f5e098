"""A process pool over shards, with progress, resume, and a failing row that names its target.

The result does not depend on the number of workers or on the batch size: a job is a pure function of its
rows, shards are named by content, and the manifest lists them in the order of their keys.
"""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait

from rich.console import Console

from darkhaloscope.contracts.errors import JobFailed
from darkhaloscope.contracts.job import Job, execute_shard
from darkhaloscope.contracts.store import Commit, Dataset, Writer
from darkhaloscope.runners.shards import DEFAULT_BATCH_ROWS, one_thread_each, run_shards


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

    def engine(keys: list[str]) -> Iterator[Commit]:
        return _commits(job, source, writer, keys, workers=workers, batch_rows=batch_rows)

    return run_shards(job, source, writer, engine, console)


def _commits(
    job: Job, source: Dataset, writer: Writer, keys: list[str], *, workers: int, batch_rows: int
) -> Iterator[Commit]:
    if workers <= 1 or len(keys) <= 1:
        for key in keys:
            yield execute_shard(job, source, writer, key, batch_rows)
        return
    # spawn: a forked child of a process that has started threads (BLAS, PyTorch) can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(keys)), mp_context=context, initializer=_begin_worker) as pool:
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


def _begin_worker() -> None:
    """One thread, and an end with the parent: a pool's workers would wait for a killed parent for ever."""
    one_thread_each()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
