"""What the recurrent generators share: clips as input, and the layers that several of them use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Recurrent(nn.Module):
    """Base of generators that carry a state through a clip: subclasses define `clip`.

    Single pictures count as clips of one frame.
    """

    def forward(self, lr: Tensor) -> Tensor:
        """Upscales clips (B, T, 3, H, W) or pictures (B, 3, H, W)."""
        sr = self.clip(lr if lr.ndim == 5 else lr[:, None])
        return sr.reshape(*lr.shape[:-3], *sr.shape[-3:])

    def clip(self, lr: Tensor) -> Tensor:
        """Upscales clips (B, T, 3, H, W), T >= 1."""
        raise TypeError(f"{type(self).__name__} must define clip()")


class ResidualBlock(nn.Module):
    """Convolution, ReLU, convolution, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape (N, channels, H, W)."""
        return x + self.body(x)


def upsampling_factors(name: str, scale: int, *, allow_three: bool) -> list[int]:
    """The steps of an upsampler: [3] for 3, otherwise twos.

    Raises:
        ValueError: The scale is not one that the model offers.
    """
    if scale == 3 and allow_three:
        return [3]
    if scale in (2, 4, 8):
        return [2] * (scale.bit_length() - 1)
    raise ValueError(f"{name}: scale must be {'2, 3, 4 or 8' if allow_three else '2, 4 or 8'}, got {scale}")


def enlarge(frames: Tensor, scale: int) -> Tensor:
    """Bilinear enlargement of (N, C, H, W), pixel centres aligned as in the degradations."""
    return F.interpolate(frames, scale_factor=scale, mode="bilinear", align_corners=False)


def with_predecessor(lr: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of consecutive frames of (B, T, 3, H, W): each frame's predecessor and the frame, both (B, P, 3, H, W).

    P is T - 1. A single frame is its own predecessor, so that a flow network has work to do and gradients with pictures
    too: distributed training needs every parameter in every step.
    """
    return (lr, lr) if lr.shape[1] == 1 else (lr[:, :-1], lr[:, 1:])


def scale_down_initial_weights(module: nn.Module, factor: float) -> None:
    """Kaiming initialisation of all convolutions, times `factor`; biases zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=0, mode="fan_in")
            with torch.no_grad():
                layer.weight *= factor
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
