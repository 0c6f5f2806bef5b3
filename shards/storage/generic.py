"""Files of a folder that a package of fsspec reads: gs://, abfs://, memory:// and others."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
import fsspec.core

from shards.storage.ending import pause
from shards.storage.errors import MissingError, StorageError
from shards.storage.remote import Version
from shards.storage.retry import Limits, Retry, TransientError

T = TypeVar("T")
_TAGS = (
    "ETag",
    "etag",
    "generation",
    "md5Hash",
    "content_hash",
    "mtime",
    "updated",
    "LastModified",
    "created",
)


class FsspecStorage:
    """Reads ranges through fsspec, under the same deadlines as over HTTP.

    A change while reading is noticed by sizes and checksums only: fsspec has no way to ask for a certain version.
    """

    def __init__(self, root: str, limits: Limits | None = None) -> None:
        """`root` is the URL of the folder.

        Raises:
            ValueError: The protocol is unknown, its package is missing, or its settings do not fit.
        """
        protocol = root.partition("://")[0]
        self.url = _without_secrets(root)
        try:
            fsspec.get_filesystem_class(protocol)
        except ValueError:
            raise ValueError(
                f"{self.url}: {protocol}:// is no known kind of place; use a folder, https://, s3://, gs:// or another "
                "protocol of fsspec"
            ) from None
        except ImportError as error:
            raise ValueError(f"{self.url}: a package is missing (get it with pip): {error}") from None
        try:
            self._opened = (os.getpid(), *fsspec.core.url_to_fs(root))
        except Exception as error:  # noqa: BLE001 - each file system raises what it likes; the user learns which
            raise ValueError(f"{self.url}: {protocol}:// cannot be set up ({type(error).__name__})") from None
        self._root = root
        self._limits = limits or Limits()
        self._retry = Retry(self._limits)
        self._versions: dict[str, Version] = {}

    def identity(self, file: str) -> str:
        """The URL of a file, without secrets."""
        return f"{self.url}/{file}"

    def version(self, file: str) -> Version:
        """Size and tag of a file when it was first contacted; raises StorageError."""
        known = self._versions.get(file)
        if known is None:
            asked = self._ask(file, 0, lambda fs, path: _version(fs.info(path)))
            known = self._versions.setdefault(file, asked)
        return known

    def read(self, file: str, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of a file; raises StorageError."""
        size = self.version(file).size
        if stop > size:
            raise StorageError(f"{self.identity(file)}: truncated: ends at byte {size}, {stop} are needed")
        if start >= stop:
            return b""
        return self._ask(file, stop - start, lambda fs, path: _part(fs, path, start, stop))

    def _ask(self, file: str, num_bytes: int, call: Callable[[Any, str], T]) -> T:
        if not file or file.startswith("/") or ".." in file.split("/"):
            raise StorageError(f"{self.identity(file)}: not the name of a file of this folder")
        if self._opened[0] != os.getpid():
            # Connections and event loops do not survive a fork.
            self._opened = (os.getpid(), *fsspec.core.url_to_fs(self._root))
        _, fs, folder = self._opened
        path = f"{folder.rstrip('/')}/{file}"
        seconds = self._limits.total_s + num_bytes / self._limits.min_bytes_per_s
        return self._retry.run(
            self.identity(file), lambda: _within(seconds, lambda: _translated(call, fs, path))
        )


def _part(fs: Any, path: str, start: int, stop: int) -> bytes:  # noqa: ANN401 - a file system of fsspec
    data = fs.cat_file(path, start=start, end=stop)
    if len(data) != stop - start:
        raise TransientError(f"{stop - start} bytes were asked for, {len(data)} came")
    return data


def _version(info: dict[str, Any]) -> Version:
    size = info.get("size")
    if info.get("type", "file") != "file" or not isinstance(size, int):
        raise StorageError("this is no file")
    tags = [str(info[name]) for name in _TAGS if info.get(name)]
    return Version(size, tags[0] if tags else "")


def _translated(call: Callable[[Any, str], T], fs: Any, path: str) -> T:  # noqa: ANN401 - a file system of fsspec
    """Never with the text of an unknown error, which may hold a signed URL."""
    try:
        return call(fs, path)
    except StorageError:
        raise
    except FileNotFoundError:
        raise MissingError("no such file") from None
    except PermissionError:
        raise StorageError("access was refused; check the credentials for that place") from None
    except Exception as error:  # noqa: BLE001 - each file system raises what it likes; it is reported in the end
        raise TransientError(f"it cannot be read ({type(error).__name__})") from None


def _within(seconds: float, call: Callable[[], T]) -> T:
    """What a call gives within a time; a call that hangs is left behind in its thread, which ends with the process."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - handed on below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until = time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < until:
        pause(0.0)
        thread.join(min(0.2, seconds))
    if errors:
        raise errors[0]
    if not results:
        raise TransientError(f"no answer came for {seconds:g} s")
    return results[0]


def _without_secrets(root: str) -> str:
    parts = urlsplit(root)
    # The user stays: of abfs://container@account.host it is the name of the container.
    login, at, host = parts.netloc.rpartition("@")
    netloc = login.partition(":")[0] + at + host
    return f"{parts.scheme}://{netloc}{parts.path}".rstrip("/")
