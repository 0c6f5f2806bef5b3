"""What a discriminator is, and the layers that all of them are made of."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.utils import parametrizations

from sr.collective import BatchNorm2d

Norm = Literal["none", "spectral", "group", "batch"]
"""Normalisation inside a discriminator; `batch` couples the samples of a batch and differs in evaluation mode."""

Judgement = tuple[Tensor, dict[str, Tensor]]
"""Logits with the batch first, and the activations behind each stride-2 block by name, from shallow to deep."""

SLOPE = 0.2
"""Of all leaky rectifiers; the value that DCGAN, SRGAN and PatchGAN share."""


class Discriminator(nn.Module):
    """Base of discriminators: they take RGB in [0, 1] and return logits (high: real) and features.

    Subclasses define `judge`, for pictures in [-1, 1].
    """

    tap_names: tuple[str, ...]
    """Keys of the features, from shallow to deep: what feature matching compares."""
    min_size: int
    """Least height and width in pixels."""

    def forward(self, pictures: Tensor) -> Judgement:
        """Judges pictures (N, 3, H, W), or clips (B, T, 3, H, W) whose frames count as N = B * T pictures.

        Args:
            pictures: RGB in [0, 1], real or generated; not clipped here.

        Returns:
            Logits, and the features by the names in `tap_names`, each with N first.

        Raises:
            ValueError: The pictures are too small or not RGB.
        """
        self.check(pictures)
        return self.judge(pictures.reshape(-1, *pictures.shape[-3:]) * 2 - 1)

    def judge(self, pictures: Tensor) -> Judgement:
        """Judges pictures in [-1, 1], shape (N, C, H, W)."""
        raise TypeError(f"{type(self).__name__} must define judge()")

    def check(self, pictures: Tensor) -> None:
        """Raises ValueError where the pictures cannot be judged."""
        name, shape = type(self).__name__, tuple(pictures.shape)
        if pictures.ndim not in (4, 5) or pictures.shape[-3] != 3:
            raise ValueError(
                f"{name}: expected RGB of shape (N, 3, H, W) or (B, T, 3, H, W), got {shape}; "
                "convert the pictures to three channels"
            )
        if min(shape[-2:]) < self.min_size:
            raise ValueError(
                f"{name}: needs pictures of at least {self.min_size} x {self.min_size} pixels, got {shape}; "
                "raise data.patch_size or choose a smaller discriminator"
            )


def convolution(
    inputs: int, outputs: int, *, kernel: int, stride: int, norm: Norm, bias: bool = True
) -> nn.Module:
    """A convolution with padding 1, followed by its normalisation."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=bias)
    if norm == "spectral":
        return parametrizations.spectral_norm(layer)
    if norm == "none":
        return layer
    return nn.Sequential(layer, _norm_layer(norm, outputs))


def activated(inputs: int, outputs: int, *, kernel: int, stride: int, norm: Norm) -> nn.Sequential:
    """`convolution` followed by a leaky rectifier."""
    body = convolution(inputs, outputs, kernel=kernel, stride=stride, norm=norm)
    return nn.Sequential(body, nn.LeakyReLU(SLOPE))


def dense(inputs: int, outputs: int, *, norm: Norm) -> nn.Module:
    """A linear layer; only spectral normalisation reaches it, as usual for the head of a discriminator."""
    layer = nn.Linear(inputs, outputs)
    return parametrizations.spectral_norm(layer) if norm == "spectral" else layer


def norm_of_ends(norm: Norm) -> Norm:
    """The norm of the first and the last layer: statistics would hide the colours there, spectral norm does not."""
    return norm if norm == "spectral" else "none"


def walk(blocks: nn.ModuleDict, x: Tensor) -> Judgement:
    """Runs blocks in order; returns the last output and those of the blocks called `down...`."""
    features: dict[str, Tensor] = {}
    for name, block in blocks.items():
        x = block(x)
        if name.startswith("down"):
            features[name] = x
    return x, features


def _norm_layer(norm: Norm, channels: int) -> nn.Module:
    if norm == "batch":
        return BatchNorm2d(channels)
    # 16 channels a group is one of the two settings that Wu and He (ECCV 2018, "Group Normalization") recommend.
    return nn.GroupNorm(channels // 16 if channels % 16 == 0 else 1, channels)
