"""Evaluation metrics, each with its protocol written down. To add one: a function and one line in METRICS.

A metric takes `sr` and `hr` as an evaluator has them: RGB, float64, rounded to 8 bits (multiples of 1/255 in [0, 1]),
border already cut, shape (N, 3, H, W). It returns one value per picture, shape (N,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sr.similarity import ssim_map

PSNR_CAP_DB = 100.0
"""PSNR of identical pictures is infinite; a mean needs a number."""


def to_8bit(image: Tensor) -> Tensor:
    """Returns a picture as it would be stored: clipped to [0, 1], rounded to multiples of 1/255, float64."""
    return image.double().clamp(0, 1).mul(255).round().div(255)


def crop_border(image: Tensor, pixels: int) -> Tensor:
    """Cuts `pixels` from each side of the last two axes."""
    return image[..., pixels : image.shape[-2] - pixels, pixels : image.shape[-1] - pixels]


def luma(rgb: Tensor) -> Tensor:
    """Luma of RGB in [0, 1], shape (..., 3, H, W), as (..., H, W) in [16, 235], not rounded.

    Source: ITU-R BT.601 in studio range, as MATLAB's rgb2ycbcr and the SR papers use it.
    """
    red, green, blue = rgb.unbind(dim=-3)
    return 16 + 65.481 * red + 128.553 * green + 24.966 * blue


def psnr(a: Tensor, b: Tensor, *, data_range: float) -> Tensor:
    """PSNR in dB over all axes but the first, capped at 100 dB."""
    mse = (a - b).square().flatten(1).mean(dim=1)
    return (10 * torch.log10(data_range**2 / mse)).clamp(max=PSNR_CAP_DB)


def psnr_y(sr: Tensor, hr: Tensor) -> Tensor:
    """PSNR on luma, data range 255."""
    return psnr(luma(sr), luma(hr), data_range=255.0)


def ssim_y(sr: Tensor, hr: Tensor) -> Tensor:
    """SSIM on luma, Gaussian window 11, sigma 1.5, data range 255."""
    return ssim_map(luma(sr), luma(hr), data_range=255.0).flatten(1).mean(dim=1)


def psnr_rgb(sr: Tensor, hr: Tensor) -> Tensor:
    """PSNR over the three channels together, data range 1."""
    return psnr(sr, hr, data_range=1.0)


def gmsd(sr: Tensor, hr: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation (Xue et al. 2014), by piq."""
    import piq

    return piq.gmsd(sr, hr, data_range=1.0, reduction="none")


def haarpsi(sr: Tensor, hr: Tensor) -> Tensor:
    """Haar wavelet-based perceptual similarity index (Reisenhofer et al. 2018), by piq."""
    import piq

    return piq.haarpsi(sr, hr, data_range=1.0, reduction="none")


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric and how to read its numbers."""

    compute: Callable[[Tensor, Tensor], Tensor]
    label: str
    unit: str
    higher_is_better: bool
    decimals: int
    convention: str
    """What the number refers to, besides rounding to 8 bits and cutting `scale` pixels from each border."""


METRICS: dict[str, Metric] = {
    "psnr_y": Metric(psnr_y, "PSNR-Y", "dB", True, 2, "luma (BT.601 studio range), mean of per-clip values"),
    "ssim_y": Metric(ssim_y, "SSIM-Y", "", True, 4, "luma, Gaussian window 11, sigma 1.5, no downsampling"),
    "psnr_rgb": Metric(
        psnr_rgb, "PSNR-RGB", "dB", True, 2, "three channels together, mean of per-clip values"
    ),
    "gmsd": Metric(gmsd, "GMSD", "", False, 4, "luma gradients, lower is better, no network weights (piq)"),
    "haarpsi": Metric(haarpsi, "HaarPSI", "", True, 4, "Haar wavelets, RGB, no network weights (piq)"),
}


def measure(sr: Tensor, hr: Tensor, *, names: tuple[str, ...], scale: int) -> dict[str, Tensor]:
    """Returns each metric's value per clip by the standard protocol.

    Args:
        sr: Output of a generator, shape (N, T, 3, H, W), any float, not clipped.
        hr: Target in [0, 1], same shape.
        names: Keys of METRICS.
        scale: Upscaling factor; so many pixels are cut from each border.

    Returns:
        Metric name to shape (N,), float64; a clip's value is the mean over its frames.

    Raises:
        ValueError: The shapes differ.
    """
    if sr.shape != hr.shape:
        raise ValueError(
            f"the output has shape {tuple(sr.shape)} and the target {tuple(hr.shape)}; they must agree"
        )
    num_clips, num_frames = sr.shape[:2]
    a = crop_border(to_8bit(sr), scale).flatten(0, 1)
    b = crop_border(to_8bit(hr), scale).flatten(0, 1)
    return {name: METRICS[name].compute(a, b).reshape(num_clips, num_frames).mean(dim=1) for name in names}
