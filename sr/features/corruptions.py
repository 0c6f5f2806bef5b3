"""The kinds and levels of damage that a network learns to tell apart: what super-resolution losses should see."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sr.resize import bicubic


def _clean(picture: Tensor, _generator: torch.Generator) -> Tensor:
    return picture


def _blur(sigma: float, picture: Tensor, _generator: torch.Generator) -> Tensor:
    radius = int(3 * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma).square())
    kernel = kernel / kernel.sum()
    padded = F.pad(picture[None], (radius,) * 4, mode="reflect")[0]
    rows = F.conv2d(padded[:, None], kernel.view(1, 1, -1, 1))
    return F.conv2d(rows, kernel.view(1, 1, 1, -1))[:, 0]


def _noise(sigma: float, picture: Tensor, generator: torch.Generator) -> Tensor:
    return picture + torch.randn(picture.shape, generator=generator) * (sigma / 255)


def _jpeg(quality: int, picture: Tensor, _generator: torch.Generator) -> Tensor:
    from PIL import Image

    pixels = picture.mul(255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=quality)
    decoded = np.asarray(Image.open(buffer).convert("RGB"))
    return torch.from_numpy(decoded.copy()).permute(2, 0, 1).float() / 255


def _resample(factor: int, picture: Tensor, _generator: torch.Generator) -> Tensor:
    height, width = picture.shape[-2:]
    small = bicubic(picture, height=max(height // factor, 1), width=max(width // factor, 1))
    return bicubic(small, height=height, width=width)


CORRUPTIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "clean": _clean,
    **{f"blur sigma {sigma:g}": partial(_blur, sigma) for sigma in (0.7, 1.2, 2.0)},
    **{f"noise sigma {sigma:g}": partial(_noise, sigma) for sigma in (5.0, 15.0, 40.0)},
    **{f"jpeg quality {quality}": partial(_jpeg, quality) for quality in (70, 35, 12)},
    **{f"bicubic x{factor}": partial(_resample, factor) for factor in (2, 4)},
}
"""Name of type and level to a function of a picture, shape (3, H, W) in [0, 1], H and W at least 8; sigma of blur in
pixels, of noise in 8-bit steps."""


def corrupt(picture: Tensor, name: str, generator: torch.Generator) -> Tensor:
    """The damaged picture as it would be stored: clipped to [0, 1], rounded to 8 bits."""
    return CORRUPTIONS[name](picture, generator).clamp(0, 1).mul(255).round().div(255)
