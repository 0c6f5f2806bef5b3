"""HR to LR. A degradation takes HR in [0, 1] and the scale and returns LR in [0, 1], before rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from sr.resize import bicubic


def bicubic_aa(hr: Tensor, *, scale: int) -> Tensor:
    """Antialiased bicubic reduction, as MATLAB's imresize(hr, 1/scale): what SR papers call BI.

    Args:
        hr: float in [0, 1], shape (..., H, W) with H and W multiples of `scale`.
        scale: Reduction factor.

    Returns:
        float32, shape (..., H / scale, W / scale); may overshoot [0, 1] a little.
    """
    return bicubic(hr, height=hr.shape[-2] // scale, width=hr.shape[-1] // scale)


GIVEN = "given"
"""The name, in a configuration, of no degradation at all: the data set holds the LR pictures itself."""

DEGRADATIONS: dict[str, Callable[..., Tensor]] = {"bicubic_aa": bicubic_aa}


def degrade(hr: Tensor, *, kind: str, scale: int, parameters: Mapping[str, Any]) -> Tensor:
    """Returns the LR picture as it would be stored: clipped to [0, 1] and rounded to 8 bits."""
    if hr.shape[-2] % scale or hr.shape[-1] % scale:
        raise ValueError(
            f"HR is {hr.shape[-1]} x {hr.shape[-2]}, not a multiple of scale {scale}; crop it first"
        )
    lr = DEGRADATIONS[kind](hr, scale=scale, **parameters)
    return lr.clamp(0, 1).mul(255).round().div(255)
