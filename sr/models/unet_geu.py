"""A multi-frame U-Net with gated enhancement units: a reconstruction of the network of seed 4."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from sr.models.blocks import zero_
from sr.models.middle_frame import MiddleFrame
from sr.models.padding import pad_to_multiple
from sr.models.upsampling import shuffle_upsampler
from sr.resize import upscale_bicubic

Fusion = Literal["early", "conv3d", "mean"]


class UnetGeu(MiddleFrame):
    """A U-Net that turns seven frames into the middle one; a labelled reconstruction of "U-Net+GEU 3".

    **What is reconstructed.** Seed 4 names its network "U-Net+GEU 3" and says that sub-pixel convolutions were added
    for x8; the publication that defines GEU could not be obtained. "Gated enhancement unit" is our reading of the
    letters and "3" our reading of the number, so results of this network say nothing about the published one. Each
    choice is a parameter:

    Args:
        scale: 2, 3, 4 or 8; the document's is 8.
        num_frames: Frames per clip, odd; the middle one is enlarged.
        width: Channels at LR size; each level below has twice as many.
        num_downs: Halvings by strided convolutions.
        stem_channels: Channels of the two convolutions that each frame goes through by itself.
        fusion: How frames become one: `early` stacks their channels before a 1 x 1 convolution, `conv3d` has a 3 x 3
            kernel over all frames, `mean` averages before the 1 x 1 convolution (blind to the frames' order).
        level: Where units stand: 1 in the bottleneck, 2 also in the skips, 3 also behind the decoder's stages.
        gate: Whether the unit's addition is weighted by a sigmoid gate; without, it is a residual block.
        residual: Whether bicubic enlargement of the middle frame is added; the network then starts there.

    Source: after Mezina and Burget, BUT 2021, "Impact of Loss Function on Multi-Frame Super-Resolution".
    """

    num_frames: int = 7

    def __init__(
        self,
        *,
        scale: int,
        num_frames: int = num_frames,
        width: int = 64,
        num_downs: int = 2,
        stem_channels: int = 32,
        fusion: Literal["early", "conv3d", "mean"] = "early",
        level: Literal[1, 2, 3] = 3,
        gate: bool = True,
        residual: bool = True,
    ) -> None:
        super().__init__(num_frames=num_frames, name="unet_geu")
        if num_downs < 0:
            raise ValueError(f"unet_geu.num_downs: must be 0 or more, got {num_downs}")
        self.scale = scale
        self.residual = residual
        self.fusion = fusion
        self.stem = nn.Sequential(_conv_prelu(3, stem_channels), _conv_prelu(stem_channels, stem_channels))
        self.fuse_frames = _fusion(fusion, num_frames, stem_channels, width)
        channels = [width * 2**i for i in range(num_downs + 1)]
        self.entry = _double(width, width)
        self.downs = nn.ModuleList(_down(a, b) for a, b in pairwise(channels))
        self.bottleneck = Geu(channels[-1], gate=gate)
        shallower = channels[-2::-1] if num_downs else []
        self.skips = nn.ModuleList(_unit(c, present=level >= 2, gate=gate) for c in shallower)
        self.ups = nn.ModuleList(_shuffle_up(2 * c, c) for c in shallower)
        self.merges = nn.ModuleList(_double(2 * c, c) for c in shallower)
        self.decoded = nn.ModuleList(_unit(c, present=level >= 3, gate=gate) for c in shallower)
        self.upsampler = shuffle_upsampler(width, scale, name="unet_geu", prelu=True)
        self.head = nn.Conv2d(width, 3, 3, padding=1)
        if residual:
            zero_(self.head)

    def fuse(self, lr: Tensor) -> Tensor:
        """Upscales the middle frame: (B, num_frames, 3, H, W) to (B, 3, H*scale, W*scale)."""
        height, width = lr.shape[-2] * self.scale, lr.shape[-1] * self.scale
        x = self._unet(self._fused(pad_to_multiple(lr, 2 ** len(self.downs))))
        sr = self.head(self.upsampler(x))[..., :height, :width]
        if not self.residual:
            return sr
        return sr + upscale_bicubic(lr[:, self.num_frames // 2], self.scale)

    def _fused(self, lr: Tensor) -> Tensor:
        features = self.stem(lr.flatten(0, 1)).unflatten(0, lr.shape[:2])
        if self.fusion == "early":
            return self.fuse_frames(features.flatten(1, 2))
        if self.fusion == "mean":
            return self.fuse_frames(features.mean(dim=1))
        return self.fuse_frames(features.transpose(1, 2)).squeeze(2)

    def _unet(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        seen: list[Tensor] = []
        for down in self.downs:
            seen.append(x)
            x = down(x)
        x = self.bottleneck(x)
        for up, skip, merge, unit in zip(self.ups, self.skips, self.merges, self.decoded, strict=True):
            x = unit(merge(torch.cat([skip(seen.pop()), up(x)], dim=1)))
        return x


class Geu(nn.Module):
    """The reconstructed unit: the input plus an addition, weighted at each place by a gate between 0 and 1."""

    def __init__(self, channels: int, *, gate: bool) -> None:
        super().__init__()
        self.addition = nn.Sequential(_conv_prelu(channels, channels), _conv(channels, channels))
        self.gate = (
            nn.Sequential(_conv_prelu(channels, channels), nn.Conv2d(channels, channels, 1), nn.Sigmoid())
            if gate
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns x + gate(x) * addition(x), shape (N, channels, H, W)."""
        addition = self.addition(x)
        return x + (addition if self.gate is None else self.gate(x) * addition)


def _unit(channels: int, *, present: bool, gate: bool) -> nn.Module:
    return Geu(channels, gate=gate) if present else nn.Identity()


def _conv(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


def _conv_prelu(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs, stride=stride), nn.PReLU())


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_conv_prelu(inputs, outputs), _conv_prelu(outputs, outputs))


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_conv_prelu(inputs, outputs, stride=2), _double(outputs, outputs))


def _shuffle_up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, 4 * outputs), nn.PixelShuffle(2), nn.PReLU())


def _fusion(kind: Fusion, num_frames: int, inputs: int, outputs: int) -> nn.Module:
    if kind == "early":
        return nn.Conv2d(num_frames * inputs, outputs, 1)
    if kind == "mean":
        return nn.Conv2d(inputs, outputs, 1)
    return nn.Conv3d(inputs, outputs, (num_frames, 3, 3), padding=(0, 1, 1))
