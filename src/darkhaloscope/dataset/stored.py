"""Pairs and lone stamps that stay in their shards until a batch asks for them.

Names, places and centres are read at the start, pixels when they are wanted. Shards that were opened last are
kept as they lie on disk, so that an order which stays within a window of shards (`pairs.EpochOrder`) opens
each shard once in an epoch. A data set that fits into `memory_mb` is decoded once and kept, at the first
batch; which of the two happens changes no number.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from darkhaloscope.contracts.errors import DataError, StampError
from darkhaloscope.contracts.store import Dataset
from darkhaloscope.dataset.pixels import PairBlock, centres
from darkhaloscope.stamps.blocks import Blobs
from darkhaloscope.stamps.stamp import decode_planes

Planes = NDArray[np.float32]

KEPT_SHARDS = 20
"""Shards whose bytes are kept in each reading process: a window and a few more (25 MB each)."""

_NAMES = ("host_id", "host_domain", "x_center_pix", "y_center_pix", "reject")

Wanted = Callable[[pa.Table], NDArray[np.bool_]]
"""Which rows of a shard's narrow columns are used."""


@dataclass(frozen=True)
class _Rows:
    """Narrow facts of the rows that are used, in the order in which they lie on disk."""

    keys: tuple[str, ...]
    hosts: tuple[str, ...]
    domain: NDArray[np.str_]
    x_center: NDArray[np.float64]
    y_center: NDArray[np.float64]
    shard: NDArray[np.intp]
    row: NDArray[np.intp]
    places: tuple[tuple[str, str], ...]
    """(dataset, shard) by shard number."""

    def subset(self, at: NDArray[np.intp]) -> "_Rows":
        """The given rows; shards keep their numbers."""
        return _Rows(
            tuple(self.keys[k] for k in at),
            tuple(self.hosts[k] for k in at),
            self.domain[at],
            self.x_center[at],
            self.y_center[at],
            self.shard[at],
            self.row[at],
            self.places,
        )


