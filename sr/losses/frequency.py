"""Losses on the Fourier spectrum of whole pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _spectrum(pictures: Tensor) -> Tensor:
    """Orthonormal Fourier transform of each channel, complex, same shape; its size doesn't grow with the crop's."""
    return torch.fft.fft2(pictures, norm="ortho")


class FftL1(nn.Module):
    """Mean modulus of the difference of the Fourier coefficients: weighs each frequency alike, not each pixel.

    Source: Cho et al., ICCV 2021, "Rethinking Coarse-to-Fine Approach in Single Image Deblurring", equation 8 at one
    scale, with an orthonormal transform.
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss."""
        return _spectrum(sr - hr).abs().mean()


class FocalFrequency(nn.Module):
    """Squared difference of Fourier coefficients, weighted by its own size: looks at the frequencies that are worst.

    Weight |difference|^alpha, divided by its largest value in each channel of each picture. As published the weights
    are constants for the gradient, which is then not that of the value; `lock_weights: false` lets it through.

    Source: Jiang et al., ICCV 2021, "Focal Frequency Loss for Image Reconstruction and Synthesis", equations 8 and 9,
    on whole pictures, with an orthonormal transform.
    """

    def __init__(self, *, alpha: float = 1.0, lock_weights: bool = True) -> None:
        super().__init__()
        if alpha < 0:
            raise ValueError(
                f"focal_frequency.alpha: expected at least 0, got {alpha}; 1 is published, 0 is MSE"
            )
        self.alpha = alpha
        self.lock_weights = lock_weights

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss."""
        difference = _spectrum(sr - hr)
        square = difference.real.square() + difference.imag.square()
        weight = self._weight(difference.detach() if self.lock_weights else difference)
        return (weight * square).mean()

    def _weight(self, difference: Tensor) -> Tensor:
        size = difference.abs()
        largest = size.amax(dim=(-2, -1), keepdim=True)
        # Where the pictures agree there is nothing to weigh, and zero by zero must not become NaN.
        return (size / torch.where(largest > 0, largest, torch.ones_like(largest))).pow(self.alpha)
