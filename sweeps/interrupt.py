"""Requests to stop: signals heard by the process that a person or a scheduler knows, and handed on to its trials.

SIGTERM, SIGUSR1 and SIGUSR2 (what clusters send before the time is up), and SIGINT (Ctrl-C), ask for a checkpoint and an
end. Whoever is asked goes on to the next safe point and ends by itself; after the grace period its process ends anyway.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.requeue import requeued

GRACE_S = 30.0
"""How long after the first signal the process ends anyway, unless told otherwise; SLURM's default KillWait is as long."""
HEARD = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
_POLL_S = 1.0


class Interruption:
    """What signals have asked of this process. Made by `listening`."""

    def __init__(self, grace_s: float) -> None:
        self.signal: signal.Signals | None = None
        """The first one heard."""
        self.grace_s = grace_s
        """How long after the first signal the process ends anyway."""
        self._deadline = 0.0
        self._what_is_lost: str | None = None
        self._callbacks: list[Callable[[str], None]] = []
        self._elsewhere: Callable[[], str] = str
        self._lock = threading.Lock()

    def reason(self) -> str:
        """Name of the signal that asks to stop, or who else does; empty where nobody does. Can be a trial's `stop`."""
        return self._elsewhere() if self.signal is None else self.signal.name

    def heed(self, elsewhere: Callable[[], str]) -> None:
        """Has this asked as well, from now on, wherever it is asked for the reason to stop."""
        self._elsewhere = elsewhere

    @property
    def exit_code(self) -> int:
        """What a process ends with that was asked to stop: 130 after Ctrl-C, else 143."""
        return exit_code_for(self.reason())

    @property
    def seconds_left(self) -> float:
        """Of the grace period; only once a signal was heard."""
        return self._deadline - time.monotonic()

    def tell(self, callback: Callable[[str], None]) -> None:
        """Calls back with the reason when a signal is heard, from another thread; at once if one was already."""
        with self._lock:
            self._callbacks.append(callback)
            reason = self.reason()
        if reason:
            callback(reason)

    @contextmanager
    def at_once(self, consequence: str) -> Iterator[None]:
        """In the block a signal ends the process at once, saying this: there is nothing to save."""
        self._what_is_lost = consequence
        try:
            # Heard before: whoever got so far had better not begin.
            if self.signal is not None:
                self._end_with(consequence)
            yield
        finally:
            self._what_is_lost = None

    def _listen(self, pipe: int) -> None:
        """Runs in a thread of its own, since the main thread may be in an operation that heeds no signals."""
        while True:
            left = None if self.signal is None else max(0.0, self.seconds_left)
            if not select.select([pipe], [], [], left)[0]:
                self._end(
                    f"not done within the {self.grace_s:g} s of grace after {self.reason()}; ended anyway"
                )
            numbers = os.read(pipe, 64)
            if not numbers:
                return
            for number in numbers:
                if number in HEARD:
                    self._hear(signal.Signals(number))

    def _hear(self, heard: signal.Signals) -> None:
        if self.signal is not None:
            if heard is signal.SIGINT:
                self._end("interrupted twice; ended at once")
            return
        with self._lock:
            self._deadline = time.monotonic() + self.grace_s
            self.signal = heard
            callbacks = list(self._callbacks)
        if self._what_is_lost is not None:
            self._end_with(self._what_is_lost)
        for callback in callbacks:
            try:
                callback(self.reason())
            except OSError as error:
                sys.stderr.write(f"warning: {self.reason()} could not be handed on: {error}\n")

    def _end_with(self, consequence: str) -> None:
        # Said before: to requeue a job is to end this process.
        sys.stderr.write(f"interrupted by {self.reason()}; {consequence}\n")
        sys.stderr.flush()
        self._end(requeued(self.reason()))

    def _end(self, why: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.write(f"{why}\n" if why else "")
            sys.stderr.flush()
            logging.shutdown()
        os._exit(self.exit_code)


def exit_code_for(reason: str) -> int:
    """130 where a trial or sweep was stopped by Ctrl-C, 143 by any other request."""
    return 130 if reason == signal.SIGINT.name else 143


_current: Interruption | None = None


@contextmanager
def listening(*, grace_s: float = GRACE_S) -> Iterator[Interruption]:
    """Hears signals for as long as the block lasts; a block within another one shares what that hears.

    To be entered in the main thread, which alone may install handlers.

    Args:
        grace_s: How long after the first signal the process ends anyway. The outermost block decides.
    """
    global _current
    if _current is not None:
        hear_again()
        yield _current
        return
    interruption = Interruption(grace_s)
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    old_handlers = {number: signal.signal(number, _do_nothing) for number in HEARD}
    old_pipe = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    _forget_in_forks()
    thread = threading.Thread(target=interruption._listen, args=(ours,), name="srloss-signals", daemon=True)
    _current = interruption
    thread.start()
    try:
        yield interruption
    finally:
        _current = None
        signal.set_wakeup_fd(old_pipe)
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
        os.close(theirs)
        thread.join()
        os.close(ours)


def hear_again() -> None:
    """Puts the handlers in their place again where a library has put its own; nothing happens where nobody listens."""
    if _current is not None:
        for number in HEARD:
            signal.signal(number, _do_nothing)


def _do_nothing(*_: object) -> None:
    """Python writes a signal's number into the pipe before it would call this."""


@functools.cache
def _forget_in_forks() -> None:
    os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    """A forked child inherits handlers and pipe, but what it is sent is not meant for its parent."""
    global _current
    if _current is not None:
        _current = None
        signal.set_wakeup_fd(-1)
        for number in HEARD:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


class StopFile:
    """How a sweep's driver asks trials in other processes, perhaps on other machines, to stop: a file in its folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder.absolute() / "stop"
        self._looked = -_POLL_S
        self._reason = ""

    def __reduce__(self) -> tuple[type[StopFile], tuple[Path]]:
        # The clock of another machine is another one.
        return StopFile, (self._path.parent,)

    def write(self, reason: str) -> None:
        """Asks all trials to stop, for this reason."""
        # Imported late: whoever only listens does so before the rest of the program is there.
        from sr.files import write_atomically

        # First for whoever asks this very object: it must not learn of it later than the trials do.
        self._reason = reason
        write_atomically(self._path, reason.encode())

    def clear(self) -> None:
        """Takes the request back; what an earlier run was asked does not count for this one."""
        self._path.unlink(missing_ok=True)
        self._reason = ""

    def reason(self) -> str:
        """Why trials shall stop; empty where they shall not. Looks at most once a second."""
        now = time.monotonic()
        if not self._reason and now - self._looked >= _POLL_S:
            self._looked = now
            with contextlib.suppress(OSError):
                self._reason = self._path.read_text()
        return self._reason
