"""What a review finds: one issue in the brief's form, worth reading on its own."""

from enum import StrEnum

from pydantic import Field

from darkhaloscope.contracts.config import Frozen


class Category(StrEnum):
    """The brief's four kinds of issue."""

    BUG = "bug"
    INCONSISTENCY = "inconsistency"
    ERROR_HANDLING = "error handling"
    SCIENCE = "science"


class Severity(StrEnum):
    """How much an issue matters, worst first."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 for the worst: issues are listed in this order."""
        return list(Severity).index(self)


class Issue(Frozen):
    """One issue.

    rule         the finding or the code rule that raised it, e.g. ``pair_finite`` or ``F811``
    title        a short description, no full stop
    file         file, dataset or table it was found in
    lines        "12-14" of a file, or the keys of the first rows
    problem      what is wrong and what follows from it
    current      the code as it stands, or the value that was measured
    fixed        the code as it should be, or the command to run
    explanation  why the fix is right
    """

    rule: str
    category: Category = Field(strict=False)
    severity: Severity = Field(strict=False)
    title: str
    file: str
    lines: str = ""
    problem: str
    current: str = ""
    fixed: str
    explanation: str
