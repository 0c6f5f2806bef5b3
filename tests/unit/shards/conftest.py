"""Small pictures and data sets, made on the spot."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.manifest import Dataset
from shards.pack import PackOptions, pack

Save = Callable[..., np.ndarray]


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
