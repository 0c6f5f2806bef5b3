"""Degradations that make pictures smaller and do nothing else."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from sr.degrade.blur import gaussian
from sr.degrade.draws import Draws
from sr.resize import bicubic


class BicubicAa:
    """Antialiased bicubic (a = -0.5) as MATLAB's imresize(hr, 1/scale): what SR papers call BI.

    Computed in float32 in both directions and rounded once. Source: Keys 1981; conventions of MATLAB's imresize, whose
    border mirrors the picture with its edge pixel repeated.
    """

    reduces = True

    def __call__(self, clips: Tensor, *, scale: int, draws: Draws) -> Tensor:
        """Reduces; may overshoot [0, 1] a little."""
        return bicubic(clips, height=clips.shape[-2] // scale, width=clips.shape[-1] // scale)


class BicubicCv2:
    """Bicubic (a = -0.75) without antialiasing, as OpenCV's resize with INTER_CUBIC; aliases strongly.

    The border repeats the edge pixel. An LR picture made so is not what an antialiased reduction of the HR picture is:
    PSNR between the two is 22 to 30 dB on photographs, against above 50 dB for `bicubic_aa`.
    """

    reduces = True

    def __call__(self, clips: Tensor, *, scale: int, draws: Draws) -> Tensor:
        """Reduces; may overshoot [0, 1]."""
        return _interpolated(clips, scale, "bicubic")


class Bilinear:
    """Bilinear without antialiasing: at any even scale the mean of the four pixels in the middle."""

    reduces = True

    def __call__(self, clips: Tensor, *, scale: int, draws: Draws) -> Tensor:
        """Reduces."""
        return _interpolated(clips, scale, "bilinear")


class BlurDown:
    """Gaussian blur and every `scale`-th pixel: what video SR papers call BD (sigma 1.6, 13 x 13).

    With `phase: first`, the papers' way, LR pixel i is HR pixel scale*i after the blur. Against an upscaling whose pixels
    are areas, as bicubic's here, such pictures lie (scale - 1)/2 HR pixels to the top left, which a network must learn to
    undo. With `phase: centre` LR pixel i is centred on the scale x scale HR pixels that it stands for, as in `bicubic_aa`; at
    an even scale that is between two pixels, and the kernel has one more tap. The border repeats the edge pixel.

    Source: Jo et al., CVPR 2018, "Deep Video Super-Resolution Network Using Dynamic Upsampling Filters", section 4.1.
    """

    reduces = True

    def __init__(
        self, *, sigma: float = 1.6, size: int = 13, phase: Literal["first", "centre"] = "first"
    ) -> None:
        if sigma <= 0:
            raise ValueError(f"sigma: got {sigma}; give a width above 0 in HR pixels, e.g. 1.6")
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size: got {size}; give an odd number of taps, e.g. 13")
        self.sigma = sigma
        self.size = size
        self.phase = phase

    def __call__(self, clips: Tensor, *, scale: int, draws: Draws) -> Tensor:
        """Reduces."""
        if self.phase == "first":
            return gaussian(clips, self.sigma, size=self.size, border="replicate")[..., ::scale, ::scale]
        # Between two pixels the kernel is even; `gaussian` then centres output n on n + 1/2.
        size = self.size + 1 if scale % 2 == 0 else self.size
        first = (scale - 1) // 2
        return gaussian(clips, self.sigma, size=size, border="replicate")[..., first::scale, first::scale]


def _interpolated(clips: Tensor, scale: int, mode: str) -> Tensor:
    frames = clips.flatten(0, 1)
    size = (frames.shape[-2] // scale, frames.shape[-1] // scale)
    reduced = F.interpolate(frames, size=size, mode=mode, align_corners=False, antialias=False)
    return reduced.reshape(*clips.shape[:2], *reduced.shape[1:])
