"""Targets: one row per object, laid out so that a brick is opened once, whatever order they came in."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.tables import TARGETS
from darkhaloscope.survey.brick_grid import brick_area_deg2, brick_of
from darkhaloscope.survey.release import RELEASES
from darkhaloscope.survey.targets import MOST_ROWS, by_brick, make_targets

SOUTH = RELEASES["dr10-south"]


def some(n, seed=1, width=1.0):
    rng = np.random.default_rng(seed)
    ra = (359.5 + width * rng.random(n)) % 360
    return make_targets(ra, -0.5 + width * rng.random(n), release=SOUTH, source="test")


def test_rows_keep_the_contract_and_know_their_brick():
    rows = some(50)
    assert TARGETS.check(rows).all_passed
    bricks = brick_of(rows.column("ra_deg").to_numpy(), rows.column("dec_deg").to_numpy())
    assert rows.column("brickname").to_pylist() == bricks.name.tolist()
    assert rows.column("group").to_pylist() == [f"cell:{c}" for c in rows.column("cell").to_pylist()]
    assert rows.column("arc_domain").null_count == 50


def test_a_lens_has_a_real_arc():
    rows = make_targets([10.0], [1.0], release=SOUTH, source="t", kind="lens", columns={"name": ["L1"]})
    (row,) = rows.to_pylist()
    assert (row["target_id"], row["arc_domain"]) == ("L1", "real")


def test_a_target_named_twice_is_refused_with_its_row():
    with pytest.raises(DataError, match="list row 3: repeats the target 'A'"):
        make_targets(
            [1, 2, 3], [1, 2, 3], release=SOUTH, source="t", columns={"name": ["A", "B", "A"]}, where="list"
        )


def test_positions_a_tenth_of_an_arcsecond_apart_have_names_of_their_own():
    rows = make_targets([10.0, 10.0 + 0.1 / 3600], [1.0, 1.0], release=SOUTH, source="t")
    assert len(set(rows.column("target_id").to_pylist())) == 2


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 60), max_size=4), shard=st.integers(1, 50))
def test_shards_do_not_depend_on_the_order_of_the_rows(tmp_path, seed, cuts, shard):
    rows = some(60)
    whole = list(by_brick([rows], tmp_path / "a", shard_rows=shard))
    mixed = rows.take(np.random.default_rng(seed).permutation(60))
    edges = sorted({0, 60, *cuts})
    pieces = [mixed.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    assert [t.to_pylist() for t in by_brick(pieces, tmp_path / "b", shard_rows=shard)] == [
        t.to_pylist() for t in whole
    ]
    assert not (tmp_path / "b").exists()


def test_no_brick_is_cut_and_no_row_lost(tmp_path):
    rows = some(400)
    shards = list(by_brick([rows], tmp_path / "s", shard_rows=40))
    owners = {}
    for number, shard in enumerate(shards):
        for brick in set(shard.column("brickname").to_pylist()):
            assert owners.setdefault(brick, number) == number
    kept = pa.concat_tables(shards).column("target_id").to_pylist()
    assert sorted(kept) == sorted(rows.column("target_id").to_pylist())
    assert len(shards) > 5


def test_a_crowded_brick_is_read_in_pieces(tmp_path):
    rng = np.random.default_rng(2)
    n = 2 * MOST_ROWS + 5
    rows = make_targets(10 + 0.1 * rng.random(n), 0.05 * rng.random(n), release=SOUTH, source="t")
    assert set(rows.column("brickname").to_pylist()) == {rows.column("brickname")[0].as_py()}
    assert [s.num_rows for s in by_brick([rows], tmp_path / "s")] == [MOST_ROWS, MOST_ROWS, 5]


def test_the_bricks_cover_the_sphere_once():
    dec = np.arange(-90.0, 90.01, 0.25)
    first = brick_of(np.zeros(len(dec)), dec)
    columns = np.diff([*first.brickid, first.brickid[-1] + 1])
    assert (columns * brick_area_deg2(dec)).sum() == pytest.approx(129600 / np.pi)
    assert brick_area_deg2(0.0)[0] == pytest.approx(0.0625, rel=1e-5)
