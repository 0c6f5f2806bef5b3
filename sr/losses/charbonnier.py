"""Charbonnier's differentiable L1."""

from __future__ import annotations

from torch import Tensor, nn


class Charbonnier(nn.Module):
    """A smooth L1: mean of sqrt(difference^2 + epsilon^2).

    Source: Lai et al., CVPR 2017, "Deep Laplacian Pyramid Networks", equation 2, epsilon 1e-3 on [0, 1].
    """

    def __init__(self, *, epsilon: float = 1e-3) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss; its minimum is epsilon, not zero."""
        return (sr - hr).square().add(self.epsilon**2).sqrt().mean()
