"""What every source of clips hands to the packer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from shards.records import Rejected


@dataclass(frozen=True)
class RawFrame:
    """One decoded frame."""

    rgb: np.ndarray
    """uint8, shape (H, W, 3)."""
    original: bytes | None = None
    """The bytes of its file, where a plain decoder gets exactly `rgb` from them; None where anything was converted."""
    original_kind: str = ""
    """"png", "jpg" or "webp", where there are original bytes."""


@dataclass(frozen=True)
class RawClip:
    """One clip, decoded; all frames have one size."""

    name: str
    """Unique in its source, "/" between folders: the item's name, where that gives one clip only, or it and a number."""
    frames: tuple[RawFrame, ...]
    lr_frames: tuple[RawFrame, ...] = ()
    """Low-resolution partners of the frames, all of one size, where the source has them."""
    notes: tuple[str, ...] = ()
    """What was converted, in words."""


class Item(Protocol):
    """A piece of a source that one process reads: a picture, a sequence, a video, a part of an array.

    Items are small and can be pickled; nothing is opened before `clips` is called.
    """

    @property
    def name(self) -> str:
        """Relative path, "/" between folders; unique in its source, and the same on every machine."""
        ...

    @property
    def source(self) -> str:
        """The original that it comes from: the unit of splits and statistics. Mostly the name."""
        ...

    def stamp(self) -> str:
        """Changes when the files do (names, sizes, times of change): what was made of them earlier is then not used."""
        ...

    def estimated_bytes(self) -> int:
        """About how many bytes its clips have as 8-bit RGB, uncompressed; for the check of disk space."""
        ...

    def clips(self) -> Iterator[RawClip | Rejected]:
        """Its clips in order, one in memory at a time; what cannot become one is named.

        Raises:
            UnusablePictureError: Nothing (more) of it can be read.
        """
        ...


@dataclass(frozen=True)
class Listing:
    """What a source holds."""

    name: str
    """Of the data set; without the rest of the path, which is of this machine."""
    items: tuple[Item, ...]
    """Ordered by name."""
    rejected: tuple[Rejected, ...] = ()
    splits: dict[str, str] = field(default_factory=dict)
    """`Item.source` to split, where the source fixes it; empty where the user chooses."""
    split_rule: str = ""
    """Where the source fixes the splits: how, in words."""
    lr_scale: int = 0
    """Factor between frames and their given low-resolution partners; 0 where there are none."""
    warnings: tuple[str, ...] = ()
    """What the user should know before relying on this data."""


@dataclass(frozen=True)
class SourceOptions:
    """What the user may choose about clips; a source says which of these have no effect on it."""

    frames: int | None = None
    """Frames of a clip; None: what is usual for the source."""
    stride: int | None = None
    """Frames from the start of a clip to the start of the next; None: as many as a clip has, so that none overlap."""


Source = Callable[[Path | None, SourceOptions], Listing]


@dataclass(frozen=True)
class SourceKind:
    """One entry of `SOURCES`."""

    list: Source
    """Finds the items; raises ValueError where the path is wrong or an option would have no effect."""
    description: str
    """One line for help texts."""
    takes_path: bool
    """Whether there are files to name."""
    layout: str
    """What is expected below the path, as a short text for help."""
    path_is_optional: bool = False
    """Whether it has something of its own where no path is given."""
