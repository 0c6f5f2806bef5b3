"""Starts the ranks of a trial on this machine, watches them, and starts all again when one dies or none moves on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.machine import num_gpus, oom_kills
from sr.config import EngineConfig
from sr.ledger import Ledger
from sr.ranks import Place, free_port
from sr.rollcall import LEAVE_WITHIN_S, RankLostError
from sweeps.deaths import record_failure, write_death
from sweeps.interrupt import HEARD, Interruption
from sweeps.logs import last_lines
from sweeps.rank import OTHERS_FAILURE, OWN_FAILURE, Attempt, log_path

MAX_FAILURES = 3
_POLL_S = 0.1
_HEARD_WITHIN_S = 3.0
"""How long after one rank has given up others may tell what they know."""
_START_WITHIN_S = 180.0
"""How long the ranks may take to their first step at least, whatever the timeout."""
_TAIL_LINES = 8


class TrialFailedError(ValueError):
    """The trial failed by its own fault; trying again would not help."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an attempt did not come to its end."""

    text: str
    is_own_fault: bool = False


class RankProcess:
    """A rank that runs in a process of its own on this machine."""

    def __init__(self, folder: Path, place: Place, engine: EngineConfig, *, grace_s: float) -> None:
        self.rank = place.rank
        self._is_ended_by_us = False
        self.log_path = log_path(folder, place.rank)
        self._words, theirs = os.pipe()
        command = [sys.executable, "-P", "-m", "sweeps.rank", str(folder.absolute())]
        command += ["--place", json.dumps(asdict(place)), "--engine", engine.model_dump_json()]
        command += ["--grace-s", str(grace_s), "--supervisor", str(os.getpid()), "--words", str(theirs)]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)},
                stdin=subprocess.DEVNULL,
                stdout=None if place.rank == 0 else log,
                stderr=log,
                pass_fds=(theirs,),
                # Ctrl-C is for the supervisor, which hands it on.
                start_new_session=True,
            )
        os.close(theirs)
        os.set_blocking(self._words, False)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that killed it."""
        return self._process.poll()

    @property
    def was_killed(self) -> bool:
        """Whether a signal of somebody else ended it."""
        return self.exit_code is not None and self.exit_code < 0 and not self._is_ended_by_us

    def ask(self, number: signal.Signals) -> None:
        """Hands a request to stop on."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends it, with all that it has started, if it has not ended."""
        if self._process.poll() is None:
            self._is_ended_by_us = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """Ends it and forgets it."""
        self.kill()
        os.close(self._words)

    def words(self) -> str:
        """Why it gave up, as it said itself; for one that was killed or said nothing, what can be seen from outside."""
        with contextlib.suppress(BlockingIOError):
            if said := os.read(self._words, 65536):
                return said.decode(errors="replace")
        code = self.exit_code
        assert code is not None
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"rank {self.rank} (process {self._process.pid}) {how}"

    def tail(self) -> str:
        """The end of its log."""
        lines = last_lines(self.log_path, _TAIL_LINES).splitlines()
        return (
            "\n".join(["", f"  {self.log_path} ends with:", *(f"    {line}" for line in lines)])
            if lines
            else ""
        )


def supervise(
    folder: Path,
    *,
    engine: EngineConfig,
    max_failures: int,
    grace_s: float,
    interruption: Interruption,
    say: Callable[[str], None],
) -> Attempt:
    """Trains the trial in a folder on `engine.ranks` processes of this machine.

    Args:
        folder: The trial's, already created.
        engine: How it is computed.
        max_failures: How often all ranks are started again after one died or all stood still.
        grace_s: How long ranks may take to save and end when asked to.
        interruption: Who asks.
        say: Told, in lines for a person, what went wrong and is tried again.

    Raises:
        ValueError: There are fewer GPUs than ranks; or, as TrialFailedError, the trial failed by its own fault.
        RankLostError: It could not be brought to its end within `max_failures`.
    """
    _check_gpus(engine)
    ledger = Ledger(folder)
    failures = 0
    while not ledger.status().is_over:
        problem = _attempt(folder, engine, grace_s, interruption)
        if interruption.signal is not None:
            break
        if problem is None:
            continue
        if problem.is_own_fault:
            record_failure(ledger, problem.text)
            raise TrialFailedError(problem.text)
        failures += 1
        write_death(ledger, problem.text)
        if failures > max_failures:
            raise RankLostError(f"{problem.text}\ngiven up after {failures} failures")
        say(
            f"{problem.text}\n  all ranks are started again from the last checkpoint ({failures} of {max_failures})"
        )
    return Attempt(ledger.status(), "" if ledger.status().is_over else interruption.reason())


