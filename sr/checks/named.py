"""Losses as people name them: a name from the table, with settings in brackets if need be, as in a config."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sr.components import complete
from sr.configfile import ConfigError
from sr.expression import format_loss, parse_loss
from sr.losses import LOSSES

NOTE = "on random weights: proves the mathematics, says nothing about perception"
_SHALLOW = {
    "vgg": ["conv1_2", "relu2_1"],
    "gram": ["conv1_2", "relu2_1"],
    "contextual": ["relu2_1"],
}
"""Taps of stand-ins: the first layers prove the mathematics as well as all, in a tenth of the time."""

_NETWORKS = {"perceptual": "random_discriminator"}
"""Stand-ins other than `random_vgg`."""


@dataclass(frozen=True, slots=True)
class NamedLoss:
    """An entry of LOSSES and the settings that differ from its defaults."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return format_loss([(self.name, 1.0, self.settings)])

    def build(self) -> nn.Module:
        """Raises ValueError where weights are missing, ImportError where a package is."""
        return LOSSES[self.name](**self.settings)

    def build_or_stand_in(self, *, stand_in_weights: bool) -> tuple[nn.Module, str]:
        """The loss, and what must be known to read its results.

        Args:
            stand_in_weights: Take random weights where the real ones are missing.

        Raises:
            ValueError: The weights are missing.
            ImportError: A package is missing.
        """
        try:
            return self.build(), ""
        except (ValueError, ImportError, OSError):
            if not stand_in_weights:
                raise
        return self._stand_in(), NOTE

    def _stand_in(self) -> nn.Module:
        """The loss with random weights in place of missing ones, by its own parameters.

        Raises:
            ValueError: It has no parameter that asks for random weights.
        """
        parameters = inspect.signature(LOSSES[self.name]).parameters
        if "weights" in parameters:
            return LOSSES[self.name](**{**self.settings, "weights": "random"})
        if "network" not in parameters:
            raise ValueError(
                f"{self.name}: has no parameter `weights` or `network` that could ask for random weights"
            )
        taps = {"taps": _SHALLOW[self.name]} if self.name in _SHALLOW and not self.settings else {}
        network = _NETWORKS.get(self.name, "random_vgg")
        return LOSSES[self.name](**{**self.settings, **taps, "network": network})


def named(text: str) -> NamedLoss:
    """Reads `ssim`, or `vgg(network=effnet_lite0, taps=[stem, block2])`.

    Raises:
        ConfigError: It is no single loss, does not exist, or a setting does not exist or has the wrong type.
    """
    if text in LOSSES:
        return NamedLoss(text)
    terms = parse_loss(text)
    if len(terms) != 1 or terms[0]["weight"] != 1:
        raise ConfigError(
            [f"loss {text!r}: a sum or a factor; name one loss, such as ssim or 'vgg(network=effnet_lite0)'"]
        )
    settings = {key: value for key, value in terms[0].items() if key != "weight"}
    complete(settings, LOSSES, where="loss", what="loss")
    return NamedLoss(str(settings.pop("type")), settings)
