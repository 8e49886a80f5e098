"""Scoring jobs: a model and pixels give SCORES, one row for each row read.

A pair gives the score of its arc and of its control, each in two views: full, and core-masked (r < 5 px set
to zero after normalisation). A survey stamp gives the two views of itself. A row without pixels keeps its
place with null scores and its reject code. Pixels are decoded and normalised once for all views.

The model is a checkpoint (PyTorch) or its export (ONNX Runtime); neither library is loaded before a file
asks for it.
"""

from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.job import Job
from darkhaloscope.contracts.store import Dataset
from darkhaloscope.contracts.tables import PAIRED_STAMPS, SCORES, STAMPS, Table
from darkhaloscope.dataset.pixels import centres, decode_column
from darkhaloscope.training.scorer import VIEWS, StampScorer, probabilities

ONNX_SUFFIX = ".onnx"

_CARRIED = (
    "target_id",
    "host_id",
    "group",
    "kind",
    "category",
    "name",
    "host_domain",
    "arc_domain",
    "reject",
)
_FACTS = ("theta_e_arcsec", "arc_snr", "arc_snr_mf", "kappa_r5", "psf_fwhm_arcsec", "psfdepth_r")
_CENTRES = ("x_center_pix", "y_center_pix")


class _Scoring(Job):
    """What both jobs share: which model, and how columns of blobs become scores.

    checkpoint          the model's file: a checkpoint of `dhs train`, or, ending in .onnx, its export, for
                        which no PyTorch is needed
    checkpoint_sha256   of that file; it stands for the model in the job's identity
    """

    writes: ClassVar[Table] = SCORES
    unfingerprinted: ClassVar[frozenset[str]] = frozenset({"checkpoint"})
    key: ClassVar[str]
    """The column that names a row."""

    blobs: ClassVar[dict[str, str]]
    """Columns of pixels, and the score that each becomes."""

    checkpoint: str
    checkpoint_sha256: str

    @property
    def scorer(self) -> StampScorer:
        """The model, read once in each process. Raises DataError if the file is not the one named."""
        return _scorer(self.checkpoint, self.checkpoint_sha256)

    def refuse_unfit(self, source: Dataset) -> None:
        """DataError or StampError unless the model can be read and takes the pixels of this dataset.

        Looks at the first row that has any: a survey is not begun that would stop at once.
        """
        source.expect(self.reads)
        scorer = self.scorer
        column = next(iter(self.blobs))
        for shard in source.keys:
            rejects = source.read_shard(shard, ["reject"]).column("reject")
            if not rejects.null_count:
                continue
            rows = source.read_shard(shard, [self.key, "reject", column])
            first = rows.filter(pc.is_null(rows.column("reject"))).slice(0, 1)
            scorer.refuse_other_stamps(decode_column(first, self.key, column).shape[1:])
            return

    @abstractmethod
    def run(self, batch: pa.Table) -> pa.Table:
        """Rows of pixels to rows of scores."""

    def _scores(self, batch: pa.Table) -> dict[str, pa.Array]:
        """The full and the core-masked score of each column of blobs; null where the row was rejected.

        All columns and views of the batch go through the network together. DataError naming the row for a
        logit that is not finite: a null would hide it.
        """
        at = np.flatnonzero(pc.is_null(batch.column("reject")).to_numpy(zero_copy_only=False))
        scores = np.full((len(VIEWS), len(self.blobs), batch.num_rows), np.nan)
        if len(at):
            rows = batch.take(at)
            stamps = np.concatenate([decode_column(rows, self.key, blobs) for blobs in self.blobs])
            x, y = (np.tile(centre, len(self.blobs)) for centre in centres(rows))
            logits = self.scorer.views(stamps, x, y).reshape(len(VIEWS), len(self.blobs), len(at))
            self._refuse_not_finite(logits, rows)
            scores[..., at] = probabilities(logits)
        return {
            f"{score}{suffix}": pa.array(scores[view, k], pa.float64(), from_pandas=True)
            for k, score in enumerate(self.blobs.values())
            for view, suffix in enumerate(("", "_core_masked"))
        }

    def _refuse_not_finite(self, logits: np.ndarray, rows: pa.Table) -> None:
        bad = ~np.isfinite(logits).all(axis=(0, 1))
        if bad.any():
            name = rows.column(self.key)[int(bad.argmax())].as_py()
            raise DataError(f"{self.checkpoint} {name}", "gives a logit that is not finite", "train it again")


class Score(_Scoring):
    """PAIRED_STAMPS to SCORES: the arc's row, with its control's scores beside it."""

    reads: ClassVar[Table] = PAIRED_STAMPS
    columns: ClassVar[tuple[str, ...] | None] = (
        "task_id", *_CARRIED[:4], *_CARRIED[6:], *_CENTRES, "stamp_npz", "ctrl_stamp_npz",
        *_FACTS,
    )  # fmt: skip

    key: ClassVar[str] = "task_id"
    blobs: ClassVar[dict[str, str]] = {"stamp_npz": "score", "ctrl_stamp_npz": "score_ctrl"}

    job: Literal["score"] = "score"

    def run(self, batch: pa.Table) -> pa.Table:
        """Four scores for each pair; StampError or DataError naming the task of unusable pixels."""
        return SCORES.conform(
            {
                "row_id": batch.column("task_id"),
                **_carried(batch, _FACTS),
                **self._scores(batch),
            }
        )


class ScoreStamps(_Scoring):
    """STAMPS to SCORES: survey galaxies, contaminants, anchors."""

    reads: ClassVar[Table] = STAMPS
    columns: ClassVar[tuple[str, ...] | None] = (
        *_CARRIED, *_CENTRES, "stamp_npz", "theta_e_arcsec", "psfsize_r", "psfdepth_r",
    )  # fmt: skip

    key: ClassVar[str] = "target_id"
    blobs: ClassVar[dict[str, str]] = {"stamp_npz": "score"}

    job: Literal["score_stamps"] = "score_stamps"

    def run(self, batch: pa.Table) -> pa.Table:
        """Two scores for each stamp; StampError or DataError naming the target for unusable pixels."""
        return SCORES.conform(
            {
                "row_id": batch.column("target_id"),
                **_carried(batch, ("theta_e_arcsec", "psfdepth_r")),
                "psf_fwhm_arcsec": batch.column("psfsize_r"),
                **self._scores(batch),
            }
        )


@lru_cache(maxsize=2)
def _scorer(path: str, sha256: str) -> StampScorer:
    """Each kind of file brings in its own library, and a worker needs no other."""
    exported = path.endswith(ONNX_SUFFIX)
    try:
        if exported:
            from darkhaloscope.training.onnx_scorer import load_onnx

            return load_onnx(path, sha256=sha256)
        from darkhaloscope.training.model import load_checkpoint

        return load_checkpoint(path, sha256=sha256)
    except ModuleNotFoundError as error:
        extra = "score" if exported else "train"
        remedy = f"pip install 'darkhaloscope[{extra}]'; a .onnx file needs no PyTorch"
        raise DataError(path, f"needs the package {error.name}, which is not installed", remedy) from error


def _carried(batch: pa.Table, facts: Sequence[str]) -> dict[str, Any]:
    return {name: batch.column(name) for name in (*_CARRIED, *facts) if name in batch.column_names}
