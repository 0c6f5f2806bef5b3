"""Watson's model of what is visible in a block, as a loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sr.block_dct import SIDE, block_dct, check_stride
from sr.losses.dct import thresholds
from sr.losses.luma import luma_255

_ADAPTATION = 0.649
"""Exponent of a block's brightness in its thresholds."""
_MASKING = 0.7
"""Exponent of a coefficient's size in its own threshold."""
_SMALLEST_DISTANCE = 1e-3
"""Rounds off the root of the pool at zero, in just noticeable differences."""


def adapted_thresholds(hr: Tensor, *, floor: float) -> Tensor:
    """Thresholds adapted to the brightness of each block in proportion to that of its picture.

    Args:
        hr: DCT of the target's luma in [0, 255], shape (N, K, 8, 8).
        floor: Least brightness of a block, as a fraction of the picture's mean: in a black block the thresholds would
            be zero and any difference infinitely visible. A picture's mean counts as at least one grey level.

    Returns:
        Grey levels, same shape as `hr`.
    """
    brightness = hr[..., 0, 0]
    mean = brightness.mean(dim=1, keepdim=True).clamp(min=float(SIDE))  # DC is 8 times the mean grey level.
    relative = torch.maximum(brightness / mean, torch.full_like(mean, floor))
    return thresholds(hr.device, hr.dtype) * relative.pow(_ADAPTATION)[..., None, None]


def masked_thresholds(adapted: Tensor, size: Tensor) -> Tensor:
    """Thresholds raised by the size of what is there: max(t, size^0.7 t^0.3), written so that size 0 has a gradient."""
    return torch.maximum(size, adapted).pow(_MASKING) * adapted.pow(1 - _MASKING)


def check_floor(floor: float, *, where: str) -> None:
    """Refuses a floor that is not a fraction above zero.

    Raises:
        ValueError: It isn't.
    """
    if not 0 < floor <= 1:
        raise ValueError(f"{where}.floor: expected a fraction in (0, 1], got {floor}; 0.1 is usual")


class WatsonDct(nn.Module):
    """Watson's distance: DCT differences in just noticeable ones, after adaptation to light and masking, pooled.

    Of luma, in 8 x 8 blocks. Each difference is divided by max(t, |hr|^0.7 t^0.3), t being the threshold of its
    frequency adapted to the block's brightness. Pooled over a picture by (mean |d|^p)^(1/p), then averaged over
    pictures. Watson pools with p = 4, where a few blocks rule the loss; p = 2 trains better. As in Czolbe et al. DC is masked
    too, so a change of brightness counts little. Blocks and colour as for `dct_l1`.

    Source: Watson, SPIE 1913, 1993, "DCTune"; as a loss Czolbe et al., NeurIPS 2020, "A Loss Function for Generative
    Neural Networks Based on Watson's Perceptual Model". The floor is ours, see `adapted_thresholds`.
    """

    def __init__(self, *, p: float = 2.0, floor: float = 0.1, stride: int = 8) -> None:
        super().__init__()
        if p < 1:
            raise ValueError(f"watson_dct.p: expected at least 1, got {p}; 2 for training, 4 as published")
        check_floor(floor, where="watson_dct")
        check_stride(stride)
        self.p = p
        self.floor = floor
        self.stride = stride

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss, in just noticeable differences; pictures of at least 8 x 8 pixels, else ValueError."""
        a = block_dct(luma_255(hr), stride=self.stride)
        b = block_dct(luma_255(sr), stride=self.stride)
        visible = (b - a).abs() / masked_thresholds(adapted_thresholds(a, floor=self.floor), a.abs())
        pooled = visible.pow(self.p).flatten(1).mean(dim=1)
        return ((pooled + _SMALLEST_DISTANCE**self.p).pow(1 / self.p) - _SMALLEST_DISTANCE).mean()
