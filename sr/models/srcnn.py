"""SRCNN: bicubic enlargement, then three convolutions."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from sr.models.blocks import zero_
from sr.models.frames import PerFrame
from sr.resize import upscale_bicubic


class Srcnn(PerFrame):
    """Bicubic enlargement, then convolutions of 9, 1 (or 3, 5) and 5 pixels; the first network for SR.

    The published network sees luma only; this one sees RGB, as all generators here do. It predicts the picture itself
    from weights of deviation 0.001, and so starts at black; `residual=true` predicts what bicubic lacks and starts at
    bicubic.

    Source: Dong et al., TPAMI 2016, "Image Super-Resolution Using Deep Convolutional Networks", sections 3.1 and 4.1
    (64 and 32 channels; 9-1-5, in later experiments 9-5-5).
    """

    def __init__(
        self,
        *,
        scale: int,
        channels: int = 64,
        middle_kernel: Literal[1, 3, 5] = 1,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.residual = residual
        convs = (
            nn.Conv2d(3, channels, 9, padding=4),
            nn.Conv2d(channels, channels // 2, middle_kernel, padding=middle_kernel // 2),
            nn.Conv2d(channels // 2, 3, 5, padding=2),
        )
        for conv in convs:
            if not residual:
                nn.init.normal_(conv.weight, std=0.001)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        if residual:
            zero_(convs[-1])
        self.body = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])

    def image(self, lr: Tensor) -> Tensor:
        """Upscales pictures, shape (N, 3, H, W)."""
        enlarged = upscale_bicubic(lr, self.scale)
        sr = self.body(enlarged)
        return sr + enlarged if self.residual else sr
