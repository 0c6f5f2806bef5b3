"""Structural similarity as a loss."""

from __future__ import annotations

from torch import Tensor, nn

from sr.similarity import ssim_map


class SsimLoss(nn.Module):
    """1 - SSIM, on RGB, Gaussian window of 11 pixels: compares local means, contrasts and structures.

    Source: Wang et al., IEEE TIP 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity".
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss, in [0, 2]."""
        return 1 - ssim_map(sr, hr).mean()
