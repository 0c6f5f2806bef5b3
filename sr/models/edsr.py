"""EDSR in its baseline size: residual blocks without normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sr.models.frames import PerFrame
from sr.models.upsampling import shuffle_upsampler

_DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean RGB of DIV2K's training pictures, in [0, 1]."""


class _Block(nn.Module):
    def __init__(self, channels: int, residual_scale: float) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual_scale * self.body(x)


class EdsrBaseline(PerFrame):
    """Residual blocks without normalisation, a long skip and pixel-shuffle upsampling; the usual pixel baseline.

    1,369,859 parameters at x2 and 1,517,571 at x4, the shift by the data set's mean not counted. The published big
    EDSR is `channels=256, num_blocks=32, residual_scale=0.1`. The original computes in 0..255, this one in 0..1.

    Source: Lim et al., CVPR workshops 2017, "Enhanced Deep Residual Networks for Single Image Super-Resolution",
    section 3 and table 1.
    """

    mean: Tensor

    def __init__(
        self, *, scale: int, channels: int = 64, num_blocks: int = 16, residual_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_DIV2K_MEAN).view(3, 1, 1), persistent=False)
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.trunk = nn.Sequential(
            *[_Block(channels, residual_scale) for _ in range(num_blocks)],
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.upsampler = shuffle_upsampler(channels, scale, name="edsr_baseline", prelu=False)
        self.head = nn.Conv2d(channels, 3, 3, padding=1)

    def image(self, lr: Tensor) -> Tensor:
        """Upscales pictures, shape (N, 3, H, W)."""
        shallow = self.stem(lr - self.mean)
        return self.head(self.upsampler(shallow + self.trunk(shallow))) + self.mean
