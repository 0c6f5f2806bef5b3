"""Where the files of a data set are: a local folder, or a place on the network."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from shards.storage.local import LocalStorage

if TYPE_CHECKING:
    from shards.storage.remote import Remote

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


class Storage(Protocol):
    """Reads the files of one data set, by name. Safe to use from several threads."""

    url: str
    """The folder, as it is named in messages."""

    def size(self, file: str) -> int:
        """Bytes of a file.

        Raises:
            StorageError: It is missing or cannot be reached.
        """
        ...

    def read(self, file: str, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of a file, all of them.

        Raises:
            StorageError: The file is missing, too short, cannot be reached, or is no longer the one it was.
        """
        ...

    def local_copy(self, file: str) -> Path:
        """A path on this machine that holds the whole file.

        Raises:
            StorageError: As for `read`.
        """
        ...


def open_storage(root: str | Path) -> Storage:
    """The storage behind a folder's path or URL.

    Args:
        root: A path, file://, http(s)://, s3://, or a URL that another package of fsspec understands (gs://, ...).
            What is read over the network is kept in a cache on this machine, see `shards.storage.cache`; what is read
            of folders that machines share can be, see `shards.storage.node`.

    Raises:
        ValueError: It is a URL that cannot be read from, a package for it is missing, or settings in the environment
            do not fit.
    """
    if isinstance(root, Path):
        return _open_folder(root)
    if root.lower().startswith("pipe:") or ("::" in root and "://" in root):
        raise ValueError(
            f"{root.partition(':')[0]}:...: commands and chained URLs are never run; give a folder, or a URL such as "
            "https://host/folder or s3://bucket/folder"
        )
    match = _URL.match(root)
    if match is None:
        return _open_folder(Path(root))
    scheme = match[1].lower()
    if scheme == "file":
        return _open_folder(_path_of(root))
    from shards.storage.cache import CachedStorage, CacheSettings  # not needed for local data

    return CachedStorage(_open_remote(scheme, root), CacheSettings.from_environment())


def _open_folder(root: Path) -> LocalStorage:
    if not os.environ.get("SRLOSS_NODE_CACHE"):
        return LocalStorage(root)
    from shards.storage.node import open_folder  # not needed otherwise

    return open_folder(root)


def _open_remote(scheme: str, root: str) -> "Remote":
    if scheme in ("http", "https"):
        from shards.storage.http import HttpStorage, WebAddress

        return HttpStorage(WebAddress(root))
    if scheme in ("s3", "s3a"):
        try:
            from shards.storage.s3 import S3Address
        except ImportError as error:
            raise ValueError(
                f"{scheme}://: the package {error.name} is missing; install it with: pip install 'srloss[s3]'"
            ) from None
        from shards.storage.http import HttpStorage

        address = S3Address(root)
        return HttpStorage(address, ca_certs=address.ca_certs)
    from shards.storage.generic import FsspecStorage

    return FsspecStorage(root)


def _path_of(root: str) -> Path:
    parts = urlsplit(root)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(
            f"file://{parts.hostname}/...: a folder of another machine; write file:///folder, or a plain path"
        )
    return Path(url2pathname(parts.path))
