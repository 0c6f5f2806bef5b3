"""Lets a network for single pictures take clips."""

from __future__ import annotations

from torch import Tensor, nn


class PerFrame(nn.Module):
    """Base of generators that treat each frame by itself: subclasses define `image`, shape (N, 3, H, W)."""

    def forward(self, lr: Tensor) -> Tensor:
        """Upscales (B, 3, H, W) or (B, T, 3, H, W), each frame by itself."""
        frames = lr.reshape(-1, *lr.shape[-3:])
        sr = self.image(frames)
        return sr.reshape(*lr.shape[:-3], *sr.shape[-3:])

    def image(self, lr: Tensor) -> Tensor:
        """Upscales pictures, shape (N, 3, H, W)."""
        raise TypeError(f"{type(self).__name__} must define image()")
