"""What a data set is made of: shards, samples, their members, and what was left out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

SPLITS = ("train", "val", "test")
KINDS = ("png", "jpg", "webp", "npy", "json", "other")
"""What the bytes of a member are; the first four are pictures."""
ROLES = ("frame", "lr", "other")
"""What a member is for: a frame of the clip (the ground truth), its given low-resolution partner, anything else."""

MAX_FILE_NAME_BYTES = 255
"""No file system takes longer ones."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Band:
    """Some rows of a banded PNG, which can be decoded alone."""

    start: int
    """Byte of the member where its IDAT chunk begins; it ends where the next one begins."""
    crc32: int
    """Of the whole chunk: length, type, data and the chunk's own CRC."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside a tar: where its data lies, in bytes."""

    name: str
    offset: int
    size: int
    crc32: int
    kind: str
    """One of `KINDS`."""
    role: str
    """One of `ROLES`."""
    width: int = 0
    """Pixels; 0 where it is no picture."""
    height: int = 0
    channels: int = 0
    band_height: int = 0
    """Rows of each band, the last of which may have fewer; 0 for a member that is no certified banded PNG."""
    bands: tuple[Band, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip; a photograph is a clip of one frame."""

    key: str
    split: str
    source: str
    """The original (picture, video or sequence), relative to the packed folder: the unit of splits and statistics."""
    shard: str
    """File name of the tar, relative to the data set's folder."""
    members: tuple[Member, ...]
    """All of it, in the order of the tar, except that frames stand in the order of time."""
    notes: tuple[str, ...] = ()
    """What was converted when it was packed."""

    @property
    def frames(self) -> tuple[Member, ...]:
        """The frames of the clip, in the order of time."""
        return tuple(member for member in self.members if member.role == "frame")

    @property
    def lr_frames(self) -> tuple[Member, ...]:
        """The low-resolution partners that the source gives for the frames; mostly none."""
        return tuple(member for member in self.members if member.role == "lr")

    @property
    def width(self) -> int:
        """Of each frame, in pixels."""
        return self.frames[0].width

    @property
    def height(self) -> int:
        """Of each frame, in pixels."""
        return self.frames[0].height


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
    """A file or clip that was not packed, and why."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two clips in different splits that show nearly the same."""

    first: str
    """Key of the clip in the split that is learnt from."""
    second: str
    similarity: float
    """Correlation of their thumbnails, up to 1."""


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


def parse_rejected(row: dict[str, Any]) -> Rejected:
    """Raises KeyError or TypeError where the row is not a rejected file."""
    return Rejected(field(row, "source", str), field(row, "reason", str))


def parse_near_duplicate(row: dict[str, Any]) -> NearDuplicate:
    """Raises KeyError or TypeError where the row is not a pair of near-duplicates."""
    return NearDuplicate(field(row, "first", str), field(row, "second", str), field(row, "similarity", float))


def parse_shard(row: dict[str, Any]) -> Shard:
    """Reads a shard from a row of wids' shard list; raises KeyError or TypeError where it is none."""
    file = field(row, "url", str)
    is_plain = Path(file).name == file and file not in ("", "..") and file.isprintable()
    if not is_plain or len(file.encode()) > MAX_FILE_NAME_BYTES:
        raise TypeError(f"url is {file[:80]!r}, not a plain file name")
    split = field(row, "split", str)
    if split not in SPLITS:
        raise TypeError(f"split is {split!r}")
    return Shard(
        file, split, field(row, "filesize", int), field(row, "sha256", str), field(row, "nsamples", int)
    )


def shard_row(shard: Shard) -> dict[str, Any]:
    """A shard as a row of wids' shard list, which `parse_shard` reads back."""
    return {
        "url": shard.file,
        "nsamples": shard.num_samples,
        "filesize": shard.size,
        "sha256": shard.sha256,
        "split": shard.split,
    }
