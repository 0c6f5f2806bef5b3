"""The error behind PSNR-HVS-M, as a loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.block_dct import blocks_of, check_stride, dct_of
from sr.hvs import dead_zone, masking_energy, sensitivity
from sr.losses.luma import luma_255

_SMALLEST_MASKING = 1e-5
"""Rounds off the masking energy of flat blocks, in grey levels, so that its gradient is finite."""


class PsnrHvsM(nn.Module):
    """The squared error of PSNR-HVS-M: DCT of luma, weighted by contrast sensitivity, less what texture masks.

    The mean error over 255^2, not decibels. The metric has no gradient where a difference is masked, so here the dead
    zone has soft edges `softness` grey levels wide, and `pixel_weight` times the L1 of RGB is added; with both towards
    0 it is the metric's error. Blocks as for `dct_l1`.

    Source: Ponomarenko et al., VPQM 2007, "On between-coefficient contrast masking of DCT basis functions"; the metric
    itself is `sr.hvs.psnr_hvs_m`. Soft edges and pixel term are ours.
    """

    def __init__(self, *, softness: float = 1.0, pixel_weight: float = 0.01, stride: int = 8) -> None:
        super().__init__()
        if softness <= 0:
            raise ValueError(
                f"psnr_hvs_m.softness: expected a positive width in grey levels, got {softness}; use 1"
            )
        if pixel_weight < 0:
            raise ValueError(
                f"psnr_hvs_m.pixel_weight: expected at least 0, got {pixel_weight}; 0.01 is usual"
            )
        check_stride(stride)
        self.softness = softness
        self.pixel_weight = pixel_weight
        self.stride = stride

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss; pictures of at least 8 x 8 pixels, else ValueError."""
        blocks_a = blocks_of(luma_255(hr), stride=self.stride)
        blocks_b = blocks_of(luma_255(sr), stride=self.stride)
        a, b = dct_of(blocks_a), dct_of(blocks_b)
        masking = torch.maximum(
            masking_energy(blocks_a, a, soften=_SMALLEST_MASKING),
            masking_energy(blocks_b, b, soften=_SMALLEST_MASKING),
        )
        visible = self._beyond(b - a, dead_zone(masking)) * sensitivity(sr.device, sr.dtype)
        return visible.square().mean() / 255**2 + self.pixel_weight * F.l1_loss(sr, hr)

    def _beyond(self, difference: Tensor, width: Tensor) -> Tensor:
        """What of a difference is beyond the dead zone, with its sign; smooth, and the difference itself at width 0."""
        sharpness = 1 / self.softness
        return F.softplus(difference - width, sharpness) - F.softplus(-difference - width, sharpness)
