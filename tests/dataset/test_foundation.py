"""Each planted fault is found by the finding meant for it, and clean data raise none."""

import collections
import re

import numpy as np
import pyarrow as pa
import pytest

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.config import find_config
from darkhaloscope.contracts.errors import SchemaMismatch
from darkhaloscope.contracts.protocol import check_protocol, load_protocol
from darkhaloscope.contracts.store import local_writer, write_rows
from darkhaloscope.contracts.tables import PAIRED_STAMPS, SPLITS, SPLITS_NAMES
from darkhaloscope.dataset.foundation import PAIR_CHECKS, check_lookalikes, check_pairs, check_splits
from darkhaloscope.dataset.splits import AssignSplits, SplitConfig, group_counts, plan_splits
from darkhaloscope.injection.inject import Inject
from darkhaloscope.injection.recipe import Recipe
from darkhaloscope.stamps.harvest import HarvestSky
from darkhaloscope.stamps.stamp import decode_planes, encode_planes
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.sky import plan_bricks

SEED = 7
BRICKS = 8
PIXELS = ("stamp_npz", "ctrl_stamp_npz", "arc_npz", "invvar_npz")
PREFIX = {"stamp_npz": "image", "ctrl_stamp_npz": "image", "arc_npz": "arc", "invvar_npz": "invvar"}


@pytest.fixture(scope="module")
def stamps():
    """Sixteen deflectors and a few discs in eight sky cells."""
    bricks = plan_bricks(SEED, BRICKS, 3, priors=SkyPriors(), anchors=0)
    return HarvestSky(seed=SEED).run(bricks)


@pytest.fixture(scope="module")
def pairs(stamps):
    return Inject(recipe=Recipe(), seed=SEED).run(stamps)


@pytest.fixture(scope="module")
def sham(stamps):
    return Inject(recipe=Recipe(), seed=SEED, sham=True).run(stamps)


@pytest.fixture(scope="module")
def splits(pairs):
    counts = group_counts(pairs)
    assert len(counts) == BRICKS
    return AssignSplits(plan=plan_splits([counts], SplitConfig()), snr_floor_mf=0.0).run(pairs)


@pytest.fixture
def committed(tmp_path):
    """Write rows as a dataset; each call a folder of its own."""
    made = []

    def write(rows, table=PAIRED_STAMPS):
        made.append(rows)
        writer = local_writer(tmp_path / str(len(made)), table)
        return write_rows(writer, table.conform(rows), shard_rows=6, job={"job": "test"})

    return write


def brightest(pairs):
    """Index of the usable pair with the brightest arc."""
    return int(np.nanargmax([row["arc_snr"] or np.nan for row in pairs.to_pylist()]))


def planes(row, column):
    return decode_planes(row[column], PREFIX[column], where=row["task_id"]).copy()


def planted(pairs, change):
    """Rows with `change(row) -> columns` made to the pair with the brightest arc, and that pair's name."""
    rows = pairs.to_pylist()
    row = rows[brightest(pairs)]
    row.update(change(row))
    return rows, row["task_id"]


def with_planes(column, change):
    """A fault that changes the decoded planes of one blob."""
    return lambda row: {column: encode_planes(PREFIX[column], change(planes(row, column)))}


def nan_pixel(cube):
    cube[2, 10, 11] = np.nan
    return cube


def flat_band(cube, value=0.0):
    cube[0] = value
    return cube


def nearly_flat_band(cube):
    cube[0] = 1e-7 * np.random.default_rng(1).normal(size=cube.shape[1:])
    return cube


def moved(cube):
    return np.roll(cube, 3, axis=2)


