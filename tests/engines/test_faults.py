"""Runs in which something breaks: no row is lost, doubled or altered, and the comparison can tell.

`python -m benchmarks.faults` does a hundred of them (docs/scale.md).
"""

import pytest
from benchmarks.faults import FAULTS, control, damage, driven, ended, plan, work
from tests.engines.conftest import QUIET

from darkhaloscope.contracts.store import local_writer, open_dataset
from darkhaloscope.runners.local import run_local

SEED = 2
WHAT = "splits"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def given(home):
    return work(home, WHAT)


@pytest.fixture(scope="module")
def clean(home, given):
    source, job = given
    return run_local(job, source, local_writer(home / "clean", job.writes), console=QUIET)


def marks(home, number):
    return {path.name.partition("-")[0] for path in (home / str(number) / "marks").iterdir()}


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        (0, "local_worker_killed"),
        (1, "local_store_refuses"),
        (2, "spark_worker_killed"),
        (3, "spark_written_not_committed"),
        (4, "spark_store_refuses"),
    ],
)
def test_nothing_is_lost_doubled_or_altered(number, fault, home, clean, request):
    source, job = work(home, WHAT)
    spark = request.getfixturevalue("spark")
    run = plan(number, fault, source.keys, SEED)
    starts = ended(run, job, source, home / str(number), spark)
    assert marks(home, number) == {"0", "1"}  # it did break
    assert starts == 1 if run.engine == "spark" else starts > 1  # Spark mends it, the pool is started again
    assert not any(damage(clean, open_dataset(home / str(number) / "out")).values())


@pytest.mark.parametrize(("number", "fault"), [(5, "local_driver_killed"), (6, "spark_driver_killed")])
def test_a_killed_driver_is_started_again(number, fault, home, clean):
    assert driven(home, WHAT, fault, [number], SEED) == 2
    assert not any(damage(clean, open_dataset(home / str(number) / "out")).values())


def test_a_writer_that_commits_before_its_data_is_caught(home, given, clean):
    source, job = given
    found = control(job, source, clean, home)
    assert found["lost"] == 6  # one shard
    assert found["manifest"] == 0  # its records say that all is well


def test_what_is_doubled_or_altered_would_be_told(home, given, clean):
    source, job = given
    key = source.keys[1]
    rows = clean.read_shard(key)
    for name, change in (("doubled", lambda t: t.take([0, *range(t.num_rows)])), ("altered", _turned)):
        writer = local_writer(home / name, job.writes)
        writer.begin(job.model_dump(mode="json"), job.identity, {"source": source.fingerprint})
        writer.commit(key, change(rows))
        made = run_local(job, source, writer, console=QUIET)
        found = damage(clean, open_dataset(home / name))
        assert found[name] > 0
        assert found["manifest"] == 1
        assert made.keys == clean.keys


def _turned(rows):
    """The splits of a shard in another order."""
    at = rows.schema.get_field_index("split")
    splits = ["test" if name == "train" else "train" for name in rows.column("split").to_pylist()]
    return rows.set_column(at, rows.schema.field(at), [splits])


def test_every_fault_is_planned_the_same_way_twice(given):
    keys = given[0].keys
    for fault in FAULTS:
        assert plan(7, fault, keys, 1) == plan(7, fault, keys, 1)
    places = {plan(n, "spark_worker_killed", keys, 1).faults for n in range(20)}
    assert len(places) > 5
