"""Scores are a pure function of a row's pixels and the checkpoint, whatever runs the job."""

import numpy as np
import pyarrow as pa
import pytest

from darkhaloscope.contracts.errors import DataError, SchemaMismatch, StampError
from darkhaloscope.contracts.tables import PAIRED_STAMPS, SCORES, SPLITS, STAMPS
from darkhaloscope.evaluation.samples import attach_splits
from darkhaloscope.evaluation.score import Score, ScoreStamps
from darkhaloscope.stamps.preprocess import Preprocess
from darkhaloscope.stamps.stamp import encode_planes
from darkhaloscope.training.config import NetworkConfig
from darkhaloscope.training.model import Card, LensClassifier, load_checkpoint, save_checkpoint

N = 70


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    network = NetworkConfig(
        backbone="resnet10t", stem="native", options={"channels": (8, 8, 16, 16), "stem_width": 4}
    )
    card = Card(
        network=network,
        preprocess=Preprocess(kind="asinh"),
        stamp_shape=(3, 64, 64),
        training={},
        sampling={},
        fingerprints={},
        history=(),
        best_epoch=0,
    )
    path = tmp_path_factory.mktemp("model") / "checkpoint.pt"
    sha = save_checkpoint(path, LensClassifier.seeded(network, bands=3, seed=3).state_dict(), card)
    return {"checkpoint": str(path), "checkpoint_sha256": sha}


def pixels(n=N, seed=1, offset=0.0):
    images = np.random.default_rng(seed).normal(offset, 1, (n, 3, 64, 64)).astype(np.float32)
    images[:, :, 20:40, 20:40] += np.arange(n, dtype=np.float32)[:, None, None, None]
    return images


def blobs(images):
    return [encode_planes("image", image) for image in images]


def with_pixels(table, **columns):
    given = table.mock(N).to_pydict()
    given |= {"x_center_pix": [31.5] * N, "y_center_pix": [31.5] * N, "reject": [None] * N}
    return table.conform({**given, **columns})


@pytest.fixture(scope="module")
def pairs():
    reject = [None] * N
    reject[5] = "host_masked"
    stamp, control = blobs(pixels()), blobs(pixels(seed=2))
    stamp[5] = control[5] = None
    return with_pixels(PAIRED_STAMPS, stamp_npz=stamp, ctrl_stamp_npz=control, reject=reject)


def projected(job, rows):
    return rows.select(list(job.columns))


def test_a_pair_has_two_views_of_arc_and_control(checkpoint, pairs):
    job = Score(**checkpoint)
    scores = job.run(projected(job, pairs))
    assert scores.schema == SCORES.schema
    assert SCORES.check(scores).all_passed
    assert scores["row_id"] == pairs["task_id"]
    scorer, centre = load_checkpoint(checkpoint["checkpoint"]), np.full(N, 31.5)
    kept = np.arange(N) != 5
    for column, images in (("score", pixels()), ("score_ctrl", pixels(seed=2))):
        for suffix, masked in (("", False), ("_core_masked", True)):
            want = scorer(images, centre, centre, core_masked=masked)
            got = scores[column + suffix].to_numpy()
            assert np.array_equal(got[kept], want[kept])
    assert len(set(scores["score"].to_pylist())) > N / 2


def test_a_rejected_row_keeps_its_place_without_a_score(checkpoint, pairs):
    job = Score(**checkpoint)
    row = job.run(projected(job, pairs)).slice(5, 1).to_pylist()[0]
    assert row["reject"] == "host_masked"
    assert row["score"] is row["score_ctrl_core_masked"] is None
    only = job.run(projected(job, pairs.slice(5, 1)))
    assert only["score"].null_count == 1


def test_facts_are_carried(checkpoint, pairs):
    job = Score(**checkpoint)
    scores = job.run(projected(job, pairs))
    for name in (
        "host_id",
        "group",
        "kind",
        "host_domain",
        "arc_domain",
        "theta_e_arcsec",
        "arc_snr_mf",
        "kappa_r5",
    ):
        assert scores[name].to_pylist() == pairs[name].to_pylist()


@pytest.mark.parametrize("rows", [3, 16, 64])
def test_scores_do_not_depend_on_the_batch(checkpoint, pairs, rows):
    job = Score(**checkpoint)
    batch = projected(job, pairs)
    whole = job.run(batch)
    parts = pa.concat_tables([job.run(batch.slice(i, rows)) for i in range(0, N, rows)])
    assert parts.equals(whole)


def test_survey_stamps_are_scored_with_their_labels(checkpoint):
    job = ScoreStamps(**checkpoint)
    rows = with_pixels(STAMPS, stamp_npz=blobs(pixels()))
    scores = job.run(projected(job, rows))
    assert scores["row_id"] == rows["target_id"]
    assert scores["score"].null_count == scores["score_core_masked"].null_count == 0
    assert scores["score_ctrl"].null_count == N
    assert scores["category"].to_pylist() == rows["category"].to_pylist()
    assert scores["psf_fwhm_arcsec"].to_pylist() == rows["psfsize_r"].to_pylist()


def test_a_bad_row_is_named(checkpoint):
    job = ScoreStamps(**checkpoint)
    images = pixels()
    images[3, 0, 0, 0] = np.nan
    rows = with_pixels(STAMPS, stamp_npz=blobs(images))
    with pytest.raises(StampError, match="target_id-00003 stamp_npz: holds values that are not finite"):
        job.run(projected(job, rows))


def test_a_checkpoint_that_was_trained_again_is_refused(checkpoint, pairs):
    job = Score(checkpoint=checkpoint["checkpoint"], checkpoint_sha256="0" * 64)
    with pytest.raises(DataError, match="has SHA-256"):
        job.run(projected(job, pairs))


def test_the_job_is_its_checkpoint_s_content_not_its_place(checkpoint):
    job = Score(**checkpoint)
    assert job.identity == job.model_copy(update={"checkpoint": "/elsewhere"}).identity
    assert job.identity != job.model_copy(update={"checkpoint_sha256": "1" * 64}).identity
    assert Score.model_validate_json(job.model_dump_json()) == job


def scored(ids):
    table = SCORES.mock(len(ids)).to_pydict()
    return SCORES.conform({**table, "row_id": ids})


def split_rows(ids):
    table = SPLITS.mock(len(ids)).to_pydict()
    return SPLITS.conform(
        {
            **table,
            "row_id": ids,
            "split": ["train", "test", "calib"],
            "reject": ["below_snr_floor", None, None],
        }
    )


def test_splits_are_attached_by_row():
    joined = attach_splits(scored(["c", "a"]), split_rows(["a", "b", "c"]))
    assert joined["split"].to_pylist() == ["calib", "train"]
    assert joined["split_reject"].to_pylist() == [None, "below_snr_floor"]
    assert joined["row_id"].to_pylist() == ["c", "a"]


def test_a_row_in_no_split_or_in_two_is_refused():
    with pytest.raises(DataError, match="scores: 1 rows are in no split, for instance x"):
        attach_splits(scored(["a", "x"]), split_rows(["a", "b", "c"]))
    with pytest.raises(SchemaMismatch, match="more than once"):
        attach_splits(scored(["a"]), split_rows(["a", "a", "c"]))
