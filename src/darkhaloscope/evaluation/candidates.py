"""The best rows of a survey's scores and the histogram of all of them, in memory that does not grow.

Each shard is reduced by itself (`reduced`) and reductions are merged (`merged`), in any order and on any
engine: what comes out is what sorting everything would give. Rows without a score are counted, never ranked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import expit

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.store import Dataset
from darkhaloscope.contracts.tables import CANDIDATES, SCORES

SCORE_COLUMNS = ("score", "score_core_masked", "score_ctrl", "score_ctrl_core_masked")

LOGIT_EDGES: NDArray[np.float64] = np.arange(-10.0, 10.25, 0.25)
"""Bins of the histogram: even in the logit, since what a survey is searched for lies within 1e-3 of one."""

_CARRIED = tuple(c.name for c in CANDIDATES.columns if c.name in {s.name for s in SCORES.columns})
_COLUMNS = tuple(dict.fromkeys((*_CARRIED, *SCORE_COLUMNS)))
_ORDER = [("score", "descending"), ("row_id", "ascending")]


@dataclass(frozen=True, eq=False)
class Reduced:
    """What one shard, or many, come to.

    best     at most `top` scored rows, best first; equal scores in the order of row_id
    counts   by column of scores: rows below the first edge, in each bin, at or above the last edge
    rows     rows read, scored or not
    """

    top: int
    best: pa.Table
    counts: dict[str, NDArray[np.int64]]
    rows: int

    @property
    def histogram(self) -> dict[str, Any]:
        """The histograms as plain data. Bins are [lower, upper)."""
        return {
            "edges_logit": LOGIT_EDGES.tolist(),
            "edges_score": expit(LOGIT_EDGES).tolist(),
            "rows": self.rows,
            "columns": {
                name: {
                    "underflow": int(counts[0]),
                    "counts": counts[1:-1].tolist(),
                    "overflow": int(counts[-1]),
                    "without_score": self.rows - int(counts.sum()),
                }
                for name, counts in self.counts.items()
            },
        }


def reduced(rows: pa.Table, top: int) -> Reduced:
    """Rows of SCORES to their `top` best and their counts: a pure function of one shard.

    Raises DataError for a score that is NaN, which would be ranked by accident.
    """
    for name in SCORE_COLUMNS:
        if pc.any(pc.is_nan(rows.column(name))).as_py():
            raise DataError("scores", f"hold NaN in '{name}'", "score the dataset again")
    return Reduced(top, _best(rows.select(list(_CARRIED)), top), _counts(rows), rows.num_rows)


def merged(a: Reduced, b: Reduced) -> Reduced:
    """Two reductions as one; the order does not matter. DataError unless both keep equally many rows."""
    if a.top != b.top:
        raise DataError("candidates", f"the best {a.top} cannot be merged with the best {b.top}")
    best = _best(pa.concat_tables([a.best, b.best]), a.top)
    return Reduced(a.top, best, {name: a.counts[name] + b.counts[name] for name in a.counts}, a.rows + b.rows)


def reduced_dataset(scores: Dataset, top: int) -> Reduced:
    """All shards of a dataset of SCORES, one in memory at a time. Raises SchemaMismatch for another table."""
    scores.expect(SCORES)
    nothing = reduced(SCORES.schema.empty_table(), top)
    shards = (reduced(scores.read_shard(key, _COLUMNS), top) for key in scores.keys)
    return reduce(merged, shards, nothing)


def candidates(found: Reduced, scores: Dataset, source: Dataset | None = None) -> pa.Table:
    """CANDIDATES of a reduction, best first.

    source   the stamps or pairs that were scored, for positions on the sky; null without

    Raises DataError where the scores were made of another dataset.
    """
    best = found.best
    places = {} if source is None else _positions(scores, source, best.column("row_id"))
    where = [places.get(row, (None, None)) for row in best.column("row_id").to_pylist()]
    return CANDIDATES.conform(
        {
            "rank": np.arange(1, best.num_rows + 1),
            **{name: best.column(name) for name in _CARRIED},
            "ra_deg": [ra for ra, _ in where],
            "dec_deg": [dec for _, dec in where],
            "scores": [scores.fingerprint] * best.num_rows,
        }
    )


def _positions(
    scores: Dataset, source: Dataset, wanted: pa.ChunkedArray
) -> dict[str, tuple[float | None, float | None]]:
    """Right ascension and declination of the wanted rows [deg], by row_id."""
    if scores.manifest.inputs.get("source") != source.fingerprint:
        raise DataError(scores.where, f"are not the scores of {source.where}", "name the dataset they are of")
    names = wanted.combine_chunks()
    return {row: place for key in source.keys for row, place in _places(source, key, names)}


def _places(source: Dataset, shard: str, wanted: pa.Array) -> Iterator[tuple[str, tuple[Any, Any]]]:
    key = source.table.key
    rows = source.read_shard(shard, [key, "ra_deg", "dec_deg"])
    rows = rows.filter(pc.is_in(rows.column(key), value_set=wanted))
    names, ra, dec = (rows.column(name).to_pylist() for name in (key, "ra_deg", "dec_deg"))
    return zip(names, zip(ra, dec, strict=True), strict=True)


def _best(rows: pa.Table, top: int) -> pa.Table:
    scored = rows.filter(pc.is_valid(rows.column("score")))
    return scored.sort_by(_ORDER).slice(0, top).combine_chunks()


def _counts(rows: pa.Table) -> dict[str, NDArray[np.int64]]:
    edges = expit(LOGIT_EDGES)
    found = {}
    for name in SCORE_COLUMNS:
        scores = rows.column(name).drop_null().to_numpy()
        places = np.searchsorted(edges, scores, side="right")
        found[name] = np.bincount(places, minlength=len(edges) + 1).astype(np.int64)
    return found
