"""The generator of seed 2's SR-GAN."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from sr.models.blocks import ResidualBlock, glorot_uniform_, norm_layer, zero_
from sr.models.frames import PerFrame
from sr.models.upsampling import IcnrConv, NearestUp, TransposedConv, stages
from sr.resize import upscale_bicubic

_EPS, _MOMENTUM = 1e-3, 0.5
"""Of its batch norm: Keras' epsilon, and a momentum of 0.5, which means the same in torch."""
_EXPANSION = 4
"""The published network has four times the channels behind the first enlargement."""


class SrganKeras(PerFrame):
    """Seed 2's SRGAN generator: SRResNet with nearest enlargement and tanh against targets in 0..1.

    The defaults are the published network: at x2 it has 1,453,699 parameters as Keras counts them, the 4,224 moving
    means and variances of batch norm included. Its tanh is taken as it is, so that the lower half of its range lies
    below black; `out="linear"` has no bound and `out="residual"` adds bicubic and starts there. Published is
    Conv, nearest, LeakyReLU, in this order (`up="nearest"`): each value is repeated before the last 9 x 9 convolution.

    Source: Chodounsky, FIT CTU 2021, "Image and Video Super-Resolution", and his published network, after Ledig et
    al., CVPR 2017.
    """

    def __init__(
        self,
        *,
        scale: int,
        channels: int = 64,
        num_blocks: int = 16,
        norm: Literal["batch", "none", "group"] = "batch",
        up: Literal["nearest", "shuffle", "convt"] = "nearest",
        out: Literal["tanh", "linear", "residual"] = "tanh",
    ) -> None:
        super().__init__()
        self.scale = scale
        self.out = out
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 9, padding=4), nn.PReLU(channels, init=0.0))
        self.trunk = nn.Sequential(
            *[
                ResidualBlock(
                    channels, norm=norm, eps=_EPS, momentum=_MOMENTUM, slopes=channels, first_slope=0.0
                )
                for _ in range(num_blocks)
            ],
            nn.Conv2d(channels, channels, 3, padding=1),
            norm_layer(norm, channels, eps=_EPS, momentum=_MOMENTUM),
        )
        wide = _EXPANSION * channels if up == "nearest" else channels
        layers: list[nn.Module] = []
        for i, factor in enumerate(stages(scale, name="srgan_keras")):
            layers += [*_enlargement(up, wide if i else channels, wide, factor), nn.LeakyReLU(0.2)]
        self.upsampler = nn.Sequential(*layers)
        self.head = nn.Conv2d(wide, 3, 9, padding=4)
        for module in self.modules():
            # IcnrConv and TransposedConv have initialised themselves.
            if type(module) is nn.Conv2d:
                glorot_uniform_(module)
        if out == "residual":
            zero_(self.head)

    def image(self, lr: Tensor) -> Tensor:
        """Upscales pictures, shape (N, 3, H, W)."""
        shallow = self.stem(lr)
        sr = self.head(self.upsampler(shallow + self.trunk(shallow)))
        if self.out == "tanh":
            return sr.tanh()
        return sr + upscale_bicubic(lr, self.scale) if self.out == "residual" else sr


def _enlargement(up: str, inputs: int, outputs: int, factor: int) -> list[nn.Module]:
    if up == "convt":
        return [TransposedConv(inputs, outputs, factor)]
    if up == "shuffle":
        return [IcnrConv(inputs, outputs, factor), nn.PixelShuffle(factor)]
    return [nn.Conv2d(inputs, outputs, 3, padding=1), NearestUp(factor)]
