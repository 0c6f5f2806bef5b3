"""One crop of a 2K picture: the whole decoded by OpenCV, BasicSR's sub-images, and bands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from tests.bench.peers.ours import PREFIX
from tests.bench.peers.synthesis import PICTURE_SIZE
from tests.bench.peers.work import Work, decode_cv2, folder_bytes

PATCH = 256
CROPS = 12
SUB_IMAGE, SUB_STEP, SUB_LEVEL = 480, 240, 3
"""BasicSR's defaults for DIV2K: side and step in pixels, and the level of PNG."""
Decode = Callable[[int, int], np.ndarray]
"""The crop at (y, x) as RGB, shape (P, P, 3), from bytes that are in memory."""


def write_sub_images(work: Work) -> None:
    """Overlapping squares, each a PNG file of its own."""
    import cv2

    out = work.store("sub-images")
    out.mkdir(parents=True)
    pixels = cv2.imread(str(work.picture / "large.png"))
    for y, x in product(_starts(PICTURE_SIZE[1]), _starts(PICTURE_SIZE[0])):
        part = np.ascontiguousarray(pixels[y : y + SUB_IMAGE, x : x + SUB_IMAGE])
        cv2.imwrite(str(out / f"{y:05d}_{x:05d}.png"), part, [cv2.IMWRITE_PNG_COMPRESSION, SUB_LEVEL])


def _starts(length: int) -> list[int]:
    starts = list(range(0, length - SUB_IMAGE + 1, SUB_STEP))
    return starts if starts[-1] + SUB_IMAGE == length else [*starts, length - SUB_IMAGE]


def measure(work: Work) -> dict[str, float]:
    """Milliseconds of process time to decode one crop, the mean over the same random places."""
    import cv2

    cv2.setNumThreads(0)
    draw = np.random.default_rng(4)
    high = [PICTURE_SIZE[1] - PATCH + 1, PICTURE_SIZE[0] - PATCH + 1]
    corners = [(int(y), int(x)) for y, x in draw.integers(0, high, (CROPS, 2))]
    pixels = decode_cv2((work.picture / "large.png").read_bytes())
    found = {}
    for name, decode in _decoders(work):
        crops = [decode(y, x) for y, x in corners]  # Also warms up.
        for corner, crop in zip(corners, crops, strict=True):
            assert _holds(pixels, corner, crop), name
        started = time.process_time()
        for y, x in corners:
            decode(y, x)
        found[name] = (time.process_time() - started) / CROPS * 1e3
    return found


def _holds(pixels: np.ndarray, corner: tuple[int, int], crop: np.ndarray) -> bool:
    """Whether it is the crop at the corner, or a little before: sub-images overlap too little to hold every crop."""
    most = PATCH - (SUB_IMAGE - SUB_STEP)
    near = product(*(range(max(0, at - most), at + 1) for at in corner))
    return any(np.array_equal(crop, pixels[y : y + PATCH, x : x + PATCH]) for y, x in near)


def _decoders(work: Work) -> Iterator[tuple[str, Decode]]:
    from shards.decode import Window, decode_member, span_of
    from shards.manifest import load

    whole = (work.picture / "large.png").read_bytes()
    yield "whole picture cv2", lambda y, x: decode_cv2(whole)[y : y + PATCH, x : x + PATCH]
    starts = [_starts(length) for length in (PICTURE_SIZE[1], PICTURE_SIZE[0])]
    parts = {file.stem: file.read_bytes() for file in work.store("sub-images").iterdir()}

    def sub_image(y: int, x: int) -> np.ndarray:
        top, left = (max(s for s in side if s <= at) for side, at in zip(starts, (y, x), strict=True))
        pixels = decode_cv2(parts[f"{top:05d}_{left:05d}"])
        y, x = (min(at, SUB_IMAGE - PATCH) for at in (y - top, x - left))
        return pixels[y : y + PATCH, x : x + PATCH]

    yield "sub-image cv2", sub_image
    dataset = load(work.store(PREFIX + "png-banded") / "picture")
    sample = dataset.samples[0]
    member = sample.frames[0]
    data = dataset.storage.read(sample.shard, member.offset, member.offset + member.size)

    def bands(y: int, x: int) -> np.ndarray:
        window = Window(y, x, PATCH, PATCH)
        start, stop = span_of(member, window)
        return decode_member(memoryview(data)[start:stop], member, window)

    yield "bands", bands


def sizes(work: Work) -> dict[str, float]:
    """Bytes on disk, as a share of the source PNG."""
    source = folder_bytes(work.picture)
    banded = work.store(PREFIX + "png-banded") / "picture"
    return {
        "sub-image cv2": folder_bytes(work.store("sub-images")) / source,
        "bands": folder_bytes(banded) / source,
    }
