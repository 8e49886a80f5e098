import pyarrow as pa
import pyarrow.compute as pc
import pytest

from darkhaloscope.contracts.errors import SchemaMismatch
from darkhaloscope.contracts.tables import HOUSE_TABLES, PAIRED_STAMPS, SPLITS, STAMPS


@pytest.mark.parametrize("table", HOUSE_TABLES, ids=lambda t: t.name)
def test_mock_rows_satisfy_their_own_declaration(table):
    rows = table.mock(n=20, seed=3)
    assert rows.schema.equals(table.schema, check_metadata=True)
    assert table.check(rows).all_passed
    assert f"schema_{table.name}" == table.check(rows)[0].name


@pytest.mark.parametrize("table", HOUSE_TABLES, ids=lambda t: t.name)
def test_the_documentation_names_every_column(table):
    text = table.docs()
    assert all(f"`{c.name}`" in text for c in table.columns)


@pytest.mark.parametrize("table", HOUSE_TABLES, ids=lambda t: t.name)
def test_every_promise_of_every_column_is_enforced(table):
    good = table.mock(n=4)
    for index, column in enumerate(table.columns):
        for bad in _violations(column):
            values = pa.concat_arrays(
                [good.column(index).combine_chunks().slice(0, 3), pa.array([bad], column.dtype)]
            )
            findings = table.check(good.set_column(index, column.field, values))
            assert findings.failed, (column.name, bad)
            assert column.name in findings.failed[0].detail


def _violations(column):
    if not column.nullable:
        yield None
    if column.one_of:
        yield "nonsense"
    if pa.types.is_floating(column.dtype):
        yield float("nan")
    if column.at_least is not None:
        yield type(column.at_least)(column.at_least - 1)
    if column.at_most is not None:
        yield type(column.at_most)(column.at_most + 1)


def test_a_repeated_key_and_an_absent_column_are_found():
    rows = SPLITS.mock(n=3)
    assert "repeated" in SPLITS.check(pa.concat_tables([rows, rows])).failed[0].detail
    assert "absent" in SPLITS.check(rows.drop_columns(["host_id"])).failed[0].detail


def test_a_failing_row_is_named():
    rows = SPLITS.mock(n=3)
    wrong = rows.set_column(5, SPLITS["split"].field, pa.array(["train", "holdout", "test"]))
    assert SPLITS.check(wrong).failed[0].examples == ("row_id-00001",)


def test_conform_refuses_what_is_missing_unknown_or_of_another_type():
    good = {name: SPLITS.mock(2).column(name) for name in SPLITS.schema.names}
    assert SPLITS.conform(good).num_rows == 2
    with pytest.raises(SchemaMismatch, match="lacks the column 'group'"):
        SPLITS.conform({k: v for k, v in good.items() if k != "group"})
    with pytest.raises(SchemaMismatch, match="unknown column 'colour'"):
        SPLITS.conform(good | {"colour": [1, 2]})
    with pytest.raises(SchemaMismatch, match="not string"):
        SPLITS.conform(good | {"split": [1.5, object()]})


def test_the_briefs_columns_keep_their_names():
    for name in (
        "stamp_npz",
        "ctrl_stamp_npz",
        "theta_e_arcsec",
        "arc_snr",
        "task_id",
        "brickname",
        "psf_fwhm_arcsec",
    ):
        assert name in PAIRED_STAMPS.schema.names
    assert PAIRED_STAMPS["theta_e_arcsec"].unit == "arcsec"
    assert pc.all(pc.is_in(pa.array(["host_domain", "arc_domain"]), pa.array(STAMPS.schema.names))).as_py()
