"""How a trial stands, seen from outside: by its files, which may be written at this very moment, half written or missing."""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TRAIN, _VALIDATION, _ATTEMPT = b'"kind": "train"', b'"kind": "validation"', b'"kind": "attempt"'
_ENDED = ("finished", "stopped_early", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class TrialView:
    """How a trial stands."""

    number: int
    """From 1, as shown to people."""
    trial_id: str
    candidate: str
    settings: str
    state: str
    """As in the ledger (pending, running, finished, stopped_early, failed, cancelled), or interrupted: it has begun, has not
    ended, and nothing works on it or is about to."""
    reason: str
    """Why it ended, or why it waits."""
    step: int
    steps: int
    """0 where that is unknown."""
    attempt: int
    is_evaluated: bool
    rate: float | None
    """Steps per second of training, validations included, over the current attempt."""
    left_s: float | None
    """Estimate for one that runs."""
    best: float | None
    """Of the sweep's metric on the validation clips."""
    best_step: int | None
    where: str
    """What it is doing, of one that runs."""
    host: str
    """Where it runs or ran last."""
    silent_s: float | None
    """Since it last gave a sign of life."""

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.candidate} {self.settings}".rstrip()

    @property
    def has_ended(self) -> bool:
        """Whether it came to an end, good or bad."""
        return self.state in _ENDED


@dataclass(slots=True)
class _Progress:
    """What metrics.jsonl tells, read as it grows."""

    offset: int = 0
    first: bytes = b""
    """Rows of training of the latest attempt, as they stand in the file."""
    last: bytes = b""
    before: bytes = b""
    """The last row of training of any attempt."""
    best: tuple[float, int] | None = None


@dataclass(slots=True)
class Memory:
    """What need not be read again by somebody who looks again and again."""

    progress: dict[str, _Progress] = field(default_factory=dict)
    settings: dict[str, tuple[str, int, float | None]] = field(default_factory=dict)


def view_of(
    folder: Path,
    number: int,
    trial_id: str,
    candidate: str,
    variant: str,
    *,
    metric: str,
    goal: str,
    memory: Memory,
) -> TrialView:
    """How a trial stands by its own files.

    Args:
        folder: The sweep's.
        number: What people shall call it.
        trial_id: Its id.
        candidate: Its loss.
        variant: See `sweeps.spec.PlannedTrial`.
        metric: The sweep's, as rows of the ledger name it.
        goal: `maximize` or `minimize`.
        memory: Of earlier looks.
    """
    place = folder / "trials" / trial_id
    status = _json(place / "state.json")
    progress = memory.progress.setdefault(trial_id, _Progress())
    _read_on(progress, place / "metrics.jsonl", metric, 1 if goal == "maximize" else -1)
    seed, steps, cap_s = _from_config(place, trial_id, memory)
    beat = _json(place / "heartbeat")
    where = str(beat.get("where", ""))
    last = _row(progress.last or progress.before)
    step = max(int(status.get("step", 0)), int(last.get("step", 0)))
    # Rows are written now and then, the heartbeat at each step; those of a ladder's stages count by themselves.
    if found := re.match(r"step (\d+):", where):
        step = max(step, int(found[1]) - 1)
    attempt = int(status.get("attempt", 0))
    rate = _rate(_row(progress.first), _row(progress.last), attempt)
    state = str(status.get("state", "pending"))
    return TrialView(
        number=number,
        trial_id=trial_id,
        candidate=candidate,
        settings=", ".join(part for part in (variant, seed) if part),
        state=state,
        reason=str(status.get("reason", "")) if status else "its state.json is missing or cannot be read",
        step=step,
        steps=steps,
        attempt=attempt,
        is_evaluated=(place / "evaluation.jsonl").exists(),
        rate=rate,
        left_s=_trial_left(step, steps, rate, cap_s, float(last.get("seconds", 0.0))),
        best=progress.best[0] if progress.best else None,
        best_step=progress.best[1] if progress.best else None,
        where=where,
        host=str(beat.get("host", "")),
        silent_s=_age(place / "heartbeat"),
    )


def _read_on(progress: _Progress, path: Path, metric: str, sign: int) -> None:
    """Reads what has been added to metrics.jsonl since the last look; a line that is being written waits for the next."""
    try:
        with path.open("rb") as file:
            file.seek(progress.offset)
            text = file.read()
    except OSError:
        return
    whole = text[: text.rfind(b"\n") + 1]
    progress.offset += len(whole)
    # Hundreds of megabytes in all, perhaps: only lines that matter are taken out.
    began = whole.rfind(_ATTEMPT)
    if began >= 0:
        progress.first = progress.last = b""
    since = max(began, 0)
    progress.first = progress.first or _line_at(whole, whole.find(_TRAIN, since))
    progress.last = _line_at(whole, whole.rfind(_TRAIN, since)) or progress.last
    progress.before = _line_at(whole, whole.rfind(_TRAIN)) or progress.before
    place = whole.find(_VALIDATION)
    while place >= 0:
        row = _row(_line_at(whole, place))
        value = float(row.get(metric, math.nan))
        if math.isfinite(value) and (progress.best is None or sign * value > sign * progress.best[0]):
            progress.best = (value, int(row["step"]))
        place = whole.find(_VALIDATION, whole.find(b"\n", place))


def _line_at(text: bytes, place: int) -> bytes:
    """The line that holds this place; empty for a place that was not found."""
    return text[text.rfind(b"\n", 0, place) + 1 : text.find(b"\n", place)] if place >= 0 else b""


def _rate(first: dict[str, Any], last: dict[str, Any], attempt: int) -> float | None:
    """Of the rows of an attempt's training; in the first one it began at step 0."""
    if not last:
        return None
    steps, seconds = last["step"], last["seconds"]
    if attempt > 1 or first["step"] < last["step"]:
        steps, seconds = steps - first["step"], seconds - first["seconds"]
    return steps / seconds if steps > 0 and seconds > 0 else None


def _trial_left(
    step: int, steps: int, rate: float | None, cap_s: float | None, seconds: float
) -> float | None:
    if not rate or not steps:
        return None
    left = max(0.0, (steps - step) / rate)
    return left if cap_s is None else min(left, max(0.0, cap_s - seconds))


def _from_config(place: Path, trial_id: str, memory: Memory) -> tuple[str, int, float | None]:
    """Seed in words, steps, and wall-time cap, without the seconds that it takes to parse hundreds of YAML files."""
    if trial_id not in memory.settings:
        try:
            text = (place / "config.yaml").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return "", 0, None
        training = re.search(r"^training:\n((?:  .*\n)*)", text, re.MULTILINE)
        block = training[1] if training else ""
        seed = re.search(r"^seed: (\d+)$", text, re.MULTILINE)
        steps = re.search(r"^  steps: (\d+)$", block, re.MULTILINE)
        cap = re.search(r"^  max_seconds: ([\d.e+]+)$", block, re.MULTILINE)
        memory.settings[trial_id] = (
            f"seed={seed[1]}" if seed else "",
            int(steps[1]) if steps else 0,
            float(cap[1]) if cap else None,
        )
    return memory.settings[trial_id]


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line) if line else {}
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        return _row(path.read_bytes())
    except OSError:
        return {}


def _age(path: Path) -> float | None:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return None
