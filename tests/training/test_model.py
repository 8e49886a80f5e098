"""The classifier, its stem, its checkpoint, and the door through which timm comes in."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from darkhaloscope.contracts.errors import ConfigError, DataError
from darkhaloscope.stamps.preprocess import Preprocess
from darkhaloscope.training import frameworks
from darkhaloscope.training.config import NetworkConfig
from darkhaloscope.training.frameworks import import_timm
from darkhaloscope.training.model import (
    MICRO_BATCH,
    Card,
    LensClassifier,
    encoder_mark,
    load_checkpoint,
    save_checkpoint,
)

SMALL = NetworkConfig(
    backbone="resnet10t", stem="native", options={"channels": (8, 8, 16, 16), "stem_width": 4}
)


def card(network=SMALL, **changes):
    given = {
        "network": network,
        "preprocess": Preprocess(kind="asinh"),
        "stamp_shape": (3, 64, 64),
        "training": {},
        "sampling": {},
        "fingerprints": {"pairs": "abc"},
        "history": ({"epoch": 0, "train_loss": 0.5},),
        "best_epoch": 0,
    }
    return Card(**{**given, **changes})


def scorer(tmp_path, network=SMALL, seed=1):
    model = LensClassifier.seeded(network, bands=3, seed=seed)
    for module in model.modules():  # running statistics as after training, so that rows differ
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(0.5)
    path = tmp_path / "checkpoint.pt"
    sha = save_checkpoint(path, model.state_dict(), card(network))
    return load_checkpoint(path, sha256=sha)


def stamps(n=50, seed=3):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (n, 3, 64, 64)).astype(np.float32), np.full(n, 31.5), np.full(n, 32.0)


def fresh_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )


def test_the_brief_s_stem_is_three_by_three_with_stride_one_and_keeps_its_max_pool():
    model = LensClassifier.seeded(NetworkConfig(), bands=3, seed=1).backbone
    assert model.conv1.kernel_size == (3, 3)
    assert model.conv1.stride == (1, 1)
    assert model.conv1.bias is None
    assert isinstance(model.maxpool, torch.nn.MaxPool2d)
    seen = {}
    model.layer1.register_forward_hook(lambda _m, given, _o: seen.update(shape=given[0].shape))
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 1)
    assert seen["shape"] == (2, 64, 32, 32)


def test_a_deep_stem_loses_its_stride_and_a_native_one_keeps_it():
    native = LensClassifier.seeded(SMALL, bands=3, seed=1).backbone
    three = LensClassifier.seeded(SMALL.model_copy(update={"stem": "3x3"}), bands=3, seed=1).backbone
    assert native.conv1[0].stride == (2, 2)
    assert three.conv1[0].stride == (1, 1)


def test_a_field_hides_what_lies_outside():
    model = LensClassifier.seeded(SMALL.model_copy(update={"field_pix": 40}), bands=3, seed=1).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    outside = x.clone()
    outside[..., :12, :] += 1
    outside[..., 52:] += 1
    inside = x.clone()
    inside[..., 12, 12] += 100
    with torch.no_grad():
        assert torch.equal(model(x), model(outside))
        assert not torch.equal(model(x), model(inside))


def test_first_weights_follow_from_the_seed_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    a, b, c = (LensClassifier.seeded(SMALL, bands=3, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "resnet19"}, "is not a timm model"),
        ({"options": {"colour": 3}}, "'options' are not understood by this backbone"),
        ({"options": {"drop_rate": 0.5}}, "would make training depend on global random state"),
    ],
)
def test_a_network_that_cannot_be_built_is_one_sentence(change, message):
    with pytest.raises(ConfigError, match=message):
        LensClassifier(SMALL.model_copy(update=change))


def test_a_backbone_without_convolutions_has_no_stem_to_replace(monkeypatch):
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 1))
    monkeypatch.setattr(frameworks.import_timm(), "create_model", lambda *_args, **_given: layers)
    with pytest.raises(ConfigError, match="needs a convolution to replace; allowed: native"):
        LensClassifier(NetworkConfig())


def folder_of(tmp_path, network=SMALL):
    """A pretrained encoder as a hub keeps it: config.json and model.safetensors."""
    model = LensClassifier.seeded(network, bands=3, seed=77).backbone
    import_timm().models.save_for_hf(model, tmp_path / "encoder", model_args=dict(network.options))
    return tmp_path / "encoder"


def test_an_encoder_that_others_trained_is_one_line_and_its_checkpoint_needs_no_folder(tmp_path):
    folder = folder_of(tmp_path)
    asked = NetworkConfig(backbone=f"local-dir:{folder}", stem="native", pretrained=True)
    model = LensClassifier.seeded(asked, bands=3, seed=1)
    theirs = LensClassifier.seeded(SMALL, bands=3, seed=77).backbone
    assert torch.equal(model.backbone.conv1[0].weight, theirs.conv1[0].weight)
    with pytest.raises(ConfigError, match="pretrained: false would leave unread"):
        LensClassifier.seeded(asked.model_copy(update={"pretrained": False}), bands=3, seed=1)
    mark = encoder_mark(asked)["encoder"]
    weights = next(folder.glob("*model.*"))
    weights.write_bytes(weights.read_bytes() + b" ")
    assert encoder_mark(asked)["encoder"] != mark  # other weights make another run
    assert encoder_mark(SMALL) == {}
    assert model.plain.backbone == "resnet10t"
    sha = save_checkpoint(tmp_path / "c.pt", model.state_dict(), card(model.plain))
    (folder / "config.json").unlink()
    load_checkpoint(tmp_path / "c.pt", sha256=sha)
    with pytest.raises(ConfigError, match=r"cannot be read .*no such folder"):
        LensClassifier(asked)


def test_an_encoder_from_a_hub_without_a_network_is_one_sentence():
    """The loading code is timm's own; the hub is told to stay offline."""
    code = """
import os
os.environ["HF_HUB_OFFLINE"] = "1"
from darkhaloscope.training.config import NetworkConfig
from darkhaloscope.training.model import LensClassifier
from darkhaloscope.contracts.errors import ConfigError
try:
    LensClassifier(NetworkConfig(backbone="hf-hub:somebody/galaxies", pretrained=True))
except ConfigError as error:
    print(error)
"""
    done = fresh_python(code)
    assert "network.backbone' = 'hf-hub:somebody/galaxies' cannot be read" in done.stdout, done.stderr
    assert "no network" in done.stdout


