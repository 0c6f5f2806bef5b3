"""DISTS, as a loss and as a metric."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sr.checkpoint import load_weights
from sr.features.network import INPUT, Features
from sr.features.weights import find
from sr.losses.feature_distance import FeatureDistance
from sr.losses.lpips import backbone

_CHANNELS = (3, 64, 128, 256, 512, 512)
"""Of the picture itself and of the last ReLU of each block of VGG16."""
_STABILISER = 1e-6
_METRIC_SIDE = 256
"""Pixels: the metric first reduces larger pictures, so that their shorter side is this long."""


class Dists(FeatureDistance):
    """DISTS: structure and texture similarity of VGG16's channels, tolerant of resampled texture.

    From 0 to 1 where nothing agrees, above that where structure is inverted.

    Args:
        weights: `imagenet`, or `random` for rehearsals without the files: a random VGG16 in which all channels count
            alike; then the numbers mean nothing.
        path: File of VGG16's weights, if not where they are looked for.
        channel_path: File with `alpha` and `beta` (dists_weights.pt), if not where it is looked for.
        allow_download: Whether missing weights may be fetched.
        seed: Of a random backbone.

    Raises:
        ValueError: Weights are missing.

    Source: Ding et al., TPAMI 2020, "Image Quality Assessment: Unifying Structure and Texture Similarity".
    """

    alpha: Tensor
    beta: Tensor

    def __init__(
        self,
        *,
        weights: Literal["imagenet", "random"] = "imagenet",
        path: str | None = None,
        channel_path: str | None = None,
        allow_download: bool = False,
        seed: int = 0,
    ) -> None:
        network = backbone(
            "vgg16", weights, path=path, allow_download=allow_download, seed=seed, pooling="l2"
        )
        super().__init__(network, (INPUT, *network.default_taps))
        if weights == "random" and channel_path is None:
            alpha = beta = torch.full((sum(_CHANNELS),), 0.5 / sum(_CHANNELS))
        else:
            alpha, beta = _channel_weights(find("dists", path=channel_path, allow_download=allow_download))
        self.register_buffer("alpha", alpha, persistent=False)
        self.register_buffer("beta", beta, persistent=False)

    def distances(self, sr: Features, hr: Features) -> Tensor:
        """See FeatureDistance.distances."""
        parts = zip(self.taps, self.alpha.split(_CHANNELS), self.beta.split(_CHANNELS), strict=True)
        similar = [_similarity(sr[tap], hr[tap], alpha, beta) for tap, alpha, beta in parts]
        return 1 - torch.stack(similar).sum(0)

    def prepare(self, pictures: Tensor) -> Tensor:
        """See FeatureDistance.prepare."""
        side = min(pictures.shape[-2:])
        if side <= _METRIC_SIDE:
            return pictures
        return F.interpolate(
            pictures, scale_factor=_METRIC_SIDE / side, mode="bilinear", recompute_scale_factor=False
        )


def _similarity(sr: Tensor, hr: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Weighted sum of texture (means) and structure (covariance) similarity over channels, shape (N,)."""
    mean_sr, mean_hr = sr.mean((2, 3)), hr.mean((2, 3))
    off_sr, off_hr = sr - mean_sr[:, :, None, None], hr - mean_hr[:, :, None, None]
    variances = off_sr.square().mean((2, 3)) + off_hr.square().mean((2, 3))
    covariance = (off_sr * off_hr).mean((2, 3))
    texture = (2 * mean_sr * mean_hr + _STABILISER) / (mean_sr.square() + mean_hr.square() + _STABILISER)
    structure = (2 * covariance + _STABILISER) / (variances + _STABILISER)
    return (alpha * texture + beta * structure).sum(1)


def _channel_weights(path: Path) -> tuple[Tensor, Tensor]:
    """Alpha and beta, each of shape (1475,), together summing to 1."""
    state = load_weights(path)
    pair = [state.get(name) for name in ("alpha", "beta")]
    flat = [
        value.detach().float().flatten()
        for value in pair
        if isinstance(value, Tensor) and value.numel() == sum(_CHANNELS)
    ]
    total = torch.stack(flat).sum() if len(flat) == 2 else torch.tensor(0.0)
    # No hash of the file is published, but the published values are non-negative and sum to 1.
    if len(flat) != 2 or torch.stack(flat).min() < 0 or not 0.999 < total < 1.001:
        raise ValueError(
            f"weights of dists from {path}: expected alpha and beta, non-negative, {sum(_CHANNELS)} values each, summing "
            "to 1; give dists_weights.pt of piq, or weights.pt of the package dists-pytorch"
        )
    return flat[0] / total, flat[1] / total
