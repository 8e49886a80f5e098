"""The classifier and its checkpoint: one file with weights, preprocessing, configuration, history.

A checkpoint holds tensors and one JSON text, so that it loads with ``weights_only=True``: nothing in it can
run. The same training gives the same bytes, so the file's SHA-256 names the model.
"""

import copy
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import nn

from darkhaloscope.contracts.config import canonical, parse
from darkhaloscope.contracts.errors import ConfigError, DataError
from darkhaloscope.contracts.store import write_whole
from darkhaloscope.stamps.preprocess import Preprocess
from darkhaloscope.training.config import NetworkConfig
from darkhaloscope.training.frameworks import import_timm
from darkhaloscope.training.scorer import MICRO_BATCH, Card, StampScorer, micro_batches, read_model_file


class LensClassifier(nn.Module):
    """One logit for each stamp: (n, band, y, x) normalised to (n,), positive where an arc is likely.

    plain   the configuration under the architecture's own name: what rebuilds it without a hub
    """

    def __init__(self, config: NetworkConfig, *, bands: int = 3) -> None:
        super().__init__()
        self.field_pix = config.field_pix
        self.plain, pretrained = resolved(config)
        self.backbone = _backbone(self.plain, bands, pretrained)
        if config.stem == "3x3":
            _stem_of_three(self.backbone, config.backbone)

    @classmethod
    def seeded(cls, config: NetworkConfig, *, bands: int, seed: int) -> Self:
        """A network whose first weights follow from `seed`; PyTorch's global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, bands=bands)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of normalised stamps."""
        logits: torch.Tensor = self.backbone(_middle(x, self.field_pix))
        return logits[:, 0]

    @property
    def head(self) -> nn.Linear:
        """The last layer, whose input are the penultimate features. DataError where it is not linear."""
        last: Any = self.backbone
        classifier = last.get_classifier()
        if not isinstance(classifier, nn.Linear):
            kind = type(classifier).__name__
            raise DataError(f"backbone {self.plain.backbone}", f"ends in {kind}, not in a linear layer")
        return classifier


def _middle(x: torch.Tensor, size: int | None) -> torch.Tensor:
    height, width = x.shape[-2:]
    if size is None or size >= min(height, width):
        return x
    top, left = (height - size) // 2, (width - size) // 2
    return x[..., top : top + size, left : left + size]


