"""SRResNet, the generator of SRGAN."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from sr.models.frames import PerFrame


def _norm(kind: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.Identity()


class _Block(nn.Module):
    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            _norm(norm, channels),
            nn.PReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            _norm(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class SrResNet(PerFrame):
    """A stem, residual blocks with a long skip, and pixel-shuffle upsampling.

    Without normalisation by default: batch norm's running statistics make a model behave differently in training and
    in evaluation, which a loss comparison would pick up as noise. `norm="batch"` is the published network, with
    1,549,462 parameters at x4.

    Source: Ledig et al., CVPR 2017, "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial
    Network", figure 4.
    """

    def __init__(
        self, *, scale: int, channels: int = 64, num_blocks: int = 16, norm: Literal["none", "batch"] = "none"
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 9, padding=4), nn.PReLU())
        self.trunk = nn.Sequential(
            *[_Block(channels, norm) for _ in range(num_blocks)],
            nn.Conv2d(channels, channels, 3, padding=1),
            _norm(norm, channels),
        )
        factors = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
        if scale not in (2, 3, 4, 8):
            raise ValueError(f"srresnet: scale must be 2, 3, 4 or 8, got {scale}")
        self.upsampler = nn.Sequential(
            *[
                layer
                for factor in factors
                for layer in (
                    nn.Conv2d(channels, channels * factor**2, 3, padding=1),
                    nn.PixelShuffle(factor),
                    nn.PReLU(),
                )
            ]
        )
        self.head = nn.Conv2d(channels, 3, 9, padding=4)

    def image(self, lr: Tensor) -> Tensor:
        """Upscales pictures, shape (N, 3, H, W)."""
        shallow = self.stem(lr)
        return self.head(self.upsampler(shallow + self.trunk(shallow)))
