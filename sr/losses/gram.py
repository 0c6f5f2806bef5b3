"""Style loss: correlations between the channels of a feature network, whatever their place."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sr.features import load_network
from sr.features.layered import Normalisation
from sr.features.network import INPUT, Features
from sr.losses.feature_distance import weighted_taps
from sr.losses.term import FeatureLoss

_ENHANCENET = {"relu1_1": 0.3, "relu2_1": 1.0, "relu3_1": 1.0}
"""Relative weights of EnhanceNet (3e-7, 1e-6, 1e-6; from the literature, unverified); the absolute ones depend on the
network's scaling, so calibrate."""


class Gram(FeatureLoss):
    """Style loss: distance of Gram matrices, which hold the texture and forget its place.

    A Gram matrix is divided by channels and positions, so that the loss does not depend on the size of the crop.
    From 0 up, in the units of the network's activations (squared, for `l2` to the fourth power).

    Args:
        network: Name in NETWORKS.
        taps: Names of layers. Unless given, the first ReLU of the first three blocks, weighted as in EnhanceNet, where
            the network has these; else its default taps.
        tap_weights: One per tap.
        patch_size: Compare patches of so many pixels of the picture one by one (EnhanceNet: 16), so that texture stays
            where it belongs; None: the whole picture as one. What is left at the right and bottom is not compared.
        criterion: `l1` or `l2`, each a mean over the entries.
        normalisation: Of the network's input.
        path: File of the network's weights, if not where they are looked for.
        allow_download: Whether missing weights may be fetched.
        seed: Of a random network.

    Raises:
        ValueError: The weights are missing, a tap does not exist, or the tap weights do not fit.

    Source: Gatys et al., CVPR 2016; Sajjadi et al., ICCV 2017, "EnhanceNet", section 4.2.3.
    """

    def __init__(
        self,
        *,
        network: str = "vgg19",
        taps: list[str] | None = None,
        tap_weights: list[float] | None = None,
        patch_size: int | None = None,
        criterion: Literal["l1", "l2"] = "l2",
        normalisation: Normalisation | None = None,
        path: str | None = None,
        allow_download: bool = False,
        seed: int = 0,
    ) -> None:
        if patch_size is not None and patch_size < 1:
            raise ValueError(
                f"gram.patch_size: {patch_size} is no number of pixels; give 16, or null for the picture"
            )
        loaded = load_network(
            network, path=path, allow_download=allow_download, seed=seed, normalisation=normalisation
        )
        if taps is None and set(_ENHANCENET) <= set(loaded.tap_names):
            taps = list(_ENHANCENET)
            tap_weights = list(_ENHANCENET.values()) if tap_weights is None else tap_weights
        chosen = weighted_taps(loaded, taps or loaded.default_taps, tap_weights, where="gram")
        # The picture itself tells how many of its pixels one position of a tap stands for.
        super().__init__(loaded, tuple(dict.fromkeys((INPUT, *chosen))))
        self.tap_weights = chosen
        self.patch_size = patch_size
        self.criterion = criterion

    def compare(self, sr: Features, hr: Features) -> Tensor:
        """See FeatureLoss.compare."""
        difference = F.l1_loss if self.criterion == "l1" else F.mse_loss
        width = hr[INPUT].shape[-1]
        parts = [
            weight * difference(self._gram(sr[tap], width), self._gram(hr[tap], width))
            for tap, weight in self.tap_weights.items()
        ]
        return torch.stack(parts).sum()

    def _gram(self, features: Tensor, width: int) -> Tensor:
        """Gram matrices, shape (patches, c, c)."""
        if self.patch_size is None:
            flat = features.flatten(2)
        else:
            flat = _patches(features, self._side(features, width)).flatten(2)
        return flat @ flat.mT / (flat.shape[1] * flat.shape[2])

    def _side(self, features: Tensor, width: int) -> int:
        """Side of a patch in positions of a tap."""
        assert self.patch_size is not None, "asked for patches"
        side = round(self.patch_size * features.shape[-1] / width)
        if side < 1 or min(features.shape[-2:]) < side:
            raise ValueError(
                f"gram.patch_size: {self.patch_size} pixels are {side} positions of a tap that has "
                f"{features.shape[-1]} x {features.shape[-2]}; give larger patches, larger crops or shallower taps"
            )
        return side


def _patches(features: Tensor, side: int) -> Tensor:
    """Cuts (N, c, h, w) into (N * patches, c, side, side)."""
    rows, columns = features.shape[-2] // side, features.shape[-1] // side
    cut = features[..., : rows * side, : columns * side]
    tiles = cut.unflatten(-1, (columns, side)).unflatten(-3, (rows, side))
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
