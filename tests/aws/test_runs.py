"""Jobs whose input and output lie on S3: the same tables as on this machine, whatever the weather."""

import json
import os
import subprocess
import sys

import pytest

from darkhaloscope.aws.clients import forget_clients
from darkhaloscope.contracts.errors import CloudRefused, ConfigError, CredentialsExpired, StoreError
from darkhaloscope.contracts.store import local_writer, write_rows
from darkhaloscope.contracts.tables import PAIRED_STAMPS, SPLITS
from darkhaloscope.dataset.splits import AssignSplits, SplitConfig, group_counts, plan_splits
from darkhaloscope.pipeline.addresses import dataset_at, s3_place, text_at, writer_at
from darkhaloscope.runners.local import run_local

PAIRS, OUT = "s3://darkhaloscope/runs/pairs", "s3a://darkhaloscope/runs/splits/"
FOUL = dict.fromkeys(("reset", "lost", "slow", "truncated", "altered", "conflict"), 0.05) | {"slowdown": 0.01}


@pytest.fixture(scope="module")
def near(tmp_path_factory):
    """Pairs and their splits on this machine, and the job between them."""
    folder = tmp_path_factory.mktemp("near")
    rows = PAIRED_STAMPS.mock(60, seed=4)
    pairs = write_rows(local_writer(folder / "pairs", PAIRED_STAMPS), rows, shard_rows=4, job={"job": "mock"})
    job = AssignSplits(plan=plan_splits([group_counts(pairs.read(["group"]))], SplitConfig()))
    return job, pairs, run_local(job, pairs, local_writer(folder / "splits", SPLITS))


@pytest.fixture
def far(cloud, near):
    """The same pairs on S3."""
    _, pairs, _ = near
    made = write_rows(writer_at(PAIRS, PAIRED_STAMPS), pairs.read(), shard_rows=4, job={"job": "mock"})
    assert made.fingerprint == pairs.fingerprint
    return made


@pytest.mark.parametrize("seed", range(4))
def test_in_foul_weather_no_row_is_lost_doubled_or_altered(cloud, near, far, seed):
    job, _, splits = near
    cloud.weather.seed, cloud.weather.rate = seed, FOUL
    made = run_local(job, far, writer_at(OUT, SPLITS))
    cloud.weather.rate = {}
    assert sum(cloud.weather.did.values()) >= 8
    assert made.manifest == splits.manifest
    assert made.read().equals(splits.read())
    dataset_at(OUT).verify()
    assert len(cloud.files("runs/splits").names("shards")) == len(splits.keys)


@pytest.mark.parametrize("after", [0, 2, 17, 40])
def test_tokens_that_expire_in_the_middle_stop_the_run_and_fresh_ones_finish_it(
    cloud, near, far, monkeypatch, after
):
    job, _, splits = near
    cloud.weather.expire["first"] = cloud.weather.borne["first"] + after
    with pytest.raises(CredentialsExpired, match="renew them, then run the same command again"):
        run_local(job, far, writer_at(OUT, SPLITS))
    assert cloud.weather.count("PUT", "splits/manifest.json") == 0
    monkeypatch.setenv("AWS_SESSION_TOKEN", "second")
    kept = len(cloud.files("runs/splits").names("commits"))
    assert (kept > 0) == (after > 10)
    puts = cloud.weather.count("PUT", "splits/shards")
    assert run_local(job, far, writer_at(OUT, SPLITS)).manifest == splits.manifest
    assert cloud.weather.count("PUT", "splits/shards") - puts <= len(splits.keys) - kept


@pytest.mark.slow
def test_worker_processes_meet_an_expired_token_too(cloud, near, far, monkeypatch):
    job, _, splits = near
    cloud.weather.expire["first"] = cloud.weather.borne["first"] + 12
    with pytest.raises(CredentialsExpired):
        run_local(job, far, writer_at(OUT, SPLITS), workers=2)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "second")
    forget_clients()  # as in a new process: here only the workers' clients were refused
    assert run_local(job, far, writer_at(OUT, SPLITS), workers=2).manifest == splits.manifest


# The real command with one verb more, which reads a dataset at an address.
VERB = """
import sys
from darkhaloscope import cli

@cli.app.command()
def count(address: str) -> None:
    from darkhaloscope.pipeline.addresses import dataset_at
    print(dataset_at(address).read(["row_id"]).num_rows)

cli.main()
"""


