"""A folder that appears complete or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A temporary sibling of `out`, gone at the end whatever happens. Leftovers of a killed process go first.

    Raises:
        ValueError: Another process is at work on the same `out`.
    """
    folder = out.parent / f".{out.name}.packing"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        _take(lock.fileno(), folder, out)
        try:
            _undo_half_commit(folder, out)
            for name in ("new", "old", "spool"):
                shutil.rmtree(folder / name, ignore_errors=True)
            yield folder
        finally:
            _undo_half_commit(folder, out)
            shutil.rmtree(folder)


def commit(folder: Path, out: Path) -> None:
    """Moves `folder/new` to `out`, in place of what was there."""
    if out.exists():
        out.rename(folder / "old")
    (folder / "new").rename(out)
    parent = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(parent)  # The rename itself has to survive a loss of power.
    finally:
        os.close(parent)


def _take(lock: int, folder: Path, out: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"{out}: another process is packing it (in {folder}); wait for it or stop it"
        ) from None
    except OSError:
        # Some cluster file systems know no locks. Two packs at once into one place are then not noticed.
        return


def _undo_half_commit(folder: Path, out: Path) -> None:
    """Puts the old folder back where a replacement was cut off between its two renames."""
    if (folder / "old").exists() and not out.exists():
        (folder / "old").rename(out)