def test_pretrained_weights_without_a_network_are_one_sentence(monkeypatch):
    def no_network(*_args, **_given):
        raise OSError("cannot reach the hub")

    monkeypatch.setattr(frameworks.import_timm(), "create_model", no_network)
    with pytest.raises(ConfigError, match=r"weights cannot be fetched .*pretrained: false"):
        LensClassifier(NetworkConfig(pretrained=True))
    with pytest.raises(OSError, match="cannot reach"):
        LensClassifier(NetworkConfig(pretrained=False))  # another failure is not disguised


def test_a_checkpoint_gives_the_same_scores_back_and_the_same_bytes(tmp_path):
    first = scorer(tmp_path)
    assert first.card.preprocess == Preprocess(kind="asinh")
    assert first.card.history == ({"epoch": 0, "train_loss": 0.5},)
    path = tmp_path / "again.pt"
    sha = save_checkpoint(path, first.model.state_dict(), first.card)
    assert sha == first.sha256
    again = load_checkpoint(path)
    x = stamps(10)
    assert np.array_equal(first(*x), again(*x))
    content = torch.load(path, weights_only=True)
    assert set(content) == {"weights", "card"}


def test_scores_do_not_depend_on_how_rows_are_batched(tmp_path):
    model = scorer(tmp_path)
    x, xc, yc = stamps()
    whole = model.logits(x, xc, yc)
    assert np.ptp(whole) > 1e-4
    for size in (7, 16, 149):
        parts = [
            model.logits(x[i : i + size], xc[i : i + size], yc[i : i + size]) for i in range(0, len(x), size)
        ]
        assert np.array_equal(np.concatenate(parts), whole), size
    order = np.random.default_rng(0).permutation(len(x))
    assert np.array_equal(model.logits(x[order], xc[order], yc[order]), whole[order])


