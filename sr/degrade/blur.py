"""Gaussian blur, with a width for each frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sr.degrade.draws import Draws, check_bounds

Border = Literal["replicate", "reflect"]


def gaussian(clips: Tensor, sigma: float | np.ndarray, *, size: int, border: Border) -> Tensor:
    """Blurs each frame with a sampled Gaussian whose taps sum to 1.

    Args:
        clips: float32, shape (B, T, C, H, W).
        sigma: Standard deviation in pixels, one for all or of shape (B, T).
        size: Taps in each direction. Even: the output lies half a pixel to the bottom right of the input.
        border: What is beyond the edge: the edge pixel again, or the picture mirrored without repeating it.

    Returns:
        float32, same shape.

    Raises:
        ValueError: The picture is too small to be mirrored that far.
    """
    height, width = clips.shape[-2:]
    if border == "reflect" and size // 2 >= min(height, width):
        raise ValueError(
            f"blur: {size} taps do not fit a picture of {width} x {height} px; use fewer taps or a larger picture"
        )
    offsets = np.arange(size) - (size - 1) / 2
    widths = np.broadcast_to(np.asarray(sigma, dtype=np.float64), clips.shape[:2])
    kernel = np.exp(-0.5 * (offsets / widths[..., None]) ** 2)
    kernel /= kernel.sum(axis=-1, keepdims=True)
    taps = torch.from_numpy(kernel.astype(np.float32)).to(clips.device)
    before, after = (size - 1) // 2, size // 2
    padded = F.pad(clips.flatten(0, 1), (before, after, before, after), mode=border)
    padded = padded.reshape(*clips.shape[:2], *padded.shape[1:])
    # Sums of shifted pictures rather than a convolution: the same numbers on a GPU, which would convolve in TF32.
    rows = sum(taps[..., k, None, None, None] * padded[..., k : k + height, :] for k in range(size))
    assert isinstance(rows, Tensor)
    both = sum(taps[..., k, None, None, None] * rows[..., k : k + width] for k in range(size))
    assert isinstance(both, Tensor)
    return both


class GaussianBlur:
    """Gaussian blur of a random width; leaves the size.

    Widths are drawn evenly between the two of `sigma`, in pixels of the picture at that place in the chain.
    """

    reduces = False

    def __init__(
        self,
        *,
        sigma: Sequence[float] = (0.2, 3.0),
        size: int = 21,
        border: Literal["replicate", "reflect"] = "replicate",
        per_frame: bool = False,
    ) -> None:
        check_bounds("sigma", sigma, least=0.01)
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size: got {size}; give an odd number of taps, e.g. 21")
        self.sigma = sigma
        self.size = size
        self.border: Border = border
        self.per_frame = per_frame

    def __call__(self, clips: Tensor, *, scale: int, draws: Draws) -> Tensor:
        """Blurs."""
        widths = draws.uniform(
            "gaussian_blur.sigma", self.sigma, frames=clips.shape[1], per_frame=self.per_frame
        )
        return gaussian(clips, widths, size=self.size, border=self.border)
