"""A value that a loss must give."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Known:
    """One value and what it must be."""

    what: str
    got: float
    expected: float
    tolerance: float = 1e-5
    """Relative."""
