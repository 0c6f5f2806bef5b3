"""Contextual loss: features of the target must occur in the output, no matter where."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sr.features import load_network
from sr.features.layered import Normalisation
from sr.features.network import Features
from sr.losses.feature_distance import FeatureDistance, weighted_taps


class Contextual(FeatureDistance):
    """Contextual loss: each feature of the target wants a similar one anywhere in the output; needs no alignment.

    From nearly 0 (every feature has its like) up.

    Args:
        network: Name in NETWORKS.
        taps: Names of layers. Unless given, `conv3_4` where the network has it, else the last but two of its default
            taps.
        tap_weights: One per tap; 1 unless given.
        bandwidth: h of the paper: how alike a feature must be to count.
        max_positions: At a tap with more positions, an evenly spaced grid of at most so many is compared, the same of
            both pictures and always the same: time and memory grow with its square (1024: 4 MB per picture and matrix).
        normalisation: Of the network's input.
        path: File of the network's weights, if not where they are looked for.
        allow_download: Whether missing weights may be fetched.
        seed: Of a random network.

    Raises:
        ValueError: The weights are missing, a tap does not exist, or a number does not fit.

    Source: Mechrez et al., ECCV 2018, "The Contextual Loss for Image Transformation with Non-Aligned Data", equations
    2-5, cosine distance, h = 0.5; as a loss of super-resolution in Mechrez et al., ACCV 2018.
    """

    def __init__(
        self,
        *,
        network: str = "vgg19",
        taps: list[str] | None = None,
        tap_weights: list[float] | None = None,
        bandwidth: float = 0.5,
        max_positions: int = 1024,
        normalisation: Normalisation | None = None,
        path: str | None = None,
        allow_download: bool = False,
        seed: int = 0,
    ) -> None:
        if bandwidth <= 0:
            raise ValueError(f"contextual.bandwidth: {bandwidth} is not positive; the paper has 0.5")
        if max_positions < 4:
            raise ValueError(
                f"contextual.max_positions: {max_positions} positions say nothing; give 64 or more"
            )
        loaded = load_network(
            network, path=path, allow_download=allow_download, seed=seed, normalisation=normalisation
        )
        if taps is None:
            default = loaded.default_taps[max(len(loaded.default_taps) - 3, 0)]
            taps = ["conv3_4"] if "conv3_4" in loaded.tap_names else [default]
        chosen = weighted_taps(loaded, taps, tap_weights, where="contextual")
        super().__init__(loaded, tuple(chosen))
        self.tap_weights = chosen
        self.bandwidth = bandwidth
        self.max_positions = max_positions

    def distances(self, sr: Features, hr: Features) -> Tensor:
        """See FeatureDistance.distances."""
        parts = [
            weight
            * self._distance(_on_grid(sr[tap], self.max_positions), _on_grid(hr[tap], self.max_positions))
            for tap, weight in self.tap_weights.items()
        ]
        return torch.stack(parts).sum(0)

    def _distance(self, sr: Tensor, hr: Tensor) -> Tensor:
        """-log of the contextual similarity of two sets of features, shape (N, c, P) each; returns (N,)."""
        centre = hr.mean(2, keepdim=True)
        x, y = F.normalize(sr - centre, dim=1), F.normalize(hr - centre, dim=1)
        # (N, P of sr, P of hr). Rounding makes a distance of zero slightly negative.
        distance = (1 - x.mT @ y).clamp(min=0)
        relative = distance / (distance.amin(2, keepdim=True) + 1e-5)
        # A softmax over the target's features: the same as the paper's division by the sum, without overflow.
        similarity = torch.softmax((1 - relative) / self.bandwidth, dim=2)
        return -similarity.amax(1).mean(1).log()


def _on_grid(features: Tensor, max_positions: int) -> Tensor:
    """At most so many positions of (N, c, h, w), evenly spaced, as (N, c, P)."""
    height, width = features.shape[-2:]
    if height * width > max_positions:
        ratio = math.sqrt(max_positions / (height * width))
        rows = _spread(height, max(1, int(height * ratio)), features.device)
        columns = _spread(width, max(1, int(width * ratio)), features.device)
        features = features[:, :, rows][:, :, :, columns]
    return features.flatten(2)


def _spread(size: int, count: int, device: torch.device) -> Tensor:
    """The middles of `count` equal parts of 0..size-1."""
    return ((torch.arange(count, device=device) + 0.5) * size / count).long()
