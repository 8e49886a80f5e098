"""Questions about narrow columns of committed datasets, asked of Spark in SQL: joins, counts over 1e7 rows.

Spark reads the Parquet shards itself, the columns that are asked for and no other; which shards those are is
what the manifest says, never what lies in a folder.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from darkhaloscope.contracts.errors import StoreError
from darkhaloscope.contracts.store import Dataset, LocalFiles
from darkhaloscope.runners.spark import spark_session

_TYPES = {pa.string(): "string", pa.int64(): "bigint", pa.int32(): "int", pa.float64(): "double"}
_TYPES |= {pa.float32(): "float", pa.bool_(): "boolean", pa.int16(): "smallint"}


class Catalogue:
    """Tables of narrow columns, by name, and the answers to SQL over them."""

    def __init__(self, session: Any | None = None) -> None:
        self.session = session or spark_session()

    def table(self, name: str, parts: Sequence[tuple[Dataset, Mapping[str, str]]]) -> None:
        """Make a table of the rows of several datasets.

        parts   each a dataset and what is taken from it: SQL over its columns, by the name in the table

        Raises StoreError where the shards hold another number of rows than their manifest says.
        """
        pieces = [self._rows(dataset, columns) for dataset, columns in parts]
        rows = pieces[0]
        for piece in pieces[1:]:
            rows = rows.unionByName(piece)
        rows.createOrReplaceTempView(name)

    def keep(self, name: str, sql: str) -> None:
        """Make a table of an answer, computed once and kept for the questions that follow."""
        self.session.sql(sql).cache().createOrReplaceTempView(name)

    def ask(self, sql: str) -> list[dict[str, Any]]:
        """The rows of an answer. For answers that fit into the driver: counts and a few examples."""
        return [row.asDict() for row in self.session.sql(sql).collect()]

    def forget(self) -> None:
        """Let go of everything that was kept."""
        self.session.catalog.clearCache()

    def _rows(self, dataset: Dataset, columns: Mapping[str, str]) -> Any:
        schema = ", ".join(
            f"`{field.name}` {_TYPES[field.type]}" for field in dataset.table.schema if field.type in _TYPES
        )
        paths = [_address(dataset, shard.file) for shard in dataset.manifest.shards]
        if paths:
            rows = self.session.read.schema(schema).parquet(*paths)
            self._refuse_other_rows(dataset, rows)
        else:
            rows = self.session.createDataFrame([], schema)
        return rows.selectExpr(*(f"{sql} AS `{name}`" for name, sql in columns.items()))

    @staticmethod
    def _refuse_other_rows(dataset: Dataset, rows: Any) -> None:
        found = rows.count()  # of the files' footers
        if found != dataset.num_rows:
            problem = f"holds {found} rows, the manifest says {dataset.num_rows}"
            raise StoreError(dataset.where, problem, "make the dataset again")


def _address(dataset: Dataset, file: str) -> str:
    """What Spark opens a shard by. Hadoop takes some characters of a path for a pattern: they are escaped."""
    files = dataset.files
    root = f"file://{Path(files.root).absolute()}" if isinstance(files, LocalFiles) else dataset.where
    return re.sub(r"([\\{}\[\]*?])", r"\\\1", f"{root}/{file}")
