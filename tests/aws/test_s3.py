"""The store on S3, in fair weather and foul. What `Files` promises is tested in tests/contracts."""

import io
import pickle
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from darkhaloscope.aws import s3
from darkhaloscope.contracts.errors import CloudRefused, CredentialsExpired, StoreError
from darkhaloscope.contracts.store import Dataset, LocalFiles, Writer, write_rows
from darkhaloscope.contracts.tables import PAIRED_STAMPS, SPLITS

FOUL = {"reset": 0.05, "lost": 0.05, "slow": 0.05, "truncated": 0.05, "altered": 0.05, "conflict": 0.05}


def test_a_first_commit_whose_answer_was_lost_is_not_reported_as_lost(cloud):
    files = cloud.files()
    cloud.weather.first["PUT data/commits/0.json"] = ["lost"]
    assert files.create("commits/0.json", b"mine")
    assert cloud.weather.count("PUT") == 2
    assert files.read("commits/0.json") == b"mine"


def test_the_same_bytes_by_somebody_else_were_still_first(cloud):
    cloud.files().create("job.json", b"same")
    cloud.weather.first["PUT data/job.json"] = ["lost"]
    assert not cloud.files().create("job.json", b"same")


def test_a_conflict_of_conditional_puts_is_asked_again(cloud):
    cloud.weather.first["PUT data/x"] = ["conflict", "conflict"]
    assert cloud.files().create("x", b"1")
    cloud.weather.first["PUT data/y"] = ["conflict"] * 100
    with pytest.raises(CloudRefused) as caught:
        cloud.files().create("y", b"1")
    assert caught.value.code == "ConditionalRequestConflict"
    assert cloud.files().names("") == ["x"]


@pytest.mark.parametrize("seed", [1, 2])
def test_of_racing_writers_in_foul_weather_exactly_one_is_first(cloud, seed):
    cloud.weather.seed, cloud.weather.rate = seed, {"lost": 0.15, "reset": 0.1, "conflict": 0.2}
    for turn in range(4):
        start = threading.Barrier(8)

        def race(writer, turn=turn, start=start):
            start.wait()
            return cloud.files().create(f"{turn}", b"%d" % writer)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(race, range(8)))
        assert won.count(True) == 1
        assert cloud.files().read(f"{turn}") == b"%d" % won.index(True)
    assert cloud.weather.did["lost"] > 0


@pytest.mark.parametrize("seed", [1, 2])
def test_any_calls_in_foul_weather_end_as_on_a_disk(cloud, tmp_path, seed):
    """Forty calls drawn by a seed, on S3 with a fault in four of ten requests, and on this machine."""
    near, far, rng = LocalFiles(str(tmp_path / "near")), cloud.files("a/b"), random.Random(seed)
    cloud.weather.rate, cloud.weather.seed = FOUL, seed
    for _ in range(40):
        path = rng.choice(["x", "f/y", "f/z", "f/g/w"])
        data = rng.randbytes(rng.choice([0, 1, 3000]))
        call = rng.choice(["write", "create", "read", "names"])
        given = (
            (path, data)
            if call in {"write", "create"}
            else (path if call == "read" else rng.choice(["", "f"]),)
        )
        found = []
        for files in (near, far):
            try:
                found.append(getattr(files, call)(*given))
            except FileNotFoundError:
                found.append("absent")
        assert found[0] == found[1], (call, given)
    assert sum(cloud.weather.did.values()) > 3


def test_a_large_object_arrives_in_parts_also_where_the_last_answer_is_lost(cloud, monkeypatch):
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)  # the least that S3 takes as a part
    data = np.random.default_rng(0).bytes((11 << 20) + 7)
    cloud.weather.first["POST data/large uploadId"] = ["lost"]
    cloud.weather.first["PUT data/large partNumber=2"] = ["lost", "reset"]
    cloud.files().write("large", data)
    assert cloud.weather.count("PUT", "partNumber") == 3 + 2
    assert (cloud.weather.did["lost"], cloud.weather.did["reset"]) == (2, 1)
    assert cloud.files().read("large") == data
    cloud.weather.refuse["PUT data/other partNumber=3"] = (400, "ExpiredToken", "Gone.")
    with pytest.raises(CredentialsExpired):
        cloud.files().write("other", data)
    assert cloud.files().names("") == ["large"]
    with pytest.raises(CloudRefused, match="no such bucket"):
        s3.S3Files(cloud.aws, "no-such-one", "data").write("large", data)


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_an_opened_object_reads_as_a_file_does(cloud, size):
    data = np.random.default_rng(size).bytes(size)
    cloud.files().write("x", data)
    rng = random.Random(size)
    with cloud.files().open("x") as far:
        near = io.BytesIO(data)
        assert (far.readable(), far.seekable(), far.writable()) == (True, True, False)
        for _ in range(30):
            spot, whence = rng.choice([(rng.randint(0, size), 0), (-rng.randint(0, size), 2), (0, 1)])
            assert far.seek(spot, whence) == near.seek(spot, whence)
            count = rng.choice([0, 1, 100, size // 2, size + 10])
            assert far.read(count) == near.read(count)
            assert far.tell() == near.tell()
        assert far.seek(0) == 0
        assert far.read() == data
        with pytest.raises(ValueError, match="before the start"):
            far.seek(-1)
    with pytest.raises(FileNotFoundError) as caught:
        cloud.files().open("y")
    assert caught.value.filename == f"s3://{cloud.aws.bucket}/data/y"


def test_an_object_that_changes_while_it_is_read_is_not_read_on(cloud):
    cloud.files().write("x", b"1" * 200_000)
    with cloud.files().open("x") as far:
        cloud.files().write("x", b"2" * 200_000)
        with pytest.raises(CloudRefused):
            far.read(10)


def _large_pairs(count):
    """Rows whose blobs are as large as those of real stamps."""
    rows, rng = PAIRED_STAMPS.mock(count), np.random.default_rng(0)
    for name in ("stamp_npz", "ctrl_stamp_npz"):
        blobs = pa.array([rng.bytes(49_152) for _ in range(count)], rows.schema.field(name).type)
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), blobs)
    return rows


