"""The runner: same result for any workers and batches; killed runs continue; failures name the row."""

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pytest

from darkhaloscope.contracts.errors import CredentialsExpired, JobFailed, SchemaMismatch, StoreError
from darkhaloscope.contracts.store import local_writer, open_dataset, write_rows
from darkhaloscope.contracts.tables import PAIRED_STAMPS, SPLITS, STAMPS
from darkhaloscope.dataset.splits import AssignSplits, SplitConfig, group_counts, plan_splits
from darkhaloscope.runners.local import run_local


@pytest.fixture
def pairs(tmp_path):
    rows = PAIRED_STAMPS.mock(60, seed=4)
    return write_rows(
        local_writer(tmp_path / "pairs", PAIRED_STAMPS), rows, shard_rows=7, job={"job": "mock"}
    )


@pytest.fixture
def job(pairs):
    plan = plan_splits([group_counts(pairs.read(["group"]))], SplitConfig())
    return AssignSplits(plan=plan)


def test_workers_and_batches_do_not_change_a_bit(pairs, job, tmp_path):
    results = [
        run_local(job, pairs, local_writer(tmp_path / f"w{w}b{b}", SPLITS), workers=w, batch_rows=b)
        for w, b in [(1, 64), (1, 2), (2, 5)]
    ]
    assert len({d.fingerprint for d in results}) == 1
    assert results[0].num_rows == 60
    assert results[0].read(["row_id"]).column("row_id").equals(pairs.read(["task_id"]).column("task_id"))


def test_a_second_run_does_nothing_again(pairs, job, tmp_path):
    writer = local_writer(tmp_path / "out", SPLITS)
    first = run_local(job, pairs, writer)
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "shards").iterdir()}
    assert run_local(job, pairs, writer).fingerprint == first.fingerprint
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "shards").iterdir()} == times


def test_another_job_may_not_write_into_the_same_folder(pairs, job, tmp_path):
    writer = local_writer(tmp_path / "out", SPLITS)
    run_local(job, pairs, writer)
    with pytest.raises(StoreError, match="another job"):
        run_local(job.model_copy(update={"snr_floor_mf": 6.0}), pairs, writer)


def test_a_failing_row_stops_the_job_keeps_what_was_committed_and_can_be_mended(pairs, job, tmp_path):
    group = pairs.read_shard("00003", ["group"]).column("group")[2].as_py()
    broken = job.model_copy(update={"plan": {g: s for g, s in job.plan.items() if g != group}})
    writer = local_writer(tmp_path / "out", SPLITS)
    with pytest.raises(JobFailed, match=r"assign_splits.*00003") as caught:
        run_local(broken, pairs, writer)
    assert group in str(caught.value)
    assert set(writer.committed()) == {"00000", "00001", "00002"}
    with pytest.raises(StoreError, match="unfinished"):
        open_dataset(tmp_path / "out")


def test_a_failing_row_is_named_through_worker_processes(pairs, job, tmp_path):
    broken = job.model_copy(update={"plan": {}})
    with pytest.raises(JobFailed, match="assign_splits"):
        run_local(broken, pairs, local_writer(tmp_path / "out", SPLITS), workers=2)


class Expiring(AssignSplits):
    """A job that asks the cloud for something, in vain."""

    def run(self, batch):
        raise CredentialsExpired("renew them")


@pytest.mark.parametrize("workers", [1, 2])
def test_credentials_that_expire_inside_a_job_are_no_fault_of_a_row(pairs, job, tmp_path, workers):
    with pytest.raises(CredentialsExpired, match="renew them"):
        run_local(Expiring(plan=job.plan), pairs, local_writer(tmp_path / "out", SPLITS), workers=workers)


def test_the_wrong_input_table_is_refused_before_anything_is_written(job, tmp_path):
    stamps = write_rows(local_writer(tmp_path / "stamps", STAMPS), STAMPS.mock(2), shard_rows=2, job={})
    with pytest.raises(SchemaMismatch, match="holds stamps, but paired_stamps is needed"):
        run_local(job, stamps, local_writer(tmp_path / "out", SPLITS))
    assert not (tmp_path / "out").exists()


SLOW_RUN = """
import sys, time
from darkhaloscope.contracts import store
from darkhaloscope.contracts.tables import SPLITS
from darkhaloscope.dataset.splits import AssignSplits
from darkhaloscope.runners.local import run_local
commit = store.Writer.commit
def slow(self, key, rows):
    record = commit(self, key, rows)
    time.sleep(0.3)
    return record
store.Writer.commit = slow
job = AssignSplits.model_validate_json(open(sys.argv[1]).read())
run_local(job, store.open_dataset(sys.argv[2]), store.local_writer(sys.argv[3], SPLITS))
"""


def test_killed_in_the_middle_the_same_command_ends_with_the_same_bytes(pairs, job, tmp_path):
    whole = run_local(job, pairs, local_writer(tmp_path / "whole", SPLITS))
    described = tmp_path / "job.json"
    described.write_text(job.model_dump_json())
    out = tmp_path / "killed"
    command = [sys.executable, "-c", SLOW_RUN, str(described), str(tmp_path / "pairs"), str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list((out / "commits").glob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {p.name: p.read_bytes() for p in (out / "commits").iterdir()}
    assert 3 <= len(kept) < len(pairs.keys)
    assert not (out / "manifest.json").exists()
    resumed = run_local(job, pairs, local_writer(out, SPLITS))
    assert resumed.fingerprint == whole.fingerprint
    assert all((out / "commits" / name).read_bytes() == text for name, text in kept.items())
    assert json.loads((out / "manifest.json").read_text()) == json.loads(
        (tmp_path / "whole" / "manifest.json").read_text()
    )
    assert pa.Table.equals(resumed.read(), whole.read())
