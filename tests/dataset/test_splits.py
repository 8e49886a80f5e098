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
    plan_splits,
)

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
    plan = plan_splits([{f"cell:{k}": 8 for k in range(40)}], SplitConfig())
    shares = {split: sum(s == split for s in plan.values()) / 40 for split in SPLITS_NAMES}
    assert shares == pytest.approx({"train": 0.6, "select": 0.1, "calib": 0.1, "test": 0.2}, abs=0.03)


def test_fractions_hold_within_each_source_of_rows():
    sky = {f"cell:{k}": 8 for k in range(100)}
    real = {f"host:{k}": 1 for k in range(46)}
    plan = plan_splits([sky, real], SplitConfig())
    assert sum(plan[h] == "test" for h in real) == pytest.approx(9, abs=1)
    assert sum(plan[h] == "train" for h in real) == pytest.approx(28, abs=1)


def test_a_reserved_group_keeps_its_split_in_every_source():
    plan = plan_splits([{"cell:1": 10, "cell:2": 10}], SplitConfig(), reserved={"cell:1": "test"})
    assert plan["cell:1"] == "test"


def test_the_seed_changes_the_plan_and_bad_fractions_are_refused():
    counts = {f"cell:{k}": 5 for k in range(50)}
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
