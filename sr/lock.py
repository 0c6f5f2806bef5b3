"""One writer at a time for a folder: a second one waits, and then says who is in the way.

The folder may be shared by machines: network file systems often have no locks, but all make a name only once.

    FOLDER/.lease/00000012.json   who holds the folder: the process that made the highest number (`sr.holder`)

Whoever wants the folder makes the next number, which only one can. The holder touches its file every few seconds, and cuts
it to one byte when it is done. It is taken over at once where its process is known to be dead (a process of this machine, or
a SLURM job that was requeued), else when its file was not touched for STALE_S. One that was only paused or cut off notices
that its file is gone when it goes on, and ends itself: somebody else writes there now.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sr.holder import Holder, parse_holder, this_process

BEAT_S = 5.0
"""How often a holder touches its file."""
STALE_S = 45.0
"""A holder elsewhere that did not for so long is taken for dead. A file server that is restarted takes less, mostly."""
LOST = 75
"""Exit code of a process whose folder was taken over; EX_TEMPFAIL of sysexits.h: try again."""
_POLL_S = 0.1
_TELL_AFTER_S = 1.0
_LEFTOVER_S = 3600.0
_RELEASED = b"{"
"""A record's first byte: to cut a file needs no room on the disk, and an empty one is only just being made."""
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_GONE = (errno.ENOENT, errno.ESTALE)
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Lease:
    """A folder that this process holds."""

    folder: Path
    what: str
    number: int
    pid: int = field(default_factory=os.getpid)
    is_released: bool = False
    guard: threading.Lock = field(default_factory=threading.Lock)
    """Held while it is renewed or released, so that neither sees half of the other."""


class _Seen(NamedTuple):
    """What stands in a folder."""

    number: int
    holder: Holder | None
    """None: the next number may be made."""
    beat: int
    """When the file was touched last, in ns of whatever clock."""


@contextmanager
def exclusive(folder: Path, *, timeout_s: float, what: str) -> Iterator[None]:
    """Holds the folder for the block. However its holder dies, it is free again: see above.

    Args:
        folder: An existing folder; a folder `.lease` is made in it.
        timeout_s: How long to wait for another holder. A killed driver's trials take a few seconds to die. Longer, up to
            STALE_S, where only that can show whether the holder, on another machine, is alive.
        what: What is being done, for the message.

    Raises:
        ValueError: Another process held it all that time.
        OSError: The folder cannot be written.
    """
    try:
        lease = _acquire(folder, timeout_s, what)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{folder}: cannot be reserved for writing ({error.strerror}); make room, or check who may write there",
        ) from error
    try:
        _renewers.setdefault(os.getpid(), _Renewer()).add(lease)
        yield
    finally:
        # A fork of the holder comes by here too, and holds nothing.
        if lease.pid == os.getpid():
            _release(lease)


def holder(folder: Path) -> Holder | None:
    """The living process that holds the folder, if there is one."""
    place = folder / ".lease"
    try:
        seen = _look(place)
    except OSError:
        return None
    if seen.holder is None:
        return None
    alive = seen.holder.is_alive(this_process())
    return seen.holder if (_is_fresh(place, seen.beat) if alive is None else alive) else None


def is_held(folder: Path) -> bool:
    """Whether a living process holds the folder."""
    return holder(folder) is not None


def _acquire(folder: Path, timeout_s: float, what: str) -> _Lease:
    place = folder / ".lease"
    place.mkdir(exist_ok=True)
    me = this_process()
    watch = _Watch(me)
    began = time.monotonic()
    is_told = False
    while True:
        seen = _look(place)
        if seen.holder is None or watch.is_dead(seen, seen.holder):
            if _make(place, seen.number + 1, me.to_bytes()):
                return _Lease(folder, what, seen.number + 1)
            continue
        waited = time.monotonic() - began
        if waited > timeout_s and watch.is_sure:
            raise ValueError(
                f"{folder}: {what} by {seen.holder} already; wait for it to end, or stop it first"
            )
        if waited > _TELL_AFTER_S and not is_told:
            is_told = True
            until = (
                f"for up to {timeout_s:.0f} s" if watch.is_sure else f"or to be silent for {STALE_S:.0f} s"
            )
            log.warning("%s: %s by %s; waiting for it to end, %s", folder, what, seen.holder, until)
        time.sleep(_POLL_S)


class _Watch:
    """What a waiting process has seen of the holders. Only its own clock counts: those of machines differ."""

    def __init__(self, me: Holder) -> None:
        self._me = me
        self._last: tuple[int, int] | None = None
        self._looked = 0.0
        self._silent_s = 0.0
        self.is_sure = False
        """Whether the holder is known to live, rather than not known to be dead."""

    def is_dead(self, seen: _Seen, holder: Holder) -> bool:
        """To be asked again and again."""
        alive = holder.is_alive(self._me)
        if alive is not None:
            self.is_sure = True
            return not alive
        now = time.monotonic()
        if self._last != (seen.number, seen.beat):
            self.is_sure = self._last is not None
            self._last = (seen.number, seen.beat)
            self._silent_s = 0.0
        else:
            # Where this process, or the file server for both, was stopped meanwhile, nothing was observed.
            self._silent_s += min(now - self._looked, 10 * _POLL_S)
        self._looked = now
        return self._silent_s > STALE_S


