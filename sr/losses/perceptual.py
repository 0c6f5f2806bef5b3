"""The perceptual loss of the ladder: how differently a discriminator sees output and target."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from sr.features import load_network
from sr.features.network import Features
from sr.losses.feature_distance import FeatureDistance, unit_length, weighted_taps

Distance = Literal["unit", "l1", "l2"]


class Perceptual(FeatureDistance):
    """How differently a discriminator of a finished trial or ladder's stage sees output and target.

    From 0 up: `unit` without unit, at most 4; `l1` and `l2` in the units of the network's activations.

    Args:
        network: Name in NETWORKS.
        taps: Names of layers; of a discriminator all of them unless given, one behind each stride-2 block.
        tap_weights: One per tap, 0 or more; unless given 1 / number of taps each.
        distance: `unit`: squared difference of activations of unit length over the channels, summed over these, mean over
            places; `l1`, `l2`: mean absolute or squared difference of the activations as they are.
        path: Of a discriminator: the folder of its trial or stage, or a checkpoint; of others the file of their weights.
        trial: In place of `path`: id of a trial in the run store, or an unambiguous beginning of it.
        stage: Of that trial, a ladder: a stage that has ended; the newest unless given.
        architecture: Of `random_discriminator`: a discriminator's name, or a mapping of `type` and parameters.
        seed: Of a random network.
        allow_download: Whether missing weights may be fetched.

    Raises:
        ValueError: The network is missing, damaged or foreign, a tap does not exist, or the tap weights do not fit.

    Source: the idea is Tej's, see sr.ladder; `unit` as LPIPS (Zhang et al., CVPR 2018) with equal weights; `l1` with tap
    weights 1 as the feature matching of pix2pixHD (Wang et al., CVPR 2018), with a discriminator that stands still.
    """

    def __init__(
        self,
        *,
        network: str = "discriminator",
        taps: list[str] | None = None,
        tap_weights: list[float] | None = None,
        distance: Distance = "unit",
        path: str | None = None,
        trial: str | None = None,
        stage: int | None = None,
        architecture: str | dict[str, Any] | None = None,
        seed: int = 0,
        allow_download: bool = False,
    ) -> None:
        loaded = load_network(
            network,
            path=path,
            trial=trial,
            stage=stage,
            architecture=architecture,
            seed=seed,
            allow_download=allow_download,
        )
        chosen = weighted_taps(loaded, taps or loaded.default_taps, tap_weights, where="perceptual")
        if tap_weights is None:
            chosen = dict.fromkeys(chosen, 1 / len(chosen))
        if not all(0 <= weight < math.inf for weight in chosen.values()) or not any(chosen.values()):
            raise ValueError(
                f"perceptual: tap_weights {tap_weights} do not make a distance; give numbers of 0 or more, not all 0"
            )
        super().__init__(loaded, tuple(chosen))
        self.tap_weights = chosen
        self.distance = distance

    def distances(self, sr: Features, hr: Features) -> Tensor:
        """See FeatureDistance.distances."""
        parts = [weight * self._distances(sr[tap], hr[tap]) for tap, weight in self.tap_weights.items()]
        return torch.stack(parts).sum(0)

    def _distances(self, sr: Tensor, hr: Tensor) -> Tensor:
        if self.distance == "unit":
            return (unit_length(sr) - unit_length(hr)).square().sum(1).mean((1, 2))
        difference = sr - hr
        return (difference.abs() if self.distance == "l1" else difference.square()).mean((1, 2, 3))
