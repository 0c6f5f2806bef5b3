"""Generators without parameters: the baselines."""

from __future__ import annotations

from torch import Tensor, nn

from sr.resize import upscale_bicubic


class Bicubic(nn.Module):
    """Bicubic enlargement with MATLAB's conventions."""

    def __init__(self, *, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, lr: Tensor) -> Tensor:
        """Upscales (..., H, W)."""
        return upscale_bicubic(lr, self.scale)


class Nearest(nn.Module):
    """Each pixel repeated `scale` times in both directions."""

    def __init__(self, *, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, lr: Tensor) -> Tensor:
        """Upscales (..., H, W)."""
        return lr.repeat_interleave(self.scale, dim=-2).repeat_interleave(self.scale, dim=-1)
