"""The two classical pixel losses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class L1(nn.Module):
    """Mean absolute difference."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss."""
        return F.l1_loss(sr, hr)


class Mse(nn.Module):
    """Mean squared difference: maximises PSNR and blurs what is uncertain."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss."""
        return F.mse_loss(sr, hr)
