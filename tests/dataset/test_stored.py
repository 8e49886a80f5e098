"""Pairs in their shards: the same pixels as in memory, each row once an epoch, whoever reads them."""

import pickle
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from darkhaloscope.contracts.errors import DataError, StampError
from darkhaloscope.contracts.store import local_writer, open_dataset, write_rows
from darkhaloscope.contracts.tables import PAIRED_STAMPS, STAMPS
from darkhaloscope.dataset import stored
from darkhaloscope.dataset.pairs import EpochOrder, EvenBatches, PairDataset, collate, windows
from darkhaloscope.dataset.pixels import Negatives, Pairs
from darkhaloscope.dataset.sampling import PairSampling
from darkhaloscope.dataset.splits import (
    AssignSplits,
    AssignTargetSplits,
    SplitConfig,
    group_counts,
    plan_splits,
)
from darkhaloscope.dataset.stored import StoredPairs, StoredStamps
from darkhaloscope.injection.inject import Inject
from darkhaloscope.stamps.harvest import HarvestSky
from darkhaloscope.stamps.preprocess import Preprocess
from darkhaloscope.stamps.stamp import decode_planes, encode_planes
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.sky import plan_bricks

SEED = 5


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(stamps, pairs, target splits, pair splits, rows of pairs, rows of stamps), in shards of nine rows."""
    folder = tmp_path_factory.mktemp("stored")
    sky = HarvestSky(seed=SEED).run(plan_bricks(SEED, 16, 8, priors=SkyPriors(), anchors=0))
    pairs = Inject(seed=SEED).run(sky)
    plan = plan_splits([group_counts(pairs)], SplitConfig(block_nside=64))
    plan |= {group: "train" for group in group_counts(sky) if group not in plan}
    tables = {
        "sky": sky,
        "pairs": pairs,
        "splits": AssignTargetSplits(plan=plan).run(sky),
        "pair-splits": AssignSplits(plan=plan).run(pairs),
    }
    kinds = {"sky": STAMPS, "pairs": PAIRED_STAMPS}
    for name, rows in tables.items():
        table = kinds.get(name, AssignSplits.writes)
        write_rows(local_writer(folder / name, table), rows, shard_rows=9, job={"job": name})
    return {name: open_dataset(folder / name) for name in tables} | {"rows": tables}


def stored_pairs(made, split="train", **given):
    return StoredPairs.open({"sky": made["pairs"]}, {"sky": made["pair-splits"]}, split, **given)


def stored_discs(made, **given):
    return StoredStamps.open({"sky": made["sky"]}, {"sky": made["splits"]}, "train", **given)


@pytest.fixture(scope="module")
def held(made):
    """The same train pairs decoded from the table."""
    marks = made["rows"]["pair-splits"]
    wanted = [
        s == "train" and r is None
        for s, r in zip(marks["split"].to_pylist(), marks["reject"].to_pylist(), strict=True)
    ]
    return Pairs.read(made["rows"]["pairs"].filter(pa.array(wanted)))


@pytest.mark.parametrize("memory_mb", [0.0, 4096.0])
def test_pixels_are_those_of_the_table_in_any_order(made, held, memory_mb):
    pairs = stored_pairs(made, memory_mb=memory_mb)
    assert sorted(pairs.keys) == sorted(held.keys)
    assert len(pairs.keys) > 30
    assert len(set(pairs.shard_of)) > 3
    order = np.random.default_rng(1).permutation(len(pairs.keys)).tolist()
    found = pairs.take(order)
    expected = held.take([held.keys.index(pairs.keys[k]) for k in order])
    for name in ("stamp", "control", "x_center", "y_center", "domain"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert [pairs.hosts[k] for k in order] == [held.hosts[held.keys.index(pairs.keys[k])] for k in order]


def test_discs_are_those_of_the_table(made):
    discs = stored_discs(made)
    marks = made["rows"]["splits"]
    wanted = [
        s == "train" and r is None
        for s, r in zip(marks["split"].to_pylist(), marks["reject"].to_pylist(), strict=True)
    ]
    held = Negatives.read(made["rows"]["sky"].filter(pa.array(wanted)))
    assert sorted(discs.keys) == sorted(held.keys)
    stamp, x, y = discs.take([3, 0])
    at = [held.keys.index(discs.keys[k]) for k in (3, 0)]
    assert np.array_equal(stamp, held.stamp[at])
    assert np.array_equal(x, held.x_center[at])
    assert np.array_equal(y, held.y_center[at])
    assert stored_discs(made, kinds=("contaminant",)) is None


def epoch_of(rows, *, epoch=0, batch_size=8, workers=0, ranks=1):
    """Rows of an epoch by key, and how often each came, over all ranks."""
    found, times = {}, Counter()
    for rank in range(ranks):
        batches = EvenBatches(rows.order(epoch=epoch), batch_size, rank=rank, ranks=ranks)
        loader = DataLoader(
            rows, batch_sampler=batches, collate_fn=collate, num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
        )  # fmt: skip
        for batch in loader:
            for i, key in enumerate(batch.keys):
                found[key] = batch.x[2 * i : 2 * i + 2].numpy()
                times[key] += 1
    return found, times


def dataset(made, sampling, memory_mb=0.0):
    return PairDataset(
        stored_pairs(made, memory_mb=memory_mb), sampling, Preprocess(kind="asinh"), seed=SEED,
        negatives=stored_discs(made, memory_mb=memory_mb),
    )  # fmt: skip


@pytest.mark.parametrize("paired", [True, False])
def test_an_epoch_does_not_depend_on_workers_ranks_batch_size_or_memory(made, paired):
    sampling = PairSampling(paired=paired, window_shards=2)
    reference, times = epoch_of(dataset(made, sampling))
    assert set(times.values()) == {1}
    for options in ({"workers": 2}, {"ranks": 2}, {"ranks": 3, "batch_size": 5}, {"batch_size": 50}):
        found, times = epoch_of(dataset(made, sampling), **options)
        assert set(times.values()) == {1}, options
        assert found.keys() == reference.keys(), options
        assert all(np.array_equal(found[key], reference[key]) for key in found), options
    in_memory, _ = epoch_of(dataset(made, sampling, memory_mb=4096.0))
    assert all(np.array_equal(in_memory[key], reference[key]) for key in reference)
    other, _ = epoch_of(dataset(made, sampling), epoch=1)
    assert not all(np.array_equal(other[key], reference[key]) for key in reference)


def test_the_window_changes_the_order_and_the_partners(made):
    wide, narrow = (dataset(made, PairSampling(paired=False, window_shards=n)) for n in (16, 1))
    assert list(wide.order()) != list(narrow.order())
    a, b = epoch_of(wide)[0], epoch_of(narrow)[0]
    assert any(not np.array_equal(a[key], b[key]) for key in a)


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=200),
    st.integers(1, 5), st.integers(1, 40), st.integers(1, 5), st.integers(0, 3),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_every_row_comes_once_for_any_number_of_shards_ranks_and_rows(shards, window, size, ranks, epoch):
    shard_of = np.array(sorted(shards))
    order = EpochOrder(shard_of, seed=1, epoch=epoch, window_shards=window)
    if len(shards) < ranks:
        with pytest.raises(DataError, match="cannot be shared"):
            EvenBatches(order, size, ranks=ranks)
        return
    dealt = [list(EvenBatches(order, size, rank=rank, ranks=ranks)) for rank in range(ranks)]
    assert len({len(batches) for batches in dealt}) == 1
    assert len(dealt[0]) == len(EvenBatches(order, size, ranks=ranks))
    sizes = [len(batch) for batches in dealt for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= size
    rows = [row for batches in dealt for batch in batches for _, row in batch]
    assert sorted(rows) == list(range(len(shards)))


def test_an_order_keeps_to_a_window_of_shards_and_mixes_within_it():
    shard_of = np.repeat(np.arange(12), 30)
    order = [row for _, row in EpochOrder(shard_of, seed=1, window_shards=3)]
    seen = shard_of[order].reshape(4, 90)
    assert all(len(set(part)) == 3 for part in seen)
    assert all(np.count_nonzero(np.diff(part)) > 30 for part in seen)  # not shard after shard
    again = [row for _, row in EpochOrder(shard_of, seed=1, epoch=1, window_shards=3)]
    assert {frozenset(part) for part in seen} != {frozenset(part) for part in shard_of[again].reshape(4, 90)}
    assert sorted(windows(12, 1, 0, 3).tolist()) == sorted([0, 1, 2, 3] * 3)


def test_each_shard_is_opened_once_in_an_epoch(made, monkeypatch):
    opened = Counter()
    read = stored._Shards._opened

    def counted(self, shard):
        opened[self.where, shard] += 1
        return read(self, shard)

    monkeypatch.setattr(stored._Shards, "_opened", counted)
    monkeypatch.setattr(stored, "KEPT_SHARDS", 3)
    pairs = stored_pairs(made)
    rows = PairDataset(pairs, PairSampling(window_shards=2), Preprocess(kind="asinh"), seed=1)
    for batch in EvenBatches(rows.order(), 4):
        rows.__getitems__(batch)
    assert len(opened) == len(set(pairs.shard_of))
    assert set(opened.values()) == {1}


def test_open_shards_do_not_travel_to_another_process(made):
    pairs = stored_pairs(made)
    pairs.take([0])
    again = pickle.loads(pickle.dumps(pairs))
    assert not again._shards._open
    assert np.array_equal(again.take([1]).stamp, pairs.take([1]).stamp)


def rewritten(tmp_path, made, change):
    rows = made["rows"]["pairs"].to_pylist()
    change(rows)
    writer = local_writer(tmp_path / "changed", PAIRED_STAMPS)
    return write_rows(writer, PAIRED_STAMPS.conform(rows), shard_rows=9, job={"job": "changed"})


def test_damaged_rows_are_named_and_another_order_is_refused(tmp_path, made):
    train = stored_pairs(made).keys[2]

    def spoil(rows):
        row = next(r for r in rows if r["task_id"] == train)
        cube = decode_planes(row["ctrl_stamp_npz"], where=train).copy()
        cube[1, 2, 3] = np.nan
        row["ctrl_stamp_npz"] = encode_planes("image", cube)

    pairs = StoredPairs.open(
        {"sky": rewritten(tmp_path / "a", made, spoil)}, {"sky": made["pair-splits"]}, "train"
    )
    pairs.take([0, 1])
    with pytest.raises(StampError, match=f"{train} ctrl_stamp_npz.*not finite"):
        pairs.take([0, 1, 2])
    turned = rewritten(tmp_path / "b", made, lambda rows: rows.reverse())
    with pytest.raises(DataError, match="row by row"):
        StoredPairs.open({"sky": turned}, {"sky": made["pair-splits"]}, "train")


def test_a_split_without_rows_is_empty_and_the_floor_counts(made):
    assert len(stored_pairs(made, snr_floor_mf=1e9).keys) == 0
    with pytest.raises(DataError, match="no row"):
        stored_pairs(made, snr_floor_mf=1e9).take([0])
    some = stored_pairs(made, snr_floor_mf=20.0)
    assert 0 < len(some.keys) < len(stored_pairs(made).keys)
