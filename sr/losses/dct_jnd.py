"""The bounded DCT loss in just noticeable differences."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.block_dct import SIDE, block_dct, check_stride
from sr.losses.luma import luma_255
from sr.losses.watson import adapted_thresholds, check_floor, masked_thresholds


class DctJnd(nn.Module):
    """DCT differences in just noticeable ones, a smooth L1 of them, in [0, 1]: 0 agrees, 0.5 is clearly visible.

    d = (sr - hr) / s, with Watson's s raised by the larger of both coefficients, but not for DC: brightness doesn't
    hide its own change. e = sqrt(d^2 + 1) - 1; m = weighted mean of e in a picture, DC counting `dc_weight`;
    E = m / (1 + m), averaged over pictures. Of luma, in 8 x 8 blocks as for `dct_l1`: with `pixel_share` above 0 the
    loss is (1 - share) E + share L1 of RGB, which also minds colour.

    Source: thresholds of Watson, SPIE 1913, 1993, with the floor of `watson_dct`; pooling and bound are a
    reconstruction, for a loss described only as expressive, fast and bounded.
    """

    def __init__(
        self, *, dc_weight: float = 0.25, floor: float = 0.1, pixel_share: float = 0.0, stride: int = 8
    ) -> None:
        super().__init__()
        if dc_weight < 0:
            raise ValueError(f"dct_jnd.dc_weight: expected at least 0, got {dc_weight}; 0.25 is usual")
        if not 0 <= pixel_share <= 1:
            raise ValueError(
                f"dct_jnd.pixel_share: expected a fraction in [0, 1], got {pixel_share}; 0 is DCT alone"
            )
        check_floor(floor, where="dct_jnd")
        check_stride(stride)
        self.dc_weight = dc_weight
        self.floor = floor
        self.pixel_share = pixel_share
        self.stride = stride

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss; pictures of at least 8 x 8 pixels, else ValueError."""
        a = block_dct(luma_255(hr), stride=self.stride)
        b = block_dct(luma_255(sr), stride=self.stride)
        adapted = adapted_thresholds(a, floor=self.floor)
        without_dc = torch.ones_like(a[0, 0])
        without_dc[0, 0] = 0
        size = torch.maximum(a.abs(), b.abs()) * without_dc
        visible = (b - a) / masked_thresholds(adapted, size)
        square = visible.square()
        smooth = square / (
            (square + 1).sqrt() + 1
        )  # sqrt(d^2 + 1) - 1, which would round small d away in float32.
        total = smooth.sum(dim=(-2, -1)) - (1 - self.dc_weight) * smooth[..., 0, 0]
        mean = total.mean(dim=1) / (SIDE * SIDE - 1 + self.dc_weight)
        bounded = (mean / (1 + mean)).mean()
        return (1 - self.pixel_share) * bounded + self.pixel_share * F.l1_loss(sr, hr)
