"""What the cache needs to know of a place on the network."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Version:
    """Which state of a file was seen first; bytes of another are never mixed with it."""

    size: int
    """Bytes."""
    tag: str
    """ETag, time of change or the like; two versions with equal tags and sizes are the same."""


class Remote(Protocol):
    """Reads ranges of the files of one folder on the network. Safe to use from several threads and after a fork."""

    url: str
    """The folder without query and credentials, as it is named in messages."""

    def identity(self, file: str) -> str:
        """What tells this file from all others of the world; holds no secrets."""
        ...

    def version(self, file: str) -> Version:
        """The state of a file when it was first contacted; asks only then.

        Raises:
            StorageError: It is missing or cannot be reached.
        """
        ...

    def read(self, file: str, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of a file, all of them, and of that version.

        Raises:
            StorageError: The file is missing, too short, cannot be reached, or is no longer the one it was.
        """
        ...
