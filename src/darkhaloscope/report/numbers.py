"""Numbers as they are printed: rounded to their interval, never across a bound."""

import math
from collections.abc import Callable

from darkhaloscope.contracts.checks import Finding
from darkhaloscope.contracts.measured import Measured

MOST_DECIMALS = 8


def measured_text(measured: Measured) -> str:
    """``0.897 [0.873, 0.918] unit``."""
    text = quoted(measured.value, measured.low, measured.high)
    return f"{text} {measured.unit}".rstrip()


def finding_text(finding: Finding) -> str:
    """A finding's value with its interval, with enough digits to stay on its side of the bound."""
    low, high = finding.interval or (None, None)
    return quoted(finding.value, low, high, holds=finding.bound.holds)


def quoted(
    value: float | None,
    low: float | None,
    high: float | None,
    *,
    holds: Callable[[float], bool] | None = None,
) -> str:
    """A number with its interval, rounded to it.

    Half the interval keeps two digits when it begins with 1 to 3.5, else one (Particle Data Group),
    and its shorter arm at least one, so that 0.996 below 0.999 never becomes 1.00; without an interval three
    significant digits stay. `holds`: digits are added until the printed number answers as the number does.
    """
    if value is None:
        return "none"
    digits = _decimals(value, low, high)
    while (
        holds is not None and digits < MOST_DECIMALS and holds(float(f"{value:.{digits}f}")) != holds(value)
    ):
        digits += 1
    text = _fixed(value, digits)
    if low is not None and high is not None:
        text += f" [{_fixed(low, digits)}, {_fixed(high, digits)}]"
    return text


def _decimals(value: float, low: float | None, high: float | None) -> int:
    if low is None or high is None or low == high:
        whole = value == 0 or float(value).is_integer()
        return 0 if whole else _places(abs(value), 3)
    half = (high - low) / 2
    shorter = min((arm for arm in (abs(value - low), abs(high - value)) if arm > 0), default=half)
    leading = half / 10.0 ** math.floor(math.log10(half))
    return max(_places(half, 2 if leading < 3.55 else 1), _places(shorter, 1))


def _places(size: float, digits: int) -> int:
    """Decimals that show `digits` significant digits of `size`."""
    return min(max(digits - 1 - math.floor(math.log10(size)), 0), MOST_DECIMALS)


def _fixed(value: float, digits: int) -> str:
    text = f"{value:,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return text.replace("-", "\N{MINUS SIGN}") if float(f"{value:.{digits}f}") else text.lstrip("-")


def grouped(n: int) -> str:
    """A count with narrow spaces between its thousands."""
    return f"{n:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
