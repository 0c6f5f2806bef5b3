"""What a sweep does next, where that depends on how things went: searches that learn, and populations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sr.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of a trial, done in one go."""

    trial_id: str
    until: int | None = None
    """It stops after the validation of this step, to be continued by another leg; None: it goes on to its end."""


class Agenda(Protocol):
    """Legs, given out one by one. What it knows it reads from the ledgers, so that it survives an interruption."""

    def next(self) -> Leg | None:
        """A leg to start now; None while that depends on legs that still run."""
        ...

    def is_over(self) -> bool:
        """Whether there is nothing more to start, whatever comes."""
        ...

    def ended(self, trial_id: str, *, is_dead: bool) -> None:
        """A leg of this trial is over; `is_dead`: since its processes died too often."""
        ...


def has_reached(ledger: Ledger, step: int) -> bool:
    """Whether a trial was validated at this step, and its checkpoint of it is on the disk."""
    from sr import checkpoint

    newest = checkpoint.newest_step(ledger.checkpoints)
    return newest >= step and any(row["step"] == step for row in ledger.rows("validation"))
