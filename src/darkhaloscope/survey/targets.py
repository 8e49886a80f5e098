"""Where stamps are wanted: positions become rows of TARGETS, laid out so that a brick is opened once."""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.tables import TARGETS
from darkhaloscope.survey.brick_grid import brick_of
from darkhaloscope.survey.release import Release, healpix_cell, sky_group

SHARD_ROWS = 512
"""A shard of targets holds whole bricks and no more rows than this: 60 MB of stamps of 64 pixels."""
MOST_ROWS = 1024
"""A brick of more targets than this is cut into several shards, to bound the memory of its reader."""
_BUCKETS = 64


def make_targets(
    ra_deg: Sequence[float],
    dec_deg: Sequence[float],
    *,
    release: Release,
    source: str,
    kind: str = "lrg",
    category: str | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    where: str = "targets",
) -> pa.Table:
    """Rows of TARGETS with real hosts at positions [deg]; kind lens: their arcs are real too.

    columns   further columns of TARGETS by name: target_id (default: the name, else the position), name, …

    Bricks are the survey's grid where `brickname` is not given. DataError for positions off the sphere and
    for ids that repeat.
    """
    bricks = brick_of(ra_deg, dec_deg)
    ra = np.asarray(ra_deg, dtype=np.float64) % 360.0
    dec = np.asarray(dec_deg, dtype=np.float64)
    given = dict(columns or {})
    n = len(ra)
    names = given.get("name", [None] * n)
    ids = given.pop("target_id", None) or [
        str(name) if name else f"J{a:010.6f}{d:+010.6f}" for name, a, d in zip(names, ra, dec, strict=True)
    ]
    _refuse_repeated(ids, where)
    cells = healpix_cell(ra, dec).tolist()
    arc = "real" if kind == "lens" else None
    rows: dict[str, Any] = {
        "target_id": ids,
        "host_id": ids,
        "kind": [kind] * n,
        "category": [category] * n,
        "host_domain": ["real"] * n,
        "arc_domain": [arc] * n,
        "release": [release.name] * n,
        "brickname": bricks.name.tolist(),
        "ra_deg": ra,
        "dec_deg": dec,
        "cell": cells,
        "group": [sky_group(cell, host) for cell, host in zip(cells, ids, strict=True)],
        "source": [source] * n,
    }
    return TARGETS.conform(rows | given, where=where)


def _refuse_repeated(ids: Sequence[str], where: str) -> None:
    seen: set[str] = set()
    for number, name in enumerate(ids, start=1):
        if name in seen:
            raise DataError(f"{where} row {number}", f"repeats the target '{name}'", "name each target once")
        seen.add(name)


def by_brick(
    tables: Iterable[pa.Table],
    scratch: Path,
    *,
    shard_rows: int = SHARD_ROWS,
    repeated: Counter[str] | None = None,
) -> Iterator[pa.Table]:
    """Targets in any order and number as shards of whole bricks, from south to north.

    tables    rows of TARGETS, e.g. a stream over the sweeps; never more than one is in memory
    scratch   folder for the rows on their way; it is emptied first and removed afterwards
    repeated  counts targets that came before (files of a survey overlap): they are kept once

    Rows without pixels to come (a reject code) are kept with their brick. Order within a shard: brick, then
    target_id; so the shards do not depend on how the tables were cut.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        buckets = _spill(tables, scratch)
        held: list[pa.Table] = []
        for bucket in buckets:
            for brick in _bricks_of(_kept_once(pq.read_table(bucket, schema=TARGETS.schema), repeated)):
                if held and sum(piece.num_rows for piece in held) + brick.num_rows > shard_rows:
                    yield pa.concat_tables(held)
                    held = []
                held.append(brick)
        if held:
            yield pa.concat_tables(held)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _spill(tables: Iterable[pa.Table], scratch: Path) -> list[Path]:
    """Rows by band of declination, each band a Parquet file; names sort from south to north."""
    writers: dict[int, pq.ParquetWriter] = {}
    try:
        for table in tables:
            bands = _declination_band(table)
            for band in np.unique(bands).tolist():
                if band not in writers:
                    writers[band] = pq.ParquetWriter(_bucket(scratch, band), TARGETS.schema)
                writers[band].write_table(table.filter(pa.array(bands == band)))
    finally:
        for writer in writers.values():
            writer.close()
    return [_bucket(scratch, band) for band in sorted(writers)]


def _bucket(scratch: Path, band: int) -> Path:
    return scratch / f"{band:03d}.parquet"


def _declination_band(table: pa.Table) -> NDArray[np.int64]:
    """Bands of equal area; a brick lies in the band of its name, so that none is cut."""
    names = table.column("brickname").to_pylist()
    dec = np.array([(1.0 if name[4] == "p" else -1.0) * float(name[5:]) / 10.0 for name in names])
    height = 0.5 * (1.0 + np.sin(np.radians(np.clip(dec, -90.0, 90.0))))
    return np.asarray(np.minimum((_BUCKETS * height).astype(np.int64), _BUCKETS - 1))


def _kept_once(table: pa.Table, repeated: Counter[str] | None) -> pa.Table:
    """Rows by brick and target, each target once: the same object has the same brick in every file."""
    ordered = table.sort_by([("brickname", "ascending"), ("target_id", "ascending")])
    names = ordered.column("target_id").to_pylist()
    again = [k > 0 and name == names[k - 1] for k, name in enumerate(names)]
    if not any(again):
        return ordered
    if repeated is not None:
        repeated["repeated"] += sum(again)
    return ordered.filter(pa.array([not twice for twice in again]))


def _bricks_of(ordered: pa.Table) -> Iterator[pa.Table]:
    """One table per brick (a crowded one in pieces), in order of names."""
    names = ordered.column("brickname").combine_chunks()
    runs = pc.run_end_encode(names)
    start = 0
    for end in runs.run_ends.to_pylist():
        for first in range(start, end, MOST_ROWS):
            yield ordered.slice(first, min(MOST_ROWS, end - first))
        start = end
