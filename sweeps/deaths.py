"""What befell a trial: what ended attempts from outside, and what it survived. Rows of its ledger, from whoever saw it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from sr.ledger import Ledger, State, read_rows


def write_death(ledger: Ledger, problem: str) -> None:
    """Writes down why an attempt ends though the trial itself is not to blame."""
    status = ledger.status()
    row = {"kind": "problem", "step": last_step(ledger), "problem": problem, "ends_attempt": True}
    # The reason may be that the disk is full.
    with contextlib.suppress(OSError):
        ledger.repair_tail()
        ledger.append({"attempt": max(ledger.attempt, status.attempt), **row}, sync=True)


def record_failure(ledger: Ledger, cause: str) -> None:
    """Notes that the trial failed by its own fault; trying it again would only repeat it."""
    status = ledger.status()
    attempt = max(ledger.attempt, status.attempt)
    ledger.set_status(
        replace(status, state=State.FAILED, reason=cause, step=last_step(ledger), attempt=attempt)
    )


def last_step(ledger: Ledger) -> int:
    """The last step that is known of a trial, whatever became of it."""
    return max([row["step"] for row in ledger.rows("train")[-1:]] + [ledger.status().step])


def deaths(ledger: Ledger) -> list[str]:
    """What ended attempts of this trial, as far as somebody could tell, in order."""
    return [row["problem"] for row in _problems(ledger) if row.get("ends_attempt")]


def survived(ledger: Ledger) -> list[str]:
    """Problems that ended no attempt of this trial, in order: a damaged checkpoint, a full disk."""
    return [row["problem"] for row in _problems(ledger) if not row.get("ends_attempt")]


def _problems(ledger: Ledger) -> list[dict[str, Any]]:
    # Not by step, as the ledger tells rows: two may have happened at one.
    return [row for row in read_rows(ledger.folder / "metrics.jsonl") if row["kind"] == "problem"]
