"""The discriminator of pix2pix."""

from __future__ import annotations

from torch import Tensor, nn

from sr.models.discriminators.base import (
    Discriminator,
    Judgement,
    Norm,
    activated,
    convolution,
    norm_of_ends,
    walk,
)


class PatchD(Discriminator):
    """PatchGAN: a logit for each patch of 70 x 70 pixels (with three levels), by convolutions only.

    Spectral norm by default; published with batch norm, which is `norm="batch"` here (none behind the first
    convolution).

    Source: Isola et al., CVPR 2017, "Image-to-Image Translation with Conditional Adversarial Networks", appendix 6.1.2;
    spectral norm: Miyato et al., ICLR 2018, "Spectral Normalization for Generative Adversarial Networks".
    """

    def __init__(self, *, channels: int = 64, levels: int = 3, norm: Norm = "spectral") -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(
                f"patch_d: levels must be 1 or more, got {levels}; 3 is the published 70 x 70 PatchGAN"
            )
        self.blocks = nn.ModuleDict()
        inputs = 3
        for level in range(levels):
            outputs = channels * min(2**level, 8)
            self.blocks[f"down{level + 1}"] = activated(
                inputs, outputs, kernel=4, stride=2, norm=norm if level else norm_of_ends(norm)
            )
            inputs = outputs
        outputs = channels * min(2**levels, 8)
        self.blocks["wide"] = activated(inputs, outputs, kernel=4, stride=1, norm=norm)
        self.head = convolution(outputs, 1, kernel=4, stride=1, norm=norm_of_ends(norm))
        self.tap_names = tuple(f"down{level + 1}" for level in range(levels))
        # The two last 4 x 4 convolutions with padding 1 each take one pixel off the map.
        self.min_size = 3 * 2**levels

    def judge(self, pictures: Tensor) -> Judgement:
        """Returns a logit map (N, 1, H / 8 - 2, W / 8 - 2) (with three levels) and a feature map for each level."""
        x, features = walk(self.blocks, pictures)
        return self.head(x), features
