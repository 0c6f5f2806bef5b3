"""FNet, a small network that learns optical flow along with a video generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MULTIPLE = 8
_SLOPE = 0.2


class FlowNet(nn.Module):
    """Flow between two frames, by an hourglass of convolutions; learnt without labels, at most `max_flow` pixels.

    The last layer starts small, so that training starts with hardly any motion.

    Source: Sajjadi et al., CVPR 2018, "Frame-Recurrent Video Super-Resolution", figure 3; the bound on the flow as in
    Chu et al., ACM TOG 2020 (TecoGAN).
    """

    def __init__(self, *, channels: int = 32, max_flow: float = 24.0) -> None:
        super().__init__()
        c = channels
        self.max_flow = max_flow
        self.down = nn.ModuleList([_pair(6, c), _pair(c, 2 * c), _pair(2 * c, 4 * c)])
        self.up = nn.ModuleList([_pair(4 * c, 8 * c), _pair(8 * c, 4 * c), _pair(4 * c, 2 * c)])
        self.head = nn.Sequential(
            nn.Conv2d(2 * c, c, 3, padding=1), nn.LeakyReLU(_SLOPE), last := nn.Conv2d(c, 2, 3, padding=1)
        )
        with torch.no_grad():
            last.weight *= 0.1
            assert last.bias is not None
            nn.init.zeros_(last.bias)

    def forward(self, frames: Tensor, others: Tensor) -> Tensor:
        """Returns the flow from `frames` to `others`, such that `sr.warp.warp(others, flow)` looks like `frames`.

        Args:
            frames: RGB in [0, 1], shape (N, 3, H, W), any size.
            others: Same shape.

        Returns:
            Pixels to the right and down, shape (N, 2, H, W).
        """
        height, width = frames.shape[-2:]
        x = torch.cat([others, frames], dim=1)
        x = F.pad(x, (0, -width % _MULTIPLE, 0, -height % _MULTIPLE), mode="replicate")
        for block in self.down:
            x = F.max_pool2d(block(x), 2)
        for block in self.up:
            x = F.interpolate(block(x), scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(x).tanh()[..., :height, :width] * self.max_flow


def _pair(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.LeakyReLU(_SLOPE),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.LeakyReLU(_SLOPE),
    )
