"""The trained network as an ONNX file, for whoever scores without PyTorch.

The file stands beside its checkpoint and carries the checkpoint's card and SHA-256 in its metadata. It is
kept only if ONNX Runtime gives the same logits.
"""

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from jaxtyping import Float32

from darkhaloscope.contracts.errors import TrainingFailed
from darkhaloscope.contracts.store import write_whole
from darkhaloscope.training.model import LensClassifier, Scorer
from darkhaloscope.training.onnx_scorer import CARD, CHECKPOINT, INPUT, OUTPUT, ROWS, exported_from

TOLERANCE = 1e-4
"""Largest difference in a logit."""

Normalised = Float32[np.ndarray, "n band y x"]


def export_onnx(scorer: Scorer, path: Path, sample: Normalised) -> float:
    """Write a model to `path`, or leave the file that is already this model's; return the largest difference.

    sample   stamps that the scorer's preprocessing has normalised, at least one: both must agree on them

    The network takes ``normalised`` (n, band, y, x) and gives ``logit`` (n,), for any n. Raises
    TrainingFailed where a logit differs by more than 1e-4: the file is then not written.
    """
    kept = path.exists() and exported_from(path) == scorer.sha256
    data = path.read_bytes() if kept else _exported(scorer, sample)
    worst = largest_difference(data, scorer.model, sample)
    if not worst <= TOLERANCE:  # NaN is no agreement
        problem = f"the exported network differs from the trained one by {worst:.2g} in a logit"
        raise TrainingFailed(str(path), problem, "report it with the backbone's name and PyTorch's version")
    if not kept:
        write_whole(path, data)
    return worst


def largest_difference(data: bytes, model: LensClassifier, sample: Normalised) -> float:
    """Largest difference of a logit between an ONNX file and a network."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (theirs,) = session.run([OUTPUT], {INPUT: sample})
    with torch.inference_mode():
        ours = model(torch.from_numpy(sample)).numpy()
    return float(np.abs(theirs - ours).max())


def _exported(scorer: Scorer, sample: Normalised) -> bytes:
    example = torch.from_numpy(np.ascontiguousarray(np.repeat(sample[:1], 2, axis=0)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # within PyTorch, of itself
        program = torch.onnx.export(
            scorer.model,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim(ROWS)},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    if program is None:
        raise TrainingFailed("onnx", "PyTorch returned no program for this network")
    proto = program.model_proto
    facts = {CARD: scorer.card.model_dump_json(), CHECKPOINT: scorer.sha256}
    onnx.helper.set_model_props(proto, facts)
    return bytes(proto.SerializeToString())
