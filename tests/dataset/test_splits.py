import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from darkhaloscope.contracts.tables import PAIRED_STAMPS, SPLITS, SPLITS_NAMES, STAMPS
from darkhaloscope.dataset.splits import (
    AssignSplits,
    AssignTargetSplits,
    Fractions,
    SplitConfig,
    group_counts,
    guard_band,
    plan_splits,
)
from darkhaloscope.survey.release import healpix_cell, neighbouring_cells

COUNTS = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=6), st.integers(1, 40), min_size=4, max_size=80
)


@given(COUNTS, st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_every_group_gets_one_split_and_order_does_not_matter(counts, seed):
    config = SplitConfig(seed=seed)
    plan = plan_splits([counts], config)
    assert set(plan) == set(counts)
    assert set(plan.values()) <= set(SPLITS_NAMES)
    backwards = dict(reversed(counts.items()))
    assert plan_splits([backwards], config) == plan


def test_fractions_hold_even_for_few_cells():
    plan = plan_splits([{f"cell:{900 * k}": 8 for k in range(40)}], SplitConfig())
    shares = {split: sum(s == split for s in plan.values()) / 40 for split in SPLITS_NAMES}
    assert shares == pytest.approx({"train": 0.6, "select": 0.1, "calib": 0.1, "test": 0.2}, abs=0.03)


def test_fractions_hold_within_each_source_of_rows():
    sky = {f"cell:{400 * k}": 8 for k in range(100)}
    real = {f"host:{k}": 1 for k in range(46)}
    plan = plan_splits([sky, real], SplitConfig())
    assert sum(plan[h] == "test" for h in real) == pytest.approx(9, abs=1)
    assert sum(plan[h] == "train" for h in real) == pytest.approx(28, abs=1)


def test_a_reserved_group_keeps_its_split_in_every_source():
    plan = plan_splits([{"cell:1": 10, "cell:9000": 10}], SplitConfig(), reserved={"cell:1": "test"})
    assert plan["cell:1"] == "test"


def test_the_seed_changes_the_plan_and_bad_fractions_are_refused():
    counts = {f"cell:{900 * k}": 5 for k in range(50)}
    assert plan_splits([counts], SplitConfig(seed=1)) != plan_splits([counts], SplitConfig(seed=2))
    other = SplitConfig(fractions=Fractions(train=0.3, select=0.1, calib=0.1, test=0.5))
    assert plan_splits([counts], other) != plan_splits([counts], SplitConfig())
    with pytest.raises(ValidationError, match="add up to 1"):
        Fractions(train=0.9)


def test_faint_training_positives_are_set_aside_with_their_code_and_test_has_no_floor():
    rows = PAIRED_STAMPS.mock(40, seed=2).to_pylist()
    for index, row in enumerate(rows):
        row.update(group=f"g{index % 4}", arc_snr_mf=2.0 + 5 * (index % 3), reject=None)
    batch = PAIRED_STAMPS.conform(rows)
    plan = dict(zip(("g0", "g1", "g2", "g3"), SPLITS_NAMES, strict=True))
    out = AssignSplits(plan=plan, snr_floor_mf=5.0).run(batch)
    assert SPLITS.check(out).all_passed
    for row, mf in zip(out.to_pylist(), batch.column("arc_snr_mf").to_pylist(), strict=True):
        faint = row["split"] in ("train", "select") and mf < 5
        assert row["reject"] == ("below_snr_floor" if faint else None)
    assert AssignSplits(plan=plan, snr_floor_mf=1.0).run(batch).column("reject").null_count == 40


def test_targets_get_the_split_of_their_group():
    rows = STAMPS.mock(6)
    counts = group_counts(rows)
    plan = plan_splits([counts], SplitConfig())
    out = AssignTargetSplits(plan=plan).run(rows)
    assert out.column("split").to_pylist() == [plan[g] for g in rows.column("group").to_pylist()]


PATCH = [
    int(cell)
    for cell in np.unique(healpix_cell(*np.meshgrid(np.arange(130, 190, 0.4), np.arange(0, 30, 0.4))))
]


def touching(plan, guard=()):
    """Pairs of neighbouring cells that are used and stand in two splits."""
    used = {int(g.removeprefix("cell:")): s for g, s in plan.items() if g not in set(guard)}
    around = neighbouring_cells(sorted(used))
    pairs = zip(sorted(used), around, strict=True)
    return [(cell, int(n)) for cell, row in pairs for n in row if used.get(int(n), used[cell]) != used[cell]]


def test_a_filled_sky_is_cut_into_blocks_and_the_guard_band_keeps_splits_apart():
    counts = {f"cell:{cell}": 7 for cell in PATCH}
    assert len(counts) > 1500
    plan = plan_splits([counts], SplitConfig())
    guard = guard_band(plan)
    assert touching(plan)  # without the guard band the splits do touch
    assert not touching(plan, guard)
    kept = [split for group, split in plan.items() if group not in set(guard)]
    assert len(kept) > 0.8 * len(plan)
    assert set(kept) == set(SPLITS_NAMES)
    shares = {split: sum(s == split for s in plan.values()) / len(plan) for split in SPLITS_NAMES}
    assert shares == pytest.approx({"train": 0.6, "select": 0.1, "calib": 0.1, "test": 0.2}, abs=0.06)
    fine = plan_splits([counts], SplitConfig(block_nside=64))
    assert len(guard_band(fine)) > 0.5 * len(fine)  # what blocks are for
    spendthrift = plan_splits([counts], SplitConfig(guard_share=0.4))
    assert len(guard) < len(guard_band(spendthrift)) < len(guard_band(fine))


def test_scattered_cells_pay_nothing_and_train_gives_way_to_test():
    scattered = plan_splits([{f"cell:{900 * k}": 5 for k in range(50)}], SplitConfig())
    assert guard_band(scattered) == ()
    one, other = 5000, int(neighbouring_cells([5000])[0, 0])
    plan = {f"cell:{one}": "test", f"cell:{other}": "train", "host:a": "train", "host:b": "test"}
    assert guard_band(plan) == (f"cell:{other}",)
    assert guard_band({"host:a": "train"}) == ()


def test_rows_of_the_guard_band_are_set_aside_with_their_code_and_rejects_keep_theirs():
    rows = PAIRED_STAMPS.mock(4).to_pylist()
    codes = (None, "host_masked", None, None)
    for row, group, code in zip(rows, ("g0", "g0", "g1", "g1"), codes, strict=True):
        row.update(group=group, reject=code, arc_snr_mf=50.0)
    job = AssignSplits(plan={"g0": "train", "g1": "test"}, guard=("g0",))
    found = job.run(PAIRED_STAMPS.conform(rows)).column("reject").to_pylist()
    assert found == ["guard_band", "host_masked", None, None]
