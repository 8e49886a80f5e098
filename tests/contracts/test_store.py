import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from darkhaloscope.contracts.errors import SchemaMismatch, StoreError
from darkhaloscope.contracts.store import Dataset, LocalFiles, Writer, local_writer, open_dataset, write_rows
from darkhaloscope.contracts.tables import SCORES, SPLITS


class MemoryFiles:
    """A filesystem that is not the local one: the store must not know the difference."""

    at_once = 4

    def __init__(self):
        self.content, self.lock = {}, threading.Lock()

    def read(self, path):
        if path not in self.content:
            raise FileNotFoundError(path)
        return self.content[path]

    def open(self, path):
        return pa.BufferReader(self.read(path))

    def write(self, path, data):
        self.content[path] = data

    def create(self, path, data):
        with self.lock:
            return path not in self.content and self.content.setdefault(path, data) is data

    def names(self, path):
        prefix = f"{path}/" if path else ""
        return sorted({p.removeprefix(prefix).split("/")[0] for p in self.content if p.startswith(prefix)})


@pytest.fixture(params=["local", "memory", "s3"])
def files(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("cloud").files("some/where")
    return LocalFiles(str(tmp_path / "d")) if request.param == "local" else MemoryFiles()


@pytest.fixture
def writer(files):
    return Writer(files, "d", SPLITS)


def test_a_filesystem_keeps_its_five_promises(files):
    with pytest.raises(FileNotFoundError):
        files.read("a/b")
    assert files.names("a") == files.names("") == []
    files.write("a/b", b"old")
    files.write("a/b", b"new")
    assert files.read("a/b") == b"new"
    assert not files.create("a/b", b"other")
    assert files.read("a/b") == b"new"
    assert files.create("a/c", b"")
    assert not files.create("a/c", b"")
    files.write("a/deep/d", b"x")
    files.write("ab", b"x")
    assert files.read("a/c") == b""
    assert files.names("a") == ["b", "c", "deep"]
    assert files.names("") == ["a", "ab"]


def test_the_first_of_eight_racing_writers_wins(files):
    texts = [f"writer {i}".encode() for i in range(8)]
    start = threading.Barrier(8)

    def race(text):
        start.wait()
        return files.create("commits/0.json", text)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(race, texts))
    assert won.count(True) == 1
    assert files.read("commits/0.json") == texts[won.index(True)]


def test_rows_come_back_as_they_went_in(writer):
    rows = SPLITS.mock(10)
    dataset = write_rows(writer, rows, shard_rows=4, job={"job": "test"})
    assert dataset.keys == ("00000", "00001", "00002")
    assert dataset.read().equals(rows)
    assert dataset.read(["split"]).column_names == ["split"]
    dataset.verify()


def test_a_dataset_without_manifest_cannot_be_read(writer):
    writer.begin({"job": "x"}, "f", {})
    writer.commit("00000", SPLITS.mock(2))
    with pytest.raises(StoreError, match="unfinished"):
        Dataset(writer.files, "d")
    with pytest.raises(StoreError, match="no manifest"):
        Dataset(MemoryFiles(), "nothing")


def test_the_manifest_is_written_last(tmp_path):
    order = []

    class Recording(LocalFiles):
        def write(self, path, data):
            order.append(path)
            super().write(path, data)

        def create(self, path, data):
            order.append(path)
            return super().create(path, data)

    write_rows(Writer(Recording(str(tmp_path)), "d", SPLITS), SPLITS.mock(6), shard_rows=2, job={})
    assert order[-1] == "manifest.json"
    for key in ("00000", "00001", "00002"):
        shard = next(i for i, path in enumerate(order) if path.startswith(f"shards/{key}"))
        assert shard < order.index(f"commits/{key}.json")


def test_the_first_commit_of_a_shard_wins(writer):
    writer.begin({}, "f", {})
    first = writer.commit("00000", SPLITS.mock(3, seed=1))
    second = writer.commit("00000", SPLITS.mock(3, seed=2))
    assert second == first
    assert writer.finish(["00000"], {}, "f", {}).read().equals(SPLITS.mock(3, seed=1))


def test_a_folder_that_belongs_to_another_job_is_refused(writer):
    writer.begin({"job": "a"}, "f1", {})
    writer.begin({"job": "a"}, "f1", {})
    with pytest.raises(StoreError, match="belongs to another job"):
        writer.begin({"job": "a"}, "f2", {})
    with pytest.raises(StoreError, match="belongs to another job"):
        writer.begin({"job": "a"}, "f1", {"source": "other"})


def test_a_manifest_is_not_written_over_a_missing_shard(writer):
    writer.begin({}, "f", {})
    writer.commit("00000", SPLITS.mock(1))
    with pytest.raises(StoreError, match="00001 was not committed"):
        writer.finish(["00000", "00001"], {}, "f", {})


def test_the_fingerprint_follows_rows_job_and_inputs(tmp_path):
    def mark(name, rows, job=None, inputs=None):
        writer = local_writer(tmp_path / name, SPLITS)
        return write_rows(writer, rows, shard_rows=2, job=job or {"job": "t"}, inputs=inputs).fingerprint

    base = mark("a", SPLITS.mock(4))
    assert mark("b", SPLITS.mock(4)) == base
    assert mark("c", SPLITS.mock(4, seed=2)) != base
    assert mark("d", SPLITS.mock(4), job={"job": "u"}) != base
    assert mark("e", SPLITS.mock(4), inputs={"source": "x"}) != base


def test_damage_is_named_with_the_file(tmp_path):
    dataset = write_rows(local_writer(tmp_path, SPLITS), SPLITS.mock(4), shard_rows=2, job={})
    path = tmp_path / dataset.manifest.shards[1].file
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match="has changed"):
        dataset.verify()
    with pytest.raises(StoreError, match=path.name):
        dataset.read()
    path.unlink()
    with pytest.raises(StoreError, match="is not there"):
        dataset.read()
    (tmp_path / "manifest.json").write_text(json.dumps({"table": "splits"}))
    with pytest.raises(StoreError, match="not a manifest"):
        open_dataset(tmp_path)


def test_the_wrong_table_and_the_missing_folder_are_clear(tmp_path):
    dataset = write_rows(local_writer(tmp_path / "d", SPLITS), SPLITS.mock(1), shard_rows=2, job={})
    with pytest.raises(SchemaMismatch, match="holds splits, but scores is needed"):
        dataset.expect(SCORES)
    with pytest.raises(StoreError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")


def test_an_empty_dataset_is_a_dataset(writer):
    dataset = write_rows(writer, SPLITS.schema.empty_table(), shard_rows=4, job={})
    assert dataset.num_rows == 0
    assert dataset.read().schema.names == SPLITS.schema.names
