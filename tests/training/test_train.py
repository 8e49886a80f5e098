"""The loop learns, resumes bit for bit, uses every field, and stops when it must."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from darkhaloscope.contracts.errors import ConfigError, DataError, StoreError, TrainingFailed
from darkhaloscope.dataset.pixels import PairBlock, Pairs
from darkhaloscope.dataset.sampling import PairSampling
from darkhaloscope.training.config import NetworkConfig, TrainConfig
from darkhaloscope.training.model import load_checkpoint
from darkhaloscope.training.train import lr_share


def weights(result):
    return load_checkpoint(result.checkpoint_path).model.state_dict()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="session")
def undisturbed(toy, tmp_path_factory):
    return toy.run(tmp_path_factory.mktemp("undisturbed"))


def test_a_toy_is_learned_and_shuffled_labels_are_not(toy, tmp_path):
    pairs, select = toy.toy_pairs(120), toy.toy_pairs(60, seed=2, prefix="other")
    config = toy.tiny_config(epochs=10, lr=1e-2)
    learned = toy.run(tmp_path / "a", config, pairs=pairs, select=select)
    assert learned.history[learned.best_epoch].select_auroc > 0.9
    swap = np.random.default_rng(0).random(60) < 0.5
    b = select.block
    mixed = PairBlock(
        np.where(swap[:, None, None, None], b.control, b.stamp),
        np.where(swap[:, None, None, None], b.stamp, b.control),
        b.x_center,
        b.y_center,
    )
    shuffled = toy.run(
        tmp_path / "b",
        config.model_copy(update={"epochs": 3}),
        pairs=pairs,
        select=Pairs(select.keys, select.hosts, mixed),
    )
    assert all(0.3 < epoch.select_auroc < 0.7 for epoch in shuffled.history)


def test_the_same_run_gives_the_same_file(toy, undisturbed, tmp_path):
    again = toy.run(tmp_path)
    assert again.checkpoint_sha256 == undisturbed.checkpoint_sha256
    assert again.history == undisturbed.history
    assert len(again.seconds) == len(again.history) == 3


def test_a_finished_run_is_not_trained_again(toy, tmp_path, monkeypatch):
    first = toy.run(tmp_path)
    import darkhaloscope.training.train as module

    monkeypatch.setattr(module, "_fit", None)
    again = toy.run(tmp_path)
    assert again == first
    assert again.checkpoint_sha256 == first.checkpoint_sha256


def test_killed_and_run_again_ends_with_the_weights_of_an_undisturbed_run(toy, tmp_path):
    epochs = 16
    script = [sys.executable, str(Path(toy.__file__)), str(tmp_path / "killed"), str(epochs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(script, env=environment)
    last = tmp_path / "killed" / "last.ckpt"
    deadline = time.monotonic() + 60
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)  # somewhere within an epoch
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = len(torch.load(last, weights_only=True)["darkhaloscope"]["history"])
    assert 0 < done < epochs
    assert not (tmp_path / "killed" / "checkpoint.pt").exists()
    resumed = toy.run(tmp_path / "killed", toy.long_config(epochs))
    whole = toy.run(tmp_path / "whole", toy.long_config(epochs))
    assert equal(weights(resumed), weights(whole))
    assert resumed.history == whole.history
    assert resumed.checkpoint_sha256 == whole.checkpoint_sha256
    ends = [
        torch.load(tmp_path / d / "last.ckpt", weights_only=True)["state_dict"] for d in ("killed", "whole")
    ]
    assert equal(*ends)  # the last weights too, not only the best


@pytest.mark.parametrize("workers", [0, 1])
def test_killed_within_an_epoch_it_goes_on_from_the_batch_it_had(toy, undisturbed, tmp_path, workers):
    """Saved after each batch; stopped at the second of the three batches of the second epoch."""
    from darkhaloscope.training import resume

    config = toy.tiny_config(save_minutes=0.0, num_workers=workers)
    write = resume.write_whole

    def write_then_die(path, data):
        write(path, data)
        state = torch.load(path, weights_only=True)["darkhaloscope"]
        if (len(state["history"]), state["begun"]) == (1, 2):
            raise KeyboardInterrupt

    seen = []
    step = module_of_training().Training.training_step

    def counted(self, batch, batch_idx):
        seen.append((self.current_epoch, batch_idx, batch.keys))
        return step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module_of_training().Training, "training_step", counted)
        patch.setattr(resume, "write_whole", write_then_die)
        with pytest.raises(KeyboardInterrupt):
            toy.run(tmp_path, config)
        patch.setattr(resume, "write_whole", write)
        before = len(seen)
        resumed = toy.run(tmp_path, config)
    assert [at for *at, _ in seen[before:]] == [[1, 2], [2, 0], [2, 1], [2, 2]]
    assert len({key for epoch, _, keys in seen for key in keys if epoch == 1}) == 40
    assert equal(weights(resumed), weights(undisturbed))
    assert resumed.history == undisturbed.history
    assert resumed.checkpoint_sha256 == undisturbed.checkpoint_sha256


def module_of_training():
    import darkhaloscope.training.train as module

    return module


def test_sigterm_and_ctrl_c_say_what_they_are(toy, tmp_path, monkeypatch):
    import darkhaloscope.training.train as module

    def stop_with(signal_number):
        def training_step(*_args):
            os.kill(os.getpid(), signal_number)

        return training_step

    monkeypatch.setattr(module.Training, "training_step", stop_with(signal.SIGTERM))
    with pytest.raises(TrainingFailed, match=r"stopped by SIGTERM \(run it again to continue\)"):
        toy.run(tmp_path)
    monkeypatch.setattr(module.Training, "training_step", stop_with(signal.SIGINT))
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            toy.run(tmp_path)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, outside)


def test_an_early_stopped_run_resumed_trains_no_further(toy, tmp_path):
    config = toy.tiny_config(epochs=60, patience=2)
    stopped = toy.run(tmp_path, config)
    assert len(stopped.history) < 60
    assert len(stopped.history) - 1 - stopped.best_epoch == 2
    (tmp_path / "checkpoint.pt").unlink()  # killed before the last file was written
    assert toy.run(tmp_path, config).history == stopped.history


def test_the_checkpoint_holds_the_best_epoch_not_the_last(toy, tmp_path):
    result = toy.run(tmp_path, toy.tiny_config(epochs=8, patience=8))
    curve = [epoch.select_core_masked_auroc for epoch in result.history]
    assert result.best_epoch == int(np.argmax(curve))
    scorer = load_checkpoint(result.checkpoint_path)
    select = toy.toy_pairs(24, seed=2, prefix="other").block
    centre = (select.x_center, select.y_center)
    from darkhaloscope.stats import auroc

    value = auroc(
        scorer(select.stamp, *centre, core_masked=True), scorer(select.control, *centre, core_masked=True)
    )
    assert float(value) == pytest.approx(curve[result.best_epoch], abs=2e-3)
    assert scorer.card.best_epoch == result.best_epoch
    assert [row["epoch"] for row in scorer.card.history] == list(range(8))


def test_a_folder_of_another_run_is_refused(toy, tmp_path):
    toy.run(tmp_path, toy.tiny_config(epochs=1))
    with pytest.raises(StoreError, match="belongs to another configuration or other data"):
        toy.run(tmp_path, toy.tiny_config(epochs=2))
    with pytest.raises(StoreError, match="belongs to another"):
        toy.run(tmp_path, toy.tiny_config(epochs=1), fingerprints={"pairs": "other"})
    (tmp_path / "last.ckpt").write_bytes(b"torn")
    with pytest.raises(StoreError, match=r"last.ckpt: cannot be read .*delete it to train again"):
        toy.run(tmp_path, toy.tiny_config(epochs=1))


def test_nothing_draws_from_the_global_generators(toy, tmp_path):
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    threads = torch.get_num_threads()
    toy.run(tmp_path, toy.tiny_config(epochs=1), sampling=PairSampling())
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_pair(toy, tmp_path, monkeypatch):
    from darkhaloscope.stamps.preprocess import Preprocess

    pairs = toy.toy_pairs(20)
    poisoned = pairs.block.stamp[7].copy()
    whole = Preprocess.apply

    def apply(self, batch, *given, **more):
        out = whole(self, batch, *given, **more)
        out[[np.array_equal(row, poisoned) for row in batch]] = np.nan
        return out

    monkeypatch.setattr(Preprocess, "apply", apply)
    config = toy.tiny_config(
        batch_size=1
    )  # normalisation over a batch would spread the NaN to its neighbours
    with pytest.raises(TrainingFailed, match=r"epoch 0, batch \d+: the loss is not finite for host-0007#0"):
        toy.run(tmp_path, config, pairs=pairs)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_splits_that_are_empty_or_share_a_host_are_refused(toy, tmp_path):
    pairs = toy.toy_pairs(4)
    empty = Pairs((), (), pairs.take([]))
    with pytest.raises(DataError, match="split 'select': holds no pair"):
        toy.run(tmp_path, pairs=pairs, select=empty)
    with pytest.raises(DataError, match="share 4 hosts, for instance host-0000"):
        toy.run(tmp_path, pairs=pairs, select=toy.toy_pairs(4))


def test_the_learning_rate_rises_then_falls():
    config = TrainConfig(epochs=10, warmup_epochs=2.0)
    share = lr_share(config, 10)
    rise = [share(step) for step in range(20)]
    fall = [share(step) for step in range(20, 101)]
    assert np.all(np.diff(rise) > 0)
    assert rise[-1] < 1
    assert fall[0] == 1.0
    assert np.all(np.diff(fall) < 0)
    assert fall[-1] == pytest.approx(config.final_lr_share)
    constant = lr_share(config.model_copy(update={"schedule": "constant"}), 10)
    assert constant(20) == constant(99) == 1.0


ALTERNATIVES = {
    "network": NetworkConfig(backbone="test_resnet", stem="native"),
    "epochs": 2,
    "batch_size": 20,
    "lr": 1e-2,
    "weight_decay": 0.5,
    "warmup_epochs": 0.0,
    "schedule": "constant",
    "final_lr_share": 0.9,
    "grad_clip": 1e-3,
    "label_smoothing": 0.2,
    "precision": "bf16-mixed",
    "seed": 7,
}
SWITCHES = {
    "accelerator",
    "patience",
    "num_threads",
    "num_workers",
    "deterministic",
    "memory_mb",
    "save_minutes",
    "gates_every",
    "logger",
}


def test_every_field_is_tested():
    assert set(ALTERNATIVES) | SWITCHES == set(TrainConfig.model_fields)
    assert not set(ALTERNATIVES) & SWITCHES


@pytest.mark.parametrize("name", list(ALTERNATIVES))
def test_every_field_changes_the_weights(name, toy, undisturbed, tmp_path):
    changed = toy.run(tmp_path, toy.tiny_config(**{name: ALTERNATIVES[name]}))
    assert not equal(weights(changed), weights(undisturbed)) or changed.history != undisturbed.history


def test_the_core_is_hidden_in_the_select_split_as_core_dropout_hides_it(toy, undisturbed, tmp_path):
    """Without dropout nothing else of the run depends on the fill."""
    matched = PairSampling(core_dropout_prob=0.0, core_dropout_fill="matched")
    changed = toy.run(tmp_path, sampling=matched)
    for here, there in zip(changed.history, undisturbed.history, strict=True):
        assert here.select_auroc == there.select_auroc
        assert here.train_loss == there.train_loss
    masked = [[epoch.select_core_masked_auroc for epoch in r.history] for r in (changed, undisturbed)]
    assert masked[0] != masked[1]


def test_the_field_changes_the_curves(toy, undisturbed, tmp_path):
    network = toy.tiny_config().network.model_copy(update={"field_pix": 24})
    assert toy.run(tmp_path, toy.tiny_config(network=network)).history != undisturbed.history


@pytest.mark.parametrize(
    ("name", "value"), [("stem", "3x3"), ("options", {"channels": (8, 8, 8, 16), "stem_width": 4})]
)
def test_every_network_field_changes_the_network(name, value, toy, undisturbed):
    from darkhaloscope.training.model import LensClassifier

    network = toy.tiny_config().network.model_copy(update={name: value})
    changed = LensClassifier.seeded(network, bands=3, seed=42)
    assert [p.shape for p in changed.parameters()] != [p.shape for p in weights(undisturbed).values()]


def seen_by_fit(toy, tmp_path, monkeypatch, **changes):
    """The trainer, the loader and PyTorch's switches as the fit sees them."""
    import darkhaloscope.training.train as module

    seen = {}

    def fit(_self, _module, train_loader, _select, **_given):
        seen.update(
            threads=torch.get_num_threads(),
            deterministic=torch.are_deterministic_algorithms_enabled(),
            workers=train_loader.num_workers,
        )
        raise KeyboardInterrupt

    monkeypatch.setattr(module.L.Trainer, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        toy.run(tmp_path, toy.tiny_config(**changes))
    return seen


def test_threads_workers_and_determinism_reach_the_fit(toy, tmp_path, monkeypatch):
    plain = seen_by_fit(toy, tmp_path, monkeypatch)
    assert plain == {"threads": 1, "deterministic": True, "workers": 0}
    changed = seen_by_fit(toy, tmp_path, monkeypatch, num_threads=2, deterministic=False, num_workers=3)
    assert changed == {"threads": 2, "deterministic": False, "workers": 3}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_one_sentence(toy, tmp_path):
    with pytest.raises(ConfigError, match="'accelerator' = 'gpu', but PyTorch sees none here"):
        toy.run(tmp_path, toy.tiny_config(accelerator="gpu"))
    with pytest.raises(ConfigError, match="'precision' = '16-mixed' needs a GPU"):
        toy.run(tmp_path, toy.tiny_config(precision="16-mixed"))


def test_curves_reach_tensorboard_and_the_bar_can_be_shown(toy, tmp_path, capsys):
    toy.run(tmp_path, toy.tiny_config(epochs=2), progress=True)
    events = list((tmp_path / "tensorboard").glob("events*"))
    assert len(events) == 1
    assert b"select_core_masked_auroc" in events[0].read_bytes()
    assert "Epoch" in capsys.readouterr().out


def test_readers_change_no_number_and_resume_in_the_right_epoch(toy, undisturbed, tmp_path):
    """Lightning starts the workers before it names the epoch: a resumed run must not read epoch 0 again."""
    config = toy.tiny_config(num_workers=1)
    from darkhaloscope.training import resume

    saved, write = [], resume.write_whole

    def write_then_die(path, data):
        write(path, data)
        saved.append(path)
        raise KeyboardInterrupt

    resume.write_whole = write_then_die
    try:
        with pytest.raises(KeyboardInterrupt):
            toy.run(tmp_path, config)
    finally:
        resume.write_whole = write
    assert [path.name for path in saved] == ["last.ckpt"]
    assert len(torch.load(saved[0], weights_only=True)["darkhaloscope"]["history"]) == 1
    assert equal(weights(toy.run(tmp_path, config)), weights(undisturbed))
