"""One writer at a time for a folder: a second one waits, and then says who is in the way."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(folder: Path, *, timeout_s: float, what: str) -> Iterator[None]:
    """Holds the folder's lock for the block. The kernel frees it when its holder dies, however it dies.

    Args:
        folder: An existing folder; a file `.lock` is made in it.
        timeout_s: How long to wait for another holder. A killed driver's trials take a few seconds to die.
        what: What is being done, for the message.

    Raises:
        ValueError: Another process held the lock all that time.
    """
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + timeout_s
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                holder = os.pread(descriptor, 100, 0).decode(errors="replace") or "another process"
                raise ValueError(
                    f"{folder}: {what} by {holder} already; wait for it to end, or stop it first"
                )
            time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether a living process holds the folder's lock."""
    try:
        descriptor = os.open(folder / ".lock", os.O_RDWR)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks: better to go on than to refuse all work there.
        return True
    return True
