"""BasicVSR with a flow network that needs no downloaded weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sr.models.flow_net import FlowNet
from sr.models.recurrent import Recurrent, ResidualBlock, enlarge, upsampling_factors, with_predecessor
from sr.warp import warp

_SLOPE = 0.1


class BasicVsrLite(Recurrent):
    """Features carried through the clip in both directions along a learnt flow, merged and upsampled for each frame.

    Not causal: every output depends on the whole clip. BasicVSR's flow is a pretrained SPyNet; here it is FRVSR's small
    flow network, learnt along with the rest, and the trunks have 15 blocks in place of 30: hence "lite".

    Source: Chan et al., CVPR 2021, "BasicVSR: The Search for Essential Components in Video Super-Resolution and Beyond".
    """

    def __init__(
        self,
        *,
        scale: int,
        channels: int = 64,
        num_blocks: int = 15,
        flow_channels: int = 32,
        max_flow: float = 24.0,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.channels = channels
        self.flow_net = FlowNet(channels=flow_channels, max_flow=max_flow)
        self.back_trunk = _trunk(channels, num_blocks)
        self.forth_trunk = _trunk(channels, num_blocks)
        self.merge = nn.Sequential(nn.Conv2d(2 * channels, channels, 1), nn.LeakyReLU(_SLOPE))
        ups: list[nn.Module] = []
        for factor in upsampling_factors("basicvsr_lite", scale, allow_three=True):
            convolution = nn.Conv2d(channels, channels * factor**2, 3, padding=1)
            ups += [convolution, nn.PixelShuffle(factor), nn.LeakyReLU(_SLOPE)]
        self.upsampler = nn.Sequential(
            *ups,
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(channels, 3, 3, padding=1),
        )

    def clip(self, lr: Tensor) -> Tensor:
        """Upscales clips (B, T, 3, H, W), T >= 1."""
        before, now = with_predecessor(lr)
        pairs = now.shape[:2]
        to_next = self.flow_net(before.flatten(0, 1), now.flatten(0, 1)).unflatten(0, pairs)
        to_previous = self.flow_net(now.flatten(0, 1), before.flatten(0, 1)).unflatten(0, pairs)
        # Played backwards, the frame before is the next one, and the last flow comes first.
        back = self._carry(lr.flip(1), to_next.flip(1), self.back_trunk).flip(1)
        forth = self._carry(lr, to_previous, self.forth_trunk)
        merged = self.merge(torch.cat([back, forth], dim=2).flatten(0, 1))
        sr = self.upsampler(merged) + enlarge(lr.flatten(0, 1), self.scale)
        return sr.unflatten(0, lr.shape[:2])

    def _carry(self, lr: Tensor, flows: Tensor, trunk: nn.Module) -> Tensor:
        """Features of each frame, shape (B, T, channels, H, W), from those of the frame before it in `lr`."""
        batch, frames, _, height, width = lr.shape
        features = lr.new_zeros(batch, self.channels, height, width)
        states = []
        for t in range(frames):
            # In a clip of one frame the flow moves zeros: it stays in the graph, as distributed training needs it.
            if t > 0 or frames == 1:
                features = warp(features, flows[:, max(t - 1, 0)])
            features = trunk(torch.cat([lr[:, t], features], dim=1))
            states.append(features)
        return torch.stack(states, dim=1)


def _trunk(channels: int, num_blocks: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3 + channels, channels, 3, padding=1),
        nn.LeakyReLU(_SLOPE),
        *[ResidualBlock(channels) for _ in range(num_blocks)],
    )
