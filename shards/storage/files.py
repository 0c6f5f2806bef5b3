"""Files of the cache's folder: written at once or not at all, counted and locked between processes."""

import contextlib
import fcntl
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

STALE_S = 3600.0
"""A temporary file older than this was left behind by a process that was killed."""
_TEMPORARY = re.compile(r"\.srloss-[0-9]+-[0-9a-f]{16}\.tmp")
_thread_locks: dict[int, threading.Lock] = {}
_claim_files: dict[tuple[int, Path], int] = {}


def write_whole(folder: Path, pieces: Iterable[bytes | memoryview], name: Callable[[], str]) -> Path:
    """Puts a file in place in one step; other processes see all of it or nothing.

    Args:
        folder: Where it goes.
        pieces: Its contents.
        name: Gives its name once all pieces were taken.

    Raises:
        OSError: It cannot be written.
    """
    temporary = folder / f".srloss-{os.getpid()}-{os.urandom(8).hex()}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
        return temporary.replace(folder / name())
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def remove_stale(entries: Sequence[os.DirEntry[str]]) -> None:
    """Deletes temporary files of processes that were killed long ago, and nothing else."""
    for entry in entries:
        if _TEMPORARY.fullmatch(entry.name):
            with contextlib.suppress(OSError):
                if entry.is_file(follow_symlinks=False) and time.time() - entry.stat().st_mtime > STALE_S:
                    Path(entry.path).unlink()


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float) -> Iterator[int | None]:
    """Holds a file for this thread of this process; gives its descriptor, or None where others hold it for too long.

    Raises:
        OSError: It cannot be opened or locked.
    """
    # A lock of fcntl's is the process's: it ends with it, a fork does not inherit it, but threads need one of theirs.
    lock = _thread_locks.setdefault(os.getpid(), threading.Lock())
    until = time.monotonic() + timeout_s
    if not lock.acquire(timeout=timeout_s):
        yield None
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            yield descriptor if _lock_until(descriptor, until) else None
        finally:
            os.close(descriptor)
    finally:
        lock.release()


def _lock_until(descriptor: int, until: float) -> bool:
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if time.monotonic() > until:
                return False
            time.sleep(0.002)
        else:
            return True


def claim(path: Path, key: str) -> bool:
    """Whether this process, and no other of this machine, may now fetch what `key` (hex digits) names.

    Where claims do not work (some network file systems, or a folder that cannot be written) everyone may.
    """
    return _claim(path, key, fcntl.LOCK_EX | fcntl.LOCK_NB)


def release(path: Path, key: str) -> None:
    """Ends a claim."""
    _claim(path, key, fcntl.LOCK_UN)


def _claim(path: Path, key: str, operation: int) -> bool:
    # Each key is one byte of an empty file, far behind its end. The descriptor is never closed: closing one would end
    # all claims of the process.
    try:
        place = (os.getpid(), path)
        if place not in _claim_files:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            if _claim_files.setdefault(place, opened) != opened:
                os.close(opened)
        fcntl.lockf(_claim_files[place], operation, 1, int(key[:15], 16))
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True
