"""FRVSR, a recurrent network that moves its last output along a learnt flow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.models.flow_net import FlowNet
from sr.models.recurrent import Recurrent, ResidualBlock, enlarge, upsampling_factors, with_predecessor
from sr.resize import upscale_bicubic
from sr.warp import warp


class Frvsr(Recurrent):
    """Frame-recurrent super-resolution: the last output, warped to the frame at hand, is refined with it.

    Causal. In training `auxiliary_loss` holds, after each forward, that forward's flow_weight * mean (warp(LR_{t-1}) - LR_t)^2, which
    teaches the flow and has to be added to the loss; it is None in evaluation. The network predicts what is to be added
    to the bicubic enlargement.

    Source: Sajjadi et al., CVPR 2018, "Frame-Recurrent Video Super-Resolution".
    """

    auxiliary_loss: Tensor | None

    def __init__(
        self,
        *,
        scale: int,
        channels: int = 64,
        num_blocks: int = 10,
        flow_channels: int = 32,
        max_flow: float = 24.0,
        flow_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.flow_weight = flow_weight
        self.auxiliary_loss = None
        self.flow_net = FlowNet(channels=flow_channels, max_flow=max_flow)
        ups: list[nn.Module] = []
        for _ in upsampling_factors("frvsr", scale, allow_three=False):
            ups += [
                nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1),
                nn.ReLU(),
            ]
        self.refine = nn.Sequential(
            nn.Conv2d(3 + 3 * scale**2, channels, 3, padding=1),
            nn.ReLU(),
            *[ResidualBlock(channels) for _ in range(num_blocks)],
            *ups,
            nn.Conv2d(channels, 3, 3, padding=1),
        )

    def __getstate__(self) -> dict[str, object]:
        """A copy is without the graph of the last step, which torch cannot copy."""
        return {**self.__dict__, "auxiliary_loss": None}

    def clip(self, lr: Tensor) -> Tensor:
        """Upscales clips (B, T, 3, H, W), T >= 1."""
        before, now = with_predecessor(lr)
        flows = self.flow_net(now.flatten(0, 1), before.flatten(0, 1))
        self.auxiliary_loss = self._flow_loss(before, now, flows) if self.training else None
        large = (enlarge(flows, self.scale) * self.scale).unflatten(0, now.shape[:2])
        batch, frames, _, height, width = lr.shape
        sr = lr.new_zeros(batch, 3, height * self.scale, width * self.scale)
        outputs = []
        for t in range(frames):
            # Before the first frame there is black, which no flow can move.
            moved = warp(sr, large[:, t - 1]) if t > 0 else sr
            seen = torch.cat([lr[:, t], F.pixel_unshuffle(moved, self.scale)], dim=1)
            sr = self.refine(seen) + upscale_bicubic(lr[:, t], self.scale)
            outputs.append(sr)
        return torch.stack(outputs, dim=1)

    def _flow_loss(self, before: Tensor, now: Tensor, flows: Tensor) -> Tensor:
        moved = warp(before.flatten(0, 1), flows)
        return self.flow_weight * F.mse_loss(moved, now.flatten(0, 1))
