"""The classical pixel losses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class L1(nn.Module):
    """Mean absolute difference; from 0 up, on the scale of the pictures."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss."""
        return F.l1_loss(sr, hr)


class Mse(nn.Module):
    """Mean squared difference: maximises PSNR and blurs what is uncertain; from 0 up, squared units of the pictures."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss."""
        return F.mse_loss(sr, hr)


class Huber(nn.Module):
    """Mean squared difference up to delta, straight beyond: few large errors don't rule as they do with MSE.

    0.5 d^2 where |d| <= delta, delta (|d| - delta / 2) elsewhere.

    Source: Huber 1964, "Robust Estimation of a Location Parameter".
    """

    def __init__(self, *, delta: float = 0.01) -> None:
        super().__init__()
        if delta <= 0:
            raise ValueError(
                f"huber.delta: expected a positive difference on [0, 1], got {delta}; 0.01 is usual"
            )
        self.delta = delta

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss."""
        return F.huber_loss(sr, hr, delta=self.delta)
