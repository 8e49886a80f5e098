"""Ranking shard by shard is ranking everything: ties, nulls and the number of shards included."""

import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkhaloscope.contracts.errors import DataError, SchemaMismatch
from darkhaloscope.contracts.store import local_writer, write_rows, write_tables
from darkhaloscope.contracts.tables import CANDIDATES, SCORES, STAMPS
from darkhaloscope.evaluation.candidates import (
    LOGIT_EDGES,
    SCORE_COLUMNS,
    candidates,
    merged,
    reduced,
    reduced_dataset,
)

SCORED = st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))


def score_rows(scores, ids=None):
    table = SCORES.mock(len(scores)).to_pydict()
    ids = [f"row-{k:04d}" for k in range(len(scores))] if ids is None else ids
    return SCORES.conform({**table, "row_id": ids, "score": pa.array(scores, pa.float64())})


def sorted_all(rows, top):
    """What sorting every row in memory gives."""
    kept = [row for row in rows.to_pylist() if row["score"] is not None]
    kept.sort(key=lambda row: (-row["score"], row["row_id"].encode()))
    return kept[:top]


def counted_all(rows, name):
    """Rows below, in, and above the bins, one at a time."""
    edges = 1 / (1 + np.exp(-LOGIT_EDGES))
    counts = [0] * (len(edges) + 1)
    for score in rows[name].to_pylist():
        if score is not None:
            counts[int(np.sum(edges <= score))] += 1
    return counts


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(SCORED, min_size=1, max_size=60),
    top=st.integers(1, 70),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    seed=st.integers(0, 99),
)
def test_shards_in_any_order_give_what_sorting_everything_gives(scores, top, cuts, seed):
    rng = np.random.default_rng(seed)
    rows = score_rows(scores, [f"row-{k:04d}" for k in rng.permutation(len(scores))])
    edges = sorted({0, len(scores), *(cut for cut in cuts if cut < len(scores))})
    parts = [reduced(rows.slice(a, b - a), top) for a, b in pairwise(edges)]
    order = rng.permutation(len(parts))
    whole = parts[order[0]]
    for k in order[1:]:
        whole = merged(whole, parts[k])
    want = sorted_all(rows, top)
    assert whole.best.to_pylist() == [{name: row[name] for name in whole.best.column_names} for row in want]
    assert whole.rows == len(scores)
    for name in SCORE_COLUMNS:
        assert whole.counts[name].tolist() == counted_all(rows, name)


def test_equal_scores_follow_their_names_and_nulls_are_counted_not_ranked():
    rows = score_rows([0.5, None, 0.5, 0.9, None], ["c", "a", "b", "z", "y"])
    found = reduced(rows, 10)
    assert found.best["row_id"].to_pylist() == ["z", "b", "c"]
    assert found.histogram["columns"]["score"]["without_score"] == 2
    with pytest.raises(DataError, match="hold NaN in 'score'"):
        reduced(score_rows([0.5, float("nan")]), 10)


def test_what_lies_beyond_the_bins_is_counted():
    histogram = reduced(score_rows([0.0, 1e-9, 0.5, 0.5000001, 1 - 1e-9, 1.0]), 1).histogram
    column = histogram["columns"]["score"]
    assert (column["underflow"], column["overflow"]) == (2, 2)
    assert sum(column["counts"]) == 2
    at = histogram["edges_logit"].index(0.0)
    assert column["counts"][at] == 2  # a score on an edge belongs to the bin above
    assert json.loads(json.dumps(histogram)) == histogram


def test_reductions_of_different_length_are_not_merged():
    rows = score_rows([0.1, 0.2])
    with pytest.raises(DataError, match="the best 1 cannot be merged with the best 2"):
        merged(reduced(rows, 1), reduced(rows, 2))


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """(scores, stamps): 90 rows in shards of 20, every seventh rejected, half without a position."""
    folder, n = tmp_path_factory.mktemp("scored"), 90
    ids = [f"t{k:03d}" for k in range(n)]
    reject = ["no_brick" if k % 7 == 0 else None for k in range(n)]
    sky = STAMPS.mock(n).to_pydict() | {"target_id": ids, "reject": reject}
    sky |= {
        "ra_deg": [float(k) if k % 2 else None for k in range(n)],
        "dec_deg": [-1.0 * k if k % 2 else None for k in range(n)],
    }
    stamps = write_rows(
        local_writer(folder / "stamps", STAMPS), STAMPS.conform(sky), shard_rows=20, job={"job": "test"}
    )
    rng = np.random.default_rng(5)
    values = [None if r else float(np.round(v, 1)) for r, v in zip(reject, rng.random(n), strict=True)]
    table = SCORES.mock(n).to_pydict() | {"row_id": ids, "score": values, "reject": reject}
    rows = SCORES.conform(table)
    shards = [rows.slice(start, 20) for start in range(0, n, 20)]
    inputs = {"source": stamps.fingerprint}
    writer = local_writer(folder / "scores", SCORES)
    return write_tables(writer, shards, job={"job": "test"}, inputs=inputs), stamps


def test_a_dataset_is_ranked_with_positions_facts_and_its_fingerprint(scored):
    scores, stamps = scored
    table = candidates(reduced_dataset(scores, 40), scores, stamps)
    assert table.schema == CANDIDATES.schema
    assert CANDIDATES.check(table).all_passed
    want = sorted_all(scores.read(), 40)
    for rank, (row, full) in enumerate(zip(table.to_pylist(), want, strict=True), start=1):
        k = int(row["row_id"][1:])
        place = (float(k), -1.0 * k) if k % 2 else (None, None)
        assert (row["rank"], row["ra_deg"], row["dec_deg"]) == (rank, *place)
        assert row["scores"] == scores.fingerprint
        for name in ("row_id", "score", "score_core_masked", "target_id", "kind", "psfdepth_r"):
            assert row[name] == full[name]
    assert candidates(reduced_dataset(scores, 3), scores)["ra_deg"].null_count == 3


def test_more_candidates_than_scores_are_all_scores(scored):
    scores, _ = scored
    assert reduced_dataset(scores, 1000).best.num_rows == 90 - 13


def test_scores_of_another_dataset_and_other_tables_are_refused(scored, tmp_path):
    scores, stamps = scored
    other = write_rows(
        local_writer(tmp_path / "o", STAMPS), STAMPS.mock(3), shard_rows=3, job={"job": "test"}
    )
    with pytest.raises(DataError, match="are not the scores of"):
        candidates(reduced_dataset(scores, 3), scores, other)
    with pytest.raises(SchemaMismatch, match="holds stamps, but scores is needed"):
        reduced_dataset(stamps, 3)
