"""What a feature network is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from sr.configfile import unknown

Features = dict[str, Tensor]
"""Name of a tap to its activations, shape (N, c, h, w)."""

INPUT = "input"
"""The tap of every network that is the picture itself, before normalisation."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Which weights a network has: what makes a number that came out of it repeatable."""

    name: str
    """E.g. `vgg19`, or `random_vgg(seed=0)`."""
    sha256: str
    """Of the file, or of the tensors where there is no file; 64 hex digits."""
    source: str
    """Where they came from: a path, or how they were drawn."""


class FeatureNetwork(nn.Module):
    """Base of frozen networks that losses look through: evaluation mode, no gradients of their own.

    Normalisation of the input belongs to the network: it takes RGB in [0, 1].
    """

    weights: Weights
    tap_names: tuple[str, ...]
    """All taps, from shallow to deep; the first is `INPUT`."""
    default_taps: tuple[str, ...]
    """The taps that a loss uses unless it is told which."""
    aliases: Mapping[str, str] = {}
    """Other names of the taps, such as torchvision's indices."""

    def forward(self, pictures: Tensor, taps: tuple[str, ...]) -> Features:
        """Returns the activations at `taps`; computes nothing behind the deepest of them.

        Args:
            pictures: RGB in [0, 1] (an SR picture may overshoot), shape (N, 3, H, W).
            taps: Names from `tap_names`.
        """
        raise TypeError(f"{type(self).__name__} must define forward()")

    def resolve(self, taps: Sequence[str]) -> tuple[str, ...]:
        """The names in `tap_names` of taps that may be given by another name, in the given order.

        Raises:
            ValueError: There is no such tap, or one is given twice.
        """
        names = tuple(self.aliases.get(tap, tap) for tap in taps)
        for tap, name in zip(taps, names, strict=True):
            if name not in self.tap_names:
                raise ValueError(f"taps of {self.weights.name}: {unknown('tap', tap, self.tap_names)}")
            if names.count(name) > 1:
                raise ValueError(f"taps of {self.weights.name}: '{name}' is given twice; remove one")
        if not names:
            raise ValueError(
                f"taps of {self.weights.name}: none is given; name one of {list(self.tap_names)}"
            )
        return names

    def train(self, mode: bool = True) -> FeatureNetwork:
        """Stays in evaluation mode: a frozen network is the same for every batch."""
        return super().train(mode=False)

    def freeze(self) -> FeatureNetwork:
        """Turns off gradients of the parameters and batch statistics; returns itself."""
        return self.requires_grad_(False).eval()


def check_pictures(pictures: Tensor, where: str) -> None:
    """Raises ValueError unless the pictures are RGB, shape (N, 3, H, W)."""
    if pictures.ndim != 4 or pictures.shape[1] != 3:
        raise ValueError(
            f"{where}: the pictures have shape {tuple(pictures.shape)}, a feature network takes (N, 3, H, W); "
            "repeat a grey channel three times"
        )
