"""Plain uncompressed USTAR files, the same bytes for the same input."""

import hashlib
import os
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shards.manifest import Member, Shard

BLOCK = 512
RECORD = 20 * BLOCK
"""Tar files are padded to a multiple of this."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a tar header says of a member; `offset` is where its data begins."""

    name: str
    offset: int
    size: int


class ShardWriter:
    """Writes the samples of one split, in the order they come, to numbered shards of about `shard_bytes`."""

    def __init__(self, folder: Path, split: str, shard_bytes: int) -> None:
        """Opens nothing yet: a split without samples has no shard."""
        self._folder = folder
        self._split = split
        self._shard_bytes = shard_bytes
        self._file: BinaryIO | None = None
        self._count = 0
        self.shards: list[Shard] = []

    def add(
        self, frames: Sequence[tuple[str, bytes]], tail: tuple[str, bytes]
    ) -> tuple[str, tuple[Member, ...]]:
        """Writes the frames of a sample and the member that ends it, all in one shard.

        Returns:
            The name of the shard, and where the frames are.
        """
        size = sum(BLOCK + _padded(len(data)) for _, data in (*frames, tail))
        if self._file is not None and self._file.tell() + size > self._shard_bytes:
            self.close()
        if self._file is None:
            self._file = (self._folder / self._name()).open("wb")
        members = tuple(self._write(self._file, name, data) for name, data in frames)
        self._write(self._file, *tail)
        self._count += 1
        return self._name(), members

    def close(self) -> None:
        """Ends the shard that is open, if there is one, and records its size and sha256."""
        if self._file is None:
            return
        position = self._file.tell()
        self._file.write(bytes(-(-(position + 2 * BLOCK) // RECORD) * RECORD - position))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        path = self._folder / self._name()
        self.shards.append(Shard(path.name, self._split, path.stat().st_size, sha256_of(path), self._count))
        self._count = 0

    def _name(self) -> str:
        return f"{self._split}-{len(self.shards):06d}.tar"

    @staticmethod
    def _write(file: BinaryIO, name: str, data: bytes) -> Member:
        info = tarfile.TarInfo(name)  # Its defaults are mode 644, time 0, no owner.
        info.size = len(data)
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = file.tell()
        file.write(data + bytes(_padded(len(data)) - len(data)))
        return Member(name, offset, len(data), zlib.crc32(data))


def walk(path: Path) -> tuple[list[Entry], str | None]:
    """All members of a tar by its headers, and what ended the walk early, None where nothing did.

    Python's tarfile takes a damaged header for the end of the file, so it is not used for this.
    """
    entries: list[Entry] = []
    total = path.stat().st_size
    with path.open("rb") as file:
        while True:
            position = file.tell()
            block = file.read(BLOCK)
            if len(block) < BLOCK:
                return entries, f"truncated: ends at byte {total} without the end mark of a tar"
            if not any(block):
                return entries, None
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError:
                return entries, f"damaged tar header at byte {position}"
            end = position + BLOCK + _padded(info.size)
            if info.size < 0 or end > total:
                return entries, f"truncated: member {info.name} reaches to byte {end} of {total}"
            entries.append(Entry(info.name, position + BLOCK, info.size))
            file.seek(end)


def sha256_of(path: Path) -> str:
    """Hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
