"""One job, any engine: the same tables to the last bit, the same errors, and nothing done twice."""

import os
import subprocess
import sys

import pytest
from benchmarks.faulty_files import Fault, FaultyFiles
from tests.engines.conftest import QUIET

from darkhaloscope.contracts.errors import CredentialsExpired, JobFailed, StoreError
from darkhaloscope.contracts.store import Dataset, LocalFiles, Writer, local_writer, open_dataset
from darkhaloscope.contracts.tables import SPLITS
from darkhaloscope.dataset.pair_checks import VerifyPairs
from darkhaloscope.dataset.splits import AssignSplits, SplitConfig, group_counts, plan_splits
from darkhaloscope.evaluation.score import Score, ScoreStamps
from darkhaloscope.injection.hard_negatives import InjectHardNegatives
from darkhaloscope.injection.inject import Inject, MakeAnchors
from darkhaloscope.pipeline.experiment import load_experiment
from darkhaloscope.runners.local import run_local
from darkhaloscope.runners.spark import _pieces, run_spark
from darkhaloscope.stamps.harvest import HarvestSky


def recipe(arm):
    return load_experiment(f"{arm}.yaml").recipe


@pytest.fixture
def split_job(mock_pairs):
    return AssignSplits(plan=plan_splits([group_counts(mock_pairs.read(["group"]))], SplitConfig()))


JOBS = {
    "gen5_prime": lambda _: ("stamps", Inject(recipe=recipe("gen5_prime_baseline"), seed=3)),
    "gen7": lambda _: ("stamps", Inject(recipe=recipe("gen7_hybrid"), seed=3)),
    "gen8": lambda _: ("stamps", Inject(recipe=recipe("gen8_domain_rand"), seed=3, draws_per_host=2)),
    "hard": lambda _: ("stamps", InjectHardNegatives(recipe=recipe("gen5_prime_baseline"), seed=3)),
    "anchors": lambda _: ("stamps", MakeAnchors(seed=3)),
    "sky": lambda _: ("bricks", HarvestSky(seed=3)),
    "verify_pairs": lambda _: ("pairs", VerifyPairs()),
    "score": lambda checkpoint: ("pairs", Score(**checkpoint)),
    "score_stamps": lambda checkpoint: ("stamps", ScoreStamps(**checkpoint)),
}


@pytest.mark.parametrize("name", JOBS)
def test_engines_batches_and_partitions_do_not_change_a_bit(name, spark, checkpoint, request, tmp_path):
    table, job = JOBS[name](checkpoint)
    source = request.getfixturevalue(table)

    def out(folder):
        return local_writer(tmp_path / folder, job.writes)

    made = [run_local(job, source, out("one"), batch_rows=64, console=QUIET)]
    made.append(run_local(job, source, out("few"), batch_rows=2, console=QUIET))
    if name in ("gen8", "score"):  # a pool takes seconds to import what these jobs need
        made.append(run_local(job, source, out("two"), workers=2, batch_rows=1, console=QUIET))
    made.append(run_spark(job, source, out("spark"), session=spark, console=QUIET))
    made.append(
        run_spark(job, source, out("pieces"), session=spark, partitions=2, batch_rows=1, console=QUIET)
    )
    assert made[0].num_rows > 0
    assert len({dataset.fingerprint for dataset in made}) == 1
    manifests = {(tmp_path / d.where / "manifest.json").read_bytes() for d in made}
    assert len(manifests) == 1
    open_dataset(tmp_path / "spark").verify()


def test_what_one_engine_began_the_other_ends(split_job, mock_pairs, spark, tmp_path):
    whole = run_local(split_job, mock_pairs, local_writer(tmp_path / "whole", SPLITS), console=QUIET)
    writer = local_writer(tmp_path / "out", SPLITS)
    group = mock_pairs.read_shard("00003", ["group"]).column("group")[2].as_py()
    broken = split_job.model_copy(update={"plan": {g: s for g, s in split_job.plan.items() if g != group}})
    with pytest.raises(JobFailed):
        run_local(broken, mock_pairs, writer, console=QUIET)
    assert len(writer.committed()) == 3
    (tmp_path / "out" / "job.json").unlink()  # another job: claimed anew by the whole one
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "commits").iterdir()}
    made = run_spark(split_job, mock_pairs, writer, session=spark, console=QUIET)
    assert made.fingerprint == whole.fingerprint
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "commits").iterdir()}
    assert {name: times[name] for name in kept} == kept
    with pytest.raises(StoreError, match="another job"):
        run_spark(broken, mock_pairs, writer, session=spark, console=QUIET)


def faulty(dataset, folder, *faults):
    reading = Dataset(dataset.files, dataset.where)
    reading.files = FaultyFiles(dataset.files, faults, str(folder))
    return reading


def opened(folder):
    """How often each fault happened."""
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_a_failing_row_stops_spark_at_once_with_the_local_error(split_job, mock_pairs, spark, tmp_path):
    group = mock_pairs.read_shard("00003", ["group"]).column("group")[2].as_py()
    broken = split_job.model_copy(update={"plan": {g: s for g, s in split_job.plan.items() if g != group}})
    with pytest.raises(JobFailed) as local:
        run_local(broken, mock_pairs, local_writer(tmp_path / "local", SPLITS), console=QUIET)
    shard = next(s.file for s in mock_pairs.manifest.shards if s.key == "00003")
    counted = faulty(mock_pairs, tmp_path / "marks", Fault("open", shard, "before", "pause", times=9))
    writer = local_writer(tmp_path / "spark", SPLITS)
    with pytest.raises(JobFailed) as sparked:
        run_spark(broken, counted, writer, session=spark, console=QUIET)
    assert str(sparked.value) == str(local.value)
    assert "Traceback" not in str(sparked.value)
    assert opened(tmp_path / "marks") == 1  # not tried again
    assert "00003" not in writer.committed()
    with pytest.raises(StoreError, match="unfinished"):
        open_dataset(tmp_path / "spark")


