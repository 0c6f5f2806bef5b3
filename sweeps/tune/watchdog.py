"""Ends trials that do not move on, so that Tune starts them again from their checkpoints."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sr.ledger import Ledger
from sweeps.deaths import write_death
from sweeps.tune.cluster import end_process

LEAST_PATIENCE_S = 15.0
"""What the ranks of a trial are given beyond their own timeout to part by themselves."""


@dataclass
class _Watched:
    trial: Any
    """Tune's Trial."""
    beat: int
    """Time of the heartbeat file, as its file system has it."""
    since: float
    """When it was seen to change, on this machine's clock."""
    has_moved: bool = False


class Watchdog:
    """Watches the heartbeats of running trials, for as long as the block lasts.

    Args:
        trials_folder: Holds a folder per trial.
        timeout_s: How long the ranks of a trial wait for each other.
    """

    def __init__(self, trials_folder: Path, *, timeout_s: float) -> None:
        self._folder = trials_folder
        self._patience_s = max(1.5 * timeout_s, timeout_s + LEAST_PATIENCE_S)
        self._watched: dict[str, _Watched] = {}
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="srloss-watchdog", daemon=True)

    def began(self, trial: Any) -> None:  # noqa: ANN401 - Tune's Trial
        """A trial has begun, again perhaps."""
        name = trial.config["trial_id"]
        with self._lock:
            self._watched[name] = _Watched(trial, self._beat(name), time.monotonic())

    def over(self, trial: Any) -> None:  # noqa: ANN401
        """A trial is over, or will begin again."""
        with self._lock:
            self._watched.pop(trial.config["trial_id"], None)

    def _beat(self, name: str) -> int:
        try:
            return (self._folder / name / "heartbeat").stat().st_mtime_ns
        except OSError:
            return 0

    def _watch(self) -> None:
        while not self._is_over.wait(min(5.0, self._patience_s / 10)):
            with self._lock:
                late = [name for name, watched in self._watched.items() if self._is_late(name, watched)]
                for name in late:
                    del self._watched[name]
            for name in late:
                self._end(name)

    def _is_late(self, name: str, watched: _Watched) -> bool:
        now, beat = time.monotonic(), self._beat(name)
        # A paused trial has no process.
        if beat != watched.beat or watched.trial.status != "RUNNING":
            watched.has_moved = watched.has_moved or beat != watched.beat
            watched.beat, watched.since = beat, now
        # Before its first beat, the file is about a process of an earlier attempt.
        return watched.has_moved and now - watched.since > self._patience_s

    def _end(self, name: str) -> None:
        ledger = Ledger(self._folder / name)
        try:
            last = json.loads((ledger.folder / "heartbeat").read_text())
        except (OSError, json.JSONDecodeError):
            return
        write_death(
            ledger,
            f"rank 0 (process {last['pid']} on {last['host']}) has stood at '{last['where']}' for more than "
            f"{self._patience_s:.0f} s; its process was ended",
        )
        end_process(last["pid"], host=last["host"])

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
