"""The rows of a manifest: what they hold and how they are parsed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

SPLITS = ("train", "val", "test")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Member:
    """One frame: where the data of its PNG lies in the tar, in bytes."""

    name: str
    offset: int
    size: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip; a photograph is a clip of one frame."""

    key: str
    split: str
    source: str
    """Path of the original, relative to the packed folder: the unit of statistics."""
    shard: str
    """File name of the tar, relative to the data set's folder."""
    members: tuple[Member, ...]
    """One for each frame."""
    width: int
    height: int
    notes: tuple[str, ...]
    """What was converted when it was packed."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file; `size` in bytes."""

    file: str
    split: str
    size: int
    sha256: str
    num_samples: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file that was not packed, and why."""

    source: str
    reason: str


def parse_rejected(row: dict[str, Any]) -> Rejected:
    """Raises KeyError or TypeError where the row is not a rejected file."""
    return Rejected(field(row, "source", str), field(row, "reason", str))


def field(row: dict[str, Any], name: str, kind: type[T]) -> T:
    """The value of a field.

    Raises:
        KeyError: There is no such field.
        TypeError: It is of another type.
    """
    value = row[name]
    if type(value) is not kind:
        raise TypeError(f"{name} is {type(value).__name__}, not {kind.__name__}")
    return value


def _file_name(row: dict[str, Any], name: str) -> str:
    value = field(row, name, str)
    if Path(value).name != value:
        raise TypeError(f"{name} is {value!r}, not a plain file name")
    return value


def _split(row: dict[str, Any]) -> str:
    value = field(row, "split", str)
    if value not in SPLITS:
        raise TypeError(f"split is {value!r}")
    return value


def parse_shard(row: dict[str, Any]) -> Shard:
    """Raises KeyError or TypeError where the row is not a shard."""
    numbers = field(row, "size", int), field(row, "sha256", str), field(row, "num_samples", int)
    return Shard(_file_name(row, "file"), _split(row), *numbers)


def _member(row: dict[str, Any]) -> Member:
    return Member(field(row, "name", str), *(field(row, name, int) for name in ("offset", "size", "crc32")))


def parse_sample(row: dict[str, Any]) -> Sample:
    """Raises KeyError or TypeError where the row is not a sample."""
    return Sample(
        key=field(row, "key", str),
        split=_split(row),
        source=field(row, "source", str),
        shard=_file_name(row, "shard"),
        members=tuple(_member(member) for member in field(row, "members", list)),
        width=field(row, "width", int),
        height=field(row, "height", int),
        notes=tuple(field(row, "notes", list)),
    )
