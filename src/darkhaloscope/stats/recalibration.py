"""By how much logits must be stretched and moved to be right: Cox's recalibration, and the fits it rests on.

logit P(arc) = a + b logit p, Cox (1958, Biometrika 45, 562). A calibrated p has intercept a = 0 and slope
b = 1; b < 1 says that p is too sure of itself, a > 0 that there are more arcs than it states.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM

from darkhaloscope.stats.prevalence import (
    ClassSums,
    PriorShift,
    jackknife_half,
    logits,
    moved_text,
    prevalence_weights,
)
from darkhaloscope.stats.resampling import Estimate
from darkhaloscope.stats.rows import Rows, Vector, checked_rows

_TOLERANCE = 1e-9  # of the coefficients
_ITERATIONS = 100
_SINGULAR = 1e-10

Design = NDArray[np.float64]
"""Columns of a regression, (row, coefficient)."""


class Recalibration(NamedTuple):
    """Cox's coefficients. Both are None, with the reason, where the likelihood has no maximum."""

    intercept: Estimate
    slope: Estimate


def cox(
    prob: ArrayLike,
    label: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    shift: PriorShift | None = None,
    confidence: float = 0.95,
) -> Recalibration:
    """Intercept and slope of outcomes on the logits of their probabilities, with intervals over groups.

    shift   move the probabilities to prevalence `shift.now` and weigh the classes to it. Without one they are
            judged as stated, and the intercept holds the scatter of how many positives were drawn

    Each group is left out by one Newton step: the sandwich corrected for leverage (CR3 of MacKinnon, Nielsen
    & Webb 2023, J. Appl. Econometrics 38, 671), with Student's t. Not defined where a class is empty, where
    all probabilities are equal, and where a threshold separates the classes (Albert & Anderson 1984).
    """
    rows = checked_rows(prob, label, groups)
    x, moved = logits(rows.score)
    why = no_maximum(x, rows.positive)
    if not why:
        now = None if shift is None else shift.now
        design = np.column_stack([np.ones(len(x)), x + (0.0 if shift is None else shift.step)])
        weights = np.ones(len(x)) if now is None else prevalence_weights(rows.positive, now)
        found = logistic_coefficients(design, rows.positive, weights=weights)
        if found is not None:
            note = moved_text(moved, len(x))
            return _estimates(rows, design, found, now=now, confidence=confidence, note=note)
        why = "the fit did not converge"
    none = Estimate(None, None, None, len(x), rows.n_groups, "none", why)
    return Recalibration(none, none)


def no_maximum(x: Vector, positive: NDArray[np.bool_]) -> str:
    """Why a logistic regression on one quantity has no finite maximum; empty where it has one."""
    if positive.all() or not positive.any():
        return "one of the classes is empty"
    pos, neg = x[positive], x[~positive]
    if x.min() == x.max():
        return "all scores are the same"
    if neg.max() <= pos.min() or pos.max() <= neg.min():
        return "a threshold separates the classes, so the likelihood has no maximum"
    return ""


def logistic_coefficients(
    design: Design,
    positive: NDArray[np.bool_],
    *,
    weights: Vector | None = None,
    offset: float = 0.0,
) -> Vector | None:
    """Maximum-likelihood coefficients of a logistic regression; None where the iteration does not settle."""
    n = len(positive)
    model = GLM(
        positive.astype(np.float64),
        design,
        family=Binomial(),
        offset=np.full(n, offset),
        freq_weights=np.ones(n) if weights is None else weights,
    )
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # a diverging fit is told below
        fitted = model.fit(maxiter=_ITERATIONS, tol=_TOLERANCE, tol_criterion="params")
    found = np.asarray(fitted.params)
    return found if fitted.converged and np.isfinite(found).all() else None


def _estimates(
    rows: Rows, design: Design, found: Vector, *, now: float | None, confidence: float, note: str
) -> Recalibration:
    sums = _scores_and_information(rows, design, found, now)
    departures = _newton_steps(sums.without())
    half, method, why = jackknife_half(sums, departures, confidence)
    detail = "; ".join(text for text in (note, why) if text)
    ends = np.full((2, 2), np.nan) if half is None else np.stack([found - half, found + half], axis=1)
    made = [
        Estimate(
            float(value),
            None if half is None else float(low),
            None if half is None else float(high),
            len(rows.score),
            rows.n_groups,
            how,
            detail,
        )
        for value, (low, high), how in zip(found, ends, method, strict=True)
    ]
    return Recalibration(*made)


def _scores_and_information(rows: Rows, design: Design, found: Vector, now: float | None) -> ClassSums:
    x = design[:, 1]
    mean = 1 / (1 + np.exp(-(design @ found)))
    residual, spread = rows.positive - mean, mean * (1 - mean)
    return ClassSums(rows, np.column_stack([residual, residual * x, spread, spread * x, spread * x**2]), now)


def _newton_steps(without: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the coefficients move without each group, (group, 2); NaN where they are not defined."""
    u0, u1, a00, a01, a11 = without.T
    determinant = a00 * a11 - a01**2
    usable = determinant > _SINGULAR * a00 * a11
    determinant = np.where(usable, determinant, np.nan)
    return np.column_stack([(a11 * u0 - a01 * u1) / determinant, (a00 * u1 - a01 * u0) / determinant])
