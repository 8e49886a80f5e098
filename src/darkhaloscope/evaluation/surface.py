"""A smooth share over several coordinates: penalised B-splines for the logit, monotone where physics is.

    logit C(x) = tensor(x_1, x_2) + sum_k smooth_k(x_k)

Cubic B-splines whose neighbouring coefficients are held together by their second differences (P-splines,
Eilers & Marx 1996; tensor products and posterior as in Wood 2017, sections 4.8, 5.6 and 6.10). How stiff each
direction is follows from the marginal likelihood (generalised Fellner-Schall steps, Wood & Fasiolo 2017). The
posterior of the coefficients is normal with the covariance of the penalised fit, times the design effect of
the clusters; draws from it are made monotone by projecting each onto the non-decreasing coefficients
(Lin & Dunson 2014), so that value and interval come from the same draws. A non-decreasing sequence of
B-spline coefficients is a non-decreasing function.

Rows of one cluster share what no coordinate tells. Their scatter about the surface (`cluster_sd`, in logit)
widens predictions for new clusters (`Surface.foretell`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from scipy.interpolate import BSpline
from scipy.special import expit
from sklearn.isotonic import isotonic_regression

from darkhaloscope.contracts.config import Frozen
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.stats.rows import Vector

Matrix = NDArray[np.float64]

DRAWS = 400
LEAST_SUPPORT = 5
_DEGREE = 3
_RIDGE = 1e-6  # of the information a coefficient has: where there are no rows at all, something must decide
_STEPS, _ENOUGH = 60, 1e-3
_STIFFEST = 1e4  # times the information a coefficient has: a straight line by any measure
_ATTENUATION = (16.0 * np.sqrt(3.0) / (15.0 * np.pi)) ** 2  # of a logit by a normal effect of unit variance
"""Zeger, Liang & Albert (1988): a marginal logit is the conditional one over sqrt(1 + this × variance)."""


class Axis(Frozen):
    """One coordinate of a surface.

    low, high   where its splines begin and end; values beyond are taken as the nearer end
    splines     number of basis functions
    rising      the share never falls along it
    """

    name: str
    scale: Literal["linear", "log"] = "linear"
    low: float
    high: float
    splines: int = 8
    rising: bool = False

    def basis(self, values: ArrayLike) -> Matrix:
        """B-splines at some values, (row, spline); each row sums to 1. DataError for NaN."""
        unit = self._unit(values)
        if np.isnan(unit).any():
            raise DataError(self.name, f"{int(np.isnan(unit).sum())} of {unit.size} values are not known")
        inner = np.linspace(0.0, 1.0, self.splines - _DEGREE + 1)
        step = inner[1]
        knots = np.concatenate(
            [inner[0] - step * np.arange(_DEGREE, 0, -1), inner, 1.0 + step * np.arange(1, 4)]
        )
        return np.asarray(BSpline.design_matrix(unit.ravel(), knots, _DEGREE).toarray())

    def holds(self, values: ArrayLike) -> NDArray[np.bool_]:
        """Whether values lie between the ends."""
        x = np.asarray(values, dtype=np.float64)
        return np.asarray((x >= self.low) & (x <= self.high))

    def span(self, values: ArrayLike) -> NDArray[np.intp]:
        """Between which knots values lie, 0 … splines - 4; those beyond an end in the outermost."""
        number = self.splines - _DEGREE
        return np.clip(np.floor(self._unit(values) * number).astype(np.intp), 0, number - 1)

    def _unit(self, values: ArrayLike) -> NDArray[np.float64]:
        x = self._scaled(np.asarray(values, dtype=np.float64))
        low, high = self._scaled(np.array([self.low, self.high]))
        return np.asarray(np.clip((x - low) / (high - low), 0.0, 1.0))

    def _scaled(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.scale == "linear":
            return x
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(x > 0, np.log(x), np.nan))

    @classmethod
    def spanning(
        cls, name: str, values: ArrayLike, *, scale: Literal["linear", "log"] = "linear", splines: int = 8,
        rising: bool = False,
    ) -> "Axis":  # fmt: skip
        """An axis over the middle 98 % of some values. DataError where they do not differ."""
        low, high = np.quantile(np.asarray(values, dtype=np.float64), [0.01, 0.99])
        if not low < high:
            raise DataError(name, f"is {low:g} in every row: nothing can be learnt along it", "leave it out")
        return cls(name=name, scale=scale, low=float(low), high=float(high), splines=splines, rising=rising)


class Design(Frozen):
    """The coordinates of a surface: one or two that may act together, and others that add to them."""

    joint: tuple[Axis, ...]
    added: tuple[Axis, ...] = ()

    @property
    def axes(self) -> tuple[Axis, ...]:
        """All of them."""
        return (*self.joint, *self.added)

    @property
    def shape(self) -> tuple[int, ...]:
        """Splines along each joint axis."""
        return tuple(axis.splines for axis in self.joint)

    @property
    def n_joint(self) -> int:
        """Coefficients of the joint part."""
        return int(np.prod(self.shape))

    def rows(self, facts: Mapping[str, ArrayLike]) -> Matrix:
        """The design matrix (row, coefficient). DataError naming an axis that `facts` lacks."""
        lacking = [axis.name for axis in self.axes if axis.name not in facts]
        if lacking:
            raise DataError("surface", f"needs {', '.join(lacking)}")
        first, *rest = [axis.basis(facts[axis.name]) for axis in self.joint]
        for other in rest:
            first = (first[:, :, None] * other[:, None, :]).reshape(len(first), -1)
        return np.concatenate([first, *(axis.basis(facts[axis.name]) for axis in self.added)], axis=1)

    def penalties(self) -> list[Matrix]:
        """One matrix for each direction in which coefficients are held together."""
        whole = self.n_joint + sum(axis.splines for axis in self.added)
        found = []
        for k in range(len(self.joint)):
            parts = [_rough(n) if j == k else np.eye(n) for j, n in enumerate(self.shape)]
            block = parts[0] if len(parts) == 1 else np.kron(parts[0], parts[1])
            found.append(_placed(np.asarray(block, dtype=np.float64), 0, whole))
        at = self.n_joint
        for axis in self.added:
            found.append(_placed(_rough(axis.splines), at, whole))
            at += axis.splines
        return found

    def centred(self) -> Matrix:
        """What holds each added axis at a mean of zero: a constant is the joint part's."""
        whole, at = self.n_joint + sum(axis.splines for axis in self.added), self.n_joint
        out = np.zeros((whole, whole))
        for axis in self.added:
            out += _placed(np.full((axis.splines, axis.splines), 1.0 / axis.splines), at, whole)
            at += axis.splines
        return out


