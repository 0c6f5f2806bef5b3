"""The discriminator of Real-ESRGAN."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sr.models.discriminators.base import SLOPE, Discriminator, Judgement, convolution


class UNetSnD(Discriminator):
    """U-Net with spectral norm: a logit for each pixel, which sees local texture and context at once.

    Sizes that are no multiple of 8 are padded inside by repeating the edge, and the logits are cropped back; the
    features are those of the padded picture. 4,376,897 parameters at 64 channels.

    Source: Wang et al., ICCVW 2021, "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data",
    section 3.3; U-Net discriminators: Schönfeld et al., CVPR 2020.
    """

    tap_names = ("down1", "down2", "down3")
    min_size = 8

    def __init__(self, *, channels: int = 64, skip: bool = True) -> None:
        super().__init__()
        c = channels
        self.skip = skip
        self.stem = nn.Conv2d(3, c, 3, padding=1)
        self.downs = nn.ModuleList(
            [
                convolution(c * 2**i, c * 2 ** (i + 1), kernel=4, stride=2, norm="spectral", bias=False)
                for i in range(3)
            ]
        )
        self.ups = nn.ModuleList([_smooth(c * 2 ** (i + 1), c * 2**i) for i in (2, 1, 0)])
        self.extra = nn.ModuleList([_smooth(c, c), _smooth(c, c)])
        self.head = nn.Conv2d(c, 1, 3, padding=1)

    def judge(self, pictures: Tensor) -> Judgement:
        """Returns a logit map (N, 1, H, W) and the features at 1/2, 1/4 and 1/8 of the size."""
        height, width = pictures.shape[-2:]
        padded = F.pad(pictures, (0, -width % 8, 0, -height % 8), mode="replicate")
        x = F.leaky_relu(self.stem(padded), SLOPE)
        skips, features = [x], {}
        for name, down in zip(self.tap_names, self.downs, strict=True):
            x = F.leaky_relu(down(x), SLOPE)
            features[name] = x
            skips.append(x)
        for up, skip in zip(self.ups, reversed(skips[:-1]), strict=True):
            x = F.leaky_relu(
                up(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)), SLOPE
            )
            x = x + skip if self.skip else x
        for layer in self.extra:
            x = F.leaky_relu(layer(x), SLOPE)
        return self.head(x)[..., :height, :width], features


def _smooth(inputs: int, outputs: int) -> nn.Module:
    return convolution(inputs, outputs, kernel=3, stride=1, norm="spectral", bias=False)
