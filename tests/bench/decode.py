"""Decode and crop of one clip or picture, banded PNG beside usual PNG with usual decoders. Run: python tests/bench/decode.py

Processor time of one thread; each figure is the median of interleaved runs, each ratio the median of the ratios of a
run. Every way is first checked to give the same pixels.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyspng
import skimage
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from shards.decode import Window, available_decoders, decode_member, picture_header, span_of
from shards.profiles import PROFILES, EncodedPicture
from shards.records import Member
from shards.sources.base import RawFrame
from tests.bench.hardware import described

RUNS = 7
PHOTOS = (
    "astronaut.png",
    "coffee.png",
    "chelsea.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
)
SEPTUPLETS = 12
FRAMES, HEIGHT, WIDTH = 7, 256, 448
PICTURE_HEIGHT, PICTURE_WIDTH = 1356, 2040

Case = tuple[list[np.ndarray], list[Window]]
Way = Callable[[], list[np.ndarray]]


def photo(name: str) -> Image.Image:
    with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
        return image.convert("RGB")


def septuplet(name: str, rng: np.random.Generator) -> list[np.ndarray]:
    """A slow pan and turn over a photograph that has been a JPEG before, as frames of a video have."""
    image = photo(name)
    zoom = rng.uniform(0.65, 0.9) * min(image.width / WIDTH, image.height / HEIGHT)
    x, y = rng.uniform(0, 0.1) * image.width, rng.uniform(0, 0.1) * image.height
    step_x, step_y, turn, step_turn = (
        *rng.uniform(-3, 3, 2),
        rng.uniform(-0.05, 0.05),
        rng.uniform(-4e-3, 4e-3),
    )
    frames = []
    for t in range(FRAMES):
        cos, sin = np.cos(turn + step_turn * t) * zoom, np.sin(turn + step_turn * t) * zoom
        matrix = (cos, -sin, x + step_x * t, sin, cos, y + step_y * t)
        frame = image.transform((WIDTH, HEIGHT), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        frame.save(buffer, "JPEG", quality=88)
        grain = rng.normal(0, 0.3, (HEIGHT, WIDTH, 3))
        frames.append((np.asarray(Image.open(buffer)) + grain).round().clip(0, 255).astype(np.uint8))
    return frames


def picture(name: str, rng: np.random.Generator) -> np.ndarray:
    """A photograph, mirrored until it is large, with the grain of a camera."""
    tile = np.asarray(photo(name))
    down, across = PICTURE_HEIGHT - tile.shape[0], PICTURE_WIDTH - tile.shape[1]
    large = np.pad(tile, ((0, max(0, down)), (0, max(0, across)), (0, 0)), mode="symmetric")
    large = large[:PICTURE_HEIGHT, :PICTURE_WIDTH]
    return (large + rng.normal(0, 0.7, large.shape)).round().clip(0, 255).astype(np.uint8)


def windows(
    rng: np.random.Generator, count: int, frames: int, shape: tuple[int, ...], patch: int
) -> list[Window]:
    found = []
    for _ in range(count):
        top, left = rng.integers(0, shape[0] - patch + 1), rng.integers(0, shape[1] - patch + 1)
        found += [Window(int(top), int(left), patch, patch)] * frames
    return found


def usual_png(rgb: np.ndarray) -> EncodedPicture:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    kind, width, height, channels = picture_header(buffer.getvalue())
    return EncodedPicture(buffer.getvalue(), kind, kind, width, height, channels)


def ours(encoded: list[EncodedPicture], where: list[Window]) -> Way:
    members = [
        Member(
            "",
            0,
            len(e.data),
            zlib.crc32(e.data),
            e.kind,
            "frame",
            e.width,
            e.height,
            e.channels,
            e.band_height,
            e.bands,
        )
        for e in encoded
    ]

    def run() -> list[np.ndarray]:
        found = []
        for picture, member, window in zip(encoded, members, where, strict=True):
            start, stop = span_of(member, window)
            found.append(decode_member(memoryview(picture.data)[start:stop], member, window))
        return found

    return run


def theirs(decode: Callable[[bytes], np.ndarray], encoded: list[EncodedPicture], where: list[Window]) -> Way:
    def run() -> list[np.ndarray]:
        pairs = zip(encoded, where, strict=True)
        return [decode(e.data)[w.top : w.top + w.height, w.left : w.left + w.width] for e, w in pairs]

    return run


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def by_cv2(data: bytes) -> np.ndarray:
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    return found


def compared(
    frames: list[np.ndarray], where: list[Window], units: int, stored: dict[str, list[EncodedPicture]]
) -> dict[str, object]:
    """Milliseconds for each of `units` clips or pictures, and how many times as long as banded the others take."""
    usual = stored["png"]
    ways: dict[str, Way] = {name: ours(encoded, where) for name, encoded in stored.items()}
    ways |= {
        "Pillow": theirs(by_pillow, usual, where),
        "cv2": theirs(by_cv2, usual, where),
        "pyspng": theirs(pyspng.load, usual, where),
    }
    for name, way in ways.items():
        for rgb, window, found in zip(frames, where, way(), strict=True):
            expected = rgb[window.top : window.top + window.height, window.left : window.left + window.width]
            assert np.array_equal(found[..., ::-1] if name == "cv2" else found, expected), name
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(RUNS):
        for name, way in ways.items():
            started = time.process_time()
            way()
            seconds[name].append(time.process_time() - started)
    banded = seconds["png-banded"]
    return {
        "ms": {name: round(1e3 * statistics.median(s) / units, 2) for name, s in seconds.items()},
        "times_banded": {
            name: round(statistics.median(a / b for a, b in zip(s, banded, strict=True)), 2)
            for name, s in seconds.items()
            if s is not banded
        },
    }


def stored_as(frames: list[np.ndarray]) -> tuple[dict[str, list[EncodedPicture]], dict[str, object]]:
    """The frames in every way, with the size and the time to encode and prove each."""
    stored = {"png": [usual_png(rgb) for rgb in frames]}
    total = sum(len(e.data) for e in stored["png"])
    raw = sum(rgb.nbytes for rgb in frames)
    facts: dict[str, object] = {"png_of_raw": round(total / raw, 3)}
    for name in ("png-banded", "webp", "raw"):
        started = time.process_time()
        stored[name] = [PROFILES[name](RawFrame(rgb)) for rgb in frames]
        facts[name] = {
            "size_of_png": round(sum(len(e.data) for e in stored[name]) / total, 3),
            "pack_ms": round(1e3 * (time.process_time() - started) / len(frames), 1),
        }
    return stored, facts


def main() -> None:
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    clips = [frame for i in range(SEPTUPLETS) for frame in septuplet(PHOTOS[i % len(PHOTOS)], rng)]
    pictures = [picture(name, rng) for name in PHOTOS[:4]]
    result: dict[str, object] = {"benchmark": "decode", "runs": RUNS, "decoders": available_decoders()}
    for name, frames, per_unit, views in (("448x256x7", clips, FRAMES, 1), ("2040x1356", pictures, 1, 5)):
        stored, facts = stored_as(frames)
        result[name] = facts
        # How much a window of a large picture costs depends on where it is.
        stored = {way: encoded * views for way, encoded in stored.items()}
        units = len(frames) * views // per_unit
        for patch in (256, 128):
            where = windows(rng, units, per_unit, frames[0].shape, patch)
            facts[f"patch {patch}"] = compared(frames * views, where, units, stored)
    print(json.dumps(result | described()))


if __name__ == "__main__":
    main()
