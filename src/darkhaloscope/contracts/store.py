"""A dataset on whatever filesystem it is handed: shards, a commit record for each, a manifest written last.

::

    DATASET/
      job.json              which job this dataset belongs to; created exclusively
      shards/KEY-HASH.parquet   named by content: a retry writes the same bytes to the same name
      commits/KEY.json      created exclusively: the first commit of a shard wins
      manifest.json         written last; a dataset without one is unfinished, and readers open nothing else

Killed at any point, the same job continues from the commits it finds and ends with the same manifest.
This is the only module that spells paths inside a dataset.
"""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from darkhaloscope import __version__
from darkhaloscope.contracts.config import Frozen, fingerprint
from darkhaloscope.contracts.errors import SchemaMismatch, StoreError
from darkhaloscope.contracts.tables import HOUSE_TABLES, Table

MANIFEST, JOB, COMMITS, SHARDS = "manifest.json", "job.json", "commits", "shards"


class Files(Protocol):
    """The five things a store asks of a filesystem. Paths are relative, with forward slashes."""

    at_once: ClassVar[int]
    """Reads worth having under way together: 1 for a disk, many where each waits for an answer."""

    def read(self, path: str) -> bytes:
        """The whole content; FileNotFoundError where there is none."""
        ...

    def open(self, path: str) -> Any:
        """A seekable binary file or a path that Parquet can read selected columns from."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Write atomically, replacing what is there."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Write atomically unless the path exists; False when somebody else was first."""
        ...

    def names(self, path: str) -> list[str]:
        """Names directly inside a folder, sorted; empty where there is none."""
        ...


@dataclass(frozen=True)
class LocalFiles:
    """Files below a folder of this machine. Writes are atomic and reach the disk before they are seen."""

    at_once: ClassVar[int] = 1

    root: str

    def _path(self, path: str) -> Path:
        return Path(self.root) / path

    def read(self, path: str) -> bytes:
        """The whole content."""
        return self._path(path).read_bytes()

    def open(self, path: str) -> Any:
        """The path itself: Parquet maps it."""
        return str(self._path(path))

    def write(self, path: str, data: bytes) -> None:
        """As `write_whole`."""
        write_whole(self._path(path), data)

    def create(self, path: str, data: bytes) -> bool:
        """Temporary file, then a hard link, which fails if the name exists."""
        temporary = _draft(self._path(path), data)
        try:
            os.link(temporary, self._path(path))
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def names(self, path: str) -> list[str]:
        """Names directly inside a folder."""
        folder = self._path(path)
        return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of this machine whole or not at all: a kill leaves the old content or the new."""
    _draft(path, data).replace(path)


def _draft(path: Path, data: bytes) -> Path:
    """The bytes on disk under another name in the same folder, ready to be renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), 0o644)  # a draft is made for its owner alone, a dataset for colleagues too
        os.fsync(file.fileno())
    return Path(name)


Item = TypeVar("Item")
Made = TypeVar("Made")


