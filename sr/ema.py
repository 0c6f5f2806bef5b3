"""A running average of a network's weights, which is what gets validated, evaluated and exported."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """An average of a module's parameters and buffers that follows them step by step."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Moves the average towards `module`; early steps weigh more, so that it does not remember the start."""
        decay = min(self._decay, (1 + step) / (10 + step)) if self._decay else 0.0
        for average, value in zip(self.module.parameters(), module.parameters(), strict=True):
            average.lerp_(value, 1 - decay)
        for average, value in zip(self.module.buffers(), module.buffers(), strict=True):
            average.copy_(value)
