"""A shared folder behind a cache on a disk of the node.

With `SRLOSS_NODE_CACHE` (a folder; `~` and `$VARIABLES` are filled in, such as `$TMPDIR` or `/local/$USER`) what is read of
data sets in folders goes through that folder's `srloss-UID/`: each part is copied there once per node, whatever the number
of processes and trials, when it is first needed, so that nobody waits for the whole. It is the cache of network places
(`shards.storage.cache`): every part has a checksum, a damaged one is copied anew, a killed process leaves nothing half done,
and a full disk means that the shared folder is read. What a data set is, its path and fingerprint, does not change.

The parts of all data sets together take no more than `SRLOSS_CACHE_BYTES`, or half of that disk where it is not set; the ones
used longest ago go first. To delete the folder is safe at any time.
"""

import functools
import logging
import os
import re
import shutil
from pathlib import Path

from shards.storage.cache import CachedStorage, CacheSettings, cap_from_environment
from shards.storage.errors import StorageError
from shards.storage.local import LocalStorage, storage_error
from shards.storage.remote import Version

VARIABLE = "SRLOSS_NODE_CACHE"
_logger = logging.getLogger(__name__)


class NodeCachedFolder(LocalStorage):
    """A folder whose files are read by way of the node's disk."""

    def __init__(self, root: Path, settings: CacheSettings) -> None:
        """Opens nothing yet."""
        super().__init__(root)
        self._cached = CachedStorage(_Original(root), settings)

    def read(self, file: str, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of a file; raises StorageError."""
        # What describes the data set is small, and whoever looks for damage of it wants to see the original.
        return (
            self._cached.read(file, start, stop)
            if file.lower().endswith(".tar")
            else super().read(file, start, stop)
        )


class _Original:
    """The shared folder, as the cache asks for it."""

    def __init__(self, root: Path) -> None:
        self.url = str(root)
        self._storage = LocalStorage(root)
        self._versions: dict[str, Version] = {}

    def identity(self, file: str) -> str:
        return str(self._storage.root.absolute() / file)

    def version(self, file: str) -> Version:
        if file not in self._versions:
            self._versions[file] = self._version_now(file)
        return self._versions[file]

    def read(self, file: str, start: int, stop: int) -> bytes:
        data = self._storage.read(file, start, stop)
        # Parts of two versions must never come together under one key.
        if self._version_now(file) != self.version(file):
            raise StorageError("it was replaced while it is read; start again")
        return data

    def _version_now(self, file: str) -> Version:
        try:
            stat = (self._storage.root / file).stat()
        except OSError as error:
            raise storage_error(error) from error
        return Version(stat.st_size, str(stat.st_mtime_ns))


def open_folder(root: Path) -> LocalStorage:
    """The folder, by way of the node's disk where that is asked for and possible.

    Raises:
        ValueError: `SRLOSS_CACHE_BYTES` is no number of bytes.
    """
    named = os.environ.get(VARIABLE, "").strip()
    if not named:
        return LocalStorage(root)
    cap_bytes = cap_from_environment()
    folder = None if cap_bytes == 0 else _usable(os.path.expandvars(named))
    if folder is None:
        return LocalStorage(root)
    cap_bytes = cap_bytes or shutil.disk_usage(folder).total // 2
    return NodeCachedFolder(root, CacheSettings(folder, cap_bytes, named_by=VARIABLE))


@functools.cache
def _usable(named: str) -> Path | None:
    """This user's part of a folder; where it cannot be used that is said, once per process, and gives None."""
    unset = re.search(r"\$\w+|\$\{\w+\}", named)
    if unset:
        _warn(named, f"{unset[0]} is not set on {os.uname().nodename}")
        return None
    folder = Path(named).expanduser().absolute() / f"srloss-{os.getuid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # In a folder that all may write to, such as /tmp, somebody else may have made it first.
        if folder.lstat().st_uid != os.getuid() or folder.is_symlink():
            _warn(named, f"{folder.name} in it is somebody else's")
            return None
        probe = folder / f".srloss-{os.getpid()}-{os.urandom(8).hex()}.tmp"
        probe.write_bytes(b"x")
        probe.unlink()
    except (OSError, RuntimeError) as error:
        _warn(named, str(getattr(error, "strerror", None) or error))
        return None
    return folder


def _warn(named: str, why: str) -> None:
    _logger.warning(
        "%s=%s: cannot be used (%s); data sets are read from where they are. Name a folder on a disk of the node that "
        "you may write to",
        VARIABLE,
        named,
        why,
    )
