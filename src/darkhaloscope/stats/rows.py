"""Scores, labels and groups as they come in, checked."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.contracts.errors import DataError

Vector = NDArray[np.float64]


class Rows(NamedTuple):
    """Scores, whether positive, and groups numbered 0 … m - 1."""

    score: Vector
    positive: NDArray[np.bool_]
    group: NDArray[np.intp]

    @property
    def n_groups(self) -> int:
        """How many groups there are."""
        return int(self.group.max()) + 1 if self.group.size else 0

    @property
    def lacks_a_class(self) -> bool:
        """Whether there is no positive, or nothing else."""
        return not self.positive.any() or bool(self.positive.all())


def checked_scores(scores: ArrayLike, what: str, *, allow_empty: bool = False) -> Vector:
    """Scores as a flat array; DataError naming `what` for NaN, or where there are none."""
    s = np.asarray(scores, dtype=np.float64).ravel()
    if np.isnan(s).any():
        raise DataError(what, f"{int(np.isnan(s).sum())} of {len(s)} scores are NaN")
    if not len(s) and not allow_empty:
        raise DataError(what, "there are no scores")
    return s


def checked_rows(scores: ArrayLike, labels: ArrayLike, groups: ArrayLike | None) -> Rows:
    """Rows, each its own group if there are none; DataError for labels or groups that do not fit."""
    s = checked_scores(scores, "scores", allow_empty=True)
    y = np.asarray(labels, dtype=np.float64).ravel()
    if len(y) != len(s) or not np.isin(y, (0.0, 1.0)).all():
        raise DataError("labels", f"must be 0 or 1, one for each of {len(s)} scores")
    if groups is None:
        return Rows(s, y == 1, np.arange(len(s)))
    g = np.asarray(groups).ravel()
    if len(g) != len(s):
        raise DataError("groups", f"{len(g)} groups do not fit {len(s)} scores")
    return Rows(s, y == 1, np.unique(g, return_inverse=True)[1])


def class_rows(
    pos: ArrayLike, neg: ArrayLike, pos_groups: ArrayLike | None, neg_groups: ArrayLike | None
) -> Rows:
    """Rows from the two classes apart; groups are common to both, and given for both or for neither."""
    p, m = (checked_scores(x, what, allow_empty=True) for x, what in ((pos, "positives"), (neg, "negatives")))
    if (pos_groups is None) != (neg_groups is None):
        raise DataError("groups", "are needed for both classes, or for neither")
    groups = None if pos_groups is None else np.r_[np.asarray(pos_groups), np.asarray(neg_groups)]
    return checked_rows(np.r_[p, m], np.r_[np.ones(len(p)), np.zeros(len(m))], groups)
