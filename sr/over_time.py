"""A clip as one picture: a few of its frames side by side, and one row of its pixels over all frames.

A middle frame says nothing about flicker. In the slice (an x-t picture) what stands still is a straight vertical line,
what moves evenly a slanted one, and what flickers or jumps is ragged.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sr.metrics import luma, to_8bit

FOLDER = "over_time"
"""Beside the middle frames, in a folder of its own: whoever lists those finds only them."""
_MAX_FRAMES = 7
_WINDOW = 64
_SLICE_HEIGHT = 64


@dataclass(frozen=True, slots=True)
class Place:
    """What is shown of a clip: the same for all versions of it."""

    top: int
    left: int
    height: int
    width: int
    row: int
    """Of the slice."""


def place_of_motion(hr: Tensor) -> Place:
    """The window, and the row of pixels, in which the most changes from frame to frame; the middle where nothing does.

    Args:
        hr: A clip in [0, 1], shape (T, 3, H, W), of two frames or more.
    """
    # In double and on the CPU: the place must not depend on the device.
    change = luma(to_8bit(hr.cpu())).diff(dim=0).abs().mean(dim=0)
    height, width = change.shape
    size = (min(_WINDOW, height), min(_WINDOW, width))
    if not change.any():
        return Place((height - size[0]) // 2, (width - size[1]) // 2, *size, height // 2)
    sums = F.avg_pool2d(change[None, None], size, stride=1)[0, 0]
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    rows = change[top : top + size[0]].mean(dim=1)
    return Place(top, left, *size, top + int(rows.argmax()))


def frame_strip(frames: Tensor, place: Place) -> np.ndarray:
    """Up to seven frames around the middle one, cut to the window, side by side; (T, 3, H, W) to uint8 (h, n * w, 3)."""
    first = max(0, (len(frames) - _MAX_FRAMES) // 2)
    shown = frames[first : first + _MAX_FRAMES]
    shown = shown[..., place.top : place.top + place.height, place.left : place.left + place.width]
    return np.concatenate(list(_as_levels(shown)), axis=1)


def slice_over_time(frames: Tensor, place: Place) -> np.ndarray:
    """One row of pixels of all frames, the first on top, each repeated downwards; (T, 3, H, W) to uint8 (n * T, W, 3)."""
    rows = _as_levels(frames[..., place.row : place.row + 1, :])[:, 0]
    return np.repeat(rows, max(1, _SLICE_HEIGHT // len(rows)), axis=0)


def _as_levels(frames: Tensor) -> np.ndarray:
    levels = to_8bit(frames).mul(255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def names(file: str) -> dict[str, str]:
    """What is kept of a clip whose middle frame has this file name: `frames` and `slice` to their paths beside it."""
    stem = file.removesuffix(".png")
    return {kind: f"{FOLDER}/{stem}.{kind}.png" for kind in ("frames", "slice")}


def save_over_time(path: Path, pictures: Tensor, place: Place) -> None:
    """Writes both pictures of a clip beside its middle frame.

    Args:
        path: Of the middle frame.
        pictures: Any version of the clip in the size of HR, (1, T, 3, H, W) in [0, 1].
        place: Of the HR version.
    """
    from PIL import Image

    (path.parent / FOLDER).mkdir(parents=True, exist_ok=True)
    drawn = {
        "frames": frame_strip(pictures[0], place),
        "slice": slice_over_time(pictures[0], place),
    }
    for kind, name in names(path.name).items():
        Image.fromarray(drawn[kind]).save(path.parent / name)
