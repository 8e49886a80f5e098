"""What a trained network says of raw stamps, whichever library computes it. Loads without PyTorch.

`training.model` computes with PyTorch, `training.onnx_scorer` with ONNX Runtime; both give an object of the
type declared here, and whoever scores need not know which.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32

from darkhaloscope.contracts.config import Frozen
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.stamps.measure import CORE_RADIUS_PIX, fill_core
from darkhaloscope.stamps.preprocess import Preprocess
from darkhaloscope.training.config import NetworkConfig

MICRO_BATCH = 16
"""Rows in every forward pass, the last one padded with zeros."""

CARD_FORMAT = 1

View = Literal["full", "core_masked"]
VIEWS: tuple[View, ...] = ("full", "core_masked")

_CHUNK = 4 * MICRO_BATCH
"""Stamps that are normalised at once: their views fill whole passes, and memory stays flat."""


class Card(Frozen):
    """What a checkpoint says of itself."""

    format: int = CARD_FORMAT
    network: NetworkConfig
    preprocess: Preprocess
    core_radius_pix: float = CORE_RADIUS_PIX
    stamp_shape: tuple[int, int, int]
    training: dict[str, Any]
    sampling: dict[str, Any]
    fingerprints: dict[str, str]
    history: tuple[dict[str, float], ...]
    best_epoch: int


@dataclass(frozen=True, eq=False)
class StampScorer(ABC):
    """A trained model, ready to score raw stamps.

    Every forward pass has `MICRO_BATCH` rows, padded with zeros, on one thread: the arithmetic of a row then
    does not depend on how many rows came with it, and a row's score is the same for any shard, batch
    size, order or number of workers on one machine (tested bit for bit). Another processor, another release
    of the library or a GPU may differ in the last bits of float32: 1e-5 in the logit.
    """

    card: Card
    sha256: str
    """Of the file that the model was read from."""

    @property
    def checkpoint_sha256(self) -> str:
        """Of the checkpoint that holds the weights: the file itself, or what it was exported from."""
        return self.sha256

    def views(
        self,
        stamps: Float[np.ndarray, "n band y x"],
        x_center: Float[np.ndarray, "n"],
        y_center: Float[np.ndarray, "n"],
        views: Sequence[View] = VIEWS,
    ) -> Float32[np.ndarray, "view n"]:
        """The network's logits of raw stamps [nmgy] in each view; they are normalised once for all.

        views   full; or core_masked: r < 5 px set to zero after normalisation

        Raises DataError when the stamps' size is not the one the model was trained on.
        """
        self.refuse_other_stamps(stamps.shape[1:])
        out = np.empty((len(views), len(stamps)), np.float32)
        for start in range(0, len(stamps), _CHUNK):
            part = slice(start, start + _CHUNK)
            x, y = x_center[part], y_center[part]
            seen = self.card.preprocess.apply(stamps[part], x, y)
            shown = np.concatenate([self._view(view, seen, x, y) for view in views])
            passes = [self._forward(micro)[:rows] for micro, rows in micro_batches(shown)]
            out[:, part] = np.concatenate(passes).reshape(len(views), -1)
        return out

    def _view(self, view: View, seen: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if view == "full":
            return seen
        return fill_core(seen, x, y, radius_pix=self.card.core_radius_pix, fill="zero")

    def logits(
        self,
        stamps: Float[np.ndarray, "n band y x"],
        x_center: Float[np.ndarray, "n"],
        y_center: Float[np.ndarray, "n"],
        *,
        core_masked: bool = False,
    ) -> Float32[np.ndarray, "n"]:
        """The logits of one of the `views`."""
        view: View = "core_masked" if core_masked else "full"
        return np.asarray(self.views(stamps, x_center, y_center, (view,))[0])

    def __call__(
        self,
        stamps: Float[np.ndarray, "n band y x"],
        x_center: Float[np.ndarray, "n"],
        y_center: Float[np.ndarray, "n"],
        *,
        core_masked: bool = False,
    ) -> Float[np.ndarray, "n"]:
        """Probabilities at the training prevalence (one half), float64, of raw stamps [nmgy]."""
        return probabilities(self.logits(stamps, x_center, y_center, core_masked=core_masked))

    def refuse_other_stamps(self, shape: tuple[int, ...]) -> None:
        """DataError unless stamps of this shape (band, y, x) are what the model was trained on."""
        if tuple(shape) != self.card.stamp_shape:
            raise DataError(
                f"checkpoint {self.sha256[:12]}",
                f"was trained on stamps {self.card.stamp_shape}, these are {tuple(shape)}",
            )

    @abstractmethod
    def _forward(self, seen: Float32[np.ndarray, "micro band y x"]) -> Float32[np.ndarray, "micro"]:
        """Logits of `MICRO_BATCH` normalised stamps, contiguous, on one thread."""


def micro_batches(seen: np.ndarray) -> Sequence[tuple[np.ndarray, int]]:
    """Normalised stamps in fixed batches, and how many rows of each are not padding."""
    parts = [seen[start : start + MICRO_BATCH] for start in range(0, len(seen), MICRO_BATCH)]
    return [(_padded(part), len(part)) for part in parts]


def _padded(part: np.ndarray) -> np.ndarray:
    if len(part) == MICRO_BATCH:
        return np.ascontiguousarray(part, np.float32)
    whole = np.zeros((MICRO_BATCH, *part.shape[1:]), np.float32)
    whole[: len(part)] = part
    return whole


def probabilities(logits: np.ndarray) -> Float[np.ndarray, "..."]:
    """Logits as probabilities at the training prevalence, float64."""
    return np.asarray(1.0 / (1.0 + np.exp(-logits.astype(np.float64))))


def read_model_file(path: str | Path, sha256: str | None = None) -> tuple[bytes, str]:
    """A model's bytes and their SHA-256; DataError where it is absent, or not the one `sha256` names."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}") from error
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        problem = f"has SHA-256 {found[:12]}…, expected {sha256[:12]}…"
        raise DataError(str(path), problem, "it was trained again")
    return data, found
