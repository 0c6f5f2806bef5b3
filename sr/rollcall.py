"""Knows, on every rank, how far the other ranks are and what went wrong where: the words for a rank that is missed.

Ranks wait for each other in collective operations. When one never comes, the others only learn that a connection broke
or that time is up. So each rank notes where it is, and a thread beside it tells the others once a second, through
the store that they met in.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

log = logging.getLogger(__name__)

BEAT_S = 1.0
SILENT_AFTER_S = 5.0
"""A rank whose thread has not been heard for so long has died, or is stopped as a whole."""
LEAVE_WITHIN_S = 20.0
"""How long a rank may stay in a collective operation once another has reported trouble; then its process ends."""


class RankLostError(RuntimeError):
    """Another rank died or does not answer. The trial itself is not to blame: it can be continued."""


class OtherRankFailedError(Exception):
    """Another rank ran into an error of its own, which this message repeats; it would do so again."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a rank says before it leaves."""

    rank: int
    text: str
    is_own_fault: bool
    """Whether the trial itself is to blame, rather than its surroundings."""


class RollCall:
    """One rank's view of the others.

    Args:
        address: Where the store is.
        port: Of the store.
        prefix: Of the names that this attempt uses in it.
        rank: Of this process.
        world_size: Number of ranks.
        timeout_s: How long a rank may stay at one place while others wait for it.
    """

    def __init__(
        self, address: str, port: int, *, prefix: str, rank: int, world_size: int, timeout_s: float
    ) -> None:
        # A connection of its own: that of the process group is held for as long as an operation waits.
        connection = dist.TCPStore(
            address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=10)
        )
        self._store = dist.PrefixStore(prefix, connection)
        self._rank = rank
        self._others = [other for other in range(world_size) if other != rank]
        self._timeout_s = timeout_s
        self._where = "starting"
        self._moves = 0
        self._beats = 0
        started = time.monotonic()
        self._heard = dict.fromkeys(self._others, started)
        self._moved = dict.fromkeys(self._others, started)
        self._last: dict[int, dict[str, object]] = {}
        self._is_left = threading.Event()
        self._store_is_gone = False
        self._thread = threading.Thread(target=self._serve, name="srloss-roll-call", daemon=True)
        self._thread.start()

    def at(self, where: str) -> None:
        """Notes where this rank is."""
        self._where = where
        self._moves += 1

    def tell(self, text: str, *, is_own_fault: bool) -> None:
        """Tells the others why this rank leaves."""
        try:
            self._store.set(f"trouble/{self._rank}", json.dumps([text, is_own_fault]))
        except Exception as error:  # noqa: BLE001 - whoever held the store is gone, so there is nobody to tell
            log.warning("rank %d could not tell the others why it leaves: %s", self._rank, error)

    def leave(self) -> None:
        """Ends the thread; this rank is no longer missed."""
        self._is_left.set()
        self._thread.join(timeout=15)

    def explain(self, error: Exception) -> Exception:
        """What to raise instead of an error of a collective operation: who is missing, since when, and why.

        Takes some seconds, in which others may yet tell why they left.
        """
        deadline = time.monotonic() + SILENT_AFTER_S + 2 * BEAT_S
        while time.monotonic() < deadline:
            told = self.told()
            if own := [trouble for trouble in told if trouble.is_own_fault]:
                return OtherRankFailedError(own[0].text)
            if told:
                return RankLostError(told[0].text)
            if self._store_is_gone or self._missing():
                break
            time.sleep(0.2)
        missing = self._missing()
        first_line = str(error).partition("\n")[0]
        return RankLostError("; ".join(missing) if missing else f"the ranks lost each other: {first_line}")

    def told(self) -> list[Trouble]:
        """What other ranks have said before they left."""
        if self._store_is_gone:
            return []
        found = []
        for rank in self._others:
            try:
                if self._store.check([f"trouble/{rank}"]):
                    found.append(Trouble(rank, *json.loads(self._store.get(f"trouble/{rank}"))))
            except Exception:  # noqa: BLE001 - the store went with its holder, rank 0
                self._store_is_gone = True
                break
        return found

    def _missing(self) -> list[str]:
        now = time.monotonic()
        if self._store_is_gone:
            return ["rank 0 is gone: its process ended, or its machine cannot be reached"]
        lines = []
        for rank in self._others:
            last = self._last.get(rank, {})
            where, process = last.get("where", "starting"), last.get("process", "a process never heard of")
            silent = now - self._heard[rank]
            if silent > SILENT_AFTER_S:
                lines.append(
                    f"rank {rank} ({process}) does not answer, not heard for {silent:.0f} s, last seen at: {where}"
                )
        if lines:
            return lines
        stuck = [rank for rank in self._others if now - self._moved[rank] > self._timeout_s * 0.9]
        behind = [rank for rank in stuck if self._last[rank]["moves"] != self._moves]
        return [
            f"rank {rank} ({self._last[rank]['process']}) has been at '{self._last[rank]['where']}' for "
            f"{now - self._moved[rank]:.0f} s, while this rank waited at '{self._where}'"
            for rank in behind or stuck
        ]

    def _serve(self) -> None:
        process = f"process {os.getpid()} on {os.uname().nodename}"
        troubled_since = None
        while not self._is_left.wait(BEAT_S):
            self._beats += 1
            beat = {"beat": self._beats, "moves": self._moves, "where": self._where, "process": process}
            if not self._store_is_gone:
                self._exchange(beat)
            if troubled_since is None and (self._store_is_gone or self.told()):
                troubled_since = time.monotonic()
            if troubled_since is not None and time.monotonic() - troubled_since > LEAVE_WITHIN_S:
                # The main thread is in an operation that nothing else can end, e.g. of NCCL.
                log.error("rank %d leaves: %s", self._rank, self.told() or "rank 0 is gone")
                logging.shutdown()
                os._exit(70)

    def _exchange(self, beat: dict[str, object]) -> None:
        try:
            self._store.set(f"beat/{self._rank}", json.dumps(beat))
            for rank in self._others:
                if self._store.check([f"beat/{rank}"]):
                    self._hear(rank, json.loads(self._store.get(f"beat/{rank}")))
        except Exception:  # noqa: BLE001 - the store went with its holder; the next collective operation tells
            self._store_is_gone = True

    def _hear(self, rank: int, beat: dict[str, object]) -> None:
        now = time.monotonic()
        last = self._last.get(rank, {})
        if beat["beat"] != last.get("beat"):
            self._heard[rank] = now
        if beat["moves"] != last.get("moves"):
            self._moved[rank] = now
        self._last[rank] = beat
