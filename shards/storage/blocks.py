"""Blocks of remote files in a local folder that several processes share, within a limit of bytes."""

import contextlib
import logging
import os
import re
import struct
import time
from pathlib import Path

import numpy as np

from shards.inflate import crc32
from shards.storage.files import claim, locked, release, remove_stale, write_whole

PIECE_BYTES = 64 * 1024
"""Each has a checksum of its own, so that a read of some of a block need not check all of it."""
TOUCH_S = 60.0
"""A block that is read is marked as used again when the mark is older than this."""
RESCAN_S = 600.0
"""The count of bytes is taken anew when it is older than this: killed processes leave it too high."""
LOCK_S = 5.0
_MAGIC = b"SRB\x01"
_COUNT = struct.Struct("<Qd")
_NAME = re.compile(r"[0-9a-f]{32}\.block")
_FOLDER = re.compile(r"[0-9a-f]{2}")
_logger = logging.getLogger(__name__)


class BlockFolder:
    """Keeps blocks by key (32 hex digits). Never raises for what the disk does: it then keeps nothing, and says so once.

    Every process counts its blocks into one shared file, under a lock, and evicts the ones used longest ago where the
    count would pass the limit.
    """

    def __init__(self, folder: Path, cap_bytes: int, *, named_by: str = "SRLOSS_CACHE") -> None:
        """Creates the folder with the first block; `named_by` is the variable that names it, for messages."""
        self._named_by = named_by
        self._folder = folder
        self._cap = cap_bytes
        self.broken = False
        """Whether the disk refused, so that nothing more is kept."""

    def load(self, key: str, length: int, start: int, stop: int) -> bytes | None:
        """The bytes [start, stop) of a block of `length` bytes; None where it is not there or damaged."""
        path = self._path(key)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            data = _checked(descriptor, length, start, stop)
            if data is not None and time.time() - os.fstat(descriptor).st_mtime > TOUCH_S:
                os.utime(descriptor)
        except OSError:
            data = None
        finally:
            os.close(descriptor)
        if data is None:
            _logger.warning("%s: a damaged block of the cache is deleted and fetched again", path)
            with contextlib.suppress(OSError):
                path.unlink()
        return data

    def store(self, key: str, data: bytes | memoryview) -> None:
        """Keeps a block, where that is possible."""
        if self.broken:
            return
        path = self._path(key)
        header = _header(memoryview(data))
        size = len(header) + len(data)
        try:
            if path.exists() or not self._reserve(size):
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path.parent, (header, data), lambda: path.name)
        except OSError as error:
            self._give_up(error)

    def claim(self, key: str) -> bool:
        """Whether this process may fetch a block now; False where another does. `release` must follow."""
        return self.broken or claim(self._folder / "claims", key)

    def release(self, key: str) -> None:
        """Ends a claim."""
        if not self.broken:
            release(self._folder / "claims", key)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.block"

    def _give_up(self, error: OSError) -> None:
        if not self.broken:
            self.broken = True
            _logger.warning(
                "%s: nothing more is kept in the cache (%s); reading goes on without. Make room or choose another folder "
                "with %s",
                self._folder,
                error.strerror or error,
                self._named_by,
            )

    def _reserve(self, size: int) -> bool:
        """Counts a block in, after evicting others where needed; raises OSError."""
        if size > self._cap:
            return False
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(self._folder / "count", timeout_s=LOCK_S) as descriptor:
            if descriptor is None:
                return False
            used, counted_at = _read_count(descriptor)
            if not 0.0 <= time.time() - counted_at < RESCAN_S or used + size > self._cap:
                used, counted_at = self._evict(size), time.time()
            os.pwrite(descriptor, _COUNT.pack(used + size, counted_at), 0)
        return used + size <= self._cap

    def _evict(self, room: int) -> int:
        """Deletes the blocks used longest ago until `room` bytes fit; gives the bytes that are left."""
        found: list[tuple[float, int, str]] = []
        for folder in _entries(self._folder):
            if _FOLDER.fullmatch(folder.name) and folder.is_dir(follow_symlinks=False):
                entries = _entries(Path(folder.path))
                remove_stale(entries)
                for entry in entries:
                    if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        with contextlib.suppress(FileNotFoundError):
                            stat = entry.stat(follow_symlinks=False)
                            found.append((stat.st_mtime, stat.st_size, entry.path))
        used = sum(size for _, size, _ in found)
        if used + room <= self._cap:
            return used
        # A tenth is made free at once, so that the folder is not listed for every block.
        goal = min(self._cap - room, self._cap * 9 // 10)
        for _, size, path in sorted(found):
            if used <= goal:
                break
            with contextlib.suppress(FileNotFoundError):
                Path(path).unlink()
            used -= size
        return used


def _header(data: memoryview) -> bytes:
    sums = [crc32(data[at : at + PIECE_BYTES]) for at in range(0, len(data), PIECE_BYTES)]
    return _MAGIC + struct.pack(f"<I{len(sums)}I", len(data), *sums)


def _header_bytes(length: int) -> int:
    return len(_MAGIC) + 4 + 4 * -(-length // PIECE_BYTES)


def _checked(descriptor: int, length: int, start: int, stop: int) -> bytes | None:
    """The bytes [start, stop) of a block, or None where a checksum or length is wrong; raises OSError."""
    header_bytes = _header_bytes(length)
    header = os.pread(descriptor, header_bytes, 0)
    if len(header) != header_bytes or os.fstat(descriptor).st_size != header_bytes + length:
        return None
    if header[:8] != _MAGIC + struct.pack("<I", length):
        return None
    first = start // PIECE_BYTES * PIECE_BYTES
    last = min(-(-stop // PIECE_BYTES) * PIECE_BYTES, length)
    data = os.pread(descriptor, last - first, header_bytes + first)
    view = memoryview(data)
    sums = np.frombuffer(header, "<u4", offset=8)
    for at in range(first, last, PIECE_BYTES):
        if crc32(view[at - first : at - first + PIECE_BYTES]) != sums[at // PIECE_BYTES]:
            return None
    return data if last - first == stop - start else data[start - first : stop - first]


def _read_count(descriptor: int) -> tuple[int, float]:
    data = os.pread(descriptor, _COUNT.size, 0)
    if len(data) != _COUNT.size:
        return 0, 0.0
    used, counted_at = _COUNT.unpack(data)
    return used, counted_at


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
