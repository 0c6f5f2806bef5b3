"""Optical flow without weights, in torch, on any device: pyramidal iterative Lucas-Kanade.

Good to a fraction of a pixel for smooth motion of textured things, which is what a warping loss and a warping error
need; no match for a trained network on large or broken motion.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sr.warp import inside, warp

_LUMA = (0.299, 0.587, 0.114)
_FLOOR = 4e-6
"""Mean squared gradient of noise of 1/350 of the range: what is weaker must not move anything."""


@torch.no_grad()
def optical_flow(
    first: Tensor, second: Tensor, *, sigma: float = 3.0, iterations: int = 5, coarsest: int = 16
) -> Tensor:
    """Returns the flow from `first` to `second`, such that `sr.warp.warp(second, flow)` looks like `first`.

    On each level of an image pyramid the flow is refined by least squares over a Gaussian window. What a window cannot
    tell (a flat wall, the direction along an edge) is left as the coarser levels have it.

    Args:
        first: RGB in [0, 1], shape (N, 3, H, W).
        second: Same shape.
        sigma: Standard deviation of the window in pixels: larger is smoother and stands more noise.
        iterations: Refinements on each level; each moves a pixel by at most one pixel.
        coarsest: The shorter side of the smallest level has at least this many pixels (or is the picture's own).

    Returns:
        Pixels to the right and down, shape (N, 2, H, W), without a graph, in the dtype of the pictures.

    Raises:
        ValueError: The shapes differ or are not (N, 3, H, W).

    Source: Lucas and Kanade, IJCAI 1981; the pyramid after Bouguet, Intel 2000, "Pyramidal Implementation of the
    Lucas Kanade Feature Tracker"; dense and warped as in Le Besnerais and Champagnat, ICIP 2005.
    """
    if first.shape != second.shape or first.ndim != 4 or first.shape[1] != 3:
        raise ValueError(
            f"optical_flow: expected two batches of shape (N, 3, H, W), got {tuple(first.shape)} and "
            f"{tuple(second.shape)}; give the frames of a clip as a batch"
        )
    pyramid = [(_luma(first), _luma(second))]
    while min(pyramid[-1][0].shape[-2:]) >= 2 * coarsest:
        a, b = (_half(level) for level in pyramid[-1])
        pyramid.append((a, b))
    coarse = pyramid[-1][0]
    flow = coarse.new_zeros(coarse.shape[0], 2, *coarse.shape[-2:])
    for a, b in reversed(pyramid):
        flow = _enlarge(flow, a)
        for _ in range(iterations):
            flow = _refine(a, b, flow, sigma=sigma)
    return flow


def _refine(a: Tensor, b: Tensor, flow: Tensor, *, sigma: float) -> Tensor:
    """One Gauss-Newton step on the sum over the window of (b(p + flow) - a(p))^2."""
    moved = warp(b, flow)
    # The mean of both pictures' gradients halves the bias that noise in one of them gives.
    gx, gy = _gradient((a + moved) / 2)
    known = inside(flow)
    # Each pixel says where its own linearisation points to: the window's answer is a flow, not a step that would have
    # to suit all of its pixels at once. Pixels that have left the picture say nothing.
    target = (a - moved) + gx * flow[:, :1] + gy * flow[:, 1:]
    products = torch.cat([gx * gx, gx * gy, gy * gy, gx * target, gy * target], dim=1) * known
    xx, xy, yy, xt, yt = _blur(products, sigma).split(1, dim=1)
    xx, yy = xx + _FLOOR, yy + _FLOOR
    xt, yt = xt + _FLOOR * flow[:, :1], yt + _FLOOR * flow[:, 1:]
    found = torch.cat([yy * xt - xy * yt, xx * yt - xy * xt], dim=1) / (xx * yy - xy * xy)
    return flow + (found - flow).clamp(-1, 1)


def _luma(pictures: Tensor) -> Tensor:
    weights = pictures.new_tensor(_LUMA)[None, :, None, None]
    return (pictures * weights).sum(dim=1, keepdim=True)


def _half(x: Tensor) -> Tensor:
    height, width = (-(-size // 2) for size in x.shape[-2:])
    return F.interpolate(_blur(x, 1.0), size=(height, width), mode="bilinear", align_corners=True)


def _enlarge(flow: Tensor, like: Tensor) -> Tensor:
    """The flow of a coarser level in the pixels of a finer one."""
    height, width = like.shape[-2:]
    if flow.shape[-2:] == (height, width):
        return flow
    factors = [
        (fine - 1) / max(size - 1, 1) for fine, size in ((width, flow.shape[-1]), (height, flow.shape[-2]))
    ]
    larger = F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=True)
    return larger * larger.new_tensor(factors)[None, :, None, None]


def _gradient(x: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences, of the picture with its edge repeated."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return across, down


def _blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of each channel by itself, with the edge repeated."""
    reach = max(1, round(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    planes = F.pad(x.reshape(-1, 1, *x.shape[-2:]), (reach,) * 4, mode="replicate")
    rows = F.conv2d(planes, kernel[None, None, :, None])
    return F.conv2d(rows, kernel[None, None, None, :]).reshape(x.shape)