class _Shards:
    """Columns of blobs, shard by shard, the last ones opened kept."""

    def __init__(
        self,
        datasets: Mapping[str, Dataset],
        rows: _Rows,
        key: str,
        columns: Sequence[str],
        *,
        memory_mb: float,
        where: str,
    ) -> None:
        self.datasets, self.rows, self.key, self.columns, self.where = datasets, rows, key, columns, where
        self.shape = self._first_shape()
        self._fits = self.megabytes <= memory_mb
        self._open: OrderedDict[int, dict[str, Blobs]] = OrderedDict()
        self._decoded: dict[str, Planes] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens shards of its own, and does not keep all of them a second time."""
        return {**vars(self), "_open": OrderedDict(), "_decoded": {}, "_fits": False}

    def _first_shape(self) -> tuple[int, int, int]:
        dataset, shard = self.rows.places[int(self.rows.shard[0])]
        table = self.datasets[dataset].read_shard(shard, self.columns[:1])
        blob = table.column(0)[int(self.rows.row[0])].as_py()
        band, y, x = decode_planes(blob, where=f"{self.where} {self.rows.keys[0]}").shape
        return band, y, x

    @property
    def megabytes(self) -> float:
        """What all pixels take in memory."""
        return 4 * int(np.prod(self.shape)) * len(self.columns) * len(self.rows.keys) / 2**20

    def take(self, column: str, at: NDArray[np.intp]) -> Planes:
        """Pixels of some rows, (n, band, y, x) [nmgy]; StampError naming a row that is not a finite stamp."""
        if self._fits and not self._decoded:
            every = np.arange(len(self.rows.keys))
            self._decoded = {name: self._read(name, every) for name in self.columns}
            self._open.clear()
        return self._decoded[column][at] if self._decoded else self._read(column, at)

    def _read(self, column: str, at: NDArray[np.intp]) -> Planes:
        out = np.empty((len(at), *self.shape), np.float32)
        shards = self.rows.shard[at]
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            found = self._column(int(shard), column).block(self.rows.row[at[here]])
            self._refuse(found.unreadable, at[here], column, "{}")
            self._refuse(dict.fromkeys(found.resized), at[here], column, "is not of the size of the others")
            self._refuse(dict.fromkeys(found.thin), at[here], column, "lacks a band")
            out[here] = found.planes
        bad = ~np.isfinite(out).all(axis=(1, 2, 3))
        self._refuse(dict.fromkeys(np.flatnonzero(bad)), at, column, "holds values that are not finite")
        return out

    def _refuse(
        self, faults: Mapping[Any, str | None], at: NDArray[np.intp], column: str, problem: str
    ) -> None:
        for k, said in faults.items():
            place = f"{self.where} {self.rows.keys[int(at[k])]} {column}"
            raise StampError(place, problem.format(said), "dhs verify finds all such rows")

    def _column(self, shard: int, column: str) -> Blobs:
        if shard not in self._open:
            self._open[shard] = self._opened(shard)
            if len(self._open) > KEPT_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard][column]

    def _opened(self, shard: int) -> dict[str, Blobs]:
        dataset, key = self.rows.places[shard]
        table = self.datasets[dataset].read_shard(key, (self.key, *self.columns))
        names = table.column(self.key).to_pylist()
        return {
            column: Blobs(table.column(column), "image", self.shape[1:], where=names)
            for column in self.columns
        }


def _rows_of(
    datasets: Mapping[str, Dataset], splits: Mapping[str, Dataset], split: str, key: str, wanted: Wanted, *,
    extra: Sequence[str] = (),
) -> _Rows:  # fmt: skip
    """The rows of one split that are wanted, from all datasets."""
    parts: list[pa.Table] = []
    shard_of, row_of = [], []
    places: list[tuple[str, str]] = []
    for name, dataset in datasets.items():
        for shard in dataset.keys:
            marks = splits[name].read_shard(shard, ["row_id", "split", "reject"])
            table = dataset.read_shard(shard, (key, *_NAMES, *extra))
            if not table.column(key).equals(marks.column("row_id")):
                problem = f"shard {shard} does not follow {dataset.where} row by row"
                raise DataError(splits[name].where, problem, "split it again")
            held = pc.and_(pc.equal(marks.column("split"), split), pc.is_null(marks.column("reject")))
            at = np.flatnonzero(np.asarray(held.to_numpy(), dtype=bool) & wanted(table))
            if not len(at):
                continue
            parts.append(table.take(pa.array(at)))
            shard_of.append(np.full(len(at), len(places)))
            row_of.append(at)
            places.append((name, shard))
    if not parts:
        empty = np.empty(0, np.intp)
        nothing = np.empty(0)
        return _Rows((), (), np.empty(0, str), nothing, nothing, empty, empty, ())
    table = pa.concat_tables(parts)
    return _Rows(
        tuple(table.column(key).to_pylist()),
        tuple(table.column("host_id").to_pylist()),
        np.asarray(table.column("host_domain").to_pylist(), dtype=str),
        *centres(table),
        np.concatenate(shard_of),
        np.concatenate(row_of),
        tuple(places),
    )


class StoredPairs:
    """Pairs of one split as a `PairSource`, read from committed shards.

    keys, hosts   task_id and host_id of each pair
    shard_of      number of the shard that holds each pair
    """

    def __init__(self, rows: _Rows, shards: _Shards | None) -> None:
        self._rows, self._shards = rows, shards

    @classmethod
    def open(
        cls,
        pairs: Mapping[str, Dataset],
        splits: Mapping[str, Dataset],
        split: str,
        *,
        snr_floor_mf: float = 0.0,
        memory_mb: float = 0.0,
        where: str = "pairs",
    ) -> Self:
        """The pairs of a split that hold an arc of at least `snr_floor_mf`.

        pairs, splits   datasets of PAIRED_STAMPS and their SPLITS, by source

        Raises DataError for a repeated task_id, or for splits that are of other pairs.
        """

        def wanted(table: pa.Table) -> NDArray[np.bool_]:
            bright = pc.greater_equal(table.column("arc_snr_mf"), snr_floor_mf)
            lit = pc.and_(pc.is_null(table.column("reject")), pc.fill_null(bright, fill_value=False))
            return np.asarray(lit.to_numpy(), dtype=bool)

        rows = _rows_of(pairs, splits, split, "task_id", wanted, extra=("arc_snr_mf",))
        if len(set(rows.keys)) < len(rows.keys):
            raise DataError(where, "a task_id is repeated", "keys of random streams must be unique")
        if not rows.keys:
            return cls(rows, None)
        columns = ("stamp_npz", "ctrl_stamp_npz")
        return cls(rows, _Shards(pairs, rows, "task_id", columns, memory_mb=memory_mb, where=where))

    @property
    def rows(self) -> _Rows:
        """Where each pair lies."""
        return self._rows

    @property
    def keys(self) -> Sequence[str]:
        """task_id of each pair, unique."""
        return self._rows.keys

    @property
    def hosts(self) -> Sequence[str]:
        """host_id of each pair."""
        return self._rows.hosts

    @property
    def shard_of(self) -> NDArray[np.intp]:
        """Number of the shard that holds each pair."""
        return self._rows.shard

    def take(self, rows: Sequence[int]) -> PairBlock:
        """Pixels of the given pairs, in that order."""
        at = np.asarray(rows, dtype=np.intp)
        r = self._rows
        if self._shards is None:
            raise DataError("pairs", "hold no row to take")
        stamp, control = (self._shards.take(column, at) for column in ("stamp_npz", "ctrl_stamp_npz"))
        return PairBlock(stamp, control, r.x_center[at], r.y_center[at], r.domain[at])


class StoredHard:
    """Hard negatives of some pairs as a `HardSource`, read from shards that follow the pairs' row by row."""

    def __init__(self, usable: NDArray[np.bool_], shards: _Shards | None) -> None:
        self.usable, self._shards = usable, shards
        self._place = np.cumsum(usable) - 1

    @classmethod
    def open(
        cls,
        pairs: StoredPairs,
        hard: Mapping[str, Dataset],
        *,
        most_alike: float,
        memory_mb: float = 0.0,
        where: str = "hard negatives",
    ) -> Self:
        """The hard negatives of `pairs` (datasets of HARD_NEGATIVES by the same sources).

        most_alike   light that is the arc's to at least this correlation is no negative

        Raises DataError where the rows are not those of the pairs.
        """
        rows = pairs.rows
        usable = np.zeros(len(rows.keys), bool)
        for shard, (name, key) in enumerate(rows.places):
            table = hard[name].read_shard(key, ("task_id", "likeness", "reject"))
            here = np.flatnonzero(rows.shard == shard)
            found = table.take(pa.array(rows.row[here]))
            if found.column("task_id").to_pylist() != [rows.keys[k] for k in here]:
                problem = f"shard {key} does not follow the pairs row by row"
                raise DataError(hard[name].where, problem, "make the hard negatives again")
            other = pc.fill_null(pc.less(found.column("likeness"), most_alike), fill_value=False)
            kept = pc.and_(other, pc.is_null(found.column("reject")))
            usable[here] = np.asarray(kept.to_numpy(), dtype=bool)
        if not usable.any():
            return cls(usable, None)
        own = rows.subset(np.flatnonzero(usable))
        return cls(usable, _Shards(hard, own, "task_id", ("stamp_npz",), memory_mb=memory_mb, where=where))

    def take(self, rows: Sequence[int]) -> Planes:
        """Pixels of the hard negatives of the given pairs, in that order."""
        at = np.asarray(rows, dtype=np.intp)
        if self._shards is None or not self.usable[at].all():
            raise DataError("hard negatives", "were asked for where there are none", "look at `usable`")
        return self._shards.take("stamp_npz", self._place[at])


