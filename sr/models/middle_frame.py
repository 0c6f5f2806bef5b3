"""Base of the generators that see several frames and give the middle one."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn


class MiddleFrame(nn.Module):
    """Checks the clip, (B, num_frames, 3, H, W), and returns (B, 1, 3, H*scale, W*scale); subclasses define `fuse`."""

    middle_frame_only: ClassVar[bool] = True
    """The output is the SR of frame `num_frames // 2`, and the only target."""
    num_frames: int
    """Frames per clip; odd. Of the class: by default; of an object: as it was built."""

    def __init__(self, *, num_frames: int, name: str) -> None:
        super().__init__()
        if num_frames < 1 or num_frames % 2 == 0:
            raise ValueError(
                f"{name}.num_frames: got {num_frames}, which has no middle frame; set an odd number, 1 or more"
            )
        self.num_frames = num_frames
        self._name = name

    def forward(self, lr: Tensor) -> Tensor:
        """Upscales the middle frame of each clip.

        Args:
            lr: RGB in [0, 1], shape (B, num_frames, 3, H, W).

        Raises:
            ValueError: `lr` is no clip, or has another number of frames.
        """
        if lr.dim() != 5:
            raise ValueError(
                f"{self._name}: got an input of shape {tuple(lr.shape)}, needs clips of {self.num_frames} frames, "
                f"shape (B, {self.num_frames}, 3, H, W); give it clips, or choose a model for single pictures"
            )
        if lr.shape[1] != self.num_frames:
            raise ValueError(
                f"{self._name}: got clips of {lr.shape[1]} frames, the network is built for {self.num_frames}; give "
                f"it clips of {self.num_frames} frames, or set its parameter num_frames to {lr.shape[1]}"
                + (" (it must be odd: drop a frame)" if lr.shape[1] % 2 == 0 else "")
            )
        return self.fuse(lr).unsqueeze(1)

    def fuse(self, lr: Tensor) -> Tensor:
        """Upscales the middle frame: (B, num_frames, 3, H, W) to (B, 3, H*scale, W*scale)."""
        raise TypeError(f"{type(self).__name__} must define fuse()")