def _each(files: Files, work: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    """`work` of every item, in their order, as many at once as the filesystem is good for."""
    if files.at_once <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(files.at_once) as pool:
        return list(pool.map(work, items))


class Commit(Frozen):
    """The record of one finished shard."""

    key: str
    file: str
    rows: int
    sha256: str
    rejects: dict[str, int] = Field(default_factory=dict)


class Manifest(Frozen):
    """The commit record of a dataset: what is in it, which job made it, from what."""

    table: str
    version: int
    shards: tuple[Commit, ...]
    job: dict[str, Any]
    job_fingerprint: str
    inputs: dict[str, str]
    code_version: str
    fingerprint: str

    @property
    def rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def rejects(self) -> dict[str, int]:
        """Rejected rows by code."""
        total: dict[str, int] = {}
        for shard in self.shards:
            for code, count in shard.rejects.items():
                total[code] = total.get(code, 0) + count
        return dict(sorted(total.items()))


class Dataset:
    """A finished dataset, opened by its manifest."""

    def __init__(self, files: Files, where: str) -> None:
        self.files, self.where = files, where
        try:
            text = files.read(MANIFEST)
        except FileNotFoundError as error:
            unfinished = bool(files.names(COMMITS)) or JOB in files.names("")
            problem = (
                "is unfinished: it has no manifest" if unfinished else "holds no dataset (no manifest.json)"
            )
            remedy = "run the command that makes it again: it continues" if unfinished else "check the path"
            raise StoreError(where, problem, remedy) from error
        try:
            self.manifest = Manifest.model_validate_json(text)
        except ValueError as error:
            raise StoreError(
                f"{where}/{MANIFEST}", f"is not a manifest: {str(error).splitlines()[0]}"
            ) from error

    def __repr__(self) -> str:
        return f"Dataset({self.where!r}, table={self.manifest.table!r}, rows={self.manifest.rows})"

    @property
    def fingerprint(self) -> str:
        """What the data are: same rows from the same job and inputs, same fingerprint."""
        return self.manifest.fingerprint

    @property
    def table(self) -> Table:
        """The declaration of its table."""
        for table in HOUSE_TABLES:
            if (table.name, table.version) == (self.manifest.table, self.manifest.version):
                return table
        name = f"{self.manifest.table} version {self.manifest.version}"
        raise SchemaMismatch(self.where, f"holds the table {name}, which this version does not know")

    @property
    def keys(self) -> tuple[str, ...]:
        """Shard keys, in order."""
        return tuple(shard.key for shard in self.manifest.shards)

    @property
    def num_rows(self) -> int:
        """Rows in all shards."""
        return self.manifest.rows

    def expect(self, table: Table) -> "Dataset":
        """Return self if it holds `table`; raise SchemaMismatch otherwise."""
        if self.table is not table:
            raise SchemaMismatch(self.where, f"holds {self.manifest.table}, but {table.name} is needed")
        return self

    def read_shard(self, key: str, columns: Iterable[str] | None = None) -> pa.Table:
        """Rows of one shard, in their order; all columns or the named ones."""
        shard = next((s for s in self.manifest.shards if s.key == key), None)
        if shard is None:
            raise StoreError(self.where, f"has no shard '{key}'")
        where = f"{self.where}/{shard.file}"
        wanted = list(columns) if columns is not None else None
        try:
            with pq.ParquetFile(self.files.open(shard.file), memory_map=True) as file:
                self._refuse_other_columns(file.schema_arrow, wanted, where)
                rows = file.read(columns=wanted)
        except FileNotFoundError as error:
            raise StoreError(
                where, "is named by the manifest but is not there", "make the dataset again"
            ) from error
        except SchemaMismatch:
            raise
        except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
            cause = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StoreError(where, f"cannot be read: {cause}", "make the dataset again") from error
        if rows.num_rows != shard.rows:
            raise StoreError(where, f"holds {rows.num_rows} rows, the manifest says {shard.rows}")
        return rows if wanted is None else rows.select(wanted)

    def _refuse_other_columns(self, found: pa.Schema, wanted: list[str] | None, where: str) -> None:
        """SchemaMismatch for a column that is absent or of another type than its table declares."""
        declared = self.table.schema
        for name in wanted or declared.names:
            if name not in found.names:
                raise SchemaMismatch(
                    where, f"lacks the column '{name}'", f"table {self.table.name} declares it"
                )
            if found.field(name).type != declared.field(name).type:
                problem = f"holds '{name}' as {found.field(name).type}, but it is {declared.field(name).type}"
                raise SchemaMismatch(where, problem, "make the dataset again")

    def read(self, columns: Iterable[str] | None = None) -> pa.Table:
        """All rows in shard order. Ask for few columns, or for a dataset that fits in memory."""
        wanted = list(columns) if columns is not None else None
        pieces = _each(self.files, lambda key: self.read_shard(key, wanted), self.keys)
        if pieces:
            return pa.concat_tables(pieces)
        schema = self.table.schema
        return (schema if wanted is None else pa.schema([schema.field(c) for c in wanted])).empty_table()

    def verify(self) -> None:
        """Raise StoreError if a shard's bytes are not those that were committed."""
        for shard in self.manifest.shards:
            where = f"{self.where}/{shard.file}"
            try:
                data = self.files.read(shard.file)
            except FileNotFoundError as error:
                problem = "is named by the manifest but is not there"
                raise StoreError(where, problem, "make the dataset again") from error
            if hashlib.sha256(data).hexdigest() != shard.sha256:
                raise StoreError(where, "has changed since it was committed", "make the dataset again")


@dataclass(frozen=True)
class Writer:
    """Writes the shards of one dataset. Picklable: every worker has its own copy."""

    files: Files
    where: str
    table: Table

    def begin(self, job: Mapping[str, Any], job_fingerprint: str, inputs: Mapping[str, str]) -> None:
        """Claim the folder for a job, or recognise it as this job's own; StoreError if it is another's."""
        claim = {"job": dict(job), "fingerprint": fingerprint([job_fingerprint, dict(inputs)])}
        text = json.dumps(claim, indent=1, sort_keys=True).encode()
        if self.files.create(JOB, text):
            return
        found = json.loads(self.files.read(JOB))
        if found["fingerprint"] != claim["fingerprint"]:
            raise StoreError(
                self.where,
                "belongs to another job (other settings or other inputs)",
                "choose another output folder, or delete this one",
            )

    def committed(self) -> dict[str, Commit]:
        """Shards that are already finished, by key."""
        paths = [f"{COMMITS}/{name}" for name in self.files.names(COMMITS) if name.endswith(".json")]
        commits = [Commit.model_validate_json(text) for text in _each(self.files, self.files.read, paths)]
        present = set(self.files.names(SHARDS))
        return {c.key: c for c in commits if c.file.removeprefix(f"{SHARDS}/") in present}

    def commit(self, key: str, rows: pa.Table) -> Commit:
        """Write a shard, then its commit record; if somebody committed this key first, theirs stands."""
        data = _parquet(rows, self.table)
        digest = hashlib.sha256(data).hexdigest()
        name = f"{SHARDS}/{key}-{digest[:12]}.parquet"
        self.files.write(name, data)
        record = Commit(key=key, file=name, rows=rows.num_rows, sha256=digest, rejects=_rejects(rows))
        path = f"{COMMITS}/{key}.json"
        if self.files.create(path, record.model_dump_json().encode()):
            return record
        first = Commit.model_validate_json(self.files.read(path))
        if (
            first.sha256 != digest
            and self.files.names(SHARDS).count(first.file.removeprefix(f"{SHARDS}/")) == 0
        ):
            self.files.write(path, record.model_dump_json().encode())
            return record
        return first

    def finish(
        self, keys: Iterable[str], job: Mapping[str, Any], job_fingerprint: str, inputs: Mapping[str, str]
    ) -> Dataset:
        """Write the manifest from what was committed; StoreError if a shard is missing."""
        done = self.committed()
        missing = [key for key in keys if key not in done]
        if missing:
            raise StoreError(
                self.where, f"shard {missing[0]} was not committed", "run the same command again"
            )
        shards = tuple(done[key] for key in keys)
        content = [
            self.table.name,
            self.table.version,
            [s.sha256 for s in shards],
            job_fingerprint,
            dict(inputs),
        ]
        manifest = Manifest(
            table=self.table.name,
            version=self.table.version,
            shards=shards,
            job=dict(job),
            job_fingerprint=job_fingerprint,
            inputs=dict(inputs),
            code_version=__version__,
            fingerprint=fingerprint(content),
        )
        self.files.write(MANIFEST, manifest.model_dump_json(indent=1).encode())
        return Dataset(self.files, self.where)


def _rejects(rows: pa.Table) -> dict[str, int]:
    if "reject" not in rows.column_names:
        return {}
    counts = pc.value_counts(rows.column("reject").drop_null())
    return dict(sorted((item["values"], item["counts"]) for item in counts.to_pylist()))


def _parquet(rows: pa.Table, table: Table) -> bytes:
    """Parquet bytes; blob columns uncompressed: compressing noise saves 7 % and costs every reader."""
    blobs = {c.name for c in table.columns if pa.types.is_binary(c.dtype)}
    names = table.schema.names
    buffer = io.BytesIO()
    pq.write_table(
        rows,
        buffer,
        compression={name: "NONE" if name in blobs else "ZSTD" for name in names},
        use_dictionary=[name for name in names if name not in blobs],
        write_statistics=[name for name in names if name not in blobs],
        row_group_size=1024,
    )
    return buffer.getvalue()


def open_dataset(path: str | Path) -> Dataset:
    """Open a finished dataset in a folder of this machine."""
    folder = Path(path)
    if not folder.exists():
        raise StoreError(str(path), "does not exist", "check the path")
    return Dataset(LocalFiles(str(folder)), str(path))


def local_writer(path: str | Path, table: Table) -> Writer:
    """A writer into a folder of this machine; StoreError if there is a file in its place."""
    if Path(path).is_file():
        raise StoreError(str(path), "is a file, not a folder", "choose another output folder")
    return Writer(LocalFiles(str(path)), str(path), table)


def write_rows(
    writer: Writer,
    rows: pa.Table,
    *,
    shard_rows: int,
    job: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
) -> Dataset:
    """Commit rows that are already in memory (a catalogue, a few cutouts) as a dataset."""
    # Shard size is part of the claim: else a finished shard would be taken for a larger one.
    mark = fingerprint([dict(job), writer.table.name, writer.table.version, shard_rows])
    given = dict(inputs or {})
    writer.begin(job, mark, given)
    done, keys = writer.committed(), []
    for index, start in enumerate(range(0, max(rows.num_rows, 1), shard_rows)):
        key = f"{index:05d}"
        keys.append(key)
        if key not in done:
            writer.commit(key, writer.table.conform(rows.slice(start, shard_rows), where=writer.where))
    return writer.finish(keys, job, mark, given)


def write_tables(
    writer: Writer,
    shards: Iterable[pa.Table],
    *,
    job: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
) -> Dataset:
    """Commit a stream of tables as a dataset, one shard each; never more than one is in memory.

    The stream is taken from its start on every call; shards that stand already are passed over.
    """
    mark = fingerprint([dict(job), writer.table.name, writer.table.version])
    given = dict(inputs or {})
    writer.begin(job, mark, given)
    done, keys = writer.committed(), []
    for index, rows in enumerate(shards):
        key = f"{index:06d}"
        keys.append(key)
        if key not in done:
            writer.commit(key, writer.table.conform(rows, where=writer.where))
    return writer.finish(keys, job, mark, given)
