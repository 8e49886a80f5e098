"""What every engine does around its shards: claim the folder, skip what is done, show progress, finish."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from threadpoolctl import threadpool_limits

from darkhaloscope.contracts.job import Job
from darkhaloscope.contracts.store import Commit, Dataset, Writer

DEFAULT_BATCH_ROWS = 64


def run_shards(
    job: Job,
    source: Dataset,
    writer: Writer,
    engine: Callable[[list[str]], Iterable[Commit]],
    console: Console | None = None,
) -> Dataset:
    """Have `engine` work through the shards of `source` that are not committed yet; return the dataset.

    engine   takes shard keys, gives their commit records in any order

    Shards committed by an earlier run of the same job on the same inputs are kept and not done again,
    whatever engine made them. What the engine raises passes through; everything committed until then is kept.
    """
    source.expect(job.reads)
    description = job.model_dump(mode="json")
    inputs = {"source": source.fingerprint}
    writer.begin(description, job.identity, inputs)
    done = writer.committed()
    todo = [key for key in source.keys if key not in done]
    with _progress(job.job, source, todo, console) as advance:
        for commit in engine(todo) if todo else ():
            advance(commit)
    return writer.finish(source.keys, description, job.identity, inputs)


@functools.cache  # once a process
def one_thread_each() -> None:
    """Workers are the parallelism: a BLAS pool in each would fight for the same cores.

    The environment is for libraries that are still to be loaded, the limits for those that are.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    threadpool_limits(1)


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

    def __init__(self, progress: Progress, task: TaskID, rows: dict[str, int]) -> None:
        self.progress, self.task, self.rows, self.done = progress, task, rows, 0

    def __call__(self, commit: Commit) -> None:
        self.done += self.rows[commit.key]
        elapsed = next(t.elapsed for t in self.progress.tasks if t.id == self.task) or 1e-9
        self.progress.update(self.task, advance=1, rate=f"{self.done / elapsed:,.0f} rows/s")
