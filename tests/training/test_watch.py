"""What is looked at while a run trains: said, kept, and without an effect on any number."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from darkhaloscope.contracts.checks import Check, Findings, below
from darkhaloscope.contracts.errors import ConfigError
from darkhaloscope.contracts.protocol import Expected, load_protocol
from darkhaloscope.training.model import load_checkpoint
from darkhaloscope.training.resume import Epoch
from darkhaloscope.training.watch import Watch, unexpected

EXPECTED = Expected(train_loss={1: (0.3, 1.0), 2: (5.0, 6.0)}, select_auroc={2: (0.0, 1.0)})
CHECK = Check(name="toy_gate", bound=below(0.0), why="never holds", decides=True)


def epoch(number, **changed):
    values = {"train_loss": 0.5, "select_loss": 0.5, "select_auroc": 0.6, "select_core_masked_auroc": 0.6}
    return Epoch(epoch=number - 1, lr=1e-3, **values | changed)


def test_ranges_are_the_protocol_s_and_counted_from_one():
    expected = load_protocol().expected
    assert unexpected(epoch(1), expected) == []
    assert unexpected(epoch(4, train_loss=9.0), expected) == []  # no range stands for the fourth
    (line,) = unexpected(epoch(5, train_loss=0.4), expected)
    assert line == "epoch 5: select_auroc 0.600 is outside the expected [0.7, 0.85]"
    assert len(unexpected(epoch(10, train_loss=2.0), expected)) == 2


class Gates:
    """A gate that never holds, and remembers what it was shown."""

    def __init__(self):
        self.scores = []

    def __call__(self, predict):
        stamps = np.random.default_rng(0).normal(0, 1, (5, 3, 32, 32)).astype(np.float32)
        centre = np.full(5, 15.5)
        self.scores.append(predict(stamps, centre, centre))
        return Findings([CHECK.measure(float(len(self.scores)), n=5)])


def test_gates_are_asked_every_so_many_epochs_and_change_nothing(toy, tmp_path):
    plain = toy.run(tmp_path / "plain", toy.tiny_config(epochs=4))
    gates, said = Gates(), []
    watch = Watch(EXPECTED, gates, said.append)
    watched = toy.run(tmp_path / "watched", toy.tiny_config(epochs=4, gates_every=2), watch=watch)
    states = [load_checkpoint(r.checkpoint_path).model.state_dict() for r in (plain, watched)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert watched.history == plain.history
    assert watched.checkpoint_sha256 == plain.checkpoint_sha256
    assert len(gates.scores) == 2
    assert not np.array_equal(*gates.scores)  # of the network as it was then
    kept = json.loads((tmp_path / "watched" / "watch.json").read_text())
    assert [len(entry["gates"]) for entry in kept] == [0, 1, 0, 1]
    assert said[0].startswith("epoch 2: train_loss")
    assert "epoch 4, select split: toy_gate = 2" in said[-1]


def test_a_resumed_run_goes_on_with_what_was_seen(toy, tmp_path):
    class Stop(Exception):
        pass

    def stops_at_the_third(predict):
        if len(gates.scores) == 2:
            raise Stop
        return gates(predict)

    gates, config = Gates(), toy.tiny_config(epochs=4, gates_every=1)
    with pytest.raises(Stop):
        toy.run(tmp_path / "a", config, watch=Watch(EXPECTED, stops_at_the_third))
    again = Gates()
    resumed = toy.run(tmp_path / "a", config, watch=Watch(EXPECTED, again))
    whole = toy.run(tmp_path / "b", config, watch=Watch(EXPECTED, Gates()))
    assert resumed.checkpoint_sha256 == whole.checkpoint_sha256
    kept = json.loads((tmp_path / "a" / "watch.json").read_text())
    assert [entry["epoch"] for entry in kept] == [0, 1, 2, 3]
    assert len(again.scores) == 2


def test_wandb_takes_the_curves_or_its_absence_is_one_sentence(toy, tmp_path, monkeypatch):
    """It is an option that a user installs: both are looked at, one on each machine."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = toy.tiny_config(epochs=1, logger="wandb")
    if importlib.util.find_spec("wandb") is None:
        with pytest.raises(ConfigError, match=r"logger.* = 'wandb', which is not installed.*pip install"):
            toy.run(tmp_path, config)
        return
    toy.run(tmp_path, config)
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
