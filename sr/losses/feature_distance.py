"""Distances between features that are a number per picture: losses by their mean, metrics by themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sr.features.network import FeatureNetwork, Features
from sr.losses.term import FeatureLoss, as_frames


class FeatureDistance(FeatureLoss):
    """Base of losses that subclasses define by `distances`."""

    def distances(self, sr: Features, hr: Features) -> Tensor:
        """Returns one value per picture, shape (N,); see FeatureLoss.compare."""
        raise TypeError(f"{type(self).__name__} must define distances()")

    def compare(self, sr: Features, hr: Features) -> Tensor:
        """See FeatureLoss.compare."""
        return self.distances(sr, hr).mean()

    @torch.no_grad()
    def per_picture(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The distance of each picture, as a metric: shape (N, 3, H, W) of any float to (N,) in float64."""
        dtype = next(self.network.parameters()).dtype
        a, b = (self.prepare(as_frames(pictures).to(dtype)) for pictures in (sr, hr))
        return self.distances(self.network(a, self.taps), self.network(b, self.taps)).double()

    def prepare(self, pictures: Tensor) -> Tensor:
        """What the metric's protocol does to pictures first; nothing, unless a subclass says so."""
        return pictures


def unit_length(features: Tensor) -> Tensor:
    """Divides activations (N, c, h, w) by their norm over the channels, as LPIPS does."""
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + 1e-10)


def weighted_taps(
    network: FeatureNetwork,
    taps: Sequence[str],
    tap_weights: Sequence[float] | None,
    *,
    where: str,
) -> dict[str, float]:
    """Weight of each tap, by the network's own names; 1 unless given.

    Raises:
        ValueError: A tap does not exist, or there are not as many weights as taps.
    """
    names = network.resolve(taps)
    weights = [1.0] * len(names) if tap_weights is None else list(tap_weights)
    if len(weights) != len(names):
        raise ValueError(
            f"{where}: {len(weights)} tap_weights for {len(names)} taps ({', '.join(names)}); give one for each"
        )
    return dict(zip(names, weights, strict=True))
