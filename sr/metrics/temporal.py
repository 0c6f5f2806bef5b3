"""Metrics of clips: does the output move as the target moves, and does it hold still where that does?

Optical flow is scikit-image's `optical_flow_ilk` everywhere (iterative Lucas-Kanade, Le Besnerais and Champagnat 2005,
radius 7, 10 warps, on luma / 255): deterministic, and on every machine the same. Papers that used another estimator
have other numbers. All frames count, over their whole (cropped) area.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from sr.metrics.perceptual import lpips
from sr.metrics.protocol import luma
from sr.warp import visible, warp


def flicker(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean |(s_t - s_(t-1)) - (y_t - y_(t-1))|, in levels of 0..255; (N, T, 3, H, W) to (N,)."""
    return ((sr - hr).diff(dim=1) * 255).abs().flatten(1).mean(dim=1)


def tof(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean distance, in pixels, between the optical flow of SR and that of HR; (N, T, 3, H, W) to (N,).

    Source: Chu et al. 2020, "Learning temporal coherence via self-supervision for GAN-based video generation" (tOF).
    """
    values: list[float] = []
    for outputs, targets in zip(luma(sr) / 255, luma(hr) / 255, strict=True):
        distances = [
            torch.linalg.vector_norm(flow(*of_hr) - flow(*of_sr), dim=0).mean()
            for of_sr, of_hr in zip(_pairs(outputs), _pairs(targets), strict=True)
        ]
        values.append(torch.stack(distances).mean().item())
    return sr.new_tensor(values)


def tlp(sr: Tensor, hr: Tensor) -> Tensor:
    """100 |LPIPS(y_(t-1), y_t) - LPIPS(s_(t-1), s_t)|, mean over consecutive frames; (N, T, 3, H, W) to (N,).

    Source: Chu et al. 2020 (tLP). LPIPS on AlexNet.
    """
    in_sr = lpips(sr[:, :-1].flatten(0, 1), sr[:, 1:].flatten(0, 1))
    in_hr = lpips(hr[:, :-1].flatten(0, 1), hr[:, 1:].flatten(0, 1))
    return (100 * (in_hr - in_sr).abs()).reshape(len(sr), -1).mean(dim=1)


def warping_error(sr: Tensor, hr: Tensor) -> Tensor:
    """Sum of M |s_t - warp(s_(t+1))|^2 over sum of M; (N, T, 3, H, W) in [0, 1] to (N,).

    The flow is HR's, M says where it can be trusted (see `sr.warp.visible`), |.|^2 adds up the three channels. Not a number
    where M is empty throughout the clip.

    Source: Lai et al. 2018, "Learning blind video temporal consistency".
    """
    values: list[float] = []
    for outputs, targets in zip(sr, hr, strict=True):
        error = weight = 0.0
        for (now, later), (y_now, y_later) in zip(_pairs(outputs), _pairs(luma(targets) / 255), strict=True):
            forward = flow(y_now, y_later)[None]
            mask = visible(forward, flow(y_later, y_now)[None])
            squared = (now - warp(later[None], forward)).square().sum(dim=1, keepdim=True)
            error += (mask * squared).sum().item()
            weight += mask.sum().item()
        values.append(error / weight if weight else float("nan"))
    return sr.new_tensor(values)


def flow(first: Tensor, second: Tensor) -> Tensor:
    """Displacement, in pixels, from each pixel of `first` to its place in `second`; (H, W) in [0, 1] to (2, H, W).

    To the right first, then down.
    """
    from skimage.registration import optical_flow_ilk

    a, b = (picture.float().cpu().numpy() for picture in (first, second))
    down, right = optical_flow_ilk(a, b, radius=7, num_warp=10)
    return torch.stack([torch.from_numpy(right), torch.from_numpy(down)]).to(first)


def _pairs(frames: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return itertools.pairwise(frames)
