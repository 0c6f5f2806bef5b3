"""Differences of pixels: MSE, PSNR, SSIM, and the cast of colour."""

from __future__ import annotations

import torch
from torch import Tensor

from sr.metrics.protocol import PSNR_CAP_DB, luma
from sr.similarity import ssim_map


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference over all axes but the first, in the square of the inputs' unit."""
    return (a - b).square().flatten(1).mean(dim=1)


def psnr(a: Tensor, b: Tensor, *, data_range: float) -> Tensor:
    """PSNR in dB over all axes but the first, capped at 100 dB."""
    return (10 * torch.log10(data_range**2 / mse(a, b))).clamp(max=PSNR_CAP_DB)


def psnr_y(sr: Tensor, hr: Tensor) -> Tensor:
    """PSNR on luma, data range 255."""
    return psnr(luma(sr), luma(hr), data_range=255.0)


def ssim_y(sr: Tensor, hr: Tensor) -> Tensor:
    """SSIM on luma, Gaussian window 11, sigma 1.5, data range 255."""
    return ssim_map(luma(sr), luma(hr), data_range=255.0).flatten(1).mean(dim=1)


def mse_y(sr: Tensor, hr: Tensor) -> Tensor:
    """MSE on luma, data range 255."""
    return mse(luma(sr), luma(hr))


def psnr_rgb(sr: Tensor, hr: Tensor) -> Tensor:
    """PSNR over the three channels together, data range 1."""
    return psnr(sr, hr, data_range=1.0)


def ssim_rgb(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean over the three channels of SSIM, Gaussian window 11, sigma 1.5, data range 1."""
    return ssim_map(sr, hr, data_range=1.0).reshape(len(sr), -1).mean(dim=1)


def mse_rgb(sr: Tensor, hr: Tensor) -> Tensor:
    """MSE over the three channels together, data range 255."""
    return mse(sr * 255, hr * 255)


def colour_shift(sr: Tensor, hr: Tensor) -> Tensor:
    """Length of the mean difference in (a*, b*) of CIE Lab: how far the whole picture has drifted in colour.

    The mean is taken before the length: blurred edges and noise cancel out, a cast does not.
    """
    offset = (_chroma(sr) - _chroma(hr)).mean(dim=(-2, -1))
    return torch.linalg.vector_norm(offset, dim=1)


_XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
"""sRGB primaries, ITU-R BT.709."""
_WHITE = (0.95047, 1.0, 1.08883)
"""D65, observer of 2 degrees."""


def _chroma(rgb: Tensor) -> Tensor:
    """(a*, b*) of sRGB in [0, 1]; (N, 3, H, W) to (N, 2, H, W). Source: CIE 15:2004, IEC 61966-2-1."""
    linear = torch.where(rgb > 0.04045, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = torch.einsum("ij,njhw->nihw", rgb.new_tensor(_XYZ_FROM_RGB), linear)
    ratio = xyz / rgb.new_tensor(_WHITE).view(3, 1, 1)
    compressed = torch.where(ratio > 0.008856, ratio.clamp(min=1e-12) ** (1 / 3), 7.787 * ratio + 16 / 116)
    x, y, z = compressed.unbind(dim=1)
    return torch.stack([500 * (x - y), 200 * (y - z)], dim=1)
