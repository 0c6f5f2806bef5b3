"""RRN, a recurrent network without motion compensation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.models.recurrent import Recurrent, ResidualBlock, enlarge, scale_down_initial_weights


class Rrn(Recurrent):
    """Recurrent residual network: two frames, a hidden state and the last output, through residual blocks.

    Causal: a frame's output depends on it and those before it. The frame before the first is the first. 1,888,560
    parameters at x4 with 5 blocks, 3,364,400 with 10 (the paper's RRN-5L and RRN-10L).

    Source: Isobe et al., BMVC 2020, "Revisiting Temporal Modeling for Video Super-resolution", section 3.2.
    """

    def __init__(self, *, scale: int, channels: int = 128, num_blocks: int = 10) -> None:
        super().__init__()
        if scale < 1:
            raise ValueError(f"rrn: scale must be a whole number from 1 on, got {scale}")
        self.scale = scale
        self.channels = channels
        output = 3 * scale**2
        self.stem = nn.Conv2d(6 + channels + output, channels, 3, padding=1)
        self.trunk = nn.Sequential(*[ResidualBlock(channels) for _ in range(num_blocks)])
        self.to_hidden = nn.Conv2d(channels, channels, 3, padding=1)
        self.to_output = nn.Conv2d(channels, output, 3, padding=1)
        scale_down_initial_weights(self, 0.1)

    def clip(self, lr: Tensor) -> Tensor:
        """Upscales clips (B, T, 3, H, W), T >= 1."""
        batch, frames, _, height, width = lr.shape
        hidden = lr.new_zeros(batch, self.channels, height, width)
        sr = lr.new_zeros(batch, 3, height * self.scale, width * self.scale)
        outputs = []
        for t in range(frames):
            seen = torch.cat(
                [lr[:, max(t - 1, 0)], lr[:, t], hidden, F.pixel_unshuffle(sr, self.scale)], dim=1
            )
            x = self.trunk(F.relu(self.stem(seen)))
            hidden = F.relu(self.to_hidden(x))
            sr = F.pixel_shuffle(self.to_output(x), self.scale) + enlarge(lr[:, t], self.scale)
            outputs.append(sr)
        if frames == 1:
            # Nothing reads the state that a picture leaves, but distributed training needs every parameter in the graph.
            outputs[0] = sr + 0 * hidden.mean()
        return torch.stack(outputs, dim=1)