def _bytes_asked(weather):
    spans = [text.rpartition("bytes=")[2] for text in weather.seen if "bytes=" in text]
    ends = [span.partition("-") for span in spans]
    return sum(int(last) - int(first) + 1 if first else int(last) for first, _, last in ends)


def test_only_the_columns_that_are_read_are_fetched(cloud):
    rows = _large_pairs(120)
    dataset = write_rows(Writer(cloud.files(), "d", PAIRED_STAMPS), rows, shard_rows=120, job={})
    whole = len(cloud.files().read(dataset.manifest.shards[0].file))
    assert whole > 8 * s3.AHEAD_BYTES
    cloud.weather.seen.clear()
    ids = dataset.read_shard("00000", ["task_id"])
    assert ids.column("task_id").equals(rows.column("task_id"))
    assert 0 < _bytes_asked(cloud.weather) < 0.25 * whole
    cloud.weather.seen.clear()
    assert dataset.read().equals(rows)
    assert _bytes_asked(cloud.weather) >= 0.9 * whole  # and the count does count


def test_ten_thousand_keys_are_listed_whole(cloud):
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for number in range(10_000):
        backend.put_object(cloud.aws.bucket, f"data/commits/{number:05d}.json", b"{}")
    backend.put_object(cloud.aws.bucket, "data/commits/", b"")  # the marker that a console leaves
    assert cloud.files().names("commits") == [f"{number:05d}.json" for number in range(10_000)]
    assert cloud.weather.count("list-type") == 11


def test_commit_records_are_read_many_at_once(cloud):
    writer = Writer(cloud.files(), "d", SPLITS)
    write_rows(writer, SPLITS.mock(60), shard_rows=1, job={})
    cloud.weather.rate = {"slow": 1.0}
    assert len(writer.committed()) == 60
    assert cloud.weather.most_at_once >= 8
    assert Dataset(writer.files, "d").read().equals(SPLITS.mock(60))


def test_an_expired_token_stops_many_reads_at_once(cloud):
    writer = Writer(cloud.files(), "d", SPLITS)
    write_rows(writer, SPLITS.mock(60), shard_rows=1, job={})
    cloud.weather.expire["first"] = cloud.weather.borne["first"] + 20
    before = cloud.weather.count()
    with pytest.raises(CredentialsExpired):
        writer.committed()
    assert cloud.weather.count() - before < 60


def test_errors_of_the_cloud_stay_themselves_inside_parquet(cloud):
    writer = Writer(cloud.files(), "d", PAIRED_STAMPS)
    dataset = write_rows(writer, _large_pairs(20), shard_rows=20, job={})
    cloud.weather.first["GET parquet bytes=-"] = ["slow"]  # the end is still read
    cloud.weather.expire["first"] = cloud.weather.borne["first"] + 1
    with pytest.raises(CredentialsExpired):
        dataset.read_shard("00000")


def test_damage_and_absence_are_told_as_on_a_disk(cloud):
    files = cloud.files()
    with pytest.raises(StoreError, match="holds no dataset"):
        Dataset(files, "s3://b/p")
    dataset = write_rows(Writer(files, "d", SPLITS), SPLITS.mock(4), shard_rows=2, job={})
    name = dataset.manifest.shards[1].file
    files.write(name, files.read(name)[:100])
    with pytest.raises(StoreError, match="has changed"):
        dataset.verify()
    with pytest.raises(StoreError, match=r"00001.*cannot be read"):
        dataset.read()
    with pytest.raises(CloudRefused, match="no such bucket"):
        Dataset(s3.S3Files(cloud.aws, "no-such-one", "p"), "s3://no-such-one/p")


def test_it_travels_to_workers(cloud):
    cloud.files().write("x", b"1")
    files = pickle.loads(pickle.dumps(cloud.files()))
    assert files.read("x") == b"1"
    assert isinstance(files.open("x"), io.BufferedReader)
    assert pa.PythonFile(files.open("x")).read() == b"1"
