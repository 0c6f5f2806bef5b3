"""What happens to pictures before a metric sees them, and how a metric says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

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


@dataclass(frozen=True, slots=True)
class Protocol:
    """The part of a convention that a program can read: what is done before and after the metric itself."""

    profile: str
    """The published or usual way of measuring that this belongs to, e.g. `sr-y`."""
    data_range: float
    """Largest minus smallest possible value of what is compared."""
    colour: Literal["y", "rgb", "lab"]
    """`y`: BT.601 luma in studio range. `rgb`: the three channels. `lab`: CIE Lab, D65."""
    crop: Literal["scale", "none"] = "scale"
    """How much is cut from each border: `scale` pixels, or nothing."""
    quantised: bool = True
    """Whether SR and HR are clipped and rounded to 8 bits first."""
    per: Literal["frame", "clip"] = "frame"
    """What one evaluation of the metric sees."""
    over_frames: Literal["mean", "sum"] = "mean"
    """How the values of a clip's frames become the value of the clip."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric and how to read its numbers."""

    compute: Callable[..., Tensor]
    """(sr, hr), or (sr, hr, lr) where `lr` is in `needs`, to one value per picture or clip; see `Protocol.per`.

    Pictures come prepared by the protocol: RGB, float64, (N, 3, H, W), or (N, T, 3, H, W) for metrics of clips.
    """
    label: str
    unit: str
    higher_is_better: bool
    decimals: int
    convention: str
    """What the number refers to, besides what `protocol` says."""
    protocol: Protocol
    needs: tuple[Literal["lr", "clip"], ...] = ()
    """`lr`: also the input of the generator. `clip`: at least two frames."""
    min_side: int = 1
    """Smallest height and width, in pixels after cutting the border, for which the metric is defined."""
    zero_is_best: bool = False
    """The value is signed, and both signs are errors: compare absolute values."""
    in_decibels_of_mse: bool = False
    """Whether 10 ** (-value / 10) is proportional to a mean squared error; then values are capped at 100 dB."""
    extra: str | None = None
    """Optional dependency group of the package that it needs."""

    def goodness(self, value: float) -> float:
        """A value of it, turned so that higher is better."""
        if self.zero_is_best:
            return -abs(value)
        return value if self.higher_is_better else -value
