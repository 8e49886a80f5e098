"""A job turns one input shard into one output shard, the same on any engine.

An engine distributes shard *keys* and collects commit records; pixels go from store to job to store inside
one worker and never through the engine.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import pyarrow as pa

from darkhaloscope.contracts.config import Frozen, fingerprint
from darkhaloscope.contracts.errors import CredentialsExpired, DarkhaloscopeError, JobFailed
from darkhaloscope.contracts.store import Commit, Dataset, Writer
from darkhaloscope.contracts.tables import Table


class Job(Frozen):
    """A frozen value that says what to do; `run` does it to a batch of rows.

    A subclass declares ``job: Literal["name"] = "name"`` (the discriminator), the table it reads, the table
    it writes, and the columns it needs. `run` is a pure function of its rows: its result must not depend
    on where a batch begins or ends.
    """

    reads: ClassVar[Table]
    writes: ClassVar[Table]
    columns: ClassVar[tuple[str, ...] | None] = None
    whole_shards: ClassVar[bool] = False
    """Whether a batch is a whole shard: for a job that opens something once for neighbouring rows."""

    job: str

    @abstractmethod
    def run(self, batch: pa.Table) -> pa.Table:
        """Rows of `reads` to rows of `writes`."""

    @property
    def identity(self) -> str:
        """Fingerprint of the job's meaning."""
        return fingerprint({"job": self, "writes": [self.writes.name, self.writes.version]})


def execute_shard(job: Job, source: Dataset, writer: Writer, key: str, batch_rows: int) -> Commit:
    """Read one shard, run the job over it in batches, write and commit the result.

    Raises JobFailed with the job, the shard and the target for anything that a row does wrong; expired
    credentials are no row's fault and pass as they are.
    """
    rows = source.read_shard(key, columns=job.columns)
    pieces = []
    for batch in batches(rows, max(rows.num_rows, 1) if job.whole_shards else batch_rows):
        try:
            pieces.append(job.writes.conform(job.run(batch), where=f"output of job '{job.job}'"))
        except CredentialsExpired:
            raise
        except Exception as error:
            target = "; ".join(getattr(error, "__notes__", []))
            cause = (
                str(error) if isinstance(error, DarkhaloscopeError) else f"{type(error).__name__}: {error}"
            )
            raise JobFailed(job.job, key, target, cause) from error
    result = pa.concat_tables(pieces) if pieces else job.writes.schema.empty_table()
    return writer.commit(key, result)


def batches(rows: pa.Table, batch_rows: int) -> Iterator[pa.Table]:
    """Slices of at most `batch_rows` rows, in order."""
    for start in range(0, rows.num_rows, batch_rows):
        yield rows.slice(start, batch_rows)
