"""Perceptual loss: distance between the activations of a frozen network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sr.features import NETWORKS, load_network
from sr.features.layered import Normalisation
from sr.features.network import Features
from sr.losses.feature_distance import weighted_taps
from sr.losses.term import FeatureLoss

Criterion = Literal["l1", "l2"]
PresetName = Literal["seed0", "seed2", "johnson", "srgan22", "srgan54", "esrgan", "realesrgan"]


@dataclass(frozen=True, slots=True)
class Preset:
    """A published perceptual loss."""

    network: str
    taps: tuple[str, ...]
    criterion: Criterion
    tap_weights: tuple[float, ...] | None = None
    normalisation: Normalisation | None = None
    input_range: float = 1.0


PRESETS: dict[str, Preset] = {
    # Weatherly et al. 2024: the last ReLU of each block, summed, on bytes without normalisation, as its code has it.
    "seed0": Preset(
        "vgg19",
        ("relu1_2", "relu2_2", "relu3_4", "relu4_4", "relu5_4"),
        "l1",
        normalisation="none",
        input_range=255.0,
    ),
    # Chodounsky 2021: Keras' block3_conv3, on [0, 1] without normalisation, as its code has it.
    "seed2": Preset("vgg19", ("relu3_3",), "l2", normalisation="none"),
    # Johnson et al., ECCV 2016, section 3.2.
    "johnson": Preset("vgg16", ("relu2_2",), "l2"),
    # Ledig et al., CVPR 2017, equation 5. Its factor 0.006 (from the literature, unverified)
    # belongs to the scale of their activations: calibrate instead.
    "srgan22": Preset("vgg19", ("relu2_2",), "l2"),
    "srgan54": Preset("vgg19", ("relu5_4",), "l2"),
    # Wang et al., ECCVW 2018, section 3.3: before the activation.
    "esrgan": Preset("vgg19", ("conv5_4",), "l1"),
    # Wang et al., ICCVW 2021, section 4.1; the tap weights are from the literature, unverified.
    "realesrgan": Preset(
        "vgg19", ("conv1_2", "conv2_2", "conv3_4", "conv4_4", "conv5_4"), "l1", (0.1, 0.1, 1.0, 1.0, 1.0)
    ),
}


class Vgg(FeatureLoss):
    """Perceptual loss: L1 or squared difference of a frozen network's activations, summed over taps.

    From 0 up, in the units of the network's activations (squared for `l2`), so that its size says nothing by itself.
    With neither preset nor network it is VGG19 with the last ReLU of each block and L1.

    Args:
        preset: A published combination; what else is given takes precedence over it.
        network: Name in NETWORKS.
        taps: Names of layers (`relu3_3`, `conv5_4`, `pool2`) or indices of torchvision's `features` ("15").
        tap_weights: One per tap; 1 unless given.
        criterion: `l1` or `l2`, each a mean over the activations of a tap.
        normalisation: Of the network's input.
        input_range: What a white pixel is at the network's input; with `normalisation: none` only.
        path: File of the network's weights, if not where they are looked for.
        allow_download: Whether missing weights may be fetched.
        seed: Of a random network.

    Raises:
        ValueError: The weights are missing, a tap does not exist, or the tap weights do not fit.
    """

    def __init__(
        self,
        *,
        preset: PresetName | None = None,
        network: str | None = None,
        taps: list[str] | None = None,
        tap_weights: list[float] | None = None,
        criterion: Criterion | None = None,
        normalisation: Normalisation | None = None,
        input_range: float | None = None,
        path: str | None = None,
        allow_download: bool = False,
        seed: int = 0,
    ) -> None:
        known = PRESETS[preset] if preset is not None else Preset("vgg19", (), "l1")
        name = network or known.network
        uses = NETWORKS[name].uses if name in NETWORKS else frozenset()
        if normalisation is None and "normalisation" in uses:
            # A network that brings its own normalisation keeps it, whatever the preset says of VGG's.
            normalisation = known.normalisation
            input_range = known.input_range if input_range is None else input_range
        loaded = load_network(
            name,
            path=path,
            allow_download=allow_download,
            seed=seed,
            normalisation=normalisation,
            input_range=1.0 if input_range is None else input_range,
        )
        if tap_weights is None and taps is None and known.tap_weights is not None:
            tap_weights = list(known.tap_weights)
        chosen = weighted_taps(loaded, taps or known.taps or loaded.default_taps, tap_weights, where="vgg")
        super().__init__(loaded, tuple(chosen))
        self.tap_weights = chosen
        self.criterion = criterion or known.criterion

    def compare(self, sr: Features, hr: Features) -> Tensor:
        """See FeatureLoss.compare."""
        difference = F.l1_loss if self.criterion == "l1" else F.mse_loss
        parts = [weight * difference(sr[tap], hr[tap]) for tap, weight in self.tap_weights.items()]
        return torch.stack(parts).sum()