_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What a folder of a pretrained encoder holds beside config.json."""


def resolved(config: NetworkConfig) -> tuple[NetworkConfig, Any]:
    """A network under its architecture's own name, and timm's description of its pretrained weights.

    ``hf-hub:owner/name`` and ``local-dir:folder`` name encoders that others trained, on galaxies for
    instance. ConfigError in a sentence where they cannot be read. The description is None for other names.
    """
    source, _, place = config.backbone.partition(":")
    if source not in ("hf-hub", "local-dir"):
        return config, None
    if not config.pretrained:
        problem = f"= '{config.backbone}' names weights that pretrained: false would leave unread"
        raise ConfigError("training", "network.backbone", problem, "pretrained: true, or a timm name")
    read = import_timm().models.load_model_config_from_hf if source == "hf-hub" else _of_folder
    try:
        found, name, options = read(place)
    except Exception as error:
        raise _unreachable(config, error) from error
    theirs = {key: value for key, value in (options or {}).items() if key not in ("num_classes", "in_chans")}
    changed = {"backbone": name, "options": {**theirs, **config.options}}
    return parse({**canonical(config), **changed}, NetworkConfig, "network"), found


def _of_folder(place: str) -> tuple[dict[str, Any], str, dict[str, Any] | None]:
    """What the folder of a hub's model says: its weights' description, architecture and arguments."""
    folder = Path(place)
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = next(folder / name for name in _WEIGHTS if (folder / name).exists())
    return (
        {**said.get("pretrained_cfg", {}), "file": str(weights)},
        said["architecture"],
        said.get("model_args"),
    )


def encoder_mark(config: NetworkConfig) -> dict[str, str]:
    """SHA-256 of the weights in a ``local-dir:`` folder, by role: another encoder makes another run.

    A hub's weights are named by their revision (``hf-hub:OWNER/NAME@REVISION``), not by their content.
    """
    source, _, place = config.backbone.partition(":")
    if source != "local-dir" or not config.pretrained:
        return {}
    try:
        described, _, _ = _of_folder(place)
        return {"encoder": hashlib.sha256(Path(described["file"]).read_bytes()).hexdigest()}
    except Exception as error:
        raise _unreachable(config, error) from error


def _unreachable(config: NetworkConfig, error: Exception) -> ConfigError:
    problem = f"= '{config.backbone}' cannot be read ({type(error).__name__}): no network, or no such folder?"
    remedy = "a timm name with pretrained: false trains from scratch; local-dir:FOLDER reads a copy"
    return ConfigError("training", "network.backbone", problem, remedy)


def _backbone(config: NetworkConfig, bands: int, weights: Any = None) -> nn.Module:
    timm = import_timm()
    where = f"network.backbone={config.backbone}"
    forbidden = [key for key in config.options if key.startswith("drop")]
    if forbidden:
        # Dropout draws from PyTorch's global generator, whose state a resumed run does not share.
        raise ConfigError(
            where, f"options.{forbidden[0]}", "would make training depend on global random state"
        )
    if config.backbone not in timm.list_models():
        near = ", ".join(timm.list_models(f"*{config.backbone}*")[:5]) or "see timm.list_models()"
        raise ConfigError("training", "network.backbone", f"= '{config.backbone}' is not a timm model", near)
    try:
        model: nn.Module = timm.create_model(
            config.backbone,
            pretrained=config.pretrained,
            pretrained_cfg=weights,
            num_classes=1,
            in_chans=bands,
            **config.options,
        )
    except TypeError as error:
        raise ConfigError(where, "options", f"are not understood by this backbone: {error}") from error
    except Exception as error:
        if not config.pretrained:
            raise
        problem = f"weights cannot be fetched ({type(error).__name__}); is there a network?"
        raise ConfigError(
            where, "network.pretrained", problem, "pretrained: false trains from scratch"
        ) from error
    return model


def _stem_of_three(backbone: nn.Module, name: str) -> None:
    """Make the first convolution 3×3 with stride 1. A deep stem keeps its layers and loses its stride."""
    convolutions = ((path, m) for path, m in backbone.named_modules() if isinstance(m, nn.Conv2d))
    path, layer = next(convolutions, ("", None))
    if layer is None:
        raise ConfigError(
            f"network.backbone={name}", "network.stem", "needs a convolution to replace", "native"
        )
    parent, _, leaf = path.rpartition(".")
    first = nn.Conv2d(
        layer.in_channels, layer.out_channels, 3, stride=1, padding=1, bias=layer.bias is not None
    )
    nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
    setattr(backbone.get_submodule(parent), leaf, first)


@dataclass(frozen=True, eq=False)
class Scorer(StampScorer):
    """A trained model on PyTorch: logits and features of raw stamps."""

    model: LensClassifier

    def on(self, device: str) -> "Scorer":
        """The same model on another device, "cpu" or "cuda", in full float32 there too."""
        return replace(self, model=copy.deepcopy(self.model).to(device))

    def features(
        self,
        stamps: Float[np.ndarray, "n band y x"],
        x_center: Float[np.ndarray, "n"],
        y_center: Float[np.ndarray, "n"],
    ) -> Float32[np.ndarray, "n feature"]:
        """What the last linear layer is given of raw stamps [nmgy]: logit = features @ weight + bias.

        Raises DataError as `logits` does, and where the network does not end in a linear layer.
        """
        self.refuse_other_stamps(stamps.shape[1:])
        head = self.model.head
        out = np.empty((len(stamps), head.in_features), np.float32)
        given: list[torch.Tensor] = []
        hook = head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        try:
            for start in range(0, len(stamps), MICRO_BATCH):
                part = slice(start, start + MICRO_BATCH)
                seen = self.card.preprocess.apply(stamps[part], x_center[part], y_center[part])
                ((micro, rows),) = micro_batches(seen)
                self._forward(micro)
                out[part] = given.pop()[:rows].cpu().numpy()
        finally:
            hook.remove()
        return out

    @property
    def head(self) -> tuple[Float[np.ndarray, "feature"], float]:
        """Weight and bias of the last linear layer, float64."""
        layer = self.model.head
        weight = layer.weight.detach().cpu().numpy()[0].astype(np.float64)
        return weight, 0.0 if layer.bias is None else float(layer.bias.detach()[0])

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _forward(self, seen: Float32[np.ndarray, "micro band y x"]) -> Float32[np.ndarray, "micro"]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.inference_mode(), _whole_float32():
                logits = self.model(torch.from_numpy(seen).to(self._device))
        finally:
            torch.set_num_threads(threads)
        return np.asarray(logits.cpu().numpy())


@contextmanager
def _whole_float32() -> Iterator[None]:
    """No TF32, a GPU's default for convolutions: it has ten bits of mantissa."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


def save_checkpoint(path: Path, weights: Mapping[str, torch.Tensor], card: Card) -> str:
    """Write a checkpoint atomically (temporary file in the same folder, then rename); return its SHA-256."""
    buffer = io.BytesIO()
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(weights.items())}
    text = json.dumps(card.model_dump(mode="json"), sort_keys=True)
    torch.save({"weights": plain, "card": text}, buffer)
    write_whole(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def load_checkpoint(path: str | Path, *, sha256: str | None = None) -> Scorer:
    """Read a checkpoint and build its model, in evaluation mode on the CPU.

    Raises DataError when the file is absent, is not a checkpoint of ours, or is not the one `sha256` names.
    """
    where = str(path)
    data, found = read_model_file(path, sha256)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        weights, text = content["weights"], json.loads(content["card"])
    except Exception as error:
        raise DataError(where, f"is not a checkpoint of ours: {_first_line(error)}") from error
    card = parse(text, Card, where)
    network = card.network.model_copy(update={"pretrained": False})
    model = LensClassifier.seeded(network, bands=card.stamp_shape[0], seed=0)
    model.load_state_dict(weights)
    return Scorer(card, found, model.eval())


def frozen_encoder(
    network: NetworkConfig, preprocess: Preprocess, *, stamp_shape: tuple[int, int, int], seed: int = 0
) -> Scorer:
    """A network that was not trained on our task, for its `features`: its logits mean nothing.

    network   of ``local-dir:FOLDER``, or of a timm name with pretrained: false, whose weights follow from
              `seed` (random features, a control that has learned nothing)

    Raises ConfigError for weights that would be fetched: a figure must not depend on what a hub holds today.
    """
    if network.pretrained and not network.backbone.startswith("local-dir:"):
        problem = f"= '{network.backbone}' would be fetched"
        raise ConfigError("encoder", "network.backbone", problem, "local-dir:FOLDER of a copy")
    model = LensClassifier.seeded(network, bands=stamp_shape[0], seed=seed).eval()
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    card = Card(
        network=network,
        preprocess=preprocess,
        stamp_shape=stamp_shape,
        training={},
        sampling={},
        fingerprints={},
        history=(),
        best_epoch=0,
    )
    return Scorer(card, digest.hexdigest(), model)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
