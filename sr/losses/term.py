"""What a term of a loss is, and what it may ask for besides the pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sr.features.network import FeatureNetwork, Features


@dataclass(frozen=True, slots=True)
class Views:
    """Everything that one step offers to the terms of a loss; all float, of one device, on [0, 1] where a picture."""

    sr: Tensor
    """Output of the generator, shape (B, C, H, W) or (B, T, C, H, W), not clipped."""
    hr: Tensor
    """The target, same shape."""
    lr: Tensor | None = None
    """What the generator was given, shape (..., H / scale, W / scale); a clip may have more frames than `sr`."""
    sr_backward: Tensor | None = None
    """The same frames as `sr`, in the same order, seen on the way back of a clip that is played to its end and back."""
    fake_logits: Tensor | None = None
    """The live discriminator's judgement of `sr`, batch first; higher means more real."""
    real_logits: Tensor | None = None
    """Its judgement of `hr`, same shape, without a graph."""
    fake_features: Features | None = None
    """The live discriminator's activations for `sr`, by tap."""
    real_features: Features | None = None
    """Its activations for `hr`, without a graph."""


class Term(nn.Module):
    """Base of terms that need more than SR and HR: `forward(sr, hr, **{name: value})` for each name in `needs`.

    A term that needs nothing else may be any module with `forward(sr, hr)`.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """Fields of `Views`, passed by keyword."""
    calibrated: ClassVar[bool] = True
    """Whether its weight is made comparable at the bicubic output; not where its gradient there says nothing."""


class FeatureLoss(Term):
    """Base of losses that compare the features of a frozen network.

    The criterion computes the features once for all terms on one network object, those of the target without a graph,
    and calls `compare`. Called by itself, the loss does the same for itself alone.
    """

    def __init__(self, network: FeatureNetwork, taps: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.taps = taps

    def compare(self, sr: Features, hr: Features) -> Tensor:
        """Returns the scalar loss from the features at `taps`, by name; each of shape (N, c, h, w), N = B * T."""
        raise TypeError(f"{type(self).__name__} must define compare()")

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss."""
        with torch.no_grad():
            target = self.network(as_frames(hr), self.taps)
        return self.compare(self.network(as_frames(sr), self.taps), target)


def as_frames(pictures: Tensor) -> Tensor:
    """(B, C, H, W) as it is, (B, T, C, H, W) as (B * T, C, H, W)."""
    return pictures.reshape(-1, *pictures.shape[-3:])


def as_clip(pictures: Tensor) -> Tensor:
    """(B, T, C, H, W) as it is, (B, C, H, W) as clips of one frame."""
    return pictures if pictures.ndim == 5 else pictures[:, None]
