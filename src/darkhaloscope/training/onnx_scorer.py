"""The exported network on ONNX Runtime: the same scores from a machine without PyTorch.

Reads what `training.onnx` writes. The file's metadata hold the card and the SHA-256 of the checkpoint that it
was exported from.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from jaxtyping import Float32

from darkhaloscope.contracts.config import parse
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.training.scorer import MICRO_BATCH, Card, StampScorer, read_model_file

INPUT, OUTPUT, ROWS = "normalised", "logit", "n"
"""Names of the network's input and output, and of the number of rows in their shapes."""

CARD, CHECKPOINT = "darkhaloscope.card", "darkhaloscope.checkpoint_sha256"
_PROVIDERS = ["CPUExecutionProvider"]
_ERRORS_ONLY = 3


@dataclass(frozen=True, eq=False)
class OnnxScorer(StampScorer):
    """A trained model on ONNX Runtime: logits of raw stamps, on one thread of a CPU."""

    exported_from: str
    session: Any

    @property
    def checkpoint_sha256(self) -> str:
        """Of the checkpoint that the file was exported from."""
        return self.exported_from

    def _forward(self, seen: Float32[np.ndarray, "micro band y x"]) -> Float32[np.ndarray, "micro"]:
        (logits,) = self.session.run([OUTPUT], {INPUT: seen})
        return np.asarray(logits)


def load_onnx(path: str | Path, *, sha256: str | None = None) -> OnnxScorer:
    """Read an exported network and make it ready.

    Raises DataError when the file is absent, is not an export of ours, takes other stamps than its card says,
    or is not the one `sha256` names.
    """
    where = str(path)
    data, found = read_model_file(path, sha256)
    session = _session(data, where)
    facts = session.get_modelmeta().custom_metadata_map
    if CARD not in facts or CHECKPOINT not in facts:
        raise DataError(where, "carries no card of ours", "export it with dhs train")
    card = parse(json.loads(facts[CARD]), Card, where)
    shapes = [tuple(given.shape) for given in session.get_inputs() if given.name == INPUT]
    if shapes != [(MICRO_BATCH, *card.stamp_shape)]:
        problem = f"does not take stamps {card.stamp_shape} as its card says, but {shapes}"
        raise DataError(where, problem, "export it again with dhs train")
    return OnnxScorer(card, found, facts[CHECKPOINT], session)


def exported_from(path: Path) -> str | None:
    """SHA-256 of the checkpoint that an ONNX file was made from; None where it names none."""
    session = onnxruntime.InferenceSession(str(path), providers=_PROVIDERS)
    named = session.get_modelmeta().custom_metadata_map.get(CHECKPOINT)
    return None if named is None else str(named)


def _session(data: bytes, where: str) -> Any:
    """One thread, so that sums are never split; a fixed batch, so that a row always meets one kernel."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_free_dimension_override_by_name(ROWS, MICRO_BATCH)
    try:
        return onnxruntime.InferenceSession(data, options, providers=_PROVIDERS)
    except Exception as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(where, f"is not a network that ONNX Runtime can load: {cause}") from error
