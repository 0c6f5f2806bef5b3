"""SRResNet, the generator of SRGAN."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from sr.models.blocks import ResidualBlock, norm_layer
from sr.models.frames import PerFrame
from sr.models.upsampling import shuffle_upsampler


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
            *[ResidualBlock(channels, norm=norm) for _ in range(num_blocks)],
            nn.Conv2d(channels, channels, 3, padding=1),
            norm_layer(norm, channels),
        )
        self.upsampler = shuffle_upsampler(channels, scale, name="srresnet", prelu=True)
        self.head = nn.Conv2d(channels, 3, 9, padding=4)

    def image(self, lr: Tensor) -> Tensor:
        """Upscales pictures, shape (N, 3, H, W)."""
        shallow = self.stem(lr)
        return self.head(self.upsampler(shallow + self.trunk(shallow)))
