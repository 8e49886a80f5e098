"""`dhs score` as a user types it: a model and a dataset in; scores, candidates, histogram and summary out."""

import csv
import json
import shutil

import numpy as np
import pytest
from tests.evaluation.exported_models import NETWORKS, exported
from tests.evaluation.test_score import N, blobs, pixels, with_pixels

from darkhaloscope.contracts.store import local_writer, open_dataset, write_rows
from darkhaloscope.contracts.tables import CANDIDATES, PAIRED_STAMPS, SCORES, STAMPS
from darkhaloscope.training.scorer import read_model_file


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A folder laid out as a run's: training/checkpoint.pt and its export."""
    root = tmp_path_factory.mktemp("run")
    (root / "training").mkdir()
    exported(root / "training", NETWORKS["native stem"])
    return root


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """Stamps in five shards, two of the rows rejected."""
    reject, stamp = [None] * N, blobs(pixels())
    reject[5], reject[17] = "no_brick", "not_finite"
    stamp[5] = stamp[17] = None
    rows = with_pixels(STAMPS, stamp_npz=stamp, reject=reject)
    folder = tmp_path_factory.mktemp("sky") / "stamps"
    return write_rows(local_writer(folder, STAMPS), rows, shard_rows=15, job={"job": "test"})


def as_json(path):
    return json.loads(path.read_text())


