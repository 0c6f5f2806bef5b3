"""Differentiable backward warping by a flow in pixels, and where a flow can be trusted.

A flow from `a` to `b` has shape (N, 2, H, W), channel 0 to the right and channel 1 down, in pixels: what is at p in `a` is
at p + flow(p) in `b`, so that `warp(b, flow)` looks like `a`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(pictures: Tensor, flow: Tensor, *, padding: Literal["border", "zeros"] = "border") -> Tensor:
    """Reads `pictures` at p + flow(p) for each pixel p, by bilinear interpolation.

    Args:
        pictures: Shape (N, C, H, W).
        flow: In pixels, x then y, shape (N, 2, H, W).
        padding: What is read outside of the picture: its nearest edge, or zeros.

    Returns:
        Shape (N, C, H, W), differentiable in both arguments.

    Raises:
        ValueError: The shapes do not fit.
    """
    if flow.shape != (pictures.shape[0], 2, *pictures.shape[-2:]):
        raise ValueError(
            f"warp: the flow of pictures {tuple(pictures.shape)} has shape {tuple(flow.shape)}; "
            "give (N, 2, H, W) of the same N, H and W"
        )
    height, width = pictures.shape[-2:]
    # bfloat16 cannot tell position 256 from 257.
    dtype = torch.promote_types(torch.promote_types(pictures.dtype, flow.dtype), torch.float32)
    x, y = _positions(flow.to(dtype))
    # With align_corners, -1 and 1 are the centres of the outermost pixels; a picture one pixel wide has no extent.
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], dim=-1)
    read = F.grid_sample(pictures.to(dtype), grid, mode="bilinear", padding_mode=padding, align_corners=True)
    return read.to(pictures.dtype)


def inside(flow: Tensor) -> Tensor:
    """1.0 where the flow stays in the picture, to 0.1 pixel, else 0.0; shape (N, 1, H, W)."""
    # Without slack, rounding would decide about the edge of a picture that stands still.
    slack = 0.1
    height, width = flow.shape[-2:]
    x, y = _positions(flow)
    within = (x >= -slack) & (x <= width - 1 + slack) & (y >= -slack) & (y <= height - 1 + slack)
    return within[:, None].to(flow.dtype)


def visible(forward: Tensor, backward: Tensor) -> Tensor:
    """1.0 where a flow and the flow back agree, 0.0 where something is hidden or leaves the picture.

    Pixels fail where |f + b'|^2 >= 0.01 (|f|^2 + |b'|^2) + 0.5, with b' the backward flow read at p + f(p).

    Args:
        forward: Flow from `a` to `b` in pixels, shape (N, 2, H, W).
        backward: Flow from `b` to `a`, same shape.

    Returns:
        Mask over the pixels of `a`, shape (N, 1, H, W), in the dtype of the flow.

    Source: Sundaram, Brox, Keutzer, ECCV 2010, "Dense Point Trajectories by GPU-Accelerated Large Displacement Optical
    Flow", equation 5.
    """
    returned = warp(backward, forward)
    mismatch = (forward + returned).square().sum(dim=1, keepdim=True)
    size = (forward.square() + returned.square()).sum(dim=1, keepdim=True)
    return (mismatch < 0.01 * size + 0.5).to(forward.dtype) * inside(forward)


def _positions(flow: Tensor) -> tuple[Tensor, Tensor]:
    height, width = flow.shape[-2:]
    columns = torch.arange(width, dtype=flow.dtype, device=flow.device)
    rows = torch.arange(height, dtype=flow.dtype, device=flow.device)
    return columns[None, None, :] + flow[:, 0], rows[None, :, None] + flow[:, 1]