@pytest.mark.parametrize(
    ("address", "token", "code", "sentence"),
    [
        (OUT, "first", 0, "AWS credentials: 24.0 h left"),
        (
            OUT,
            "old",
            3,
            "have expired or are not valid [ExpiredToken]: renew them, then run the same command",
        ),
        ("s3://no-such-bucket/p", "first", 1, "there is no such bucket"),
        ("s3://darkhaloscope/elsewhere", "first", 1, "holds no dataset (no manifest.json)"),
        ("s3://darkhaloscope", "first", 2, "names a whole bucket; allowed: a prefix in it"),
    ],
    ids=str,
)
def test_the_command_ends_with_one_sentence_and_its_exit_code(cloud, address, token, code, sentence):
    write_rows(writer_at(OUT, SPLITS), SPLITS.mock(60), shard_rows=20, job={})
    cloud.weather.expire["old"] = 0
    done = subprocess.run(
        [sys.executable, "-c", VERB, "count", address],
        env={**os.environ, "AWS_SESSION_TOKEN": token}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ("60\n" if code == 0 else "")


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("runs/pairs", None),
        ("/data/s3/x", None),
        ("file:///data/x", None),
        ("s3://bucket/a/b", ("bucket", "a/b")),
        ("S3A://bucket.x/a/", ("bucket.x", "a")),
    ],
)
def test_an_address_is_a_folder_or_a_bucket_and_prefix(address, place):
    assert s3_place(address) == place


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("s3://bucket", r"names a whole bucket; allowed: a prefix in it"),
        ("s3://bucket/", "names a whole bucket"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("s3:/bucket/prefix", "names no bucket"),
        ("s3://Bucket_1/prefix", "names no bucket"),
        ("s3://bucket/a//b", "one of its parts is empty"),
        ("s3://bucket/../b", "one of its parts"),
        ("s3://bucket/a?region=x", r"holds '\?'"),
        ("gs://bucket/prefix", r"'gs://' is not a kind of address; allowed: a folder"),
        ("https://x/y", "is not a kind of address"),
    ],
)
def test_what_is_no_address_is_said(address, sentence):
    for use in (dataset_at, text_at, lambda a: writer_at(a, SPLITS)):
        with pytest.raises(ConfigError, match=sentence):
            use(address if use is not text_at else f"{address}/job.json")


def test_a_secret_in_an_address_is_not_repeated():
    with pytest.raises(ConfigError, match="holds credentials") as caught:
        dataset_at("s3://AKIAKEY:hushhush@bucket/prefix")
    assert "hush" not in str(caught.value)


def test_a_text_is_read_from_either_place(cloud, tmp_path):
    cloud.files("jobs").write("a.json", b'{"job": 1}')
    (tmp_path / "a.json").write_text('{"job": 2}')
    assert json.loads(text_at("s3://darkhaloscope/jobs/a.json")) == {"job": 1}
    assert json.loads(text_at(str(tmp_path / "a.json"))) == {"job": 2}
    for missing in ("s3://darkhaloscope/jobs/b.json", str(tmp_path / "b.json"), str(tmp_path)):
        with pytest.raises(ConfigError, match=r"no such file|cannot be read: .*directory"):
            text_at(missing)
    cloud.files("jobs").write("c.json", b"\xff")
    with pytest.raises(ConfigError, match=r"cannot be read: .*utf-8"):
        text_at("s3://darkhaloscope/jobs/c.json")


def test_local_addresses_open_local_datasets(near, tmp_path):
    *_, splits = near
    for address in (splits.where, f"file://{splits.where}"):
        assert dataset_at(address).fingerprint == splits.fingerprint
    with pytest.raises(StoreError, match="does not exist"):
        dataset_at(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is a file"):
        writer_at(str(tmp_path / "file"), SPLITS)


def test_the_bucket_of_another_region_is_refused_by_the_store(cloud):
    cloud.weather.refuse["GET manifest.json"] = (
        301,
        "PermanentRedirect",
        "",
        {"x-amz-bucket-region": "us-east-2"},
    )
    with pytest.raises(CloudRefused, match="the bucket is in us-east-2, but us-west-2 was asked"):
        dataset_at(PAIRS)
