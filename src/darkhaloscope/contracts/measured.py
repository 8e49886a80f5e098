"""A number fit to be printed: with its interval, its n, its seeds and the manifests it came from.

Simulated, mock and real are different types. `HostDomain` says what the pixels of the galaxy are, `ArcDomain`
what the arc is; a real galaxy with a simulated arc says both. `nature` marks what a computer made to play
nature's part (mock anchors, mock contaminants, closed-loop tests): it is never reported as real.
"""

import re
from enum import StrEnum
from typing import Self

from pydantic import model_validator

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.config import Frozen


class HostDomain(StrEnum):
    """What the galaxy's pixels are."""

    REAL = "real"
    SIM = "sim"
    NATURE = "nature"
    MIXED = "mixed"


class ArcDomain(StrEnum):
    """What the arc is; `none` where there is no arc."""

    REAL = "real"
    SIM = "sim"
    NATURE = "nature"
    NONE = "none"


_REAL_NAME = re.compile(r"^(real|anchor)_")
_MOCK_NAME = re.compile(r"^mock_")


class Measured(Frozen):
    """One measured figure. A value without an interval or an n must say why in `detail`."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    method: str
    n: int
    n_clusters: int | None = None
    host_domain: HostDomain
    arc_domain: ArcDomain
    seeds: tuple[int, ...]
    manifests: tuple[str, ...]
    status: Status = Status.PASS
    detail: str = ""
    unit: str = ""

    @model_validator(mode="after")
    def _name_tells_the_domain(self) -> Self:
        if _REAL_NAME.match(self.name) and self.arc_domain is not ArcDomain.REAL:
            message = f"'{self.name}' names real lenses but its arcs are '{self.arc_domain}'"
            raise ValueError(message)
        if _MOCK_NAME.match(self.name) and ArcDomain.REAL is self.arc_domain:
            message = f"'{self.name}' names a mock but its arcs are real"
            raise ValueError(message)
        if self.status is Status.NOT_EVALUATED and not self.detail:
            message = f"'{self.name}' was not evaluated and must say why in `detail`"
            raise ValueError(message)
        if not self.manifests:
            message = f"'{self.name}' must name the manifest it came from"
            raise ValueError(message)
        return self
