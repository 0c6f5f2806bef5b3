"""The SR-U-Net of seed 2: a U-Net whose expanding path goes on beyond the input's size."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sr.collective import Dropout
from sr.models.blocks import DoubleConv, Norm, glorot_uniform_, zero_
from sr.models.frames import PerFrame
from sr.models.padding import pad_to_multiple
from sr.models.upsampling import enlarge, stages
from sr.resize import upscale_bicubic

_EPS, _MOMENTUM = 1e-3, 0.01
"""Of Keras' batch norm: epsilon 1e-3; its momentum of 0.99 is torch's 0.01."""


class SrUnet(PerFrame):
    """Seed 2's U-Net: three poolings, three enlargements with skips, then further enlargements to HR size.

    The defaults are the published network: at x2 it has 22,254,915 parameters as Keras counts them, the 9,216 moving
    means and variances of batch norm included. Its faults are cured by `up` (a transposed convolution of 3 with
    stride 2 has a checkerboard), `norm` (batch norm's moving statistics of near-identical frames let single pictures
    explode in evaluation) and `out` (nothing bounds a linear output; `residual` starts at bicubic). At x4 and x8 there
    are more enlargements of the last kind, as in the author's path for larger pictures.

    Pictures whose sides are no multiples of 8 are mirrored at the border up to one, and the result is cropped.

    Source: Chodounsky, FIT CTU 2021, "Image and Video Super-Resolution", and his published network; U-Net:
    Ronneberger et al., MICCAI 2015.
    """

    def __init__(
        self,
        *,
        scale: int,
        width: int = 64,
        up: Literal["convt", "shuffle", "nearest"] = "convt",
        norm: Literal["batch", "none", "group"] = "batch",
        out: Literal["linear", "sigmoid", "residual"] = "linear",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.out = out
        first, second, third = width, 4 * width, 8 * width
        self.encoder = nn.ModuleList(
            [_double(3, first, norm), _double(first, second, norm), _double(second, third, norm)]
        )
        self.pool = nn.Sequential(nn.MaxPool2d(2), Dropout(dropout))
        self.middle = _double(third, third, norm)
        # From deep to shallow: what comes in, what the enlargement gives, what the skip brings.
        plan = [(third, third, third), (third, second, second), (second, 2 * width, first)]
        self.ups = nn.ModuleList(enlarge(up, inputs, outputs, 2) for inputs, outputs, _ in plan)
        self.decoder = nn.ModuleList(_double(outputs + skip, outputs, norm) for _, outputs, skip in plan)
        beyond: list[nn.Module] = []
        for i, factor in enumerate(stages(scale, name="sr_unet")):
            beyond += [enlarge(up, width if i else 2 * width, width, factor), _double(width, width, norm)]
        self.beyond = nn.Sequential(*beyond)
        self.head = nn.Conv2d(width, 3, 1)
        (zero_ if out == "residual" else glorot_uniform_)(self.head)

    def image(self, lr: Tensor) -> Tensor:
        """Upscales pictures, shape (N, 3, H, W)."""
        height, width = lr.shape[-2] * self.scale, lr.shape[-1] * self.scale
        sr = self.head(self.beyond(self._unet(pad_to_multiple(lr, 8))))[..., :height, :width]
        if self.out == "sigmoid":
            return sr.sigmoid()
        return sr + upscale_bicubic(lr, self.scale) if self.out == "residual" else sr

    def _unet(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level in self.encoder:
            skips.append(level(x))
            x = self.pool(skips[-1])
        x = self.middle(x)
        for up, level in zip(self.ups, self.decoder, strict=True):
            x = level(torch.cat([skips.pop(), up(x)], dim=1))
        return x


def _double(inputs: int, outputs: int, norm: Norm) -> DoubleConv:
    return DoubleConv(inputs, outputs, norm=norm, eps=_EPS, momentum=_MOMENTUM)
