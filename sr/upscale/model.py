"""A generator made ready for pictures and video of any size: tiles, windows of frames, whole numbers out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sr.models import GENERATORS
from sr.models.frames import PerFrame
from sr.models.interpolation import Bicubic, Nearest
from sr.pretrained import load_generator
from sr.upscale.tiles import Tiling, upscaled_tiles
from sr.upscale.windows import Window, around_each, batches, overlapping

BASELINES: Mapping[str, Callable[..., nn.Module]] = {
    name: GENERATORS[name] for name in ("bicubic", "nearest")
}
"""What can stand in place of a checkpoint."""
_PIXELS_AT_ONCE = 2**17
"""LR pixels of a batch of small frames; more at once costs memory and is not faster."""


@dataclass(frozen=True, slots=True)
class Windows:
    """How recurrent generators get the frames of a video."""

    length: int = 8
    """Frames of a window that are kept."""
    warm_up: int = 4
    """Frames on both sides of them that are dropped."""

    def __post_init__(self) -> None:
        """Checks both.

        Raises:
            ValueError: One is out of range.
        """
        if self.length < 1 or self.warm_up < 0:
            raise ValueError(
                f"got windows of {self.length} frames with {self.warm_up} to warm up; give at least 1 and 0"
            )


@dataclass(frozen=True)
class Upscaler:
    """A generator in evaluation mode on its device, and how it is fed."""

    generator: nn.Module
    scale: int
    name: str
    """For people."""
    device: torch.device
    tiling: Tiling
    windows: Windows

    @property
    def takes_clips(self) -> bool:
        """Whether it looks at several frames to make one."""
        return not isinstance(self.generator, (PerFrame, Bicubic, Nearest))

    @torch.no_grad()
    def still(self, lr: Tensor) -> Tensor:
        """Upscales one picture as numbers, tile by tile: (3, h, w) in [0, 1] to (3, H, W), float, not clipped.

        For a generator that takes clips it is one that stands still.
        """
        clip = lr.expand(self._frames_around, *lr.shape)
        sr = torch.empty(3, lr.shape[-2] * self.scale, lr.shape[-1] * self.scale, device=self.device)
        for rows, columns, part in self._tiles(clip):
            sr[..., rows, columns] = part[0]
        return sr

    @property
    def _frames_around(self) -> int:
        """Frames that go into the one that comes out; 1 for generators that give all."""
        if not getattr(self.generator, "middle_frame_only", False):
            return 1
        count = self.generator.num_frames
        assert isinstance(count, int)
        return count

    def picture(self, lr: np.ndarray) -> np.ndarray:
        """Upscales one picture, (h, w, 3) uint8 or uint16, to (H, W, 3) of the same type."""
        return next(iter(self.frames([lr])))

    @torch.no_grad()
    def frames(self, lr: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Upscales the frames of a video, in order, holding few of them.

        Args:
            lr: (h, w, 3) each, all of one size; uint8 or uint16, the whole range of the type from black to white.

        Yields:
            (H, W, 3) of the same type.
        """
        for window in self._windows(iter(lr)):
            yield from self._window(window)

    def _windows(self, lr: Iterator[np.ndarray]) -> Iterator[Window[np.ndarray]]:
        if getattr(self.generator, "middle_frame_only", False):
            yield from around_each(lr, self._frames_around)
        elif self.takes_clips:
            yield from overlapping(lr, self.windows.length, self.windows.warm_up)
        else:
            first = next(lr, None)
            if first is None:
                return
            yield Window((first,), slice(0, 1))
            height, width = first.shape[:2]
            side = self.tiling.tile or max(height, width)
            pixels = min(height, side) * min(width, side)
            yield from batches(lr, max(1, min(16, _PIXELS_AT_ONCE // pixels)))

    def _window(self, window: Window[np.ndarray]) -> Iterator[np.ndarray]:
        stacked = np.stack(window.frames)
        white = np.iinfo(stacked.dtype).max
        lr = torch.from_numpy(stacked).to(self.device).float().div(white).permute(0, 3, 1, 2)
        height, width = stacked.shape[1] * self.scale, stacked.shape[2] * self.scale
        out = np.empty((window.kept.stop - window.kept.start, height, width, 3), stacked.dtype)
        for rows, columns, sr in self._tiles(lr):
            if not sr.isfinite().all():
                raise ValueError(
                    f"{self.name}: gives values that are no numbers, or infinite; its training has diverged: take "
                    "an earlier checkpoint"
                )
            levels = sr[window.kept].clamp(0, 1).mul(white).round().permute(0, 2, 3, 1)
            out[:, rows, columns] = levels.cpu().numpy().astype(stacked.dtype)
        yield from out

    def _tiles(self, lr: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        clip = lr.to(self.device)[None]
        for rows, columns, sr in upscaled_tiles(self.generator, clip, scale=self.scale, tiling=self.tiling):
            yield rows, columns, sr[0]


def open_upscaler(
    what: str,
    *,
    scale: int | None = None,
    device: str = "auto",
    tiling: Tiling = Tiling(),  # noqa: B008 - frozen
    windows: Windows = Windows(),
) -> Upscaler:
    """Loads what is to upscale.

    Args:
        what: A trial's folder, a checkpoint, an exported model, or one of BASELINES.
        scale: For BASELINES, which need it; a trained model has its own.
        device: "auto", "cpu" or "cuda".
        tiling: Of large pictures.
        windows: Of frames, for recurrent generators.

    Raises:
        ValueError: There is no such model or device, or the scale is missing or another one than the model's.
    """
    from sr.world import single_process

    if what in BASELINES and not Path(what).exists():
        if scale is None:
            raise ValueError(f"{what}: no scale is given; add: --scale 2")
        generator, name = BASELINES[what](scale=scale), what
    else:
        if not Path(what).exists():
            raise ValueError(
                f"{what}: no such model; give the folder of a trial, a checkpoint, an exported model, "
                f"or {' or '.join(BASELINES)}"
            )
        loaded = load_generator(Path(what))
        if scale not in (None, loaded.config.scale):
            raise ValueError(
                f"--scale {scale}: {loaded.name} upscales by {loaded.config.scale}; leave --scale out"
            )
        generator, scale, name = loaded.generator, loaded.config.scale, loaded.name
    place = single_process(device).device
    return Upscaler(generator.eval().to(place), scale, name, place, tiling, windows)