def test_probabilities_are_the_logistic_of_the_logits_and_masking_the_core_changes_them(tmp_path):
    model = scorer(tmp_path)
    x = stamps(5)
    np.testing.assert_allclose(model(*x), 1 / (1 + np.exp(-model.logits(*x).astype(float))))
    assert not np.array_equal(model(*x), model(*x, core_masked=True))
    y, xx = np.mgrid[:64, :64]
    core = np.hypot(xx - 31.5, y - 32.0) < 5
    changed = x[0].copy()
    changed[:, :, core] += 3.0
    assert np.array_equal(model(*x, core_masked=True), model(changed, *x[1:], core_masked=True))
    assert not np.array_equal(model(*x), model(changed, *x[1:]))


def test_threads_are_left_as_they_were(tmp_path):
    model, threads = scorer(tmp_path), torch.get_num_threads()
    model(*stamps(MICRO_BATCH + 1))
    assert torch.get_num_threads() == threads


def test_stamps_of_another_size_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"was trained on stamps \(3, 64, 64\), these are \(3, 50, 50\)"):
        scorer(tmp_path)(np.zeros((2, 3, 50, 50), np.float32), np.zeros(2), np.zeros(2))


def test_files_that_are_not_the_checkpoint_are_named(tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(DataError, match=r"checkpoint.pt: cannot be read: No such file"):
        load_checkpoint(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(DataError, match=r"checkpoint.pt: is not a checkpoint of ours"):
        load_checkpoint(path)
    torch.save({"weights": {}}, path)
    with pytest.raises(DataError, match="is not a checkpoint of ours"):
        load_checkpoint(path)
    scorer(tmp_path)
    with pytest.raises(DataError, match=r"has SHA-256 .* expected 0000"):
        load_checkpoint(path, sha256="0" * 64)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="is not a checkpoint of ours"):
        load_checkpoint(path)


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return print, ("the trap ran",)

    path = tmp_path / "trap.pt"
    torch.save({"weights": Trap(), "card": "{}"}, path)
    with pytest.raises(DataError, match="is not a checkpoint of ours"):
        load_checkpoint(path)


def test_the_scorer_is_a_value_without_lightning(tmp_path):
    scorer(tmp_path)
    done = fresh_python(
        "import sys; from darkhaloscope.training.model import load_checkpoint;"
        f"load_checkpoint({str(tmp_path / 'checkpoint.pt')!r}); assert 'lightning' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_timm_comes_in_where_torchvision_s_operators_do_not_load():
    """A fresh interpreter in which the compiled library cannot be loaded, whatever this machine has."""
    done = fresh_python(
        "import torch\n"
        "def refuse(path): raise OSError('a CUDA library is missing')\n"
        "torch.ops.load_library = refuse\n"
        "from darkhaloscope.training import frameworks\n"
        "assert 'nms' in frameworks.declare_missing_operators()\n"
        "assert frameworks.declare_missing_operators() == ()\n"
        "timm = frameworks.import_timm()\n"
        "assert timm.create_model('resnet10t', num_classes=1)\n"
        "import torchvision\n"
        "try: torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)\n"
        "except (RuntimeError, NotImplementedError): print('refused')\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "refused\n"


def test_configuration_loads_without_pytorch():
    done = fresh_python(
        "import sys; import darkhaloscope.training.config, darkhaloscope.dataset.sampling,"
        " darkhaloscope.dataset.pixels; assert 'torch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr
