"""A discriminator that sees motion."""

from __future__ import annotations

import torch
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

_WINDOW = 3


class TemporalD(Discriminator):
    """Judges three consecutive frames at once, so that flicker and frozen detail give a generator away.

    Every window of three frames of a clip is judged by itself, stacked as 9 channels: N = B * (T - 2). The layers are
    those of TecoGAN's discriminator (64, 64, 128, 256 channels at strides 2 to 16), with a logit map at 1/16 of the
    size in place of its dense layer, and without its warped and low-resolution inputs.

    Source: after Chu et al., ACM TOG 2020, "Learning Temporal Coherence via Self-Supervision for GAN-based Video
    Generation", section 3; layer widths from the literature, unverified.
    """

    tap_names = ("down1", "down2", "down3", "down4")
    min_size = 16

    def __init__(self, *, channels: int = 64, norm: Norm = "spectral") -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(
            {"stem": activated(3 * _WINDOW, channels, kernel=3, stride=1, norm=norm_of_ends(norm))}
        )
        inputs = channels
        for name, factor in zip(self.tap_names, (1, 1, 2, 4), strict=True):
            self.blocks[name] = activated(inputs, channels * factor, kernel=4, stride=2, norm=norm)
            inputs = channels * factor
        self.head = convolution(inputs, 1, kernel=3, stride=1, norm=norm_of_ends(norm))

    def forward(self, pictures: Tensor) -> Judgement:
        """Judges the windows of clips (B, T, 3, H, W) in [0, 1], T >= 3; the batch of the results is B * (T - 2).

        Raises:
            ValueError: The pictures are no clips, or clips of fewer than three frames.
        """
        self.check(pictures)
        shape = tuple(pictures.shape)
        if pictures.ndim != 5 or shape[1] < _WINDOW:
            raise ValueError(
                f"temporal_d: needs clips (B, T, 3, H, W) of at least {_WINDOW} frames, got {shape}; "
                "pack clips of at least 3 frames (srloss shard pack ... --frames), or choose another discriminator"
            )
        count = shape[1] - _WINDOW + 1
        windows = torch.cat([pictures[:, i : i + count] for i in range(_WINDOW)], dim=2)
        return self.judge(windows.reshape(-1, *windows.shape[2:]) * 2 - 1)

    def judge(self, pictures: Tensor) -> Judgement:
        """Returns a logit map (N, 1, H / 16, W / 16) and the features at 1/2, 1/4, 1/8 and 1/16 of the size."""
        x, features = walk(self.blocks, pictures)
        return self.head(x), features
