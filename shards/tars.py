"""Plain uncompressed USTAR files, the same bytes for the same input."""

import hashlib
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

BLOCK = 512
RECORD = 20 * BLOCK
"""Tar files are padded to a multiple of this."""


def offsets(position: int, sizes: Iterable[int]) -> tuple[list[int], int]:
    """Where the data of members lies that follow one another from `position` on, and where the last one ends."""
    starts: list[int] = []
    for size in sizes:
        starts.append(position + BLOCK)
        position += BLOCK + _padded(size)
    return starts, position


class ShardWriter:
    """Writes one tar, member by member, in the order they come."""

    def __init__(self, path: Path) -> None:
        """Creates the file, or empties it."""
        self._file = path.open("wb")
        self._sha256 = hashlib.sha256()
        self._position = 0

    def add(self, name: str, data: bytes) -> int:
        """Appends a member; returns where its data begins."""
        info = tarfile.TarInfo(name)  # Its defaults are mode 644, time 0, no owner.
        info.size = len(data)
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self._position
        self._write(data)
        self._write(bytes(_padded(len(data)) - len(data)))
        return offset

    def finish(self) -> tuple[int, str]:
        """Ends the tar, waits until the disk has it, and returns its size in bytes and its sha256."""
        self._write(bytes(-(-(self._position + 2 * BLOCK) // RECORD) * RECORD - self._position))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()
        return self._position, self._sha256.hexdigest()

    def close(self) -> None:
        """Closes the file, finished or not."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._position += len(data)


def sha256_of(path: Path) -> str:
    """Hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
