"""Cuts between real photographs are found; motion within one of them, however fast, is none."""

import importlib.util
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.sources.cuts import best_correlation, is_cut, thumbnail

WIDTH, HEIGHT = 160, 90
NAMES = (
    "astronaut",
    "coffee",
    "motorcycle_left",
    "chelsea",
    "rocket",
    "brick",
    "camera",
    "grass",
    "ihc",
    "page",
)


@cache
def photo(name: str) -> Image.Image:
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "data"
    file = next(path for path in (folder / f"{name}.png", folder / f"{name}.jpg") if path.is_file())
    return Image.open(file).convert("RGB")


def view(name: str, x: float, y: float, *, zoom: float = 1.0, turn: float = 0.0) -> np.ndarray:
    """A camera's view of a photograph: a window around its middle, moved by shares of the view."""
    image = photo(name)
    scale = min(image.width / WIDTH, image.height / HEIGHT) / 2 / zoom
    middle = image.width / 2 + x * WIDTH * scale, image.height / 2 + y * HEIGHT * scale
    cos, sin = np.cos(np.radians(turn)) * scale, np.sin(np.radians(turn)) * scale
    left = middle[0] - cos * WIDTH / 2 + sin * HEIGHT / 2
    top = middle[1] - sin * WIDTH / 2 - cos * HEIGHT / 2
    data = (cos, -sin, left, sin, cos, top)
    return np.asarray(
        image.transform((WIDTH, HEIGHT), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC)
    )


def noisy(rgb: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 4, rgb.shape)
    return np.clip(rgb + noise, 0, 255).astype(np.uint8)


def cut(first: np.ndarray, second: np.ndarray) -> bool:
    return is_cut(thumbnail(noisy(first, 1)), thumbnail(noisy(second, 2)))


@pytest.mark.parametrize("name", NAMES)
def test_motion_is_no_cut(name: str) -> None:
    start = view(name, -0.2, -0.1)
    for x, y in ((0.0, 0.0), (0.05, 0.02), (0.2, 0.0), (0.0, -0.3), (0.35, 0.1), (-0.4, 0.0)):
        assert not cut(start, view(name, -0.2 + x, -0.1 + y)), (x, y)
    assert not cut(start, view(name, -0.2, -0.1, zoom=1.03))
    assert not cut(start, view(name, -0.2, -0.1, turn=1.5))


@pytest.mark.parametrize("name", NAMES)
def test_light_that_changes_is_no_cut(name: str) -> None:
    start = view(name, 0, 0).astype(np.float64)
    for gain, offset in ((1.2, 40), (0.6, 0), (0.8, -10)):
        assert not cut(start, np.clip(start * gain + offset, 0, 255)), (gain, offset)


def test_another_scene_is_a_cut() -> None:
    missed = [pair for pair in combinations(NAMES, 2) if not cut(view(pair[0], 0, 0), view(pair[1], 0, 0))]
    assert missed == []


@pytest.mark.parametrize("name", NAMES)
def test_black_is_a_cut_from_any_scene(name: str) -> None:
    assert cut(view(name, 0, 0), np.zeros((HEIGHT, WIDTH, 3)))
    assert cut(np.zeros((HEIGHT, WIDTH, 3)), view(name, 0, 0))


def test_scenes_without_detail_are_told_apart_by_their_level() -> None:
    flat = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert not cut(flat, flat)
    assert not cut(flat, flat + 20)
    assert cut(flat, flat + 60)
    assert cut(np.add(flat, (255, 0, 0)), np.add(flat, (0, 0, 255)))


def test_faint_noise_in_the_dark_is_no_cut() -> None:
    def grain(seed: int) -> np.ndarray:
        return np.repeat(np.random.default_rng(seed).integers(0, 5, (36, 64), np.uint8)[..., None], 3, axis=2)

    assert best_correlation(thumbnail(grain(1)), thumbnail(grain(2))) < 0.3
    assert not is_cut(thumbnail(grain(1)), thumbnail(grain(2)))


def test_a_thumbnail_is_the_mean_of_its_cells() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (72, 128, 3), np.uint8)
    expected = rgb.reshape(36, 2, 64, 2, 3).mean((1, 3))
    assert np.allclose(thumbnail(rgb).rgb, expected)


@pytest.mark.parametrize("shape", [(16, 16), (17, 900), (1080, 1920), (37, 65), (2000, 30)])
def test_frames_of_any_shape_have_one(shape: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    small = thumbnail(rgb)
    assert small.rgb.shape == (36, 64, 3)
    assert best_correlation(small, small) > 0.9
    assert not is_cut(small, thumbnail(rgb))
