"""An exported network scores as its checkpoint does, bit by bit the same however rows are dealt out."""

import hashlib
import subprocess
import sys

import numpy as np
import onnx
import pyarrow as pa
import pytest
from rich.console import Console
from tests.evaluation.exported_models import NETWORKS, exported
from tests.evaluation.test_score import N, blobs, pixels, projected, with_pixels

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.store import local_writer, open_dataset, write_rows
from darkhaloscope.contracts.tables import PAIRED_STAMPS, SCORES, STAMPS
from darkhaloscope.evaluation.score import Score, ScoreStamps
from darkhaloscope.runners.local import run_local
from darkhaloscope.stamps.preprocess import Preprocess
from darkhaloscope.training.model import load_checkpoint
from darkhaloscope.training.onnx_scorer import load_onnx
from darkhaloscope.training.scorer import MICRO_BATCH

CENTRE = np.full(N, 31.5)
COLUMNS = ("score", "score_core_masked", "score_ctrl", "score_ctrl_core_masked")


def which(path):
    return {"checkpoint": str(path), "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.fixture(scope="module", params=list(NETWORKS))
def model(request, tmp_path_factory):
    return exported(tmp_path_factory.mktemp("model"), NETWORKS[request.param])


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("native"), NETWORKS["native stem"])


def pair_rows():
    reject = [None] * N
    reject[5], reject[17] = "host_masked", "not_finite"
    stamp, control = blobs(pixels()), blobs(pixels(seed=2))
    for k in (5, 17):
        stamp[k] = control[k] = None
    return with_pixels(PAIRED_STAMPS, stamp_npz=stamp, ctrl_stamp_npz=control, reject=reject)


def stamp_rows():
    return with_pixels(STAMPS, stamp_npz=blobs(pixels()))


@pytest.mark.parametrize(("job", "rows"), [(Score, pair_rows()), (ScoreStamps, stamp_rows())])
def test_every_score_is_the_checkpoints_and_rejects_keep_their_place(model, job, rows):
    ours, theirs = (job(**which(path)).run(projected(job, rows)) for path in model)
    assert SCORES.check(theirs).all_passed
    assert theirs["row_id"] == ours["row_id"]
    assert theirs["reject"] == ours["reject"]
    blind = np.array([row is not None for row in rows["reject"].to_pylist()])
    for name in COLUMNS[: 4 if job is Score else 2]:
        a, b = ours[name].to_numpy(), theirs[name].to_numpy()
        assert np.array_equal(np.isnan(a), blind)
        assert np.array_equal(np.isnan(b), blind)
        assert np.ptp(a[~blind]) > 0.1  # else any constant would agree
        np.testing.assert_allclose(b[~blind], a[~blind], atol=1e-4, rtol=0)
    assert not np.array_equal(theirs["score"].to_numpy(), theirs["score_core_masked"].to_numpy())


def test_another_network_does_not_agree(native, tmp_path):
    other = exported(tmp_path, NETWORKS["native stem"], seed=4)[1]
    rows = projected(ScoreStamps, stamp_rows())
    ours, theirs = (ScoreStamps(**which(path)).run(rows)["score"].to_numpy() for path in (native[0], other))
    assert np.abs(ours - theirs).max() > 1e-2


def test_the_card_s_own_preprocessing_is_used(tmp_path):
    ours, theirs = exported(tmp_path, NETWORKS["native stem"], preprocess=Preprocess(kind="robust"))
    seen = (pixels(), CENTRE, CENTRE)
    np.testing.assert_allclose(load_onnx(theirs)(*seen), load_checkpoint(ours)(*seen), atol=1e-4, rtol=0)


def test_a_row_s_logit_does_not_depend_on_its_company_or_its_place(model):
    scorer = load_onnx(model[1])
    images = pixels()
    whole = scorer.views(images, CENTRE, CENTRE)
    alone = np.stack(
        [scorer.views(images[k : k + 1], CENTRE[:1], CENTRE[:1])[:, 0] for k in range(5)], axis=1
    )
    assert np.array_equal(alone, whole[:, :5])
    for shift in range(1, MICRO_BATCH):
        rolled = scorer.views(np.roll(images, shift, axis=0), CENTRE, CENTRE)
        assert np.array_equal(np.roll(whole, shift, axis=1), rolled)
    for masked, logits in zip((False, True), whole, strict=True):
        assert np.array_equal(scorer.logits(images, CENTRE, CENTRE, core_masked=masked), logits)


def test_workers_batches_and_shards_change_no_bit(native, tmp_path):
    rows = pair_rows()
    job = Score(**which(native[1]))
    sources = {
        size: write_rows(
            local_writer(tmp_path / f"pairs-{size}", PAIRED_STAMPS),
            rows,
            shard_rows=size,
            job={"job": "test"},
        )
        for size in (9, 32)
    }
    quiet = Console(quiet=True)
    made = [
        run_local(
            job, sources[size], local_writer(tmp_path / f"out-{size}-{workers}-{batch}", SCORES),
            workers=workers, batch_rows=batch, console=quiet,
        )
        for size, workers, batch in ((32, 1, 64), (32, 2, 5), (9, 1, 3))
    ]  # fmt: skip
    assert made[0].fingerprint == made[1].fingerprint
    assert made[0].read().equals(made[2].read())
    assert made[0].read().equals(job.run(projected(job, rows)))


