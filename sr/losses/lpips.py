"""LPIPS, as a loss and as a metric."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sr.checkpoint import load_weights
from sr.features import load_network, random_network
from sr.features.network import FeatureNetwork, Features
from sr.losses.feature_distance import FeatureDistance, unit_length

_LAYOUTS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
"""The taps are the default taps of these layouts."""


class Lpips(FeatureDistance):
    """LPIPS v0.1: unit-normalised activations, squared differences weighted as people judged them.

    From 0 up, without unit. Its input normalisation is ImageNet's, written for [-1, 1]: so it shares its
    features with every other term on the same network. The weights of the channels are those that the
    `lpips` package brings; the backbone is found as any feature network is, and never downloaded unasked.

    Args:
        net: `alex` is the metric of the literature, `vgg` the usual loss.
        weights: `imagenet`, or `random` backbone for rehearsals without the files: then the numbers mean nothing.
        path: File of the backbone's weights, if not where they are looked for.
        allow_download: Whether missing weights may be fetched.
        seed: Of a random backbone.

    Raises:
        ValueError: The weights are missing.

    Source: Zhang et al., CVPR 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric".
    """

    def __init__(
        self,
        *,
        net: Literal["alex", "vgg", "squeeze"] = "alex",
        weights: Literal["imagenet", "random"] = "imagenet",
        path: str | None = None,
        allow_download: bool = False,
        seed: int = 0,
    ) -> None:
        network = backbone(_LAYOUTS[net], weights, path=path, allow_download=allow_download, seed=seed)
        super().__init__(network, network.default_taps)
        for index, tap in enumerate(self.taps):
            self.register_buffer(f"lin_{tap}", _channel_weights(net, index), persistent=False)

    def distances(self, sr: Features, hr: Features) -> Tensor:
        """See FeatureDistance.distances."""
        parts = [
            (unit_length(sr[tap]) - unit_length(hr[tap]))
            .square()
            .mul(self.get_buffer(f"lin_{tap}"))
            .sum(1)
            .mean((1, 2))
            for tap in self.taps
        ]
        return torch.stack(parts).sum(0)


def backbone(
    layout: str,
    weights: str,
    *,
    path: str | None,
    allow_download: bool,
    seed: int,
    pooling: Literal["max", "l2"] = "max",
) -> FeatureNetwork:
    """A network with ImageNet's weights, or with random ones if `weights` says so; see load_network.

    Raises:
        ValueError: The weights are missing, or a setting has no effect.
    """
    if weights == "random":
        if path is not None:
            raise ValueError(f"path: {path!r} has no effect with weights=random; remove one of them")
        return random_network(layout, seed=seed, pooling=pooling)
    return load_network(layout, path=path, allow_download=allow_download, seed=seed, pooling=pooling)


def _channel_weights(net: str, index: int) -> Tensor:
    """The published non-negative weight of each channel of a tap, shape (1, c, 1, 1)."""
    spec = importlib.util.find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("lpips: the package that brings its weights is not installed; pip install lpips")
    file = Path(spec.submodule_search_locations[0]) / "weights" / "v0.1" / f"{net}.pth"
    return load_weights(file)[f"lin{index}.model.1.weight"].float()
