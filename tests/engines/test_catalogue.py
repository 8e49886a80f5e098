"""Splits counted by Spark and in memory come to the same findings, clean and with planted leaks."""

import numpy as np
import pyarrow as pa
import pytest

from darkhaloscope.contracts.errors import StoreError
from darkhaloscope.contracts.store import local_writer, write_rows
from darkhaloscope.contracts.tables import PAIR_AUDIT, PAIRED_STAMPS, SPLITS, STAMPS
from darkhaloscope.dataset.split_checks import SPLIT_CHECKS, check_splits, judge_splits
from darkhaloscope.dataset.splits import Fractions
from darkhaloscope.pipeline.split_counts import counts_by_spark
from darkhaloscope.runners.catalogue import Catalogue
from darkhaloscope.survey.release import neighbouring_cells

N = 120
SHARES = Fractions(train=0.4, select=0.2, calib=0.2, test=0.2)
CELLS = [900 * k for k in range(30)]


@pytest.fixture
def rows():
    """Pairs and discs of thirty far cells, their splits, and signatures of the pairs."""
    rng = np.random.default_rng(3)
    order = ["train"] * 12 + ["select"] * 6 + ["calib"] * 6 + ["test"] * 6
    split = dict(zip(CELLS, order, strict=True))
    pairs, discs = PAIRED_STAMPS.mock(N, seed=1).to_pylist(), STAMPS.mock(N // 2, seed=2).to_pylist()
    for k, row in enumerate(pairs):
        cell = CELLS[k % 30]
        row.update(task_id=f"t{k:04d}#0", target_id=f"t{k:04d}", host_id=f"h{k:04d}", group=f"cell:{cell}")
        row.update(kind="lrg", brickname=f"b{cell}", source_id=f"s{cell}-{k % 2}", reject=None)
    for k, row in enumerate(discs):
        cell = CELLS[k % 30]
        row.update(target_id=f"d{k:04d}", host_id=f"d{k:04d}", group=f"cell:{cell}", kind="disc")
        row.update(brickname=f"b{cell}", reject=None)

    def of(row, name):
        shared = ("target_id", "host_id", "group", "kind")
        found = {key: row[key] for key in shared}
        return {**found, "row_id": name, "split": split[int(row["group"][5:])], "reject": None}

    splits = [of(row, row["task_id"]) for row in pairs]
    others = [of(row, row["target_id"]) for row in discs]
    words = rng.integers(-(2**63), 2**63 - 1, (N, 2), dtype=np.int64)
    return {"pairs": pairs, "discs": discs, "splits": splits, "others": others, "words": words}


def committed(folder, table, rows):
    given = rows if isinstance(rows, pa.Table) else table.conform(rows)
    return write_rows(local_writer(folder, table), given, shard_rows=25, job={"job": "mock"})


def datasets(rows, folder):
    """Data, splits and audit as committed datasets."""
    data = [
        committed(folder / "pairs", PAIRED_STAMPS, rows["pairs"]),
        committed(folder / "discs", STAMPS, rows["discs"]),
    ]
    splits = [committed(folder / name, SPLITS, rows[name]) for name in ("splits", "others")]
    mock = PAIR_AUDIT.mock(N, seed=1).to_pydict()
    names = [row["task_id"] for row in rows["pairs"]]
    first, second = rows["words"].T
    seen = PAIR_AUDIT.conform({**mock, "row_id": names, "signature_a": first, "signature_b": second})
    return data, splits, committed(folder / "audit", PAIR_AUDIT, seen)


def both(rows, folder, spark):
    """Findings in memory and by Spark."""
    data, splits, audit = datasets(rows, folder)
    memory = check_splits(splits, data=data, audits=[audit.read()], fractions=SHARES)
    counts = counts_by_spark(Catalogue(spark), splits, data=data, audits=[audit])
    return memory, judge_splits(counts, SHARES)


def leak_host(rows):
    rows["splits"][0]["host_id"] = rows["splits"][29]["host_id"]


def leak_cell(rows):
    for k, split in ((0, "test"), (1, "calib"), (31, "select")):
        rows["splits"][k]["split"] = split


def leak_target_across_datasets(rows):
    rows["others"][29]["target_id"] = rows["splits"][0]["target_id"]


def leak_brick(rows):
    rows["pairs"][29]["brickname"] = rows["discs"][0]["brickname"]


def leak_brick_set_aside(rows):
    """What a guard band set aside is in no split."""
    leak_brick(rows)
    rows["splits"][29]["reject"] = "guard_band"


def leak_source(rows):
    rows["pairs"][29]["source_id"] = rows["pairs"][0]["source_id"]


def leak_neighbour(rows):
    near = f"cell:{int(neighbouring_cells([CELLS[0]])[0, 0])}"
    rows["splits"][29]["group"] = near


def leak_image(rows):
    rows["words"][29] = rows["words"][0]
    rows["words"][59] = rows["words"][1] ^ np.array([0b1011, 1 << 40])  # four bits of noise


def lose_rows(rows):
    del rows["splits"][5], rows["others"][3]


def double_rows(rows):
    rows["splits"] += [dict(rows["splits"][7]), dict(rows["splits"][2])]


def swap_shares(rows):
    for row in rows["splits"] + rows["others"]:
        row["split"] = {"train": "select", "select": "train"}.get(row["split"], row["split"])


def empty_a_split(rows):
    for row in rows["splits"]:
        if row["split"] == "calib":
            row["reject"] = "below_snr_floor"


LEAKS = (
    {
        leak_host: {"split_host_overlap"},
        leak_target_across_datasets: {"split_target_overlap"},
        leak_brick: {"split_brick_overlap"},
        leak_image: {"split_near_duplicates"},
        leak_source: {"split_source_overlap"},
    },
    {
        leak_cell: {"split_group_overlap", "split_brick_overlap", "split_source_overlap"},
        leak_neighbour: {"split_guard_band"},
        lose_rows: {"split_complete"},
        double_rows: {"split_complete"},
    },
    {
        leak_brick_set_aside: set(),
        swap_shares: {"split_fractions"},
        empty_a_split: {"split_calib_filled"},
    },
)
"""What is planted together, and what must be found of it."""


def test_clean_splits_pass_on_both(rows, tmp_path, spark):
    memory, sparked = both(rows, tmp_path, spark)
    assert sparked.to_json() == memory.to_json()
    assert memory.all_passed
    assert {f.name for f in memory} == set(SPLIT_CHECKS)


@pytest.mark.parametrize("leaks", LEAKS, ids=("one_thing_twice", "cells_and_rows", "shares"))
def test_planted_leaks_are_found_by_both_in_the_same_words(leaks, rows, tmp_path, spark):
    for plant in leaks:
        plant(rows)
    memory, sparked = both(rows, tmp_path, spark)
    assert sparked.to_json() == memory.to_json()
    assert {f.name for f in memory.failed} == set().union(*leaks.values())
    if leak_cell in leaks:
        found = sparked.named("split_group_overlap")
        told = "train and select 1, train and calib 1, train and test 1, select and calib 1"
        assert (found.value, found.detail) == (2, told)


@pytest.mark.parametrize("plant", [plant for leaks in LEAKS for plant in leaks], ids=lambda f: f.__name__)
def test_each_leak_alone_is_found_and_nothing_else(plant, rows, tmp_path):
    plant(rows)
    data, splits, audit = datasets(rows, tmp_path)
    failed = check_splits(splits, data=data, audits=[audit.read()], fractions=SHARES).failed
    assert {f.name for f in failed} == next(leaks[plant] for leaks in LEAKS if plant in leaks)


def test_splits_alone_without_their_data_agree_too(rows, tmp_path, spark):
    splits = [committed(tmp_path / "splits", SPLITS, rows["splits"])]
    counts = counts_by_spark(Catalogue(spark), splits)
    assert judge_splits(counts).to_json() == check_splits(splits).to_json()


def test_files_beside_the_manifest_are_not_read(rows, tmp_path, spark):
    splits = committed(tmp_path / "splits", SPLITS, rows["splits"])
    leak_cell(rows)
    other = committed(tmp_path / "other", SPLITS, rows["splits"])
    for shard in other.manifest.shards:
        stray = tmp_path / "splits" / "shards" / f"stray-{shard.key}.parquet"
        stray.write_bytes((tmp_path / "other" / shard.file).read_bytes())
    findings = judge_splits(counts_by_spark(Catalogue(spark), [splits]))
    assert findings.named("split_group_overlap").passed
    assert findings.named("split_group_overlap").n == 30
    with_leak = judge_splits(counts_by_spark(Catalogue(spark), [other]))
    assert not with_leak.named("split_group_overlap").passed


def test_shards_with_other_rows_than_the_manifest_says_are_refused(rows, tmp_path, spark):
    splits = committed(tmp_path / "[odd] {name}*", SPLITS, rows["splits"])  # Hadoop takes these for patterns
    assert judge_splits(counts_by_spark(Catalogue(spark), [splits])).named("split_group_overlap").n == 30
    a, b = (tmp_path / "[odd] {name}*" / shard.file for shard in splits.manifest.shards[-2:])
    b.write_bytes(a.read_bytes())
    with pytest.raises(StoreError, match="the manifest says 120"):
        counts_by_spark(Catalogue(spark), [splits])
