"""Structural similarity at several scales, alone and mixed with L1."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.losses.term import as_frames

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Published exponents, finest scale first."""
_WINDOW = 11
_SIGMA = 1.5
_C1 = 0.01**2
_C2 = 0.03**2
_LEAST = 1e-4
"""Below this a scale's similarity counts as this: a negative number has no real power, and at zero no finite slope."""


class MsSsim(nn.Module):
    """1 - MS-SSIM on RGB: contrast and structure at up to five scales, brightness at the coarsest.

    Each scale halves the pictures by 2 x 2 means, a last odd row or column left out; each needs 11 x 11 pixels, so
    that the published five scales need crops of 176 x 176. With fewer scales the first published weights are taken and
    divided by their sum: 4 scales from 88 pixels, 3 from 44, 2 from 22, 1 (SSIM) from 11. Computed for each channel of
    each picture, then averaged.

    Source: Wang, Simoncelli and Bovik, Asilomar 2003, "Multiscale structural similarity for image quality assessment".
    """

    def __init__(self, *, scales: int = 5) -> None:
        super().__init__()
        self.scales = _checked(scales, "ms_ssim")

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss, in [0, 1].

        Raises:
            ValueError: The pictures are too small for so many scales.
        """
        check_size(sr, self.scales, where="ms_ssim")
        return 1 - ms_ssim(sr, hr, scales=self.scales).mean()


class MsSsimL1(nn.Module):
    """0.84 (1 - MS-SSIM) + 0.16 L1, the L1 seen through the window of the coarsest scale: structure and colour.

    The absolute difference is averaged down to the coarsest scale and weighted there by its Gaussian window, so that
    pixels count in both parts alike: those at the edge of the crop less. Scales and sizes as for `ms_ssim`.

    Source: Zhao, Gallo, Frosio and Kautz, IEEE TCI 2017, "Loss Functions for Image Restoration With Neural Networks",
    equation 14; theirs widens the window where this halves the picture.
    """

    def __init__(self, *, alpha: float = 0.84, scales: int = 5) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(
                f"ms_ssim_l1.alpha: expected a fraction in [0, 1], got {alpha}; 0.84 is published"
            )
        self.alpha = alpha
        self.scales = _checked(scales, "ms_ssim_l1")

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss.

        Raises:
            ValueError: The pictures are too small for so many scales.
        """
        check_size(sr, self.scales, where="ms_ssim_l1")
        similarity = ms_ssim(sr, hr, scales=self.scales).mean()
        difference = as_frames((sr - hr).abs())
        for _ in range(self.scales - 1):
            difference = F.avg_pool2d(difference, 2)
        return self.alpha * (1 - similarity) + (1 - self.alpha) * _window_mean(difference).mean()


def ms_ssim(sr: Tensor, hr: Tensor, *, scales: int) -> Tensor:
    """MS-SSIM of each channel of each frame, in [0, 1].

    Args:
        sr: float, on [0, 1], shape (..., C, H, W) with H, W >= 11 * 2^(scales - 1).
        hr: Same shape.
        scales: 1 to 5.

    Returns:
        Shape (N, C), N being the product of the leading axes.
    """
    x, y = as_frames(sr), as_frames(hr)
    weights = _weights(scales, x.device, x.dtype)
    parts = []
    for scale in range(scales):
        luminance, structure = _ssim_parts(x, y)
        last = scale == scales - 1
        parts.append((luminance * structure if last else structure).mean(dim=(-2, -1)))
        if not last:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return torch.stack(parts).clamp(min=_LEAST).pow(weights[:, None, None]).prod(dim=0)


@functools.lru_cache(maxsize=16)
def _weights(scales: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Exponent of each scale; the five published ones add up to 1.0001 and stay so."""
    weights = torch.tensor(_WEIGHTS[:scales], dtype=torch.float64)
    if scales < len(_WEIGHTS):
        weights = weights / weights.sum()
    return weights.to(device=device, dtype=dtype)


def check_size(pictures: Tensor, scales: int, *, where: str) -> None:
    """Refuses pictures whose coarsest scale would be smaller than the window.

    Raises:
        ValueError: They are too small.
    """
    height, width = pictures.shape[-2:]
    least = _WINDOW * 2 ** (scales - 1)
    if min(height, width) >= least:
        return
    possible = max(0, (min(height, width) // _WINDOW).bit_length())
    remedy = f"set {where}.scales to {possible} or use larger crops" if possible else "use larger crops"
    raise ValueError(
        f"{where}: {scales} scales need pictures of at least {least} x {least} pixels, got {width} x {height}; {remedy}"
    )


def _checked(scales: int, where: str) -> int:
    if not 1 <= scales <= len(_WEIGHTS):
        raise ValueError(f"{where}.scales: expected 1 to {len(_WEIGHTS)}, got {scales}; 5 is published")
    return scales


def _ssim_parts(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast times structure, at each position of the window within the picture."""
    mean_x, mean_y, square_x, square_y, product = _window_mean(torch.stack([x, y, x * x, y * y, x * y]))
    variances = square_x - mean_x.square() + square_y - mean_y.square()
    covariance = product - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x.square() + mean_y.square() + _C1)
    return luminance, (2 * covariance + _C2) / (variances + _C2)


def _window_mean(maps: Tensor) -> Tensor:
    """Gaussian mean of each window within the picture, (..., H, W) to (..., H - 10, W - 10)."""
    rows = _window_matrix(maps.shape[-2], maps.device, maps.dtype)
    return rows @ maps @ _window_matrix(maps.shape[-1], maps.device, maps.dtype).T


@functools.lru_cache(maxsize=64)
def _window_matrix(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The (size - 10, size) matrix that takes the Gaussian mean along one axis."""
    offsets = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    kernel = torch.softmax(-offsets.square() / (2 * _SIGMA**2), dim=0)
    places = size - _WINDOW + 1
    taps = torch.arange(places)[:, None] + torch.arange(_WINDOW)
    matrix = torch.zeros(places, size, dtype=torch.float64).scatter(1, taps, kernel.expand(places, -1))
    return matrix.to(device=device, dtype=dtype)
