"""Ways to enlarge feature maps, with and without checkerboard."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.models.blocks import glorot_uniform_

Up = Literal["convt", "shuffle", "nearest"]


def stages(scale: int, *, name: str) -> list[int]:
    """Returns the factors whose product is `scale`: threes and twos, as the published networks enlarge.

    Raises:
        ValueError: `scale` is none of 2, 3, 4 and 8.
    """
    if scale not in (2, 3, 4, 8):
        raise ValueError(f"{name}: scale must be 2, 3, 4 or 8, got {scale}")
    return [3] if scale == 3 else [2] * (scale.bit_length() - 1)


class TransposedConv(nn.ConvTranspose2d):
    """A transposed 3 x 3 convolution that enlarges by `factor`, placed as TensorFlow's "same" padding places it.

    With factor 2 the outputs at even and odd positions see different numbers of kernel taps: the checkerboard of
    Odena et al., Distill 2016, "Deconvolution and Checkerboard Artifacts".
    """

    def __init__(self, inputs: int, outputs: int, factor: int) -> None:
        super().__init__(inputs, outputs, 3, stride=factor)
        self.factor = factor
        glorot_uniform_(self)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002
        """Enlarges (N, inputs, H, W) to (N, outputs, H*factor, W*factor)."""
        height, width = input.shape[-2] * self.factor, input.shape[-1] * self.factor
        # The whole result is one row and column too large; TensorFlow cuts them at the end, where torch's
        # `padding=1, output_padding=1` would cut at the start and so move the picture by a pixel.
        return super().forward(input, output_size)[..., :height, :width]


class NearestUp(nn.Module):
    """Each pixel repeated `factor` times in both directions."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Enlarges (N, C, H, W) to (N, C, H*factor, W*factor)."""
        return F.interpolate(x, scale_factor=self.factor, mode="nearest")


class IcnrConv(nn.Conv2d):
    """The convolution before a pixel shuffle, initialised so that the shuffle starts as nearest enlargement.

    Source: Aitken et al. 2017, "Checkerboard artifact free sub-pixel convolution", ICNR.
    """

    def __init__(self, inputs: int, outputs: int, factor: int) -> None:
        super().__init__(inputs, outputs * factor**2, 3, padding=1)
        glorot_uniform_(self)
        one_of_each = nn.Conv2d(inputs, outputs, 3, device=self.weight.device)
        glorot_uniform_(one_of_each)
        with torch.no_grad():
            self.weight.copy_(one_of_each.weight.repeat_interleave(factor**2, dim=0))


def enlarge(up: Up, inputs: int, outputs: int, factor: int) -> nn.Module:
    """Returns a layer that enlarges (N, inputs, H, W) to (N, outputs, H*factor, W*factor).

    `convt` is a transposed convolution, which has a checkerboard; `shuffle` a pixel shuffle that starts without one;
    `nearest` repeats pixels and then convolves, which cannot have one.
    """
    if up == "convt":
        return TransposedConv(inputs, outputs, factor)
    if up == "shuffle":
        return nn.Sequential(IcnrConv(inputs, outputs, factor), nn.PixelShuffle(factor))
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    glorot_uniform_(conv)
    return nn.Sequential(NearestUp(factor), conv)


def shuffle_upsampler(channels: int, scale: int, *, name: str, prelu: bool) -> nn.Sequential:
    """Returns Conv3, pixel shuffle and, with `prelu`, PReLU for each factor of `scale`, all with `channels` channels."""
    layers: list[nn.Module] = []
    for factor in stages(scale, name=name):
        layers += [nn.Conv2d(channels, channels * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
        layers += [nn.PReLU()] if prelu else []
    return nn.Sequential(*layers)
