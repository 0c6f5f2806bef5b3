"""Whether the output still says what the input said."""

from __future__ import annotations

from torch import Tensor

from sr.metrics.pixel import psnr
from sr.resize import bicubic


def lr_psnr(sr: Tensor, hr: Tensor, lr: Tensor) -> Tensor:
    """PSNR of SR, brought down by antialiased bicubic, to the picture it was made from; RGB, data range 1.

    It needs no target: a model that invents details which the input contradicts scores low.

    Args:
        sr: Shape (N, 3, H, W).
        hr: Not used.
        lr: Shape (N, 3, h, w).

    Returns:
        Shape (N,), dB, capped at 100.
    """
    del hr
    down = bicubic(sr, height=lr.shape[-2], width=lr.shape[-1]).double()
    return psnr(down, lr.double(), data_range=1.0)