def test_a_store_that_fails_is_asked_again_and_one_that_stays_away_is_named(
    split_job, mock_pairs, spark, tmp_path
):
    whole = run_local(split_job, mock_pairs, local_writer(tmp_path / "whole", SPLITS), console=QUIET)
    shard = next(s.file for s in mock_pairs.manifest.shards if s.key == "00005")
    moody = faulty(mock_pairs, tmp_path / "moody", Fault("open", shard, "before", "raise", times=1))
    made = run_spark(split_job, moody, local_writer(tmp_path / "a", SPLITS), session=spark, console=QUIET)
    assert made.fingerprint == whole.fingerprint
    assert opened(tmp_path / "moody") == 1
    away = faulty(mock_pairs, tmp_path / "away", Fault("open", shard, "before", "raise", times=99))
    with pytest.raises(
        JobFailed, match=r"shard 00005: failed 4 times, .* StoreError: .* did not answer"
    ) as e:
        run_spark(split_job, away, local_writer(tmp_path / "b", SPLITS), session=spark, console=QUIET)
    assert "\n" not in str(e.value)
    assert opened(tmp_path / "away") == 4


def test_expired_credentials_stop_spark_and_keep_what_was_committed(split_job, mock_pairs, spark, tmp_path):
    shard = next(s.file for s in mock_pairs.manifest.shards if s.key == "00006")
    reading = faulty(mock_pairs, tmp_path / "marks", Fault("open", shard, "before", "expire", times=99))
    writer = local_writer(tmp_path / "out", SPLITS)
    with pytest.raises(CredentialsExpired) as expired:
        run_spark(split_job, reading, writer, session=spark, console=QUIET)
    assert expired.value.exit_code == 3
    assert opened(tmp_path / "marks") == 1
    kept = writer.committed()
    assert "00006" not in kept
    made = run_spark(split_job, mock_pairs, writer, session=spark, console=QUIET)
    assert {c.key: c for c in made.manifest.shards} | kept == {c.key: c for c in made.manifest.shards}


class Expiring(AssignSplits):
    """A job whose credentials expire within a row's work."""

    def run(self, batch):
        raise CredentialsExpired("renew")


def test_credentials_that_expire_inside_a_job_are_no_rows_fault(split_job, mock_pairs, tmp_path):
    job = Expiring(plan=split_job.plan)
    with pytest.raises(CredentialsExpired):
        run_local(job, mock_pairs, local_writer(tmp_path / "out", SPLITS), console=QUIET)


def test_a_worker_that_dies_is_replaced_and_one_that_always_dies_is_named(
    split_job, mock_pairs, spark, tmp_path
):
    def writer(folder, times):
        fault = Fault("write", "shards/00004", "after", "kill", times=times)
        files = FaultyFiles(LocalFiles(str(tmp_path / folder)), (fault,), str(tmp_path / f"{folder}-marks"))
        return Writer(files, str(tmp_path / folder), SPLITS)

    whole = run_local(split_job, mock_pairs, local_writer(tmp_path / "whole", SPLITS), console=QUIET)
    made = run_spark(split_job, mock_pairs, writer("once", 1), session=spark, console=QUIET)
    assert made.fingerprint == whole.fingerprint
    with pytest.raises(JobFailed, match=r"shard 00004: .*a worker process died"):
        run_spark(split_job, mock_pairs, writer("always", 99), session=spark, console=QUIET)


def test_the_wrong_table_is_refused_and_an_empty_dataset_is_no_task(
    split_job, mock_pairs, stamps, spark, tmp_path
):
    from darkhaloscope.contracts.errors import SchemaMismatch
    from darkhaloscope.contracts.store import write_tables
    from darkhaloscope.contracts.tables import PAIRED_STAMPS

    with pytest.raises(SchemaMismatch, match="paired_stamps is needed"):
        run_spark(split_job, stamps, local_writer(tmp_path / "a", SPLITS), session=spark, console=QUIET)
    nothing = write_tables(local_writer(tmp_path / "nothing", PAIRED_STAMPS), [], job={})
    made = run_spark(split_job, nothing, local_writer(tmp_path / "b", SPLITS), session=spark, console=QUIET)
    assert (made.num_rows, made.keys) == (0, ())


THREADS = """
import numpy, scipy.linalg
from threadpoolctl import threadpool_info
from darkhaloscope.runners.shards import one_thread_each
before = {lib["num_threads"] for lib in threadpool_info()}
one_thread_each()
after = {lib["num_threads"] for lib in threadpool_info()}
assert before == {2} and after == {1}, (before, after)
"""


def test_workers_keep_blas_at_one_thread_even_where_it_was_loaded_before():
    environment = os.environ | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", THREADS], check=True, env=environment)


def test_spark_workers_start_with_one_thread(spark):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    found = spark.sparkContext.parallelize([0], 1).map(lambda _: [os.environ.get(n) for n in names]).collect()
    assert found == [["1", "1", "1"]]
    settings = dict(spark.sparkContext.getConf().getAll())
    assert all(settings[f"spark.executorEnv.{name}"] == "1" for name in names)


def test_tasks_are_neighbouring_shards_and_none_is_lost():
    keys = [f"{k:05d}" for k in range(10)]
    assert [len(piece) for piece in _pieces(keys, 3)] == [3, 3, 4]
    for n in (None, 1, 4, 10, 99):
        assert [key for piece in _pieces(keys, n) for key in piece] == keys
        assert all(_pieces(keys, n))
