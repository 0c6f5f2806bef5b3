"""Parts that several generators share: normalisation, double convolutions, residual blocks, initialisation."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from sr.collective import BatchNorm2d

Norm = Literal["none", "batch", "group"]


def norm_layer(kind: Norm, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> nn.Module:
    """Returns the normalisation by name; `group` has up to 8 groups. `momentum` is the weight of the newest batch."""
    if kind == "batch":
        return BatchNorm2d(channels, eps=eps, momentum=momentum)
    if kind == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels, eps=eps)
    return nn.Identity()


class ResidualBlock(nn.Module):
    """Conv3, norm, PReLU (one slope, or one per channel), Conv3, norm, and the input added."""

    def __init__(
        self,
        channels: int,
        *,
        norm: Norm,
        eps: float = 1e-5,
        momentum: float = 0.1,
        slopes: int = 1,
        first_slope: float = 0.25,
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            norm_layer(norm, channels, eps=eps, momentum=momentum),
            nn.PReLU(slopes, init=first_slope),
            nn.Conv2d(channels, channels, 3, padding=1),
            norm_layer(norm, channels, eps=eps, momentum=momentum),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns x + body(x), shape (N, channels, H, W)."""
        return x + self.body(x)


class DoubleConv(nn.Sequential):
    """Twice Conv3, norm, ReLU, initialised for ReLU (He et al. 2015); the usual part of a U-Net."""

    def __init__(
        self, inputs: int, outputs: int, *, norm: Norm, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        first, second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        super().__init__(
            first,
            norm_layer(norm, outputs, eps=eps, momentum=momentum),
            nn.ReLU(),
            second,
            norm_layer(norm, outputs, eps=eps, momentum=momentum),
            nn.ReLU(),
        )
        he_normal_(first)
        he_normal_(second)


def he_normal_(conv: nn.Conv2d) -> None:
    """Keras' `he_normal`: a normal cut at two of its deviations, with variance 2 / fan-in after the cut; bias 0.

    Source: He et al., ICCV 2015, "Delving Deep into Rectifiers", equation 10.
    """
    fan_in = conv.weight[0].numel()
    deviation = math.sqrt(2 / fan_in) / 0.87962566103423978  # The deviation of a unit normal cut at +-2.
    nn.init.trunc_normal_(conv.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    _zero_bias(conv)


def glorot_uniform_(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Keras' default for convolutions: Xavier's uniform distribution; bias 0."""
    nn.init.xavier_uniform_(conv.weight)
    _zero_bias(conv)


def zero_(conv: nn.Conv2d) -> None:
    """Makes a last layer give zero, so that a residual network starts at its baseline.

    At the first step only this layer has a gradient; from the second step on all layers have one.
    """
    nn.init.zeros_(conv.weight)
    _zero_bias(conv)


def _zero_bias(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
