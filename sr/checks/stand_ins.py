"""Losses on random weights of the same architecture: they prove the mathematics where the real weights are missing."""

from __future__ import annotations

import inspect

from torch import nn

from sr.losses import LOSSES

NOTE = "on random weights: proves the mathematics, says nothing about perception"


def stand_in(name: str) -> nn.Module:
    """Builds a loss with random weights in place of missing ones, by the loss's own parameters.

    Raises:
        ValueError: It has no parameter that asks for random weights.
    """
    parameters = inspect.signature(LOSSES[name]).parameters
    if "weights" in parameters:
        return LOSSES[name](weights="random")
    if "network" in parameters:
        return LOSSES[name](network="random_vgg")
    raise ValueError(f"{name}: has no parameter `weights` or `network` that could ask for random weights")