def _rough(n: int) -> Matrix:
    second = np.diff(np.eye(n), 2, axis=0)
    return np.asarray(second.T @ second)


def _placed(block: Matrix, at: int, whole: int) -> Matrix:
    out = np.zeros((whole, whole))
    out[at : at + len(block), at : at + len(block)] = block
    return out


@dataclass(frozen=True, eq=False)
class Surface:
    """A fitted share: draws of its coefficients, and what was found on the way.

    draws           (draw, coefficient), monotone along the axes that rise
    support         rows of the fit between neighbouring knots of the joint axes
    design_effect   how much wider clusters made the posterior than independent rows would
    cluster_sd      scatter of clusters about the surface, in logit
    stiffness       of each direction; the largest means a straight line
    n, n_clusters   rows and clusters that it was fitted to
    """

    design: Design
    draws: Matrix
    support: NDArray[np.int64]
    design_effect: float
    cluster_sd: float
    stiffness: tuple[float, ...]
    n: int
    n_clusters: int

    def shares(self, facts: Mapping[str, ArrayLike]) -> Matrix:
        """The share at some rows in every draw, (draw, row)."""
        return np.asarray(expit(self.draws @ self.design.rows(facts).T))

    def at(self, facts: Mapping[str, ArrayLike], confidence: float = 0.95) -> tuple[Vector, Vector, Vector]:
        """Mean and central interval of the share at some rows."""
        shares = self.shares(facts)
        tail = (1 - confidence) / 2
        low, high = np.quantile(shares, [tail, 1 - tail], axis=0)
        return shares.mean(axis=0), low, high

    def supported(self, facts: Mapping[str, ArrayLike]) -> NDArray[np.bool_]:
        """Whether there were rows of the fit where these lie; elsewhere the share continues its own curve."""
        inside = np.all([axis.holds(facts[axis.name]) for axis in self.design.axes], axis=0)
        place = tuple(axis.span(facts[axis.name]) for axis in self.design.joint)
        return np.asarray(inside & (self.support[place] >= LEAST_SUPPORT))

    def foretell(
        self, facts: Mapping[str, ArrayLike], found: NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[float, float]:
        """Where the number found in a new cluster lies in its predictive distribution; its log probability.

        facts, found   the rows of the cluster, which the fit has not seen

        The former is uniform if all is right.

        Randomised within the number itself (Dunn & Smyth 1996), else a distribution of whole numbers covers
        more than it says.
        """
        shift = rng.normal(0.0, self.cluster_sd, (len(self.draws), 1)) if self.cluster_sd else 0.0
        stretch = np.sqrt(1.0 + _ATTENUATION * self.cluster_sd**2)
        shares = expit(stretch * (self.draws @ self.design.rows(facts).T) + shift)
        density = np.mean([poisson_binomial(row) for row in shares], axis=0)
        k = int(found.sum())
        return float(density[:k].sum() + rng.random() * density[k]), float(np.log(density[k]))


def poisson_binomial(shares: Vector) -> Vector:
    """Probability of 0 … n successes of independent trials with these shares."""
    density = np.ones(1)
    for p in shares:
        density = np.convolve(density, (1.0 - p, p))
    return np.asarray(density)


def fit_surface(
    design: Design,
    facts: Mapping[str, ArrayLike],
    found: ArrayLike,
    clusters: ArrayLike,
    *,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> Surface:
    """The surface of a share.

    facts      coordinates by axis name, one value a row
    found      whether each row was found
    clusters   what is independent of one another, one name a row

    Raises DataError for coordinates that are missing or not known, and where all rows or none were found.
    """
    x, y = design.rows(facts), np.asarray(found, dtype=np.float64)
    if not 0 < y.sum() < len(y):
        raise DataError("surface", f"{int(y.sum())} of {len(y)} rows are found: there is no surface to fit")
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    fit = _Fit(x, y, design.penalties(), design.centred())
    effect = _design_effect(fit, cluster)
    spread, directions = np.linalg.eigh(effect * fit.covariance)
    normal = rng.normal(size=(draws, len(fit.beta))) * np.sqrt(np.maximum(spread, 0.0))
    sample = fit.beta + normal @ directions.T
    sample[:, : design.n_joint] = _monotone(design, sample[:, : design.n_joint], np.diag(fit.information))
    sd = _cluster_sd(fit, cluster)
    support = np.zeros([axis.splines - _DEGREE for axis in design.joint], dtype=np.int64)
    np.add.at(support, tuple(axis.span(facts[axis.name]) for axis in design.joint), 1)
    return Surface(design, sample, support, effect, sd, fit.stiffness, len(y), int(cluster.max()) + 1)


class _Fit:
    """Penalised logistic regression with the stiffness that the marginal likelihood wants."""

    def __init__(self, x: Matrix, y: Vector, penalties: Sequence[Matrix], centred: Matrix) -> None:
        self.x, self.y = x, y
        p = x.shape[1]
        lam = np.ones(len(penalties))
        self.beta = np.zeros(p)
        unit = len(y) / p
        base = unit * (_RIDGE * np.eye(p) + centred)
        for _ in range(_STEPS):
            total = base + sum(w * s for w, s in zip(lam, penalties, strict=True))
            self._newton(total)
            new = np.clip(_fellner_schall(lam, penalties, self.covariance, self.beta), 1e-4, _STIFFEST * unit)
            change = np.abs(np.log(new / lam)).max()
            lam = new
            if change < _ENOUGH:
                break
        self.stiffness = tuple(float(w) for w in lam)

    def _newton(self, penalty: Matrix) -> None:
        """The penalised maximum, by Newton's steps halved where they overshoot."""
        value = self._objective(self.beta, penalty)
        for _ in range(_STEPS):
            mu = expit(self.x @ self.beta)
            self.information = (self.x * (mu * (1 - mu))[:, None]).T @ self.x
            gradient = self.x.T @ (self.y - mu) - penalty @ self.beta
            factor = linalg.cho_factor(self.information + penalty)
            step, size = linalg.cho_solve(factor, gradient), 1.0
            while (new := self._objective(self.beta + size * step, penalty)) < value - 1e-12 and size > 1e-6:
                size /= 2
            self.beta = self.beta + size * step
            if new - value < 1e-8 * (1 + abs(value)):
                break
            value = new
        self.mu = expit(self.x @ self.beta)
        self.information = (self.x * (self.mu * (1 - self.mu))[:, None]).T @ self.x
        self.covariance = np.asarray(linalg.inv(self.information + penalty))

    def _objective(self, beta: Vector, penalty: Matrix) -> float:
        eta = self.x @ beta
        return float(self.y @ eta - np.logaddexp(0.0, eta).sum() - 0.5 * beta @ penalty @ beta)


def _fellner_schall(lam: Vector, penalties: Sequence[Matrix], covariance: Matrix, beta: Vector) -> Vector:
    """One step towards the stiffness of largest marginal likelihood."""
    inverse = np.linalg.pinv(
        sum(w * s for w, s in zip(lam, penalties, strict=True)), rcond=1e-10, hermitian=True
    )
    out = []
    for w, s in zip(lam, penalties, strict=True):
        gained = float(np.einsum("ij,ji->", inverse, s) - np.einsum("ij,ji->", covariance, s))
        out.append(w * max(gained, 1e-12) / max(float(beta @ s @ beta), 1e-12))
    return np.array(out)


def _design_effect(fit: _Fit, cluster: NDArray[np.intp]) -> float:
    """Mean variance of the fitted logits with clusters, over that with independent rows; at least 1."""
    scores = fit.x * (fit.y - fit.mu)[:, None]
    m = int(cluster.max()) + 1
    summed = np.zeros((m, fit.x.shape[1]))
    np.add.at(summed, cluster, scores)
    meat = summed.T @ summed * m / max(m - 1, 1)
    seen = fit.covariance @ (fit.x.T @ fit.x) @ fit.covariance
    with_clusters, without = np.einsum("ij,ji->", seen, meat), np.einsum("ij,ji->", seen, fit.information)
    return max(float(with_clusters / without), 1.0)


def _cluster_sd(fit: _Fit, cluster: NDArray[np.intp]) -> float:
    """Scatter of clusters in logit, by moments: what their residuals have beyond independent rows.

    Residuals of a fit are smaller than the rows' own errors by what the fit has taken up of them.
    """
    variance = fit.mu * (1 - fit.mu)
    summed = np.zeros((int(cluster.max()) + 1, fit.x.shape[1]))
    np.add.at(summed, cluster, fit.x * variance[:, None])
    taken_up = np.einsum("ij,jk,ik->i", summed, fit.covariance, summed)
    expected = np.bincount(cluster, weights=variance) - taken_up
    excess = np.bincount(cluster, weights=fit.y - fit.mu) ** 2 - expected
    lever = np.bincount(cluster, weights=variance) ** 2 - np.bincount(cluster, weights=variance**2)
    # One row alone tells nothing of what rows share: its leverage is zero.
    return float(np.sqrt(max(excess.sum() / lever.sum(), 0.0))) if lever.sum() > 0 else 0.0


def _monotone(design: Design, sample: Matrix, weights: Vector) -> Matrix:
    """Each draw moved to the nearest coefficients that do not fall along the axes that rise.

    Weighted by what the data say of each coefficient, so that a well measured one hardly moves.
    """
    shape = design.shape
    cube = sample.reshape(len(sample), *shape)
    weight = np.maximum(weights[: design.n_joint], 1e-3 * weights.max()).reshape(shape)
    for k, axis in enumerate(design.joint):
        if axis.rising:
            lines = np.moveaxis(cube, k + 1, -1)
            by = np.moveaxis(weight, k, -1)
            cube = np.moveaxis(_rising_lines(lines, np.broadcast_to(by, lines.shape)), -1, k + 1)
    return cube.reshape(sample.shape)


def _rising_lines(lines: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    out = lines.copy()
    falls = (np.diff(lines, axis=-1) < 0).any(axis=-1)
    for at in np.argwhere(falls):
        place = tuple(at)
        out[place] = isotonic_regression(lines[place], sample_weight=weights[place])
    return out
