"""Pictures small enough to lie in the page: lossless always, cut to a window where there are too many of them."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from sweeps.report.data import Crop

BUDGET = 3_300_000
"""Characters of all pictures of a page as base64: with 40 losses the rest of the page has 1.7 MB of its 5."""
_LEAST_SHOWN = 4
"""So many crops are shown, if only as windows, before any is shown in full."""
_SIDES = (None, 128, 96, 64)
_OVER_TIME = ("frames", "slice")


@dataclass(frozen=True, slots=True)
class Window:
    """Part of a picture, in its pixels."""

    left: int
    top: int
    width: int
    height: int


def beside(crop: Crop, folder: str) -> Crop:
    """The same crop with its pictures in files of a folder beside the page: `FOLDER/chelsea.png-2/crop-03-l1.png`."""
    own = f"{folder}/{_plain(crop.name)}/{crop.kind}"
    files = {label: f"{own}-{n:02d}-{_plain(label)}.png" for n, (label, _) in enumerate(crop.images)}
    return replace(crop, files=files)


def _plain(name: str) -> str:
    """A name that is one in every file system and needs no quoting in an address."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "x"


def in_page(content: bytes) -> int:
    """Characters that a picture takes in the page."""
    return 4 * -(-len(content) // 3)


def fitting(crops: Sequence[Crop], *, budget: int = BUDGET) -> list[Crop]:
    """Those crops that fit into the budget together, each taken if it still fits after those before it.

    Where fewer than four would (or fewer than those that the reader asked for), they are cut to the part in which the
    versions differ most, as large as possible.
    """
    wanted = min(max(_LEAST_SHOWN, sum(crop.is_pinned for crop in crops)), len(crops))
    taken: list[Crop] = []
    for side in _SIDES:
        taken, left = [], budget
        for place, crop in enumerate(crops):
            small = _small(crop, side)
            size = sum(in_page(content) for _, content in small.images)
            if size <= left:
                taken.append(small)
                left -= size
            elif place < wanted:
                break
        if len(taken) >= wanted:
            break
    return taken


def _small(crop: Crop, side: int | None) -> Crop:
    """The same crop in the fewest bytes, cut to a window of this side where it is larger."""
    window = None if side is None or crop.kind in _OVER_TIME else busiest(crop.images, side)
    images = tuple((label, smallest(content, _of(content, window, crop))) for label, content in crop.images)
    if window is None:
        return replace(crop, images=images)
    width, height = _largest(crop.images)
    part = f"the {window.width} \u00d7 {window.height} px of {width} \u00d7 {height} where the versions differ most"
    return replace(crop, images=images, reason="; ".join(filter(None, [crop.reason, part])))


def _of(content: bytes, window: Window | None, crop: Crop) -> Window | None:
    """The window in the pixels of this version: LR is smaller than the others."""
    if window is None:
        return None
    factor = max(1, _largest(crop.images)[0] // max(1, size(content)[0]))
    return Window(*(value // factor for value in (window.left, window.top, window.width, window.height)))


def _largest(images: Sequence[tuple[str, bytes]]) -> tuple[int, int]:
    return max((size(content) for _, content in images), default=(1, 1))


def busiest(images: Sequence[tuple[str, bytes]], side: int) -> Window | None:
    """Where the versions differ most, aligned to the pixels of LR; None where they are not larger than the window."""
    width, height = _largest(images)
    if width <= side and height <= side:
        return None
    versions = [
        pixels(content).astype(np.float32)
        for label, content in images
        if label not in ("LR", "HR") and size(content) == (width, height)
    ]
    spread = np.var(versions, axis=0).sum(axis=-1) if versions else np.zeros((height, width))
    wide, high = min(side, width), min(side, height)
    step = max(1, max(width // max(1, size(content)[0]) for _, content in images))
    wide, high = wide // step * step or wide, high // step * step or high
    total = np.pad(spread, ((1, 0), (1, 0))).cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    sums = total[high:, wide:] - total[:-high, wide:] - total[high:, :-wide] + total[:-high, :-wide]
    sums = sums[::step, ::step]
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    return Window(left * step, top * step, wide, high)


@lru_cache(maxsize=2048)
def smallest(content: bytes, window: Window | None = None) -> bytes:
    """The picture, or a part of it, as WebP or PNG, both lossless, whichever is smaller.

    What is no picture comes back as it is: it shows as a broken one.
    """
    try:
        picture = Image.open(io.BytesIO(content)).convert("RGB")
    except OSError:
        return content
    if window is not None:
        picture = picture.crop(
            (window.left, window.top, window.left + window.width, window.top + window.height)
        )
        content = _encoded(picture, format="PNG")
    # Method 2 takes 4 ms for 144 px squared, and slower ones hardly save more.
    return min(content, _encoded(picture, format="WEBP", lossless=True, method=2, quality=20), key=len)


def _encoded(picture: Image.Image, **options: Any) -> bytes:  # noqa: ANN401 - as Pillow takes them
    out = io.BytesIO()
    picture.save(out, **options)
    return out.getvalue()


def size(content: bytes) -> tuple[int, int]:
    """(width, height); (1, 1) of what is no picture."""
    try:
        return Image.open(io.BytesIO(content)).size
    except OSError:
        return 1, 1


def pixels(content: bytes) -> np.ndarray:
    """RGB, uint8, shape (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def mime(content: bytes) -> str:
    """What a browser is to be told."""
    return "image/webp" if content[8:12] == b"WEBP" else "image/png"
