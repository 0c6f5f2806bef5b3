"""The losses by name. To add one: a module in a file of its own here, and one line in LOSSES.

A loss is built as `LOSSES[name](**parameters)`, with a default for each parameter. It takes `sr` and `hr`, float32 in
[0, 1], shape (B, C, H, W) or (B, T, C, H, W), and returns a scalar: zero (or its minimum) where they agree, a mean, so
that its size does not depend on the batch or the crop. Give the class a one-line docstring: `srloss losses` shows it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from sr.losses.charbonnier import Charbonnier
from sr.losses.pixel import L1, Mse
from sr.losses.ssim import SsimLoss

LOSSES: dict[str, Callable[..., nn.Module]] = {
    "l1": L1,
    "mse": Mse,
    "charbonnier": Charbonnier,
    "ssim": SsimLoss,
}