def _look(place: Path) -> _Seen:
    number = max(_numbers(place), default=0)
    if not number:
        return _Seen(0, None, 0)
    try:
        # Opened rather than asked for its attributes: only that makes a client of NFS ask the server.
        with _path(place, number).open("rb") as file:
            content = file.read()
            beat = os.fstat(file.fileno()).st_mtime_ns
    except OSError as error:
        if error.errno not in _GONE:
            raise
        # Somebody has made the next number since the folder was listed; who tries to make it as well finds out.
        return _Seen(number, None, 0)
    return _Seen(number, None if content == _RELEASED else parse_holder(content), beat)


def _make(place: Path, number: int, record: bytes) -> bool:
    """Makes a number; False where another process was faster."""
    path = _path(place, number)
    temporary = place / f".{os.getpid()}-{os.urandom(8).hex()}.tmp"
    try:
        temporary.write_bytes(record)
        _publish(temporary, path, record)
    except FileExistsError:
        # A request that a server of NFS has answered, but the answer was lost, is made a second time.
        with contextlib.suppress(OSError):
            return path.read_bytes() == record
        return False
    finally:
        temporary.unlink(missing_ok=True)
    # Numbers are given again once the ones behind them are deleted: this list, which no client of NFS has kept since it
    # has itself changed the folder, shows whether the one that was read before was old. The highest is never deleted.
    if max(_numbers(place), default=0) > number:
        path.unlink(missing_ok=True)
        return False
    _tidy(place, number)
    return True


def _publish(temporary: Path, path: Path, record: bytes) -> None:
    """Gives a finished file its name, if nobody has it yet; raises FileExistsError."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A stick with exFAT, for example. Until it is written, the file is empty, and taken for somebody's.
        with path.open("xb") as file:
            file.write(record)


def _tidy(place: Path, number: int) -> None:
    """Deletes what earlier holders, and killed processes, have left; whoever still believes to hold one notices."""
    for path in place.iterdir():
        with contextlib.suppress(OSError):
            if path.suffix == ".tmp":
                age_s = _path(place, number).stat().st_mtime - path.stat().st_mtime
                if age_s > _LEFTOVER_S:
                    path.unlink()
            elif path.suffix == ".json" and path.stem.isdecimal() and int(path.stem) < number:
                path.unlink()


def _numbers(place: Path) -> list[int]:
    try:
        return [
            int(path.stem) for path in place.iterdir() if path.suffix == ".json" and path.stem.isdecimal()
        ]
    except FileNotFoundError:
        return []


def _path(place: Path, number: int) -> Path:
    return place / f"{number:08}.json"


def _release(lease: _Lease) -> None:
    with lease.guard:
        lease.is_released = True
        # It may be lost, or the place out of reach: then it is taken over.
        with contextlib.suppress(OSError):
            os.truncate(_path(lease.folder / ".lease", lease.number), len(_RELEASED))


class _Renewer:
    """A thread that touches the files of all leases of a process while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: list[_Lease] = []
        self._thread: threading.Thread | None = None

    def add(self, lease: _Lease) -> None:
        with self._lock:
            self._leases.append(lease)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="srloss-leases", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(BEAT_S)
            with self._lock:
                self._leases = [lease for lease in self._leases if not lease.is_released]
                leases = list(self._leases)
                if not leases:
                    self._thread = None
                    return
            for lease in leases:
                with lease.guard:
                    if not lease.is_released and not _renewed(lease):
                        _end(lease)


_renewers: dict[int, _Renewer] = {}
"""By process: a fork has no thread of its parent's, and nothing to renew."""


def _renewed(lease: _Lease) -> bool:
    """Touches a lease's file; False where somebody else has the folder."""
    place = lease.folder / ".lease"
    try:
        # To open it asks the server of NFS; a list of the folder may be older.
        with _path(place, lease.number).open("rb") as file:
            os.utime(file.fileno())
        return max(_numbers(place), default=0) == lease.number
    except OSError as error:
        # A server that does not answer says nothing about who holds what; the trial's own writing will tell of it.
        return error.errno not in _GONE


def _end(lease: _Lease) -> None:
    """Ends this process, at once: whatever it wrote now would mix with another's."""
    by = holder(lease.folder) or "nobody"
    text = (
        f"error: {lease.folder}: {lease.what} by {by} now: this process was not heard of for a while, or its file in "
        ".lease was deleted; it ends here, so that two never write there\n"
    )
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
    os._exit(LOST)


def _is_fresh(place: Path, beat: int) -> bool:
    """Whether a file was touched lately, by one look at it."""
    # Mostly the clocks of machines agree well enough to say so without writing anything.
    if 0 <= time.time() - beat / 1e9 < STALE_S:
        return True
    # If not, the file server's clock is asked, which has set the other time as well.
    temporary = place / f".{os.getpid()}-{os.urandom(8).hex()}.tmp"
    try:
        with temporary.open("xb") as file:
            now = os.fstat(file.fileno()).st_mtime_ns
        temporary.unlink()
    except OSError:
        return False
    return now - beat < STALE_S * 1e9
