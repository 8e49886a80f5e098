"""Calibrators: maps of probabilities to better ones, fitted on the calib split and judged on another.

A score is a probability at the training prevalence, one half. `fit_calibrator` maps such probabilities to
better ones at the same prevalence: moving them to another one (`stats.at_prevalence`) is a step of its own,
since the rows of a split and the sky have prevalences of their own. A calibrator keeps the groups it was
fitted on and refuses to be judged on them.

Kinds: temperature (Guo et al. 2017, logit q = logit p / T), beta (Kull, Silva Filho & Flach 2017, logit q =
a ln p - b ln(1 - p) + c with a, b >= 0) and isotonic (Zadrozny & Elkan 2002).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Self, assert_never

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import model_validator
from scipy import special
from sklearn.isotonic import IsotonicRegression

from darkhaloscope.contracts.config import Frozen
from darkhaloscope.contracts.errors import DataError, SplitLeakage
from darkhaloscope.stats import PriorShift, at_prevalence
from darkhaloscope.stats.prevalence import logits
from darkhaloscope.stats.recalibration import logistic_coefficients, no_maximum
from darkhaloscope.stats.rows import Vector, checked_rows

FEWEST_OF_A_CLASS = 200
"""Rows of either class below which no calibrator is fitted."""

Kind = Literal["none", "temperature", "beta", "isotonic"]
KINDS: tuple[Kind, ...] = ("none", "temperature", "beta", "isotonic")


class Calibrator(Frozen):
    """A map of probabilities to probabilities at the same prevalence, and what it was fitted on.

    parameters   temperature: T; beta: a, b, c; isotonic: thresholds, ascending, then the value at each
    prevalence   at which probabilities go in and come out
    fitted_on    fingerprints of the manifests whose rows it was fitted on
    groups       groups of those rows, which it must not be judged on
    """

    kind: Kind
    parameters: tuple[float, ...] = ()
    prevalence: float
    n_positives: int
    n_negatives: int
    fitted_on: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _parameters_fit_the_kind(self) -> Self:
        p, wrong = self.parameters, ""
        match self.kind:
            case "none":
                wrong = "takes no parameters" if p else ""
            case "temperature":
                wrong = "" if len(p) == 1 and p[0] > 0 else "takes one parameter, above 0"
            case "beta":
                wrong = "" if len(p) == 3 and min(p[:2]) >= 0 else "takes a, b >= 0 and c"
            case "isotonic":
                wrong = "" if _rises(p) else "takes thresholds and values that rise within 0 … 1"
            case _:
                assert_never(self.kind)
        if wrong or not 0 < self.prevalence < 1:
            message = f"'{self.kind}' {wrong or 'needs a prevalence between 0 and 1'}"
            raise ValueError(message)
        return self

    def apply(self, prob: ArrayLike) -> Vector:
        """Calibrated probabilities. Equal ones stay equal, and no two change their order."""
        p = np.asarray(prob, dtype=np.float64)
        x, _ = logits(p)
        match self.kind:
            case "none":
                return p.copy()
            case "temperature":
                return np.asarray(special.expit(x / self.parameters[0]))
            case "beta":
                a, b, c = self.parameters
                return np.asarray(special.expit(a * special.log_expit(x) - b * special.log_expit(-x) + c))
            case "isotonic":
                half = len(self.parameters) // 2
                return np.asarray(np.interp(p, self.parameters[:half], self.parameters[half:]))
            case _:
                assert_never(self.kind)

    def refuse_seen(self, groups: Iterable[str]) -> None:
        """Raise SplitLeakage where one of `groups` was among those it was fitted on."""
        seen = sorted(set(self.groups) & {str(group) for group in groups})
        if seen:
            raise SplitLeakage(
                f"calibrator '{self.kind}'",
                f"was fitted on {len(seen)} of the groups it is to be judged on: {', '.join(seen[:3])}",
                "judge it on rows of another split",
            )


def _rises(parameters: Sequence[float]) -> bool:
    half = len(parameters) // 2
    x, y = parameters[:half], parameters[half:]
    within = all(0 <= v <= 1 for v in parameters)
    steps = all(b > a for a, b in pairwise(x)) and all(b >= a for a, b in pairwise(y))
    return half > 0 and len(x) == len(y) and within and steps


@dataclass(frozen=True)
class NotFitted:
    """A calibrator that these rows do not give, and why."""

    kind: Kind
    why: str


def fit_calibrator(
    kind: Kind,
    prob: ArrayLike,
    label: ArrayLike,
    *,
    groups: ArrayLike,
    prevalence: float | None = None,
    fitted_on: Sequence[str] = (),
) -> Calibrator | NotFitted:
    """Fit one kind on rows of the calib split, by likelihood (isotonic: least squares).

    prob         probabilities as they are stated
    groups       what a split never cuts, one for each row: kept in the calibrator
    prevalence   at which they are stated (None: that of these rows). The rows' own share of positives is an
                 offset of the fit, so that what comes out holds at `prevalence` again

    NotFitted with fewer than 200 rows of a class, where scores do not rise with the label, and where a
    threshold separates the classes (isotonic has an answer there). Isotonic values end at Platt's (1999)
    1/(n0 + 2) and (n1 + 1)/(n1 + 2) at the rows' own share: n rows show no probability of 0 or 1.
    """
    rows = checked_rows(prob, label, groups)
    n_pos, n_neg = int(rows.positive.sum()), int((~rows.positive).sum())
    if kind != "none" and min(n_pos, n_neg) < FEWEST_OF_A_CLASS:
        return NotFitted(kind, f"{n_pos} positives and {n_neg} negatives, needs {FEWEST_OF_A_CLASS} of each")
    if not n_pos or not n_neg:
        raise DataError("calibrator", f"{n_pos} positives and {n_neg} negatives; both are needed")
    own = n_pos / (n_pos + n_neg)
    shift = PriorShift(own if prevalence is None else prevalence, own)
    parameters = () if kind == "none" else _fitted(kind, rows.score, rows.positive, shift)
    if isinstance(parameters, str):
        return NotFitted(kind, parameters)
    return Calibrator(
        kind=kind,
        parameters=parameters,
        prevalence=shift.was,
        n_positives=n_pos,
        n_negatives=n_neg,
        fitted_on=tuple(fitted_on),
        groups=tuple(np.unique(np.asarray(groups).ravel().astype(str)).tolist()),
    )


def _fitted(
    kind: Literal["temperature", "beta", "isotonic"],
    prob: Vector,
    positive: NDArray[np.bool_],
    shift: PriorShift,
) -> tuple[float, ...] | str:
    """Parameters, or why there are none."""
    x, _ = logits(prob)
    match kind:
        case "isotonic":
            return _isotonic(prob, positive, shift)
        case "temperature":
            return _temperature(x, positive, shift.step)
        case "beta":
            return no_maximum(x, positive) or _beta(x, positive, shift.step)
        case _:
            assert_never(kind)


def _temperature(x: Vector, positive: NDArray[np.bool_], step: float) -> tuple[float, ...] | str:
    if (np.where(positive, x, -x) >= 0).all():
        return "every score is on its side of one half, so the likelihood has no maximum"
    found = logistic_coefficients(x[:, None], positive, offset=step)
    if found is None:
        return "the fit did not converge"
    if found[0] <= 0:
        return "the scores do not rise with the label"
    return (1 / float(found[0]),)


def _beta(x: Vector, positive: NDArray[np.bool_], step: float) -> tuple[float, ...] | str:
    """The best of the fits with both of a and b, or one of them, that keeps a, b >= 0.

    The likelihood is concave: its maximum under a, b >= 0 is that of the face it lies on.
    """
    columns = np.column_stack([special.log_expit(x), -special.log_expit(-x), np.ones(len(x))])
    best, highest = None, -np.inf
    for free in ([0, 1, 2], [0, 2], [1, 2]):
        found = logistic_coefficients(columns[:, free], positive, offset=step)
        if found is None or (found[:-1] < 0).any():
            continue
        z = columns[:, free] @ found + step
        likelihood = float(special.log_expit(np.where(positive, z, -z)).sum())
        if likelihood > highest:
            full = np.zeros(3)
            full[free] = found
            best, highest = full, likelihood
    if best is None or not best[:2].any():
        return "the scores do not rise with the label"
    return tuple(best.tolist())


def _isotonic(prob: Vector, positive: NDArray[np.bool_], shift: PriorShift) -> tuple[float, ...] | str:
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    fit = IsotonicRegression(out_of_bounds="clip", y_min=1 / (n_neg + 2), y_max=(n_pos + 1) / (n_pos + 2))
    fit.fit(prob, positive.astype(np.float64))
    thresholds, values = np.asarray(fit.X_thresholds_), np.asarray(fit.y_thresholds_)
    if values[0] == values[-1]:
        return "the scores do not rise with the label"
    stated = values if shift.was == shift.now else at_prevalence(values, shift.now, shift.was)
    return (*thresholds.tolist(), *np.maximum.accumulate(stated).tolist())
