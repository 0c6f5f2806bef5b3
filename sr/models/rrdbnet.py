"""RRDBNet, the generator of ESRGAN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sr.models.frames import PerFrame
from sr.models.upsampling import NearestUp, stages

_INITIAL_FACTOR = 0.1
"""He's weights in the dense blocks are multiplied by this: small residuals at the start."""


class _DenseBlock(nn.Module):
    """Five convolutions, each of which sees the input and all results before it."""

    def __init__(self, channels: int, growth: int, residual_scale: float) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        outputs = [growth] * 4 + [channels]
        self.convs = nn.ModuleList(
            nn.Conv2d(channels + i * growth, output, 3, padding=1) for i, output in enumerate(outputs)
        )
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(conv.bias)
            with torch.no_grad():
                conv.weight.mul_(_INITIAL_FACTOR)
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for conv in self.convs[:-1]:
            seen = torch.cat([seen, self.activation(conv(seen))], dim=1)
        return x + self.residual_scale * self.convs[-1](seen)


class _Rrdb(nn.Module):
    """Three dense blocks in a residual of their own."""

    def __init__(self, channels: int, growth: int, residual_scale: float) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.blocks = nn.Sequential(*[_DenseBlock(channels, growth, residual_scale) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual_scale * self.blocks(x)


class RrdbNet(PerFrame):
    """Residual-in-residual dense blocks without normalisation, then nearest enlargement and convolutions.

    The defaults are the published network, with 16,697,987 parameters at x4. One enlargement by two for each factor of
    two in the scale.

    Source: Wang et al., ECCV workshops 2018, "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks",
    section 3.1 and the authors' network (23 blocks, 64 channels, growth 32).
    """

    def __init__(
        self,
        *,
        scale: int,
        channels: int = 64,
        num_blocks: int = 23,
        growth: int = 32,
        residual_scale: float = 0.2,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.trunk = nn.Sequential(
            *[_Rrdb(channels, growth, residual_scale) for _ in range(num_blocks)],
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        layers: list[nn.Module] = []
        for factor in stages(scale, name="rrdbnet"):
            layers += [NearestUp(factor), nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(0.2)]
        self.upsampler = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, 3, 3, padding=1),
        )

    def image(self, lr: Tensor) -> Tensor:
        """Upscales pictures, shape (N, 3, H, W)."""
        shallow = self.stem(lr)
        return self.head(self.upsampler(shallow + self.trunk(shallow)))
