"""Bicubic resampling as MATLAB's imresize does it, as two matrix products.

torch's own antialiased bicubic renormalises its kernel at the border where MATLAB mirrors the picture; SR papers use
MATLAB's. Written as matrices it is exact everywhere, differentiable, and runs on any device.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5, as in MATLAB."""
    ax = x.abs()
    near = 1.5 * ax**3 - 2.5 * ax**2 + 1
    far = -0.5 * ax**3 + 2.5 * ax**2 - 4 * ax + 2
    return torch.where(ax <= 1, near, torch.where(ax <= 2, far, torch.zeros_like(ax)))


@functools.lru_cache(maxsize=64)
def _matrix(size_in: int, size_out: int, device: torch.device) -> Tensor:
    """The (size_out, size_in) matrix that resamples one axis; built in float64, returned in float32."""
    ratio = size_out / size_in
    stretch = min(ratio, 1.0)  # Antialiasing: when shrinking, the kernel is widened to the new pixel pitch.
    support = 4 / stretch
    centre = (torch.arange(size_out, dtype=torch.float64) + 0.5) / ratio - 0.5
    first = torch.floor(centre - support / 2).long() + 1
    taps = first[:, None] + torch.arange(math.ceil(support) + 1)[None, :]
    weights = _cubic((centre[:, None] - taps) * stretch)
    weights = weights / weights.sum(dim=1, keepdim=True)
    # Outside the picture MATLAB mirrors it with the edge pixel repeated: period 2n, ...2 1 0 | 0 1 2...
    wrapped = taps.remainder(2 * size_in)
    mirrored = torch.where(wrapped < size_in, wrapped, 2 * size_in - 1 - wrapped)
    matrix = torch.zeros(size_out, size_in, dtype=torch.float64)
    matrix.scatter_add_(1, mirrored, weights)
    return matrix.to(device=device, dtype=torch.float32)


def bicubic(image: Tensor, *, height: int, width: int) -> Tensor:
    """Resamples the last two axes to (height, width), antialiased when shrinking.

    Args:
        image: float, shape (..., H, W); any range.
        height: New H, in pixels.
        width: New W, in pixels.

    Returns:
        float32, shape (..., height, width); not clipped, it may overshoot the input's range.

    Source: Keys 1981, "Cubic convolution interpolation for digital image processing"; conventions of MATLAB's imresize.
    """
    rows = _matrix(image.shape[-2], height, image.device)
    columns = _matrix(image.shape[-1], width, image.device)
    return rows @ image.float() @ columns.T


def upscale_bicubic(lr: Tensor, scale: int) -> Tensor:
    """Bicubic enlargement by `scale`: the baseline of every comparison. Shape (..., H, W) to (..., H*scale, W*scale)."""
    if torch.compiler.is_exporting():
        return _upscale_by_convolution(lr, scale)
    return bicubic(lr, height=lr.shape[-2] * scale, width=lr.shape[-1] * scale)


def _upscale_by_convolution(lr: Tensor, scale: int) -> Tensor:
    """The same enlargement without a matrix for each size: for files (ONNX) that must take pictures of any size.

    Every output pixel at one place in its block of scale x scale has the same 5 x 5 weights. Not used to train: a GPU
    convolves in TF32, which is off by more than a matrix product.
    """
    places = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    weights = _cubic(places[:, None] - torch.arange(-2, 3)[None, :])
    kernel = (weights[:, None, :, None] * weights[None, :, None, :]).reshape(scale**2, 1, 5, 5)
    planes = lr.reshape(-1, 1, *lr.shape[-2:])
    rows = [planes[..., 1:2, :], planes[..., :1, :], planes, planes[..., -1:, :], planes[..., -2:-1, :]]
    planes = torch.cat(rows, dim=-2)
    columns = [planes[..., 1:2], planes[..., :1], planes, planes[..., -1:], planes[..., -2:-1]]
    planes = torch.cat(columns, dim=-1)
    blocks = torch.nn.functional.conv2d(planes, kernel.to(lr))
    larger = torch.nn.functional.pixel_shuffle(blocks, scale)
    return larger.reshape(*lr.shape[:-2], lr.shape[-2] * scale, lr.shape[-1] * scale)
