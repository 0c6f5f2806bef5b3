"""Metrics exactly as five published experiments computed them: to compare with their tables, not to copy.

Named after the experiment: 0 is "perceptual loss on Moving MNIST" (2024), 2 is "image and video SR with U-Net and GAN"
(2021), 4 is "impact of loss function on multi-frame SR" (2021). What a paper leaves open is marked [recon].
"""

from __future__ import annotations

import torch
from torch import Tensor

from sr.metrics.pixel import mse, psnr
from sr.metrics.protocol import luma
from sr.similarity import ssim_map


def psnr_seed0(sr: Tensor, hr: Tensor) -> Tensor:
    """PSNR with 255 in its numerator, nothing clipped; the protocol adds it up over the frames of a clip."""
    return psnr(sr * 255, hr * 255, data_range=255.0)


def ssim_seed0(sr: Tensor, hr: Tensor) -> Tensor:
    """One SSIM for the whole picture, with the constants .01 and .03 neither squared nor scaled by the data range.

    Pictures on 0..255. Variances are divided by the number of pixels [recon]; one channel for a grey picture, and for
    colour the three together.
    """
    x, y = (sr * 255).flatten(1), (hr * 255).flatten(1)
    mean_x, mean_y = x.mean(dim=1), y.mean(dim=1)
    covariance = ((x - mean_x[:, None]) * (y - mean_y[:, None])).mean(dim=1)
    variances = x.var(dim=1, correction=0) + y.var(dim=1, correction=0)
    luminance = (2 * mean_x * mean_y + 0.01) / (mean_x.square() + mean_y.square() + 0.01)
    return luminance * (2 * covariance + 0.03) / (variances + 0.03)


def mse_seed2(sr: Tensor, hr: Tensor) -> Tensor:
    """MSE of RGB on 0..1, nothing clipped."""
    return mse(sr, hr)


def psnr_seed2(sr: Tensor, hr: Tensor) -> Tensor:
    """PSNR of RGB, maximum 1, nothing clipped."""
    return psnr(sr, hr, data_range=1.0)


def ssim_seed2(sr: Tensor, hr: Tensor) -> Tensor:
    """SSIM of RGB, maximum 1, mean of the channels, nothing clipped."""
    return ssim_map(sr, hr, data_range=1.0).reshape(len(sr), -1).mean(dim=1)


def mse_seed4(sr: Tensor, hr: Tensor) -> Tensor:
    """MSE of RGB on 0..255."""
    return mse(sr * 255, hr * 255)


def psnr_seed4(sr: Tensor, hr: Tensor) -> Tensor:
    """PSNR of RGB on 0..255; its mean over pictures is what the table gives, not the PSNR of the mean MSE."""
    return psnr(sr * 255, hr * 255, data_range=255.0)


def ssim_seed4(sr: Tensor, hr: Tensor) -> Tensor:
    """SSIM of RGB on 0..255, mean of the channels [recon: window and colour are not stated]."""
    return ssim_map(sr * 255, hr * 255, data_range=255.0).reshape(len(sr), -1).mean(dim=1)


def sharpness(pictures: Tensor) -> Tensor:
    """Mean length of the gradient of luma, by central differences, in levels of 0..255 a pixel; (N, 3, H, W) to (N,).

    One-sided differences at the border, as `numpy.gradient` has them.
    """
    rows, columns = torch.gradient(luma(pictures), dim=(-2, -1))
    return torch.hypot(rows, columns).flatten(1).mean(dim=1)


def sharpness_levels_seed4(sr: Tensor, hr: Tensor) -> Tensor:
    """Sharpness of HR minus that of SR, in levels a pixel [recon]; positive where SR is smoother."""
    return sharpness(hr) - sharpness(sr)


def sharpness_seed4(sr: Tensor, hr: Tensor) -> Tensor:
    """Sharpness of HR minus that of SR, as a share of HR's [recon]; not a number where HR is one flat colour."""
    return (sharpness(hr) - sharpness(sr)) / sharpness(hr)
