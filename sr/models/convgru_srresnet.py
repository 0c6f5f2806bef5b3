"""SRResNet with a memory."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sr.models.recurrent import Recurrent
from sr.models.srresnet import SrResNet


class ConvGruSrResNet(Recurrent):
    """SRResNet without batch norm, with a convolutional GRU or LSTM between its trunk and its upsampler.

    Causal, or with `bidirectional` a second cell that reads the clip from its end; a 1 x 1 convolution merges the two.

    Source: Ballas et al., ICLR 2016, "Delving Deeper into Convolutional Networks for Learning Video Representations"
    (ConvGRU); Shi et al., NeurIPS 2015, "Convolutional LSTM Network" (without its peepholes); Ledig et al., CVPR 2017
    (SRResNet).
    """

    def __init__(
        self,
        *,
        scale: int,
        channels: int = 64,
        num_blocks: int = 16,
        cell: Literal["gru", "lstm"] = "gru",
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        self.picture = SrResNet(scale=scale, channels=channels, num_blocks=num_blocks)
        kind = {"gru": ConvGru, "lstm": ConvLstm}[cell]
        self.cell = kind(channels)
        self.cell_back = kind(channels) if bidirectional else None
        self.merge = nn.Conv2d(2 * channels, channels, 1) if bidirectional else nn.Identity()

    def clip(self, lr: Tensor) -> Tensor:
        """Upscales clips (B, T, 3, H, W), T >= 1."""
        batch, frames = lr.shape[:2]
        shallow = self.picture.stem(lr.flatten(0, 1))
        features = (shallow + self.picture.trunk(shallow)).unflatten(0, (batch, frames))
        memory = self.cell(features)
        if self.cell_back is not None:
            memory = torch.cat([memory, self.cell_back(features.flip(1)).flip(1)], dim=2)
        upsampled = self.picture.upsampler(self.merge(memory.flatten(0, 1)))
        return self.picture.head(upsampled).unflatten(0, (batch, frames))


class ConvGru(nn.Module):
    """Convolutional GRU: z = s(W_z[x, h]), r = s(W_r[x, h]), n = tanh(W_n[x, r h]), h = (1 - z) h + z n."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        self.candidate = nn.Conv2d(2 * channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the hidden state behind each step, shape (B, T, channels, H, W) as the input."""
        hidden = torch.zeros_like(x[:, 0])
        states = []
        for now in x.unbind(1):
            update, reset = self.gates(torch.cat([now, hidden], dim=1)).sigmoid().chunk(2, dim=1)
            new = self.candidate(torch.cat([now, reset * hidden], dim=1)).tanh()
            hidden = (1 - update) * hidden + update * new
            states.append(hidden)
        return torch.stack(states, dim=1)


class ConvLstm(nn.Module):
    """Convolutional LSTM without peepholes; the forget gate starts open."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.gates = nn.Conv2d(2 * channels, 4 * channels, 3, padding=1)
        bias = self.gates.bias
        assert bias is not None
        with torch.no_grad():
            # Gers et al., Neural Computation 2000: a forget gate near 1 lets gradients through from the first step on.
            bias[channels : 2 * channels] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Returns the hidden state behind each step, shape (B, T, channels, H, W) as the input."""
        hidden = cell = torch.zeros_like(x[:, 0])
        states = []
        for now in x.unbind(1):
            entry, forget, exit_, new = self.gates(torch.cat([now, hidden], dim=1)).chunk(4, dim=1)
            cell = forget.sigmoid() * cell + entry.sigmoid() * new.tanh()
            hidden = exit_.sigmoid() * cell.tanh()
            states.append(hidden)
        return torch.stack(states, dim=1)
