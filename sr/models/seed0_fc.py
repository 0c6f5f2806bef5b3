"""The network of seed 0: shared convolutions per frame, and one fully connected layer."""

from __future__ import annotations

from torch import Tensor, nn

from sr.models.middle_frame import MiddleFrame

_FEATURES = 32
_FRAME_MAPS = 3
"""Channels of the first convolution over the stacked frames."""


class Seed0Fc(MiddleFrame):
    """Seed 0's network for Moving MNIST: five grey 32 x 32 frames to the middle one at 64 x 64, by a linear layer.

    The defaults are the published network, with 33,561,110 used parameters (a further convolution was defined and
    never used; it is left out). Its sigmoid gave 0..1 while targets were 0..255: in units of 0..1 the output was at
    most 1/255, black. `range_fix=true` takes the sigmoid as 0..1. RGB is averaged to grey, and the grey output
    repeated. The input size is fixed by the linear layer; `lr_size` makes small ones.

    Source: Weatherly, Kainth and Vadlamudi, 2024, "Comparing Perceptual Quality vs. Pixel Loss on a Simple Video
    Super-Resolution Model", and their published network.
    """

    num_frames: int = 5

    def __init__(
        self, *, scale: int, num_frames: int = num_frames, range_fix: bool = False, lr_size: int = 32
    ) -> None:
        super().__init__(num_frames=num_frames, name="seed0_fc")
        if scale != 2:
            raise ValueError(f"seed0_fc: the network is for scale 2 only, got {scale}; set scale: 2")
        if lr_size < 2 or lr_size % 2:
            raise ValueError(f"seed0_fc.lr_size: must be even, 2 or more, got {lr_size}")
        self.range_fix = range_fix
        self.lr_size = lr_size
        self.hr_size = scale * lr_size
        self.per_frame = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ELU(),
            nn.Conv2d(8, _FEATURES, 3, padding=1),
            nn.ELU(),
        )
        self.across_frames = nn.Sequential(
            nn.Conv2d(num_frames, _FRAME_MAPS, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(_FRAME_MAPS, 1, 3, padding=1),
            nn.ReLU(),
        )
        self.linear = nn.Linear(_FEATURES * (lr_size // 2) ** 2, self.hr_size**2)

    def fuse(self, lr: Tensor) -> Tensor:
        """Upscales the middle frame: (B, num_frames, 3, lr_size, lr_size) to (B, 3, 2*lr_size, 2*lr_size)."""
        if lr.shape[-2:] != (self.lr_size, self.lr_size):
            raise ValueError(
                f"seed0_fc: got LR frames of {lr.shape[-1]} x {lr.shape[-2]} pixels, its linear layer takes only "
                f"{self.lr_size} x {self.lr_size}; use HR crops of {self.hr_size} pixels, or set lr_size"
            )
        grey = lr.mean(dim=2).flatten(0, 1).unsqueeze(1)
        features: Tensor = self.per_frame(grey)
        # As published: each frame's 32 maps of 16 x 16 are one "picture" of 32 x 256, the frames its channels.
        stacked = features.reshape(-1, self.num_frames, _FEATURES, (self.lr_size // 2) ** 2)
        sr = self.linear(self.across_frames(stacked).flatten(1)).sigmoid()
        sr = sr if self.range_fix else sr / 255
        return sr.reshape(-1, 1, self.hr_size, self.hr_size).repeat(1, 3, 1, 1)
