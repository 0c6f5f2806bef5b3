"""Numbers as a reader wants to see them: fixed decimals, a real minus sign, no `nan` where nothing was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeGuard

from sweeps.report.data import Estimate

MINUS = "\u2212"
MISSING = "\u2013"
NARROW_SPACE = "\u202f"


def is_finite(value: float | None) -> TypeGuard[float]:
    """Whether there is a number, and one that can be drawn."""
    return value is not None and math.isfinite(value)


def is_usable(estimate: Estimate | None) -> TypeGuard[Estimate]:
    """Whether mean and both ends can be drawn."""
    return estimate is not None and all(map(math.isfinite, (estimate.mean, estimate.low, estimate.high)))


def number(value: float | None, decimals: int) -> str:
    """`28.41`, `\u22120.20`, `12 400`; `\u2013` for None, `NaN` and `\u221e` by name."""
    if value is None:
        return MISSING
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "\u221e" if value > 0 else f"{MINUS}\u221e"
    grouping = "," if abs(value) >= 10_000 else ""
    return f"{value or 0.0:{grouping}.{decimals}f}".replace("-", MINUS).replace(",", NARROW_SPACE)


def exact(value: float | None) -> str:
    """What a column is sorted by; empty where there is nothing to sort."""
    return f"{value:.8g}" if is_finite(value) else ""


def signed(value: float | None, decimals: int) -> str:
    """Like `number`, with an explicit sign unless the value is zero or missing."""
    text = number(value, decimals)
    return f"+{text}" if value is not None and value > 0 else text


def interval(estimate: Estimate, decimals: int) -> str:
    """Both ends with their signs: `[+0.31, +0.53]`."""
    return f"[{signed(estimate.low, decimals)}, {signed(estimate.high, decimals)}]"


def p_value(p: float | None) -> str:
    """`p = 0.012`, `p < 0.001`, or `p n/a` where it cannot be computed."""
    if not is_finite(p):
        return "p n/a"
    if p < 0.001:
        return "p < 0.001"
    # As the verdict and srloss compare round it.
    return f"p = {p:.2g}"


def with_unit(text: str, unit: str) -> str:
    """The number and its unit, never parted by a line break."""
    return f"{text}\u00a0{unit}" if unit else text


def duration(seconds: float) -> str:
    """Seconds in words: `48 s`, `12 min`, `3 h 05 min`."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass(frozen=True, slots=True)
class DeviceUnit:
    """In what device time is told."""

    word: str
    short: str
    per_hour: float

    def number(self, hours: float | None) -> str:
        """So many device-hours in this unit."""
        if hours is None:
            return MISSING
        value = hours * self.per_hour
        return "0" if value == 0 else number(value, 2 if abs(value) < 10 else 1)


def device_unit(largest_hours: float) -> DeviceUnit:
    """Hours, or what small sweeps need: the unit in which the largest of some times is at least 1."""
    if largest_hours >= 1:
        return DeviceUnit("device-hours", "device-h", 1.0)
    if largest_hours * 60 >= 1:
        return DeviceUnit("device-minutes", "device-min", 60.0)
    return DeviceUnit("device-seconds", "device-s", 3600.0)


def column_decimals(values: list[float | None]) -> int:
    """Decimals for a column of seconds or rates, so that its numbers line up."""
    largest = max((abs(value) for value in values if is_finite(value)), default=0.0)
    return 0 if largest >= 100 else 1
