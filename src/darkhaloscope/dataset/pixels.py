"""Pairs and lone stamps with their pixels decoded, ready for training and for gates. No PyTorch here.

Arrays are float32 (n, band, y, x) in nanomaggies, centres 0-based pixel positions (n,).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Float32
from numpy.typing import NDArray

from darkhaloscope.contracts.errors import DataError, StampError
from darkhaloscope.stamps.stamp import decode_planes

PAIR_COLUMNS = (
    "task_id", "host_id", "host_domain", "stamp_npz", "ctrl_stamp_npz",
    "x_center_pix", "y_center_pix", "arc_snr_mf", "reject",
)  # fmt: skip
NEGATIVE_COLUMNS = (
    "target_id", "host_id", "host_domain", "kind", "arc_domain", "stamp_npz",
    "x_center_pix", "y_center_pix", "reject",
)  # fmt: skip


@dataclass(frozen=True)
class PairBlock:
    """Pixels of some pairs: float32 (n, band, y, x) [nmgy]; centres (n,) [pix]; host_domain (n,) if known."""

    stamp: Float32[np.ndarray, "n band y x"]
    control: Float32[np.ndarray, "n band y x"]
    x_center: Float[np.ndarray, "n"]
    y_center: Float[np.ndarray, "n"]
    domain: NDArray[np.str_] | None = None


class PairSource(Protocol):
    """What a dataset of pairs asks of its storage: names now, pixels when they are needed.

    `keys` and `hosts` are narrow and held in memory; `take` may read and decode lazily.
    """

    @property
    def keys(self) -> Sequence[str]:
        """task_id of each pair, unique."""
        ...

    @property
    def hosts(self) -> Sequence[str]:
        """host_id of each pair."""
        ...

    @property
    def shard_of(self) -> NDArray[np.intp]:
        """Number of the shard that holds each pair: orders keep to some shards at a time."""
        ...

    def take(self, rows: Sequence[int]) -> PairBlock:
        """Pixels of the given rows, in that order."""
        ...


class StampSource(Protocol):
    """Stamps without an arc that may stand in for a control."""

    @property
    def keys(self) -> Sequence[str]:
        """target_id of each stamp."""
        ...

    @property
    def domain(self) -> NDArray[np.str_] | None:
        """host_domain of each stamp; None where it is not known."""
        ...

    @property
    def shard_of(self) -> NDArray[np.intp]:
        """Number of the shard that holds each stamp."""
        ...

    def take(
        self, rows: Sequence[int]
    ) -> tuple[Float32[np.ndarray, "n band y x"], NDArray[np.float64], NDArray[np.float64]]:
        """Pixels [nmgy] and centres [pix] of the given rows, in that order."""
        ...


class HardSource(Protocol):
    """Hard negatives made beforehand, one for each row of a `PairSource` or none."""

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Which pairs have one."""
        ...

    def take(self, rows: Sequence[int]) -> Float32[np.ndarray, "n band y x"]:
        """Pixels [nmgy] of the hard negatives of the given pairs, all of them usable, in that order."""
        ...


@dataclass(frozen=True)
class Pairs:
    """Pairs decoded once and held in memory (98 kB for a pair of 64 px stamps)."""

    keys: tuple[str, ...]
    hosts: tuple[str, ...]
    block: PairBlock

    @property
    def shard_of(self) -> NDArray[np.intp]:
        """All in one place."""
        return np.zeros(len(self.keys), np.intp)

    def take(self, rows: Sequence[int]) -> PairBlock:
        """Pixels of the given rows."""
        at = np.asarray(rows, dtype=np.intp)
        b = self.block
        domain = None if b.domain is None else b.domain[at]
        return PairBlock(b.stamp[at], b.control[at], b.x_center[at], b.y_center[at], domain)

    @classmethod
    def read(cls, rows: pa.Table, *, snr_floor_mf: float = 0.0, where: str = "paired_stamps") -> Self:
        """Decode the PAIRED_STAMPS rows that hold an arc, in the order of their task_id.

        snr_floor_mf   least arc_snr_mf, where a split has not already set fainter rows aside

        Raises DataError when no row is left or a task_id is repeated, StampError for a blob that is not a
        finite stamp, naming `where` and the task.
        """
        kept = usable(rows, snr_floor_mf=snr_floor_mf)
        if kept.num_rows == 0:
            raise DataError(
                where,
                f"holds no pair with an arc of arc_snr_mf >= {snr_floor_mf:g} ({rows.num_rows} rows read)",
                "lower snr_floor_mf or draw more pairs",
            )
        keys = tuple(kept.column("task_id").to_pylist())
        if len(set(keys)) < len(keys):
            raise DataError(where, "a task_id is repeated", "keys of random streams must be unique")
        block = PairBlock(
            decode_column(kept, "task_id", "stamp_npz", where=where),
            decode_column(kept, "task_id", "ctrl_stamp_npz", where=where),
            *centres(kept),
            np.asarray(kept.column("host_domain").to_pylist(), dtype=str),
        )
        if block.stamp.shape != block.control.shape:
            raise DataError(where, f"stamps are {block.stamp.shape[1:]}, controls {block.control.shape[1:]}")
        return cls(keys, tuple(kept.column("host_id").to_pylist()), block)


