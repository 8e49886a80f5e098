"""One vocabulary for pass and fail: a measured value against a bound that knows its direction.

Foundation checks, schema checks, gates and exit criteria are the same thing. A check that could not be
evaluated is NOT_EVALUATED, which never counts as a pass.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any, Literal, overload

from darkhaloscope.contracts.config import Frozen
from darkhaloscope.contracts.errors import CheckFailed


class Status(StrEnum):
    """What became of a check."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    FAIL = "FAIL"
    NOT_EVALUATED = "NOT_EVALUATED"


class Bound(Frozen):
    """A bound with its direction. `above` and `below` are strict; `inside` and `exactly` are closed."""

    direction: Literal["below", "above", "inside", "exactly"]
    low: float | None = None
    high: float | None = None

    def holds(self, value: float) -> bool:
        """Whether `value` is on the right side."""
        if self.direction == "below":
            return value < _known(self.high)
        if self.direction == "above":
            return value > _known(self.low)
        return _known(self.low) <= value <= _known(self.high)

    def __str__(self) -> str:
        if self.direction == "below":
            return f"below {self.high:g}"
        if self.direction == "above":
            return f"above {self.low:g}"
        if self.direction == "exactly":
            return f"exactly {self.low:g}"
        return f"within [{self.low:g}, {self.high:g}]"


def _known(limit: float | None) -> float:
    if limit is None:
        message = "a bound needs the limit that its direction names"
        raise ValueError(message)
    return limit


def below(high: float) -> Bound:
    """Strictly below `high`."""
    return Bound(direction="below", high=float(high))


def above(low: float) -> Bound:
    """Strictly above `low`."""
    return Bound(direction="above", low=float(low))


def inside(low: float, high: float) -> Bound:
    """Within the closed interval."""
    return Bound(direction="inside", low=float(low), high=float(high))


def exactly(value: float) -> Bound:
    """Equal to `value`: for counts, such as a number of leaks that must be zero."""
    return Bound(direction="exactly", low=float(value), high=float(value))


class Finding(Frozen):
    """One check's measured result."""

    name: str
    status: Status
    value: float | None
    interval: tuple[float, float] | None = None
    bound: Bound
    n: int | None = None
    n_clusters: int | None = None
    needs_n: int = 0
    decides: bool = True
    version: str = "v2"
    why: str = ""
    detail: str = ""
    examples: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True only for PASS: what was not evaluated has not passed."""
        return self.status is Status.PASS

    def __str__(self) -> str:
        head = f"{self.name} = {_shown(self.value)}"
        if self.interval is not None:
            head += f" [{self.interval[0]:.3g}, {self.interval[1]:.3g}]"
        size = f" (n={self.n})" if self.n is not None else ""
        if self.status is Status.NOT_EVALUATED:
            need = f", needs n={self.needs_n}" if self.needs_n else ""
            return f"{self.name}: NOT_EVALUATED{size}{need}{': ' + self.detail if self.detail else ''}"
        tail = f": {self.detail}" if self.detail else ""
        if self.examples:
            tail += f"; e.g. {', '.join(self.examples)}"
        verdict = "is" if self.passed else "must be"
        return f"{head}, {verdict} {self.bound}{size}{tail}"


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


class Check(Frozen):
    """What is measured, its bound, and why it matters.

    needs_n   rows (or pairs, as `why` says) below which the check is NOT_EVALUATED
    decides   whether a verdict may rest on it; the brief's v1 gates are reported and do not decide
    """

    name: str
    bound: Bound
    why: str = ""
    decides: bool = True
    version: str = "v2"
    needs_n: int = 0

    def measure(
        self,
        value: float | None,
        *,
        n: int | None = None,
        interval: tuple[float, float] | None = None,
        n_clusters: int | None = None,
        detail: str = "",
        examples: Sequence[str] = (),
    ) -> Finding:
        """Compare a value with the bound; too few rows, None or NaN are NOT_EVALUATED."""
        number = None if value is None or not math.isfinite(value) else float(value)
        status = Status.NOT_EVALUATED
        if number is not None and (n is None or n >= self.needs_n):
            status = Status.PASS if self.bound.holds(number) else Status.FAIL
        return Finding(
            name=self.name,
            status=status,
            value=number,
            interval=_finite(interval),
            bound=self.bound,
            n=None if n is None else int(n),
            n_clusters=None if n_clusters is None else int(n_clusters),
            needs_n=self.needs_n,
            decides=self.decides,
            version=self.version,
            why=self.why,
            detail=detail,
            examples=tuple(examples),
        )

    def not_evaluated(self, reason: str, *, n: int | None = None, needs_n: int = 0) -> Finding:
        """A finding for a check that could not be made, with the reason and the n it needs."""
        finding = self.measure(None, n=n, detail=reason)
        return finding.model_copy(update={"needs_n": needs_n or self.needs_n})


def _finite(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    if interval is None or not all(math.isfinite(edge) for edge in interval):
        return None
    return float(interval[0]), float(interval[1])


class Findings(Sequence[Finding]):
    """Findings, in order; adds up, filters, and raises for what failed."""

    def __init__(self, findings: Iterable[Finding] = ()) -> None:
        self._findings = tuple(findings)

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> "Findings": ...
    def __getitem__(self, index: int | slice) -> "Finding | Findings":
        if isinstance(index, slice):
            return Findings(self._findings[index])
        return self._findings[index]

    def __len__(self) -> int:
        return len(self._findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._findings)

    def __add__(self, other: Iterable[Finding]) -> "Findings":
        return Findings((*self._findings, *other))

    def named(self, name: str) -> Finding:
        """The finding called `name`; KeyError if there is none."""
        for finding in self._findings:
            if finding.name == name:
                return finding
        raise KeyError(name)

    @property
    def failed(self) -> "Findings":
        """Those that failed (not those that were not evaluated)."""
        return Findings(f for f in self if f.status is Status.FAIL)

    @property
    def not_evaluated(self) -> "Findings":
        """Those without a verdict."""
        return Findings(f for f in self if f.status is Status.NOT_EVALUATED)

    @property
    def deciding(self) -> "Findings":
        """Those a verdict may rest on."""
        return Findings(f for f in self if f.decides)

    @property
    def all_passed(self) -> bool:
        """Whether every one passed: an empty set and NOT_EVALUATED are not a pass."""
        return bool(self._findings) and all(f.passed for f in self)

    def raise_if_failed(self, error: type[CheckFailed] = CheckFailed) -> "Findings":
        """Raise `error` naming each deciding failure; return self when there is none."""
        failed = [str(f) for f in self if f.status is Status.FAIL and f.decides]
        if failed:
            raise error(failed)
        return self

    def to_json(self) -> list[dict[str, Any]]:
        """Plain data, in order."""
        return [finding.model_dump(mode="json") for finding in self]

    @classmethod
    def from_json(cls, rows: Iterable[dict[str, Any]]) -> "Findings":
        """The inverse of `to_json`."""
        return cls(Finding.model_validate(row, strict=False) for row in rows)