def _check_gpus(engine: EngineConfig) -> None:
    gpus = num_gpus()
    if engine.ranks > gpus and (engine.device == "cuda" or (engine.device == "auto" and gpus)):
        raise ValueError(
            f"engine.ranks: {engine.ranks} ranks need a GPU each, and this machine shows {gpus}; set engine.ranks={max(1, gpus)}, "
            "or engine.device=cpu"
        )


def _attempt(
    folder: Path, engine: EngineConfig, grace_s: float, interruption: Interruption
) -> Problem | None:
    """One attempt; None where all ranks came to their end."""
    kills = oom_kills()
    with _ranks(folder, engine, grace_s) as ranks:
        silence = _watch(ranks, Heartbeat(folder, engine.timeout_s), interruption)
        culprits = [rank for rank in ranks if rank.was_killed]
        if silence or all(rank.exit_code == 0 for rank in ranks):
            return Problem(silence) if silence else None
        if culprits:
            likely = (
                ", likely out of memory: the kernel has just killed processes for it"
                if oom_kills() > kills
                else ""
            )
            return Problem("".join(f"{rank.words()}{likely}{rank.tail()}" for rank in culprits))
        # Whose fault it was knows better than who only heard of it.
        for code in (OWN_FAILURE, OTHERS_FAILURE):
            for rank in ranks:
                if rank.exit_code == code:
                    text = rank.words()
                    named = (
                        text if text.startswith("rank ") or engine.ranks == 1 else f"rank {rank.rank}: {text}"
                    )
                    return Problem(f"{named}\nlog: {rank.log_path}", is_own_fault=True)
        ended = [rank for rank in ranks if rank.exit_code and rank.exit_code > 0]
        return Problem("\n".join(dict.fromkeys(rank.words() for rank in ended)))


@contextmanager
def _ranks(folder: Path, engine: EngineConfig, grace_s: float) -> Iterator[list[RankProcess]]:
    """All ranks, started; ended when the block is left."""
    port = free_port()
    ranks: list[RankProcess] = []
    held_back = set(HEARD)
    try:
        # They inherit it, so that no request finds a process that does not listen yet.
        signal.pthread_sigmask(signal.SIG_BLOCK, held_back)
        try:
            for rank in range(engine.ranks):
                place = Place(rank, engine.ranks, rank, "127.0.0.1", port)
                ranks.append(RankProcess(folder, place, engine, grace_s=grace_s))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, held_back)
        yield ranks
    finally:
        for rank in ranks:
            rank.close()


def _watch(ranks: list[RankProcess], heartbeat: Heartbeat, interruption: Interruption) -> str:
    """Waits until all ranks have ended, ending the others soon after one has died; why, if they stood still instead."""
    deadline: float | None = None
    is_asked = False
    while any(rank.exit_code is None for rank in ranks):
        time.sleep(_POLL_S)
        if interruption.signal is not None and not is_asked:
            is_asked = True
            for rank in ranks:
                rank.ask(interruption.signal)
        ended_badly = [rank for rank in ranks if rank.exit_code]
        if ended_badly and deadline is None:
            is_fault = any(rank.exit_code == OWN_FAILURE for rank in ended_badly)
            patience = LEAVE_WITHIN_S if is_fault or is_asked else _HEARD_WITHIN_S
            deadline = time.monotonic() + patience
        is_dead = any(rank.was_killed for rank in ended_badly) and not is_asked
        if is_dead or (deadline is not None and time.monotonic() > deadline):
            break
        if not is_asked and not ended_badly and (silence := heartbeat.silence()):
            return silence
    for rank in ranks:
        rank.kill()
    return ""


class Heartbeat:
    """Sees whether a trial moves on."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self._path = folder / "heartbeat"
        # Ranks wait for each other for that long, and then say more about it than can be seen from here.
        self._timeout_s = timeout_s * 1.5
        self._started = time.time()

    def silence(self) -> str:
        """Since when the trial has stood still, and where; empty as long as that is not long."""
        try:
            beat = self._path.stat().st_mtime
        except OSError:
            beat = 0.0
        has_begun = beat > self._started
        allowed = self._timeout_s if has_begun else max(self._timeout_s, _START_WITHIN_S)
        seconds = time.time() - max(beat, self._started)
        if seconds <= allowed:
            return ""
        where = "starting"
        with contextlib.suppress(OSError, ValueError):
            where = json.loads(self._path.read_text())["where"] if has_begun else where
        return f"the trial has not moved for {seconds:.0f} s; rank 0 was last seen at: {where}"
