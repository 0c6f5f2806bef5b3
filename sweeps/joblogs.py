"""Where the output of a sweep's jobs and trials lies, and how it is read while it grows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from cluster.records import JobRecord

_BLOCK = 65536


def files_of(record: JobRecord, *, rank: int = 0, index: int | None = None) -> list[Path]:
    """The files of a job's output that exist, what it printed before what it complained of.

    Args:
        record: Of SLURM or a detached process.
        rank: Which of its tasks, one per node or rank.
        index: Of an array's element; None: of a job that is no array.
    """
    folder = Path(record.log_folder)
    if record.launcher == "local":
        return [path for path in [folder / "log.txt"] if path.exists()]
    # submitit's names.
    job = record.job_id if index is None or len(record.trials) == 1 else f"{record.job_id}_{index}"
    return [path for end in ("out", "err") if (path := folder / f"{job}_{rank}_log.{end}").exists()]


def trial_files(folder: Path, *, rank: int = 0) -> list[Path]:
    """The log of a rank of a trial, if there is one yet."""
    path = folder / ("log.txt" if rank == 0 else f"log-rank{rank}.txt")
    return [path] if path.exists() else []


def ranks_in(folder: Path) -> list[int]:
    """The ranks of a trial that have a log."""
    found = (re.fullmatch(r"log(?:-rank(\d+))?\.txt", path.name) for path in folder.glob("log*.txt"))
    return sorted(int(name[1] or 0) for name in found if name)


def tail(path: Path, lines: int) -> tuple[bytes, int]:
    """The last lines of a file, and where they end in it."""
    with path.open("rb") as file:
        end = start = file.seek(0, 2)
        text = b""
        while start > 0 and text.count(b"\n") <= lines:
            size = min(_BLOCK, start)
            start -= size
            file.seek(start)
            text = file.read(size) + text
    return b"".join(text.splitlines(keepends=True)[-lines:]) if lines else b"", end


class Follower:
    """Reads what is added to files; new ones, and such as were begun anew, from their start."""

    def __init__(self) -> None:
        self._read: dict[Path, int] = {}

    def begin(self, path: Path, lines: int) -> bytes:
        """The last lines of a file, from whose end on it is followed."""
        text, self._read[path] = tail(path, lines)
        return text

    def more(self, paths: list[Path]) -> Iterator[tuple[Path, bytes]]:
        """What has been added to each of these files since the last call."""
        for path in paths:
            try:
                with path.open("rb") as file:
                    size = file.seek(0, 2)
                    before = self._read.get(path, 0)
                    file.seek(before if before <= size else 0)
                    text = file.read()
                    self._read[path] = file.tell()
            except OSError:
                continue
            if text:
                yield path, text