class StoredStamps:
    """Stamps without an arc that may stand in for a control, read from committed shards: disc galaxies."""

    def __init__(self, rows: _Rows, shards: _Shards) -> None:
        self._rows, self._shards = rows, shards

    @classmethod
    def open(
        cls,
        stamps: Mapping[str, Dataset],
        splits: Mapping[str, Dataset],
        split: str,
        *,
        kinds: Sequence[str] = ("disc",),
        memory_mb: float = 0.0,
        where: str = "stamps",
    ) -> Self | None:
        """The stamps of a split of the given kinds; None where there are none."""

        def wanted(table: pa.Table) -> NDArray[np.bool_]:
            plain = pc.and_(pc.is_null(table.column("arc_domain")), pc.is_null(table.column("reject")))
            kind = pc.is_in(table.column("kind"), value_set=pa.array(list(kinds)))
            return np.asarray(pc.and_(plain, kind).to_numpy(), dtype=bool)

        rows = _rows_of(stamps, splits, split, "target_id", wanted, extra=("kind", "arc_domain"))
        if not rows.keys:
            return None
        return cls(rows, _Shards(stamps, rows, "target_id", ("stamp_npz",), memory_mb=memory_mb, where=where))

    @property
    def keys(self) -> Sequence[str]:
        """target_id of each stamp."""
        return self._rows.keys

    @property
    def domain(self) -> NDArray[np.str_] | None:
        """host_domain of each stamp."""
        return self._rows.domain

    @property
    def shard_of(self) -> NDArray[np.intp]:
        """Number of the shard that holds each stamp."""
        return self._rows.shard

    def take(self, rows: Sequence[int]) -> tuple[Planes, NDArray[np.float64], NDArray[np.float64]]:
        """Pixels and centres of the given stamps, in that order."""
        at = np.asarray(rows, dtype=np.intp)
        return self._shards.take("stamp_npz", at), self._rows.x_center[at], self._rows.y_center[at]