def test_a_survey_is_scored_and_ranked(dhs, run_folder, sky, tmp_path):
    out = tmp_path / "out"
    answer = dhs("score", run_folder, sky.where, "-o", out, "--top", "10", "-n", "1")
    assert answer.code == 0, answer.err
    scores = open_dataset(out / "scores").expect(SCORES)
    assert scores.num_rows == N
    assert SCORES.check(scores.read()).all_passed
    best = open_dataset(out / "candidates-10").expect(CANDIDATES).read()
    values = scores.read()["score"].to_numpy()
    assert best["score"].to_pylist() == sorted(values[~np.isnan(values)], reverse=True)[:10]
    assert best["ra_deg"].null_count == 0
    with (out / "candidates-10.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["row_id"] for line in lines] == best["row_id"].to_pylist()
    assert [float(line["score"]) for line in lines] == best["score"].to_pylist()
    histogram = as_json(out / "histogram.json")
    column = histogram["columns"]["score"]
    assert column["underflow"] + sum(column["counts"]) + column["overflow"] == N - 2
    assert column["without_score"] == 2
    told = as_json(out / "summary.json")
    assert (told["rows"], told["scored"], told["candidates"]) == (N, N - 2, 10)
    assert told["rejects"] == {"no_brick": 1, "not_finite": 1}
    assert told["model"]["sha256"] == read_model_file(run_folder / "training" / "checkpoint.onnx")[1]
    assert told["model"]["checkpoint_sha256"] == read_model_file(run_folder / "training" / "checkpoint.pt")[1]
    assert told["fingerprints"]["source"] == sky.fingerprint
    assert told["fingerprints"]["scores"] == scores.fingerprint == histogram["scores"]
    assert told["this_call"]["rows"] == N
    assert told["this_call"]["rows_per_second"] > 0


def test_it_continues_and_ends_with_the_same_scores(dhs, run_folder, sky, tmp_path):
    out = tmp_path / "out"
    words = ("score", run_folder, sky.where, "-o", out, "-n", "1")
    assert dhs(*words).code == 0
    before, told = open_dataset(out / "scores").fingerprint, as_json(out / "summary.json")
    (out / "scores" / "manifest.json").unlink()  # as if it had been killed in its fourth shard
    for lost in sorted((out / "scores" / "commits").iterdir())[3:]:
        lost.unlink()
    shutil.rmtree(out / "candidates-1000")
    assert dhs(*words).code == 0
    assert open_dataset(out / "scores").fingerprint == before
    again = as_json(out / "summary.json")
    assert again["this_call"]["rows"] == N - 3 * 15
    assert again["fingerprints"] == told["fingerprints"]
    answer = dhs(*words)
    assert answer.code == 0
    assert "nothing new" in answer.err
    assert dhs(*words, "--top", "5").code == 0
    assert open_dataset(out / "candidates-5").num_rows == 5


def test_pairs_are_told_from_stamps_by_their_table(dhs, run_folder, tmp_path):
    rows = with_pixels(PAIRED_STAMPS, stamp_npz=blobs(pixels()), ctrl_stamp_npz=blobs(pixels(seed=2)))
    pairs = write_rows(local_writer(tmp_path / "p", PAIRED_STAMPS), rows, shard_rows=N, job={"job": "test"})
    for model, name in ((run_folder, "onnx"), (run_folder / "training" / "checkpoint.pt", "pt")):
        answer = dhs("score", model, pairs.where, "-o", tmp_path / name, "-n", "1")
        assert answer.code == 0, answer.err
    ours, theirs = (open_dataset(tmp_path / name / "scores").read() for name in ("pt", "onnx"))
    for column in ("score", "score_core_masked", "score_ctrl", "score_ctrl_core_masked"):
        np.testing.assert_allclose(theirs[column].to_numpy(), ours[column].to_numpy(), atol=1e-4, rtol=0)
    assert as_json(tmp_path / "pt" / "summary.json")["table"] == "paired_stamps"


def test_what_cannot_be_scored_is_one_sentence(dhs, run_folder, sky, tmp_path):
    out = tmp_path / "out"
    empty = tmp_path / "empty"
    empty.mkdir()
    answer = dhs("score", empty, sky.where, "-o", out)
    assert (answer.code, "holds no trained model" in answer.last) == (1, True)
    answer = dhs("score", tmp_path / "no.onnx", sky.where, "-o", out)
    assert (answer.code, "cannot be read" in answer.last) == (1, True)
    assert dhs("score", run_folder, sky.where, "-o", tmp_path / "scored", "-n", "1").code == 0
    answer = dhs("score", run_folder, tmp_path / "scored" / "scores", "-o", out)
    assert (answer.code, "only stamps and pairs can be scored" in answer.last) == (1, True)
    small = np.random.default_rng(1).normal(0, 1, (N, 3, 48, 48)).astype(np.float32)
    rows = with_pixels(STAMPS, stamp_npz=blobs(small))
    other = write_rows(local_writer(tmp_path / "s", STAMPS), rows, shard_rows=N, job={"job": "test"})
    answer = dhs("score", run_folder, other.where, "-o", out)
    assert (answer.code, "was trained on stamps (3, 64, 64)" in answer.last) == (1, True)
    assert not out.exists()  # nothing was begun


def test_an_export_of_another_checkpoint_is_not_used(dhs, run_folder, sky, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(run_folder, mixed)
    (tmp_path / "other").mkdir()
    theirs, _ = exported(tmp_path / "other", NETWORKS["native stem"], seed=4)
    shutil.copy(theirs, mixed / "training" / "checkpoint.pt")
    answer = dhs("score", mixed, sky.where, "-o", tmp_path / "out")
    assert answer.code == 1
    assert "is not the export of the checkpoint beside it" in answer.last
    (mixed / "training" / "checkpoint.onnx").unlink()
    assert dhs("score", mixed, sky.where, "-o", tmp_path / "out", "-n", "1").code == 0


def test_scores_that_a_job_made_elsewhere_are_only_ranked(dhs, run_folder, sky, tmp_path):
    model = run_folder / "training" / "checkpoint.onnx"
    job = {"job": "score_stamps", "checkpoint": str(model), "checkpoint_sha256": read_model_file(model)[1]}
    far = tmp_path / "far"
    (tmp_path / "job.json").write_text(json.dumps({"job": job, "source": sky.where, "out": str(far)}))
    assert dhs("job", tmp_path / "job.json", "--on", "local:1").code == 0
    made = (far / "manifest.json").read_bytes()
    answer = dhs("score", run_folder, sky.where, "-o", tmp_path / "out", "--scores", far, "--top", "10")
    assert answer.code == 0, answer.err
    assert as_json(tmp_path / "out" / "summary.json")["this_call"]["rows"] == 0
    assert (far / "manifest.json").read_bytes() == made
    assert not (tmp_path / "out" / "scores").exists()
