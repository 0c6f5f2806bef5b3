"""A folder that appears complete or not at all, and whose making goes on where a killed process left it."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

SPOOL, NEW, OLD, IDENTITY = "spool", "new", "old", "identity"
"""In the temporary folder: what is kept from process to process, the folder to come, the one it replaces, and whose
all of that is."""


@contextmanager
def staged(out: Path, identity: str) -> Iterator[Path]:
    """A temporary sibling of `out`, with folders `spool` and `new`.

    Leftovers of a killed process are still in it if that had the same identity. It is gone at the end, unless an
    exception left something in the spool that a later process can go on with.

    Raises:
        ValueError: Another process is at work on the same `out`, or its parent cannot be written.
    """
    folder = out.parent / f".{out.name}.packing"
    with _locked(folder, out):
        try:
            _undo_half_commit(folder, out)
            _prepare(folder, identity)
            yield folder
        except BaseException:
            _undo_half_commit(folder, out)
            if not any((folder / SPOOL).glob("*")):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder)


def commit(folder: Path, out: Path) -> None:
    """Moves `folder/new` to `out`, in place of what was there."""
    sync_folder(folder / NEW)
    if out.exists():
        out.rename(folder / OLD)
    (folder / NEW).rename(out)
    sync_folder(out.parent)  # The rename itself has to survive a loss of power.


def sync_folder(folder: Path) -> None:
    """Waits until the disk knows all names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path, out: Path) -> Iterator[None]:
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _opened(folder / "lock")
        except OSError as error:
            raise ValueError(
                f"{out}: its folder cannot be written ({error.strerror}: {error.filename}); choose another place"
            ) from error
        if lock is None:
            continue
        with lock:
            _take(lock, folder, out)
            if _is_current(lock, folder / "lock"):
                yield
                return


def _opened(lock: Path) -> TextIO | None:
    """None where another process that is just finishing has removed the folder again."""
    try:
        return lock.open("w")
    except FileNotFoundError:
        return None


def _take(lock: TextIO, folder: Path, out: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"{out}: another process is packing it (in {folder}); wait for it or stop it"
        ) from None
    except OSError:
        # Some cluster file systems know no locks. Two packs at once into one place are then not noticed.
        return


def _is_current(lock: TextIO, path: Path) -> bool:
    """False where the file was removed between being opened and being locked."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _undo_half_commit(folder: Path, out: Path) -> None:
    """Puts the old folder back where a replacement was cut off between its two renames."""
    if (folder / OLD).exists() and not out.exists():
        (folder / OLD).rename(out)


def _prepare(folder: Path, identity: str) -> None:
    """Removes what another packing has left."""
    shutil.rmtree(folder / OLD, ignore_errors=True)  # Its replacement was complete.
    known = folder / IDENTITY
    if not known.is_file() or known.read_text() != identity:
        known.unlink(missing_ok=True)
        for name in (NEW, SPOOL):
            shutil.rmtree(folder / name, ignore_errors=True)
    (folder / SPOOL).mkdir(exist_ok=True)
    (folder / NEW).mkdir(exist_ok=True)
    known.write_text(identity)
