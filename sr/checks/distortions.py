"""Ways to spoil a picture, each with a strength, and the strength that gives a wanted error.

All take and return float pictures in [0, 1], shape (..., 3, H, W), and are deterministic.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Distortion = Callable[[Tensor, float], Tensor]

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G, B in full-range luma (ITU-R BT.601)."""


def luma255(pictures: Tensor) -> Tensor:
    """Full-range luma in [0, 255]; (..., 3, H, W) to (..., H, W)."""
    weights = torch.tensor(LUMA, dtype=pictures.dtype, device=pictures.device)
    return 255 * (pictures * weights[:, None, None]).sum(dim=-3)


def mse255(a: Tensor, b: Tensor) -> float:
    """Mean squared difference of luma on 0..255, as the figure of Wang and Bovik 2009 states it."""
    return (luma255(a.double()) - luma255(b.double())).square().mean().item()


def brighter(pictures: Tensor, strength: float) -> Tensor:
    """Adds `strength` to every value."""
    return (pictures + strength).clamp(0, 1)


def contrast(pictures: Tensor, strength: float) -> Tensor:
    """Stretches each picture around its own mean by 1 + `strength`."""
    mean = pictures.mean(dim=(-3, -2, -1), keepdim=True)
    return (mean + (1 + strength) * (pictures - mean)).clamp(0, 1)


def noise(pictures: Tensor, strength: float) -> Tensor:
    """Adds Gaussian noise of standard deviation `strength`, the same draw at every strength."""
    draw = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    return (pictures + strength * draw.to(pictures)).clamp(0, 1)


def grey_noise(pictures: Tensor, strength: float) -> Tensor:
    """As `noise`, but alike in the three channels, so that its MSE on luma is that on RGB."""
    shape = (*pictures.shape[:-3], 1, *pictures.shape[-2:])
    draw = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return (pictures + strength * draw.to(pictures)).clamp(0, 1)


def blur(pictures: Tensor, strength: float) -> Tensor:
    """Gaussian blur of `strength` pixels, edge pixels repeated outwards."""
    if strength <= 0:
        return pictures.clone()
    radius = max(1, math.ceil(3 * strength))
    offsets = torch.arange(-radius, radius + 1, dtype=pictures.dtype, device=pictures.device)
    kernel = torch.exp(-offsets.square() / (2 * strength**2))
    kernel = kernel / kernel.sum()
    flat = pictures.reshape(-1, 1, *pictures.shape[-2:])
    padded = F.pad(flat, (radius, radius, radius, radius), mode="replicate")
    out = F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return out.reshape(pictures.shape)


def jpeg(pictures: Tensor, strength: float) -> Tensor:
    """JPEG as Pillow writes it, colour at full resolution; `strength` 0..100 is 100 minus the quality."""
    import numpy as np
    from PIL import Image

    quality = max(1, round(100 - strength))
    frames = pictures.reshape(-1, *pictures.shape[-3:])
    bytes_in = frames.mul(255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    out = []
    for frame in bytes_in:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality, subsampling=0)
        out.append(torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1))
    return torch.stack(out).to(pictures).div(255).reshape(pictures.shape)


def shift(pictures: Tensor, strength: float = 1) -> Tensor:
    """Moves the picture `strength` pixels to the right, the left edge repeated."""
    pixels = round(strength)
    flat = pictures.reshape(-1, *pictures.shape[-3:])
    moved = F.pad(flat[..., : flat.shape[-1] - pixels], (pixels, 0, 0, 0), mode="replicate")
    return moved.reshape(pictures.shape)


def salt_and_pepper(pictures: Tensor, strength: float) -> Tensor:
    """Turns the share `strength` of the pixels black or white, half each."""
    shape = (*pictures.shape[:-3], 1, *pictures.shape[-2:])
    draw = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(pictures)
    order = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(pictures)
    return torch.where(order < strength, (draw < 0.5).to(pictures).expand_as(pictures), pictures)


@dataclass(frozen=True, slots=True)
class Spoiler:
    """A distortion whose strength can be solved for."""

    label: str
    apply: Distortion
    strongest: float


EQUAL_MSE: dict[str, Spoiler] = {
    "luminance": Spoiler("luminance shift", brighter, 0.5),
    "contrast": Spoiler("contrast stretch", contrast, 4.0),
    "noise": Spoiler("Gaussian noise", grey_noise, 0.5),
    "blur": Spoiler("blur", blur, 16.0),
    "jpeg": Spoiler("JPEG", jpeg, 99.0),
    "salt_and_pepper": Spoiler("salt and pepper", salt_and_pepper, 0.5),
}
"""The distortions that are made equal in MSE; the 1-pixel shift has no strength to solve for."""


def strongest_mse(picture: Tensor, spoiler: Spoiler) -> float:
    """The MSE (luma, 0..255) that the distortion reaches at its strongest."""
    return mse255(spoiler.apply(picture, spoiler.strongest), picture)


def at_mse(picture: Tensor, spoiler: Spoiler, target: float) -> Tensor:
    """Applies the distortion at the strength that gives the MSE `target` (luma, 0..255), found by bisection.

    JPEG has whole qualities only: the quality next above the target is blended with the original to meet it.

    Raises:
        ValueError: The distortion cannot reach the target on this picture.
    """
    reachable = strongest_mse(picture, spoiler)
    if reachable < target:
        raise ValueError(
            f"{spoiler.label}: reaches an MSE of {reachable:.1f} on this picture, {target:.1f} was wanted; lower it"
        )
    weak, strong = 0.0, spoiler.strongest
    for _ in range(40):
        middle = (weak + strong) / 2
        if mse255(spoiler.apply(picture, middle), picture) < target:
            weak = middle
        else:
            strong = middle
    spoiled = spoiler.apply(picture, strong)
    excess = target / mse255(spoiled, picture)
    return picture + math.sqrt(excess) * (spoiled - picture) if spoiler.apply is jpeg else spoiled