FAULTS = {
    "a NaN in the stamp": (with_planes("stamp_npz", nan_pixel), "pair_finite"),
    "a NaN in the control": (with_planes("ctrl_stamp_npz", nan_pixel), "pair_finite"),
    "an infinite arc": (with_planes("arc_npz", lambda a: a + np.float32(np.inf)), "pair_finite"),
    "the control is the stamp": (lambda row: {"ctrl_stamp_npz": row["stamp_npz"]}, "pair_identical"),
    "the stamp is the control": (lambda row: {"stamp_npz": row["ctrl_stamp_npz"]}, "pair_identical"),
    "bands of the stamp swapped": (with_planes("stamp_npz", lambda a: a[::-1]), "pair_residual"),
    "bands of the arc swapped": (with_planes("arc_npz", lambda a: a[[1, 0, 2]]), "pair_residual"),
    "the arc elsewhere": (with_planes("arc_npz", moved), "pair_residual"),
    "the stamp in other units": (with_planes("stamp_npz", lambda a: 10 * a), "pair_residual"),
    "the arc in other units": (with_planes("arc_npz", lambda a: 10 * a), "pair_residual"),
    "counts for nanomaggies": (with_planes("stamp_npz", lambda a: 1e9 * a), "pair_range"),
    "another galaxy's control": (with_planes("ctrl_stamp_npz", lambda a: a[:, ::-1, ::-1]), "pair_residual"),
    "a torn blob": (lambda row: {"stamp_npz": row["stamp_npz"][:-400]}, "pair_decodes"),
    "an empty blob": (lambda _row: {"invvar_npz": b""}, "pair_decodes"),
    "no blob and no reject code": (lambda _row: {"ctrl_stamp_npz": None}, "pair_decodes"),
    "arcs for a stamp": (lambda row: {"stamp_npz": row["arc_npz"]}, "pair_decodes"),
    "a stamp of another size": (with_planes("stamp_npz", lambda a: a[:, 2:-2, 2:-2]), "pair_shape"),
    "an arc of another size": (with_planes("arc_npz", lambda a: a[:, 1:]), "pair_shape"),
    "a band of zeros in the stamp": (with_planes("stamp_npz", flat_band), "pair_variance"),
    "a constant band in the control": (
        with_planes("ctrl_stamp_npz", lambda a: flat_band(a, 0.02)),
        "pair_variance",
    ),
    "an all but constant band": (with_planes("ctrl_stamp_npz", nearly_flat_band), "pair_variance"),
    "arc_snr of another definition": (lambda row: {"arc_snr": row["arc_snr_mf"]}, "pair_arc_snr"),
    "arc_snr two per cent off": (lambda row: {"arc_snr": 1.02 * row["arc_snr"]}, "pair_arc_snr"),
    "arc_snr left out": (lambda _row: {"arc_snr": None}, "pair_arc_snr"),
}


def test_clean_pairs_raise_nothing(pairs, committed):
    usable = sum(row["reject"] is None for row in pairs.to_pylist())
    assert usable >= 12
    findings = check_pairs(committed(pairs))
    assert findings.all_passed
    assert {f.name for f in findings} == {"schema_paired_stamps", *PAIR_CHECKS} - {"sham_identical"}
    assert findings.named("pair_finite").n == usable


def test_clean_shams_raise_nothing_and_are_identical(sham, committed):
    findings = check_pairs(committed(sham), sham=True)
    assert findings.all_passed
    identical = check_pairs(committed(sham)).named("pair_identical")
    assert identical.status is Status.FAIL
    assert identical.value == identical.n


def test_a_sham_that_is_not_identical_is_found(sham, committed):
    def watermark(cube):
        cube[1, 33, 30] += 2e-3  # less than the noise: no residual check can see it
        return cube

    rows = sham.to_pylist()
    row = next(r for r in rows if r["reject"] is None)
    row.update(with_planes("stamp_npz", watermark)(row))
    failed = check_pairs(committed(rows), sham=True).failed
    assert [f.name for f in failed] == ["sham_identical"]
    assert failed[0].examples == (row["task_id"],)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_planted_fault_is_found_by_its_finding(pairs, committed, fault):
    change, name = FAULTS[fault]
    rows, task = planted(pairs, change)
    findings = check_pairs(committed(rows))
    found = findings.named(name)
    assert found.status is Status.FAIL, fault
    assert found.value == 1
    assert found.examples == (task,)
    assert task in str(found)
    # Nothing else fails but what the same change must break too.
    assert {f.name for f in findings.failed} <= {name, "pair_residual", "pair_arc_snr"}


def test_every_row_is_looked_at_and_the_first_keys_are_named(pairs, committed):
    rows = pairs.to_pylist()
    usable = [row for row in rows if row["reject"] is None]
    for row in usable:
        row["ctrl_stamp_npz"] = row["stamp_npz"]
    found = check_pairs(committed(rows)).named("pair_identical")
    assert found.value == len(usable)
    assert found.examples == tuple(row["task_id"] for row in usable[:3])


def test_a_rejected_row_needs_no_pixels(pairs, committed):
    rows, _ = planted(pairs, lambda _row: dict.fromkeys(PIXELS, None) | {"reject": "host_masked"})
    assert check_pairs(committed(rows)).all_passed


def test_a_broken_promise_of_the_table_is_its_own_finding(pairs, committed):
    rows, task = planted(pairs, lambda _row: {"q": 1.5})
    (failed,) = check_pairs(committed(rows)).failed
    assert failed.name == "schema_paired_stamps"
    assert failed.examples == (task,)
    assert "'q'" in str(failed) or "q " in failed.detail


def test_no_pairs_at_all_is_never_a_pass(committed):
    findings = check_pairs(committed(PAIRED_STAMPS.schema.empty_table()))
    assert all(f.status is Status.NOT_EVALUATED and f.needs_n == 1 for f in findings if f.name in PAIR_CHECKS)
    assert not findings.all_passed


def test_another_table_is_refused(splits, committed):
    with pytest.raises(SchemaMismatch, match="holds splits, but paired_stamps is needed"):
        check_pairs(committed(splits, SPLITS))


