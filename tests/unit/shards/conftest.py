"""Small pictures and data sets, made on the spot."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.manifest import Dataset
from shards.pack import PackOptions, pack
from shards.records import Rejected
from shards.sources import SOURCES
from shards.sources.base import Listing, RawClip, RawFrame, SourceKind, SourceOptions

Save = Callable[..., np.ndarray]


@dataclass(frozen=True)
class ArrayItem:
    """Clips made of arrays, as a source of any kind would give them."""

    name: str
    found: tuple[RawClip | Rejected | BaseException, ...]
    """What comes out of it, in order; exceptions are raised."""
    source: str = ""
    version: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", self.source or self.name)

    def stamp(self) -> str:
        return str(self.version)

    def estimated_bytes(self) -> int:
        clips = [clip for clip in self.found if isinstance(clip, RawClip)]
        return sum(frame.rgb.nbytes for clip in clips for frame in (*clip.frames, *clip.lr_frames))

    def clips(self) -> Iterator[RawClip | Rejected]:
        for found in self.found:
            if isinstance(found, BaseException):
                raise found
            yield found


def noise_clip(
    name: str,
    *,
    frames: int = 1,
    width: int = 24,
    height: int = 20,
    lr_scale: int = 0,
    seed: int | None = None,
) -> RawClip:
    """Frames of noise, and partners of other noise where there is a scale."""
    random = np.random.default_rng(zlib.crc32(name.encode()) if seed is None else seed)

    def some(width: int, height: int) -> tuple[RawFrame, ...]:
        pixels = random.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
        return tuple(RawFrame(one) for one in pixels)

    lr_frames = some(width // lr_scale, height // lr_scale) if lr_scale else ()
    return RawClip(name, some(width, height), lr_frames)


def array_item(name: str, *clips: RawClip | Rejected | BaseException, **options: object) -> ArrayItem:
    """An item with the given clips; one clip of noise where none are given."""
    return ArrayItem(name, clips or (noise_clip(name),), **options)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def pack_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Dataset]:
    """Packs items to `out/`, or to another folder; `listing` holds further fields of the listing."""

    def run(
        *items: ArrayItem, out: str = "out", listing: dict[str, object] | None = None, **options: object
    ) -> Dataset:
        def listed(path: Path | None, options: SourceOptions) -> Listing:
            return Listing("arrays", items, **(listing or {}))  # pyright: ignore[reportArgumentType]

        kind = SourceKind(listed, "arrays", takes_path=False, layout="arrays")
        monkeypatch.setitem(SOURCES, "arrays", kind)
        chosen = PackOptions(**options)  # pyright: ignore[reportArgumentType]
        return pack("arrays", None, tmp_path / out, chosen, on_progress=lambda _: None)

    return run


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a random RGB picture to `pictures/NAME` and returns its pixels."""

    def write(name: str, width: int = 24, height: int = 20, seed: int | None = None) -> np.ndarray:
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        number = zlib.crc32(name.encode()) if seed is None else seed
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, format="PNG")
        return pixels

    return write


@pytest.fixture
def pack_folder(tmp_path: Path) -> Callable[..., Dataset]:
    """Packs `pictures/` to `out/`, or to another folder."""

    def run(out: str = "out", **options: object) -> Dataset:
        chosen = PackOptions(**options)  # pyright: ignore[reportArgumentType]
        return pack("folder", tmp_path / "pictures", tmp_path / out, chosen, on_progress=lambda _: None)

    return run


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Seven train pictures of several sizes, one of them small, two of val and one of test."""
    root = tmp_path_factory.mktemp("mixed")
    sizes = [
        (40, 32),
        (33, 50),
        (64, 64),
        (17, 40),
        (32, 32),
        (48, 36),
        (35, 37),
        (40, 40),
        (40, 41),
        (40, 42),
    ]
    for number, (width, height) in enumerate(sizes):
        split = "train" if number < 7 else "val" if number < 9 else "test"
        path = root / "pictures" / split / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return pack("folder", root / "pictures", root / "out", PackOptions(), on_progress=lambda _: None)
