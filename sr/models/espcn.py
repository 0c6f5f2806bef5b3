"""ESPCN: all work at LR size, then a pixel shuffle."""

from __future__ import annotations

from torch import Tensor, nn

from sr.models.frames import PerFrame
from sr.resize import upscale_bicubic


class Espcn(PerFrame):
    """Three convolutions and a pixel shuffle; small enough to train on a CPU.

    The published network predicts the picture itself. By default this one predicts what bicubic enlargement lacks
    (`residual`), which starts at the baseline and so needs far fewer steps; `residual=false` is the published form.

    Source: Shi et al., CVPR 2016, "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
    Convolutional Neural Network", section 3.1 (5-64, 3-32, 3-3s^2, tanh).
    """

    def __init__(self, *, scale: int, channels: int = 64, residual: bool = True) -> None:
        super().__init__()
        self.scale = scale
        self.residual = residual
        self.body = nn.Sequential(
            nn.Conv2d(3, channels, 5, padding=2),
            nn.Tanh(),
            nn.Conv2d(channels, channels // 2, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(channels // 2, 3 * scale**2, 3, padding=1),
        )
        self.shuffle = nn.PixelShuffle(scale)
        if residual:
            last = self.body[-1]
            assert isinstance(last, nn.Conv2d)
            nn.init.zeros_(last.weight)
            if last.bias is not None:
                nn.init.zeros_(last.bias)

    def image(self, lr: Tensor) -> Tensor:
        """Upscales pictures, shape (N, 3, H, W)."""
        sr = self.shuffle(self.body(lr))
        return sr + upscale_bicubic(lr, self.scale) if self.residual else sr
