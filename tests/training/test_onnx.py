"""The exported network: the same logits, the card beside them, and no file where they differ."""

import copy
import dataclasses
import json

import numpy as np
import onnxruntime
import pytest
import torch

from darkhaloscope.contracts.errors import TrainingFailed
from darkhaloscope.training.model import load_checkpoint
from darkhaloscope.training.onnx import (
    CARD,
    CHECKPOINT,
    TOLERANCE,
    export_onnx,
    exported_from,
    largest_difference,
)


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    made = toy.run(tmp_path_factory.mktemp("onnx"), toy.tiny_config(epochs=1))
    return load_checkpoint(made.checkpoint_path)


@pytest.fixture(scope="module")
def sample(toy):
    pairs = toy.toy_pairs(12, seed=5)
    return toy.preprocess().apply(pairs.block.stamp, pairs.block.x_center, pairs.block.y_center)


@pytest.fixture(scope="module")
def exported(trained, sample, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "checkpoint.onnx"
    return path, export_onnx(trained, path, sample)


def test_onnx_runtime_gives_the_logits_of_the_checkpoint_for_any_number_of_stamps(trained, sample, exported):
    path, worst = exported
    assert worst <= TOLERANCE
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        ours = trained.model(torch.from_numpy(sample)).numpy()
    assert np.ptp(ours) > 100 * TOLERANCE  # else any constant would agree
    for n in (1, 5, 12):
        (theirs,) = session.run(["logit"], {"normalised": sample[:n]})
        np.testing.assert_allclose(theirs, ours[:n], atol=TOLERANCE)


def test_the_file_carries_its_card(trained, exported):
    path, _ = exported
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert facts[CHECKPOINT] == trained.sha256 == exported_from(path)
    card = json.loads(facts[CARD])
    assert card["preprocess"]["kind"] == "asinh"
    assert card["stamp_shape"] == [3, 32, 32]


def test_a_network_that_differs_is_not_written(trained, sample, exported, tmp_path, monkeypatch):
    from darkhaloscope.training import onnx

    data = exported[0].read_bytes()
    monkeypatch.setattr(onnx, "_exported", lambda *_: data)
    other = dataclasses.replace(trained, model=copy.deepcopy(trained.model))
    with torch.no_grad():
        torch._foreach_add_(list(other.model.parameters()), 0.01)
    assert largest_difference(data, trained.model, sample) <= TOLERANCE
    assert largest_difference(data, other.model, sample) > TOLERANCE
    with pytest.raises(TrainingFailed, match="differs from the trained one by"):
        export_onnx(other, tmp_path / "wrong.onnx", sample)
    assert not (tmp_path / "wrong.onnx").exists()


def test_a_file_of_this_checkpoint_is_kept_and_another_replaced(
    trained, sample, exported, monkeypatch, tmp_path
):
    from darkhaloscope.training import onnx

    path, worst = exported
    before = path.read_bytes()
    monkeypatch.setattr(onnx, "_exported", pytest.fail)
    assert export_onnx(trained, path, sample) == worst
    assert path.read_bytes() == before
    other = tmp_path / "other.onnx"
    other.write_bytes(b"another network")
    monkeypatch.setattr(onnx, "exported_from", lambda _: "another")
    monkeypatch.setattr(onnx, "_exported", lambda *_: before)
    export_onnx(trained, other, sample)
    assert other.read_bytes() == before
