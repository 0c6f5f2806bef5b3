"""What is cut from a clip, and how it is turned."""

from collections.abc import Sequence

import numpy as np

from shards.decode import Window
from shards.manifest import Dataset
from shards.reader import read_clip
from shards.records import Sample
from shards.visits import Visit


class Cutter:
    """Reads the crops of visits. Safe to use from several threads."""

    def __init__(
        self,
        dataset: Dataset,
        samples: Sequence[Sample],
        *,
        patch_size: int,
        lr_scale: int,
        keeps_clips: bool,
    ) -> None:
        """`lr_scale` 0: no low-resolution partners. `keeps_clips`: whole clips stay in memory, decoded once."""
        self._dataset = dataset
        self._samples = samples
        self._patch_size = patch_size
        self._lr_scale = lr_scale
        self._kept: dict[int, tuple[np.ndarray, np.ndarray | None]] | None = {} if keeps_clips else None

    def cut(self, visit: Visit) -> tuple[np.ndarray, np.ndarray | None]:
        """The crop of a visit, uint8, shape (T, 3, P, P), and its low-resolution partner.

        Raises:
            DamagedError: The clip cannot be read.
        """
        sample, side = self._samples[visit.index], self._patch_size
        window = Window(visit.y, visit.x, side, side)
        small = None
        if scale := self._lr_scale:
            small = Window(visit.y // scale, visit.x // scale, side // scale, side // scale)
        if self._kept is not None or min(sample.height, sample.width) < side:
            hr, lr = self._whole(visit.index, sample)
            hr = _part(hr, window)
            lr = _part(lr, small) if lr is not None and small else None
        else:
            hr = read_clip(self._dataset, sample, window)
            lr = read_clip(self._dataset, sample, small, role="lr") if small else None
        turned = [dihedral(clip, visit.transform) if clip is not None else None for clip in (hr, lr)]
        return np.ascontiguousarray(turned[0]), np.ascontiguousarray(turned[1]) if lr is not None else None

    def _whole(self, index: int, sample: Sample) -> tuple[np.ndarray, np.ndarray | None]:
        """A clip, padded up to a crop, and its partner."""
        clips = self._kept.get(index) if self._kept is not None else None
        if clips is None:
            scale = self._lr_scale
            hr = pad_to(read_clip(self._dataset, sample), self._patch_size, multiple=scale or 1)
            lr = None
            if scale:
                lr = pad_to(read_clip(self._dataset, sample, role="lr"), self._patch_size // scale)
            clips = hr, lr
            if self._kept is not None:
                self._kept[index] = clips
        return clips


def _part(clip: np.ndarray, window: Window) -> np.ndarray:
    rows = slice(window.top, window.top + window.height)
    return clip[..., rows, window.left : window.left + window.width]


def dihedral(clip: np.ndarray, transform: int) -> np.ndarray:
    """One of the 8 symmetries of a square, the same for all frames.

    Args:
        clip: Shape (..., P, P).
        transform: 0 is none; + 1 a turn by 90 degrees; + 4 a mirror.
    """
    turned = np.rot90(clip, transform % 4, axes=(-2, -1))
    return turned[..., ::-1] if transform >= 4 else turned


def pad_to(clip: np.ndarray, side: int, *, multiple: int = 1) -> np.ndarray:
    """Mirrors a clip of shape (T, 3, H, W) at its borders, evenly, until H and W are at least `side`.

    What is added above and on the left is a multiple of `multiple`, so that a partner of another scale can follow.
    """
    missing = [max(side - length, 0) for length in clip.shape[-2:]]
    if not any(missing):
        return clip
    before = [less // 2 // multiple * multiple for less in missing]
    widths = [(0, 0), (0, 0), *((first, less - first) for first, less in zip(before, missing, strict=True))]
    return np.pad(clip, widths, mode="symmetric")
