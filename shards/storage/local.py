"""Files of a local folder."""

import os
import threading
from pathlib import Path

from shards.storage.errors import MissingError, StorageError

MAX_OPEN = 64
"""Files kept open at a time: the limit of a process is often 1024."""


class LocalStorage:
    """Reads with `pread`, so that threads share descriptors without a common position."""

    def __init__(self, root: Path) -> None:
        """Opens nothing yet."""
        self.root = root
        self.url = str(root)
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}

    def size(self, file: str) -> int:
        """Bytes of a file; raises StorageError."""
        try:
            return (self.root / file).stat().st_size
        except OSError as error:
            raise storage_error(error) from error

    def read(self, file: str, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of a file; raises StorageError."""
        # The lock is held while reading only in the sense that a descriptor cannot be closed meanwhile: it is
        # duplicated under the lock, which takes a microsecond.
        with self._lock:
            descriptor = os.dup(self._descriptor(file))
        try:
            # An index may ask for terabytes, for which memory would be taken before a byte is read.
            end = os.fstat(descriptor).st_size
            if stop > end:
                raise StorageError(f"truncated: ends at byte {end}, {stop} are needed")
            data = os.pread(descriptor, stop - start, start)
        except OSError as error:
            raise storage_error(error) from error
        finally:
            os.close(descriptor)
        if len(data) < stop - start:
            raise StorageError(f"truncated: ends at byte {start + len(data)}, {stop} are needed")
        return data

    def local_copy(self, file: str) -> Path:
        """The file itself; raises StorageError where there is none."""
        self.size(file)
        return self.root / file

    def _descriptor(self, file: str) -> int:
        descriptor = self._open.pop(file, None)
        if descriptor is None:
            try:
                descriptor = os.open(self.root / file, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise storage_error(error) from error
        self._open[file] = descriptor
        if len(self._open) > MAX_OPEN:
            os.close(self._open.pop(next(iter(self._open))))
        return descriptor

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


def storage_error(error: OSError) -> StorageError:
    """What an error of the system means to a reader."""
    kind = MissingError if isinstance(error, FileNotFoundError) else StorageError
    return kind(error.strerror or str(error))
