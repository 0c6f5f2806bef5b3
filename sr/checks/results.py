"""What a check says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

T = TypeVar("T")

Verdict = Literal["pass", "fail", "not applicable", "not run"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one check found."""

    verdict: Verdict
    meaning: str
    """One line for people: what the numbers say, or why there are none."""
    measured: Mapping[str, float] = field(default_factory=dict)
    """The numbers behind the verdict, by name."""


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one check on one loss or metric."""

    check: str
    verdict: Verdict
    meaning: str
    measured: Mapping[str, float]


def judged(good: bool, meaning: str, **measured: float) -> Outcome:
    """Pass or fail."""
    return Outcome("pass" if good else "fail", meaning, measured)


def not_applicable(reason: str) -> Outcome:
    """The check has no meaning for this loss."""
    return Outcome("not applicable", reason)


def not_run(reason: str) -> Outcome:
    """The check has a meaning, but could not be made."""
    return Outcome("not run", reason)


def run_table(
    checks: Mapping[str, Callable[[T], Outcome]], subject: T, exempt: Mapping[str, str]
) -> list[Result]:
    """Runs every check of a table. A check that the loss is exempt from, or that raises, says so and why."""
    results = []
    for name, check in checks.items():
        if name in exempt:
            outcome = not_applicable(exempt[name])
        else:
            try:
                outcome = check(subject)
            except Exception as error:  # noqa: BLE001 - it is reported as the verdict, and the other checks go on
                outcome = Outcome("fail", f"raised {type(error).__name__}: {error}")
        results.append(Result(name, outcome.verdict, outcome.meaning, outcome.measured))
    return results
