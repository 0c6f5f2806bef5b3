"""Plain and contrast-weighted L1 of block DCT coefficients."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from sr.block_dct import block_dct, check_stride
from sr.losses.luma import luma_255

_THRESHOLDS = (
    (1.40, 1.01, 1.16, 1.66, 2.40, 3.43, 4.79, 6.56),
    (1.01, 1.45, 1.32, 1.52, 2.00, 2.71, 3.67, 4.93),
    (1.16, 1.32, 2.24, 2.59, 2.98, 3.64, 4.60, 5.88),
    (1.66, 1.52, 2.59, 3.77, 4.55, 5.30, 6.28, 7.60),
    (2.40, 2.00, 2.98, 4.55, 6.15, 7.46, 8.71, 10.17),
    (3.43, 2.71, 3.64, 5.30, 7.46, 9.62, 11.58, 13.51),
    (4.79, 3.67, 4.60, 6.28, 8.71, 11.58, 14.50, 17.29),
    (6.56, 4.93, 5.88, 7.60, 10.17, 13.51, 17.29, 21.15),
)
"""Just noticeable differences on mid grey, in grey levels of the orthonormal DCT (Watson 1993, SPIE 1913)."""


@functools.lru_cache(maxsize=16)
def thresholds(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Just noticeable difference by (vertical, horizontal) frequency, grey levels, shape (8, 8)."""
    return torch.tensor(_THRESHOLDS, device=device, dtype=dtype)


class DctL1(nn.Module):
    """L1 of the 8 x 8 DCT coefficients of luma, in grey levels: as L1, but of frequencies in place of pixels.

    Colour has no part in it: use it beside a loss on RGB. A rest of less than `stride` pixels at the right and lower
    edge is in no block and gets no gradient. The transform is a rotation, so its square would be the MSE again.

    Source: Ahmed, Natarajan and Rao 1974 for the transform.
    """

    def __init__(self, *, stride: int = 8) -> None:
        super().__init__()
        check_stride(stride)
        self.stride = stride

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss; pictures of at least 8 x 8 pixels, else ValueError."""
        return block_dct(luma_255(sr) - luma_255(hr), stride=self.stride).abs().mean()


class DctCsf(nn.Module):
    """L1 of the 8 x 8 DCT of luma in just noticeable differences: what the eye doesn't resolve counts less.

    Each coefficient is divided by Watson's threshold for its frequency; no adaptation to the picture. Blocks and colour
    as for `dct_l1`.

    Source: Watson, SPIE 1913, 1993, "DCTune", thresholds at mid grey.
    """

    def __init__(self, *, stride: int = 8) -> None:
        super().__init__()
        check_stride(stride)
        self.stride = stride

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss; pictures of at least 8 x 8 pixels, else ValueError."""
        difference = block_dct(luma_255(sr) - luma_255(hr), stride=self.stride)
        return (difference / thresholds(sr.device, sr.dtype)).abs().mean()