@dataclass(frozen=True)
class Negatives:
    """Stamps without an arc that may stand in for a control: disc galaxies."""

    keys: tuple[str, ...]
    stamp: Float32[np.ndarray, "n band y x"]
    x_center: Float[np.ndarray, "n"]
    y_center: Float[np.ndarray, "n"]
    domain: NDArray[np.str_] | None = None

    @property
    def shard_of(self) -> NDArray[np.intp]:
        """All in one place."""
        return np.zeros(len(self.keys), np.intp)

    def take(
        self, rows: Sequence[int]
    ) -> tuple[Float32[np.ndarray, "n band y x"], NDArray[np.float64], NDArray[np.float64]]:
        """Pixels and centres of the given rows."""
        at = np.asarray(rows, dtype=np.intp)
        return self.stamp[at], self.x_center[at], self.y_center[at]

    @classmethod
    def read(cls, rows: pa.Table, *, kinds: Sequence[str] = ("disc",), where: str = "stamps") -> Self | None:
        """Decode the STAMPS rows of the given kinds that hold no arc; None where there are none.

        Raises StampError for a blob that is not a finite stamp, naming `where` and the target.
        """
        wanted = pc.and_(
            pc.is_in(rows.column("kind"), value_set=pa.array(list(kinds))),
            pc.and_(pc.is_null(rows.column("arc_domain")), pc.is_null(rows.column("reject"))),
        )
        kept = rows.filter(wanted).sort_by("target_id")
        if kept.num_rows == 0:
            return None
        stamps = decode_column(kept, "target_id", "stamp_npz", where=where)
        domain = np.asarray(kept.column("host_domain").to_pylist(), dtype=str)
        return cls(tuple(kept.column("target_id").to_pylist()), stamps, *centres(kept), domain)


def usable(rows: pa.Table, *, snr_floor_mf: float) -> pa.Table:
    """PAIRED_STAMPS rows with pixels and an arc at or above the floor, sorted by task_id."""
    bright = pc.fill_null(pc.greater_equal(rows.column("arc_snr_mf"), snr_floor_mf), fill_value=False)
    return rows.filter(pc.and_(pc.is_null(rows.column("reject")), bright)).sort_by("task_id")


def decode_column(
    rows: pa.Table, key: str, column: str, prefix: str = "image", *, where: str = ""
) -> Float32[np.ndarray, "n band y x"]:
    """The stamps in a column of blobs [nmgy].

    key      the column that names a row in an error
    prefix   of the planes' names in a blob

    Raises StampError for a blob that is not a stamp, is not finite, or differs in size from those before it.
    """
    cubes: list[np.ndarray] = []
    for name, blob in zip(rows.column(key).to_pylist(), rows.column(column), strict=True):
        place = f"{where} {name} {column}".lstrip()
        cube = decode_planes(blob.as_py(), prefix, where=place)
        if not np.isfinite(cube).all():
            raise StampError(place, "holds values that are not finite", "reject the row as not_finite")
        if cubes and cube.shape != cubes[0].shape:
            raise StampError(place, f"is {cube.shape}, others are {cubes[0].shape}", "harvest with one size")
        cubes.append(cube)
    return np.stack(cubes).astype(np.float32, copy=False)


def centres(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Position of each row's target: x and y [pix], float64."""
    columns = (rows.column("x_center_pix"), rows.column("y_center_pix"))
    x, y = (np.asarray(column.to_numpy(), dtype=np.float64) for column in columns)
    return x, y
