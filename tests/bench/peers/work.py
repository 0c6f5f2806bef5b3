"""The folder a benchmark of loaders works in, and what all of its loaders have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FRAMES = 7
HEIGHT, WIDTH = 256, 448
BATCH = 8
CLIPS_PER_FOLDER = 1000
POSITION_SEED = 3


@dataclass(frozen=True)
class Work:
    """Everything that is written lies below `root`."""

    root: Path
    samples: int

    @property
    def vimeo(self) -> Path:
        """The septuplets, laid out as Vimeo-90K is published."""
        return self.root / "vimeo_septuplet"

    @property
    def picture(self) -> Path:
        """The folder of the one large picture."""
        return self.root / "pictures"

    def clip(self, number: int) -> str:
        """Name of a clip, such as 00001/0001."""
        folder, place = divmod(number, CLIPS_PER_FOLDER)
        return f"{folder + 1:05d}/{place + 1:04d}"

    def number(self, clip: str) -> int:
        """The inverse of `clip`; also reads the keys of shards, which have another separator."""
        folder, place = clip.replace("_", "/").split("/")[-2:]
        return (int(folder) - 1) * CLIPS_PER_FOLDER + int(place) - 1

    def frames(self, number: int) -> list[Path]:
        """The PNG files of a clip."""
        folder = self.vimeo / "sequences" / self.clip(number)
        return [folder / f"im{frame + 1}.png" for frame in range(FRAMES)]

    def store(self, name: str) -> Path:
        """Where the store of that name is written."""
        return self.root / "stores" / name

    def corners(self, patch: int) -> np.ndarray:
        """Corner (y, x) of each clip's crop, int64, shape (samples, 2); every loader cuts there."""
        draw = np.random.Generator(np.random.Philox(key=POSITION_SEED + patch))
        return draw.integers(0, [HEIGHT - patch + 1, WIDTH - patch + 1], (self.samples, 2))


@dataclass(frozen=True)
class Case:
    """What one loader is asked to do."""

    patch: int
    workers: int
    """0: all in the calling thread. Else DataLoader processes for the peers, threads for ours."""


Batch = tuple[Any, Sequence[int]]
"""Pixels (B, 7, 3, P, P), uint8 0..255 or float32 0..1, an array or a tensor; and the numbers of the clips."""
Batches = Callable[[Work, Case], Iterator[Batch]]
"""Endless."""


@dataclass(frozen=True)
class Loader:
    """One row of the benchmark."""

    name: str
    batches: Batches
    needs: tuple[str, ...]
    """Modules without which it is reported as not installed."""
    store: str
    """A name in `STORES`; "" for what reads the source files."""
    note: str
    """What it does, in words."""
    parallel: bool = True
    """Whether it is also timed with workers."""
    own_corners: bool = False
    """Draws its crops itself, from the same distribution, and cannot be told where."""


def planar(frames: Sequence[np.ndarray], corner: Sequence[int] | np.ndarray, patch: int) -> np.ndarray:
    """Crops of (H, W, 3) frames as uint8 (T, 3, P, P), in the cheapest way there is: it is not what is compared."""
    import cv2

    y, x = corner
    out = np.empty((len(frames), 3, patch, patch), np.uint8)
    for frame, planes in zip(frames, out, strict=True):
        cv2.split(frame[y : y + patch, x : x + patch], list(planes))
    return out


def decode_cv2(data: bytes | memoryview) -> np.ndarray:
    """RGB pixels of a picture file, shape (H, W, 3)."""
    import cv2

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert pixels is not None
    return pixels


def folder_bytes(folder: Path) -> int:
    """Of all files below it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
