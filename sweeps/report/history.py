"""What a trial's ledger tells of its course: validations, what it took, and what was done twice."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sr.ledger import Ledger, read_rows

_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Validation:
    """One validation, and what the trial had taken by then, work done twice counted once."""

    step: int
    samples: int
    seconds: float
    device_hours: float
    value: float
    """Of the sweep's metric."""


@dataclass(frozen=True, slots=True)
class History:
    """The course of one trial."""

    validations: tuple[Validation, ...]
    """By step; where an attempt repeated a step, the last one's."""
    device_hours: float
    """Ranks times wall seconds of training, validation and saving, of all attempts, as far as rows were written."""
    repeated: float
    """Of these, spent after the checkpoint from which a later attempt went on."""
    num_attempts: int
    memory_gb: float | None
    """The most that the first rank's process took; None where it was not recorded."""
    device_memory_gb: float | None
    """Likewise on its GPU."""

    @property
    def kept(self) -> float:
        """Device-hours without what was repeated."""
        return self.device_hours - self.repeated


@dataclass(slots=True)
class _Leg:
    """A stretch of the trial's own clock, which runs on from the checkpoint when an attempt begins."""

    began_s: float
    ended_s: float
    ranks: int


@dataclass(slots=True)
class _Course:
    """The trial's clock, put back where an attempt began at an earlier checkpoint."""

    legs: list[_Leg] = field(default_factory=list)
    points: list[tuple[int, float]] = field(default_factory=list)
    """Step and seconds of the rows that still hold, in order."""
    repeated: float = 0.0
    superseded: float = 0.0
    """Rank-seconds before the trial of a population went on from another one's checkpoint."""

    def kept(self) -> float:
        """Rank-seconds that led to where the trial is."""
        return self.superseded + sum((leg.ended_s - leg.began_s) * leg.ranks for leg in self.legs)

    def seconds_at(self, step: int) -> float:
        """When the checkpoint of a step was saved: at the row of that step, or between its neighbours."""
        place = bisect.bisect_left(self.points, (step, -1.0))
        before = self.points[place - 1] if place else (0, 0.0)
        if place == len(self.points):
            return before[1]
        after = self.points[place]
        share = (step - before[0]) / (after[0] - before[0]) if after[0] > before[0] else 1.0
        return before[1] + share * (after[1] - before[1])

    def begin(self, step: int, ranks: int) -> None:
        """An attempt goes on from the checkpoint of a step; what came after it has to be done again."""
        seconds = self.seconds_at(step) if step else 0.0
        while self.legs and self.legs[-1].ended_s > seconds:
            leg = self.legs[-1]
            self.repeated += (leg.ended_s - max(leg.began_s, seconds)) * leg.ranks
            leg.ended_s = max(leg.began_s, seconds)
            if leg.began_s >= seconds:
                self.legs.pop()
        self.points = [point for point in self.points if point[0] <= step]
        self.legs.append(_Leg(seconds, seconds, ranks))

    def take_over(self, step: int, seconds: float, ranks: int) -> None:
        """An attempt goes on from another trial's checkpoint, with that one's clock."""
        self.superseded = self.kept()
        self.points = [(step, seconds)]
        self.legs = [_Leg(seconds, seconds, ranks)]

    def see(self, step: int, seconds: float) -> None:
        """The trial was so far at that time."""
        self.points.append((step, seconds))
        self.legs[-1].ended_s = max(self.legs[-1].ended_s, seconds)


def read_history(
    ledger: Ledger, *, metric: str, ranks: int, donor: Callable[[str], Ledger] | None = None
) -> History:
    """Reads a trial's course from its ledger.

    Args:
        ledger: The trial's.
        metric: Key of the validation rows that is wanted.
        ranks: Of attempts that do not say how many they had.
        donor: Finds the ledger of a trial of the same population.
    """
    course = _Course()
    validations: dict[int, Validation] = {}
    memory: dict[str, float] = {}
    attempt, taken_over = 0, None
    for row in read_rows(ledger.folder / "metrics.jsonl"):
        kind = row["kind"]
        if kind == "perturbation":
            taken_over = row
        # Each stage of a ladder says anew how many ranks there are.
        if kind in ("attempt", "train", "validation") and row["attempt"] != attempt:
            attempt = row["attempt"]
            step = row["step"] if kind == "attempt" else max((p[0] for p in course.points), default=0)
            _begin(course, step, row.get("ranks", ranks), taken_over, metric, donor)
            taken_over = None
        if kind in ("train", "validation"):
            course.see(row["step"], row["seconds"])
        if kind == "validation":
            validations[row["step"]] = _validation(row, metric, course)
        for name in ("memory_gb", "device_memory_gb"):
            if name in row:
                memory[name] = max(memory.get(name, 0.0), row[name])
    status = ledger.status()
    if course.legs and status.attempt == attempt:
        course.legs[-1].ended_s = max(course.legs[-1].ended_s, status.seconds)
    return History(
        validations=tuple(validations[step] for step in sorted(validations)),
        device_hours=(course.kept() + course.repeated) / _HOUR_S,
        repeated=course.repeated / _HOUR_S,
        num_attempts=status.attempt,
        memory_gb=memory.get("memory_gb"),
        device_memory_gb=memory.get("device_memory_gb"),
    )


def _begin(
    course: _Course,
    step: int,
    ranks: int,
    taken_over: Mapping[str, Any] | None,
    metric: str,
    donor: Callable[[str], Ledger] | None,
) -> None:
    if taken_over is None or taken_over["step"] != step or donor is None:
        course.begin(step, ranks)
        return
    rows = donor(taken_over["from_trial"]).rows("validation")
    seconds = [row["seconds"] for row in rows if row["step"] == step and metric in row]
    course.take_over(step, seconds[0] if seconds else course.seconds_at(step), ranks)


def _validation(row: Mapping[str, Any], metric: str, course: _Course) -> Validation:
    return Validation(row["step"], row["samples"], row["seconds"], course.kept() / _HOUR_S, row[metric])