def moved_row(splits, **wanted):
    """Splits with the first row of `wanted` put elsewhere, and that row."""
    rows = splits.to_pylist()
    row = next(r for r in rows if all(r[name] == value for name, value in wanted.items()))
    row["split"] = "test" if row["split"] != "test" else "train"
    return rows, row


def split_findings(committed, rows, pairs):
    return check_splits([committed(rows, SPLITS)], pairs=[committed(pairs)])


def test_clean_splits_raise_nothing(splits, pairs, committed):
    findings = split_findings(committed, splits, pairs)
    assert findings.all_passed
    names = {"split_host_overlap", "split_group_overlap", "split_target_overlap", "split_complete"}
    assert {f.name for f in findings} == names | {f"split_{name}_filled" for name in SPLITS_NAMES}


def test_a_host_in_two_splits_is_found(splits, pairs, committed):
    rows, row = moved_row(splits, split="train")
    twin = next(r for r in rows if r["split"] == "calib")
    row["host_id"] = twin["host_id"]  # one galaxy under two targets
    found = split_findings(committed, rows, pairs).named("split_host_overlap")
    assert found.status is Status.FAIL
    assert found.value == 1
    assert found.examples == (twin["host_id"],)


def test_a_group_in_two_splits_is_found_though_its_hosts_differ(splits, pairs, committed):
    rows, row = moved_row(splits, split="train")
    findings = split_findings(committed, rows, pairs)
    assert [f.name for f in findings.failed] == ["split_group_overlap"]
    assert findings.named("split_group_overlap").examples == (row["group"],)


def test_a_crossing_between_two_datasets_is_found(splits, pairs, committed):
    rows = [dict(row, row_id=row["target_id"]) for row in splits.to_pylist()]
    rows[0]["split"] = next(name for name in SPLITS_NAMES if name != rows[0]["split"])
    sources = [committed(splits, SPLITS), committed(rows, SPLITS)]
    failed = {f.name for f in check_splits(sources, pairs=[committed(pairs)]).failed}
    assert failed == {"split_host_overlap", "split_group_overlap", "split_target_overlap"}


def test_a_row_without_a_split_and_a_row_with_two_are_found(splits, pairs, committed):
    rows = splits.to_pylist()
    lost = rows.pop(0)
    found = split_findings(committed, rows, pairs).named("split_complete")
    assert (found.status, found.value, found.examples) == (Status.FAIL, 1, (lost["row_id"],))
    twice = [*splits.to_pylist(), splits.to_pylist()[4]]
    found = split_findings(committed, twice, pairs).named("split_complete")
    assert (found.status, found.value, found.examples) == (Status.FAIL, 1, (twice[4]["row_id"],))


@pytest.mark.parametrize("split", SPLITS_NAMES)
def test_an_empty_split_is_found(splits, pairs, committed, split):
    other = "train" if split != "train" else "test"
    rows = [dict(row, split=other) if row["split"] == split else row for row in splits.to_pylist()]
    assert [f.name for f in split_findings(committed, rows, pairs).failed] == [f"split_{split}_filled"]


@pytest.mark.parametrize("split", SPLITS_NAMES)
def test_a_split_whose_rows_are_all_set_aside_counts_as_empty(splits, pairs, committed, split):
    rows = [
        dict(row, reject="below_snr_floor") if row["split"] == split else row for row in splits.to_pylist()
    ]
    assert [f.name for f in split_findings(committed, rows, pairs).failed] == [f"split_{split}_filled"]


def test_too_few_lookalikes_are_found_by_class():
    minima = {"ring": 3, "spike": 2}
    counts = collections.Counter({"ring": 2, "spike": 2})
    findings = check_lookalikes(counts, anchors=29, minima=minima, min_anchors=30)
    assert [f.name for f in findings.failed] == ["contaminants_ring", "anchors_count"]
    assert check_lookalikes(counts + collections.Counter(ring=1), 30, minima, 30).all_passed


def test_a_flipped_gate_direction_in_the_file_is_found(tmp_path):
    text = find_config("evaluation_protocol.yaml").read_text(encoding="utf-8")
    flipped, count = re.subn(r"(core_lr_auc:\n\s+direction: )below", r"\1above", text, count=1)
    assert count == 1
    path = tmp_path / "flipped.yaml"
    path.write_text(flipped, encoding="utf-8")
    findings = check_protocol(load_protocol(path))
    assert [f.name for f in findings.failed] == ["protocol_directions"]
    assert "core_lr_auc is 'above', must be 'below'" in str(findings.named("protocol_directions"))
    assert not check_protocol(load_protocol()).failed


def test_mock_rows_of_the_table_are_no_pairs(committed):
    """Rows that satisfy the schema alone do not satisfy the checks."""
    rows = PAIRED_STAMPS.mock(3)
    rows = rows.set_column(rows.schema.get_field_index("reject"), "reject", pa.array([None] * 3, pa.string()))
    assert check_pairs(committed(rows)).named("pair_decodes").value == 3
