"""Scoring jobs: a checkpoint and pixels give SCORES, one row for each row read.

A pair gives the score of its arc and of its control, each in two views: full, and core-masked (r < 5 px set
to zero after normalisation). A survey stamp gives the two views of itself. A row without pixels keeps its
place with null scores and its reject code.
"""

from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from darkhaloscope.contracts.job import Job
from darkhaloscope.contracts.tables import PAIRED_STAMPS, SCORES, STAMPS, Table
from darkhaloscope.dataset.pixels import centres, decode_column

if TYPE_CHECKING:
    from darkhaloscope.training.model import Scorer

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
    """What both jobs share: which checkpoint, and how a column of blobs becomes scores."""

    writes: ClassVar[Table] = SCORES
    unfingerprinted: ClassVar[frozenset[str]] = frozenset({"checkpoint"})

    checkpoint: str
    checkpoint_sha256: str

    @property
    def scorer(self) -> "Scorer":
        """The model, read once in each process. Raises DataError if the file is not the one named."""
        return _scorer(self.checkpoint, self.checkpoint_sha256)

    @abstractmethod
    def run(self, batch: pa.Table) -> pa.Table:
        """Rows of pixels to rows of scores."""

    def _views(self, batch: pa.Table, key: str, blobs: str, score: str) -> dict[str, pa.Array]:
        """The full and the core-masked score of a column of blobs; null where the row was rejected."""
        at = np.flatnonzero(pc.is_null(batch.column("reject")).to_numpy(zero_copy_only=False))
        full = np.full(batch.num_rows, np.nan)
        masked = full.copy()
        if len(at):
            rows = batch.take(at)
            stamps, at_centre = decode_column(rows, key, blobs), centres(rows)
            full[at] = self.scorer(stamps, *at_centre)
            masked[at] = self.scorer(stamps, *at_centre, core_masked=True)
        return {name: pa.array(s, pa.float64(), from_pandas=True) for name, s in _named(score, full, masked)}


class Score(_Scoring):
    """PAIRED_STAMPS to SCORES: the arc's row, with its control's scores beside it."""

    reads: ClassVar[Table] = PAIRED_STAMPS
    columns: ClassVar[tuple[str, ...] | None] = (
        "task_id", *_CARRIED[:4], *_CARRIED[6:], *_CENTRES, "stamp_npz", "ctrl_stamp_npz",
        *_FACTS,
    )  # fmt: skip

    job: Literal["score"] = "score"

    def run(self, batch: pa.Table) -> pa.Table:
        """Four scores for each pair; StampError or DataError naming the task of unusable pixels."""
        return SCORES.conform(
            {
                "row_id": batch.column("task_id"),
                **_carried(batch, _FACTS),
                **self._views(batch, "task_id", "stamp_npz", "score"),
                **self._views(batch, "task_id", "ctrl_stamp_npz", "score_ctrl"),
            }
        )


class ScoreStamps(_Scoring):
    """STAMPS to SCORES: survey galaxies, contaminants, anchors."""

    reads: ClassVar[Table] = STAMPS
    columns: ClassVar[tuple[str, ...] | None] = (
        *_CARRIED, *_CENTRES, "stamp_npz", "theta_e_arcsec", "psfsize_r", "psfdepth_r",
    )  # fmt: skip

    job: Literal["score_stamps"] = "score_stamps"

    def run(self, batch: pa.Table) -> pa.Table:
        """Two scores for each stamp; StampError or DataError naming the target for unusable pixels."""
        return SCORES.conform(
            {
                "row_id": batch.column("target_id"),
                **_carried(batch, ("theta_e_arcsec", "psfdepth_r")),
                "psf_fwhm_arcsec": batch.column("psfsize_r"),
                **self._views(batch, "target_id", "stamp_npz", "score"),
            }
        )


@lru_cache(maxsize=2)
def _scorer(path: str, sha256: str) -> "Scorer":
    from darkhaloscope.training.model import load_checkpoint  # noqa: PLC0415 - naming a job loads no PyTorch

    return load_checkpoint(path, sha256=sha256)


def _named(score: str, full: np.ndarray, masked: np.ndarray) -> tuple[tuple[str, np.ndarray], ...]:
    return (score, full), (f"{score}_core_masked", masked)


def _carried(batch: pa.Table, facts: Sequence[str]) -> dict[str, Any]:
    return {name: batch.column(name) for name in (*_CARRIED, *facts) if name in batch.column_names}
