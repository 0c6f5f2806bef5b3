"""The discriminator of SRGAN."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sr.models.discriminators.base import (
    SLOPE,
    Discriminator,
    Judgement,
    Norm,
    activated,
    dense,
    norm_of_ends,
    walk,
)


class VggD(Discriminator):
    """SRGAN's discriminator: one logit a picture, from eight convolutions and two dense layers.

    The features are pooled to `pool_size` squared before the dense layers, so that pictures of any size from 16 pixels
    on can be judged; at the published 96 pixels with `pool_size` 6 the pooling changes nothing. Published with batch
    norm, which is `norm="batch"` here.

    Source: Ledig et al., CVPR 2017, "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial
    Network", figure 4.
    """

    tap_names = ("down1", "down2", "down3", "down4")
    min_size = 16

    def __init__(
        self, *, channels: int = 64, norm: Norm = "none", pool_size: int = 6, dense_channels: int = 1024
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict()
        inputs = 3
        for level in range(4):
            width = channels * 2**level
            # The paper puts no batch norm behind the first convolution.
            self.blocks[f"conv{level + 1}"] = activated(
                inputs, width, kernel=3, stride=1, norm=norm if level else norm_of_ends(norm)
            )
            self.blocks[f"down{level + 1}"] = activated(width, width, kernel=3, stride=2, norm=norm)
            inputs = width
        self.pool_size = pool_size
        self.head = nn.Sequential(
            nn.Flatten(),
            dense(inputs * pool_size**2, dense_channels, norm=norm),
            nn.LeakyReLU(SLOPE),
            dense(dense_channels, 1, norm=norm),
        )

    def judge(self, pictures: Tensor) -> Judgement:
        """Returns logits (N, 1) and the features at 1/2, 1/4, 1/8 and 1/16 of the size."""
        x, features = walk(self.blocks, pictures)
        return self.head(F.adaptive_avg_pool2d(x, self.pool_size)), features
