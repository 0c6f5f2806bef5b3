"""Whole copies of remote files, such as indexes that are mapped into memory."""

import contextlib
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from shards.inflate import crc32
from shards.storage.ending import pause
from shards.storage.errors import StorageError
from shards.storage.files import claim, release, remove_stale, write_whole

CAP_BYTES = 2 * 2**30
"""Of all copies together; the ones used longest ago are deleted when a new one comes."""
PART_BYTES = 8 * 2**20
_NAME = re.compile(r"[0-9a-f]{32}-[0-9a-f]{8}\.copy")
_logger = logging.getLogger(__name__)

Download = Callable[[int, int], bytes]
"""The bytes [start, stop) of the file; raises StorageError."""


class Copies:
    """Keeps whole files by key (32 hex digits); their checksum is in their name, so that damage is noticed."""

    def __init__(self, folder: Path | None, *, wait_s: float = 60.0) -> None:
        """Without a folder, and where it cannot be used, copies are kept for this object only.

        `wait_s` is how long to wait, after others have begun to fetch a file, before fetching it as well.
        """
        self._folder = folder
        self._wait_s = wait_s
        self._lock = threading.Lock()
        self._private: tempfile.TemporaryDirectory[str] | None = None
        self._private_paths: dict[str, Path] = {}

    def get(self, key: str, size: int, download: Download) -> Path:
        """The path of a copy, downloaded if there is none yet; raises StorageError."""
        with self._lock:
            if self._folder is not None and key not in self._private_paths:
                try:
                    return self._shared(self._folder, key, size, download)
                except OSError as error:
                    _logger.warning(
                        "%s: cannot keep copies there (%s); they are kept for this process only. Make room or choose "
                        "another folder with SRLOSS_CACHE",
                        self._folder,
                        error.strerror or error,
                    )
            return self._own(key, size, download)

    def _shared(self, folder: Path, key: str, size: int, download: Download) -> Path:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        until = time.monotonic() + self._wait_s
        found = _find(folder, key, size)
        while found is None:
            claimed = claim(folder / "claims", key)
            try:
                # Whoever held the claim before may just have put it there.
                found = _find(folder, key, size)
                if found is None and (claimed or time.monotonic() > until):
                    found = _download(folder, key, size, download)
                    _evict(folder, found)
            finally:
                if claimed:
                    release(folder / "claims", key)
            if found is None:
                pause(0.01)
        return found

    def _own(self, key: str, size: int, download: Download) -> Path:
        if key not in self._private_paths:
            try:
                if self._private is None:
                    self._private = tempfile.TemporaryDirectory(prefix="srloss-", ignore_cleanup_errors=True)
                self._private_paths[key] = _download(Path(self._private.name), key, size, download)
            except OSError as error:
                raise StorageError(
                    f"a copy of {size} bytes cannot be kept on this machine ({error.strerror or error}); make room, "
                    "or set SRLOSS_CACHE or TMPDIR to a folder with room"
                ) from None
        return self._private_paths[key]


def _find(folder: Path, key: str, size: int) -> Path | None:
    """An undamaged copy; damaged ones are deleted."""
    for path in folder.glob(f"{key}-*.copy"):
        try:
            if _NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                if path.stat().st_size == size and _crc32(path) == int(path.name[33:41], 16):
                    os.utime(path)
                    return path
                _logger.warning("%s: a damaged copy is deleted and fetched again", path)
                path.unlink()
        except FileNotFoundError:
            continue
    return None


def _download(folder: Path, key: str, size: int, download: Download) -> Path:
    checksum = 0

    def parts() -> Iterator[bytes]:
        nonlocal checksum
        for start in range(0, size, PART_BYTES):
            part = download(start, min(size, start + PART_BYTES))
            checksum = crc32(part, checksum)
            yield part

    return write_whole(folder, parts(), lambda: f"{key}-{checksum:08x}.copy")


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while part := file.read(2**20):
            checksum = crc32(part, checksum)
    return checksum


def _evict(folder: Path, newest: Path) -> None:
    """Deletes the copies used longest ago, never the newest, until all of them fit."""
    with os.scandir(folder) as listing:
        entries = list(listing)
    remove_stale(entries)
    found: list[tuple[float, int, str]] = []
    for entry in entries:
        if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            with contextlib.suppress(FileNotFoundError):
                stat = entry.stat(follow_symlinks=False)
                found.append((stat.st_mtime, stat.st_size, entry.path))
    used = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if used > CAP_BYTES and path != str(newest):
            with contextlib.suppress(FileNotFoundError):
                Path(path).unlink()
            used -= size