_BLOCKED = """
import sys
for name in ("torch", "timm", "lightning", "torchvision", "onnx"):
    sys.modules[name] = None
import hashlib, pathlib
from rich.console import Console
from darkhaloscope.contracts.store import local_writer, open_dataset
from darkhaloscope.evaluation.candidates import candidates, reduced_dataset
from darkhaloscope.evaluation.score import Score
from darkhaloscope.runners.local import run_local
model, source, out = sys.argv[1:]
sha = hashlib.sha256(pathlib.Path(model).read_bytes()).hexdigest()
job = Score(checkpoint=model, checkpoint_sha256=sha)
dataset = open_dataset(source)
job.refuse_unfit(dataset)
made = run_local(job, dataset, local_writer(out, job.writes), console=Console(quiet=True))
print(candidates(reduced_dataset(made, 5), made, dataset).num_rows)
"""


def blocked(*words):
    command = [sys.executable, "-c", _BLOCKED, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_scoring_and_ranking_need_no_pytorch(native, tmp_path):
    rows = pair_rows().slice(0, 20)
    write_rows(local_writer(tmp_path / "pairs", PAIRED_STAMPS), rows, shard_rows=20, job={"job": "test"})
    done = blocked(native[1], tmp_path / "pairs", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "5"
    here = Score(**which(native[1])).run(projected(Score, rows))
    assert open_dataset(tmp_path / "out").read().equals(here)
    refused = blocked(native[0], tmp_path / "pairs", tmp_path / "other")
    assert refused.returncode != 0
    assert "needs the package torch, which is not installed" in refused.stderr


def test_the_job_names_the_file_and_the_file_its_checkpoint(native):
    ours, theirs = (ScoreStamps(**which(path)) for path in native)
    assert ours.identity != theirs.identity
    assert theirs.identity == theirs.model_copy(update={"checkpoint": "/elsewhere.onnx"}).identity
    assert theirs.scorer.checkpoint_sha256 == ours.checkpoint_sha256
    assert theirs.scorer.card == ours.scorer.card


def changed(path, folder, change):
    """The export with something changed, and its path."""
    proto = onnx.load(path)
    change(proto)
    other = folder / "other.onnx"
    other.write_bytes(proto.SerializeToString())
    return other


def _no_card(proto):
    del proto.metadata_props[:]


def _another_size(proto):
    facts = {p.key: p.value.replace("[3,64,64]", "[3,80,80]") for p in proto.metadata_props}
    onnx.helper.set_model_props(proto, facts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_no_card, "carries no card of ours"),
        (_another_size, r"does not take stamps \(3, 80, 80\) as its card says"),
    ],
)
def test_a_file_that_is_no_export_of_ours_is_refused(native, tmp_path, change, message):
    other = changed(native[1], tmp_path, change)
    with pytest.raises(DataError, match=message):
        load_onnx(other)
    (tmp_path / "text.onnx").write_bytes(b"not a network")
    with pytest.raises(DataError, match="is not a network that ONNX Runtime can load"):
        load_onnx(tmp_path / "text.onnx")
    with pytest.raises(DataError, match="has SHA-256"):
        load_onnx(native[1], sha256="0" * 64)
    with pytest.raises(DataError, match="cannot be read"):
        load_onnx(tmp_path / "absent.onnx")


@pytest.mark.parametrize("side", [0, 1])
def test_stamps_of_another_size_stop_a_job_before_its_first_row(native, tmp_path, side):
    images = np.random.default_rng(1).normal(0, 1, (N, 3, 48, 48)).astype(np.float32)
    rejects = ["no_brick"] * 3 + [None] * (N - 3)
    rows = with_pixels(STAMPS, stamp_npz=[None] * 3 + blobs(images)[3:], reject=rejects)
    source = write_rows(local_writer(tmp_path / "s", STAMPS), rows, shard_rows=2, job={"job": "test"})
    job = ScoreStamps(**which(native[side]))
    with pytest.raises(DataError, match=r"was trained on stamps \(3, 64, 64\), these are \(3, 48, 48\)"):
        job.refuse_unfit(source)
    fits = write_rows(
        local_writer(tmp_path / "fits", STAMPS), stamp_rows(), shard_rows=64, job={"job": "test"}
    )
    job.refuse_unfit(fits)
    with pytest.raises(DataError, match="holds stamps, but paired_stamps is needed"):
        Score(**which(native[side])).refuse_unfit(fits)


def test_a_logit_that_is_not_finite_is_an_error_not_a_null(native, tmp_path):
    def broken(proto):
        weight = next(w for w in proto.graph.initializer if len(w.dims) == 4)
        values = onnx.numpy_helper.to_array(weight) * np.float32(np.nan)
        weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), weight.name))

    job = ScoreStamps(**which(changed(native[1], tmp_path, broken)))
    with pytest.raises(DataError, match="target_id-00000: gives a logit that is not finite"):
        job.run(projected(job, stamp_rows()))


def test_no_rows_are_no_scores(native):
    job = Score(**which(native[1]))
    empty = projected(job, pair_rows().slice(0, 0))
    assert job.run(empty).num_rows == 0
    only = job.run(projected(job, pair_rows().slice(5, 1)))
    assert isinstance(only, pa.Table)
    assert only["score"].null_count == only["score_ctrl"].null_count == 1
