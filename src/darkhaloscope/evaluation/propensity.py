"""Rows of two populations matched in what is known of them, and how well that went."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression

from darkhaloscope.contracts.errors import DataError

Vector = NDArray[np.float64]
Facts = Mapping[str, Vector]

SMD_BOUND = 0.1
"""Standardised mean difference from which a fact counts as unmatched (Austin 2009)."""

CALIPERS = (0.2, 0.1, 0.05)
"""Largest distance of a pair in the logit of the propensity, in its standard deviations (Austin 2011: .2).
The widest that balances every fact is taken."""

LEAST_KNOWN = 0.8
"""Share of rows in which a fact must be known on both sides to be matched in."""

_FAR = 1e6


@dataclass(frozen=True, eq=False)
class Matching:
    """Pairs of a row of A and a row of B, no row in two pairs.

    a, b       row numbers, pair by pair
    before, after   standardised mean difference of each fact; over the same standard deviation
    unused     facts that are too often unknown, or constant
    lost       rows of A without a counterpart: figures of the pairs do not speak of them
    """

    a: NDArray[np.intp]
    b: NDArray[np.intp]
    before: dict[str, float]
    after: dict[str, float]
    unused: tuple[str, ...]
    lost: int

    @property
    def worst(self) -> tuple[str, float]:
        """The fact that differs most after matching, and by how much; NaN without pairs."""
        name = max(self.after, key=lambda fact: abs(self.after[fact]))
        return name, self.after[name]

    @property
    def balanced(self) -> bool:
        """Whether every fact's difference is below .1."""
        return bool(len(self.a)) and all(abs(v) < SMD_BOUND for v in self.after.values())

    def __str__(self) -> str:
        name, value = self.worst
        words = [
            f"{len(self.a)} pairs matched in {', '.join(self.after)}",
            f"largest standardised mean difference {value:+.3f} ({name}; before {self.before[name]:+.3f})",
        ]
        words += [f"{self.lost} without a counterpart"] if self.lost else []
        words += [f"not matched in {', '.join(self.unused)}: unknown or constant"] if self.unused else []
        return ", ".join(words)


def match(a: Facts, b: Facts) -> Matching:
    """Match each row of A with at most one of B: nearest facts within a caliper of the propensity.

    The propensity is that of a logistic regression of membership on the standardised facts (Rosenbaum &
    Rubin 1983); within its caliper the sum of Mahalanobis distances is least over all assignments (1985,
    their method 3, with an optimal instead of a greedy choice). Rows that lack a fact are not matched.

    Raises DataError where the facts differ in name, or none can be used.
    """
    if set(a) != set(b) or not a:
        raise DataError("matching", f"compares {sorted(a)} with {sorted(b)}")
    names = [name for name in a if _usable(a[name], b[name])]
    if not names:
        raise DataError("matching", f"none of {', '.join(a)} is known and varies in both populations")
    x, y = (np.stack([side[name] for name in names], axis=1) for side in (a, b))
    rows_x, rows_y = (np.flatnonzero(np.isfinite(side).all(axis=1)) for side in (x, y))
    spread = np.sqrt((x[rows_x].var(axis=0, ddof=1) + y[rows_y].var(axis=0, ddof=1)) / 2)
    u, v = x[rows_x] / spread, y[rows_y] / spread
    unused = tuple(name for name in a if name not in names)
    found: list[Matching] = []
    for caliper in CALIPERS:
        i, j = _assigned(u, v, caliper)
        before, after = (
            dict(
                zip(
                    names,
                    (p.mean(axis=0) - q.mean(axis=0)).tolist() if len(p) else [np.nan] * len(names),
                    strict=True,
                )
            )
            for p, q in ((u, v), (u[i], v[j]))
        )
        found.append(Matching(rows_x[i], rows_y[j], before, after, unused, len(x) - len(i)))
        if found[-1].balanced:
            return found[-1]
    return found[0]


def _usable(a: Vector, b: Vector) -> bool:
    known = [np.isfinite(side) for side in (a, b)]
    if min(k.mean() if len(k) else 0.0 for k in known) < LEAST_KNOWN:
        return False
    return all(np.ptp(side[k]) > 0 for side, k in zip((a, b), known, strict=True))


def _assigned(u: Vector, v: Vector, caliper: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    both, labels = np.concatenate([u, v]), np.repeat([1, 0], [len(u), len(v)])
    # Of the rows it was fitted to, on purpose: a propensity balances these rows and predicts no others. The
    # intercept cancels in differences.
    logit = both @ LogisticRegression(max_iter=2000).fit(both, labels).coef_[0]
    apart = np.abs(logit[: len(u), None] - logit[None, len(u) :])
    within = np.cov(np.concatenate([u - u.mean(axis=0), v - v.mean(axis=0)]), rowvar=False)
    inverse = np.linalg.pinv(np.atleast_2d(within))
    cost = cdist(u, v, "mahalanobis", VI=inverse)
    width = caliper * np.sqrt((logit[: len(u)].var() + logit[len(u) :].var()) / 2)
    far = apart > width
    cost[far] = _FAR
    i, j = linear_sum_assignment(cost)
    good = ~far[i, j]
    return i[good], j[good]
