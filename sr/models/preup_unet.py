"""A U-Net that corrects the bicubic enlargement: the wish of seed 2."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sr.models.blocks import DoubleConv, zero_
from sr.models.frames import PerFrame
from sr.models.padding import pad_to_multiple
from sr.models.upsampling import enlarge
from sr.resize import upscale_bicubic


class PreupUnet(PerFrame):
    """Bicubic enlargement, then a U-Net at HR size that predicts what bicubic lacks.

    Seed 2's outlook: let a U-Net correct, sharpen and recolour the enlarged picture; it gave no sizes. Here:
    `num_levels` levels of `width`, 2*width, 4*width ... channels, no normalisation, no checkerboard. The last layer
    starts at zero, so the network starts at bicubic. Any whole scale.

    Source: Chodounsky, FIT CTU 2021, "Image and Video Super-Resolution", outlook; U-Net: Ronneberger et al.,
    MICCAI 2015.
    """

    def __init__(
        self,
        *,
        scale: int,
        width: int = 64,
        num_levels: int = 3,
        norm: Literal["none", "batch", "group"] = "none",
    ) -> None:
        super().__init__()
        if num_levels < 1:
            raise ValueError(f"preup_unet.num_levels: must be 1 or more, got {num_levels}")
        self.scale = scale
        channels = [width * 2**level for level in range(num_levels)]
        self.encoder = nn.ModuleList(
            DoubleConv(inputs, outputs, norm=norm)
            for inputs, outputs in zip([3, *channels[:-1]], channels, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        down_to_up = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.ups = nn.ModuleList(enlarge("nearest", inputs, outputs, 2) for inputs, outputs in down_to_up)
        self.decoder = nn.ModuleList(DoubleConv(2 * outputs, outputs, norm=norm) for _, outputs in down_to_up)
        self.head = nn.Conv2d(width, 3, 1)
        zero_(self.head)

    def image(self, lr: Tensor) -> Tensor:
        """Upscales pictures, shape (N, 3, H, W)."""
        enlarged = upscale_bicubic(lr, self.scale)
        x = pad_to_multiple(enlarged, 2 ** (len(self.encoder) - 1))
        skips: list[Tensor] = []
        for i, level in enumerate(self.encoder):
            x = level(self.pool(x) if i else x)
            skips.append(x)
        skips.pop()
        for up, level in zip(self.ups, self.decoder, strict=True):
            x = level(torch.cat([skips.pop(), up(x)], dim=1))
        return enlarged + self.head(x)[..., : enlarged.shape[-2], : enlarged.shape[-1]]
